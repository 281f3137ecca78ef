r"""Cells between two types, such as doublets: named by the two types that explain them together.

The discriminant of the gene level takes scaled expression :math:`z` of a type as Gaussian with mean
:math:`\mu_c` and covariance :math:`\Sigma`. A droplet with two cells has the sum of their counts.
So its profile is mixed in counts and not in logarithms. With :math:`x_c = s \mu_c + m` the mean
log-expression of a type (:math:`m`, :math:`s` the mean and scale of each gene),

.. math::
    \mu_{ab}^w = \bigl(\log(1 + w (e^{x_a} - 1) + (1 - w)(e^{x_b} - 1)) - m\bigr) / s .

The evidence of expression is the logarithm of how much better two types explain a cell than one,

.. math::
    g = \log \frac{\frac13 \sum_{b, w} \pi_a \pi_b\, e^{\ell(\mu_{ab}^w) / T}}
                  {\sum_c \pi_c\, e^{\ell(\mu_c) / T}}, \quad
    \ell(\mu) = z \Sigma^{-1} \mu - \tfrac12 \mu \Sigma^{-1} \mu,

where :math:`a` is the best single type, :math:`b` any other one that is called in the file, and
:math:`w` is .3, .5 or .7. Genes are no independent witnesses, so the temperature :math:`T` is high,
and higher in a file that does not fit the model.
Two cells also have more counts than one: the logarithm of the cell's total, relative to the median
of its sample, is added. A cell is named if this evidence is far above what is usual in the file,
and if the mixture fits: two types explain a cell of a third one, which the model does not know,
better than one does, and yet badly. The misfit is :math:`(z - \mu) \Sigma^{-1} (z - \mu)`. No
doublets are made, and nothing else is taken from the query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.chances import logsumexp
from scbignn_infer.network.blas import one_blas_thread
from scbignn_infer.network.levels import READ_CELLS
from scbignn_infer.network.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import scipy.sparse as sp

    from scbignn_infer._types import Array, Progress
    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.model.bundle import BundleSpec
    from scbignn_infer.network.panel import Panel

SHARES = (0.3, 0.5, 0.7)
"""Of the first type in a mixture."""
TEMPERATURE, TEMPERATURE_OF_PROFILES = 4.0, 15.0
"""Of a file that fits the model; the latter of models that learned from mean profiles, whose
simulated cells differ less."""
DEPTH_WEIGHT, DEPTH_LIMIT = 4.5, 1.4
"""Of the logarithm of a cell's total, relative to its sample's; four times as many count no more
than this, since some types are large."""
SPREADS, LEAST_EVIDENCE, ENOUGH_EVIDENCE = 4.5, 1.0, 6.0
"""A cell is named if its evidence is so many times as far above the file's median as the lower
quartile is below it, which doublets hardly move, and more than the least; or if it is enough in any
file. See ``benchmarks/doublets.py``."""
FITS = 0.9
"""Share of the cells that their best type fits well enough: a mixture must fit no worse."""
FEWEST_CELLS, LEAST_SHARE = 10, 0.005
"""Types that fewer cells are called are no part of a mixture: a sample has few doublets of them."""
MOST_TYPES = 30
"""Parts that are looked at, the most frequent: the pairs grow with their square."""
BETWEEN = " + "


@dataclass(frozen=True)
class Mixtures:
    """What is said of n cells as mixtures of two labels.

    Attributes
    ----------
    codes
        (n, 2) the labels that explain a cell best together, the lesser first.
    score
        (n,) how far the evidence is above the bar; cells above 0 are named. NaN of cells that
        were not looked at.
    """

    codes: Array
    score: Array

    @property
    def named(self) -> Array:
        """(n,) which cells are mixtures."""
        named: Array = self.score > 0
        return named

    def names(self, labels: Sequence[str]) -> Array:
        """Return the names (n,) of the mixtures, such as ``B + CD14 Mono``; others are empty."""
        found = np.full(len(self.score), "", dtype=object)
        for i in np.flatnonzero(self.named):
            found[i] = BETWEEN.join(labels[code] for code in self.codes[i])
        return found


def temperature_of(spec: BundleSpec, misfit: float) -> float:
    """Return by how much a model's evidence of genes is to be divided, in a file of some misfit.

    The misfit is a mean square, see :func:`~scbignn_infer.network.panel.panel_tables`. Cells of a
    foreign technology lie off every profile, and mixtures come nearer by chance.
    """
    usual = TEMPERATURE_OF_PROFILES if spec.training.mostly_from_profiles else TEMPERATURE
    return float(usual * max(1.0, misfit) ** 2)


class Explainer:
    """Explains rows of a file by single types and by mixtures of two, for one set of genes.

    Parameters
    ----------
    panel
        The genes.
    grouping
        The labels, and the classes that cells may be of.
    called
        (n,) the class that each cell with counts is called: those of few are no part of a mixture.
    temperature
        By which the evidence of genes is divided.
    """

    def __init__(self, panel: Panel, grouping: Grouping, called: Array, temperature: float) -> None:
        tables, kept = panel.tables, np.flatnonzero(grouping.kept)
        self._panel, self._temperature, self._group = panel, temperature, grouping.group
        prior = tables["class_prior"][kept].astype(np.float64)[None]
        prior = (prior - logsumexp(prior))[0]
        self._single = tables["class_weight"][:, kept], tables["class_norm"][kept], prior
        n = np.bincount(called, minlength=len(grouping.group))[kept]
        many = np.flatnonzero(n >= max(FEWEST_CELLS, LEAST_SHARE * len(called)))
        self._places = many[np.argsort(-n[many], kind="stable")][:MOST_TYPES]
        """Of the parts of mixtures among the classes that are kept."""
        self._parts = kept[self._places]
        self._pairs = [self._pairs_with(a, prior[self._places]) for a in range(len(self._parts))]
        self._whole = _inverse_parts(panel)

    @property
    def types(self) -> Array:
        """Classes that may be part of a mixture."""
        return (
            self._parts if any(len(partners) for partners, *_ in self._pairs) else self._parts[:0]
        )

    def _pairs_with(self, first: int, prior: Array) -> tuple[Array, Array, Array, Array]:
        """Return the partners of a part, then what mixtures with them say, by share and partner."""
        panel, parts = self._panel, self._parts
        partners = np.flatnonzero(self._group[parts] != self._group[parts[first]])
        mean, scale = panel.tables["gene_mean"], panel.tables["gene_scale"]
        profiles = panel.statistics["class_mean"][np.ix_(parts, panel.genes)]
        counts = np.expm1(np.maximum(profiles * scale + mean, 0))
        mixed = [w * counts[first] + (1 - w) * counts[partners] for w in SHARES]
        weight, norm = panel.discriminants((np.log1p(np.concatenate(mixed)) - mean) / scale)
        log_p = np.tile(prior[first] + prior[partners], len(SHARES))
        return partners, weight.astype(np.float32), norm, log_p

    def __call__(self, rows: sp.csr_matrix) -> tuple[Array, Array, Array, Array]:
        """Return the parts (n, 2) of each cell's best mixture, its evidence and its total (n,).

        Then come the misfits (n, 2) of its best type and of that mixture.
        """
        counts, totals = self._panel.densify(rows)
        z = self._panel.standardize(counts, totals)
        single = self._evidence(z, *self._single)
        noise, shared = self._whole
        size = (z * z) @ noise - ((z @ shared) ** 2).sum(axis=1)  # z Sigma^-1 z
        misfit = np.stack([size - self._fit(single, self._single[2]).max(axis=1)] * 2, axis=1)
        first = single[:, self._places].argmax(axis=1)
        parts, evidence = np.empty((len(z), 2), np.int64), np.empty(len(z))
        for a in np.unique(first):
            cells = np.flatnonzero(first == a)
            partners, *pairs = self._pairs[a]
            if not len(partners):
                parts[cells], evidence[cells] = self._parts[a], np.nan
                continue
            mixed = self._evidence(z[cells], *pairs)
            chosen = mixed.argmax(axis=1)
            best = partners[chosen % len(partners)]
            fit = self._fit(mixed, pairs[2])[np.arange(len(cells)), chosen]
            misfit[cells, 1] = size[cells] - fit
            parts[cells] = np.stack(
                [np.full(len(cells), self._parts[a]), self._parts[best]], axis=1
            )
            gain = logsumexp(mixed) - logsumexp(single[cells])
            evidence[cells] = gain[:, 0] - np.log(len(SHARES))
        return parts, evidence, totals[:, 0], misfit

    def _fit(self, evidence: Array, log_p: Array) -> Array:
        """Return by how much profiles lessen the misfit of cells, by their evidence."""
        less: Array = 2 * self._temperature * (evidence - log_p)
        return less

    def _evidence(self, z: Array, weight: Array, norm: Array, log_p: Array) -> Array:
        """Return the tempered log-density of cells (n, k) for each profile, and its prior."""
        found: Array = (z @ weight - norm / 2).astype(np.float64) / self._temperature + log_p
        return found


def _inverse_parts(panel: Panel) -> tuple[Array, Array]:
    r"""Return d (k,) and R (k, r), of which :math:`\Sigma^{-1} = diag(d) - R R^\top`."""
    factors = panel.statistics["within_factors"][panel.genes].astype(np.float64)
    rest = panel.statistics["within_residual"][panel.genes] + float(panel.statistics["ridge"])
    scaled = factors / rest[:, None]
    inner = np.eye(factors.shape[1]) + factors.T @ scaled
    return 1 / rest, scaled @ np.linalg.inv(np.linalg.cholesky(inner)).T


@one_blas_thread()
def find_mixtures(
    blocks: Callable[[int], Iterable[sp.csr_matrix]],
    explain: Explainer,
    group: Array,
    samples: Sequence[Any],
    *,
    n_cells: int,
    workers: int,
    report: Progress,
) -> Mixtures:
    """Tell which cells of a query are mixtures of two labels.

    Parameters
    ----------
    blocks
        Yields the rows of the query, so many at a time.
    explain
        Explains rows.
    group
        (n_classes,) the label of each class.
    samples
        The cells with counts of each sample, whose typical totals may differ.
    n_cells, workers, report
        Number of cells, of blocks side by side, and what is told of progress.
    """
    codes, evidence = np.full((n_cells, 2), -1), np.full(n_cells, np.nan)
    totals, misfit, start = np.zeros(n_cells), np.zeros((n_cells, 2)), 0
    if not len(explain.types):
        return Mixtures(codes.astype(np.int16), evidence.astype(np.float32))
    for parts, found, total, bad in in_order(explain, blocks(READ_CELLS), workers=workers):
        rows = slice(start, start + len(found))
        codes[rows], evidence[rows], totals[rows] = np.sort(group[parts], axis=1), found, total
        misfit[rows] = bad
        start = rows.stop
        report("mixtures", start, n_cells)
    score = np.full(n_cells, np.nan)
    for cells in samples:
        deep = np.log(totals[cells] / np.median(totals[cells]))
        score[cells] = evidence[cells] + DEPTH_WEIGHT * np.clip(deep, -DEPTH_LIMIT, DEPTH_LIMIT)
    known = ~np.isnan(score)
    codes[~known] = -1
    score -= _bar(score)
    if known.any():
        unfit = known & (misfit[:, 1] > np.quantile(misfit[known, 0], FITS))
        score[unfit] = np.minimum(score[unfit], 0)
    return Mixtures(codes.astype(np.int16), score.astype(np.float32))


def _bar(score: Array) -> float:
    """Return the evidence above which cells are named, by what is usual among them."""
    known = score[~np.isnan(score)]
    if not len(known):
        return LEAST_EVIDENCE
    low, middle = np.quantile(known, [0.25, 0.5])
    return float(np.clip(middle + SPREADS * (middle - low), LEAST_EVIDENCE, ENOUGH_EVIDENCE))
