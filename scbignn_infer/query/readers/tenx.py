"""Files of Cell Ranger: ``.h5`` of version 2 and 3, and folders with a ``matrix.mtx``."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.containment import open_hdf5
from scbignn_infer.query.readers.bounds import memory_of_machine, refuse_mtx, refuse_text, weigh
from scbignn_infer.query.readers.query import (
    HeldFile,
    as_text,
    descriptor_of,
    no_column,
    one_line,
    read_text,
    refuse_no_cells,
    refuse_no_genes,
    string_columns,
)
from scbignn_infer.query.readers.stored import RowStored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import anndata as ad
    import h5py
    import pandas as pd

    from scbignn_infer.query.identity import Identity

Array = np.ndarray[Any, Any]
H5 = "HDF5 file of Cell Ranger"
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


class H5Query:
    """A ``.h5`` of Cell Ranger, whose rows are streamed: its columns by gene are rows by cell.

    Parameters
    ----------
    path
        The file.
    most_bytes
        What its names may take in memory; by default that of the machine.

    Raises
    ------
    InputError
        It is damaged, is not one file, holds several genomes, no cells or no genes.
    """

    h5ad = False
    descriptor: int | None
    identity: Identity

    def __init__(self, path: Path, most_bytes: int | None = None) -> None:
        most = memory_of_machine() if most_bytes is None else most_bytes
        self.path, self.name = path, str(path)
        with one_line(path, H5):
            self._file = open_hdf5(path)
            self.descriptor = descriptor_of(self._file)
            groups = _groups(self._file)
            if len(groups) != 1:
                raise InputError(
                    f"{path} holds {len(groups)} genomes ({', '.join(groups)})",
                    expected="one",
                    do="write each to a file of its own, in Python: "
                    f"scanpy.read_10x_h5('{path.name}', genome='{groups[0]}')"
                    f".write_h5ad('{groups[0]}.h5ad')",
                )
            self._group = self._file[groups[0]]
            for part in self._group:
                if part not in {"data", "indices"}:
                    weigh(self._group[part], f"'{part}' of {path}", most)
            n_genes, self.n_cells = map(int, self._group["shape"][:])
            self._genes = self._read_genes()
        refuse_no_cells(self.name, self.n_cells)
        with one_line(path, H5):
            self._matrix = RowStored(self._group, (self.n_cells, n_genes))
            names = len(self._genes), len(self._group["barcodes"])
            if names != (n_genes, self.n_cells):
                raise ValueError(
                    f"{n_genes} x {self.n_cells} values, {names[0]} x {names[1]} names"
                )

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
                expected=f"an {H5}",
                do="export it again with the program that made it",
            )
        return pd.DataFrame(columns, index=names[0] if names else columns["gene_ids"])

    def cell_names(self) -> list[str]:
        """Return the barcodes."""
        with one_line(self.path, H5):
            return _text(self._group["barcodes"])

    def obs_column(self, key: str) -> list[str]:
        """Refuse: the file has no annotations."""
        raise no_column(self.name, key, [])

    def uns(self, key: str) -> Any:
        """Return ``None``: the file has nothing of the kind."""
        return None

    def matrices(self) -> list[str]:
        """Name the only matrix."""
        return ["X"]

    def gene_columns(self, matrix: str) -> dict[str, list[str]]:
        """Return names, ids, feature types and genomes."""
        refuse_no_genes(self.name, matrix, len(self._genes))
        return string_columns(self._genes)

    def rows(self, matrix: str, indices: Array) -> sp.csr_matrix:
        """Return the rows at ascending ``indices``."""
        with one_line(self.path, H5):
            return self._matrix[indices]

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, ``size`` at a time."""
        for i in range(0, self.n_cells, size):
            with one_line(self.path, H5):
                block = self._matrix[i : i + size]
            yield block

    def to_adata(self) -> ad.AnnData:
        """Return all of the file in memory."""
        import anndata as ad
        import pandas as pd

        with one_line(self.path, H5):
            obs = pd.DataFrame(index=self.cell_names())
            return ad.AnnData(self._matrix[:], obs=obs, var=self._genes.copy())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


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


def find_folder(folder: Path) -> dict[str, Path] | None:
    """Return the three files of a folder, with a common prefix or none; ``None`` without a matrix.

    Raises
    ------
    InputError
        There are several matrices, or one without its names.
    """
    found = [p for p in sorted(folder.iterdir()) if p.name.endswith(MATRIX)]
    if not found:
        return None
    prefixes = {p: p.name[: p.name.index("matrix.mtx")] for p in found}
    if len(found) > 1:
        raise InputError(
            f"{folder} holds {len(found)} matrices ({', '.join(p.name for p in found[:3])})",
            expected="one",
            do="put each into a folder of its own with its features and barcodes",
        )
    prefix, files = prefixes[found[0]], {"matrix": found[0]}
    for kind, names in (("features", FEATURES), ("barcodes", BARCODES)):
        paths = [folder / f"{prefix}{name}" for name in names]
        there = next((p for p in paths if p.is_file()), None)
        if there is not None:
            files[kind] = there
        else:
            raise InputError(
                f"{folder} has {found[0].name} and no {prefix}{names[0]}",
                expected=f"a {FOLDER}",
                do=f"put {names[0]} beside it",
            )
    return files


def read_mtx(path: Path, most: int) -> sp.coo_matrix:
    """Read a matrix in MatrixMarket's text format that takes so many bytes at most."""
    from scipy.io import mmread

    refuse_mtx(path, most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy is about to return arrays; the cast takes either
        return sp.coo_matrix(mmread(path))


def read_folder(folder: Path, files: dict[str, Path], most_bytes: int | None = None) -> HeldFile:
    """Read a folder with a ``matrix.mtx``.

    Raises
    ------
    InputError
        A file is damaged, or the matrix has not a name for each row and column.
    """
    import anndata as ad
    import pandas as pd

    most = memory_of_machine() if most_bytes is None else most_bytes
    with one_line(folder, FOLDER):
        matrix = read_mtx(files["matrix"], most)
        for kind in ("features", "barcodes"):
            refuse_text(files[kind], most)
        tables = {
            kind: read_text(
                files[kind], sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3
            )
            for kind in ("features", "barcodes")
        }
        features, barcodes = tables["features"], tables["barcodes"]
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
        return HeldFile(folder, ad.AnnData(sp.csr_matrix(matrix.T), obs=obs, var=var))
