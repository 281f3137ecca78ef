"""Rows of a matrix that is stored by columns (CSC), read in passes that bound the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    import h5py

Array = np.ndarray[Any, Any]
HELD_VALUES = 1 << 24
"""Stored values that are held by rows at once (about 270 MB while they are turned)."""
READ_VALUES = 1 << 20
"""Stored values that are read at once."""


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

    def __init__(self, group: h5py.Group, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._data, self._indices = group["data"], group["indices"]
        self._indptr = np.asarray(group["indptr"][:], np.int64)
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
            values.append(self._data[begin : self._indptr[last]][wanted])
            places.append(found[wanted])
            taken = np.concatenate([[0], np.cumsum(wanted)])
            ends.append(ends[-1][-1] + taken[self._indptr[first + 1 : last + 1] - begin])
            first = last
        shape = (len(rows), self.shape[1])
        columns = (np.concatenate(values), np.concatenate(places), np.concatenate(ends))
        return sp.csr_matrix(sp.csc_matrix(columns, shape=shape))
