"""Write an annotation as a table."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np

from scbignn_infer.annotation.rows import Rows
from scbignn_infer.output import decimals
from scbignn_infer.output.elements import Categories
from scbignn_infer.plain import encodable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from scbignn_infer._types import Array


TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx")
TEXT_SUFFIXES = TABLE_SUFFIXES[:2]
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet that opens a text table may run what begins with one of these."""
SEPARATORS = {".tsv": "\t"}
"""By suffix; a comma for others."""
INDEX = "cell"
"""What the column of the cells' names is called."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Table:
    """Columns by name, numbers or strings, with a row a cell."""

    cells: Sequence[str]
    columns: Mapping[str, Any]

    @property
    def titles(self) -> list[str]:
        """Titles of the columns, the cells' names first."""
        return [INDEX, *self.columns]

    def values(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows, numbers as short as in text."""
        columns = [
            v if isinstance(v, Categories) or v.dtype == object else v.astype(str).astype(float)
            for v in self.columns.values()
        ]
        yield from zip(self.cells, *columns, strict=True)

    def warnings(self) -> list[str]:
        """Return what whoever opens the table as text in a spreadsheet should know."""
        return formula_warnings(self.texts())

    def texts(self) -> Iterator[str]:
        """Yield the names of the cells, and the categories of columns."""
        yield from self.cells
        for values in self.columns.values():
            yield from values.categories if isinstance(values, Categories) else ()

    def write_text(self, file: TextIO, separator: str = ",") -> None:
        """Write text as pandas does, which would take long to be imported."""
        form: dict[str, Any] = {"delimiter": separator, "lineterminator": os.linesep}
        writer = csv.writer(file, **form)
        writer.writerow(self.titles)
        for i in range(0, len(self.cells), ROWS_AT_ONCE):
            block = slice(i, i + ROWS_AT_ONCE)
            texts = [self.cells[block], *(_text(v, block) for v in self.columns.values())]
            joined = "".join(map("".join, texts))
            rows = zip(*texts, strict=True)
            if "\r" in joined:  # Python 3.11's writer leaves it bare, and readers end the row there
                csv.writer(file, quoting=csv.QUOTE_ALL, **form).writerows(rows)
            elif any(mark in joined for mark in (separator, '"', "\n")):
                writer.writerows(rows)
            else:  # in half of the time
                file.writelines(f"{separator.join(row)}{os.linesep}" for row in rows)

    def as_pandas(self) -> pd.DataFrame:
        """Return the same in pandas."""
        import pandas as pd

        columns = {
            name: values.as_pandas() if isinstance(values, Categories) else values
            for name, values in self.columns.items()
        }
        return pd.DataFrame(columns, index=pd.Index(self.cells, name=INDEX))


def _text(values: Any, rows: slice) -> list[str]:
    """Return some rows of a column as text; what is missing is empty."""
    if isinstance(values, Categories):
        return list(Categories(values.codes[rows], values.categories))
    if values.dtype == object:
        return list(values[rows])
    text = np.where(values[rows] == values[rows], decimals.texts(values[rows]), "")
    return cast("list[str]", text.tolist())


def write_table(table: Table, path: Path, suffix: str) -> None:
    """Write a table as ``.csv``, ``.tsv`` or ``.parquet``."""
    if suffix == ".parquet":
        with open(path, "r+b") as file:
            table.as_pandas().to_parquet(file)  # without the name, which pyarrow wants in UTF-8
        return
    with open(path, "w", encoding="utf-8", newline="") as text:
        table.write_text(text, SEPARATORS.get(suffix, ","))


def write_rows(
    path: Path, suffix: str, titles: Sequence[str], rows: Iterable[Sequence[Any]]
) -> list[str]:
    """Write texts and numbers as ``.csv`` or ``.tsv``, and return the warnings of the texts."""
    form: dict[str, Any] = {"delimiter": SEPARATORS.get(suffix, ","), "lineterminator": os.linesep}
    odd: dict[str, None] = {}
    with open(path, "w", encoding="utf-8", newline="") as text:
        plain, quoting = csv.writer(text, **form), csv.writer(text, quoting=csv.QUOTE_ALL, **form)
        for row in chain([titles], rows):
            values = [encodable(v) if isinstance(v, str) else v for v in row]
            texts = [v for v in values if isinstance(v, str)]
            odd |= dict.fromkeys(v for v in texts if v.startswith(FORMULA))
            bare = any("\r" in v for v in texts)  # as in Table.write_text
            (quoting if bare else plain).writerow(values)
    return formula_warnings(odd)


def write_blocks(
    blocks: Mapping[str, Mapping[str, Array]], path: Path, suffix: str, *, title: str
) -> list[str]:
    """Write tables of the same columns under each other, their names in a column before them."""
    titles = [title, *next(iter(blocks.values()))]
    values = {name: [c.tolist() for c in columns.values()] for name, columns in blocks.items()}
    rows = ((name, *row) for name, of in values.items() for row in zip(*of, strict=True))
    return write_rows(path, suffix, titles, rows)


def formula_warnings(texts: Iterable[str]) -> list[str]:
    """Return a warning if a spreadsheet may take some of the texts of a text table for formulas.

    The table has them as they are: whoever joins it to cells by their names finds these.
    """
    odd = list(dict.fromkeys(text for text in texts if text.startswith(FORMULA)))
    if not odd:
        return []
    names = "1 name begins" if len(odd) == 1 else f"{len(odd):,} names begin"
    said = f"{names} with =, +, - or @ ('{odd[0][:30]}')"
    do = "write .xlsx for one, or import the columns as text"
    return [f"{said}, and a spreadsheet may run them as formulas: {do}"]


def make_table(
    cell_names: Sequence[str],
    columns: Mapping[str, Any],
    probabilities: Array | Rows,
    cell_types: Sequence[str],
) -> Table:
    """Return a table with a row a cell: the columns, then the probability of each type."""
    titles = (f"probability_{c}" for c in cell_types)
    each = probabilities.columns if isinstance(probabilities, Rows) else probabilities.T
    return Table(cell_names, {**columns, **dict(zip(titles, each, strict=True))})
