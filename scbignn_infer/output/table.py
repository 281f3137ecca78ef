"""Write an annotation as a table."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np

from scbignn_infer.output.elements import Categories

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from scbignn_infer._types import Array


TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
TEXT_SUFFIXES = TABLE_SUFFIXES[:2]
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

    def write_text(self, file: TextIO, separator: str = ",") -> None:
        """Write text as pandas does, which would take long to be imported."""
        form: dict[str, Any] = {"delimiter": separator, "lineterminator": os.linesep}
        writer = csv.writer(file, **form)
        writer.writerow([INDEX, *self.columns])
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
    text = np.where(values[rows] == values[rows], values[rows].astype(str), "")
    return cast("list[str]", text.tolist())


def write_table(table: Table, path: Path, suffix: str) -> None:
    """Write the table of an annotation as ``.csv``, ``.tsv`` or ``.parquet``."""
    if suffix == ".parquet":
        with open(path, "r+b") as file:
            table.as_pandas().to_parquet(file)  # without the name, which pyarrow wants in UTF-8
        return
    with open(path, "w", encoding="utf-8", newline="") as text:
        table.write_text(text, SEPARATORS.get(suffix, ","))


def write_blocks(
    blocks: Mapping[str, Mapping[str, Array]], path: Path, suffix: str, *, title: str
) -> None:
    """Write tables of the same columns under each other, their names in a column before them."""
    with open(path, "w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, delimiter=SEPARATORS.get(suffix, ","), lineterminator=os.linesep)
        for i, (name, columns) in enumerate(blocks.items()):
            if not i:
                writer.writerow([title, *columns])
            values = [column.tolist() for column in columns.values()]
            writer.writerows((name, *row) for row in zip(*values, strict=True))


def make_table(
    cell_names: Sequence[str],
    columns: Mapping[str, Any],
    probabilities: Array,
    cell_types: Sequence[str],
) -> Table:
    """Return a table with a row a cell: the columns, then the probability of each type."""
    chances = zip((f"probability_{c}" for c in cell_types), probabilities.T, strict=True)
    return Table(cell_names, {**columns, **dict(chances)})
