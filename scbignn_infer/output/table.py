"""Write an annotation as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from scbignn_infer._types import Array


TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


def write_table(table: pd.DataFrame, path: Path, suffix: str) -> None:
    """Write the table of an annotation as ``.csv``, ``.tsv`` or ``.parquet``."""
    if suffix == ".parquet":
        with open(path, "r+b") as file:
            table.to_parquet(file)  # without the name, which pyarrow wants in UTF-8
    else:
        table.to_csv(path, sep="\t" if suffix == ".tsv" else ",")


def make_table(
    cell_names: Sequence[str],
    columns: Mapping[str, Any],
    probabilities: Array,
    cell_types: Sequence[str],
) -> pd.DataFrame:
    """Return a table with a row a cell: the columns, then the probability of each type."""
    import pandas as pd

    table = pd.DataFrame(dict(columns), index=pd.Index(cell_names, name="cell"))
    chances = pd.DataFrame(
        probabilities, columns=[f"probability_{c}" for c in cell_types], index=table.index
    )
    return pd.concat([table, chances], axis=1)
