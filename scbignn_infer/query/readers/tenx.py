"""Files of Cell Ranger: ``.h5`` of version 2 and 3, and folders with a ``matrix.mtx``."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.readers.bounds import entries, refuse_mtx, refuse_text, weigh
from scbignn_infer.query.readers.columns import as_text, no_column, read_text
from scbignn_infer.query.readers.files import FileQuery, HeldFile
from scbignn_infer.query.readers.stored import RowStored

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad
    import h5py
    import pandas as pd

    from scbignn_infer._types import Array
    from scbignn_infer.query.readers.files import Source

CONTROL = re.compile(r"control|codeword")
"""Feature types of Xenium that are no genes, such as "Negative Control Probe"."""
FOLDER = "folder with matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv, plain or .gz"
MATRIX = ("matrix.mtx", "matrix.mtx.gz")
FEATURES = ("features.tsv", "features.tsv.gz", "genes.tsv", "genes.tsv.gz")
BARCODES = ("barcodes.tsv", "barcodes.tsv.gz")


def is_h5(file: h5py.File) -> bool:
    """Tell whether an open HDF5 file has the groups of Cell Ranger."""
    return bool(_groups(file))


def _groups(file: h5py.File) -> list[str]:
    import h5py

    return [
        name
        for name, g in file.items()
        if isinstance(g, h5py.Group) and {"barcodes", "indptr"} <= set(g)
    ]


class H5File(FileQuery):
    """A ``.h5`` of Cell Ranger, whose rows are streamed: its columns by gene are rows by cell."""

    kind = "HDF5 file of Cell Ranger"

    def _begin(self) -> int:
        groups = _groups(self._root)
        if len(groups) != 1:
            raise InputError(
                f"{self.path} holds {len(groups)} genomes ({', '.join(groups)})",
                expected="one",
                do="write each to a file of its own, in Python: "
                f"scanpy.read_10x_h5('{self.path.name}', genome='{groups[0]}')"
                f".write_h5ad('{groups[0]}.h5ad')",
            )
        self._group = self._root[groups[0]]
        for part in self._group:
            if part not in {"data", "indices"}:
                weigh(self._group[part], f"'{part}' of {self.path}", self._most)
        n_genes, n_cells = map(int, self._group["shape"][:])
        self._genes = self._read_genes()
        if n_cells == 0:
            return 0
        self._matrix = RowStored(self._group, (n_cells, n_genes))
        names = len(self._genes), len(self._group["barcodes"])
        if names != (n_genes, n_cells):
            raise ValueError(f"{n_genes} x {n_cells} values, {names[0]} x {names[1]} names")
        return n_cells

    def _read_genes(self) -> pd.DataFrame:
        import h5py
        import pandas as pd

        features = self._group.get("features", self._group)
        columns = {
            name: _text(features[key])
            for name, keys in FEATURE_COLUMNS.items()
            for key in keys
            if isinstance(features.get(key), h5py.Dataset)
        }
        names = [_text(features[name]) for name in FEATURE_NAMES if name in features]
        if not names and "gene_ids" not in columns:
            raise InputError(
                f"{self.path} names no genes (neither {', '.join(FEATURE_NAMES)} nor ids)",
                expected=f"an {self.kind}",
                do="export it again with the program that made it",
            )
        return pd.DataFrame(columns, index=names[0] if names else columns["gene_ids"])

    def _obs(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(index=_text(self._group["barcodes"]))

    def obs_column(self, key: str) -> list[str]:
        """Refuse: the file has no annotations."""
        raise no_column(self.name, key, [])

    def _var(self, matrix: str) -> pd.DataFrame:
        return self._genes

    def _read(self, matrix: str, cells: slice | Array) -> sp.csr_matrix:
        return self._matrix[cells]

    def _whole(self) -> ad.AnnData:
        import anndata as ad

        whole = ad.AnnData(self._matrix[:], obs=self._obs(), var=self._genes.copy())
        return _without_controls(whole)


FEATURE_NAMES = ("name", "gene_names", "gene_name")
"""Where the symbols stand, in one version or another; a file may have the ids alone."""
FEATURE_COLUMNS = {
    "gene_ids": ("id", "genes", "gene_ids"),
    "feature_types": ("feature_type",),
    "genome": ("genome",),
}
"""Columns of features, by the names that scanpy gives them."""


def _text(values: Any) -> list[str]:
    return [as_text(value) for value in values[:]]


def _without_controls(cells: ad.AnnData) -> ad.AnnData:
    """Return cells without what a panel measures beside its genes to tell how much is noise."""
    types = cells.var.get("feature_types", [])
    controls = [CONTROL.search(str(kind).lower()) is not None for kind in types]
    return cells[:, [not c for c in controls]].copy() if any(controls) else cells


def is_folder(path: Path) -> bool:
    """Tell whether a path is a ``matrix.mtx``, or a folder with one."""
    return bool(_matrices(path))


def count_entries(path: Path) -> int:
    """Return how many values the ``matrix.mtx`` of a folder, or this one, says it has."""
    return sum(map(entries, _matrices(path)))


def _matrices(path: Path) -> list[Path]:
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    return [p for p in paths if p.name.endswith(MATRIX)]


def folder_of(path: Path) -> Path:
    """Return a folder, or that of a file."""
    return path if path.is_dir() else path.parent


def _find_files(folder: Path) -> dict[str, Path]:
    """Return the three files of a folder, with a common prefix or none."""
    matrices = _matrices(folder)
    if len(matrices) > 1:
        raise InputError(
            f"{folder} holds {len(matrices)} matrices ({', '.join(p.name for p in matrices[:3])})",
            expected="one",
            do="put each into a folder of its own with its features and barcodes",
        )
    (matrix,) = matrices
    prefix, files = matrix.name[: matrix.name.index("matrix.mtx")], {"matrix": matrix}
    for kind, names in (("features", FEATURES), ("barcodes", BARCODES)):
        paths = [folder / f"{prefix}{name}" for name in names]
        there = next((p for p in paths if p.is_file()), None)
        if there is not None:
            files[kind] = there
        else:
            raise InputError(
                f"{folder} has {matrix.name} and no {prefix}{names[0]}",
                expected=f"a {FOLDER}",
                do=f"put {names[0]} beside it",
            )
    return files


def read_mtx(path: Path, most: int) -> sp.coo_matrix:
    """Read a matrix in MatrixMarket's text format that takes so many bytes at most."""
    from scipy.io import mmread

    refuse_mtx(path, most)
    return sp.coo_matrix(mmread(path))  # scipy is about to return arrays; the cast takes either


class MatrixFolder(HeldFile):
    """A folder with a ``matrix.mtx``, which may be given itself."""

    kind = FOLDER

    def __init__(self, source: Source) -> None:
        super().__init__(replace(source, path=folder_of(source.path)))

    def _load(self) -> ad.AnnData:
        import anndata as ad
        import pandas as pd

        files = _find_files(self.path)
        matrix = read_mtx(files["matrix"], self._most)
        for kind in ("features", "barcodes"):
            refuse_text(files[kind], self._most)
        features, barcodes = (
            read_text(
                files[kind], sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3
            )
            for kind in ("features", "barcodes")
        )
        names = len(features), len(barcodes)
        if matrix.shape == names[::-1] and matrix.shape != names:
            matrix = matrix.T  # as some quantifiers write it, cells x genes
        if matrix.shape != names:
            raise ValueError(
                f"{matrix.shape[0]} x {matrix.shape[1]} values, {names[0]} features and "
                f"{names[1]} barcodes"
            )
        symbols = features[1 if features.shape[1] > 1 else 0]
        var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=symbols.to_numpy())
        if features.shape[1] > 2:
            var["feature_types"] = features[2].to_numpy()
        obs = pd.DataFrame(index=barcodes[0].to_numpy())
        return ad.AnnData(sp.csr_matrix(matrix.T), obs=obs, var=var)

    def _whole(self) -> ad.AnnData:
        return _without_controls(super()._whole())
