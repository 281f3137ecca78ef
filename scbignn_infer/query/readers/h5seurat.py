"""Seurat objects in ``.h5seurat`` files, as the R package SeuratDisk lays them out in HDF5.

A matrix of genes x cells is stored by columns, which are rows of cells x genes: these are streamed.
The layout is public (https://mojaveazure.github.io/seurat-disk/articles/h5Seurat-spec.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.layer_names import LAYERS
from scbignn_infer.query.readers.bounds import MOST_NAME, refuse_long_names, refuse_many, weigh
from scbignn_infer.query.readers.columns import as_text
from scbignn_infer.query.readers.files import FileQuery
from scbignn_infer.query.readers.stored import RowStored, numbers

if TYPE_CHECKING:
    import anndata as ad
    import h5py
    import pandas as pd

    from scbignn_infer._types import Array

ASSAYS, CELLS, FEATURES, META = "assays", "cell.names", "features", "meta.data"
MATRICES = ("counts", "data")
"""Of an assay, the first of them as X; ``scale.data`` has some genes alone and no use."""
FACTOR = {"levels", "values"}
NO_INTEGER = -(2**31)
"""R's missing integer."""
NO_LOGICAL = 2
"""SeuratDisk's missing logical."""
LOGICALS = ["FALSE", "TRUE"]
"""Names of logicals of which some are missing: all readers of ``.h5ad`` know categories."""


def is_h5seurat(file: h5py.File) -> bool:
    """Tell whether an open HDF5 file has the parts of a Seurat object."""
    import h5py

    return isinstance(file.get(ASSAYS), h5py.Group) and isinstance(file.get(CELLS), h5py.Dataset)


class H5SeuratFile(FileQuery):
    """A ``.h5seurat`` file: the default assay of a Seurat object."""

    kind = ".h5seurat file of SeuratDisk"

    def _begin(self) -> int:
        assays, named = list(self._root[ASSAYS]), self._root.attrs.get("active.assay")
        wanted = None if named is None else as_text(np.ravel(named)[0])
        if wanted not in assays:
            raise InputError(
                f"the default assay '{wanted}'",
                expected=f"one of {', '.join(assays) or 'the assays, of which there are none'}",
                do="set it in R: DefaultAssay(object) <- 'RNA'",
            )
        self._assay = self._root[ASSAYS][wanted]
        self._columns: pd.DataFrame | None = None
        self._held: dict[str, Any] = {}
        names = [name for name in MATRICES if name in self._assay]
        if not names or FEATURES not in self._assay:
            raise InputError(
                f"the assay '{wanted}' of {self.path} has no counts and no data",
                expected="an assay as SeuratDisk writes it",
                do="for an object of Seurat 5, in R before it is saved: "
                f"object[['{wanted}']] <- as(object[['{wanted}']], 'Assay')",
            )
        self._names = {"X": names[0], **{f"{LAYERS}{name}": name for name in names[1:]}}
        self._cells, self._genes = (
            self._texts(self._root[CELLS]),
            self._texts(self._assay[FEATURES]),
        )
        self.notes = [f"X is '{names[0]}' of the assay {wanted}"]
        if others := ", ".join(name for name in assays if name != wanted):
            self.notes.append(f"other assays are left out: {others}")
        return len(self._cells)

    def _texts(self, node: Any) -> list[str]:
        """Return the names of a side."""
        what = f"'{node.name.lstrip('/')}' of {self.path}"
        if node.ndim != 1:
            raise ValueError(f"'{node.name}' has {node.ndim} dimensions")
        refuse_many(what, len(node), self._most)
        weigh(node, what, self._most, MOST_NAME)
        names = [as_text(value) for value in node[:]]
        refuse_long_names(names, what)
        return names

    def _matrices(self) -> list[str]:
        return list(self._names)

    def _cell_names(self) -> list[str]:
        return self._cells

    def _obs(self) -> pd.DataFrame:
        if self._columns is None:
            self._columns = self._read_columns()
        return self._columns

    def _read_columns(self) -> pd.DataFrame:
        """Return ``meta.data``; what is no vector of one value a cell is left out."""
        import h5py
        import pandas as pd

        node, found = self._root.get(META), dict[str, Any]()
        if isinstance(node, h5py.Group):  # else of a package before 2020, in one array of records
            weigh(node, f"'{META}' of {self.path}", self._most)
            order = [as_text(name) for name in np.ravel(node.attrs.get("colnames", []))]
            logicals = {as_text(name) for name in np.ravel(node.attrs.get("logicals", []))}
            for name in dict.fromkeys([*order, *node]):
                values = (
                    None if name == "_index" else _column(node.get(name), logical=name in logicals)
                )
                if values is not None and len(values) == self.n_cells:
                    found[name] = values
        return pd.DataFrame(found, index=pd.Index(self._cells, dtype=object))

    def _var(self, matrix: str) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(index=pd.Index(self._genes, dtype=object))

    def _node(self, matrix: str) -> Any:
        """Return a matrix as something whose rows by cell are read from disk."""
        if matrix not in self._held:
            node, shape = self._assay[self._names[matrix]], (len(self._cells), len(self._genes))
            is_dense = hasattr(node, "shape")
            sides = node.shape if is_dense else np.ravel(node.attrs.get("dims", shape[::-1]))[::-1]
            if tuple(map(int, sides)) != shape:
                raise ValueError(
                    f"{matrix} has {' x '.join(map(str, sides))} values, for {shape[0]} cells "
                    f"and {shape[1]} genes"
                )
            if not is_dense:
                weigh(node["indptr"], f"'{node.name}' of {self.path}", self._most)
            self._held[matrix] = node if is_dense else RowStored(node, shape)
        return self._held[matrix]

    def _read(self, matrix: str, cells: slice | Array) -> sp.csr_matrix:
        rows = self._node(matrix)[cells]
        return rows if isinstance(rows, sp.csr_matrix) else sp.csr_matrix(numbers(rows))

    def _whole(self) -> ad.AnnData:
        import anndata as ad

        weigh(self._assay, self.name, self._most)
        first, *others = (self._read(name, slice(None)) for name in self._names)
        layers = dict(zip(list(self._names.values())[1:], others, strict=True))
        return ad.AnnData(first, obs=self._obs().copy(), var=self._var("X"), layers=layers)


def _column(node: Any, *, logical: bool) -> Any:
    """Return the values of a column of R as pandas has them, ``None`` of what is no vector."""
    import h5py
    import pandas as pd

    if isinstance(node, h5py.Group):
        if not set(node) >= FACTOR:
            return None
        levels = pd.Index([as_text(v) for v in node["levels"][:]], dtype=object)
        codes = np.asarray(node["values"][:], np.int64) - 1
        codes[(codes < 0) | (codes >= len(levels))] = -1
        return pd.Categorical.from_codes(codes, levels)
    if node is None or node.ndim != 1 or node.dtype.names:
        return None
    values = node[:]
    if values.dtype.kind not in "biuf":
        return [as_text(v) for v in values]
    if logical or as_text(np.ravel(node.attrs.get("s3class", ""))[0]) == "logical":
        missing = values == NO_LOGICAL
        codes = np.where(missing, -1, values == 1).astype(np.int64)
        return (
            pd.Categorical.from_codes(codes, pd.Index(LOGICALS, dtype=object))
            if missing.any()
            else values == 1
        )
    whole = values.dtype.kind == "i" and (values == NO_INTEGER).any()
    return np.where(values == NO_INTEGER, np.nan, values) if whole else values
