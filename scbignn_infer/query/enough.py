"""Barcodes with enough counts: the others are left out before anything is learned of the cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.gene_match import genes_only
from scbignn_infer.query.matrices import choose_matrix
from scbignn_infer.query.readers import INDEX
from scbignn_infer.query.reading import judge_matrices

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scbignn_infer._types import Array
    from scbignn_infer.query.matrices import Verdict
    from scbignn_infer.query.readers import Query
    from scbignn_infer.settings import Reading

READ_CELLS = 4096
"""Barcodes that are read at once."""


class LeftOut(msgspec.Struct, frozen=True):
    """How many barcodes were left out, since they have fewer counts than asked for in a matrix."""

    cells: int = 0
    min_counts: int = 0
    matrix: str = ""

    @property
    def said(self) -> str:
        """The same in words."""
        if not self.min_counts:
            return f"{self.cells:,} barcodes with too few counts"
        return (
            f"{self.cells:,} barcodes with fewer than {self.min_counts:,} counts in {self.matrix}"
        )


class SomeCells:
    """Those cells of a query that are not left out; ``cells`` (m,) are their numbers, ascending."""

    def __init__(self, query: Query, cells: Array, left_out: LeftOut) -> None:
        self.name, self.n_cells, self.n_all = query.name, len(cells), query.n_cells
        self.cells, self.left_out = cells, left_out
        self.notes = list(getattr(query, "notes", ()))
        self.stored_as = getattr(query, "stored_as", str)
        self._query = query

    def spread(self, values: Array) -> Array:
        """Return values (m, ...) of these cells among all (n, ...); those of the rest are 0."""
        whole = np.zeros((self.n_all, *values.shape[1:]), values.dtype)
        whole[self.cells] = values
        return whole

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""
        names = self._query.cell_names()
        return [names[i] for i in self.cells]

    def name_blocks(self) -> Iterator[list[str]]:
        """Yield the names of the cells in order, some at a time where the file allows it."""
        start = 0
        for names in self._query.name_blocks():
            first, last = np.searchsorted(self.cells, [start, start + len(names)])
            yield [names[i] for i in self.cells[first:last] - start]
            start += len(names)

    def obs_column(self, key: str) -> list[str]:
        """Return a column of ``obs`` as strings."""
        values = self._query.obs_column(key)
        return [values[i] for i in self.cells]

    def matrices(self) -> list[str]:
        """Name the candidate matrices."""
        return self._query.matrices()

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the names of the genes."""
        return self._query.gene_columns(matrix)

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        return self._query.rows(matrix, self.cells[indices])

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        held: list[sp.csr_matrix] = []
        start = n = 0
        for block in self._query.blocks(matrix, max(size, READ_CELLS)):
            first, last = np.searchsorted(self.cells, [start, start + block.shape[0]])
            chosen = self.cells[first:last] - start
            start += block.shape[0]
            held, n = [*held, block[chosen]], n + len(chosen)
            while n >= size:
                rows = sp.vstack(held, format="csr")
                yield sp.csr_matrix(rows[:size])
                held, n = [rows[size:]], n - size
        if n:
            yield sp.csr_matrix(sp.vstack(held, format="csr"))


def enough(query: Query, reading: Reading) -> Query:
    """Return the cells that have as many counts as are asked for: all of them if nothing is asked.

    An InputError says that the query holds no counts, or that no cell has so many.
    """
    least = reading.min_counts
    if least is None or isinstance(query, SomeCells):
        return query
    if least < 1:
        raise InputError(
            f"barcodes with fewer than {least:,} counts are to be left out",
            expected="1 count or more",
            do="change --min-counts (min_counts)",
        )
    verdicts = judge_matrices(query)
    matrix = _matrix_of_counts(query, verdicts, reading)
    totals = _totals(query, matrix, verdicts[matrix])
    cells = np.flatnonzero(~(totals < least))  # what is no number is refused where it is read
    if not len(cells):
        raise InputError(
            f"no barcode of {query.name} has {least:,} counts in {matrix}; the most that one has "
            f"is {totals.max():,.0f}",
            expected="cells with so many counts",
            do="lower --min-counts (min_counts)",
        )
    left_out = LeftOut(query.n_cells - len(cells), least, matrix.replace("/", ":"))
    return SomeCells(query, cells, left_out)


def _matrix_of_counts(query: Query, verdicts: Mapping[str, Verdict], reading: Reading) -> str:
    """Return the matrix that tells how many counts a cell has: the one wished for, if it does."""
    counted = {name: v for name, v in verdicts.items() if v.counted and v.usable}
    if not counted:
        said = "; ".join(f"{name} is {v.state} ({v.reason})" for name, v in verdicts.items())
        raise InputError(
            f"barcodes with few counts are to be left out, and {query.name} holds no counts: "
            f"{said or 'no matrix'}",
            expected="counts, or logarithms of counts that were not scaled, in X, raw or a layer",
            do="leave out --min-counts (min_counts), or store the raw counts as layers['counts']",
        )
    if reading.matrix in counted:
        return str(reading.matrix)
    n_genes = {name: len(query.gene_columns(name)[INDEX]) for name in counted}
    return choose_matrix(counted, n_genes=n_genes)


def _totals(query: Query, matrix: str, verdict: Verdict) -> Array:
    """Return the counts (n,) of each cell on features that are genes."""
    mask, _ = genes_only(query.gene_columns(matrix))
    found = np.zeros(query.n_cells)
    start = 0
    for block in query.blocks(matrix, READ_CELLS):
        values = block.data
        if verdict.state != "counts":
            values = np.expm1(values.astype(np.float64) * math.log(verdict.base))
        linear = sp.csr_matrix((values, block.indices, block.indptr), shape=block.shape)
        genes = np.ones(block.shape[1]) if mask is None else mask.astype(np.float64)
        sums = linear @ genes
        if verdict.state != "counts":
            sums = np.rint(sums)  # whole before the logarithm
        found[start : start + len(sums)] = sums
        start += len(sums)
    return found
