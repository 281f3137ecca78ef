"""Reference statistics in closed form: what the bundle's ``statistics.npz`` holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from scbignn_infer.network.panel import LIMIT, panel_tables
from scbignn_training.blocks import (
    dense,
    moments,
    row_of_each,
    slices,
    stored,
    with_values,
)
from scbignn_training.sampling import sample_weights, stratified

if TYPE_CHECKING:
    from torch import Tensor

    from scbignn_training.gaps import Gaps
    from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
PASSES = 4
"""Of the factor models over the cells."""
OVERSAMPLING = 10
"""Vectors beyond the rank in them."""


def scale(x: Array | float, mean: Array, sd: Array) -> Array:
    """Return (x - mean) / sd, cut at +-``LIMIT``."""
    scaled: Array = np.clip((x - mean) / sd, -LIMIT, LIMIT)
    return scaled


def estimate(
    x: sp.csr_matrix,
    codes: Array,
    n_classes: int,
    settings: Settings,
    gaps: Gaps | None = None,
) -> dict[str, Array]:
    r"""Estimate the statistics of ranked genes from labelled cells.

    Two factor models of scaled expression z: the within-class covariance
    :math:`U U^\top + \mathrm{diag}(d)` of :math:`z - \mu_y`, for the discriminant head, and the
    total covariance :math:`F F^\top + \mathrm{diag}(e)`, for the imputation, see
    :func:`factor_models`.

    Parameters
    ----------
    x
        (n, m) log1p(CP10k) of the ranked genes.
    codes
        (n,) label codes.
    n_classes
        Number of types.
    settings
        Ranks, ridge and the cells that the covariances come from.
    gaps
        Genes that some cells' studies did not measure: means and scales are over the others, and
        covariances as if these cells had the mean of their type. A type's mean of a gene that none
        of its cells was measured for is what the factor model expects.

    Returns
    -------
    dict of str to ndarray
        The tables that :func:`scbignn_infer.network.panel.panel_tables` takes, rounded to float16
        as they are shipped.
    """
    mean, variance = moments(x, gaps)
    sd = np.sqrt(variance) + 0.05
    rows = stratified(codes, settings.covariance_cells, settings.seed)
    weights = sample_weights(codes, rows) / len(rows)
    sample = x if len(rows) == len(codes) else x[rows]
    some = gaps.subset(rows) if gaps else None
    total, within = factor_models(sample, codes[rows], weights, (mean, sd), settings, gaps=some)
    profiles = class_means(x, codes, n_classes, (mean, sd), gaps)
    if gaps is not None:
        profiles = _expected(profiles, gaps.cells_per_type(codes, n_classes) > 0, *total)
    tables = {
        "gene_mean": mean,
        "gene_scale": sd,
        "class_mean": profiles,
        "within_factors": within[0],
        "within_residual": np.maximum(within[1], 1e-3),
        "total_factors": total[0],
        "total_residual": np.maximum(total[1], 0.05),
    }
    cells = np.bincount(codes, minlength=n_classes)
    rounded = {k: v.astype(np.float16).astype(np.float64) for k, v in tables.items()}
    # A type without cells (in a fold) must never win: its prior is next to nothing.
    return rounded | {
        "ridge": np.array(settings.ridge),
        "strength_precision": np.array(settings.strength_precision),
        "graph_factors": np.array(settings.graph_factors),
        "cells_per_type": np.where(cells > 0, cells, 1e-300),
    }


def _rise(x: sp.csr_matrix, scaling: tuple[Array, Array]) -> sp.csr_matrix:
    """Return how far scaled expression lies above that of a gene without counts: as sparse as x."""
    mean, sd = (a.astype(np.float32) for a in scaling)
    base, values = scale(0.0, mean, sd), np.empty(len(x.data), np.float32)
    for rows in slices(x.shape[0]):
        here = stored(x, rows)
        gene = x.indices[here]
        values[here] = scale(x.data[here], mean[gene], sd[gene]) - base[gene]
    return with_values(x, values)


def _expected(profiles: Array, measured: Array, factors: Array, residual: Array) -> Array:
    """Return (c, m) means with those that were not measured as the factor model expects them."""
    noise, completed = np.maximum(residual, 0.05)[:, None], profiles.copy()
    for profile, known in zip(completed, measured, strict=True):
        if known.any() and not known.all():
            scaled = factors[known] / noise[known]
            inner = np.eye(factors.shape[1]) + factors[known].T @ scaled
            profile[~known] = factors[~known] @ np.linalg.solve(inner, profile[known] @ scaled)
    return np.clip(completed, -LIMIT, LIMIT)


def complete(
    x: sp.csr_matrix, statistics: dict[str, Array], settings: Settings, gaps: Gaps | None
) -> sp.csr_matrix:
    """Return expression (n, net genes), absent genes imputed as for a query without them."""
    m = min(settings.net_genes, x.shape[1])
    if gaps is None:
        return x[:, :m]
    mean, sd = statistics["gene_mean"], statistics["gene_scale"]
    parts, order = [], []
    for rows, measured in gaps.patterns():
        genes, tables = panel_tables(
            statistics, measured, net_genes=m, panel_genes=settings.panel_genes
        )
        absent = np.flatnonzero(~measured[:m])
        for few in slices(len(rows)):
            here = rows[few]
            known = dense(x[here][:, :m]).numpy()
            z = scale(dense(x[here][:, genes]).numpy(), mean[genes], sd[genes])
            guess = z @ tables["impute_in"] @ tables["impute_out"][:, absent]
            known[:, absent] = np.maximum(guess * sd[absent] + mean[absent], 0)
            parts.append(sp.csr_matrix(known.astype(np.float32)))
            order.append(here)
    back = np.argsort(np.concatenate(order), kind="stable")
    return sp.csr_matrix(sp.vstack(parts))[back]


def class_means(
    x: sp.csr_matrix,
    codes: Array,
    n_classes: int,
    scaling: tuple[Array, Array],
    gaps: Gaps | None = None,
) -> Array:
    """Return the (c, m) means of scaled expression; 0 for a type without cells."""
    total = np.zeros((n_classes, x.shape[1]))
    for rows in slices(x.shape[0]):
        n = rows.stop - rows.start
        members = sp.csr_matrix((np.ones(n), (codes[rows], np.arange(n))), shape=(n_classes, n))
        total += (members @ _rise(x[rows], scaling)).toarray()
    cells = np.bincount(codes, minlength=n_classes)[:, None]
    if gaps is not None:
        cells = gaps.cells_per_type(codes, n_classes)
    means: Array = (total / np.maximum(cells, 1) + scale(0.0, *scaling)) * (cells > 0)
    return means


def factor_models(
    x: sp.csr_matrix,
    codes: Array,
    weights: Array,
    scaling: tuple[Array, Array],
    settings: Settings,
    *,
    gaps: Gaps | None = None,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    r"""Fit low-rank factors and residual variances to the total and the within-class covariance.

    Randomised subspace iteration (Halko et al. 2011): each pass multiplies the covariance
    :math:`Z^\top W Z` with a few vectors, block by block; the within-class covariance is it less
    that of the class means. The last products give the factors by the Nystroem formula.

    Parameters
    ----------
    x, codes
        (n, m) log1p(CP10k) and (n,) label codes.
    weights
        (n,) what each cell counts, equal within a type; sum 1.
    scaling
        Mean and scale of each gene.
    settings
        Rank and seed.
    gaps
        Genes that some cells' studies did not measure: they are taken for the means of the type.

    Returns
    -------
    total, within
        Factors (m, r) and residual variances (m,) of each.
    """
    n, m = x.shape
    base = scale(0.0, *scaling)
    shift = torch.tensor(base, dtype=torch.float32)
    rises, weight = _rise(x, scaling), torch.tensor(weights, dtype=torch.float32)[:, None]
    types, labels = np.unique(codes, return_inverse=True)
    means = torch.tensor(class_means(x, labels, len(types), scaling, gaps))

    def covariance(vectors: Tensor) -> Tensor:
        product = torch.zeros(m, vectors.shape[1], dtype=torch.float64)
        narrow = vectors.float()
        for rows in slices(n):
            z = dense(rises[rows]).add_(shift)
            if gaps is not None:
                z = torch.where(torch.from_numpy(gaps.of(rows)), z, means[labels[rows]].to(z.dtype))
            product += z.T @ (weight[rows] * (z @ narrow))
        return product

    share = torch.tensor(np.bincount(labels, weights))[:, None]
    rank = min(settings.factors, n, m)
    generator = torch.Generator().manual_seed(settings.seed)
    size = (m, min(rank + OVERSAMPLING, n, m))
    images = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2)]
    bases = images
    for _ in range(PASSES):
        bases = [torch.linalg.qr(image)[0] for image in images]
        both = covariance(torch.cat(bases, dim=1))
        between = means.T @ (share * (means @ bases[1]))
        images = [both[:, : size[1]], both[:, size[1] :] - between]
    variance = base**2
    for rows in slices(n):
        rise = rises[rows]
        square = rise.data * (rise.data + 2 * base[rise.indices])
        each = square * row_of_each(rise, weights[rows])
        variance += np.bincount(rise.indices, each, minlength=m)
    total, within = (_nystroem(*pair)[:, :rank].numpy() for pair in zip(bases, images, strict=True))
    between_variance = (share * means**2).sum(0).numpy()
    if gaps is not None:
        measured = gaps.weight_per_type(labels, weights, len(types))
        known, squares = np.maximum(measured.sum(axis=0), 1e-12), means.numpy() ** 2
        seen = variance - base**2 * (1 - known) - (measured * squares).sum(axis=0)
        variance = seen / known + between_variance
    return (
        (total, variance - (total**2).sum(axis=1)),
        (within, variance - between_variance - (within**2).sum(axis=1)),
    )


def _nystroem(basis: Tensor, image: Tensor) -> Tensor:
    """Return factors (m, r), strongest first, of G from an orthonormal Q and G Q."""
    value, vector = torch.linalg.eigh(basis.T @ image)
    # Directions that hold nothing but rounding errors count for nothing.
    inverse = torch.where(value > 1e-6 * value.max(), value, torch.inf).rsqrt()
    factors = image @ (vector * inverse)
    turned: Tensor = factors @ torch.linalg.eigh(factors.T @ factors)[1].flip(1)
    return turned


def fit_logistic(
    x: sp.csr_matrix, codes: Array, n_classes: int, statistics: dict[str, Array], settings: Settings
) -> tuple[Array, Array]:
    """Fit the logistic head on the network's genes, of a large reference on a weighted sample.

    Parameters
    ----------
    x
        (n, >= net_genes) log1p(CP10k) of the ranked genes.
    codes, n_classes
        Labels.
    statistics
        Tables of :func:`estimate`, for the scaling.
    settings
        Regularisation and the numbers of genes and of cells.

    Returns
    -------
    weight, bias
        (net_genes, n_classes) and (n_classes,) float32.
    """
    from sklearn.linear_model import LogisticRegression

    m = min(settings.net_genes, x.shape[1])
    rows = stratified(codes, settings.logistic_cells, settings.seed)
    seen = dense(x[rows][:, :m]).numpy()
    z = scale(seen, statistics["gene_mean"][:m], statistics["gene_scale"][:m])
    model = LogisticRegression(C=settings.logistic_c, max_iter=200, tol=1e-4)
    model.fit(z, codes[rows], sample_weight=sample_weights(codes, rows))
    weight = np.zeros((m, n_classes), np.float32)
    bias = np.full(n_classes, -1e3, np.float32)
    if len(model.classes_) == 2:  # one decision function for the second of two classes
        first, second = model.classes_
        weight[:, second] = model.coef_[0]
        bias[first], bias[second] = 0.0, model.intercept_[0]
    else:
        weight[:, model.classes_] = model.coef_.T
        bias[model.classes_] = model.intercept_
    return weight, bias
