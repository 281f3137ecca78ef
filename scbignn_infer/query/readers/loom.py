"""Loom files: a dense matrix of genes x cells with layers, read by blocks of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp

from scbignn_infer.query.containment import open_hdf5
from scbignn_infer.query.readers.bounds import memory_of_machine, refuse_many, weigh
from scbignn_infer.query.readers.query import (
    INDEX,
    column_of,
    descriptor_of,
    one_line,
    refuse_no_cells,
    refuse_no_genes,
    string_columns,
    sums_blocks,
    sums_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import anndata as ad
    import h5py
    import pandas as pd

    from scbignn_infer.query.identity import Identity

Array = np.ndarray[Any, Any]
KIND = "loom file"
CELL_NAMES = ("CellID", "obs_names", "cell_names", "barcode", "Barcode")
GENE_NAMES = ("Gene", "var_names", "gene_names", "GeneName", "Accession")


def is_loom(file: h5py.File) -> bool:
    """Tell whether an open HDF5 file has the groups of loom."""
    return {"matrix", "row_attrs", "col_attrs"} <= set(file)


class LoomQuery:
    """A loom file whose cells are streamed.

    Parameters
    ----------
    path
        The file.
    most_bytes
        What its annotations may take in memory; by default that of the machine.

    Raises
    ------
    InputError
        It is damaged, holds no cells or no genes, or is not one file.
    """

    h5ad = False
    descriptor: int | None
    identity: Identity

    def __init__(self, path: Path, most_bytes: int | None = None) -> None:
        self.path, self.name = path, str(path)
        most = memory_of_machine() if most_bytes is None else most_bytes
        with one_line(path, KIND):
            self._file = open_hdf5(path)
            self.descriptor = descriptor_of(self._file)
            n_genes, self.n_cells = map(int, self._file["matrix"].shape)
            refuse_many(str(path), n_genes + self.n_cells, most)
            for annotations in ("row_attrs", "col_attrs"):
                weigh(self._file[annotations], f"'{annotations}' of {path}", most)
            self._genes = _table(self._file["row_attrs"], n_genes, GENE_NAMES)
            self._cells = _table(self._file["col_attrs"], self.n_cells, CELL_NAMES)
        refuse_no_cells(self.name, self.n_cells)

    def cell_names(self) -> list[str]:
        """Return the names of the cells, or their numbers."""
        return [str(c) for c in self._cells.index]

    def obs_column(self, key: str) -> list[str]:
        """Return a column attribute as strings."""
        return column_of(self._cells, key, self.name)

    def uns(self, key: str) -> Any:
        """Return ``None``: the file has nothing of the kind."""
        return None

    def matrices(self) -> list[str]:
        """Name the matrix and the layers."""
        with one_line(self.path, KIND):
            return ["X", *(f"layers/{k}" for k in self._file.get("layers", ()))]

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return the names of the genes and the other row attributes of strings."""
        refuse_no_genes(self.name, matrix, len(self._genes))
        return string_columns(self._genes)

    def _read(self, matrix: str, cells: Any) -> sp.csr_matrix:
        with one_line(self.path, KIND):
            node = self._file["matrix" if matrix == "X" else matrix]
            if node.shape != (len(self._genes), self.n_cells):
                raise ValueError(f"{matrix} has the shape {tuple(map(int, node.shape))}")
            return sp.csr_matrix(node[:, cells].T)

    @sums_rows
    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        return self._read(matrix, indices)

    @sums_blocks
    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        for i in range(0, self.n_cells, size):
            yield self._read(matrix, slice(i, i + size))

    def to_adata(self) -> ad.AnnData:
        """Return all of the file in memory, sparse."""
        import anndata as ad

        whole = {m: sp.csr_matrix(sp.vstack(list(self.blocks(m, 1024)))) for m in self.matrices()}
        layers = {m[len("layers/") :]: v for m, v in whole.items() if m != "X"}
        with one_line(self.path, KIND):
            return ad.AnnData(whole["X"], obs=self._cells, var=self._genes, layers=layers)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _table(group: h5py.Group, n: int, names: tuple[str, ...]) -> pd.DataFrame:
    """Return the attributes with one value a row as a table, indexed by the first known name."""
    import pandas as pd

    columns = {}
    for name, node in group.items():
        if node.shape == (n,):
            values = node[:]
            text = values.dtype.kind in "OS"
            columns[name] = [_decode(v) for v in values] if text else values
    table = pd.DataFrame(columns, index=[str(i) for i in range(n)])
    known = next((name for name in names if name in columns), None)
    if known is not None:
        table = table.set_index(known)
        table.index = table.index.astype(str)
        table.index.name = None if known != INDEX else known
    return table


def _decode(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
