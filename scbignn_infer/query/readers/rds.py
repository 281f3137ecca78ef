"""R's objects in ``.rds`` files: Seurat, SingleCellExperiment and plain matrices of genes x cells.

The package rds2py turns a file into nested dictionaries of what R stores; nothing in it is run.
Seurat 3 and 4 keep ``counts`` and ``data`` of an assay in slots. Seurat 5 keeps them in a list of
layers, which may be split by sample: ``counts.a`` and ``counts.b`` hold different cells.
"""

from __future__ import annotations

import contextlib
import gzip
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError, MissingExtraError
from scbignn_infer.query.readers.bounds import refuse_many, too_much
from scbignn_infer.query.readers.files import HeldFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import anndata as ad

    from scbignn_infer._types import Array

    Node = dict[str, Any]

GZIP, OTHERS = b"\x1f\x8b", {b"BZ": "bzip2", b"\xfd7": "xz"}
"""How R packs files, by their first two bytes; only gzip is read."""
HEADS = (b"X\n", b"A\n", b"B\n")
"""How an unpacked file begins: by the encodings that R has."""
VALUE_BYTES = 12
"""Of a value of a sparse matrix with its place."""
UNPACK_BYTES = 1 << 22
NAMES = ("counts", "logcounts", "normcounts", "data")
"""Matrices that are read of several, the first of them as X."""
SPARSE = ("dgCMatrix", "lgCMatrix", "ngCMatrix")
MATRIX = "matrix"


class Table(NamedTuple):
    """An object of R with cells: matrices (n_genes, n_cells) by name, and what names its sides."""

    matrices: dict[str, sp.csc_matrix]
    genes: list[str]
    cells: list[str]
    columns: dict[str, list[Any]]
    assay: str = ""
    others: tuple[str, ...] = ()


def is_rds(path: Path) -> bool:
    """Tell whether a path is a file of one object of R, by its name."""
    return path.is_file() and path.name.lower().endswith(".rds")


def count_values(path: Path) -> int:
    """Guess the values that a file holds by its size unpacked, which gzip's last bytes say."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(-4, io.SEEK_END)
        size = int.from_bytes(file.read(4), "little") if packed else path.stat().st_size
    return max(size, path.stat().st_size) // VALUE_BYTES


class RdsFile(HeldFile):
    """An object of R, which is read whole."""

    kind = ".rds file of a Seurat object, a SingleCellExperiment or a matrix"

    def _load(self) -> ad.AnnData:
        import anndata as ad
        import pandas as pd

        check_packing(self.path, self._most)
        table = table_of(_parse(self.path))
        refuse_many(self.name, len(table.genes) + len(table.cells), self._most)
        names = [n for n in NAMES if n in table.matrices] or list(table.matrices)
        rows = {name: sp.csr_matrix(table.matrices[name].T) for name in names}
        obs = pd.DataFrame(table.columns, index=pd.Index(table.cells, dtype=object))
        self.notes = _notes(table, names)
        return ad.AnnData(
            rows.pop(names[0]),
            obs=obs,
            var=pd.DataFrame(index=pd.Index(table.genes, dtype=object)),
            layers=rows,
        )


def _notes(table: Table, names: list[str]) -> list[str]:
    """Say what was taken of the object."""
    of_assay = f" of the assay {table.assay}" * bool(table.assay)
    said = [f"X is '{names[0]}'{of_assay}"] if of_assay or len(names) > 1 else []
    if table.others:
        said.append(f"other assays are left out: {', '.join(table.others)}")
    return said


def check_packing(path: Path, most: int) -> None:
    """Refuse what R did not write, packs in another way, or is too large once it is unpacked."""
    with path.open("rb") as file:
        head = file.read(2)
    if head in OTHERS:
        raise InputError(
            f"{path} is packed with {OTHERS[head]}",
            expected="an .rds file as saveRDS() packs it by default, with gzip",
            do="save the object again with saveRDS(object, 'cells.rds')",
        )
    with gzip.open(path) if head == GZIP else path.open("rb") as stream:
        start = stream.read(2)
        if start not in HEADS:
            raise InputError(
                f"{path} is no .rds file",
                expected="one that R's saveRDS() wrote",
                do="save the object again with saveRDS(object, 'cells.rds')",
            )
        size = len(start)
        while chunk := stream.read(UNPACK_BYTES):
            size += len(chunk)
            if size > most:
                raise too_much(f"{path}, unpacked,", size, most)


def _parse(path: Path) -> Node:
    """Return what R stored."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which packages it misses
            from rds2py.rdsutils import parse_rds
    except ImportError:
        raise MissingExtraError("rds2py", extra="r", purpose="reading .rds files") from None
    node: Node = parse_rds(str(path))
    return node


def table_of(node: Node) -> Table:
    """Return the cells of an object, whichever of the known classes it is of."""
    name = node.get("class_name")
    slots = node.get("attributes") or {}
    if name == "Seurat":
        return _seurat(slots)
    if "assays" in slots and "colData" in slots:  # also of classes made of SingleCellExperiment
        return _experiment(slots)
    if name in SPARSE or "dim" in slots:
        matrix, genes, cells = _matrix(node)
        return _table({MATRIX: matrix}, genes, cells, {})
    raise InputError(
        f"an object of the class {name or node.get('type')}",
        expected="a Seurat object, a SingleCellExperiment, or a matrix of genes x cells",
        do="save one of these, or the counts: saveRDS(counts, 'cells.rds')",
    )


def _seurat(slots: Mapping[str, Node]) -> Table:
    """Return the default assay of a Seurat object."""
    assays = _named(slots["assays"])
    wanted = _strings(slots["active.assay"])[0]
    if wanted not in assays:
        raise InputError(
            f"the default assay '{wanted}'",
            expected=f"one of {', '.join(assays) or 'the assays, of which there are none'}",
            do="set it in R: DefaultAssay(object) <- 'RNA'",
        )
    assay = assays[wanted]
    obs, cells = _data_frame(slots["meta.data"])
    inner = assay.get("attributes") or {}
    read = _layers(inner, cells) if "layers" in inner else _slots(inner)
    others = tuple(name for name in assays if name != wanted)
    found = _table(*read, obs)
    order = {cell: i for i, cell in enumerate(cells)}
    if any(cell not in order for cell in found.cells):
        raise ValueError("an assay has cells that meta.data lacks")
    rows = [order[cell] for cell in found.cells]
    columns = {name: [values[i] for i in rows] for name, values in obs.items()}
    return found._replace(columns=columns, assay=wanted, others=others)


def _slots(assay: Mapping[str, Node]) -> tuple[dict[str, sp.csc_matrix], list[str], list[str]]:
    """Return the matrices of an assay of Seurat 3 or 4."""
    found: dict[str, sp.csc_matrix] = {}
    genes, cells = list[str](), list[str]()
    for name in ("counts", "data"):
        matrix, rows, columns = _matrix(assay[name])
        if not matrix.shape[1]:  # an assay may have one of both alone
            continue
        if found and (rows, columns) != (genes, cells):
            continue
        found[name], genes, cells = matrix, rows, columns
    return found, genes, cells


def _layers(
    assay: Mapping[str, Node], order: list[str]
) -> tuple[dict[str, sp.csc_matrix], list[str], list[str]]:
    """Return the matrices of an assay of Seurat 5, those of one kind side by side."""
    layers = _named(assay["layers"])
    genes, has_gene, kinds = _map(assay["features"])
    cells, has_cell, _ = _map(assay["cells"])
    found: dict[str, sp.csc_matrix] = {}
    place = {cell: i for i, cell in enumerate(cells)}
    for kind in ("counts", "data"):
        whole = sp.csc_matrix((len(genes), len(cells)))
        parts = [k for k in layers if k == kind or k.startswith(f"{kind}.")]
        held = np.zeros(len(cells), dtype=int)
        for name in parts:
            matrix = _matrix(layers[name])[0]
            at = kinds.index(name)
            its_genes, its_cells = np.flatnonzero(has_gene[:, at]), np.flatnonzero(has_cell[:, at])
            held[its_cells] += 1
            put = matrix.tocoo()
            where = its_genes[put.row], its_cells[put.col]
            whole = whole + sp.csc_matrix((put.data, where), shape=whole.shape)
        if (held > 1).any():
            raise ValueError(f"several layers of {kind} have the same cells")
        if parts and (held == 1).all():
            found[kind] = sp.csc_matrix(whole)
    if not found:
        raise InputError(
            f"the layers {', '.join(layers) or 'of nothing'}",
            expected="counts or data, which together have all cells",
            do="join them in R: object <- JoinLayers(object)",
        )
    kept = [cell for cell in order if cell in place]
    if len(kept) == len(cells):
        columns = [place[cell] for cell in kept]
        found, cells = {k: sp.csc_matrix(m[:, columns]) for k, m in found.items()}, kept
    return found, genes, cells


def _map(node: Node) -> tuple[list[str], Array, list[str]]:
    """Return names of a side, which layer has which (n, layers), and the names of the layers."""
    slots = node["attributes"]
    inner = node if "dim" in slots else slots[".Data"]
    names, layers = (_strings(part) for part in inner["attributes"]["dimnames"]["data"])
    values = np.asarray(_of(inner), dtype=bool).reshape((len(names), len(layers)), order="F")
    return names, values, layers


def _experiment(slots: Mapping[str, Node]) -> Table:
    """Return the assays of a SingleCellExperiment."""
    stored = slots["assays"]["attributes"]["data"]
    assays = _named(stored["attributes"]["listData"])
    obs, cells = _frame(slots["colData"])
    genes = _gene_names(slots)
    found: dict[str, sp.csc_matrix] = {}
    for name, node in assays.items():
        if node.get("class_name") not in SPARSE and "dim" not in (node.get("attributes") or {}):
            continue  # on disk, or of a class that is not known
        matrix, rows, columns = _matrix(node)
        genes, cells = genes or rows, cells or columns
        found[name or MATRIX] = matrix
    if not found:
        raise InputError(
            f"the assays {', '.join(assays) or 'of nothing'}",
            expected="a matrix in memory (dgCMatrix or matrix)",
            do="make one in R: counts(object) <- as(counts(object), 'dgCMatrix')",
        )
    others = tuple(name for name in found if name not in NAMES) if set(found) & {*NAMES} else ()
    return _table(found, genes, cells, obs)._replace(others=others)


def _gene_names(slots: Mapping[str, Node]) -> list[str]:
    """Return the names of the rows, wherever the class keeps them."""
    ranges = (slots.get("rowRanges") or {}).get("attributes") or {}
    inner = (ranges.get("partitioning") or ranges.get("ranges") or {}).get("attributes") or {}
    for node in (slots.get("NAMES"), inner.get("NAMES")):
        if node and node["type"] == "string":
            return _strings(node)
    return []


def _table(
    matrices: dict[str, sp.csc_matrix],
    genes: list[str],
    cells: list[str],
    columns: dict[str, list[Any]],
) -> Table:
    """Return a table whose sides have names and fit together."""
    if not genes or not cells:
        raise InputError(
            "an object without names of genes or of cells",
            expected="rownames and colnames",
            do="name them in R: rownames(object) <- genes; colnames(object) <- cells",
        )
    for name, matrix in matrices.items():
        if matrix.shape != (len(genes), len(cells)):
            raise ValueError(f"{name} has the shape {tuple(map(int, matrix.shape))}")
    fitting = {k: v for k, v in columns.items() if len(v) == len(cells)}
    return Table(matrices, genes, cells, fitting)


def _matrix(node: Node) -> tuple[sp.csc_matrix, list[str], list[str]]:
    """Return a matrix with the names of its rows and columns, which may be none."""
    slots = node.get("attributes") or {}
    if node.get("class_name") in SPARSE:
        shape = _shape(slots["Dim"])
        names = slots["Dimnames"]["data"]
        index, pointer = (np.asarray(_of(slots[k]), np.int64) for k in ("i", "p"))
        values = np.asarray(_of(slots["x"]), np.float32) if "x" in slots else np.ones(len(index))
        matrix = sp.csc_matrix((values.astype(np.float32), index, pointer), shape=shape)
        matrix.check_format(full_check=True)
    elif "dim" in slots:
        shape = _shape(slots["dim"])
        matrix = sp.csc_matrix(np.asarray(_of(node), np.float32).reshape(shape, order="F"))
        names = (slots.get("dimnames") or {}).get("data") or [{}, {}]
    else:
        raise InputError(
            f"a matrix of the class {node.get('class_name') or node.get('type')}",
            expected="a dgCMatrix or a matrix",
            do="make one in R: as(counts, 'dgCMatrix')",
        )
    rows, columns = (_strings(part) if part.get("type") == "string" else [] for part in names)
    return matrix, rows, columns


def _shape(node: Node) -> tuple[int, int]:
    n_rows, n_columns = map(int, _of(node))
    return n_rows, n_columns


def _frame(node: Node) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the columns and row names of a DataFrame of Bioconductor."""
    slots = node["attributes"]
    names = slots.get("rownames") or {}
    columns = {k: _values(v) for k, v in _named(slots["listData"]).items() if _is_column(v)}
    return columns, _strings(names) if names.get("type") == "string" else []


def _data_frame(node: Node) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the columns and row names of a data.frame."""
    names = node["attributes"]["row.names"]
    if names["type"] == "string":
        cells = _strings(names)
    else:  # R numbers them
        cells = [str(i + 1) for i in range(len(_of(names)))]
    return {k: _values(v) for k, v in _named(node).items() if _is_column(v)}, cells


def _is_column(node: Node) -> bool:
    return node.get("type") in ("integer", "double", "boolean", "string")


def _values(node: Node) -> list[Any]:
    """Return the values of a vector; those of a factor by their names."""
    levels = (node.get("attributes") or {}).get("levels")
    if levels is None:
        return list(_of(node))
    names = np.array(["", *_strings(levels)], dtype=object)
    codes = np.nan_to_num(np.asarray(_of(node), np.float64), nan=0).astype(np.int64)
    return list(names[codes])


def _named(node: Node) -> dict[str, Node]:
    """Return the elements of a list by their names."""
    names = (node.get("attributes") or {}).get("names")
    labels = _strings(names) if names else [""] * len(node["data"])
    return dict(zip(labels, node["data"], strict=True))


def _strings(node: Node) -> list[str]:
    return ["" if value is None else str(value) for value in _of(node)]


def _of(node: Node) -> Any:
    """Return the data of a vector."""
    return node["data"]
