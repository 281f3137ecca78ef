"""Columns of tables and texts, as strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    import pandas as pd

INDEX = "index"
"""Name under which the index of the gene table is offered as a gene column."""


def known_names(names: Iterable[str], genes: Collection[str]) -> int:
    """Count known names; single letters are some gene's synonym, and mean nothing."""
    return sum(len(name) > 1 and (name in genes or name.split(".")[0] in genes) for name in names)


def read_text(path: Path, **how: Any) -> pd.DataFrame:
    """Read a text table with pandas, in UTF-8 or, where it is not that, in Latin-1."""
    import pandas as pd

    try:
        table: pd.DataFrame = pd.read_csv(path, encoding="utf-8-sig", **how)
    except UnicodeDecodeError:
        table = pd.read_csv(path, encoding="latin-1", **how)
    return table


def as_text(value: bytes | str) -> str:
    """Return a string of a file, in UTF-8 or, where it is not that, in Latin-1."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def no_column(name: str, key: str, columns: Sequence[str]) -> InputError:
    """Return the error of an annotation that is not there."""
    return InputError(
        f"{name} has no obs['{key}']",
        expected=f"one of {', '.join(columns)}" if columns else "annotated cells",
        do="check the name of the column",
    )


def refuse_repeated_columns(name: str, table: pd.DataFrame) -> None:
    """Raise if two columns of a table have one name, so that it is no column's."""
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise InputError(
            f"{name} has several columns called '{repeated[0]}'",
            expected="a name of its own for each column",
            do="rename or drop one of them",
        )


def column_of(table: pd.DataFrame, key: str, name: str) -> list[str]:
    """Return a column as strings, missing values as empty ones."""
    if key not in table:
        raise no_column(name, key, [str(c) for c in table])
    refuse_repeated_columns(f"obs of {name}", table[[key]])
    column = table[key]
    return [str(v) for v in column.astype(object).where(column.notna(), "")]


def string_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the index and each column of strings of a gene table."""
    refuse_repeated_columns("var", table)
    columns = {INDEX: [str(v) for v in table.index]}
    for name in table.columns:
        values = table[name]
        if values.dtype.kind == "O" or values.dtype.name in ("category", "string", "str"):
            columns[str(name)] = [str(v) for v in values]
    return columns
