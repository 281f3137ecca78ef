"""Numbers of many cells that stay on disk, and are read by slices of rows where they are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scbignn_infer._types import Array


class Rows(ABC):
    """Numbers (n, k), in place of an array: what was read last is held, and nothing else."""

    shape: tuple[int, int]
    dtype: Any
    _last: tuple[slice, Array] | None = None

    @abstractmethod
    def _read(self, start: int, stop: int) -> Array:
        """Return rows from ``start`` to before ``stop``."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """Return some rows, which are not to be changed."""
        if self._last is None or self._last[0] != rows:
            start, stop, _ = rows.indices(len(self))
            self._last = rows, self._read(start, max(start, stop))
        return self._last[1]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        """Return all rows in memory."""
        return np.array(self._read(0, len(self)), dtype)

    @property
    def columns(self) -> list[ColumnOfRows]:
        """The columns, of which slices are read, too."""
        return [ColumnOfRows(self, number) for number in range(self.shape[1])]


@dataclass(frozen=True)
class ColumnOfRows:
    """A column (n,) of numbers that stay on disk."""

    rows: Rows
    number: int

    @property
    def dtype(self) -> Any:
        """Type of the numbers."""
        return self.rows.dtype

    def __getitem__(self, rows: slice) -> Array:
        """Return some of the numbers."""
        values: Array = self.rows[rows][:, self.number]
        return values


class PartedRows(Rows):
    """Rows that lie in parts, one under the other; ``ends`` are the rows before which these end."""

    def __init__(self, read: Callable[[int], Array], ends: Array) -> None:
        self._read_part, self._ends = read, ends
        self._part: tuple[int, Array] = 0, read(0)
        self.shape, self.dtype = (int(ends[-1]), self._part[1].shape[1]), self._part[1].dtype

    def _read(self, start: int, stop: int) -> Array:
        found = np.empty((stop - start, self.shape[1]), self.dtype)
        at = start
        while at < stop:
            number = int(np.searchsorted(self._ends, at, side="right"))
            first, last = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
            if self._part[0] != number:
                self._part = number, self._read_part(number)
            end = min(stop, last)
            found[at - start : end - start] = self._part[1][at - first : end - first]
            at = end
        return found


class SpreadRows(Rows):
    """Rows of some cells (m,), by ascending numbers, among all n; those of the others are 0."""

    def __init__(self, rows: Rows, cells: Array, n: int) -> None:
        self._rows, self._cells = rows, cells
        self.shape, self.dtype = (n, rows.shape[1]), rows.dtype

    def _read(self, start: int, stop: int) -> Array:
        found = np.zeros((stop - start, self.shape[1]), self.dtype)
        first, last = np.searchsorted(self._cells, [start, stop])
        found[self._cells[first:last] - start] = self._rows[first:last]
        return found


def slices(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most ``size`` rows that make up n."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
