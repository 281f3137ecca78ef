"""What every reader gives: cells with their matrices, gene names and annotations."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import nullcontext
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.layer_names import LAYERS, summands
from scbignn_infer.query.readers.columns import INDEX, column_of, no_column, string_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    import anndata as ad
    import pandas as pd

    from scbignn_infer._types import Array

RNA = ("rna", "gex", "gene expression", "gene_expression")
"""Names of the modality with genes, in lower case."""
READ_AHEAD = 16
"""Blocks of a range of rows that are read at once."""


class Query(Protocol):
    """Cells to label: one or more matrices over the same cells."""

    name: str
    n_cells: int

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""

    def name_blocks(self) -> Iterator[list[str]]:
        """Yield the names of the cells in order, some at a time where the file allows it."""

    def obs_column(self, key: str) -> list[str]:
        """Return an annotation of the cells as strings, missing values as empty ones."""

    def matrices(self) -> list[str]:
        """Name the candidate matrices, in order of preference among equals."""

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the string columns of the matrix's gene table, the index first."""

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""


class BaseQuery(ABC):
    """A query with a table of cells, tables of genes, and matrices that are read by rows.

    A subclass says where these are. Sums of layers, such as ``layers/a+b``, are made here.
    """

    name: str
    n_cells: int

    def _matrices(self) -> list[str]:
        """Name the matrices."""
        return ["X"]

    @abstractmethod
    def _obs(self) -> pd.DataFrame:
        """Return the annotations of the cells, by their names."""

    @abstractmethod
    def _var(self, matrix: str) -> pd.DataFrame:
        """Return the gene table of a matrix."""

    @abstractmethod
    def _read(self, matrix: str, cells: slice | Array) -> sp.csr_matrix:
        """Return the rows of a slice, or at ascending numbers."""

    def _blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        for i in range(0, self.n_cells, size):
            yield self._read(matrix, slice(i, i + size))

    def _cell_names(self) -> list[str]:
        return [str(c) for c in self._obs().index]

    def _obs_column(self, key: str) -> list[str]:
        return column_of(self._obs(), key, self.name)

    def _gene_columns(self, matrix: str) -> dict[str, list[str]]:
        return string_columns(self._var(matrix))

    def errors(self) -> AbstractContextManager[None]:
        """Return what surrounds all reading, to say in one line why it failed."""
        return nullcontext()

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""
        with self.errors():
            return self._cell_names()

    def _name_blocks(self) -> Iterator[list[str]]:
        yield self._cell_names()

    def name_blocks(self) -> Iterator[list[str]]:
        """Yield the names of the cells in order, some at a time where the file allows it."""
        with self.errors():
            yield from self._name_blocks()

    def obs_column(self, key: str) -> list[str]:
        """Return a column of ``obs`` as strings."""
        with self.errors():
            return self._obs_column(key)

    def obsm_widths(self) -> dict[str, int]:
        """Return how many columns each table of obsm has."""
        return {}

    def obsm(self, key: str) -> Array | None:
        """Return a table of numbers (n_cells, k) of obsm, or ``None`` where there is none."""
        return None

    def matrices(self) -> list[str]:
        """Name X, the layers and raw, as far as there are any."""
        with self.errors():
            return self._matrices()

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the index and the string columns of the matrix's gene table."""
        with self.errors():
            return self._gene_columns(matrix)

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        with self.errors():
            return _sum([self._read(part, indices) for part in self._summands(matrix)])

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        with self.errors():
            parts = [self._blocks(part, size) for part in self._summands(matrix)]
            yield from map(_sum, zip(*parts, strict=True))

    def _summands(self, matrix: str) -> list[str]:
        return summands(matrix, self._matrices()) if "+" in matrix else [matrix]


def _sum(parts: Sequence[sp.csr_matrix]) -> sp.csr_matrix:
    if len(parts) == 1:
        return parts[0]
    return sp.csr_matrix(reduce(add, [part.astype(np.float32) for part in parts]))


class MatrixQuery:
    """A matrix (n_cells, n_genes), sparse, dense or a dask array of either, with its gene names."""

    def __init__(self, matrix: Any, gene_names: Sequence[str]) -> None:
        if getattr(matrix, "ndim", 0) != 2 or not hasattr(matrix, "dtype"):
            raise InputError(
                f"a matrix of type {type(matrix).__name__}",
                expected="a two-dimensional sparse or dense matrix, cells x genes",
                do="pass a scipy.sparse matrix or a numpy array",
            )
        if matrix.shape[1] != len(gene_names):
            raise InputError(
                f"{matrix.shape[1]} columns and {len(gene_names)} gene names",
                expected="one name a column (cells x genes)",
                do="transpose the matrix or mend the names",
            )
        self.name = "matrix"
        self.n_cells = int(matrix.shape[0])
        self._matrix = matrix if is_lazy(matrix) else held_rows(matrix)
        self._genes = [str(g) for g in gene_names]

    def cell_names(self) -> list[str]:
        """Return the numbers of the cells, from 0."""
        return [str(i) for i in range(self.n_cells)]

    def name_blocks(self) -> Iterator[list[str]]:
        """Yield the names of all cells."""
        yield self.cell_names()

    def obs_column(self, key: str) -> list[str]:
        """Refuse: a matrix has no annotations."""
        raise no_column(self.name, key, [])

    def matrices(self) -> list[str]:
        """Name the only matrix."""
        return ["X"]

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the gene names."""
        return {INDEX: self._genes}

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ``indices``."""
        return held_rows(self._matrix[indices])

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        return row_blocks(self._matrix, size)


class AnnDataQuery(BaseQuery):
    """An :class:`anndata.AnnData` in memory or backed: its ``X``, ``raw`` and layers."""

    def __init__(self, adata: ad.AnnData) -> None:
        refuse_no_adata(adata)
        self.name = "AnnData"
        self.n_cells = int(adata.n_obs)
        self._adata = adata

    def _obs(self) -> pd.DataFrame:
        table: pd.DataFrame = self._adata.obs
        return table

    def _var(self, matrix: str) -> pd.DataFrame:
        raw = self._adata.raw
        is_raw = matrix == "raw" and raw is not None
        table: pd.DataFrame = raw.var if is_raw else self._adata.var
        return table

    def _matrices(self) -> list[str]:
        backed = self._adata.isbacked
        has_x = "X" in self._adata.file if backed else self._adata.X is not None
        names = ["X"] if has_x else []
        # Since anndata 0.13, X is the layer None, too.
        names += [f"{LAYERS}{k}" for k in self._adata.layers if k is not None]
        return [*names, "raw"] if self._adata.raw is not None else names

    def obsm_widths(self) -> dict[str, int]:
        """Return how many columns each table of obsm has."""
        return {key: int(value.shape[1]) for key, value in self._adata.obsm.items()}

    def obsm(self, key: str) -> Array | None:
        """Return a table of numbers of obsm."""
        with self.errors():
            return as_numbers(self._adata.obsm.get(key))

    def _matrix(self, matrix: str) -> Any:
        if matrix == "raw":
            return self._adata.raw.X
        return self._adata.X if matrix == "X" else self._adata.layers[matrix[len(LAYERS) :]]

    def _read(self, matrix: str, cells: slice | Array) -> sp.csr_matrix:
        return held_rows(self._matrix(matrix)[cells])

    def _blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        values = self._matrix(matrix)
        if isinstance(values, sp.csc_matrix | sp.csc_array):
            values = values.tocsr()
        return row_blocks(values, size)


class RowRange:
    """The cells of a query from ``start`` to before ``stop``."""

    def __init__(self, query: Query, start: int, stop: int) -> None:
        self.name, self.n_cells = query.name, stop - start
        self._query, self._start = query, start
        self.left_out = getattr(query, "left_out", None)

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""
        return self._query.cell_names()[self._start : self._start + self.n_cells]

    def name_blocks(self) -> Iterator[list[str]]:
        """Yield the names of all cells."""
        yield self.cell_names()

    def obs_column(self, key: str) -> list[str]:
        """Return a column of ``obs`` as strings."""
        return self._query.obs_column(key)[self._start : self._start + self.n_cells]

    def matrices(self) -> list[str]:
        """Name the candidate matrices."""
        return self._query.matrices()

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the names of the genes."""
        return self._query.gene_columns(matrix)

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        return self._query.rows(matrix, np.asarray(indices) + self._start)

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        for i in range(0, self.n_cells, READ_AHEAD * size):
            end = min(i + READ_AHEAD * size, self.n_cells)
            held = self.rows(matrix, np.arange(i, end))
            for j in range(0, end - i, size):
                yield held[j : j + size]


def as_numbers(values: Any) -> Array | None:
    """Return an array of two dimensions with numbers as it is, and nothing of anything else."""
    is_table = isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "biuf"
    return values if is_table else None


def is_lazy(matrix: Any) -> bool:
    """Tell whether values are computed when they are asked for, as those of dask."""
    return hasattr(matrix, "dask") and hasattr(matrix, "chunks")


def held_rows(rows: Any) -> sp.csr_matrix:
    """Return rows of any kind of matrix as a sparse one in memory.

    Raises
    ------
    InputError
        They are no real numbers.
    """
    rows = rows.compute() if is_lazy(rows) else rows
    if rows.dtype.kind not in "biuf":
        raise InputError(
            f"a matrix of {rows.dtype}",
            expected="real numbers: counts, or logarithms of counts",
            do="convert it first, such as with .astype('float32')",
        )
    return sp.csr_matrix(rows.astype(np.float32) if rows.dtype == np.float16 else rows)


def row_blocks(matrix: Any, size: int) -> Iterator[sp.csr_matrix]:
    """Yield all rows in order, at most ``size`` at a time; chunks of dask are computed once."""
    chunks = matrix.chunks[0] if is_lazy(matrix) else (matrix.shape[0],)
    start = 0
    for length in chunks:
        held = held_rows(matrix[start : start + length]) if is_lazy(matrix) else None
        for i in range(0, length, size):
            end = min(i + size, length)
            yield held_rows(matrix[start + i : start + end]) if held is None else held[i:end]
        start += length


def refuse_no_adata(cells: Any) -> None:
    """Raise if an object is no AnnData, and say how to get one of what it is."""
    import anndata as ad
    import pandas as pd

    if isinstance(cells, ad.AnnData):
        return
    kind = type(cells).__name__
    do = "pass an AnnData, or label a matrix with Annotator.annotate_matrix(matrix, gene_names)"
    if isinstance(cells, str | os.PathLike):
        kind = f"the path {os.fspath(cells)!r}"
        do = "read it first, such as with anndata.read_h5ad, or label the file with the command"
    elif kind == "MuData":
        names = [str(name) for name in getattr(cells, "mod", {})]
        chosen = next((name for name in names if name.lower() in RNA), names[0] if names else "rna")
        kind, do = f"a MuData of {', '.join(names)}", f"pass one modality: mdata['{chosen}']"
    elif kind == "SpatialData":
        do = f"pass one of its tables: sdata.tables['{next(iter(cells.tables), 'table')}']"
    elif isinstance(cells, pd.DataFrame):
        do = "if a row is a cell and a column a gene, pass anndata.AnnData(table)"
    raise InputError(f"{kind} where an AnnData is needed", expected="an AnnData", do=do)


def refuse_counts_in_obsm(query: Query) -> None:
    """Raise if what is in obsm looks like the counts, which are looked for elsewhere."""
    shapes: dict[str, int] = getattr(query, "obsm_widths", dict)()
    named = [key for key in shapes if "count" in key.lower()]
    if not named:
        return
    key, width = named[0], shapes[named[0]]
    raise InputError(
        f"no usable matrix in X, raw or layers, but obsm['{key}'] with {width} columns",
        expected="counts in X, raw or a layer",
        do=f"move it, if its columns are the genes of var: adata.layers['counts'] = "
        f"adata.obsm['{key}']",
    )
