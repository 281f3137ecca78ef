"""The two files of a record: JSON for programs, a page for the folder of a laboratory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from scbignn_infer.output.atomic import check_output, drafting, one_line, put
from scbignn_infer.qualification.record import sealed, stem
from scbignn_infer.qualification.sheet import page

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.qualification.record import Record


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not there, before any work is done."""
    check_output(folder / "record.json", suffixes=(".json",), overwrite=True)


def file_record(record: Record, folder: Path) -> list[Path]:
    """Write both files of a record, or none; nothing is replaced."""
    texts = {
        ".json": json.dumps(sealed(record), indent=2, sort_keys=True) + "\n",
        ".html": page(record),
    }
    paths = [folder / f"{stem(record)}{ending}" for ending in texts]
    with drafting(paths[0], new=True) as first, drafting(paths[1], new=True) as second:
        drafts = (first, second)
        for draft, text in zip(drafts, texts.values(), strict=True):
            with one_line(draft.target):
                draft.path.write_text(text, encoding="utf-8")
        put(drafts)
    return paths
