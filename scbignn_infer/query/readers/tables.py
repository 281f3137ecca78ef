"""Text tables (.csv, .tsv, .txt, also .gz): cells x genes or genes x cells."""

from __future__ import annotations

import codecs
import csv
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.readers.bounds import LINE_BYTES, refuse_text, unpacked
from scbignn_infer.query.readers.columns import as_text, known_names, read_text
from scbignn_infer.query.readers.files import HeldFile

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad
    import pandas as pd

    from scbignn_infer.settings import Orientation

SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}
"""Suffixes and what separates their columns."""
SEPARATORS = (",", "\t", ";", " ")
NO_CELLS = ("Chr", "Start", "End", "Strand", "Length")
"""Columns of featureCounts that say where a gene is and how long."""
NO_GENES = (
    "__no_feature",
    "__ambiguous",
    "__too_low_aQual",
    "__not_aligned",
    "__alignment_not_unique",
)
"""Rows of htseq-count with reads of no gene."""
COSMX = ("fov", "cell_id")
"""Columns of CosMx that name a cell together, in lower case."""
CONTROL = re.compile(r"(Blank-|NegPrb|Negative|SystemControl|FalseCode)\d+")
"""Names of probes of MERSCOPE and CosMx that no gene has, which tell how much is noise."""
COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?|[+-]?\d{1,3}(?:,\d{3})+")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
COLUMNS = 100
"""So many columns show what a comma means."""
CLEARLY = 5
"""So many times more known genes must stand along one side than along the other."""
ENOUGH = 10
"""So many must be known, or half of a side's names."""


def is_table(path: Path) -> bool:
    """Tell by its name whether a file is a text table."""
    return _suffix(path) in SUFFIXES


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def count_values(path: Path) -> int:
    """Return about how many values a text table has: its size, by its second line."""
    size = path.stat().st_size
    if path.suffix == ".gz":
        with open(path, "rb") as raw:
            raw.seek(-4, os.SEEK_END)
            size = max(size, int.from_bytes(raw.read(4), "little"))  # as gzip notes it
    with unpacked(path) as file:
        file.readline(LINE_BYTES)
        line = file.readline(LINE_BYTES)
    columns = max(line.count(mark.encode()) for mark in SEPARATORS)
    return size * columns // max(len(line), 1)


class TableFile(HeldFile):
    """A text table."""

    kind = "table of numbers with a header line and a first column of names"

    def _load(self) -> ad.AnnData:
        import anndata as ad
        import pandas as pd

        refuse_text(self.path, self._most)
        table, self.notes = _cells_and_genes(_read(self.path))
        table = self._with_first_gene(table)
        self._refuse_text(table)
        table.index = table.index.astype(str).rename(None)
        if self._orientation(table) == "genes-by-cells":
            table = table.T
        controls = [CONTROL.fullmatch(str(name)) is not None for name in table.columns]
        if any(controls):
            table = table.loc[:, np.invert(controls)]
            self.notes.append(f"control probes are no genes and are left out: {sum(controls)}")
        values = sp.csr_matrix(table.to_numpy(dtype=np.float32))
        obs, var = pd.DataFrame(index=table.index), pd.DataFrame(index=table.columns)
        return ad.AnnData(values, obs=obs, var=var)

    def _with_first_gene(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table whose first column was taken for names and is a gene, with that gene.

        So it is if the column is called as a gene and holds numbers, some of them more than once.
        """
        gene = str(table.index.name or "")
        if not known_names([gene], self._source.known_genes) or table.index.is_unique:
            return table
        try:
            values = table.index.to_numpy().astype(np.float64)
        except ValueError:
            return table
        note = f"the first column is the gene {gene}: cells are named by their rows"
        self.notes = [*self.notes, note]
        table = table.set_axis([str(i) for i in range(len(table))], axis=0).rename_axis(None)
        table.insert(0, gene, values)
        return table

    def _refuse_text(self, table: pd.DataFrame) -> None:
        text = [str(name) for name, kind in table.dtypes.items() if kind.kind not in "biuf"]
        if text:
            raise InputError(
                f"{self.path} has {len(text)} columns that are not numbers ({', '.join(text[:3])})",
                expected=f"a {self.kind}",
                do="leave out annotations of cells and genes, and use a point for decimals",
            )
        if 0 in table.shape:
            raise InputError(
                f"{self.path} holds {table.shape[0]} rows and {table.shape[1]} columns of numbers",
                expected=f"a {self.kind}",
                do="check what separates its columns",
            )

    def _orientation(self, table: pd.DataFrame) -> Orientation:
        if self._source.orientation is not None:
            return self._source.orientation
        down, across = (
            known_names(names, self._source.known_genes) for names in (table.index, table.columns)
        )
        if across >= max(CLEARLY * down, min(ENOUGH, table.shape[1] / 2)):
            return "cells-by-genes"
        if down >= max(CLEARLY * across, min(ENOUGH, table.shape[0] / 2)):
            return "genes-by-cells"
        raise InputError(
            f"{self.path} names {down} known genes in its first column "
            f"({', '.join(table.index[:3])}) and {across} in its first line "
            f"({', '.join(table.columns[:3])})",
            expected="gene names along one side",
            do="say which with --orientation cells-by-genes or genes-by-cells",
        )


def _read(path: Path) -> pd.DataFrame:
    """Read a table of numbers, whatever separates its columns and its decimals."""
    skipped, header = _header(path)
    usual = SUFFIXES[_suffix(path)]
    separators = [usual, *(s for s in SEPARATORS if s != usual)]
    separators.sort(key=lambda s: -len(_split(header, s)) if usual not in header else 0)
    table = _read_with(path, skipped, header, separators[0])
    for separator in separators[1:] if table.shape[1] < 2 else ():
        if len(_split(header, separator)) > 1:
            again = _read_with(path, skipped, header, separator)
            table = again if again.shape[1] > table.shape[1] else table
    return table


def _header(path: Path) -> tuple[int, str]:
    """Return how many lines come before the header, and the header.

    Lines that begin with # are notes of the program that wrote the table, but for the last one
    where it has as many columns as the line after it.
    """
    with unpacked(path) as file:
        lines = [file.readline()]
        while lines[-1].startswith(b"#") or (lines[-1] and not lines[-1].strip()):
            lines.append(file.readline())
    if not lines[-1]:
        raise ValueError("it has no line of names")
    if b"\0" in lines[-1]:
        raise ValueError("it is no text in UTF-8")
    text = [re.split(r"[\r\n]", as_text(line.removeprefix(codecs.BOM_UTF8)))[0] for line in lines]
    if (
        len(text) > 1
        and text[-2].startswith("#")
        and any(text[-2].count(s) == text[-1].count(s) > 0 for s in SEPARATORS[:3])
    ):
        text.pop()
    return len(text) - 1, text[-1]


def _split(header: str, separator: str) -> list[str]:
    return next(csv.reader([header], delimiter=separator), [])


def _read_with(path: Path, skipped: int, header: str, separator: str) -> pd.DataFrame:
    """Read a table with one separator; the names in its first line stay as they are, if double."""
    import pandas as pd

    how: dict[str, Any] = {"sep": separator, "header": None, "low_memory": False}
    table = _named_rows(path, skipped, **how)
    if decimal := _decimal_commas(path, table, separator):
        table = _named_rows(path, skipped, decimal=decimal, **how)
    names = _split(header, separator)
    if len(names) == table.shape[1] + 1:  # else, as R writes it, the first column has no name
        table.index.name, names = names[0], names[1:]
    if len(names) != table.shape[1]:
        raise ValueError(f"its first line has {len(names)} names, for {table.shape[1]} columns")
    table.columns = pd.Index(names)
    ends_in_separator = bool(names) and not names[-1] and table.iloc[:, -1].isna().all()
    return table.iloc[:, :-1] if ends_in_separator else table


def _named_rows(path: Path, skipped: int, **how: Any) -> pd.DataFrame:
    """Read the lines after the first; names stay as they are: 0001, 1e3 and NA are no numbers.

    Some versions of pandas take a text such as NA for a missing value even after a converter. So
    each name has a sign before it until it is read.
    """
    table = read_text(path, skiprows=skipped + 1, converters={0: "=".__add__}, **how)
    first = table.columns[0]
    names = [name[1:] for name in table[first]]
    return table.set_index(first).set_axis(names, axis=0)


def _decimal_commas(path: Path, table: pd.DataFrame, separator: str) -> str:
    """Return a comma where it stands before the decimals of the numbers of a table."""
    if separator == "," or table.empty:
        return ""
    text = table.loc[:, [kind.kind not in "biuf" for kind in table.dtypes]].iloc[:, :COLUMNS]
    seen = {str(v) for _, column in text.items() for v in column.dropna().unique() if "," in str(v)}
    if not seen or not all(COMMA.fullmatch(value) for value in seen):
        return ""
    if all(THOUSANDS.fullmatch(value) for value in seen):
        raise InputError(
            f"{path} has numbers such as {min(seen)}, whose comma may part thousands or decimals",
            expected="numbers such as 1234.5",
            do="write the table without commas in its numbers",
        )
    return ","


def _cells_and_genes(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return a table without what is no gene and no cell, and what is to be said of that."""
    rows, columns = table.index.isin(NO_GENES), table.columns.isin(NO_CELLS)
    if rows.any() or columns.any():
        table = table.loc[~rows, ~columns]
    names = [table.index.name, *table.columns]
    named = {str(name).lower(): name for name in reversed(names)}  # cell_ID before cell_id
    if not named.keys() >= set(COSMX):
        return table, []
    if str(table.index.name).lower() in COSMX:
        table = table.reset_index()
    field, cell = (table.pop(named[name]) for name in COSMX)
    table.index = field.astype(str) + "_" + cell.astype(str)
    outside = (cell.astype(str) == "0").to_numpy()
    n = int(outside.sum())
    note = f"rows with the cell_ID 0 hold what lies in no cell and are left out: {n}"
    return table.loc[~outside], [note] if n else []
