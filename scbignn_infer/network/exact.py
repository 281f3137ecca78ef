"""Exact search, in onnxruntime: every similarity is computed, so no neighbour is missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.network.parallel import in_order
from scbignn_infer.network.sessions import search_session

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.network.sessions import Runtime

NAME = "exact"
START_BYTES = CELL_BYTES = 0
"""Beside the neighbours themselves it holds what each worker holds."""
SECONDS_A_PRODUCT = 4e-11
"""Of one thread, for one dimension of one pair of cells."""
BLOCK_VALUES = 1 << 23
"""Similarities that a worker holds at once (32 MiB of float32)."""
MAX_BLOCK = 256
GROUP = 32
"""Columns of which ``knn.onnx`` takes the largest before it looks at each."""
NO_CELL = -4.0
"""Similarity of the columns that fill the last group, below that of any two cells."""


def nearest(embedding: Array, k: int, *, runtime: Runtime, seed: int) -> tuple[Array, Array]:
    """Find the ``k`` rows most similar to each row, itself among them."""
    unit = unit_rows(embedding)
    return ExactSearch(unit, runtime).nearest(unit, k)


def prepare(size: int, *, runtime: Runtime) -> None:
    """Do nothing: nothing is compiled."""


def seconds(n_cells: int, size: int) -> float:
    """Return what a thread takes for so many cells of so many dimensions."""
    return SECONDS_A_PRODUCT * n_cells**2 * size


def unit_rows(embedding: Array) -> Array:
    """Return the rows scaled to length 1, as float32; zero rows stay zero."""
    norm = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.maximum(norm, 1e-12), np.float32)


def empty_columns(m: int, size: int) -> Array:
    """Return room (size + 1, m or more) for a bank (m, size), its rows as the first columns."""
    columns = np.zeros((size + 1, m + -m % GROUP), np.float32)
    columns[-1, m:] = NO_CELL  # met by the 1 at the end of each query
    return columns


class ExactSearch:
    """Exact cosine search of a bank (m, d), with rows of length 1, in onnxruntime, on CPU or GPU.

    The k nearest lie in the k groups of columns whose largest similarities are largest, so only
    these groups are looked at column by column. Equal similarities come in the bank's order.
    """

    def __init__(self, bank: Array, runtime: Runtime) -> None:
        columns = empty_columns(len(bank), bank.shape[1])
        columns[:-1, : len(bank)] = bank.T
        self._lay_out(columns, runtime, BLOCK_VALUES)

    @classmethod
    def of_columns(cls, columns: Array, runtime: Runtime, held: int) -> ExactSearch:
        """Return the search of a bank that fills :func:`empty_columns`.

        A worker holds ``held`` similarities at once.
        """
        search = cls.__new__(cls)
        search._lay_out(columns, runtime, held)
        return search

    def _lay_out(self, columns: Array, runtime: Runtime, held: int) -> None:
        self.width = columns.shape[1]
        """Rows of the bank and those that fill its last group: a query is compared with all."""
        self._groups = self.width // GROUP
        self._block = max(1, min(MAX_BLOCK, held // self.width))
        self._workers = runtime.workers
        self._run = search_session(runtime).holding(bank=columns)

    def nearest(self, queries: Array, k: int) -> tuple[Array, Array]:
        """Find the ``k`` bank rows, at most m, most similar to each query (n, d) of length 1.

        Returns indices and similarities (n, k), int32 and float32, most similar first.
        """
        n, block = len(queries), self._block
        size, groups = np.array([k], np.int64), np.array([min(k, self._groups)], np.int64)

        def run(start: int) -> tuple[Array, ...]:
            rows = queries[start : start + block]
            rows = np.column_stack([rows, np.ones(len(rows), np.float32)])
            return self._run(queries=rows, k=size, groups=groups)

        indices = np.empty((n, k), np.int32)
        similarity = np.empty((n, k), np.float32)
        starts = range(0, n, block)
        found = in_order(run, starts, workers=self._workers)
        for i, (best, where) in zip(starts, found, strict=True):
            similarity[i : i + block], indices[i : i + block] = best, where
        return indices, similarity
