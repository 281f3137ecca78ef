"""AnnData in HDF5 (.h5ad) or Zarr, whose rows are streamed; old .h5ad files are read whole."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.containment import open_hdf5
from scbignn_infer.query.readers.bounds import (
    MOST_MATRICES,
    MOST_NAME,
    memory_of_machine,
    object_of,
    refuse_long_names,
    refuse_many,
    weigh,
)
from scbignn_infer.query.readers.query import (
    HeldFile,
    column_of,
    descriptor_of,
    one_line,
    refuse_no_cells,
    refuse_no_genes,
    string_columns,
    sums_blocks,
    sums_rows,
)
from scbignn_infer.query.readers.stored import ColumnStored, RowStored, numbers
from scbignn_infer.query.readers.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import anndata as ad
    import pandas as pd

    from scbignn_infer.query.identity import Identity

Array = np.ndarray[Any, Any]
KIND = ".h5ad file (AnnData in HDF5)"
ZARR = "Zarr store of AnnData"
SPARSE = {"csr_matrix": RowStored, "csc_matrix": ColumnStored}
"""How sparse matrices are stored, by their encoding."""


def open_h5ad(path: Path, most_bytes: int | None = None) -> AnnDataFile | HeldFile:
    """Open an ``.h5ad`` file.

    Raises
    ------
    InputError
        It is damaged, holds no cells, or is not one file.
    """
    import h5py

    with one_line(path, KIND):
        file = open_hdf5(path)
        old = isinstance(file.get("obs"), h5py.Dataset)
    if not old:
        return AnnDataFile(path, file, KIND, most_bytes)
    with one_line(path, KIND), file:
        weigh(file, str(path), most_bytes or memory_of_machine())
    with one_line(path, KIND), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import anndata as ad

        return HeldFile(path, ad.read_h5ad(path))


def zarr_root(path: Path) -> Any:
    """Open a Zarr store, a folder or a ``.zip`` of one, and return its root.

    Raises
    ------
    InputError
        It is damaged, or leads out of the store.
    MissingExtraError
        zarr is not installed.
    """
    with one_line(path, ZARR):
        return open_store(path)


class AnnDataFile:
    """An AnnData on disk; only cell and gene names are held.

    Parameters
    ----------
    path
        The file or store.
    group
        Its root, open for reading.
    kind
        What it is, for messages.
    most_bytes
        What a part that is read whole may take in memory; by default that of the machine.

    Raises
    ------
    InputError
        There are no cells, or what tells their number is damaged.
    """

    identity: Identity

    def __init__(self, path: Path, group: Any, kind: str, most_bytes: int | None = None) -> None:
        self.path, self.name = path, str(path)
        self.h5ad = kind == KIND
        self._file, self._kind = group, kind
        self._most = memory_of_machine() if most_bytes is None else most_bytes
        self.descriptor: int | None = descriptor_of(group.file) if self.h5ad else None
        self._matrices: dict[str, Any] = {}
        self._tables: dict[str, pd.DataFrame] = {}
        try:
            with one_line(self.path, kind):
                self.n_cells = self._count_cells()
            refuse_no_cells(self.name, self.n_cells)
            refuse_many(f"'obs' of {path}", self.n_cells, self._most)
        except BaseException:
            self.close()
            raise

    def _count_cells(self) -> int:
        """Return the number of cells, from the index alone where that is one plain column."""
        obs = self._file.get("obs")
        if obs is not None and dict(obs.attrs).get("encoding-type") == "dataframe":
            index = obs.get(obs.attrs["_index"])
            if "values" in getattr(index, "keys", tuple)():  # strings with a mask
                index = index["values"]
            if len(getattr(index, "shape", ())) == 1:
                return int(index.shape[0])
        return len(self.obs)

    def close(self) -> None:
        """Close the file; a closed one stays so."""
        if hasattr(self._file, "store"):
            self._file.store.close()
        elif self._file:
            self._file.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _table(self, name: str) -> pd.DataFrame:
        if name not in self._tables:
            with one_line(self.path, self._kind):
                self._tables[name] = self._read_table(name)
        return self._tables[name]

    def _read_table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        if name not in self._file:
            raise InputError(
                f"{self.path} has no '{name}'", expected="an AnnData file", do="check the file"
            )
        node, what = self._file[name], f"'{name}' of {self.path}"
        weigh(node, what, self._most)
        table = read_element(node)
        if not isinstance(table, pd.DataFrame):
            raise InputError(
                f"'{name}' of {self.path} is no table", expected="a table", do="check the file"
            )
        refuse_long_names(table.index, what)
        return table

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of the cells."""
        return self._table("obs")

    def uns(self, key: str) -> Any:
        """Return ``uns[key]``, or ``None`` where there is none."""
        with one_line(self.path, self._kind):
            node = self._file.get(f"uns/{key}")
            if node is None:
                return None
            weigh(node, f"'uns/{key}' of {self.path}", self._most)
            return read_element(node)

    def cell_names(self) -> list[str]:
        """Return the names of the cells, without reading their annotations."""
        with one_line(self.path, self._kind):
            obs = self._file.get("obs")
            if obs is not None and dict(obs.attrs).get("encoding-type") == "dataframe":
                index = obs[obs.attrs["_index"]]
                weigh(index, f"the names of cells in {self.path}", self._most, MOST_NAME)
                return [str(c) for c in read_element(index)]
        return [str(c) for c in self.obs.index]

    def obs_column(self, key: str) -> list[str]:
        """Return a column of ``obs`` as strings."""
        return column_of(self.obs, key, self.name)

    def matrices(self) -> list[str]:
        """Name X, the layers and raw, as far as there are any."""
        with one_line(self.path, self._kind):
            names = ["X"] if not _is_null(self._file.get("X")) else []
            names += [f"layers/{k}" for k in self._file.get("layers", ())]
            names += ["raw"] if "raw/X" in self._file else []
            if len({self.stored_as(name) for name in names}) > MOST_MATRICES:
                raise InputError(
                    f"{self.path} holds {len(names):,} matrices",
                    expected=f"at most {MOST_MATRICES}",
                    do="write a file with the layers that you need",
                )
            return names

    def stored_as(self, matrix: str) -> Any:
        """Return what a matrix is stored as: the same for names of the same values."""
        with one_line(self.path, self._kind):
            node = self._file["raw/X" if matrix == "raw" else matrix]
            if not hasattr(node, "id"):  # of Zarr, which has no names for one object
                return matrix
            if hasattr(node, "shape"):
                return object_of(node)
            parts = [node.get(part) for part in ("data", "indices", "indptr")]
            form = tuple(map(str, (node.attrs.get("encoding-type"), node.attrs.get("shape"))))
            return (matrix == "raw", form, *(p and object_of(p) for p in parts))

    def obsm_widths(self) -> dict[str, int]:
        """Return how many columns each array and sparse matrix of obsm has."""
        with one_line(self.path, self._kind):
            nodes = {key: self._file["obsm"][key] for key in self._file.get("obsm", ())}
            shapes = {k: getattr(n, "shape", n.attrs.get("shape", ())) for k, n in nodes.items()}
            return {key: int(shape[1]) for key, shape in shapes.items() if len(shape) == 2}

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the index and the string columns of the matrix's gene table."""
        table = self._var(matrix)
        refuse_no_genes(self.name, matrix, len(table))
        return string_columns(table)

    def _var(self, matrix: str) -> pd.DataFrame:
        return self._table("raw/var" if matrix == "raw" else "var")

    def _node(self, matrix: str) -> Any:
        """Return the matrix as something whose row slices are read from disk."""
        if matrix in self._matrices:
            return self._matrices[matrix]
        node = self._file["raw/X" if matrix == "raw" else matrix]
        form = dict(node.attrs)
        shape = tuple(map(int, node.shape if hasattr(node, "shape") else form["shape"]))
        expected = (self.n_cells, len(self._var(matrix)))
        if shape != expected:
            raise InputError(
                f"{matrix} of {self.path} has the shape {shape}",
                expected=f"the shape {expected} of its tables, cells x genes",
                do="check how the file was made",
            )
        stored = node
        if not hasattr(node, "shape"):
            stored = SPARSE[form["encoding-type"]](node, expected)
        self._matrices[matrix] = stored
        return stored

    @sums_rows
    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        with one_line(self.path, self._kind):
            node = self._node(matrix)
            dense = hasattr(node, "oindex")  # an array of Zarr, which has its own way to rows
            return _sparse(node.oindex[indices] if dense else node[indices])

    @sums_blocks
    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        with one_line(self.path, self._kind):
            node = self._node(matrix)
        for i in range(0, self.n_cells, size):
            with one_line(self.path, self._kind):
                block = _sparse(node[i : i + size])
            yield block

    def to_adata(self) -> ad.AnnData:
        """Return all of the file in memory."""
        import anndata as ad

        with one_line(self.path, self._kind), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weigh(self._file, str(self.path), self._most)
            return ad.read_h5ad(self.path) if self.h5ad else ad.read_zarr(self._file)


def _sparse(rows: Any) -> sp.csr_matrix:
    return rows if isinstance(rows, sp.csr_matrix) else sp.csr_matrix(numbers(rows))


def _is_null(node: Any) -> bool:
    return node is None or dict(node.attrs).get("encoding-type") == "null"


def read_element(node: Any) -> Any:
    """Read one element of an AnnData file, without a word about its age."""
    import anndata as ad
    from anndata.io import read_elem

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.OldFormatWarning)
        return read_elem(node)
