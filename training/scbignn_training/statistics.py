"""Reference statistics in closed form: what the bundle's ``statistics.npz`` holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
LIMIT = 10.0
"""Scaled expression is cut to +-LIMIT."""


def scale(x: Array, mean: Array, sd: Array) -> Array:
    """Return (x - mean) / sd, cut to +-10."""
    scaled: Array = np.clip((x - mean) / sd, -LIMIT, LIMIT)
    return scaled


def estimate(x: Array, codes: Array, n_classes: int, settings: Settings) -> dict[str, Array]:
    r"""Estimate the statistics of ranked genes from labelled cells.

    Two factor models of scaled expression z: the within-class covariance
    :math:`U U^\top + \mathrm{diag}(d)` of :math:`z - \mu_y`, for the discriminant head, and the
    total covariance :math:`F F^\top + \mathrm{diag}(e)`, for the imputation. Both by truncated
    singular value decomposition.

    Parameters
    ----------
    x
        (n, m) log1p(CP10k) of the ranked genes.
    codes
        (n,) label codes.
    n_classes
        Number of types.
    settings
        Ranks and ridge.

    Returns
    -------
    dict of str to ndarray
        The tables that :func:`scbignn_infer.expression.panel_tables` takes, rounded to float16
        as they are shipped.
    """
    mean, sd = x.mean(axis=0), x.std(axis=0) + 0.05
    z = scale(x, mean, sd).astype(np.float32)
    class_mean = np.zeros((n_classes, x.shape[1]), np.float32)
    cells = np.bincount(codes, minlength=n_classes)
    for code in np.flatnonzero(cells):
        class_mean[code] = z[codes == code].mean(axis=0)
    within, within_residual = _factor_model(z - class_mean[codes], settings, floor=1e-3)
    total, total_residual = _factor_model(z, settings, floor=0.05)
    tables = {
        "gene_mean": mean,
        "gene_scale": sd,
        "class_mean": class_mean,
        "within_factors": within,
        "within_residual": within_residual,
        "total_factors": total,
        "total_residual": total_residual,
    }
    rounded = {k: v.astype(np.float16).astype(np.float64) for k, v in tables.items()}
    # A type without cells (in a fold) must never win: its prior is next to nothing.
    return rounded | {
        "ridge": np.array(settings.ridge),
        "strength_precision": np.array(settings.strength_precision),
        "graph_factors": np.array(settings.graph_factors),
        "cells_per_type": np.where(cells > 0, cells, 1e-300),
    }


def _factor_model(z: Array, settings: Settings, *, floor: float) -> tuple[Array, Array]:
    """Return factors (m, r) and residual variances (m,) of z'z / n, by randomised SVD."""
    rank = min(settings.factors, *z.shape)
    torch.manual_seed(settings.seed)
    tensor = torch.tensor(z)
    _, value, right = torch.svd_lowrank(tensor, q=min(rank + 10, *z.shape), niter=3)
    factors = (right[:, :rank] * value[:rank] / len(z) ** 0.5).numpy()
    residual = (z**2).mean(axis=0) - (factors**2).sum(axis=1)
    return factors, np.maximum(residual, floor)


def fit_logistic(
    x: Array, codes: Array, n_classes: int, statistics: dict[str, Array], settings: Settings
) -> tuple[Array, Array]:
    """Fit the logistic head on the network's genes.

    Parameters
    ----------
    x
        (n, >= net_genes) log1p(CP10k) of the ranked genes.
    codes, n_classes
        Labels.
    statistics
        Tables of :func:`estimate`, for the scaling.
    settings
        Regularisation and the number of genes.

    Returns
    -------
    weight, bias
        (net_genes, n_classes) and (n_classes,) float32.
    """
    from sklearn.linear_model import LogisticRegression

    m = min(settings.net_genes, x.shape[1])
    z = scale(x[:, :m], statistics["gene_mean"][:m], statistics["gene_scale"][:m])
    model = LogisticRegression(C=settings.logistic_c, max_iter=200, tol=1e-3).fit(z, codes)
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
