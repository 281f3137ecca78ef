"""Sparse rows of cells, and the blocks in which they turn dense: never all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from scbignn_infer.network.panel import TARGET_SUM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from scbignn_training.gaps import Gaps

Array = np.ndarray[Any, Any]
BLOCK_CELLS = 2048


def slices(n: int, size: int = BLOCK_CELLS) -> Iterator[slice]:
    """Yield the consecutive slices of ``n`` rows."""
    for i in range(0, n, size):
        yield slice(i, min(i + size, n))


def dense(rows: sp.csr_matrix) -> Tensor:
    """Return rows as a float32 tensor, in memory that torch has aligned, so that sums repeat."""
    tensor = torch.empty(rows.shape, dtype=torch.float32)
    rows.astype(np.float32, copy=False).toarray(out=tensor.numpy())
    return tensor


def with_values(rows: sp.csr_matrix, values: Array) -> sp.csr_matrix:
    """Return other values at the same places; indices are shared."""
    return sp.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)


def stored(rows: sp.csr_matrix, part: slice) -> slice:
    """Return where the elements of a slice of rows are stored."""
    return slice(int(rows.indptr[part.start]), int(rows.indptr[part.stop]))


def row_of_each(rows: sp.csr_matrix, by_row: Array) -> Array:
    """Return the row's value for each stored element."""
    return np.repeat(by_row, np.diff(rows.indptr))


def log_expression(counts: sp.csr_matrix, totals: Array) -> sp.csr_matrix:
    """Return log1p(10,000 * counts / totals) as float32; (n, g) and (n,)."""
    factor = TARGET_SUM / np.maximum(totals, 1.0)
    values = np.empty(len(counts.data), np.float32)
    for rows in slices(counts.shape[0]):
        here = stored(counts, rows)
        each = np.repeat(factor[rows], np.diff(counts.indptr[rows.start : rows.stop + 1]))
        values[here] = np.log1p(counts.data[here] * each, dtype=np.float32)
    return with_values(counts, values)


def column_mean(rows: sp.csr_matrix, of: Callable[[Array], Array] = lambda values: values) -> Array:
    """Return the (g,) float64 means over all rows of a function that is 0 at 0."""
    n, g = rows.shape
    total = np.zeros(g)
    for part in slices(n):
        here = stored(rows, part)
        values = of(rows.data[here].astype(np.float64))
        total += np.bincount(rows.indices[here], values, minlength=g)
    return total / n


def moments(rows: sp.csr_matrix, gaps: Gaps | None = None) -> tuple[Array, Array]:
    """Return the (g,) float64 means and variances over all rows for which a gene was measured."""
    mean, square = column_mean(rows), column_mean(rows, np.square)
    if gaps is not None:
        share = rows.shape[0] / np.maximum(gaps.cells_per_gene, 1)
        mean, square = mean * share, square * share
    return mean, np.maximum(square - mean**2, 0)
