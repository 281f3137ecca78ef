"""Readers: files and objects behind one protocol, :class:`Query`, that yields CSR row blocks."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from scbignn_infer.errors import InputError, reason
from scbignn_infer.identity import Identity
from scbignn_infer.readers.query import INDEX, AnnDataQuery, FileQuery, MatrixQuery, Query, RowRange

if TYPE_CHECKING:
    from collections.abc import Collection

    from scbignn_infer.readers.tables import Orientation

__all__ = ["INDEX", "AnnDataQuery", "FileQuery", "MatrixQuery", "Query", "RowRange", "open_query"]
FORMATS = (
    "a .h5ad file, a Zarr store of AnnData, an .h5 or a matrix.mtx folder of Cell Ranger, "
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
    most_bytes: int | None = None,
) -> FileQuery:
    """Open a file of cells; what it holds decides how, not its name.

    Parameters
    ----------
    path
        A ``.h5ad`` file, a Zarr store of AnnData, an ``.h5`` or a folder of Cell Ranger, a loom
        file or a text table.
    known_genes
        Names by which a text table shows which of its sides has the genes.
    orientation
        Of a text table: ``cells-by-genes`` or ``genes-by-cells``.
    most_bytes
        Memory that a part of the file may take where it is read whole; by default that of the
        machine.

    Raises
    ------
    InputError
        It is none of these, damaged, not one file, or larger than that.

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
        raise InputError(f"no file {path}", expected=FORMATS, do="check the path")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is no plain file", expected=FORMATS, do="save it as a file first")
    try:
        seen = Identity.of(path, _files_of(path))
        if path.is_dir():
            query = _open_folder(path, most_bytes)
        else:
            query = _open_file(path, known_genes, orientation, most_bytes)
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
    from scbignn_infer.readers import tenx

    if path.is_file() and not path.name.endswith(tenx.MATRIX):
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


def _open_folder(folder: Path, most_bytes: int | None) -> FileQuery:
    from scbignn_infer.readers import anndata_files, tenx

    if any((folder / name).exists() for name in ZARR_FILES):
        return anndata_files.open_zarr(folder, most_bytes)
    files = tenx.find_folder(folder)
    if files is None:
        raise InputError(
            f"{folder} is a folder without {tenx.MATRIX[0]} or a Zarr store",
            expected=FORMATS,
            do="check the path",
        )
    return tenx.read_folder(folder, files, most_bytes)


def _open_file(
    path: Path,
    known_genes: Collection[str],
    orientation: Orientation | None,
    most_bytes: int | None,
) -> FileQuery:
    import h5py

    from scbignn_infer.containment import open_hdf5, refuse_endless_heaps
    from scbignn_infer.readers import anndata_files, loom, tables, tenx
    from scbignn_infer.readers.query import one_line

    if path.suffix.lower() in OF_OTHER_PROGRAMS:
        raise InputError(
            f"{path} is a file of another program", expected=FORMATS, do=f"convert it; {IN_R}"
        )
    if h5py.is_hdf5(path):
        refuse_endless_heaps(path)
        with one_line(path, "HDF5 file"), open_hdf5(path) as file:
            is_loom, is_tenx = loom.is_loom(file), tenx.is_h5(file)
        if is_loom:
            return loom.LoomQuery(path, most_bytes)
        if is_tenx:
            return tenx.H5Query(path, most_bytes)
        return anndata_files.open_h5ad(path, most_bytes)
    if path.name.endswith(tenx.MATRIX):
        return _open_folder(path.parent, most_bytes)
    if path.name.lower().endswith(".zarr.zip"):
        return anndata_files.open_zarr(path, most_bytes)
    if tables.is_table(path):
        return tables.read_table(path, known_genes, orientation, most_bytes=most_bytes)
    size = path.stat().st_size
    raise InputError(
        f"{path} is not an HDF5 file ({size} bytes)",
        expected=FORMATS,
        do="check that it was copied to its end, or convert it",
    )


IN_R = "in R: zellkonverter::writeH5AD(as.SingleCellExperiment(object), 'cells.h5ad')"
