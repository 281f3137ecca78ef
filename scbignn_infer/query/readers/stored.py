"""Rows of sparse matrices on disk: stored by rows, or by columns and read in bounded passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from scbignn_infer._types import Array

HELD_VALUES = 1 << 24
"""Stored values that are held by rows at once (about 270 MB while they are turned)."""
READ_VALUES = 1 << 20
"""Stored values that are read at once."""
GAP_VALUES = 1 << 12
"""Stored values between two rows that are read with them, since a read of its own takes longer; or
those of a chunk, which is unpacked as a whole."""
SMALL_CHUNK = 1 << 20
"""Bytes of a chunk that is unpacked anew each time; HDF5 holds as much itself."""
VALUES_A_PLACE = 8
"""Stored values for each place of a row or column; they are summed where there are several."""


class Stretches:
    """A column of values on disk, of which the chunks that were read last are held.

    A chunk is unpacked as a whole, however few of its values are wanted: rows that are read one
    after the other would unpack it again and again.
    """

    def __init__(self, values: Any) -> None:
        self._values = values
        self.chunk: int = (values.chunks or (1,))[0]
        self._start, self._held = 0, np.empty(0, values.dtype)

    def __getitem__(self, stored: slice) -> Array:
        """Return the values from one place up to another."""
        start, stop = stored.start, stored.stop
        if self.chunk * self._values.dtype.itemsize <= SMALL_CHUNK:
            return np.asarray(self._values[start:stop])
        if not self._start <= start <= stop <= self._start + len(self._held):
            self._held = np.empty(0, self._values.dtype)  # let go before the next
            self._start = start // self.chunk * self.chunk
            end = -(-stop // self.chunk) * self.chunk
            self._held = np.asarray(self._values[self._start : end])
        return self._held[start - self._start : stop - self._start].copy()  # may be changed


class RowStored:
    """A CSR group of a file, indexed by rows; its parts must fit each other."""

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._indptr = pointers(group, *shape)
        self._data, self._indices = Stretches(group["data"]), Stretches(group["indices"])

    def __getitem__(self, rows: slice | Array) -> sp.csr_matrix:
        """Return rows by a slice, or by an ascending array of row numbers."""
        if not isinstance(rows, slice):
            parts = [self[int(run[0]) : int(run[-1]) + 1][run - run[0]] for run in self._runs(rows)]
            return sp.csr_matrix(sp.vstack(parts)) if parts else self[:0]
        start, stop, _ = rows.indices(self.shape[0])
        ends = self._indptr[start : max(start, stop) + 1]
        stored = slice(int(ends[0]), int(ends[-1]))
        values, indices = numbers(self._data[stored]), self._indices[stored]
        refuse_indices(indices, self.shape[1], "column")
        return sp.csr_matrix(
            (values, indices, ends - ends[0]), shape=(len(ends) - 1, self.shape[1])
        )

    def _runs(self, rows: Array) -> list[Array]:
        """Divide ascending row numbers where it is worth a read of its own."""
        if not len(rows):
            return []
        first, last = self._indptr[rows], self._indptr[rows + 1]
        far = first[1:] - last[:-1] > max(GAP_VALUES, self._data.chunk)
        full = np.diff(first // READ_VALUES) > 0
        return np.split(rows, np.flatnonzero(far | full) + 1)


def pointers(group: Any, n: int, places: int) -> Array:
    """Return the ``indptr`` of a sparse group, if its parts fit.

    ``n`` are the rows of CSR or the columns of CSC, and each can have values in ``places``.
    """
    if group["indptr"].shape != (n + 1,):
        shape = tuple(map(int, group["indptr"].shape))
        raise ValueError(f"its pointers have the shape {shape} and not ({n + 1},)")
    indptr = np.asarray(group["indptr"][:], np.int64)
    lengths = np.diff(indptr)
    if indptr[0] != 0 or (lengths < 0).any():
        raise ValueError(f"its {len(indptr)} pointers are not those of {n} rows or columns")
    if lengths.max(initial=0) > VALUES_A_PLACE * max(places, 1):
        raise ValueError(f"{lengths.max()} values in a row or column of {places} places")
    for part in ("data", "indices"):
        if group[part].shape != (indptr[-1],):
            shape = tuple(map(int, group[part].shape))
            raise ValueError(f"its {part} has the shape {shape} and not ({indptr[-1]},)")
    return indptr


def refuse_indices(indices: Array, n: int, kind: str) -> None:
    """Raise if a stored index is none of ``n`` rows or columns."""
    if indices.dtype.kind not in "iu":
        raise ValueError(f"its indices are of type {indices.dtype}")
    for index in (indices.min(initial=0), indices.max(initial=0)):
        if index < 0 or index >= max(n, 1):
            raise ValueError(f"a {kind} index of {index}, with {n} {kind}s")


def numbers(values: Array) -> Array:
    """Return values in a type that scipy's sparse matrices have."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"its values are of type {values.dtype}")
    if values.dtype == np.float16 or values.dtype.kind == "b":
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


class ColumnStored:
    """A CSC group of a file, indexed by rows as a CSR matrix is.

    Rows of CSC are scattered over the whole file, so that a pass over all of it is needed for any.
    Rows are served from a *stretch* of them that is as long as :data:`HELD_VALUES` allows: reading
    all in order takes as many passes as there are stretches, one where all rows fit.
    """

    format = "csc"

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._indptr = pointers(group, *shape[::-1])
        self._data, self._indices = Stretches(group["data"]), Stretches(group["indices"])
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
            refuse_indices(stored, self.shape[0], "row")
            rows_of = place[stored]
            wanted = rows_of >= 0
            values.append(numbers(self._data[begin : self._indptr[last]])[wanted])
            places.append(rows_of[wanted])
            taken = np.concatenate([[0], np.cumsum(wanted)])
            ends.append(ends[-1][-1] + taken[self._indptr[first + 1 : last + 1] - begin])
            first = last
        shape = (len(rows), self.shape[1])
        columns = (np.concatenate(values), np.concatenate(places), np.concatenate(ends))
        return sp.csr_matrix(sp.csc_matrix(columns, shape=shape))
