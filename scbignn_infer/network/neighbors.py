"""The kNN graph of the cells: its searches, one of which is chosen by name or number of cells."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scbignn_infer.errors import InputError
from scbignn_infer.network import descent, exact, ivf

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from scbignn_infer._types import Array
    from scbignn_infer.network.sessions import Runtime

EXACT_MAX_CELLS = 20_000
"""Up to here exact search is taken: it finds every neighbour, and hardly takes longer."""
AUTO = "auto"
"""Asks for the search that is fastest for the number of cells, of those that find nearly all."""


class Search(Protocol):
    """A way to find the neighbours of cells among themselves: a module with these names."""

    NAME: str
    """What the record of a run calls it."""
    START_BYTES: int
    """What it holds at once."""
    CELL_BYTES: int
    """What it holds for a cell beside its embedding and neighbours."""

    def nearest(
        self, embedding: Array, k: int, *, runtime: Runtime, seed: int
    ) -> tuple[Array, Array]:
        """Return rows and cosine similarities (n, k), most similar first, a cell itself, too."""

    def prepare(self, size: int, *, runtime: Runtime) -> None:
        """Get ready for embeddings of a size, in the background."""

    def seconds(self, n_cells: int, size: int) -> float:
        """Return about what a thread takes for so many cells of so many dimensions."""


SEARCHES: tuple[tuple[int, Search], ...] = (
    (EXACT_MAX_CELLS, exact),
    (sys.maxsize, ivf),
    (0, descent),
)
"""Each search, and the most cells for which :data:`AUTO` takes it, before those below."""


def search_for(n_cells: int, name: str = AUTO) -> Search:
    """Return a search by its name, by default that for a number of cells.

    An InputError says that there is none.
    """
    if name == AUTO:
        return next(search for most, search in SEARCHES if n_cells <= most)
    for _, search in SEARCHES:
        if name == search.NAME:
            return search
    raise InputError(
        f"neighbors '{name}'",
        expected=" or ".join([AUTO, *(search.NAME for _, search in SEARCHES)]),
        do="choose one of these",
    )


@dataclass(frozen=True)
class Graph:
    """The neighbours of n cells among themselves."""

    indices: Array
    """(n, k) int32, most similar first."""
    similarity: Array
    """(n, k) float32."""
    builder: str
    """What found them: the name of a search, or ``reference``."""
    reach: Array
    """(m,) similarity of the farthest neighbour of each cell that may be a neighbour."""
    alone: bool = False
    """Whether a cell is its own neighbour, since there is no other."""

    @property
    def within(self) -> Array:
        """Which neighbours (n, k) are of the n cells themselves."""
        return self.indices

    def state(self, probabilities: Array) -> Array:
        """Return those (m, c) of the cells that may be neighbours, given the cells' own (n, c)."""
        return probabilities

    def codes(self, labels: Array, group: Array) -> Array:
        """Return the labels (n, k) of the neighbours, ``labels`` (n,) being the cells'."""
        codes: Array = labels[self.indices]
        return codes


def build_graph(
    embedding: Array,
    n_neighbors: int,
    *,
    runtime: Runtime,
    seed: int = 0,
    search: Search | None = None,
) -> Graph:
    """Build the cosine kNN graph of the cells of an embedding (n_cells, d).

    A cell has ``n_neighbors``, itself not counted, or ``n_cells - 1`` if that is less. A lone cell
    becomes its own neighbour, so that the graph always has one column. Exact search needs no seed.
    By default :func:`search_for` the number of cells finds them.
    """
    n = len(embedding)
    search = search or search_for(n)
    if n == 1:
        one = np.ones((1, 1), np.float32)
        return Graph(np.zeros((1, 1), np.int32), one, search.NAME, one[0], alone=True)
    nearest = search.nearest(embedding, min(n_neighbors, n - 1) + 1, runtime=runtime, seed=seed)
    indices, similarity = _without_self(*nearest)
    return Graph(indices, similarity, search.NAME, similarity.min(axis=1))


def with_counts(batches: list[Array], empty: Array) -> list[Any]:
    """Return the cells that make a graph together, without empty ones."""
    if not batches and not empty.any():
        return [slice(None)]  # a slice takes no copy, here where the memory peaks
    kept = [cells[~empty[cells]] for cells in batches or [np.arange(len(empty))]]
    return [cells for cells in kept if len(cells)]


def join_graphs(parts: Sequence[tuple[Any, Graph]], n: int) -> sp.csr_matrix:
    """Return similarities (n, n) of n cells and their neighbours, those of all parts in one."""
    import scipy.sparse as sp

    rows, columns, values = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0, np.float32)]
    for cells, graph in parts:
        numbers = np.arange(n)[cells]
        rows.append(np.repeat(numbers, graph.indices.shape[1]))
        columns.append(numbers[graph.indices].ravel())
        values.append(graph.similarity.ravel())
    row, column, value = (np.concatenate(x) for x in (rows, columns, values))
    return sp.csr_matrix((value, (row, column)), shape=(n, n))


def _without_self(indices: Array, similarity: Array) -> tuple[Array, Array]:
    """Drop the cell itself from each row, or the last column where it is not listed."""
    n, width = indices.shape
    itself = indices == np.arange(n, dtype=np.int32)[:, None]
    itself[~itself.any(axis=1), -1] = True
    keep = ~itself
    return indices[keep].reshape(n, width - 1), similarity[keep].reshape(n, width - 1)
