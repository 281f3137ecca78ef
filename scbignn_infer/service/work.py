"""What the child process does for a request: read the body, label the cells, write the answer."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UnsetType

from scbignn_infer import label_file
from scbignn_infer._types import Document
from scbignn_infer.annotation.annotation import ALWAYS, COLUMNS
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.child import Link, StoppedError, as_document, limit_memory
from scbignn_infer.errors import InputError
from scbignn_infer.output.table import make_table, write_table
from scbignn_infer.query.enough import enough
from scbignn_infer.service.bodies import CSV, HDF5, OPENERS
from scbignn_infer.service.models import Models, Wishes
from scbignn_infer.service.refusals import ANSWERED
from scbignn_infer.settings import RuleKeywords, Settings

if TYPE_CHECKING:
    from scbignn_infer.annotation.annotation import Annotation


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
    tissue: Document | msgspec.UnsetType = msgspec.UNSET
    """Of a body model, the tissues whose types cells were called, and why."""
    adapted: Document | msgspec.UnsetType = msgspec.UNSET
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
    ],
    namespace={"__doc__": "The model, and in each list a value for each cell."},
    module=__name__,
)


@dataclass(frozen=True)
class Question:
    """What a request asks."""

    model: str
    wishes: Wishes
    body: Path
    sent: str
    """Format of the body."""
    wanted: str
    """Format of the answer."""

    @property
    def answer(self) -> Path:
        """Where the answer is put."""
        suffix = {HDF5: "h5ad", CSV: "csv"}.get(self.wanted, "json")
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
        _answer(served, question, link)
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
    return {"outcome": "answered"}


def _answer(served: Models, question: Question, link: Link) -> None:
    annotator, wished = served.warm[question.model], question.wishes.settings
    if question.wanted == HDF5:
        label_file.label_file(
            question.body,
            question.answer,
            replace(wished, model=str(annotator.bundle.path)),
            overwrite=True,
            progress=link.step,
            annotator=annotator,
        )
        return
    with OPENERS[question.sent](question.body, wished.reading) as cells:
        rules = Rules.of(annotator.bundle, **wished.some(RuleKeywords))
        kept = enough(cells, wished.reading)
        found = annotator.annotate_query(kept, wished.reading, rules=rules, progress=link.step)
        names = cells.cell_names()
    annotation, summary = found.of_all(kept), found.summary()
    if question.wanted == CSV:
        table = make_table(
            names, annotation.columns(), annotation.probabilities, annotation.cell_types
        )
        write_table(table, question.answer, ".csv")
    else:
        question.answer.write_bytes(msgspec.json.encode(_labels(annotation, names, summary)))


def _labels(annotation: Annotation, names: list[str], summary: Document) -> msgspec.Struct:
    """Return the answer as JSON has it: a list for each column, and what is to be known of all."""
    return Labels(
        model=summary["model"],
        cells=names,
        **{name: column.values(annotation).tolist() for name, column in annotation.shown.items()},
        summary=msgspec.convert(summary | {"seconds": summary["stages"]}, Summary),
    )
