"""The reference cells that a model carries: how near they are, and what that means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.network.exact import ExactSearch, unit_rows
from scbignn_infer.network.neighbors import Graph, build_graph

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.sessions import Runtime

BLOCK = 1 << 16
"""Cells that are scaled to length 1 at once: a copy of all would be what the memory peaks with."""
SAME_CELL = 1e-3
"""Cells nearer to a reference cell than this are that cell, but for the rounding to 16 bits, and in
models of many data sets for what the others tell of genes that its own did not measure. Of 25,000
cells of files that no model was trained on, none came nearer to one than 2e-3."""


class ReferenceBank:
    """The reference cells of a model, laid out for search.

    ``kept`` (n_classes,) are the classes whose cells are taken; by default all.
    """

    def __init__(self, bundle: ModelBundle, runtime: Runtime, kept: Array | None = None) -> None:
        embedding, codes = (bundle.reference[name] for name in ("embedding", "codes"))
        if kept is not None:
            embedding, codes = embedding[kept[codes]], codes[kept[codes]]
        self.rows, self.codes = unit_rows(embedding), codes
        self._quantiles = bundle.reference["novelty_quantiles"]
        self._residual_quantiles = bundle.reference.get("residual_quantiles")
        self.follows = bundle.spec.follows_file and self._residual_quantiles is not None
        """Whether cells are compared with the others of their file, too."""
        self.weak = bundle.spec.thresholds.weak
        self._n_neighbors, self._runtime = bundle.spec.graph.n_neighbors, runtime
        self._n_types = len(bundle.cell_types)
        self._search = ExactSearch(self.rows, runtime)

    def distance(self, embedding: Array) -> tuple[Array, Array]:
        """Return the distance of cells (n, d) to the nearest of the bank, and which are it."""
        distance, same = np.empty(len(embedding), np.float32), np.empty(len(embedding), dtype=bool)
        for i in range(0, len(embedding), BLOCK):
            part = slice(i, i + BLOCK)
            cells = unit_rows(embedding[part])
            indices, similarity = self._search.nearest(cells, 1)
            distance[part] = 1 - similarity[:, 0]
            same[part] = same_cells(cells, self.rows, indices[:, 0])
        return distance, same

    def novelty(self, distance: Array) -> Array:
        """Place distances (n,) among those of held-out reference cells, from 0 to 1."""
        return novelty_quantile(distance, self._quantiles)

    def usual_distance(self, quantile: float) -> float:
        """Return a quantile of the distances of held-out reference cells."""
        return _at(self._quantiles, quantile)

    def usual_residual(self, quantile: float) -> float:
        """Return a quantile of the residuals of held-out reference cells, if there are any."""
        return _at(self._residual_quantiles, quantile)

    def place_residual(self, residual: Array) -> tuple[Array, Array]:
        """Return residuals (n,) relative to those of held-out cells, and their place; 0 if none."""
        quantiles = self._residual_quantiles
        if quantiles is None:
            return np.zeros_like(residual), np.zeros_like(residual)
        return residual / _at(quantiles, 0.99), novelty_quantile(residual, quantiles)

    def graph(self, embedding: Array) -> BankGraph:
        """Return the graph whose neighbours, of cells (n, d), are the bank's."""
        k = min(self._n_neighbors, len(self.rows))
        neighbors = self._search.nearest(unit_rows(embedding), k)
        return BankGraph(*neighbors, "reference", self._reach, bank=self)

    @cached_property
    def _reach(self) -> Array:
        """What :class:`Graph` says of the bank's cells, among themselves."""
        return build_graph(self.rows, self._n_neighbors, runtime=self._runtime).reach

    @cached_property
    def state(self) -> Array:
        """Probabilities (m, c) of the bank's cells, which are sure."""
        one_hot: Array = np.eye(self._n_types, dtype=np.float32)[self.codes]
        return one_hot


@dataclass(frozen=True, kw_only=True)
class BankGraph(Graph):
    """The neighbours of n cells among the m of a bank, whose labels stay."""

    bank: ReferenceBank

    @property
    def within(self) -> Array:
        """No neighbour is of the n cells themselves."""
        return self.indices[:, :0]

    def state(self, probabilities: Array) -> Array:
        """Return the probabilities (m, c) of the bank's cells."""
        return self.bank.state

    def codes(self, labels: Array, group: Array) -> Array:
        """Return the labels (n, k) of the neighbours; ``group`` (c,) has one for each type."""
        codes: Array = group[self.bank.codes][self.indices]
        return codes


def _at(quantiles: Array | None, quantile: float) -> float:
    """Return one of evenly spaced quantiles, above 0."""
    if quantiles is None:
        return math.inf
    return max(float(np.interp(quantile, np.linspace(0, 1, len(quantiles)), quantiles)), 1e-6)


def novelty_quantile(distance: Array, quantiles: Array) -> Array:
    """Place distances (n,) to the bank among those of held-out reference cells, from 0 to 1.

    ``quantiles`` (q,) are those of held-out cells, ascending, evenly spaced from 0 to 1.
    """
    return np.interp(distance, quantiles, np.linspace(0, 1, len(quantiles)))


def same_cells(cells: Array, bank: Array, nearest: Array) -> Array:
    """Tell which cells (n, d) are themselves those of the reference ``bank[nearest]``, (n,).

    Embeddings have length 1. The distance is worked out anew, since a GPU rounds the similarities
    of a search.
    """
    same = np.empty(len(cells), dtype=bool)
    for i in range(0, len(cells), 4096):
        rows = slice(i, i + 4096)
        same[rows] = (cells[rows] * bank[nearest[rows]]).sum(axis=1) > 1 - SAME_CELL
    return same
