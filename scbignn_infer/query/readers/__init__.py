"""Readers: files and objects behind one protocol, :class:`Query`, that yields CSR row blocks."""

from scbignn_infer.query.readers.columns import INDEX
from scbignn_infer.query.readers.files import FileQuery, HeldFile, Source, one_line
from scbignn_infer.query.readers.formats import (
    FORMATS,
    Format,
    open_query,
    values_held,
    without_suffixes,
)
from scbignn_infer.query.readers.query import AnnDataQuery, MatrixQuery, Query, RowRange

__all__ = [
    "FORMATS",
    "INDEX",
    "AnnDataQuery",
    "FileQuery",
    "Format",
    "HeldFile",
    "MatrixQuery",
    "Query",
    "RowRange",
    "Source",
    "one_line",
    "open_query",
    "values_held",
    "without_suffixes",
]
