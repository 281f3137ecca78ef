"""The formats that can be read, in one table: a new one is a file of its own and a row here."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scbignn_infer.errors import InputError, reason
from scbignn_infer.query.containment import open_hdf5, refuse_endless_heaps
from scbignn_infer.query.identity import Identity
from scbignn_infer.query.readers import (
    anndata_files,
    containers,
    folders,
    h5seurat,
    loom,
    packed,
    rds,
    spatial,
    stores,
    tables,
    tenx,
)
from scbignn_infer.query.readers.bounds import memory_of_machine
from scbignn_infer.query.readers.files import Source, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from scbignn_infer.query.readers.files import FileQuery
    from scbignn_infer.settings import Orientation

HDF5, ZARR, FILES = "HDF5 file", "Zarr store", "plain files"
MOST_FILES = 4096
"""Files of a store whose identity is kept."""


@dataclass(frozen=True)
class Format:
    """A format that can be read."""

    title: str
    medium: str
    """What it is stored in: :data:`HDF5`, :data:`ZARR` or :data:`FILES`."""
    recognise: Callable[[Any], bool]
    """Tells it by the open root of an HDF5 file or a Zarr store, else by the path."""
    open: Callable[[Source], FileQuery]
    sign: str = ""
    """How it is recognised, for the documentation."""
    how: str = ""
    """How it is read, for the documentation."""
    listed: str = ""
    """Its name in messages of what can be read; nothing if another row names it, too."""
    suffixes: tuple[str, ...] = ()
    extra: str = ""
    """Of this package, which it needs."""
    has_members: bool = False
    """Whether it holds several AnnData, of which the user may choose one."""
    count_values: Callable[[Path], int] | None = None
    """Guesses by a file's beginning how many values it holds, if all are held in memory."""
    media_types: tuple[str, ...] = ()
    """Under which the service takes it."""


FORMATS = [
    Format(
        "`.h5ad`",
        HDF5,
        containers.is_one_anndata,
        anndata_files.open_h5ad,
        sign="HDF5 with `obs`",
        how="rows are streamed; CSR, CSC or dense, compressed or not; files of anndata before 0.7 "
        "are read whole",
        listed="a .h5ad or .h5mu file",
        suffixes=(".h5ad",),
        media_types=("application/x-hdf5", "application/octet-stream"),
    ),
    Format(
        "`.h5mu`",
        HDF5,
        containers.is_mudata,
        containers.MemberFile,
        sign="HDF5 with `mod` (MuData)",
        how="one modality, whose rows are streamed: `rna` or `gex`, else the only one with genes, "
        "or that of `--modality`",
        suffixes=(".h5mu",),
        has_members=True,
    ),
    Format(
        "Zarr store of AnnData",
        ZARR,
        lambda root: not containers.containers_in(root),
        anndata_files.AnnDataFile,
        sign="a folder with `.zgroup` or `zarr.json`, or `.zarr.zip` with the store at its root or "
        "in its only folder",
        how="version 2 and 3, rows are streamed",
        listed="a Zarr store of AnnData",
        suffixes=(".zarr", ".zarr.zip"),
        extra="zarr",
    ),
    Format(
        "Zarr store of MuData or SpatialData",
        ZARR,
        lambda root: bool(containers.containers_in(root)),
        containers.MemberFile,
        sign="a store with `mod`, or with `tables`",
        how="as `.h5mu`; of SpatialData the only table, or that of `--table`",
        extra="zarr",
        has_members=True,
    ),
    Format(
        "`.h5` of Cell Ranger",
        HDF5,
        tenx.is_h5,
        tenx.H5File,
        sign="HDF5 with `barcodes`",
        how="version 2 and 3, with symbols, ids or both, rows are streamed; one genome",
        listed="an .h5 or a matrix.mtx folder of Cell Ranger",
        suffixes=(".h5",),
    ),
    Format(
        "folder of another program",
        FILES,
        folders.is_layout,
        folders.ProgramFolder,
        sign="the names of its files",
        how="see [below](#folders-of-other-programs)",
        count_values=folders.count_entries,
    ),
    Format(
        "`matrix.mtx` folder",
        FILES,
        tenx.is_folder,
        tenx.MatrixFolder,
        sign="`matrix.mtx[.gz]`, with `features.tsv` or `genes.tsv` and `barcodes.tsv`",
        how="the files may have a common prefix",
        suffixes=(".mtx", ".mtx.gz"),
        count_values=tenx.count_entries,
    ),
    Format(
        "`.loom`",
        HDF5,
        loom.is_loom,
        loom.LoomFile,
        sign="HDF5 with `row_attrs`",
        how="blocks of cells are streamed",
        listed="a .loom file",
        suffixes=(".loom",),
    ),
    Format(
        "`.rds` of R",
        FILES,
        rds.is_rds,
        rds.RdsFile,
        sign="the name",
        how="Seurat 3 to 5 (the default assay; split layers are put together), "
        "SingleCellExperiment, or a matrix of genes x cells; see [from R](from_r.md)",
        listed="an .rds or .h5seurat file of R",
        suffixes=(".rds",),
        extra="r",
        count_values=rds.count_values,
    ),
    Format(
        "`.h5seurat` of SeuratDisk",
        HDF5,
        h5seurat.is_h5seurat,
        h5seurat.H5SeuratFile,
        sign="HDF5 with `assays` and `cell.names`",
        how="the default assay, rows are streamed; see [from R](from_r.md)",
        suffixes=(".h5seurat", ".h5Seurat"),
    ),
    Format(
        "`.csv`, `.tsv`, `.txt`, also `.gz`",
        FILES,
        tables.is_table,
        tables.TableFile,
        sign="the name",
        how="the side with gene names is found, or given with `--orientation`",
        listed="a table (.csv, .tsv)",
        suffixes=tuple(f"{name}{end}" for name in tables.SUFFIXES for end in ("", ".gz")),
        count_values=tables.count_values,
    ),
]
"""What can be read: the first row that recognises a file opens it."""


def listed_formats() -> str:
    """Name what can be read, for messages."""
    *names, last = (row.listed for row in FORMATS if row.listed)
    return f"{', '.join(names)}, or {last}"


def without_suffixes(name: str) -> str:
    """Return the name of a file without what names its format, such as .csv.gz."""
    parts = {part for row in FORMATS for suffix in row.suffixes for part in suffix.split(".")[1:]}
    return re.sub(rf"(\.({'|'.join(map(re.escape, parts))}))+$", "", name) or name


def values_held(path: Path) -> int | None:
    """Return about how many values reading a file holds; ``None`` where it is read in parts."""
    row = _recognise(FILES, spatial.place_of(path).path, None)
    return None if row is None or row.count_values is None else row.count_values(path)


def open_query(
    path: str | Path,
    *,
    known_genes: Collection[str] = (),
    orientation: Orientation | None = None,
    modality: str | None = None,
    table: str | None = None,
    most_bytes: int | None = None,
) -> FileQuery:
    """Open a file of cells; what it holds decides how, not its name.

    Parameters
    ----------
    path
        A ``.h5ad`` or ``.h5mu`` file, a Zarr store of AnnData, MuData or SpatialData, an ``.h5`` or
        a folder of Cell Ranger or another quantifier, a loom file or a text table.
    known_genes
        Names by which a text table shows which of its sides has the genes.
    orientation
        Of a text table: ``cells-by-genes`` or ``genes-by-cells``.
    modality
        Of a MuData; by default the one with genes.
    table
        Of a SpatialData; by default its only one.
    most_bytes
        Memory that a part of the file may take where it is read whole; by default that of the
        machine.

    Raises
    ------
    InputError
        It is none of these, or damaged.

    Examples
    --------
    >>> from importlib.resources import files
    >>> from scbignn_infer import open_query
    >>> with open_query(files("scbignn_infer") / "examples" / "pbmc700.h5ad") as cells:
    ...     cells.n_cells, cells.matrices()
    (700, ['X'])
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no file {path}", expected=listed_formats(), do="check the path")
    if not (path.is_file() or path.is_dir()):
        raise InputError(
            f"{path} is no plain file", expected=listed_formats(), do="save it as a file first"
        )
    try:
        place = spatial.place_of(path)
        orientation = orientation or place.orientation
        source = Source(place.path, known_genes, orientation, modality, table, most_bytes)
        query = _open(source)
        note = ""
        if place.path != path:
            most = memory_of_machine() if most_bytes is None else most_bytes
            query.places, note = spatial.positions(place.path, most)
        query.notes = [*query.notes, *filter(None, (place.note, note))]
        return query
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({reason(error)})",
            expected="a file that may be read",
            do="check its permissions",
        ) from None


def _open(source: Source) -> FileQuery:
    """Open a file by the first row that recognises it, and check that it was not swapped."""
    path = source.path
    identity = Identity.of(path, _files_of(path))
    if path.is_file():
        packed.refuse_others(path, listed_formats())
    with ExitStack() as stack:
        medium, root = _open_root(path)
        source = replace(source, root=root)
        stack.callback(source.close)
        if medium == HDF5 and os.name == "posix":  # elsewhere there is no descriptor to compare
            identity.check_descriptor(root.id.get_vfd_handle())
        row = _recognise(medium, path, root)
        if row is None or not row.has_members:
            containers.refuse_choice(source)
        if row is None:
            raise _unknown(path, medium)
        query = row.open(source)
        query.identity = identity
        stack.pop_all()  # from now on, the query closes it
        return query


def _open_root(path: Path) -> tuple[str, Any]:
    """Return the medium of a path, and its root where it is one file or store to look into."""
    import h5py

    if path.is_file() and h5py.is_hdf5(path):
        refuse_endless_heaps(path)
        with one_line(path, HDF5):
            return HDF5, open_hdf5(path)
    if stores.is_store(path):
        with one_line(path, anndata_files.AnnDataFile.kind):
            return ZARR, stores.open_store(path)
    return FILES, None


def _recognise(medium: str, path: Path, root: Any) -> Format | None:
    """Return the first row that recognises what is open, or a path."""
    content = path if root is None else root
    with nullcontext() if medium == FILES else one_line(path, medium):
        return next((f for f in FORMATS if f.medium == medium and f.recognise(content)), None)


def _files_of(path: Path) -> list[Path]:
    """List what is read for a path: a file, those of a matrix.mtx, or all of a folder.

    Of a Zarr store the folders count, too, since their time tells that a chunk was replaced. Of
    more than :data:`MOST_FILES` the first are taken, those at the top before those within.
    """
    if path.is_file() and not (tenx.is_folder(path) or folders.is_layout(path)):
        return [path]
    folder = tenx.folder_of(path)
    is_store = stores.is_store(folder)
    if not is_store:
        parts = (*tenx.MATRIX, *tenx.FEATURES, *tenx.BARCODES)
        named = [entry for entry in folder.iterdir() if entry.name.endswith(parts)]
        if named:
            return named[:MOST_FILES]
    places = [folder]
    for place in places:  # which grows: breadth first
        if place.is_dir() and not place.is_symlink():
            places += islice(place.iterdir(), MOST_FILES - len(places))
    return places if is_store else [place for place in places if place.is_file()]


def _unknown(path: Path, medium: str) -> InputError:
    """Return the error of what no row recognises."""
    if medium == HDF5:
        return InputError(f"{path} has no 'obs'", expected="an AnnData file", do="check the file")
    if path.is_dir():
        streamed = (row for row in FORMATS if row.count_values is None)
        inside = folders.within(path, tuple(s for row in streamed for s in row.suffixes))
        return InputError(
            f"{path} is a folder without {tenx.MATRIX[0]} or a Zarr store",
            expected=listed_formats(),
            do=f"give what is in it: {' or '.join(inside)}" if inside else "check the path",
        )
    is_mtx = path.name.endswith((".mtx", ".mtx.gz"))
    if not path.name.endswith(".mtx.gz"):
        packed.refuse(path)
    if is_mtx:
        return InputError(
            f"{path} is a matrix without names of genes and cells",
            expected=f"a {tenx.FOLDER}",
            do="give the folder, with files of these names",
        )
    return InputError(
        f"{path} is not an HDF5 file ({path.stat().st_size} bytes)",
        expected=listed_formats(),
        do="check that it was copied to its end, or convert it",
    )
