"""What the child process does for a request: read the body, label the cells, write the answer."""

from __future__ import annotations

import os
import re
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import msgspec
from msgspec import UnsetType

from scbignn_infer import label_file
from scbignn_infer._types import Document
from scbignn_infer.annotation.annotation import ALWAYS, COLUMNS
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.child import Link, StoppedError, as_document, limit_memory
from scbignn_infer.errors import InputError, MissingExtraError
from scbignn_infer.output.table import INDEX, Table, make_table, write_table
from scbignn_infer.plain import UNSAFE
from scbignn_infer.query.enough import enough
from scbignn_infer.report.views import Views
from scbignn_infer.service.bodies import ARROW, CSV, HDF5, KEPT, OPENERS
from scbignn_infer.service.models import KeptWishes, Models, Wishes
from scbignn_infer.service.refusals import ANSWERED
from scbignn_infer.settings import RuleKeywords, Settings

if TYPE_CHECKING:
    from scbignn_infer._types import Array, Progress
    from scbignn_infer.annotation.annotation import Annotation

MOST_HEADING = 120
"""Characters of a file's name in the heading of a report."""
TELL_SECONDS = 0.1
"""Between two reports of progress in one stage."""


class Summary(msgspec.Struct):
    """What holds for all cells: counts, what was read and by which rules, seconds, warnings."""

    cells: int
    labels: dict[str, int]
    unknown: int
    empty: int
    matrix: Document
    genes: Document
    params: Document
    seconds: dict[str, float]
    warnings: list[str]
    median_confidence: float | None
    median_novelty: float | None
    median_distance: float | None
    tissue: Document | msgspec.UnsetType = msgspec.UNSET
    """Of a body model, the tissues whose types cells were called, and why."""
    adapted: Document | msgspec.UnsetType = msgspec.UNSET
    clusters: dict[str, list[Document]] | msgspec.UnsetType = msgspec.UNSET
    """With ``cluster_key``, what each cluster is."""
    left_out: Document | msgspec.UnsetType = msgspec.UNSET
    mixtures: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


Labels = msgspec.defstruct(
    "Labels",
    [
        ("model", Document),
        ("cells", list[str]),
        *((name, list[str] if column.names else list[float]) for name, column in ALWAYS.items()),
        ("summary", Summary),
        *(
            (name, (list[str] if c.names else list[float | None]) | UnsetType, msgspec.UNSET)
            for name, c in COLUMNS.items()
            if name not in ALWAYS
        ),
        ("embedding", list[list[float]] | msgspec.UnsetType, msgspec.UNSET),
    ],
    namespace={"__doc__": "The model, and in each list a value for each cell."},
    module=__name__,
)


@dataclass(frozen=True)
class Question:
    """What a request asks."""

    model: str
    wishes: Wishes | KeptWishes
    body: Path
    sent: str
    """Format of the body."""
    wanted: str
    """Format of the answer."""

    @property
    def answer(self) -> Path:
        """Where the answer is put."""
        suffix = {HDF5: "h5ad", CSV: "csv", ARROW: "arrow"}.get(self.wanted, "json")
        return self.body.with_name(f"cells.scbignn.{suffix}")


def serve(link: Link, models: Sequence[str | Path], settings: Settings) -> None:
    """Load the models, say what they are, and answer what the parent asks; runs in the child."""
    served = Models(models, settings)
    if settings.memory_limit is not None and served.on_cpu:
        limit_memory(settings.memory_limit)
    outside = tempfile.gettempdir()
    os.chdir(outside)  # the paths of models are resolved
    link.send({"models": served.describe()})
    for question in link:
        folder = str(question.body.parent)
        os.chdir(folder)
        tempfile.tempdir = folder
        try:
            outcome = _outcome(served, question, link)
        finally:
            tempfile.tempdir = outside
            os.chdir(outside)
        link.send(outcome)


def _outcome(served: Models, question: Question, link: Link) -> Document:
    """Answer, and say what became of it."""
    try:
        n_cells = _answer(served, question, link)
    except StoppedError:
        return {"outcome": "stopped"}
    except ANSWERED as error:
        return {"outcome": "refused", **as_document(error)}
    except MemoryError:
        short = InputError(
            "labelling these cells needs more memory than there is",
            expected="cells that fit the memory (--memory-limit)",
            do="send fewer cells at once",
        )
        return {"outcome": "refused", **as_document(short)}
    except Exception as error:  # noqa: BLE001 - the service goes on
        return {
            "outcome": "failed",
            "kind": type(error).__name__,
            "trace": traceback.format_exc(),
        }
    return {"outcome": "answered", "cells": n_cells}


def _answer(served: Models, question: Question, link: Link) -> int:
    """Write the answer, and return the number of cells."""
    if question.wanted == KEPT:
        return _keep(served, question, link)
    annotator, wished = served.warm[question.model], question.wishes.settings
    if question.wanted == HDF5:
        summary = label_file.label_file(
            question.body,
            question.answer,
            replace(wished, model=str(annotator.bundle.path)),
            overwrite=True,
            progress=link.step,
            annotator=annotator,
        )
        return int(summary["cells"])
    with OPENERS[question.sent](question.body, wished.reading) as cells:
        rules = Rules.of(annotator.bundle, **wished.some(RuleKeywords))
        kept = enough(cells, wished.reading)
        found = annotator.annotate_query(kept, wished.reading, rules=rules, progress=link.step)
        names = cells.cell_names()
    annotation, summary = found.of_all(kept), found.summary()
    embedding = annotation.embedding if getattr(question.wishes, "embedding", False) else None
    if question.wanted == CSV:
        write_table(_table(annotation, names), question.answer, ".csv")
    elif question.wanted == ARROW:
        _write_arrow(_table(annotation, names), embedding, question.answer)
    else:
        labels = _labels(annotation, names, embedding, summary)
        question.answer.write_bytes(msgspec.json.encode(labels))
    return len(annotation)


def _keep(served: Models, question: Question, link: Link) -> int:
    """Label once, and write the labelled file, the table and, if wished, the report."""
    annotator, wished = served.warm[question.model], question.wishes.settings
    made = question.answer.with_suffix
    title = heading(getattr(question.wishes, "file_name", ""))
    page = Views(made(".html"), sample_key=wished.reading.batch_key, title=title)
    with label_file.Job(
        question.body,
        made(".h5ad"),
        replace(wished, model=str(annotator.bundle.path)),
        overwrite=True,
        views=page if getattr(question.wishes, "report", False) else None,
        progress=_told(link),
        annotator=annotator,
    ) as job:
        names = job.cells.cell_names()
        job.annotate()
        summary = job.write()
    table = _table(job.annotation.of_all(job.kept), names)
    write_table(table, made(".csv"), ".csv")
    summary["warnings"] += table.warnings()
    said = {k: v for k, v in summary.items() if k not in ("input", "output")}
    question.answer.write_bytes(msgspec.json.encode(said))
    return len(names)


def heading(name: str) -> str:
    """Return the name of a file as a report may have it, whatever a client calls it: one line.

    That is the last part of a path, cut to what a heading has room for, without characters that
    are not seen; empty if nothing is left.
    """
    last = UNSAFE.sub("", re.split(r"[/\\]", name)[-1]).strip()
    return last if len(last) <= MOST_HEADING else f"{last[: MOST_HEADING - 1]}…"


def _told(link: Link) -> Progress:
    """Tell the parent how far the work is, as often as someone would look."""
    last = "", 0.0

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        link.step(stage, done, total)
        if stage != last[0] or monotonic() > last[1] + TELL_SECONDS:
            last = stage, monotonic()
            link.send({"progress": [stage, done, total]})

    return tell


def _table(annotation: Annotation, names: list[str]) -> Table:
    chances = annotation.probabilities, annotation.cell_types
    return make_table(names, annotation.columns(), *chances)


def _write_arrow(table: Table, embedding: Array | None, path: Path) -> None:
    """Write a table as an Arrow IPC stream, the embedding as a column of lists of one length."""
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="writing Arrow") from None
    columns = {INDEX: pa.array(table.cells, pa.string())}
    columns |= {name: pa.array(values) for name, values in table.columns.items()}
    if embedding is not None:
        values = pa.array(embedding.ravel())
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, embedding.shape[1])
    made = pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, made.schema) as stream:
        stream.write_table(made)


def _labels(
    annotation: Annotation, names: list[str], embedding: Array | None, summary: Document
) -> msgspec.Struct:
    """Return the answer as JSON has it: a list for each column, and what is to be known of all."""
    shown = annotation.shown
    return Labels(
        model=summary["model"],
        cells=names,
        **{name: c.values(annotation).tolist() for name, c in shown.items() if name in COLUMNS},
        summary=msgspec.convert(summary | {"seconds": summary["stages"]}, Summary),
        embedding=msgspec.UNSET if embedding is None else embedding.tolist(),
    )
