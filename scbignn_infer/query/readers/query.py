"""What every reader gives: cells with their matrices, gene names and annotations."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import reduce, wraps
from operator import add
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError, ScBiGNNError, is_want_of_memory, reason
from scbignn_infer.query.layer_names import summands

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    import anndata as ad
    import pandas as pd

    from scbignn_infer.query.identity import Identity

Array = np.ndarray[Any, Any]
RNA = ("rna", "gex", "gene expression", "gene_expression")
"""Names of the modality with genes, in lower case."""
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
    identity: Identity
    """Which file was opened; :func:`~scbignn_infer.query.readers.open_query` sets it."""
    descriptor: int | None
    """Of the open file through which all is read, if there is one."""

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

    Raises
    ------
    InputError
        It is something else.
    """

    def __init__(self, adata: ad.AnnData) -> None:
        refuse_no_adata(adata)
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
        backed = self._adata.isbacked
        has_x = "X" in self._adata.file if backed else self._adata.X is not None
        names = ["X"] if has_x else []
        # Since anndata 0.13, X is the layer None, too.
        names += [f"layers/{k}" for k in self._adata.layers if k is not None]
        return [*names, "raw"] if self._adata.raw is not None else names

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the index and the string columns of ``var`` (of ``raw.var``)."""
        raw = self._adata.raw
        return string_columns(raw.var if matrix == "raw" and raw is not None else self._adata.var)

    def obsm_widths(self) -> dict[str, int]:
        """Return how many columns each table of obsm has."""
        return {key: int(value.shape[1]) for key, value in self._adata.obsm.items()}

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
    notes
        What the user should know of how it was read.
    """

    h5ad = False
    descriptor: int | None = None
    identity: Identity

    def __init__(self, path: Path, adata: ad.AnnData, notes: Sequence[str] = ()) -> None:
        super().__init__(adata)
        self.path, self.name, self.notes = path, str(path), list(notes)
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
    except (ScBiGNNError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - h5py, anndata, pandas, scipy raise a dozen classes
        if is_want_of_memory(error):
            raise MemoryError(f"{path}: {reason(error)}") from None
        raise InputError(
            f"cannot read {path} ({reason(error)})",
            expected=f"a whole {kind}",
            do="check that it was copied to its end and that the program that wrote it opens it",
        ) from None


def descriptor_of(file: Any) -> int | None:
    """Return the descriptor of an open HDF5 file; ``None`` where the system has none to compare."""
    return file.id.get_vfd_handle() if os.name == "posix" else None


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


def refuse_repeated_columns(name: str, table: pd.DataFrame) -> None:
    """Raise if two columns of a table have one name, so that it is no column's."""
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise InputError(
            f"{name} has several columns called '{repeated[0]}'",
            expected="a name of its own for each column",
            do="rename or drop one of them",
        )


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


def known_names(names: Iterable[str], known: Collection[str]) -> int:
    """Count known names; single letters are some gene's synonym, and mean nothing."""
    return sum(len(name) > 1 and (name in known or name.split(".")[0] in known) for name in names)


def read_text(path: Path, **how: Any) -> pd.DataFrame:
    """Read a text table with pandas, in UTF-8 or, where it is not that, in Latin-1."""
    import pandas as pd

    try:
        table: pd.DataFrame = pd.read_csv(path, encoding="utf-8-sig", **how)
    except UnicodeDecodeError:
        table = pd.read_csv(path, encoding="latin-1", **how)
    return table


def as_text(value: bytes | str) -> str:
    """Return a string of a file, in UTF-8 or, where it is not that, in Latin-1."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


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
        There is no such column, or two columns have one name.
    """
    if key not in table:
        raise no_column(name, key, [str(c) for c in table])
    refuse_repeated_columns(f"obs of {name}", table[[key]])
    column = table[key]
    return [str(v) for v in column.astype(object).where(column.notna(), "")]


def string_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the index and each column of strings of a gene table.

    Raises
    ------
    InputError
        Two columns have one name.
    """
    refuse_repeated_columns("var", table)
    columns = {INDEX: [str(v) for v in table.index]}
    for name in table.columns:
        values = table[name]
        if values.dtype.kind == "O" or values.dtype.name in ("category", "string", "str"):
            columns[str(name)] = [str(v) for v in values]
    return columns
