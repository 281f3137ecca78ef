"""The kNN graph of the cells; the only importer of pynndescent."""

from __future__ import annotations

import threading
from contextlib import suppress
from importlib.resources import files
from typing import Any

import numpy as np

from scbignn_infer.network.parallel import in_order
from scbignn_infer.network.sessions import Runtime, Session

Array = np.ndarray[Any, Any]
EXACT_MAX_CELLS = 100_000
"""Up to here exact search is used: it costs no compilation and finds every neighbour."""
BLOCK_VALUES = 1 << 23
"""Similarities that a worker of exact search holds at once (32 MiB of float32)."""
MAX_BLOCK = 256
GROUP = 32
"""Columns of which ``knn.onnx`` takes the largest before it looks at each."""
WIDER = 1.5
"""Neighbours that pynndescent keeps for each that is asked for: it then misses fewer of them."""
CANDIDATES = 60
"""Neighbours of neighbours that pynndescent tries a cell and round, more than by default."""
TREES = 6
"""Random projection trees that pynndescent starts from: half of its own number at a million cells,
which saves memory where it peaks and, with so many candidates, costs no recall."""
COMPILE_BYTES = 3 << 19
"""Points that are used to compile pynndescent, some of whose functions take over beyond 1 MiB."""
NO_CELL = -4.0
"""Similarity of the columns that fill the last group, below that of any two cells."""

_numba = threading.Lock()
"""Held while numba works: two callers that meet in its work queue abort the process."""


def unit_rows(embedding: Array) -> Array:
    """Return the rows scaled to length 1, as float32; zero rows stay zero."""
    norm = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.maximum(norm, 1e-12), np.float32)


class ExactSearch:
    """Exact cosine search in onnxruntime, on CPU or GPU.

    The k nearest lie in the k groups of columns whose largest similarities are largest, so only
    these groups are looked at column by column. Equal similarities come in the bank's order.

    Parameters
    ----------
    runtime
        Where to run it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._workers = runtime.workers
        self._session = Session(files("scbignn_infer").joinpath("knn.onnx").read_bytes(), runtime)

    def search(self, queries: Array, bank: Array, k: int) -> tuple[Array, Array]:
        """Find the ``k`` bank rows most similar to each query.

        Parameters
        ----------
        queries, bank
            (n, d) and (m, d) rows of length 1.
        k
            At most m.

        Returns
        -------
        indices, similarity
            (n, k) int64 and float32, most similar first.
        """
        n, m = len(queries), len(bank)
        block = max(1, min(MAX_BLOCK, BLOCK_VALUES // m))
        columns = np.zeros((bank.shape[1] + 1, m + -m % GROUP), np.float32)
        columns[:-1, :m] = bank.T
        columns[-1, m:] = NO_CELL  # met by the 1 at the end of each query
        size = np.array([k], np.int64)
        groups = np.minimum(size, columns.shape[1] // GROUP)

        run = self._session.holding(bank=columns, k=size, groups=groups)

        def nearest(start: int) -> tuple[Array, ...]:
            rows = queries[start : start + block]
            return run(queries=np.column_stack([rows, np.ones(len(rows), np.float32)]))

        indices = np.empty((n, k), np.int64)
        similarity = np.empty((n, k), np.float32)
        starts = range(0, n, block)
        found = in_order(nearest, starts, workers=self._workers)
        for i, (best, where) in zip(starts, found, strict=True):
            similarity[i : i + block], indices[i : i + block] = best, where
        return indices, similarity


def build_graph(
    embedding: Array,
    n_neighbors: int,
    *,
    runtime: Runtime,
    seed: int = 0,
    exact_max_cells: int = EXACT_MAX_CELLS,
) -> tuple[Array, Array, str]:
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
        Of pynndescent; exact search needs none.
    exact_max_cells
        Above it pynndescent searches approximately.

    Returns
    -------
    neighbor_indices, neighbor_similarity, builder
        (n_cells, k) int64; (n_cells, k) float32 cosine similarity, most similar first; and
        ``exact`` or ``pynndescent``.
    """
    n = len(embedding)
    if n == 1:
        return np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32), "exact"
    k = min(n_neighbors, n - 1)
    if n <= exact_max_cells:
        unit = unit_rows(embedding)
        indices, similarity = ExactSearch(runtime).search(unit, unit, k + 1)
        builder = "exact"
    else:
        embedding = np.ascontiguousarray(embedding, np.float32)
        indices = _approximate(embedding, k + 1, runtime.threads, seed)
        similarity = _similarity(embedding, indices)
        builder = "pynndescent"
    return *_without_self(indices, similarity), builder


def compile_ahead(
    n_cells: int, size: int, *, runtime: Runtime, exact_max_cells: int = EXACT_MAX_CELLS
) -> None:
    """Compile pynndescent in the background if so many cells will need it; else do nothing.

    Parameters
    ----------
    n_cells, size
        Shape of the embedding that is to come.
    runtime, exact_max_cells
        As in :func:`build_graph`, which waits for the compilation where it is not through.
    """
    if n_cells <= exact_max_cells:
        return

    def compile_() -> None:
        rows = COMPILE_BYTES // (4 * size)
        points = np.random.default_rng(0).standard_normal((rows, size), np.float32)
        with suppress(Exception):  # what is wrong is said when the graph is built
            _descend(points, 16, runtime.threads, 0)

    threading.Thread(target=compile_, name="scbignn-compile", daemon=True).start()


def _descend(embedding: Array, k: int, threads: int, seed: int) -> Array:
    with _numba:
        from pynndescent import NNDescent

        indices, _ = NNDescent(
            embedding,  # of any length; a copy of length 1 would be what the memory peaks with
            metric="cosine",
            n_neighbors=min(int(k * WIDER), len(embedding)),
            n_trees=TREES,
            max_candidates=CANDIDATES,
            random_state=seed,
            n_jobs=threads,
        ).neighbor_graph
    return np.asarray(indices[:, :k])


def _approximate(embedding: Array, k: int, threads: int, seed: int) -> Array:
    indices = _descend(embedding, k, threads, seed)
    if (indices < 0).any():  # pynndescent marks a place it could not fill with -1
        repair = np.nonzero((indices < 0).any(axis=1))[0]
        unit = unit_rows(embedding)
        exact, _ = ExactSearch(Runtime("cpu", 0, threads)).search(unit[repair], unit, k)
        indices[repair] = exact
    return np.asarray(indices, np.int64)


def _similarity(embedding: Array, indices: Array) -> Array:
    """Cosine similarity of each row with its neighbours, in chunks that bound the gather."""
    length = np.maximum(np.linalg.norm(embedding, axis=1), 1e-12)
    similarity = np.empty(indices.shape, np.float32)
    step = max(1, BLOCK_VALUES // (indices.shape[1] * embedding.shape[1]))
    for i in range(0, len(embedding), step):
        rows = slice(i, i + step)
        near = indices[rows]
        products = np.einsum("nd,nkd->nk", embedding[rows], embedding[near])
        similarity[rows] = products / (length[rows, None] * length[near])
    return similarity


def _without_self(indices: Array, similarity: Array) -> tuple[Array, Array]:
    """Drop the cell itself from each row, or the last column where it is not listed."""
    n, width = indices.shape
    own = indices == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True
    keep = ~own
    return indices[keep].reshape(n, width - 1), similarity[keep].reshape(n, width - 1)
