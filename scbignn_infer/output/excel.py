"""Write an annotation as a workbook: types, samples, every cell, and what the labels are based on.

A spreadsheet takes a text that begins with ``=`` for a formula, and one like ``#N/A`` for an error.
Every text from the data is written as text here, whatever it begins with.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from shutil import copyfileobj
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np

from scbignn_infer.errors import OutputError
from scbignn_infer.output.table import FORMULA
from scbignn_infer.plain import encodable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.output.table import Table

SUFFIX = ".xlsx"
MOST_ROWS = 1_048_576
"""Of a sheet, its titles among them."""
MOST_CHARACTERS = 32_767
"""Of a cell of a sheet."""
MODE = 0o600 << 16
"""Of a member of the file, as zip keeps it."""
ESCAPED = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")
"""What the format writes as ``_xHHHH_``: characters that XML has not, and what looks like that."""


@dataclass(frozen=True)
class Sheet:
    """A sheet of a workbook: its title, the titles of its columns, and its rows."""

    title: str
    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]


def refuse_too_many(n_cells: int, path: Path) -> None:
    """Raise if a sheet cannot have a row for each cell."""
    if n_cells >= MOST_ROWS:
        raise OutputError(
            f"{n_cells:,} cells for a sheet of {path.name}",
            expected=f"at most {MOST_ROWS - 1:,}, since a sheet has {MOST_ROWS:,} rows",
            do="write .csv or .parquet",
        )


def _refuse_long(texts: Iterable[str]) -> None:
    """Raise if a text is longer than what a cell of a sheet holds, where it would be cut."""
    for text in texts:
        if len(text) > MOST_CHARACTERS:
            raise OutputError(
                f"a text of {len(text):,} characters for a cell of a sheet ({text[:20]}...)",
                expected=f"at most {MOST_CHARACTERS:,}",
                do="write .csv or .parquet",
            )


def sheets_of(
    annotation: Annotation, table: Table, samples: Sequence[str] | None = None
) -> list[Sheet]:
    """Return the sheets of an annotation: ``types``, ``samples``, ``cells`` and ``about``.

    Parameters
    ----------
    annotation
        The labels.
    table
        The table of the cells, those that were left out among them.
    samples
        The sample of each cell of the annotation, if there are samples.
    """
    _refuse_long(table.texts())
    titles = ["label", "ontology id", "cells", "share", "median confidence", "median novelty"]
    sheets = [Sheet("types", titles, list(_types(annotation)))]
    if samples is not None:
        labels = list(annotation.counts())
        rows = list(_samples(annotation, labels, samples))
        sheets.append(Sheet("samples", ["sample", "cells", *labels], rows))
    sheets.append(Sheet("cells", table.titles, table.values()))
    return [*sheets, Sheet("about", ["what", "value"], list(_about(annotation)))]


def write_workbook(path: Path, sheets: Iterable[Sheet]) -> None:
    """Write sheets as ``.xlsx``."""
    from openpyxl import Workbook
    from openpyxl.writer.excel import ExcelWriter

    book = Workbook(write_only=True)
    book.properties.created = book.properties.modified = datetime(*ZipInfo().date_time)
    for sheet in sheets:
        inside = book.create_sheet(sheet.title)
        inside.freeze_panes = "B2"
        inside.append([_cell(inside, title) for title in sheet.columns])
        for row in sheet.rows:
            inside.append([_cell(inside, value) for value in row])
    with open(path, "r+b") as file, Undated(file, "w", ZIP_DEFLATED) as archive:
        ExcelWriter(book, archive).save()


class Undated(ZipFile):
    """A zip file whose members are all of one date: the same contents are the same bytes."""

    def writestr(self, name: Any, data: Any, *compression: Any) -> None:
        """Add a member from memory."""
        member = ZipInfo(name)
        member.compress_type, member.external_attr = ZIP_DEFLATED, MODE
        super().writestr(member, data, *compression)

    def write(self, filename: Any, arcname: Any = None, *compression: Any) -> None:
        """Add a file."""
        member = ZipInfo.from_file(filename, arcname)  # which knows whether it is a large one
        member.date_time, member.external_attr = ZipInfo().date_time, MODE
        member.compress_type = ZIP_DEFLATED
        with open(filename, "rb") as source, self.open(member, "w") as target:
            copyfileobj(source, target)


def _cell(sheet: Any, value: Any) -> Any:
    """Return what a cell of a sheet is to hold: a number, or text that is nothing but text."""
    if not isinstance(value, str):
        return value if np.isfinite(value) else None
    text = encodable(ESCAPED.sub(lambda found: f"_x{ord(found[0]):04X}_", value))
    if not text.startswith((*FORMULA, "#")):
        return text
    from openpyxl.cell import WriteOnlyCell

    cell = WriteOnlyCell(sheet, value=text)
    cell.data_type, cell.quotePrefix = "s", True
    return cell


def _types(annotation: Annotation) -> Iterator[tuple[str | float, ...]]:
    """Yield what is said of each label, the most frequent first."""
    ids = dict(zip(annotation.ontology.labels, annotation.ontology.ontology_ids, strict=True))
    labels, confidence, novelty = annotation.labels, annotation.confidence, annotation.novelty
    for label, n in annotation.counts().items():
        own = labels == label
        medians = (round(float(np.median(of[own])), 4) for of in (confidence, novelty))
        yield label, ids.get(label, ""), n, round(n / len(annotation), 6), *medians


def _samples(
    annotation: Annotation, labels: Sequence[str], samples: Sequence[str]
) -> Iterator[tuple[str | int, ...]]:
    """Yield how many cells of each sample have each label."""
    n = Counter(zip(samples, annotation.labels, strict=True))
    for sample in dict.fromkeys(samples):
        of_labels = [n[sample, label] for label in labels]
        yield sample, sum(of_labels), *of_labels


def _about(annotation: Annotation) -> Iterator[tuple[str, str | int]]:
    """Yield what the labels are based on."""
    based = annotation.provenance
    yield "model", f"{based.model.name} {based.model.version}"
    yield "sha256 of the model", based.model.sha256
    yield "matrix", f"{based.matrix.name}: {based.matrix.state} ({based.matrix.reason})"
    yield "cells", len(annotation)
    if based.left_out is not None:
        yield "left out", based.left_out.said
    yield from (("version", f"{name} {version}") for name, version in based.versions.items())
    yield from (("warning", warning) for warning in annotation.warnings())
