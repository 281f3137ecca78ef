"""Text tables (.csv, .tsv, .txt, also .gz): cells x genes or genes x cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.readers.bounds import memory_of_machine, refuse_text
from scbignn_infer.readers.query import HeldFile, one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    import pandas as pd

Orientation = Literal["cells-by-genes", "genes-by-cells"]
SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}
"""Suffixes and what separates their columns."""
KIND = "table of numbers with a header line and a first column of names"
CLEARLY = 5
"""So many times more known genes must stand along one side than along the other."""
ENOUGH = 10
"""So many must be known, or half of a side's names."""


def is_table(path: Path) -> bool:
    """Tell by its name whether a file is a text table."""
    return _suffix(path) in SUFFIXES


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def read_table(
    path: Path,
    known_genes: Collection[str] = (),
    orientation: Orientation | None = None,
    *,
    most_bytes: int | None = None,
) -> HeldFile:
    """Read a text table.

    Parameters
    ----------
    path
        The file.
    known_genes
        Names by which the side with the genes is found.
    orientation
        What stands in rows and columns, where the user says so.
    most_bytes
        What it may take in memory; by default that of the machine.

    Raises
    ------
    InputError
        It is no table of numbers, or it cannot be told which side has the genes.
    """
    import anndata as ad
    import pandas as pd

    with one_line(path, KIND):
        refuse_text(path, memory_of_machine() if most_bytes is None else most_bytes)
        table = pd.read_csv(path, sep=SUFFIXES[_suffix(path)], index_col=0, low_memory=False)
        if table.shape[1] < 2:
            separators = [s for s in (",", "\t", ";", " ") if s != SUFFIXES[_suffix(path)]]
            for separator in separators:
                again = pd.read_csv(path, sep=separator, index_col=0, low_memory=False)
                if again.shape[1] > table.shape[1]:
                    table = again
        _refuse_text(path, table)
        table.index, table.columns = table.index.astype(str), table.columns.astype(str)
        if _orientation(path, table, known_genes, orientation) == "genes-by-cells":
            table = table.T
        values = sp.csr_matrix(table.to_numpy(dtype=np.float32))
        return HeldFile(
            path,
            ad.AnnData(
                values, obs=pd.DataFrame(index=table.index), var=pd.DataFrame(index=table.columns)
            ),
        )


def _refuse_text(path: Path, table: pd.DataFrame) -> None:
    text = [str(name) for name, kind in table.dtypes.items() if kind.kind not in "biuf"]
    if text:
        raise InputError(
            f"{path} has {len(text)} columns that are not numbers ({', '.join(text[:3])})",
            expected=f"a {KIND}",
            do="leave out annotations of cells and genes, and use a point for decimals",
        )
    if 0 in table.shape:
        raise InputError(
            f"{path} holds {table.shape[0]} rows and {table.shape[1]} columns of numbers",
            expected=f"a {KIND}",
            do="check what separates its columns",
        )


def _orientation(
    path: Path, table: pd.DataFrame, known: Collection[str], asked: Orientation | None
) -> Orientation:
    if asked is not None:
        return asked
    down, across = _known(table.index, known), _known(table.columns, known)
    if across >= max(CLEARLY * down, min(ENOUGH, table.shape[1] / 2)):
        return "cells-by-genes"
    if down >= max(CLEARLY * across, min(ENOUGH, table.shape[0] / 2)):
        return "genes-by-cells"
    raise InputError(
        f"{path} names {down} known genes in its first column "
        f"({', '.join(table.index[:3])}) and {across} in its first line "
        f"({', '.join(table.columns[:3])})",
        expected="gene names along one side",
        do="say which with --orientation cells-by-genes or genes-by-cells",
    )


def _known(names: Iterable[str], known: Collection[str]) -> int:
    """Count known names; single letters are some gene's synonym, and mean nothing."""
    return sum(len(name) > 1 and (name in known or name.split(".")[0] in known) for name in names)
