"""Readers: files and objects behind one protocol, :class:`Query`, that yields CSR row blocks."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from scbignn_infer.errors import InputError, reason
from scbignn_infer.query.identity import Identity
from scbignn_infer.query.readers.query import (
    INDEX,
    AnnDataQuery,
    FileQuery,
    MatrixQuery,
    Query,
    RowRange,
    one_line,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from scbignn_infer.query.readers.containers import Members
    from scbignn_infer.settings import Orientation

__all__ = ["INDEX", "AnnDataQuery", "FileQuery", "MatrixQuery", "Query", "RowRange", "open_query"]
FORMATS = (
    "a .h5ad or .h5mu file, a Zarr store of AnnData, an .h5 or a matrix.mtx folder of Cell Ranger, "
    "a .loom file, or a table (.csv, .tsv)"
)
ZARR_FILES = (".zgroup", ".zattrs", "zarr.json")
MOST_FILES = 4096
"""Files of a store whose identity is kept."""
OF_OTHER_PROGRAMS = (".rds", ".rda", ".rdata", ".h5seurat", ".xlsx", ".xls")


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
    from scbignn_infer.query.readers import folders
    from scbignn_infer.query.readers.containers import Members

    path = Path(path)
    if not path.exists():
        raise InputError(f"no file {path}", expected=FORMATS, do="check the path")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is no plain file", expected=FORMATS, do="save it as a file first")
    members = Members(modality, table)
    try:
        path = folders.place_of(path)
        seen = Identity.of(path, _files_of(path))
        if path.is_dir():
            query = _open_folder(path, members, most_bytes)
        else:
            query = _open_file(path, known_genes, orientation, members, most_bytes)
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({reason(error)})",
            expected="a file that may be read",
            do="check its permissions",
        ) from None
    query.identity = seen
    if query.descriptor is not None:
        try:
            seen.check_descriptor(query.descriptor)
        except InputError:
            query.close()
            raise
    return query


def _files_of(path: Path) -> list[Path]:
    """List what is read for a path: a file, those of a matrix.mtx, or all of a folder.

    Of a Zarr store the folders count, too, since their time tells that a chunk was replaced. Of
    more than :data:`MOST_FILES` the first are taken, those at the top before those within.
    """
    from scbignn_infer.query.readers import folders, tenx

    one_of_several = path.name.endswith(tenx.MATRIX) or folders.find_layout(path)
    if path.is_file() and not one_of_several:
        return [path]
    folder = path if path.is_dir() else path.parent
    is_store = any((folder / name).exists() for name in ZARR_FILES)
    if not is_store:
        parts = (*tenx.MATRIX, *tenx.FEATURES, *tenx.BARCODES)
        named = [entry for entry in folder.iterdir() if entry.name.endswith(parts)]
        if named:
            return named[:MOST_FILES]
    found = [folder]
    for place in found:  # which grows: breadth first
        if place.is_dir() and not place.is_symlink():
            found += islice(place.iterdir(), MOST_FILES - len(found))
    return found if is_store else [entry for entry in found if entry.is_file()]


def _open_folder(folder: Path, members: Members, most_bytes: int | None) -> FileQuery:
    from scbignn_infer.query.readers import containers, folders, tenx

    if any((folder / name).exists() for name in ZARR_FILES):
        return _open_zarr(folder, members, most_bytes)
    containers.refuse_members(folder, members)
    layout = folders.find_layout(folder)
    if layout is not None:
        return folders.read_layout(folder, layout, most_bytes)
    files = tenx.find_folder(folder)
    if files is None:
        inside = folders.within(folder)
        raise InputError(
            f"{folder} is a folder without {tenx.MATRIX[0]} or a Zarr store",
            expected=FORMATS,
            do=f"give what is in it: {' or '.join(inside)}" if inside else "check the path",
        )
    return tenx.read_folder(folder, files, most_bytes)


def _open_zarr(path: Path, members: Members, most_bytes: int | None) -> FileQuery:
    from scbignn_infer.query.readers import anndata_files, containers

    root = anndata_files.zarr_root(path)
    with one_line(path, "Zarr store"):
        container = containers.container_of(root)
    if container is not None:
        return containers.open_member(path, root, container, members, most_bytes)
    containers.refuse_members(path, members)
    return anndata_files.AnnDataFile(path, root, anndata_files.ZARR, most_bytes)


def _open_file(
    path: Path,
    known_genes: Collection[str],
    orientation: Orientation | None,
    members: Members,
    most_bytes: int | None,
) -> FileQuery:
    import h5py

    from scbignn_infer.query.readers import containers, folders, packed, tables, tenx

    if path.suffix.lower() in OF_OTHER_PROGRAMS:
        raise InputError(
            f"{path} is a file of another program", expected=FORMATS, do=f"convert it; {IN_R}"
        )
    if path.suffix == ".tar":  # which passes for HDF5, if a file of that is the first in it
        packed.refuse(path)
    if h5py.is_hdf5(path):
        return _open_hdf5(path, members, most_bytes)
    if path.name.lower().endswith(".zarr.zip"):
        return _open_zarr(path, members, most_bytes)
    containers.refuse_members(path, members)
    layout = folders.find_layout(path)
    if layout is not None:
        return folders.read_layout(path.parent, layout, most_bytes)
    if path.name.endswith(tenx.MATRIX):
        return _open_folder(path.parent, members, most_bytes)
    if tables.is_table(path):
        return tables.read_table(path, known_genes, orientation, most_bytes=most_bytes)
    packed_mtx = path.name.endswith(".mtx.gz")
    if not packed_mtx:
        packed.refuse(path)
    if packed_mtx or path.suffix == ".mtx":
        raise InputError(
            f"{path} is a matrix without names of genes and cells",
            expected=f"a {tenx.FOLDER}",
            do="give the folder, with files of these names",
        )
    size = path.stat().st_size
    raise InputError(
        f"{path} is not an HDF5 file ({size} bytes)",
        expected=FORMATS,
        do="check that it was copied to its end, or convert it",
    )


def _open_hdf5(path: Path, members: Members, most_bytes: int | None) -> FileQuery:
    from scbignn_infer.query.containment import open_hdf5, refuse_endless_heaps
    from scbignn_infer.query.readers import anndata_files, containers, loom, tenx

    refuse_endless_heaps(path)
    with one_line(path, "HDF5 file"), open_hdf5(path) as file:
        is_loom, is_tenx = loom.is_loom(file), tenx.is_h5(file)
        container = containers.container_of(file)
    if container is containers.MUDATA and not (is_loom or is_tenx):
        return containers.open_h5(path, container, members, most_bytes)
    containers.refuse_members(path, members)
    if is_loom:
        return loom.LoomQuery(path, most_bytes)
    if is_tenx:
        return tenx.H5Query(path, most_bytes)
    return anndata_files.open_h5ad(path, most_bytes)


IN_R = "in R: zellkonverter::writeH5AD(as.SingleCellExperiment(object), 'cells.h5ad')"
