"""Many files: which samples there are, what was done with each, and the task of labelling one."""

from __future__ import annotations

import csv
import glob
import hashlib
import os
import re
import shutil
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scbignn_infer import __version__
from scbignn_infer.errors import InputError, OutputError, ScBiGNNError
from scbignn_infer.label_file import Job, make_annotator, now, stem
from scbignn_infer.model.registry import load_model
from scbignn_infer.output.temporaries import LEFTOVER, NO_RUN, temporaries_of
from scbignn_infer.plain import visible
from scbignn_infer.report.views import Views
from scbignn_infer.settings import SAME_LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from scbignn_infer.annotator import Annotator
    from scbignn_infer.batch.manifest import Manifest
    from scbignn_infer.settings import Settings

Record = dict[str, Any]
FORMATS = ("h5ad", "csv", "tsv", "parquet", "xlsx")
HASH_BYTES = 1 << 22
ODD_NAME = re.compile(r"[/\\\x00-\x1f\x7f]|^\.")
"""Of what is no name of a sample: slashes, control characters, a leading dot."""
MOST_LETTERS = 190
"""Bytes of a sample's name; those of its output, its table and its temporary files are longer."""


@dataclass(frozen=True)
class Sample:
    """One file that is a graph of its own; the output is named after it."""

    name: str
    query: Path
    target: Path
    views: Views | None = None
    sample_key: str | None = None
    """Column of ``obs`` by which the sheets of a workbook divide the cells."""

    @property
    def outputs(self) -> list[Path]:
        """All that is written for it."""
        return [self.target, *(self.views.paths if self.views else [])]

    @property
    def figures(self) -> Path | None:
        """The folder of its figures, if some are drawn."""
        return self.views.figures if self.views else None


@dataclass(frozen=True)
class Task:
    """A sample to label."""

    sample: Sample
    settings: Settings
    overwrite: bool = False
    """Replace an output of which there is no record, and slots."""
    before: Record | None = None
    """The record of an earlier run."""
    ours: bool = False
    """Whether an output that is there may be replaced, since an earlier run has made it."""
    split: int | None = None
    """Divide the sample if it has more cells."""
    run: str = NO_RUN
    """The name of the run, which stands in the names of temporary files."""


def find_samples(
    patterns: Sequence[str],
    folder: Path,
    *,
    sheet: Path | None = None,
    suffix: str = "h5ad",
    report: bool = False,
    figures: Path | None = None,
    basis: str | None = None,
    sample_key: str | None = None,
) -> list[Sample]:
    """List the samples that paths, patterns such as ``data/*.h5ad`` and a sheet name.

    The sheet is a CSV file with a column ``query`` and, if wanted, one ``name``; its paths are
    relative to it. In ``figures`` each sample has a folder of its name.
    """
    named = [(stem(path), path) for pattern in patterns for path in _match(pattern)]
    named += _read_sheet(sheet) if sheet is not None else []
    samples: dict[str, Sample] = {}
    for name, query in named:
        target = folder / f"{name}.{suffix}"
        page = (folder / f"{name}.html").absolute() if report else None
        drawn = (figures / name).absolute() if figures else None
        views = Views(page, drawn, sample_key, basis) if page or drawn else None
        sample = Sample(name, query.absolute(), target.absolute(), views, sample_key)
        if samples.setdefault(name, sample).query != sample.query:
            raise InputError(
                f"the samples {samples[name].query} and {query} are both called '{name}'",
                expected="a name of its own for each, since outputs are named after it",
                do="name them in a sheet (--samples) with the columns query and name",
            )
    if not samples:
        raise InputError("no sample", expected="at least one file", do="name files or a sheet")
    _refuse_clashes(list(samples.values()))
    return list(samples.values())


def _refuse_clashes(samples: Sequence[Sample]) -> None:
    """Raise if an output would be a sample, or the figures of a sample another output."""
    queries = {sample.query.resolve() for sample in samples}
    outputs = {path.resolve() for sample in samples for path in sample.outputs}
    for sample in samples:
        if sample.target.resolve() in queries:
            raise OutputError(
                f"the output {sample.target} would be a sample itself",
                expected="a folder without the samples",
                do="choose another -O",
            )
        folder = sample.figures
        if folder and {folder.resolve(), folder.parent.resolve()} & (queries | outputs):
            raise OutputError(
                f"the folder of figures {folder} would be, or be in, a sample or the output of one",
                expected="a folder for the figures of all samples",
                do="choose another --figures",
            )


def _match(pattern: str) -> list[Path]:
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [Path(pattern)]  # what is missing is reported with its sample
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207 - may be absolute
    if not paths:
        raise InputError(
            f"nothing matches '{pattern}'", expected="at least one file", do="check the pattern"
        )
    return paths


def _read_sheet(sheet: Path) -> list[tuple[str, Path]]:
    expected = "a CSV file with a column 'query' of paths and, if wanted, a column 'name'"
    try:
        with open(sheet, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, header = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read the sheet {sheet} ({error})", expected=expected, do="mend the file"
        ) from None
    twice = next((name for name in ("query", "name") if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"the sheet {sheet} has two columns '{twice}'", expected=expected, do="mend the file"
        )
    if not rows or any(not row.get("query") for row in rows):
        raise InputError(
            f"the sheet {sheet} has no samples or one without a path",
            expected=expected,
            do="mend the file",
        )
    if any("\0" in row["query"] for row in rows):
        raise InputError(
            f"the sheet {sheet} has a path with a zero byte", expected=expected, do="mend the file"
        )
    paths = [sheet.parent / row["query"] for row in rows]
    names = [(row.get("name") or "").strip() or stem(p) for row, p in zip(rows, paths, strict=True)]
    for name in names:
        if ODD_NAME.search(name) or len(os.fsencode(name)) > MOST_LETTERS:
            raise InputError(
                f"the sheet {sheet} names a sample '{name if len(name) < 60 else name[:57]}'",
                expected=f"names of at most {MOST_LETTERS} bytes that a file may have, without a "
                "slash, a leading dot or control characters",
                do="rename it",
            )
    return list(zip(names, paths, strict=True))


def plan_tasks(
    samples: Sequence[Sample],
    manifest: Manifest,
    settings: Settings,
    *,
    overwrite: bool = False,
    split: int | None = None,
) -> list[Task]:
    """Return a task for each sample, by what the folder's manifest says of earlier runs.

    A sample whose output is not there is noted as started, so that what a kill leaves behind is
    known as ours.
    """
    before: dict[str, Record] = {}
    made: set[str] = set()
    for record in manifest.read():
        before[record["sample"]] = record
        if record.get("status") in ("started", "done"):
            made.add(str(record.get("output")))
    new = [s for s in samples if str(s.target) not in made and not s.target.exists()]
    manifest.append([_record(sample, "started") | {"started": now()} for sample in new])
    made.update(str(sample.target) for sample in new)
    return [
        Task(s, settings, overwrite, before.get(s.name), str(s.target) in made, split, manifest.run)
        for s in samples
    ]


def remove_leftovers(folders: Iterable[Path], run: str = "") -> None:
    """Remove the temporary files of a run, or of all runs, which must have ended.

    Only files that name a run are removed: others may be of a command that labels a single file.
    """
    found: list[os.DirEntry[str]] = []
    for folder in filter(Path.is_dir, folders):
        with os.scandir(folder) as entries:
            found += entries
    for entry in found:
        name = LEFTOVER.fullmatch(entry.name)
        if name is None or run not in ("", name[1]):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                Path(entry.path).unlink()


def parts_folder(task: Task) -> Path:
    """Return where the parts of a divided sample wait for each other, in this run."""
    target = task.sample.target
    return target.with_name(f".{target.name}.{task.run}.parts")


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return _digest(path)
    inside = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        inside.update(f"{file.relative_to(path).as_posix()}\0{_digest(file)}\n".encode())
    return inside.hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()


def label_sample(task: Task) -> Record:
    """Label one sample, unless an earlier run has left it whole; what goes wrong is in the record.

    Its ``status`` is ``done``, ``skipped`` or ``failed``; see docs/production.md for the rest.
    """
    with recording(task) as record:
        work = _work(task)
        if _is_whole(task, work):
            record.update(task.before or {}, status="skipped")
            return record
        with job_of(task) as job:
            job.annotate()
            record.update(done(task, job, work))
    return record


@contextmanager
def recording(task: Task) -> Iterator[Record]:
    """Give the record of a sample to fill in; an error is noted there and does not stop others."""
    record: Record = {}
    try:
        with temporaries_of(task.run):
            yield record
    except Exception as surprise:  # noqa: BLE001 - that of one sample must not stop the others
        record.clear()
        record.update(failed(task.sample, in_one_line(surprise)))


def job_of(task: Task, make: Callable[..., Job] | None = None) -> Job:
    """Return the job of labelling a sample, with the annotator that this process holds."""
    return (make or Job)(
        task.sample.query,
        task.sample.target,
        task.settings,
        overwrite=task.overwrite,
        replace=task.ours,
        views=task.sample.views,
        sample_key=task.sample.sample_key,
        annotator=held_annotator(task.settings),
    )


def done(task: Task, job: Job, work: Record | None = None) -> Record:
    """Write a sample that has been labelled, and return its record."""
    work = work or _work(task)
    return {
        "sample": task.sample.name,
        "status": "done",
        **job.write(),
        **work,
        "output_sha256": fingerprint(task.sample.target),
        "error": "",
    }


def in_one_line(error: Exception) -> str:
    """Say why a sample could not be labelled, and what to do."""
    if isinstance(error, ScBiGNNError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory ran out; use fewer workers or pass --memory-limit"
    if isinstance(error, OSError) and error.strerror:
        named = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return (
            f"cannot read or write{named} ({error.strerror}); expected a disk that works and files "
            "that may be read; mend that, then run again"
        )
    cause = (str(error) or "no message").splitlines()[0]
    return (
        f"unexpected {type(error).__name__}: {cause}; expected a file that can be labelled; label "
        "it alone with -o, and report the traceback that is shown"
    )


def failed(sample: Sample, error: str) -> Record:
    """Return the record of a sample that could not be labelled."""
    return {**_record(sample, "failed"), "finished": now(), "error": visible(error)}


def _record(sample: Sample, status: str) -> Record:
    return {
        "sample": sample.name,
        "status": status,
        "input": str(sample.query),
        "output": str(sample.target),
    }


def is_whole(task: Task) -> bool:
    """Tell whether an earlier run did the same work and its output is as it was written."""
    return task.before is not None and _is_whole(task, _work(task))


def _work(task: Task) -> dict[str, Any]:
    """Return what an output depends on: input, model, settings and version."""
    query, settings, views = task.sample.query, task.settings, task.sample.views
    if not query.exists():
        raise InputError(f"no file {query}", expected="a file of cells", do="check the path")
    return {
        "input_sha256": fingerprint(query),
        "model_sha256": load_model(str(settings.model)).sha256,
        "settings": {k: v for k, v in settings.as_dict().items() if k not in SAME_LABELS},
        "sample_key": task.sample.sample_key,
        "report": views is not None and views.page is not None,
        "basis": views.basis if views else None,
        **({"figures": str(views.figures)} if views and views.figures else {}),
        "scbignn_infer": __version__,
    }


def _is_whole(task: Task, work: Mapping[str, Any]) -> bool:
    before, sample = task.before, task.sample
    if before is None or before.get("status") != "done":
        return False
    if any(before.get(key) != value for key, value in work.items()):
        return False
    drawn = before.get("drawn")  # not all that may be: of a file without genes there is less
    wanted = [] if sample.views is None else sample.views.paths
    if not all(path.exists() for path in wanted if drawn is None or str(path) in drawn):
        return False
    return (
        before.get("output") == str(sample.target)
        and sample.target.is_file()
        and fingerprint(sample.target) == before.get("output_sha256")
    )


_held: dict[tuple[str, str], Annotator] = {}
_holding = threading.Lock()


def held_annotator(settings: Settings) -> Annotator:
    """Return the annotator that this process holds for settings that name a model, or make it."""
    bundle = load_model(str(settings.model))
    key = bundle.sha256, repr(settings)
    with _holding:
        if key not in _held:
            _held.clear()  # one model at a time: a worker's memory is for cells
            _held[key] = make_annotator(settings, bundle)
        return _held[key]


def with_threads(settings: Settings, threads: int) -> Settings:
    """Return settings with their share of the machine's threads, where none were asked for."""
    return settings if settings.threads else replace(settings, threads=max(1, threads))
