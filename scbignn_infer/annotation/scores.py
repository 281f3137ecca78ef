"""How sure, how novel, how well neighbours agree: the arithmetic of what is said of a cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scbignn_infer.annotation.chances import softmax
from scbignn_infer.network.panel import RESIDUAL_GENES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.annotation.ontology import Ontology
    from scbignn_infer.model.bundle import BundleSpec, Certainty
    from scbignn_infer.network.bank import ReferenceBank
    from scbignn_infer.network.levels import GenePass
    from scbignn_infer.network.neighbors import Graph
    from scbignn_infer.network.panel import Panel


NOVELTY_WEIGHT, NOVELTY_POWER = 0.1, 20


RESIDUAL_WEIGHT, RESIDUAL_FREE, RESIDUAL_MOST = 0.5, 0.8, 1.0


CHUNK = 4096
"""Cells whose probabilities are worked out, or whose neighbours are added up, at once."""
RESIDUAL_TOP = 10
"""Genes that decide how far a cell is from the profile of its type."""

MANY_CELLS, MANY_TYPES = 20, 3
"""A type of fewer cells says nothing of a file as a whole, nor do fewer types."""
NOVEL_FROM, UNLIKE_FROM = 0.9, 0.85
"""Quantiles of held-out reference cells from which on distance and residual count against a
cell."""
STRANGE_WEIGHT = 2.0
"""Of the logarithm of how many times these are exceeded."""
DISTANCE_FOLLOWED, RESIDUAL_FOLLOWED, FEW_FOLLOWED = 1.5, 3.0, 1.5
"""How many times as far as the reference's own cells a file may be as a whole: so much is put down
to the laboratory. The last is that of the residual for a file of few types, which may be new."""
APART = 2.0
"""Of files of the model's tissue from other laboratories, none but one of another stage of life was
as many times as far from the reference as the reference's cells are from each other; files of
other tissues were from 1.8 to 3.3 times as far."""
STRENGTHS, LEAST_STRENGTH = (0.5, 1.0), 0.02
"""What the typical strength of a file may be, and what a cell's is at least."""
STRONG, EXCUSED = 0.2, 0.25
"""The logarithm of a strength, relative to the typical one, from which on no more of what is taken
for distance and residual is left than the second."""
WEAK_WEIGHT = 0.5
"""Of the logarithm that weakness takes, in models that follow the file."""
MISFITS, COVERAGES, TEMPERATURES = (1.0, 5.0), (0.02, 1.0), (0.2, 5.0)
"""What the temperature was fitted on, and what it may be."""


def calibrate(logits: Array, temperature: float) -> Array:
    """Return softmax(logits / temperature) as float32, rows summing to 1."""
    found = np.empty(logits.shape, np.float32)
    for i in range(0, len(logits), CHUNK):
        rows = slice(i, i + CHUNK)
        found[rows] = softmax(logits[rows].astype(np.float64) / temperature)
    return found


def temperature_for(spec: BundleSpec, coverage: float, misfit: float | None) -> float:
    """Return the temperature of a model for a file, by its coverage and its cells' misfit."""
    if spec.certainty is None or misfit is None:
        return spec.temperature
    return temperature_by(spec.certainty, coverage, misfit)


def temperature_by(certainty: Certainty, coverage: float, misfit: float) -> float:
    """Return what a model's record of its certainty says of a file."""
    slopes = certainty.misfit, certainty.coverage
    log_t = certainty.constant + float(np.dot(slopes, certainty_terms(coverage, misfit)))
    return float(np.clip(math.exp(log_t), *TEMPERATURES))


def certainty_terms(coverage: float, misfit: float) -> Array:
    """Return what the logarithm of the temperature depends on: misfit and coverage."""
    return np.log([np.clip(misfit, *MISFITS), np.clip(coverage, *COVERAGES)])


def penalties(novelty: Array, residual: Array) -> Array:
    r"""Return what novelty and residual take from the confidence (n, 2), in models of old.

    :math:`0.1 \nu^{20}` and :math:`0.5 \min(\max(r - 0.8, 0), 1)`: only cells beyond nearly all of
    the reference lose by their novelty, and only those whose genes are far from the type that they
    are called by their residual.

    Parameters
    ----------
    novelty, residual
        (n,) of the cells, see :class:`Annotation`.
    """
    strange = np.clip(np.asarray(residual) - RESIDUAL_FREE, 0, RESIDUAL_MOST)
    novel = NOVELTY_WEIGHT * np.asarray(novelty) ** NOVELTY_POWER
    return np.stack([novel, RESIDUAL_WEIGHT * strange], axis=1)


def support(confidence: Array, novelty: Array, residual: Array) -> Array:
    """Return what decides whether a cell is unknown in models of old: see :func:`penalties`."""
    score: Array = confidence - penalties(novelty, residual).sum(axis=1)
    return score


def residual(
    scaled: Array,
    neighbor_indices: Array,
    codes: Array,
    class_mean: Array,
    spread: Array,
    *,
    shift: Array | float = 0.0,
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
    shift
        (g,) what the types of the query have in common, see :func:`common_shift`.

    Returns
    -------
    ndarray
        (n,) the mean of the ten largest differences, in standard deviations.
    """
    farthest = np.empty(len(scaled), np.float32)
    top = min(RESIDUAL_TOP, scaled.shape[1])
    for rows, smoothed in _smoothed(scaled, neighbor_indices):
        off = np.abs(smoothed - shift - class_mean[codes[rows]]) / spread
        farthest[rows] = np.partition(off, off.shape[1] - top, axis=1)[:, -top:].mean(axis=1)
    return farthest


def _smoothed(
    scaled: Array, neighbor_indices: Array, most: Array | None = None
) -> Iterator[tuple[slice, Array]]:
    """Yield the mean (m, g) of cells and their neighbours, and which cells they are.

    ``most`` (n,) says how many neighbours of each count, the nearest; by default all.
    """
    k = neighbor_indices.shape[1]
    for i in range(0, len(scaled), CHUNK):
        rows = slice(i, i + CHUNK)
        total = scaled[rows].astype(np.float32)
        for j, column in enumerate(neighbor_indices[rows].T):
            total += scaled[column] if most is None else scaled[column] * (j < most[rows, None])
        total /= 1 + (k if most is None else np.minimum(most[rows, None], k))
        yield rows, total


def strength(
    scaled: Array,
    neighbor_indices: Array,
    codes: Array,
    weight: Array,
    norm: Array,
    *,
    shift: Array | float = 0.0,
) -> Array:
    r"""Tell how much of the profile of its type a cell shows, with its neighbours.

    Of a type of n cells no more than n - 1 neighbours count, the nearest: most of the others are of
    another type.

    The discriminant takes a cell as :math:`z = a \mu_c + \epsilon`; with the covariance
    :math:`\Sigma` of :math:`\epsilon`, the best :math:`a` is that of generalised least squares,
    :math:`z \Sigma^{-1} \mu_c / (\mu_c \Sigma^{-1} \mu_c)`. It is about 1 for cells like the
    reference's, and the same for all types in a file that shows all genes less.

    Parameters
    ----------
    scaled, neighbor_indices, codes, shift
        As in :func:`residual`.
    weight, norm
        (g, c) and (c,) :math:`\Sigma^{-1} \mu` and :math:`\mu \Sigma^{-1} \mu` of the types.

    Returns
    -------
    ndarray
        (n,) float32.
    """
    found = np.empty(len(scaled), np.float32)
    by_type = np.ascontiguousarray((weight / np.maximum(norm, 1e-9)).T, np.float32)
    offset = (by_type @ np.broadcast_to(shift, by_type.shape[1:])).astype(np.float32)
    for rows, smoothed in _smoothed(scaled, neighbor_indices, np.bincount(codes)[codes] - 1):
        own = codes[rows]
        found[rows] = np.einsum("ng,ng->n", smoothed, by_type[own]) - offset[own]
    return found


def weakness(strengths: Array, codes: Array, below: float) -> Array:
    """Return what being weaker than is typical of the file takes from the confidence (n,).

    It counts below a share of what is typical of the cells, whose types are ``codes`` (n,).
    """
    taken: Array = np.maximum(np.log(below) - _relative(strengths, codes), 0)
    return taken


def excuse(strengths: Array, codes: Array) -> Array:
    """Return what is left (n,) of what distance and residual take, from 1 down to a quarter.

    A cell that shows the profile of its type as well as is typical of the file may differ from the
    reference otherwise, by its laboratory or its state: a whole type may. Cells of a type that the
    model does not know show less of it.
    """
    left: Array = np.clip(1 - _relative(strengths, codes) / STRONG, EXCUSED, 1)
    return left


def _relative(strengths: Array, codes: Array) -> Array:
    """Return the logarithm of strengths (n,) divided by what is typical of the cells."""
    usual = np.clip(typical(strengths, codes), *STRENGTHS)
    relative: Array = np.log(np.maximum(strengths, LEAST_STRENGTH) / usual)
    return relative


def common_shift(scaled: Array, codes: Array, class_mean: Array) -> Array:
    """Return by how much all types of a query differ from their profiles, (g,).

    It is the median over the types that have many cells, so that no type decides by its size, and
    0 where few types have. Parameters as in :func:`residual`.
    """
    many = _many(codes)
    if len(many) < MANY_TYPES:
        return np.zeros(scaled.shape[1])
    off = [scaled[codes == c].mean(axis=0, dtype=np.float64) - class_mean[c] for c in many]
    shift: Array = np.median(off, axis=0)
    return shift


def typical(values: Array, codes: Array) -> float:
    """Return the median over types of the median value of their cells; small types do not count."""
    types = _many(codes) or np.unique(codes)
    return float(np.median([np.median(values[codes == c]) for c in types]))


def _many(codes: Array) -> list[int]:
    """Return the types that many cells are called."""
    return [int(c) for c in np.flatnonzero(np.bincount(codes) >= MANY_CELLS)]


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


class Strangeness(NamedTuple):
    """How strange n cells are to a model.

    Attributes
    ----------
    novelty, residual
        (n,) see :class:`Annotation`.
    known
        (n,) cells that the model was trained on.
    penalties
        (n, 2) what novelty and residual take from the confidence.
    distance
        (n,) from the nearest reference cell, as a quantile of held-out reference cells.
    apart
        How many times as far from the reference's cells as these are from each other the typical
        cell is; 0 where that is not known.
    """

    novelty: Array
    residual: Array
    known: Array
    penalties: Array
    distance: Array
    apart: float = 0.0


def strangeness(
    embedding: Array,
    scaled: Array,
    codes: Array,
    graph: Graph,
    *,
    panel: Panel,
    bank: ReferenceBank,
) -> Strangeness:
    """Tell how strange cells are to a model, by embedding (n, d) and scaled genes (n, g).

    Label codes (n,) are of the model's types. A graph without neighbours among the cells gives no
    residual.
    """
    distance, known = bank.distance(embedding)
    far = bank.novelty(distance)
    distance, near = smooth(distance, graph.within), graph.within
    if not near.size:
        novelty, nothing = bank.novelty(distance), np.zeros(len(distance), np.float32)
        return Strangeness(novelty, nothing, known, penalties(novelty, nothing), far)
    if not bank.follows:
        mean, spread = (table[..., :RESIDUAL_GENES] for table in panel.profile)
        off = residual(scaled[:, :RESIDUAL_GENES], near, codes, mean, spread)
        relative, strange = bank.place_residual(off)
        novelty = np.maximum(bank.novelty(distance), strange)
        taken = penalties(novelty, relative)
        if bank.weak:
            shift = common_shift(scaled, codes, panel.profile[0])
            shown = strength(scaled, near, codes, *panel.evidence, shift=shift)
            taken[:, 1] += weakness(shown, codes, bank.weak)
        return Strangeness(novelty, relative, known, taken, far)
    mean, spread = panel.profile
    shift, first = common_shift(scaled, codes, mean), slice(RESIDUAL_GENES)
    profile = mean[:, first], spread[first]
    off = residual(scaled[:, first], near, codes, *profile, shift=shift[first])
    most = RESIDUAL_FOLLOWED if len(_many(codes)) >= MANY_TYPES else FEW_FOLLOWED
    apart = typical(distance, codes) / bank.usual_distance(0.5)
    distance = distance / np.clip(apart, 1, DISTANCE_FOLLOWED)
    off = off / np.clip(typical(off, codes) / bank.usual_residual(0.5), 1, most)
    relative, strange = bank.place_residual(off)
    beyond = distance / bank.usual_distance(NOVEL_FROM), off / bank.usual_residual(UNLIKE_FROM)
    taken = STRANGE_WEIGHT * np.log(np.maximum(np.stack(beyond, axis=1), 1))
    if bank.weak:
        shown = strength(scaled, near, codes, *panel.evidence, shift=shift)
        if apart <= APART:
            taken *= excuse(shown, codes)[:, None]
        taken[:, 1] += WEAK_WEIGHT * weakness(shown, codes, bank.weak)
    novelty = np.maximum(bank.novelty(distance), strange)
    return Strangeness(novelty, relative, known, taken, far, apart)


class CellScores:
    """What is said of n cells, graph by graph; a cell in no graph is all novel.

    The temperature is that of :func:`calibrate`; the scores (n,) are those of :func:`agreement` and
    :func:`strangeness`, and the probabilities (n, n_groups) are of the labels of the grouping; the
    ontology tells the best of these. The excess (n,) is what an adaptation takes back of their
    support.
    """

    def __init__(self, n: int, grouping: Grouping, temperature: float, ontology: Ontology) -> None:
        self._grouping, self.temperature, self.ontology = grouping, temperature, ontology
        self.probabilities = np.zeros((n, len(grouping.labels)), np.float32)
        self.agreement, self.residual, self.known, self.apart = np.zeros((4, n), np.float32)
        self.novelty, self.distance = np.ones((2, n), np.float32)
        self.penalties = np.zeros((n, 2), np.float32)
        self.excess = np.zeros(n, np.float32)

    def apart_as_a_whole(self, cells: Array) -> float:
        """Return how far the typical of some cells (n,) is apart, see :class:`Strangeness`."""
        return round(float(np.median(self.apart[cells])), 3) if cells.any() else 0.0

    def typical_distance(self, cells: Array) -> float | None:
        """Return the median of the distance of some cells (n,), see :class:`Strangeness`."""
        return round(float(np.median(self.distance[cells])), 4) if cells.any() else None

    @property
    def support(self) -> Array:
        """(n,) confidence less penalties, before any excess of it is taken back."""
        less: Array = self.probabilities.max(axis=1) - self.penalties.sum(axis=1)
        return less

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
        probabilities = self._grouping.sum(calibrate(logits, self.temperature))
        self.probabilities[cells], codes = probabilities, self.ontology.best(probabilities)
        self.agreement[cells] = agreement(codes, graph, self._grouping.group)
        z, scaled, types = genes.embedding[cells], genes.scaled[cells], logits.argmax(1)
        strange = strangeness(z, scaled, types, graph, panel=panel, bank=bank)
        self.novelty[cells], self.residual[cells], self.known[cells] = strange[:3]
        self.penalties[cells], self.apart[cells] = strange.penalties, strange.apart
        self.distance[cells] = strange.distance

    def spare(self, before: CellScores) -> None:
        """Meet scores before half-way, where a cell that they call the same is stranger now.

        Strangeness is relative to what is usual in the file. When most cells have come nearer to
        the model, those that came less near seem stranger, though they are not.
        """
        same = self.ontology.best(before.probabilities) == self.ontology.best(self.probabilities)
        for name in ("novelty", "residual", "penalties"):
            now, then = getattr(self, name), getattr(before, name)
            now[same] = np.minimum(now[same], (now[same] + then[same]) / 2)

    def take(self, other: CellScores, cells: Array) -> None:
        """Say of some cells what other scores, of the same labels, say of them."""
        for name in (
            "probabilities",
            "agreement",
            "residual",
            "novelty",
            "distance",
            "apart",
            "penalties",
            "excess",
        ):
            getattr(self, name)[cells] = getattr(other, name)[cells]
