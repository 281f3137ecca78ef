"""How sure, how novel, how well neighbours agree: the arithmetic of what is said of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = np.ndarray[Any, Any]


NOVELTY_WEIGHT, NOVELTY_POWER = 0.1, 20


RESIDUAL_WEIGHT, RESIDUAL_FREE, RESIDUAL_MOST = 0.5, 0.8, 1.0


RESIDUAL_TOP = 10
"""Genes that decide how far a cell is from the profile of its type."""


RESIDUAL_NOISE = 0.3
"""Added to the spread of a gene within types, so that none decides by being still."""


SAME_CELL = 1e-5
"""Cells nearer to a reference cell than this are that cell, but for the rounding to 16 bits. Of
25,000 cells of files that no model was trained on, none came nearer to one than 2e-3."""


def calibrate(logits: Array, temperature: float) -> Array:
    """Return softmax(logits / temperature) as float32, rows summing to 1."""
    return np.asarray(softmax(logits.astype(np.float64) / temperature, axis=1), np.float32)


def support(confidence: Array, novelty: Array, residual: Array) -> Array:
    r"""Return what decides whether a cell is called unknown: confidence, less what is strange.

    :math:`c - 0.1 \nu^{20} - 0.5 \min(\max(r - 0.8, 0), 1)`: only cells beyond nearly all of the
    reference lose by their novelty, and only those whose genes are far from the type that they are
    called by their residual. A study of another laboratory is novel as a whole, and its cells keep
    a label that is sure. That the sum tells types that a model never saw better than any part is
    in docs/benchmarks.md.

    Parameters
    ----------
    confidence, novelty, residual
        (n,) of the cells, see :class:`Annotation`.
    """
    strange = np.clip(np.asarray(residual) - RESIDUAL_FREE, 0, RESIDUAL_MOST)
    found: Array = (
        confidence
        - NOVELTY_WEIGHT * np.asarray(novelty) ** NOVELTY_POWER
        - RESIDUAL_WEIGHT * strange
    )
    return found


def within_spread(statistics: Mapping[str, Array], genes: Array) -> Array:
    """Return the standard deviation of some genes within types, and a little noise.

    Parameters
    ----------
    statistics
        Tables of ``statistics.npz``, genes in rank order.
    genes
        (g,) positions.
    """
    factors, rest = statistics["within_factors"][genes], statistics["within_residual"][genes]
    spread: Array = np.sqrt((factors**2).sum(axis=1) + rest) + RESIDUAL_NOISE
    return spread


def residual(
    scaled: Array, neighbor_indices: Array, codes: Array, class_mean: Array, spread: Array
) -> Array:
    """Tell how far genes of a cell and its neighbours are from the type that it is called.

    Averaging over the neighbours leaves what they have in common: genes of a type that the model
    does not know, rather than noise.

    Parameters
    ----------
    scaled
        (n, g) scaled expression of the best-ranked present genes.
    neighbor_indices
        (n, k) graph.
    codes
        (n,) label codes.
    class_mean, spread
        (c, g) profiles of the types, and (g,) what :func:`within_spread` returns; in the unit of
        ``scaled``.

    Returns
    -------
    ndarray
        (n,) the mean of the ten largest differences, in standard deviations.
    """
    found = np.empty(len(scaled), np.float32)
    top = min(RESIDUAL_TOP, scaled.shape[1])
    for i in range(0, len(scaled), 4096):
        rows = slice(i, i + 4096)
        total = scaled[rows].astype(np.float32)
        for column in neighbor_indices[rows].T:
            total += scaled[column]
        smoothed = total / (1 + neighbor_indices.shape[1])
        off = np.abs(smoothed - class_mean[codes[rows]]) / spread
        found[rows] = np.partition(off, off.shape[1] - top, axis=1)[:, -top:].mean(axis=1)
    return found


def agreement(codes: Array, neighbor_codes: Array, neighbor_similarity: Array) -> Array:
    """Weighted share of neighbours with the cell's own label.

    Parameters
    ----------
    codes
        (n,) label codes.
    neighbor_codes, neighbor_similarity
        (n, k) labels of the neighbours, and weights: their similarities, cut at 0.

    Returns
    -------
    ndarray
        (n,) in [0, 1].
    """
    weight = np.maximum(neighbor_similarity, 1e-6)
    same = neighbor_codes == codes[:, None]
    share: Array = (weight * same).sum(axis=1) / weight.sum(axis=1)
    return share


def novelty_quantile(distance: Array, quantiles: Array) -> Array:
    """Place distances among those of held-out reference cells.

    Parameters
    ----------
    distance
        (n,) distance to the reference bank.
    quantiles
        (q,) ascending distances of held-out cells at evenly spaced quantiles from 0 to 1.

    Returns
    -------
    ndarray
        (n,) in [0, 1].
    """
    return np.interp(distance, quantiles, np.linspace(0, 1, len(quantiles)))


def smooth(values: Array, neighbor_indices: Array | None) -> Array:
    """Average each cell's value with those of its graph neighbours; none leaves it as it is."""
    if neighbor_indices is None:
        return values
    own_and_neighbors = values[:, None], values[neighbor_indices]
    smoothed: Array = np.concatenate(own_and_neighbors, axis=1).mean(axis=1)
    return smoothed


def same_cells(cells: Array, bank: Array, nearest: Array) -> Array:
    """Tell which cells are cells of the reference themselves, (n,).

    The distance is worked out anew, since a GPU rounds the similarities of a search.

    Parameters
    ----------
    cells, bank
        (n, d) and (m, d) embeddings of length 1.
    nearest
        (n,) position in the bank of the cell nearest to each.
    """
    found = np.empty(len(cells), dtype=bool)
    for i in range(0, len(cells), 4096):
        rows = slice(i, i + 4096)
        found[rows] = (cells[rows] * bank[nearest[rows]]).sum(axis=1) > 1 - SAME_CELL
    return found
