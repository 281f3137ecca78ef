"""One large sample in parts: cells on the reference graph do not depend on each other."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.errors import ScBiGNNError
from scbignn_infer.files import open_file
from scbignn_infer.passes import READ_CELLS
from scbignn_infer.readers import RowRange
from scbignn_infer.registry import load_model
from scbignn_infer.results import Annotation
from scbignn_infer.samples import (
    held_annotator,
    is_whole,
    label_sample,
    parts_folder,
)
from scbignn_infer.writers import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.choice import Choice
    from scbignn_infer.pipeline import Annotator
    from scbignn_infer.readers import FileQuery
    from scbignn_infer.samples import (
        Record,
        Task,
    )

ARRAYS = (
    "probabilities",
    "gene_level_codes",
    "neighbor_agreement",
    "novelty",
    "residual",
    "embedding",
    "empty",
)
"""What an annotation holds of each cell."""


@dataclass(frozen=True)
class Part:
    """Some cells of a sample.

    Attributes
    ----------
    task
        That of the whole sample.
    start, stop
        Its rows.
    path
        Where the result is put until all parts are there.
    """

    task: Task
    start: int
    stop: int
    path: Path


def plan(task: Task) -> list[Part]:
    """Divide a sample, if it is to be, where blocks of reading end; else return no parts."""
    if task.split is None:
        return []
    try:
        with open_file(task.sample.query, task.settings.reading) as cells:
            n = cells.n_cells
        if n <= task.split or is_whole(task):
            return []
    except (ScBiGNNError, OSError):
        return []  # the sample's own task meets the error again, and records it
    step = max(1, task.split // READ_CELLS) * READ_CELLS
    folder = parts_folder(task.sample)
    starts = range(0, n, step)
    return [Part(task, i, min(i + step, n), folder / f"{i}.npz") for i in starts]


def label_part(part: Part) -> str:
    """Label some cells of a sample and keep the result; returns what went wrong, if anything."""
    settings = part.task.settings
    try:
        annotator = held_annotator(settings, load_model(str(settings.model)))
        with open_file(part.task.sample.query, settings.reading) as cells:
            choice = annotator.choose(cells, settings.reading)
            rows = RowRange(cells, part.start, part.stop)
            found = annotator.annotate_query(rows, settings.reading, choice=choice)
        part.path.parent.mkdir(exist_ok=True)
        arrays: dict[str, Any] = {name: getattr(found, name) for name in ARRAYS}
        with replacing(part.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, provenance=np.array(json.dumps(found.provenance)), **arrays)
    except ScBiGNNError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - one part's surprise must not stop other samples
        return f"unexpected {type(error).__name__}: {error}"
    return ""


def join(task: Task, parts: list[Part], errors: list[str]) -> Record:
    """Write a sample whose parts have been labelled."""

    def annotate(annotator: Annotator, cells: FileQuery, choice: Choice) -> Annotation:
        return _read(annotator, parts)

    try:
        return label_sample(task, annotate=annotate, error=next(filter(None, errors), ""))
    finally:
        shutil.rmtree(parts_folder(task.sample), ignore_errors=True)


def _fullest(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a part that had cells with counts, as the whole sample has."""
    return next((r for r in records if r["params"]["graph_builder"] != "none"), records[0])


def _read(annotator: Annotator, parts: list[Part]) -> Annotation:
    held: dict[str, list[Any]] = {name: [] for name in ARRAYS}
    records: list[dict[str, Any]] = []
    for part in parts:
        with np.load(part.path, allow_pickle=False) as arrays:
            records.append(json.loads(str(arrays["provenance"])))
            for name in ARRAYS:
                held[name].append(arrays[name])
    stages = dict.fromkeys(stage for record in records for stage in record["seconds"])
    seconds = {s: sum(record["seconds"].get(s, 0.0) for record in records) for s in stages}
    whole: dict[str, Any] = {name: np.concatenate(values) for name, values in held.items()}
    kept = _fullest(records)
    if kept["genes"]["foreign"]:
        kept["genes"]["foreign"]["cells"] = sum(r["genes"]["foreign"]["cells"] for r in records)
    return Annotation(
        cell_types=annotator.grouping.labels,
        ontology_ids=annotator.grouping.ontology_ids,
        **whole,
        confidence_threshold=annotator.threshold,
        max_novelty=annotator.max_novelty,
        provenance={**kept, "seconds": seconds},
    )
