"""Loom files: a dense matrix of genes x cells with layers, read by blocks of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from scbignn_infer.query.layer_names import LAYERS
from scbignn_infer.query.readers.bounds import refuse_many, weigh
from scbignn_infer.query.readers.columns import INDEX
from scbignn_infer.query.readers.files import FileQuery

if TYPE_CHECKING:
    import anndata as ad
    import h5py
    import pandas as pd

    from scbignn_infer._types import Array

CELL_NAMES = ("CellID", "obs_names", "cell_names", "barcode", "Barcode")
GENE_NAMES = ("Gene", "var_names", "gene_names", "GeneName", "Accession")


def is_loom(file: h5py.File) -> bool:
    """Tell whether an open HDF5 file has the groups of loom."""
    return {"matrix", "row_attrs", "col_attrs"} <= set(file)


class LoomFile(FileQuery):
    """A loom file whose cells are streamed."""

    kind = "loom file"

    def _begin(self) -> int:
        n_genes, n_cells = map(int, self._root["matrix"].shape)
        refuse_many(self.name, n_genes + n_cells, self._most)
        for part in ("row_attrs", "col_attrs"):
            weigh(self._root[part], f"'{part}' of {self.path}", self._most)
        self._genes = _table(self._root["row_attrs"], n_genes, GENE_NAMES)
        self._cells = _table(self._root["col_attrs"], n_cells, CELL_NAMES)
        return n_cells

    def _obs(self) -> pd.DataFrame:
        return self._cells

    def _var(self, matrix: str) -> pd.DataFrame:
        return self._genes

    def _matrices(self) -> list[str]:
        return ["X", *(f"{LAYERS}{k}" for k in self._root.get("layers", ()))]

    def _read(self, matrix: str, cells: slice | Array) -> sp.csr_matrix:
        node = self._root["matrix" if matrix == "X" else matrix]
        if node.shape != (len(self._genes), self.n_cells):
            raise ValueError(f"{matrix} has the shape {tuple(map(int, node.shape))}")
        return sp.csr_matrix(node[:, cells].T)

    def _whole(self) -> ad.AnnData:
        import anndata as ad

        whole = {m: sp.csr_matrix(sp.vstack(list(self._blocks(m, 1024)))) for m in self._matrices()}
        layers = {m[len(LAYERS) :]: v for m, v in whole.items() if m != "X"}
        return ad.AnnData(whole["X"], obs=self._cells, var=self._genes, layers=layers)


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
    index = next((name for name in names if name in columns), None)
    if index is not None:
        table = table.set_index(index)
        table.index = table.index.astype(str)
        table.index.name = None if index != INDEX else index
    return table


def _decode(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
