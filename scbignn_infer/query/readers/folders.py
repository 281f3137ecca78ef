"""Folders of other programs than Cell Ranger, and where in a program's output the cells stand."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.readers.bounds import entries, refuse_text
from scbignn_infer.query.readers.columns import read_text
from scbignn_infer.query.readers.files import HeldFile
from scbignn_infer.query.readers.tenx import folder_of, is_folder, read_mtx

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad
    import pandas as pd

    from scbignn_infer.query.readers.files import Source


class Layout(NamedTuple):
    """The files of a program's matrix."""

    program: str
    matrices: tuple[str, ...]
    """Files in MatrixMarket's format, whose sum counts all molecules of a gene."""
    genes: tuple[str, ...]
    cells: tuple[str, ...]
    """Files with a line a cell, as ``genes`` have a line a gene; the first that exists is read."""
    symbols: str = ""
    """A file with a second name for each gene, if it exists."""
    cells_by_genes: bool = True


KB = ("cells_x_genes.genes.txt",), ("cells_x_genes.barcodes.txt",), "cells_x_genes.genes.names.txt"
PARSE = ("all_genes.csv", "genes.csv"), ("cell_metadata.csv",)
VELOCYTO = ("spliced.mtx", "unspliced.mtx", "ambiguous.mtx")
NAC = tuple(f"cells_x_genes.{part}.mtx" for part in ("mature", "nascent", "ambiguous"))
LAYOUTS = (
    Layout("kb count", ("cells_x_genes.mtx",), *KB),
    Layout("kb count --workflow nac", NAC, *KB),
    Layout("alevin-fry", ("quants_mat.mtx",), ("quants_mat_cols.txt",), ("quants_mat_rows.txt",)),
    Layout("Parse split-pipe", ("count_matrix.mtx",), *PARSE),
    Layout("Parse split-pipe", ("DGE.mtx",), *PARSE),
    Layout(
        "STARsolo Velocyto",
        VELOCYTO,
        ("features.tsv", "genes.tsv"),
        ("barcodes.tsv",),
        cells_by_genes=False,
    ),
)
PLACES = (
    "filtered_feature_bc_matrix.h5",  # Cell Ranger and Space Ranger
    "filtered_feature_bc_matrix",
    "sample_filtered_feature_bc_matrix.h5",
    "sample_filtered_feature_bc_matrix",
    "cell_feature_matrix.h5",  # Xenium
    "cell_feature_matrix",
    "Gene/filtered",  # STARsolo
    "DGE_filtered",  # Parse
    "counts_filtered",  # kb
    "alevin",  # alevin-fry
)
"""Where a program puts the matrix of the cells that it calls so."""
PARENTS = ("", "outs", "Solo.out", "all-sample", "af_quant")
"""Folders that hold these places."""
ENTRIES, DEPTH = 2000, 3
"""So many entries of a folder are looked at, and so deep, to say what may be given instead."""


def layouts_of(path: Path) -> list[Layout]:
    """Return the layouts that fit a folder, or of which a file, plain or ``.gz``, is a matrix."""
    if not path.is_dir():
        return [x for x in LAYOUTS if path.name.removesuffix(".gz") in x.matrices]
    return [x for x in LAYOUTS if all(_there(path, (name,)) for name in x.matrices)]


def place_of(path: Path) -> Path:
    """Return the file or folder with the cells, where a program's whole output is given."""
    if not path.is_dir() or _held(path):
        return path
    for parent in PARENTS:
        for place in PLACES:
            inside = path / parent / place
            if inside.is_file() or (inside.is_dir() and _held(inside)):
                return inside
    return path


def _held(folder: Path) -> bool:
    return is_layout(folder) or is_folder(folder)


def within(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Name what below a folder could be given instead of it: other folders, or such files."""
    return [str(path) for path in islice(_candidates(folder, suffixes), 4)]


def _candidates(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    seen = 0
    for here, folders, names in os.walk(folder):
        place = Path(here)
        seen += len(folders) + len(names)
        if len(place.relative_to(folder).parts) >= DEPTH or seen > ENTRIES:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (place / name for name in folders if name.endswith(".zarr"))
        folders[:] = [name for name in folders if not name.endswith(".zarr")]
        yield from (place / name for name in sorted(names) if name.endswith(suffixes))
        if place != folder and _held(place):
            yield place


def is_layout(path: Path) -> bool:
    """Tell whether a path is the folder of a program, or its matrix."""
    return bool(layouts_of(path))


def count_entries(path: Path) -> int:
    """Return how many values the matrices of a program's folder say they have."""
    files = [_there(folder_of(path), (name,)) for name in layouts_of(path)[0].matrices]
    return sum(map(entries, filter(None, files)))


class ProgramFolder(HeldFile):
    """The folder of a program, of which a matrix may be given."""

    def __init__(self, source: Source) -> None:
        self._layout = layouts_of(source.path)[0]
        self.kind = f"folder of {self._layout.program}"
        super().__init__(replace(source, path=folder_of(source.path)))

    def _load(self) -> ad.AnnData:
        import anndata as ad

        layout, folder = self._layout, self.path
        files = [_need(folder, (name,), layout) for name in layout.matrices]
        genes, cells = _need(folder, layout.genes, layout), _need(folder, layout.cells, layout)
        symbols = _there(folder, (layout.symbols,)) if layout.symbols else None
        for listed in filter(None, (genes, cells, symbols)):
            refuse_text(listed, self._most)
        var, obs = _read_names(genes), _read_names(cells)
        if symbols is not None:
            names = _read_names(symbols).index
            if len(names) == len(var):
                var["gene_names"] = names
        shape = (len(obs), len(var))
        turned = not layout.cells_by_genes
        counts = [_cells_by_genes(file, shape, self._most, turned=turned) for file in files]
        matrix = sp.csr_matrix(sum(counts[1:], start=counts[0]))
        matrix, var = _spliced_and_unspliced(matrix, var)
        return ad.AnnData(matrix, obs=obs, var=var)


def _there(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first file of some names that exists, as it is or packed by gzip."""
    paths = [folder / f"{name}{end}" for name in names for end in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _need(folder: Path, names: tuple[str, ...], layout: Layout) -> Path:
    file = _there(folder, names)
    if file is None:
        raise InputError(
            f"{folder} has no {names[0]}",
            expected=f"the files of {layout.program}: {', '.join(layout.matrices)}, "
            f"{layout.genes[0]} and {layout.cells[0]}",
            do=f"put {names[0]} beside them",
        )
    return file


def _read_names(path: Path) -> pd.DataFrame:
    """Read a list of names as a table; a ``.csv`` has a header, and a ``.tsv`` is Cell Ranger's."""
    import pandas as pd

    as_it_is: dict[str, Any] = {"dtype": str, "keep_default_na": False}
    if path.name.removesuffix(".gz").endswith(".csv"):
        table = read_text(path, **as_it_is)
        return table.set_index(table.columns[0])
    table = read_text(path, sep="\t", header=None, quoting=3, **as_it_is)
    columns = {} if table.shape[1] < 2 else {"gene_names": table[1].to_numpy()}
    return pd.DataFrame(columns, index=table[0].to_numpy())


def _cells_by_genes(
    path: Path, shape: tuple[int, int], most: int, *, turned: bool
) -> sp.csr_matrix:
    """Read a matrix and turn it where only that fits the names, or where both do and it should."""
    matrix = read_mtx(path, most)
    if matrix.shape == shape[::-1] and (turned or matrix.shape != shape):
        matrix = matrix.T
    if matrix.shape != shape:
        rows, columns = matrix.shape
        raise ValueError(
            f"{path.name} has {rows} x {columns} values, for {shape[0]} cells and {shape[1]} genes"
        )
    return sp.csr_matrix(matrix)


def _spliced_and_unspliced(
    matrix: sp.csr_matrix, var: pd.DataFrame
) -> tuple[sp.csr_matrix, pd.DataFrame]:
    """Sum what alevin-fry counts as spliced, unspliced (-U) and ambiguous (-A) of each gene."""
    n, names = len(var) // 3, list(var.index)
    parts = names[:n], names[n : 2 * n], names[2 * n :]
    if n == 0 or parts[1:] != ([f"{g}-U" for g in parts[0]], [f"{g}-A" for g in parts[0]]):
        return matrix, var
    total = matrix[:, :n] + matrix[:, n : 2 * n] + matrix[:, 2 * n :]
    return sp.csr_matrix(total), var.iloc[:n].copy()
