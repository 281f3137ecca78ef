"""Outputs of spatial platforms: which file of a folder holds the cells, and where these lie.

The layouts are those of Xenium Onboard Analysis, Space Ranger, the MERSCOPE instrument and AtoMx.
"""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scbignn_infer.errors import InputError
from scbignn_infer.query.readers import folders
from scbignn_infer.query.readers.bounds import (
    LINE_BYTES,
    MOST_NAME,
    refuse_text,
    too_long,
    too_much,
    unpacked,
)
from scbignn_infer.query.readers.columns import as_text, read_text
from scbignn_infer.query.readers.files import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from scbignn_infer._types import Array
    from scbignn_infer.settings import Orientation

BINNED, OUTLINED = "binned_outputs", "segmented_outputs"
"""Folders of Visium HD: squares of one size each, and cells that Space Ranger outlined."""
BIN, USUAL_BIN = re.compile(r"square_(\d+)um"), 8
MERSCOPE = "cell_by_gene.csv"
COSMX = "*exprMat_file.csv"
NO_HEADER = "_list.csv"
HEADLESS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres")
"""Columns of a ``tissue_positions_list.csv``, which has no header; the last is that below."""


class Place(NamedTuple):
    """What is read of a path."""

    path: Path
    orientation: Orientation | None = None
    """Of a table whose layout is known."""
    note: str = ""
    """What the user should know of the choice."""


class Layout(NamedTuple):
    """Files with a line a cell beside its matrix, and the columns that say where it lies."""

    files: tuple[str, ...]
    key: tuple[str, ...]
    """Columns that name a cell together; none for the first one."""
    sides: tuple[str, str]


LAYOUTS = (
    Layout(
        ("cells.csv.gz", "cells.csv", "cells.parquet"), ("cell_id",), ("x_centroid", "y_centroid")
    ),
    Layout(("cell_metadata.csv", "cell_metadata.csv.gz"), (), ("center_x", "center_y")),
    Layout(
        ("*metadata_file.csv", "*metadata_file.csv.gz"),
        ("fov", "cell_ID"),
        ("CenterX_global_px", "CenterY_global_px"),
    ),
    Layout(
        tuple(f"spatial/tissue_positions{end}" for end in (".parquet", ".csv", "_list.csv")),
        ("barcode",),
        ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ),
)
"""Of Xenium, MERSCOPE, CosMx, and Visium, whose matrices are read by their own readers."""


def place_of(path: Path) -> Place:
    """Return the file or folder with the cells, where the whole output of a program is given."""
    if not path.is_dir():
        return Place(path)
    for home in (path, path / "outs"):
        if bins := _bins(home if home.name == BINNED else home / BINNED):
            return _choose_bin(home, bins)
        for name in (MERSCOPE, f"{MERSCOPE}.gz"):
            if (home / name).is_file():
                return Place(home / name, "cells-by-genes")
        if tables := sorted(p for end in ("", ".gz") for p in home.glob(COSMX + end)):
            if len(tables) > 1:
                raise InputError(
                    f"{home} holds {len(tables)} tables of cells "
                    f"({', '.join(p.name for p in tables[:3])})",
                    expected="one",
                    do="give one of these files",
                )
            return Place(tables[0], "cells-by-genes")
    return Place(folders.place_of(path))


def _bins(folder: Path) -> dict[int, Path]:
    """Return the matrices of Visium HD by the side of a square in micrometres."""
    if not folder.is_dir():
        return {}
    found = {}
    for inner in folder.iterdir():
        size, place = BIN.fullmatch(inner.name), folders.place_of(inner)
        if size is not None and place != inner:
            found[int(size[1])] = place
    return dict(sorted(found.items()))


def _choose_bin(home: Path, bins: dict[int, Path]) -> Place:
    """Take squares of 8 um, or the only ones."""
    size = USUAL_BIN if USUAL_BIN in bins else min(bins)
    others = [str(bins[n].parent) for n in bins if n != size]
    if size != USUAL_BIN and others:
        raise InputError(
            f"{home} holds bins of {', '.join(map(str, bins))} um",
            expected=f"bins of {USUAL_BIN} um, or of one size",
            do=f"give the folder of one size: {bins[size].parent}",
        )
    if (outlined := home / OUTLINED).is_dir():
        others.append(str(outlined))
    note = f"a cell is a bin of {size} x {size} um"
    return Place(bins[size], note=note + f"; for others give {' or '.join(others)}" * bool(others))


@dataclass(frozen=True)
class Positions:
    """Where the cells of a matrix lie."""

    path: Path
    layout: Layout
    most: int

    def of(self, names: Sequence[str]) -> Array | None:
        """Return x and y (n, 2) of cells, NaN of those that are not listed; ``None`` of none."""
        import pandas as pd

        with one_line(self.path, "table of the places of cells (move it away to go without)"):
            table = _read(self.path, self.layout, self.most)
            where = table[list(self.layout.sides)].astype(np.float64)
            where.index = pd.Index(_keys(table, self.layout))
            found = where[~where.index.duplicated()].reindex(list(names)).to_numpy()
        return None if np.isnan(found).all() else found


def positions(matrix: Path, most: int) -> tuple[Positions | None, str]:
    """Return what finds the places of a matrix's cells, and why there is none though it should."""
    for layout in LAYOUTS:
        for path in (p for name in layout.files for p in sorted(matrix.parent.glob(name))):
            try:
                columns = _columns(path) if path.is_file() else []
            except ImportError:
                return None, f"{path.name} says where cells lie, and needs the extra 'parquet'"
            except Exception:  # noqa: BLE001 - pyarrow and gzip raise many classes
                return None, f"{path.name}, which should say where cells lie, cannot be read"
            if set(columns) >= {*layout.key, *layout.sides}:
                return Positions(path, layout, most), ""
    return None, ""


def _columns(path: Path) -> list[str]:
    """Return the names of a table's columns, of which no value is read."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return [str(name) for name in parquet.read_schema(path).names]
    if path.name.endswith(NO_HEADER):
        return [*HEADLESS, LAYOUTS[-1].sides[0]]
    with unpacked(path) as file:
        line = as_text(file.readline(LINE_BYTES).removeprefix(codecs.BOM_UTF8))
    return next(csv.reader([line.rstrip("\r\n")]), [])


def _read(path: Path, layout: Layout, most: int) -> pd.DataFrame:
    """Read the columns that are wanted, names as text."""
    if path.suffix == ".parquet":
        return _read_parquet(path, layout, most)
    refuse_text(path, most)
    columns = _columns(path)
    wanted = [*(layout.key or columns[:1]), *layout.sides]
    places = [columns.index(name) for name in wanted]  # names may be empty, or double
    table = read_text(
        path,
        header=None,
        skiprows=0 if path.name.endswith(NO_HEADER) else 1,
        usecols=places,
        dtype=dict.fromkeys(places[:-2], str),
    )
    return table[places].set_axis(wanted, axis=1)


def _read_parquet(path: Path, layout: Layout, most: int) -> pd.DataFrame:
    """Read columns of a parquet file, each name once, and no more than may be held."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, read_dictionary=list(layout.key)) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        needed = sum(group.total_byte_size for group in groups) + 100 * file.metadata.num_rows
        if needed > most:
            raise too_much(str(path), needed, most)
        table = file.read([*layout.key, *layout.sides]).unify_dictionaries()
    for name in layout.key:
        for chunk in table[name].chunks:
            names = getattr(chunk, "dictionary", ())  # numbers have none
            longest = max((len(str(v)) for v in names), default=0)
            if longest > MOST_NAME:
                raise too_long(str(path), longest)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _keys(table: pd.DataFrame, layout: Layout) -> list[str]:
    """Return the names of the cells, as their matrix has them."""
    columns = [table[name].map(as_text) for name in (layout.key or table.columns[:1])]
    return ["_".join(parts) for parts in zip(*columns, strict=True)]
