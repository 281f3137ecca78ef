"""The kNN graph of the cells: its searches, one of which is chosen by the number of cells."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scbignn_infer.network import descent, exact

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from scbignn_infer._types import Array
    from scbignn_infer.network.sessions import Runtime

EXACT_MAX_CELLS = 100_000
"""Up to here exact search is used: it costs no compilation and finds every neighbour."""


class Search(Protocol):
    """A way to find the neighbours of cells among themselves: a module with these names.

    Attributes
    ----------
    NAME
        What the record of a run calls it.
    START_BYTES, CELL_BYTES
        What it holds at once, and for a cell beside its embedding and neighbours.
    """

    NAME: str
    START_BYTES: int
    CELL_BYTES: int

    def nearest(
        self, embedding: Array, k: int, *, runtime: Runtime, seed: int
    ) -> tuple[Array, Array]:
        """Return rows and cosine similarities (n, k), most similar first, a cell itself, too."""

    def prepare(self, size: int, *, runtime: Runtime) -> None:
        """Get ready for embeddings of a size, in the background."""

    def seconds(self, n_cells: int, size: int) -> float:
        """Return about what a thread takes for so many cells of so many dimensions."""


SEARCHES: tuple[tuple[int, Search], ...] = ((EXACT_MAX_CELLS, exact), (sys.maxsize, descent))
"""Each search, and the most cells that it is taken for."""


def search_for(n_cells: int) -> Search:
    """Return the search for a number of cells."""
    return next(search for most, search in SEARCHES if n_cells <= most)


@dataclass(frozen=True)
class Graph:
    """The neighbours of n cells among themselves.

    Attributes
    ----------
    indices, similarity
        (n, k) int64 and float32, most similar first.
    builder
        What found them: the name of a search, or ``reference``.
    reach
        (m,) similarity of the farthest neighbour of each cell that may be a neighbour.
    alone
        Whether a cell is its own neighbour, since there is no other.
    """

    indices: Array
    similarity: Array
    builder: str
    reach: Array
    alone: bool = False

    @property
    def within(self) -> Array:
        """Which neighbours (n, k) are of the n cells themselves."""
        return self.indices

    def state(self, own: Array) -> Array:
        """Return the probabilities (m, c) of the neighbours, ``own`` (n, c) being the cells'."""
        return own

    def codes(self, own: Array, group: Array) -> Array:
        """Return the labels (n, k) of the neighbours.

        Parameters
        ----------
        own
            (n,) labels of the cells.
        group
            (c,) the label of each type of the model.
        """
        codes: Array = own[self.indices]
        return codes


def build_graph(
    embedding: Array,
    n_neighbors: int,
    *,
    runtime: Runtime,
    seed: int = 0,
    search: Search | None = None,
) -> Graph:
    """Build the cosine kNN graph of the cells.

    Parameters
    ----------
    embedding
        (n_cells, d) cell embedding.
    n_neighbors
        Neighbours of a cell, itself not counted; cut to ``n_cells - 1``. A lone cell becomes its
        own neighbour, so that the graph always has one column.
    runtime
        Device and threads.
    seed
        Of an approximate search; exact search needs none.
    search
        By default :func:`search_for` the number of cells.
    """
    n = len(embedding)
    search = search or search_for(n)
    if n == 1:
        one = np.ones((1, 1), np.float32)
        return Graph(np.zeros((1, 1), np.int64), one, search.NAME, one[0], alone=True)
    found = search.nearest(embedding, min(n_neighbors, n - 1) + 1, runtime=runtime, seed=seed)
    indices, similarity = _without_self(*found)
    return Graph(indices, similarity, search.NAME, similarity.min(axis=1))


def with_counts(batches: list[Array], empty: Array) -> list[Any]:
    """Return the cells that make a graph together, without empty ones."""
    if not batches and not empty.any():
        return [slice(None)]  # a slice takes no copy, here where the memory peaks
    kept = [cells[~empty[cells]] for cells in batches or [np.arange(len(empty))]]
    return [cells for cells in kept if len(cells)]


def join_graphs(parts: Sequence[tuple[Any, Graph]], n: int) -> sp.csr_matrix:
    """Return similarities (n, n) of cells and their neighbours, those of all parts in one.

    Parameters
    ----------
    parts
        Which of the n cells, and their graph.
    n
        Number of all cells.
    """
    import scipy.sparse as sp

    rows, columns, values = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0, np.float32)]
    for cells, graph in parts:
        own = np.arange(n)[cells]
        rows.append(np.repeat(own, graph.indices.shape[1]))
        columns.append(own[graph.indices].ravel())
        values.append(graph.similarity.ravel())
    row, column, value = (np.concatenate(x) for x in (rows, columns, values))
    return sp.csr_matrix((value, (row, column)), shape=(n, n))


def _without_self(indices: Array, similarity: Array) -> tuple[Array, Array]:
    """Drop the cell itself from each row, or the last column where it is not listed."""
    n, width = indices.shape
    own = indices == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True
    keep = ~own
    return indices[keep].reshape(n, width - 1), similarity[keep].reshape(n, width - 1)
