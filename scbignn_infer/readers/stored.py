"""Rows of sparse matrices on disk: stored by rows, or by columns and read in bounded passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

Array = np.ndarray[Any, Any]
HELD_VALUES = 1 << 24
"""Stored values that are held by rows at once (about 270 MB while they are turned)."""
READ_VALUES = 1 << 20
"""Stored values that are read at once."""


class RowStored:
    """A CSR group of a file, indexed by rows.

    Parameters
    ----------
    group
        With the datasets ``data``, ``indices`` and ``indptr``.
    shape
        Rows and columns.

    Raises
    ------
    ValueError
        Its parts do not fit each other.
    """

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._data, self._indices = group["data"], group["indices"]
        self._indptr = pointers(group, shape[0])

    def __getitem__(self, rows: slice | Array) -> sp.csr_matrix:
        """Return rows by a slice, or by an ascending array of row numbers."""
        if not isinstance(rows, slice):
            parts = [self[i : i + 1] for i in map(int, rows)]
            return sp.csr_matrix(sp.vstack(parts)) if parts else self[:0]
        start, stop, _ = rows.indices(self.shape[0])
        ends = self._indptr[start : max(start, stop) + 1]
        stored = slice(int(ends[0]), int(ends[-1]))
        values, indices = numbers(self._data[stored]), self._indices[stored]
        return sp.csr_matrix(
            (values, indices, ends - ends[0]), shape=(len(ends) - 1, self.shape[1])
        )


def pointers(group: Any, n: int) -> Array:
    """Return the ``indptr`` of a sparse group with ``n`` rows or columns, if its parts fit."""
    indptr = np.asarray(group["indptr"][:], np.int64)
    if len(indptr) != n + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise ValueError(f"its {len(indptr)} pointers are not those of {n} rows or columns")
    for part in ("data", "indices"):
        if group[part].shape != (indptr[-1],):
            shape = tuple(map(int, group[part].shape))
            raise ValueError(f"its {part} has the shape {shape} and not ({indptr[-1]},)")
    return indptr


def numbers(values: Array) -> Array:
    """Return values in a type that scipy's sparse matrices have."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"its values are of type {values.dtype}")
    if values.dtype == np.float16 or values.dtype.kind == "b":
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


class ColumnStored:
    """A CSC group of an HDF5 file, indexed by rows as a backed CSR matrix is.

    Rows of CSC are scattered over the whole file, so that a pass over all of it is needed for any.
    Rows are served from a *stretch* of them that is as long as :data:`HELD_VALUES` allows: reading
    all in order takes as many passes as there are stretches, one where all rows fit.

    Parameters
    ----------
    group
        With the datasets ``data``, ``indices`` and ``indptr``.
    shape
        Rows and columns.
    """

    format = "csc"

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._data, self._indices = group["data"], group["indices"]
        self._indptr = pointers(group, shape[1])
        values_a_row = max(int(self._indptr[-1]) / max(shape[0], 1), 1)
        self._length = max(int(HELD_VALUES / values_a_row), 1)
        self._start, self._stretch = 0, sp.csr_matrix((0, shape[1]))

    def __getitem__(self, rows: slice | Array) -> sp.csr_matrix:
        """Return rows by a slice, or by an ascending array of row numbers."""
        if not isinstance(rows, slice):
            fits = self._length >= self.shape[0]
            return self[:][rows] if fits else self._read(rows)
        start, stop, _ = rows.indices(self.shape[0])
        parts: list[sp.csr_matrix] = []
        while start < stop or not parts:
            if not self._start <= start < self._start + self._stretch.shape[0]:
                self._stretch = sp.csr_matrix((0, self.shape[1]))  # let go before the next
                last = min(start + self._length, self.shape[0])
                self._start, self._stretch = start, self._read(np.arange(start, last))
            end = min(stop, self._start + self._stretch.shape[0])
            parts.append(self._stretch[start - self._start : end - self._start])
            start = end
        return parts[0] if len(parts) == 1 else sp.csr_matrix(sp.vstack(parts))

    def _read(self, rows: Array) -> sp.csr_matrix:
        """Return rows in one pass over the file."""
        place = np.full(self.shape[0], -1, np.int32)
        place[rows] = np.arange(len(rows))
        values, places, ends = [], [], [np.zeros(1, np.int64)]
        first = 0
        while first < self.shape[1]:
            begin = self._indptr[first]
            fits = np.searchsorted(self._indptr, begin + READ_VALUES, side="right") - 1
            last = max(int(fits), first + 1)
            stored = self._indices[begin : self._indptr[last]]
            if len(stored) and stored.min() < 0:
                raise ValueError(f"a row index of {stored.min()}")
            found = place[stored]
            wanted = found >= 0
            values.append(numbers(self._data[begin : self._indptr[last]])[wanted])
            places.append(found[wanted])
            taken = np.concatenate([[0], np.cumsum(wanted)])
            ends.append(ends[-1][-1] + taken[self._indptr[first + 1 : last + 1] - begin])
            first = last
        shape = (len(rows), self.shape[1])
        columns = (np.concatenate(values), np.concatenate(places), np.concatenate(ends))
        return sp.csr_matrix(sp.csc_matrix(columns, shape=shape))
