"""What every reader gives: cells with their matrices, gene names and annotations."""

from __future__ import annotations

from contextlib import contextmanager
from functools import reduce, wraps
from operator import add
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.layer_names import summands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import anndata as ad
    import pandas as pd

Array = np.ndarray[Any, Any]
READ_AHEAD = 16
"""Blocks of a range of rows that are read at once."""
INDEX = "index"
"""Name under which the index of the gene table is offered as a gene column."""


class Query(Protocol):
    """Cells to label: one or more matrices over the same cells."""

    name: str
    n_cells: int

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""

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


class FileQuery(Query, Protocol):
    """Cells of a file."""

    path: Path
    h5ad: bool
    """Whether the file can be copied and get slots; else :meth:`to_adata` makes one that can."""

    def uns(self, key: str) -> Any:
        """Return ``uns[key]``, or ``None`` where there is none."""

    def to_adata(self) -> ad.AnnData:
        """Return all of the file in memory."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


Q = TypeVar("Q", bound=Query)


def sums_rows(
    rows: Callable[[Q, str, Array], sp.csr_matrix],
) -> Callable[[Q, str, Array], sp.csr_matrix]:
    """Let a reader give rows of ``layers/a+b``, the sum of two layers, too."""

    @wraps(rows)
    def read(self: Q, matrix: str, indices: Array) -> sp.csr_matrix:
        return _sum([rows(self, part, indices) for part in _summands(self, matrix)])

    return read


def sums_blocks(
    blocks: Callable[[Q, str, int], Iterator[sp.csr_matrix]],
) -> Callable[[Q, str, int], Iterator[sp.csr_matrix]]:
    """Let a reader give blocks of ``layers/a+b``, the sum of two layers, too."""

    @wraps(blocks)
    def read(self: Q, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        parts = _summands(self, matrix)
        return map(_sum, zip(*(blocks(self, part, size) for part in parts), strict=True))

    return read


def _summands(query: Query, matrix: str) -> list[str]:
    return summands(matrix, query.matrices()) if "+" in matrix else [matrix]


def _sum(parts: Sequence[sp.csr_matrix]) -> sp.csr_matrix:
    if len(parts) == 1:
        return parts[0]
    return sp.csr_matrix(reduce(add, [part.astype(np.float32) for part in parts]))


class MatrixQuery:
    """A matrix in memory with its gene names.

    Parameters
    ----------
    matrix
        (n_cells, n_genes) sparse or dense, or a dask array of either.
    gene_names
        (n_genes,) names of the columns.
    """

    def __init__(self, matrix: Any, gene_names: Sequence[str]) -> None:
        if getattr(matrix, "ndim", 0) != 2:
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
        self._matrix = matrix if is_lazy(matrix) else sp.csr_matrix(matrix)
        self._genes = [str(g) for g in gene_names]

    def cell_names(self) -> list[str]:
        """Return the numbers of the cells, from 0."""
        return [str(i) for i in range(self.n_cells)]

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


class AnnDataQuery:
    """An :class:`anndata.AnnData` in memory or backed.

    Parameters
    ----------
    adata
        Candidates are ``X``, ``raw`` and the layers.
    """

    def __init__(self, adata: ad.AnnData) -> None:
        self.name = "AnnData"
        self.n_cells = int(adata.n_obs)
        self._adata = adata

    def cell_names(self) -> list[str]:
        """Return ``obs_names``."""
        return [str(c) for c in self._adata.obs_names]

    def obs_column(self, key: str) -> list[str]:
        """Return a column of ``obs`` as strings."""
        return column_of(self._adata.obs, key, self.name)

    def matrices(self) -> list[str]:
        """Name X, the layers and raw, as far as there are any."""
        names = ["X"] if self._adata.X is not None else []
        names += [f"layers/{k}" for k in self._adata.layers]
        return [*names, "raw"] if self._adata.raw is not None else names

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the index and the string columns of ``var`` (of ``raw.var``)."""
        raw = self._adata.raw
        return string_columns(raw.var if matrix == "raw" and raw is not None else self._adata.var)

    def _matrix(self, matrix: str) -> Any:
        if matrix == "raw":
            return self._adata.raw.X
        return self._adata.X if matrix == "X" else self._adata.layers[matrix[len("layers/") :]]

    @sums_rows
    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        return held_rows(self._matrix(matrix)[indices])

    @sums_blocks
    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        values = self._matrix(matrix)
        if isinstance(values, sp.csc_matrix | sp.csc_array):
            values = values.tocsr()
        return row_blocks(values, size)


class RowRange:
    """Some of the cells of a query, one after the other.

    Parameters
    ----------
    query
        All of them.
    start, stop
        The first, and the one after the last.
    """

    def __init__(self, query: Query, start: int, stop: int) -> None:
        self.name, self.n_cells = query.name, stop - start
        self._query, self._start = query, start

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""
        return self._query.cell_names()[self._start : self._start + self.n_cells]

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


class HeldFile(AnnDataQuery):
    """A file of a format that is read as a whole.

    Parameters
    ----------
    path
        The file.
    adata
        What it holds.
    """

    h5ad = False

    def __init__(self, path: Path, adata: ad.AnnData) -> None:
        super().__init__(adata)
        self.path, self.name = path, str(path)
        refuse_no_cells(self.name, self.n_cells)

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the names of the genes; none are refused."""
        columns = super().gene_columns(matrix)
        refuse_no_genes(self.name, matrix, len(columns[INDEX]))
        return columns

    def uns(self, key: str) -> Any:
        """Return ``uns[key]``, or ``None`` where there is none."""
        return self._adata.uns.get(key)

    def to_adata(self) -> ad.AnnData:
        """Return what the file holds."""
        return self._adata

    def close(self) -> None:
        """Do nothing; the file is closed already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def one_line(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the reading libraries raise into one InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - h5py, anndata, pandas, scipy raise a dozen classes
        lines = str(error).splitlines()
        raise InputError(
            f"cannot read {path} ({lines[0] if lines else type(error).__name__})",
            expected=f"a whole {kind}",
            do="check that it was copied to its end and that the program that wrote it opens it",
        ) from None


def is_lazy(matrix: Any) -> bool:
    """Tell whether values are computed when they are asked for, as those of dask."""
    return hasattr(matrix, "dask") and hasattr(matrix, "chunks")


def held_rows(rows: Any) -> sp.csr_matrix:
    """Return rows of any kind of matrix as a sparse one in memory."""
    return sp.csr_matrix(rows.compute() if is_lazy(rows) else rows)


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


def refuse_no_cells(name: str, n_cells: int) -> None:
    """Raise if there are no cells."""
    if n_cells == 0:
        raise InputError(
            f"{name} holds zero cells", expected="at least one cell", do="check how it was made"
        )


def refuse_no_genes(name: str, matrix: str, n_genes: int) -> None:
    """Raise if a matrix has no genes."""
    if n_genes == 0:
        raise InputError(
            f"{name} holds zero genes in {matrix}",
            expected="a matrix of cells x genes",
            do="check how the file was made",
        )


def no_column(name: str, key: str, columns: Sequence[str]) -> InputError:
    """Return the error of an annotation that is not there."""
    return InputError(
        f"{name} has no obs['{key}']",
        expected=f"one of {', '.join(columns)}" if columns else "annotated cells",
        do="check the name of the column",
    )


def column_of(table: pd.DataFrame, key: str, name: str) -> list[str]:
    """Return a column as strings, missing values as empty ones.

    Raises
    ------
    InputError
        There is no such column.
    """
    if key not in table:
        raise no_column(name, key, [str(c) for c in table])
    column = table[key]
    return [str(v) for v in column.astype(object).where(column.notna(), "")]


def string_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the index and each column of strings of a gene table."""
    columns = {INDEX: [str(v) for v in table.index]}
    for name in table.columns:
        values = table[name]
        if values.dtype.kind == "O" or values.dtype.name in ("category", "string", "str"):
            columns[str(name)] = [str(v) for v in values]
    return columns
