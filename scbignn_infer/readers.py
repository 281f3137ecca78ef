"""Read queries: files and objects behind one protocol that yields CSR row blocks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.sparse as sp

from scbignn_infer.columns import ColumnStored
from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

Array = np.ndarray[Any, Any]
INDEX = "index"
"""Name under which the index of the gene table is offered as a gene column."""


class Query(Protocol):
    """Cells to label: one or more matrices over the same cells."""

    name: str
    n_cells: int

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""

    def matrices(self) -> list[str]:
        """Name the candidate matrices, in order of preference among equals."""

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the string columns of the matrix's gene table, the index first."""

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""


class MatrixQuery:
    """A matrix in memory with its gene names.

    Parameters
    ----------
    matrix
        (n_cells, n_genes) sparse or dense.
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
        self._matrix = sp.csr_matrix(matrix)
        self._genes = [str(g) for g in gene_names]

    def cell_names(self) -> list[str]:
        """Return the numbers of the cells, from 0."""
        return [str(i) for i in range(self.n_cells)]

    def matrices(self) -> list[str]:
        """Name the only matrix."""
        return ["X"]

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the gene names."""
        return {INDEX: self._genes}

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ``indices``."""
        return self._matrix[indices]

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        for i in range(0, self.n_cells, size):
            yield self._matrix[i : i + size]


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

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        return sp.csr_matrix(self._matrix(matrix)[indices])

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        values = self._matrix(matrix)
        if isinstance(values, sp.csc_matrix | sp.csc_array):
            values = values.tocsr()
        for i in range(0, self.n_cells, size):
            yield sp.csr_matrix(values[i : i + size])


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the reading libraries raise into one InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - h5py and anndata raise a dozen classes
        lines = str(error).splitlines()
        raise InputError(
            f"cannot read {path} ({lines[0] if lines else type(error).__name__})",
            expected="a whole .h5ad file (AnnData in HDF5)",
            do="check that the file was copied to its end and that anndata.read_h5ad opens it",
        ) from None


class H5adQuery:
    """An ``.h5ad`` file whose rows are streamed; only cell and gene names are held.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        No file, no HDF5, a truncated or damaged file, no cells or no genes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        if not self.path.is_file():
            raise InputError(
                f"no file {path}" if not self.path.is_dir() else f"{path} is a folder",
                expected="an .h5ad file",
                do="check the path",
            )
        with _one_line(self.path):
            import h5py

            if not h5py.is_hdf5(self.path):
                raise InputError(
                    f"{path} is not an HDF5 file ({self.path.stat().st_size} bytes)",
                    expected="an .h5ad file",
                    do="convert it, for instance with anndata.AnnData(...).write_h5ad",
                )
            self._file = h5py.File(self.path, "r")
        self._by_column: dict[str, ColumnStored] = {}
        self._tables: dict[str, pd.DataFrame] = {}
        with _one_line(self.path):
            self.n_cells = self._count_cells()
        if self.n_cells == 0:
            raise InputError(
                f"{path} holds zero cells", expected="at least one cell", do="check how it was made"
            )

    def _count_cells(self) -> int:
        """Return the number of cells, from the index alone where that is one plain column."""
        import h5py

        obs = self._file.get("obs")
        if isinstance(obs, h5py.Group) and obs.attrs.get("encoding-type") == "dataframe":
            index = obs.get(obs.attrs["_index"])
            if isinstance(index, h5py.Dataset) and index.ndim == 1:
                return int(index.shape[0])
        return len(self.obs)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> H5adQuery:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _table(self, name: str) -> pd.DataFrame:
        if name not in self._tables:
            with _one_line(self.path):
                self._tables[name] = self._read_table(name)
        return self._tables[name]

    def _read_table(self, name: str) -> pd.DataFrame:
        import h5py
        import pandas as pd

        if name not in self._file:
            raise InputError(
                f"{self.path} has no '{name}'", expected="an AnnData file", do="check the file"
            )
        if isinstance(self._file[name], h5py.Dataset):
            raise InputError(
                f"{self.path} is in the format of anndata before 0.7",
                expected="a file of anndata 0.7 or later",
                do="open it with anndata.read_h5ad and write it again with .write_h5ad",
            )
        table = read_element(self._file[name])
        if not isinstance(table, pd.DataFrame):
            raise InputError(
                f"'{name}' of {self.path} is no table", expected="a table", do="check the file"
            )
        return table

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of the cells."""
        return self._table("obs")

    def uns(self, key: str) -> Any:
        """Return ``uns[key]``, or ``None`` where there is none."""
        with _one_line(self.path):
            node = self._file.get(f"uns/{key}")
            return None if node is None else read_element(node)

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""
        return [str(c) for c in self.obs.index]

    def matrices(self) -> list[str]:
        """Name X, the layers and raw, as far as there are any."""
        with _one_line(self.path):
            names = ["X"] if "X" in self._file else []
            names += [f"layers/{k}" for k in self._file.get("layers", ())]
            return [*names, "raw"] if "raw/X" in self._file else names

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the index and the string columns of the matrix's gene table."""
        table = self._var(matrix)
        if len(table) == 0:
            raise InputError(
                f"{self.path} holds zero genes in {matrix}",
                expected="a matrix of cells x genes",
                do="check how the file was made",
            )
        return string_columns(table)

    def _var(self, matrix: str) -> pd.DataFrame:
        return self._table("raw/var" if matrix == "raw" else "var")

    def _node(self, matrix: str) -> Any:
        """Return the matrix as something whose row slices are read from disk."""
        import h5py
        from anndata.io import sparse_dataset

        node = self._file["raw/X" if matrix == "raw" else matrix]
        if isinstance(node, h5py.Dataset):
            shape, backed = node.shape, node
        else:
            backed = sparse_dataset(node)
            shape = backed.shape
            if backed.format == "csc":
                if matrix not in self._by_column:
                    self._by_column[matrix] = ColumnStored(node, shape)
                backed = self._by_column[matrix]
        expected = (self.n_cells, len(self._var(matrix)))
        if tuple(shape) != expected:
            raise InputError(
                f"{matrix} of {self.path} has the shape {tuple(map(int, shape))}",
                expected=f"the shape {expected} of its tables, cells x genes",
                do="check how the file was made",
            )
        return backed

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        with _one_line(self.path):
            return sp.csr_matrix(self._node(matrix)[indices])

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        with _one_line(self.path):
            node = self._node(matrix)
        for i in range(0, self.n_cells, size):
            with _one_line(self.path):
                block = sp.csr_matrix(node[i : i + size])
            yield block


def read_element(node: Any) -> Any:
    """Read one element of an AnnData file, without a word about its age."""
    import anndata as ad
    from anndata.io import read_elem

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.OldFormatWarning)
        return read_elem(node)


def string_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the index and each column of strings of a gene table."""
    columns = {INDEX: [str(v) for v in table.index]}
    for name in table.columns:
        values = table[name]
        if values.dtype.kind == "O" or values.dtype.name in ("category", "string", "str"):
            columns[str(name)] = [str(v) for v in values]
    return columns


def open_query(path: str | Path) -> H5adQuery:
    """Open a file of cells.

    Parameters
    ----------
    path
        An ``.h5ad`` file.

    Raises
    ------
    InputError
        It cannot be read.
    """
    return H5adQuery(path)
