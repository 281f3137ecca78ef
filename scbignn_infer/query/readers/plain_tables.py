"""Tables of an .h5ad file as almost every file has them: texts, categories of texts and numbers.

Importing anndata takes longer than labelling a small file. What is stored in any other way than
here is left to anndata, which is the measure of what is right: here ``None`` is returned.
"""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.query.readers.columns import INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer._types import Array

BLOCK = 1 << 16
"""Texts that are read at once."""
NUMBERS = "biuf"
"""Kinds of numpy's types that are no texts."""


def is_plain(table: Any) -> bool:
    """Tell whether a node of a file is a table whose names and order of columns are sound."""
    import h5py

    if not isinstance(table, h5py.Group) or _form(table) != ("dataframe", "0.2.0"):
        return False
    order, index = _order(table), table.attrs.get("_index")
    return (
        order is not None
        and isinstance(index, str)
        and all(name in table for name in (index, *order))
        and len(set(order)) == len(order)
        and index not in order
    )


def index_of(table: Any) -> list[str] | None:
    """Return the index of a plain table."""
    return _texts(table[table.attrs["_index"]])


def index_blocks(table: Any) -> Iterator[list[str]] | None:
    """Return what yields the index of a plain table in order, some texts at a time."""
    node = table[table.attrs["_index"]]
    if not _are_texts(node):
        return None
    return (node.asstr()[i : i + BLOCK].tolist() for i in range(0, len(node), BLOCK))


def text_columns(table: Any) -> dict[str, list[str]] | None:
    """Return the index and each column of texts of a plain table, as ``string_columns`` does."""
    index = index_of(table)
    if index is None:
        return None
    columns = {INDEX: index}
    for name in _order(table) or ():
        node = table[name]
        if _is_numbers(node):
            if node.shape != (len(index),):
                return None
            continue
        values = _texts(node)
        if values is None:
            values = _categories(node, missing="nan")
        if values is None or len(values) != len(index):
            return None
        columns[name] = values
    return columns


def column(table: Any, key: str) -> list[str] | None:
    """Return a column of a plain table as texts, missing values as empty ones."""
    if key not in (_order(table) or ()):
        return None
    node = table[key]
    if _is_numbers(node):
        return ["" if isinstance(v, float) and isnan(v) else str(v) for v in node[:].tolist()]
    values = _texts(node)
    return _categories(node, missing="") if values is None else values


def _form(node: Any) -> tuple[Any, Any]:
    """Return by which encoding of which version a node is stored."""
    return node.attrs.get("encoding-type"), node.attrs.get("encoding-version")


def _order(table: Any) -> list[str] | None:
    """Return the names of the columns, if they are texts."""
    if "column-order" not in table.attrs:
        return None
    names: list[Any] = np.ravel(table.attrs["column-order"]).tolist()
    return names if all(isinstance(name, str) and name for name in names) else None


def _is_numbers(node: Any) -> bool:
    return (
        _form(node) == ("array", "0.2.0")
        and len(getattr(node, "shape", None) or ()) == 1
        and node.dtype.kind in NUMBERS
    )


def _texts(node: Any) -> list[str] | None:
    """Return an array of texts."""
    return node.asstr()[:].tolist() if _are_texts(node) else None


def _are_texts(node: Any) -> bool:
    import h5py

    if not isinstance(node, h5py.Dataset) or _form(node) != ("string-array", "0.2.0"):
        return False
    kind = h5py.check_string_dtype(node.dtype)
    return kind is not None and kind.length is None and len(node.shape or ()) == 1


def _categories(node: Any, *, missing: str) -> list[str] | None:
    """Return categories of texts, each in its place."""
    import h5py

    if not isinstance(node, h5py.Group) or _form(node) != ("categorical", "0.2.0"):
        return None
    if not {"codes", "categories"} <= set(node) or not _is_numbers(node["codes"]):
        return None
    names, codes = _texts(node["categories"]), node["codes"][:]
    if names is None or len(set(names)) < len(names) or not _are_codes(codes, len(names)):
        return None
    values: list[str] = np.array([*names, missing], dtype=object)[codes].tolist()
    return values


def _are_codes(codes: Array, n: int) -> bool:
    """Tell whether these are positions of n categories, or -1."""
    whole = codes.dtype.kind in "iu"
    return bool(whole and (not len(codes) or -1 <= int(codes.min()) <= int(codes.max()) < n))
