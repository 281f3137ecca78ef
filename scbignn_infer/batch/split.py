"""One large sample in parts: cells on the reference graph do not depend on each other."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from scbignn_infer.annotation.annotation import Annotation
from scbignn_infer.annotation.clusters import read_clusters, with_clusters
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.annotation.provenance import Provenance
from scbignn_infer.annotation.rows import PartedRows
from scbignn_infer.batch.samples import (
    done,
    failed,
    held_annotator,
    in_one_line,
    is_whole,
    job_of,
    parts_folder,
    recording,
)
from scbignn_infer.estimate import estimate_join
from scbignn_infer.label_file import Job, open_file
from scbignn_infer.network.levels import READ_CELLS
from scbignn_infer.output.atomic import replacing
from scbignn_infer.query.enough import enough
from scbignn_infer.query.identity import changed
from scbignn_infer.query.readers import RowRange

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer._types import Array
    from scbignn_infer.annotator import Annotator
    from scbignn_infer.batch.samples import (
        Record,
        Task,
    )
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.query.identity import Identity
    from scbignn_infer.query.readers import FileQuery

ON_DISK = ("probabilities", "embedding")
"""What is so large that it is read by slices, when the parts are joined."""
ARRAYS = (
    "gene_level_codes",
    "neighbor_agreement",
    "novelty",
    "residual",
    "empty",
    "penalties",
    "foreign",
)
"""What else an annotation holds of each cell."""


@dataclass(frozen=True)
class Part:
    """Some cells of a sample, from row ``start`` to before ``stop``."""

    task: Task
    start: int
    stop: int
    path: Path
    """Where the result is put until all parts are there."""
    source: Identity
    """The file that was divided; another has other cells."""


class Joining(Job):
    """The joining of the labels of parts, where no more than a part is held at once."""

    def __init__(self, part_cells: int, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._part_cells = part_cells

    def _expect(self, *, sample: bool) -> Estimate:
        """Estimate what the work takes; other outputs than copies are made as a whole."""
        if self.views is not None or not self.copied:
            return super()._expect(sample=sample)
        spec = self.annotator.bundle.spec
        row_bytes = 4 * (spec.gene_level.embedding_size + len(spec.cell_types))
        return estimate_join(self.cells.n_cells, self._part_cells, row_bytes)


def plan(task: Task) -> list[Part]:
    """Divide a sample, if it is to be, where blocks of reading end; else return no parts."""
    if task.split is None:
        return []
    try:
        with open_file(
            task.sample.query, task.settings.reading, task.settings.memory_limit
        ) as cells:
            n, source = enough(cells, task.settings.reading).n_cells, cells.identity
        if n <= task.split or is_whole(task):
            return []
    except Exception:  # noqa: BLE001 - the sample's own task meets it again, and records it
        return []
    step = max(1, task.split // READ_CELLS) * READ_CELLS
    folder = parts_folder(task)
    starts = range(0, n, step)
    return [Part(task, i, min(i + step, n), folder / f"{i}.npz", source) for i in starts]


def label_part(part: Part) -> str:
    """Label some cells of a sample and keep the result; returns what went wrong, if anything."""
    settings = part.task.settings
    try:
        annotator = held_annotator(settings)
        with open_file(part.task.sample.query, settings.reading, settings.memory_limit) as cells:
            kept = enough(cells, settings.reading)
            choice = annotator.choose(kept, settings.reading)
            rows = RowRange(kept, part.start, part.stop)
            # None of these is left out, and clusters are of all cells: see join.
            reading = replace(settings.reading, min_counts=None, cluster_key=())
            annotation = annotator.annotate_query(rows, reading, choice=choice)
            _check(part, cells)
            cells.identity.check()
        part.path.parent.mkdir(exist_ok=True)
        arrays = {name: getattr(annotation, name) for name in (*ON_DISK, *ARRAYS)}
        based = msgspec.json.encode(annotation.provenance).decode()
        with replacing(part.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, provenance=np.array(based), **arrays)
    except Exception as error:  # noqa: BLE001 - one part's surprise must not stop other samples
        return in_one_line(error)
    return ""


def join(task: Task, parts: list[Part], errors: list[str]) -> Record:
    """Write a sample whose parts have been labelled."""
    try:
        if error := next(filter(None, errors), ""):
            return failed(task.sample, error)
        largest = max(part.stop - part.start for part in parts)
        with recording(task) as record, job_of(task, partial(Joining, largest)) as job:
            _check(parts[0], job.cells)
            clusters = read_clusters(job.kept, task.settings.reading.cluster_key)
            job.annotation = with_clusters(_read(job.annotator, parts), clusters)
            record.update(done(task, job))
        return record
    finally:
        shutil.rmtree(parts_folder(task), ignore_errors=True)


def _check(part: Part, cells: FileQuery) -> None:
    """Raise if a file is not the one that was divided."""
    if not part.source.resembles(cells.identity):
        raise changed(cells.path)


def _read(annotator: Annotator, parts: list[Part]) -> Annotation:
    """Return what is said of all cells, as far as it is small, and how to read the rest."""
    ends, whole = np.array([part.stop for part in parts]), dict[str, Any]()
    based: list[Provenance] = []
    for part in parts:
        with np.load(part.path, allow_pickle=False) as arrays:
            based.append(msgspec.json.decode(str(arrays["provenance"]), type=Provenance))
            for name in ARRAYS:
                values = arrays[name]
                shape = parts[-1].stop, *values.shape[1:]
                to = whole.setdefault(name, np.empty(shape, values.dtype))
                to[part.start : part.stop] = values
    for name in ON_DISK:
        whole[name] = PartedRows(partial(_array, parts, name), ends)
    rules, joined = annotator.rules, Provenance.joined(based)
    if rules.tissues is not None and rules.tissue.how == "given":
        tissue = rules.tissues.compared(rules.tissue, joined.votes)
        joined = msgspec.structs.replace(joined, tissue=tissue)
    return Annotation(
        cell_types=rules.grouping.labels,
        ontology_ids=rules.grouping.ontology_ids,
        wider=Ontology.of(annotator.bundle.spec, rules.grouping),
        joins_by_support=annotator.bundle.spec.follows_file,
        **whole,
        **rules.limits,
        provenance=joined,
    )


def _array(parts: list[Part], name: str, number: int) -> Array:
    """Read an array of a part."""
    with np.load(parts[number].path, allow_pickle=False) as arrays:
        values: Array = arrays[name]
    return values
