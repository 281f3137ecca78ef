"""Approximate search, by pynndescent; its only importer."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.network.exact import BLOCK_VALUES, ExactSearch, unit_rows
from scbignn_infer.network.sessions import Runtime

if TYPE_CHECKING:
    from scbignn_infer._types import Array

NAME = "pynndescent"
START_BYTES, CELL_BYTES = 540_000_000, 860
"""What numba and pynndescent hold at once, and for a cell beside its embedding and neighbours."""
SECONDS_A_DESCENT = 1.5e-4
"""Of one thread, for one cell."""
COMPILE_SECONDS = 50.0
WIDER = 1.5
"""Neighbours that pynndescent keeps for each that is asked for: it then misses fewer of them."""
CANDIDATES = 60
"""Neighbours of neighbours that pynndescent tries a cell and round, more than by default."""
TREES = 6
"""Random projection trees that pynndescent starts from: half of its own number at a million cells,
which saves memory where it peaks and, with so many candidates, costs no recall."""
COMPILE_BYTES = 3 << 19
"""Points that are used to compile pynndescent, some of whose functions take over beyond 1 MiB."""

_numba = threading.Lock()
"""Held while numba works: two callers that meet in its work queue abort the process."""


def nearest(embedding: Array, k: int, *, runtime: Runtime, seed: int) -> tuple[Array, Array]:
    """Find about the ``k`` rows most similar to each row, itself among them."""
    embedding = np.ascontiguousarray(embedding, np.float32)
    indices = _approximate(embedding, k, runtime.threads, seed)
    return indices, _similarity(embedding, indices)


def prepare(size: int, *, runtime: Runtime) -> None:
    """Compile pynndescent in the background; :func:`nearest` waits for it."""

    def compile_() -> None:
        rows = COMPILE_BYTES // (4 * size)
        points = np.random.default_rng(0).standard_normal((rows, size), np.float32)
        with suppress(Exception):  # what is wrong is said when the graph is built
            _descend(points, 16, runtime.threads, 0)

    threading.Thread(target=compile_, name="scbignn-compile", daemon=True).start()


def seconds(n_cells: int, size: int) -> float:
    """Return what a thread takes for so many cells, with the compilation."""
    return SECONDS_A_DESCENT * n_cells + COMPILE_SECONDS


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
        exact, _ = ExactSearch(unit, Runtime("cpu", 0, threads)).nearest(unit[repair], k)
        indices[repair] = exact
    return np.asarray(indices, np.int32)


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
