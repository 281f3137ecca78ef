"""AnnData in HDF5 (.h5ad) or Zarr, whose rows are streamed; old .h5ad files are read whole."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.layer_names import LAYERS
from scbignn_infer.query.readers import plain_tables
from scbignn_infer.query.readers.bounds import (
    MOST_MATRICES,
    MOST_NAME,
    object_of,
    refuse_long_names,
    refuse_many,
    weigh,
)
from scbignn_infer.query.readers.columns import INDEX
from scbignn_infer.query.readers.files import FileQuery, HeldFile
from scbignn_infer.query.readers.query import as_numbers
from scbignn_infer.query.readers.stored import ColumnStored, RowStored, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad
    import pandas as pd

    from scbignn_infer._types import Array
    from scbignn_infer.query.readers.files import Source

KIND = ".h5ad file (AnnData in HDF5)"
SPARSE = {"csr_matrix": RowStored, "csc_matrix": ColumnStored}
"""How sparse matrices are stored, by their encoding."""


class AnnDataFile(FileQuery):
    """An AnnData on disk, at the root or in a group of it; only cell and gene names are held."""

    kind = "Zarr store of AnnData"

    def __init__(self, source: Source, group: Any = None) -> None:
        self._group = source.root if group is None else group
        self._nodes: dict[str, Any] = {}
        self._tables: dict[str, pd.DataFrame] = {}
        self._genes: dict[str, dict[str, list[str]]] = {}
        super().__init__(source)
        refuse_many(f"'obs' of {self.path}", self.n_cells, self._most)

    def _cell_index(self) -> Any:
        """Return the index of the cells where it is a column of its own, or ``None``."""
        obs = self._group.get("obs")
        if obs is not None and dict(obs.attrs).get("encoding-type") == "dataframe":
            return obs.get(obs.attrs["_index"])
        return None

    def _begin(self) -> int:
        index = self._cell_index()
        if "values" in getattr(index, "keys", tuple)():  # strings with a mask
            index = index["values"]
        shape: tuple[int, ...] = getattr(index, "shape", ())
        return int(shape[0]) if len(shape) == 1 else len(self._obs())

    def _cell_names(self) -> list[str]:
        return [name for block in self._name_blocks() for name in block]

    def _name_blocks(self) -> Iterator[list[str]]:
        index = self._cell_index()
        if index is None:
            yield super()._cell_names()
            return
        weigh(index, f"the names of cells in {self.path}", self._most, MOST_NAME)
        plain = plain_tables.is_plain(self._group["obs"])
        blocks = plain_tables.index_blocks(self._group["obs"]) if plain else None
        yield from [[str(c) for c in read_element(index)]] if blocks is None else blocks

    def _obs(self) -> pd.DataFrame:
        return self._table("obs")

    def _obs_column(self, key: str) -> list[str]:
        obs = self._group.get("obs")
        if plain_tables.is_plain(obs) and key in obs:
            weigh(obs[key], f"'obs' of {self.path}", self._most)
            values = plain_tables.column(obs, key)
            if values is not None and len(values) == self.n_cells:
                return values
        return super()._obs_column(key)

    def _var(self, matrix: str) -> pd.DataFrame:
        return self._table(_gene_table(matrix))

    def _gene_columns(self, matrix: str) -> dict[str, list[str]]:
        name = _gene_table(matrix)
        if name not in self._genes:
            self._genes[name] = self._plain_genes(name) or super()._gene_columns(matrix)
        return dict(self._genes[name])

    def _plain_genes(self, name: str) -> dict[str, list[str]] | None:
        """Return the columns of texts of a gene table, if it is a plain one."""
        node, what = self._group.get(name), f"'{name}' of {self.path}"
        if not plain_tables.is_plain(node):
            return None
        weigh(node, what, self._most)
        columns = plain_tables.text_columns(node)
        if columns is not None:
            refuse_long_names(columns[INDEX], what)
        return columns

    def _table(self, name: str) -> pd.DataFrame:
        if name not in self._tables:
            self._tables[name] = self._read_table(name)
        return self._tables[name]

    def _read_table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        if name not in self._group:
            raise InputError(
                f"{self.path} has no '{name}'", expected="an AnnData file", do="check the file"
            )
        node, what = self._group[name], f"'{name}' of {self.path}"
        weigh(node, what, self._most)
        table = read_element(node)
        if not isinstance(table, pd.DataFrame):
            raise InputError(
                f"'{name}' of {self.path} is no table", expected="a table", do="check the file"
            )
        refuse_long_names(table.index, what)
        return table

    def _uns(self, key: str) -> Any:
        node = self._group.get(f"uns/{key}")
        if node is None:
            return None
        weigh(node, f"'uns/{key}' of {self.path}", self._most)
        return read_element(node)

    def _matrices(self) -> list[str]:
        names = ["X"] if not _is_null(self._group.get("X")) else []
        names += [f"{LAYERS}{k}" for k in self._group.get("layers", ())]
        names += ["raw"] if "raw/X" in self._group else []
        if len({self.stored_as(name) for name in names}) > MOST_MATRICES:
            raise InputError(
                f"{self.path} holds {len(names):,} matrices",
                expected=f"at most {MOST_MATRICES}",
                do="write a file with the layers that you need",
            )
        return names

    def stored_as(self, matrix: str) -> Any:
        """Return what a matrix is stored as: the same for names of the same values."""
        with self.errors():
            node = self._group["raw/X" if matrix == "raw" else matrix]
            if not hasattr(node, "id"):  # of Zarr, which has no names for one object
                return matrix
            if hasattr(node, "shape"):
                return object_of(node)
            parts = [node.get(part) for part in ("data", "indices", "indptr")]
            form = tuple(map(str, (node.attrs.get("encoding-type"), node.attrs.get("shape"))))
            return (matrix == "raw", form, *(p and object_of(p) for p in parts))

    def obsm_widths(self) -> dict[str, int]:
        """Return how many columns each array and sparse matrix of obsm has."""
        with self.errors():
            nodes = {key: self._group["obsm"][key] for key in self._group.get("obsm", ())}
            shapes = {k: getattr(n, "shape", n.attrs.get("shape", ())) for k, n in nodes.items()}
            return {key: int(shape[1]) for key, shape in shapes.items() if len(shape) == 2}

    def obsm(self, key: str) -> Array | None:
        """Return a table of numbers of obsm, which is weighed before it is read."""
        with self.errors():
            node: Any = self._group["obsm"].get(key) if "obsm" in self._group else None
            shape: tuple[int, ...] = getattr(node, "shape", ())
            if len(shape) != 2 or shape[0] != self.n_cells:
                return None
            weigh(node, f"'obsm/{key}' of {self.path}", self._most)
            return as_numbers(np.asarray(node[:]))

    def _node(self, matrix: str) -> Any:
        """Return the matrix as something whose row slices are read from disk."""
        if matrix in self._nodes:
            return self._nodes[matrix]
        node = self._group["raw/X" if matrix == "raw" else matrix]
        form = dict(node.attrs)
        shape = tuple(map(int, node.shape if hasattr(node, "shape") else form["shape"]))
        expected = (self.n_cells, len(self._gene_columns(matrix)[INDEX]))
        if shape != expected:
            raise InputError(
                f"{matrix} of {self.path} has the shape {shape}",
                expected=f"the shape {expected} of its tables, cells x genes",
                do="check how the file was made",
            )
        stored = node
        if not hasattr(node, "shape"):
            stored = SPARSE[form["encoding-type"]](node, expected)
        self._nodes[matrix] = stored
        return stored

    def _read(self, matrix: str, cells: slice | Array) -> sp.csr_matrix:
        node = self._node(matrix)
        by_number = not isinstance(cells, slice) and hasattr(node, "oindex")
        rows = node.oindex[cells] if by_number else node[cells]  # the former of Zarr's arrays
        return rows if isinstance(rows, sp.csr_matrix) else sp.csr_matrix(numbers(rows))

    def _whole(self) -> ad.AnnData:
        import anndata as ad

        weigh(self._group, self.name, self._most)
        return ad.read_zarr(self._group)


class H5adFile(AnnDataFile):
    """An ``.h5ad`` file."""

    kind, h5ad = KIND, True

    def _whole(self) -> ad.AnnData:
        import anndata as ad

        weigh(self._group, self.name, self._most)
        return ad.read_h5ad(self.path)


class OldH5adFile(HeldFile):
    """An ``.h5ad`` file of anndata before 0.7, whose tables are arrays."""

    kind = KIND

    def _load(self) -> ad.AnnData:
        import anndata as ad

        with self._root:
            weigh(self._root, self.name, self._most)
        return ad.read_h5ad(self.path)


def open_h5ad(source: Source) -> FileQuery:
    """Open an ``.h5ad`` file, of any age."""
    import h5py

    is_old = isinstance(source.root.get("obs"), h5py.Dataset)
    return OldH5adFile(source) if is_old else H5adFile(source)


def _gene_table(matrix: str) -> str:
    return "raw/var" if matrix == "raw" else "var"


def _is_null(node: Any) -> bool:
    return node is None or dict(node.attrs).get("encoding-type") == "null"


def read_element(node: Any) -> Any:
    """Read one element of an AnnData file, without a word about its age."""
    import anndata as ad
    from anndata.io import read_elem

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.OldFormatWarning)
        return read_elem(node)
