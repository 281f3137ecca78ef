"""What a folder of samples holds, at one look: a table of types, one for MultiQC, an index page."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.errors import OutputError
from scbignn_infer.output.atomic import replacing
from scbignn_infer.output.table import write_rows
from scbignn_infer.output.temporaries import temporaries_of
from scbignn_infer.plain import visible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Record = dict[str, Any]
TABLE, MULTIQC, INDEX = "scbignn_cell_types.csv", "scbignn_cell_types_mqc.json", "index.html"
"""Files that a run writes beside the samples, each time anew."""
MADE_BY = b'<meta name="generator" content="scbignn-infer index">'
"""Stands at the beginning of an index page of ours: another one is not replaced."""
BEGINNING = 1 << 10


@dataclass(frozen=True)
class Overview:
    """Cells of each type in the samples that are whole."""

    samples: list[str]
    types: list[str]
    """Most frequent first, and the unknown ones last."""
    cells: list[list[int]]
    """By sample, and by type."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Overview:
        """Count the labels of records."""
        whole = [
            r for r in records if r["status"] != "failed" and isinstance(r.get("labels"), dict)
        ]
        total: dict[str, int] = {}
        for record in whole:
            for label, n in record["labels"].items():
                total[label] = total.get(label, 0) + n
        types = sorted(total, key=lambda label: (label == UNKNOWN, -total[label], label))
        cells = [[r["labels"].get(label, 0) for label in types] for r in whole]
        return cls([r["sample"] for r in whole], types, cells)

    def for_multiqc(self) -> dict[str, Any]:
        """Return what MultiQC draws as bars, by its custom content."""
        rows = zip(map(visible, self.samples), self.cells, strict=True)
        return {
            "id": "scbignn_cell_types",
            "section_name": "Cell types",
            "description": "Cells of each type, as scbignn-infer has labelled them.",
            "plot_type": "bargraph",
            "pconfig": {
                "id": "scbignn_cell_types_plot",
                "title": "scbignn-infer: cell types",
                "ylab": "Cells",
            },
            "data": {
                name: dict(zip(map(visible, self.types), row, strict=True)) for name, row in rows
            },
        }


def write(
    folder: Path, records: Sequence[Record], run: str, *, reports: bool
) -> tuple[list[Path], list[str]]:
    """Write the table, the same for MultiQC and, with reports, the index.

    Return the paths, and the warnings of the table.
    """
    with temporaries_of(run):
        return _write(folder, records, reports=reports)


def _write(
    folder: Path, records: Sequence[Record], *, reports: bool
) -> tuple[list[Path], list[str]]:
    whole = Overview.of(records)
    titles = ["sample", *whole.types, "all cells"]
    rows = ((name, *n, sum(n)) for name, n in zip(whole.samples, whole.cells, strict=True))
    with replacing(folder / TABLE) as path:
        warnings = write_rows(path, ".csv", titles, rows)
    with replacing(folder / MULTIQC) as path:
        path.write_text(json.dumps(whole.for_multiqc(), indent=1), encoding="utf-8")
    if reports:
        _write_index(folder, records, whole)
    names = (TABLE, MULTIQC, *([INDEX] if reports else []))
    return [folder / name for name in names], warnings


def refuse(folder: Path, outputs: Sequence[Path], *, overwrite: bool, reports: bool) -> None:
    """Refuse an index page of somebody else, and samples whose outputs would take our names."""
    ours = [(folder / name).absolute() for name in (TABLE, MULTIQC, *([INDEX] if reports else []))]
    if taken := next((path for path in outputs if path in ours), None):
        raise OutputError(
            f"the output of a sample would be {taken.name}, which is written for all samples",
            expected="other names of samples",
            do="name them in a sheet (--samples) with the columns query and name",
        )
    page = folder / INDEX
    if reports and not overwrite and page.exists() and not _is_ours(page):
        raise OutputError(
            f"{INDEX} exists in {folder}, and is not of an earlier run",
            expected="no such file, since the reports are listed in it",
            do="move it away, choose another -O, or pass --overwrite",
        )


def _is_ours(page: Path) -> bool:
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return MADE_BY in file.read(BEGINNING)


def _write_index(folder: Path, records: Sequence[Record], whole: Overview) -> None:
    """Write a page that leads to the report of each sample, with the types of all."""
    from scbignn_infer.report.page import write_page
    from scbignn_infer.report.palette import looks

    pages = {}
    for record in records:
        page = folder / f"{record['sample']}.html"
        if record["status"] != "failed" and page.exists():
            pages[record["sample"]] = quote(os.fsencode(page.name))
    write_page(
        folder / INDEX,
        "index",
        records=records,
        pages=pages,
        looks=looks(whole.types, UNKNOWN),
        rows={
            sample: dict(zip(whole.types, n, strict=True))
            for sample, n in zip(whole.samples, whole.cells, strict=True)
        },
        table=TABLE,
    )
