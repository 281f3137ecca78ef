"""How sure, how novel, how well neighbours agree: the arithmetic of what is said of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.network.bank import ReferenceBank
    from scbignn_infer.network.levels import GenePass
    from scbignn_infer.network.neighbors import Graph
    from scbignn_infer.network.panel import Panel


NOVELTY_WEIGHT, NOVELTY_POWER = 0.1, 20


RESIDUAL_WEIGHT, RESIDUAL_FREE, RESIDUAL_MOST = 0.5, 0.8, 1.0


RESIDUAL_TOP = 10
"""Genes that decide how far a cell is from the profile of its type."""


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
    score: Array = (
        confidence
        - NOVELTY_WEIGHT * np.asarray(novelty) ** NOVELTY_POWER
        - RESIDUAL_WEIGHT * strange
    )
    return score


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
        (c, g) profiles of the types, and (g,) standard deviations within types; in the unit of
        ``scaled``.

    Returns
    -------
    ndarray
        (n,) the mean of the ten largest differences, in standard deviations.
    """
    farthest = np.empty(len(scaled), np.float32)
    top = min(RESIDUAL_TOP, scaled.shape[1])
    for i in range(0, len(scaled), 4096):
        rows = slice(i, i + 4096)
        total = scaled[rows].astype(np.float32)
        for column in neighbor_indices[rows].T:
            total += scaled[column]
        smoothed = total / (1 + neighbor_indices.shape[1])
        off = np.abs(smoothed - class_mean[codes[rows]]) / spread
        farthest[rows] = np.partition(off, off.shape[1] - top, axis=1)[:, -top:].mean(axis=1)
    return farthest


def agreement(codes: Array, graph: Graph, group: Array) -> Array:
    """Weighted share of neighbours with the cell's own label.

    Parameters
    ----------
    codes
        (n,) label codes.
    graph
        Of the same cells; similarities, cut at 0, are the weights.
    group
        (c,) the label code of each type of the model.

    Returns
    -------
    ndarray
        (n,) in [0, 1]; NaN for a lone cell.
    """
    if graph.alone:
        return np.full(1, np.nan, np.float32)
    weight = np.maximum(graph.similarity, 1e-6)
    same = graph.codes(codes, group) == codes[:, None]
    share: Array = (weight * same).sum(axis=1) / weight.sum(axis=1)
    return share


def smooth(values: Array, neighbor_indices: Array) -> Array:
    """Average the value (n,) of each cell with those of its neighbours (n, k)."""
    own_and_neighbors = values[:, None], values[neighbor_indices]
    smoothed: Array = np.concatenate(own_and_neighbors, axis=1).mean(axis=1)
    return smoothed


def strangeness(
    embedding: Array,
    scaled: Array,
    codes: Array,
    graph: Graph,
    *,
    panel: Panel,
    bank: ReferenceBank,
) -> tuple[Array, Array, Array]:
    """Tell novelty and residual (n,) of cells to a model, and which it was trained on.

    The gene level made the embedding (n, d) and the scaled genes (n, g) of the cells; label codes
    (n,) are of the model's types. A graph without neighbours among the cells gives no residual.
    """
    distance, known = bank.distance(embedding)
    novelty, near = bank.novelty(smooth(distance, graph.within)), graph.within
    if not near.size:
        return novelty, np.zeros(len(distance), np.float32), known
    relative, strange = bank.place_residual(residual(scaled, near, codes, *panel.profile))
    return np.maximum(novelty, strange), relative, known


class CellScores:
    """What is said of n cells, graph by graph; a cell in no graph is all novel.

    The temperature is that of :func:`calibrate`; the scores (n,) are those of :func:`agreement` and
    :func:`strangeness`, and the probabilities (n, n_groups) are of the labels of the grouping. The
    excess (n,) is what an adaptation takes back of their support.
    """

    def __init__(self, n: int, grouping: Grouping, temperature: float) -> None:
        self._grouping, self._temperature = grouping, temperature
        self.probabilities = np.zeros((n, len(grouping.labels)), np.float32)
        self.agreement, self.residual, self.known = np.zeros((3, n), np.float32)
        self.novelty = np.ones(n, np.float32)
        self.excess = np.zeros(n, np.float32)

    @property
    def support(self) -> Array:
        """(n,) what decides whether cells are unknown, before any excess of it is taken back."""
        return support(self.probabilities.max(axis=1), self.novelty, self.residual)

    def put(
        self,
        cells: Any,
        logits: Array,
        genes: GenePass,
        graph: Graph,
        *,
        panel: Panel,
        bank: ReferenceBank,
    ) -> None:
        """Score the cells of a graph, by the cell level's logits and what the gene level said."""
        probabilities = self._grouping.sum(calibrate(logits, self._temperature))
        self.probabilities[cells], codes = probabilities, probabilities.argmax(1)
        self.agreement[cells] = agreement(codes, graph, self._grouping.group)
        z, scaled, types = genes.embedding[cells], genes.scaled[cells], logits.argmax(1)
        strange = strangeness(z, scaled, types, graph, panel=panel, bank=bank)
        self.novelty[cells], self.residual[cells], self.known[cells] = strange

    def take(self, other: CellScores, cells: Array) -> None:
        """Say of some cells what other scores, of the same labels, say of them."""
        for name in ("probabilities", "agreement", "residual", "novelty", "excess"):
            getattr(self, name)[cells] = getattr(other, name)[cells]
