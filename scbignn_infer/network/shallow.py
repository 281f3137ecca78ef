r"""A model's statistics, as they would be if its reference had as few counts a cell as a file.

The logarithm of scaled counts depends on how many counts a cell has: of 50 counts, a gene has none
or at least 200 of 10,000. So the mean and spread of a gene differ between a bin of a tissue section
and a whole cell, though both express it alike. Counts are Poisson: for a gene with the share
:math:`\lambda` of a cell's counts, the mean and variance of :math:`\log(1 + 10^4 k / N)` with
:math:`k \sim \mathrm{Poisson}(N \lambda)` are known for any number N of counts. A type's mean in
the reference gives :math:`\lambda`, and that the mean at another N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.network.panel import TARGET_SUM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scbignn_infer._types import Array

SHALLOW = 600
"""Counts of the typical cell below which statistics are taken at so many counts."""
LEAST_COUNTS = 20
"""Of fewer, no statistics tell a type; such barcodes hold no cell."""
LOG_SHARES = np.linspace(np.log(1e-8), np.log(0.5), 256)
"""Of a gene among a cell's counts, at which moments are computed; between them are lines."""
MOST_COUNTS = 400
"""Counts of one gene that are summed over; of more on average, moments are approximate."""
DEPTHS = np.logspace(2, 5, 31)
"""Counts a cell that a reference may have."""
LEAST_REST = 0.02
"""Share of a gene's variance that no factor explains, at least."""


def moments(counts: float) -> tuple[Array, Array]:
    """Return mean and variance of log1p(CP10k) of cells of so many counts at :data:`LOG_SHARES`."""
    from scipy.special import gammaln

    expected = counts * np.exp(LOG_SHARES)
    few = expected < MOST_COUNTS / 2
    k, rate = np.arange(MOST_COUNTS + 1), expected[few, None]
    chance = np.exp(k * np.log(rate) - rate - gammaln(k + 1))
    value = np.log1p(TARGET_SUM / counts * k)
    mean = np.log1p(TARGET_SUM / counts * expected)
    slope = TARGET_SUM / counts / (1 + TARGET_SUM / counts * expected)
    variance = slope**2 * expected
    mean[few] = chance @ value
    variance[few] = np.maximum(chance @ value**2 - mean[few] ** 2, 0)
    return mean, variance


def reference_counts(statistics: Mapping[str, Array]) -> float:
    """Return how many counts a cell of the reference has, by the means of genes and their shares.

    Of :data:`DEPTHS` that is the one at which the genes' shares of all counts explain their means
    best.
    """
    mean = statistics["gene_mean"].astype(np.float64)
    share = np.log(np.maximum(statistics["gene_share"][: len(mean)], 1e-12))
    errors = [
        np.mean((np.interp(share, LOG_SHARES, moments(counts)[0]) - mean) ** 2) for counts in DEPTHS
    ]
    return float(DEPTHS[int(np.argmin(errors))])


def at_counts(statistics: Mapping[str, Array], counts: float) -> dict[str, Array]:
    """Return the tables of a model for cells of so many counts; those of more stay as they are.

    Means of types follow from their shares. What varies within types is divided into what counting
    does by chance, which is known at any number of counts, and the rest, which keeps its place on
    the new scale.
    """
    tables, usual = dict(statistics), reference_counts(statistics)
    if counts >= usual:
        return tables
    (old_mean, old_chance), (new_mean, new_chance) = moments(usual), moments(counts)
    centre, unit, of_type, factors, rest, total, prior = (
        statistics[name].astype(np.float64)
        for name in (
            *("gene_mean", "gene_scale", "class_mean", "within_factors", "within_residual"),
            *("total_factors", "cells_per_type"),
        )
    )
    prior = prior / prior.sum()
    before = np.clip(centre + unit * of_type, old_mean[0], old_mean[-1])
    share = np.interp(before, old_mean, LOG_SHARES)

    def typical(values: Array) -> Array:
        averaged: Array = prior @ np.interp(share, LOG_SHARES, values)
        return averaged

    steps = (np.gradient(mean, LOG_SHARES) for mean in (new_mean, old_mean))
    slope = np.divide(*map(typical, steps))
    after = np.interp(share, LOG_SHARES, new_mean)
    factors, rest = factors * unit[:, None], rest * unit**2
    own = np.maximum(rest - typical(old_chance), 0)
    new_centre = prior @ after
    new_factors = factors * slope[:, None]
    new_rest = own * slope**2 + typical(new_chance)
    old_variance = prior @ (before - prior @ before) ** 2 + (factors**2).sum(axis=1) + rest
    variance = prior @ (after - new_centre) ** 2 + (new_factors**2).sum(axis=1) + new_rest
    new_unit = unit * np.sqrt(variance / np.maximum(old_variance, 1e-12))
    whole = variance / new_unit**2
    loadings = total * (slope * unit / new_unit)[:, None]
    return tables | {
        "gene_mean": new_centre,
        "gene_scale": new_unit,
        "class_mean": (after - new_centre) / new_unit,
        "within_factors": new_factors / new_unit[:, None],
        "within_residual": new_rest / new_unit**2,
        "total_factors": loadings,
        "total_residual": np.maximum(whole - (loadings**2).sum(axis=1), LEAST_REST * whole),
    }
