"""Many files: which samples there are, what was done with each, and the task of labelling one."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scbignn_infer import __version__
from scbignn_infer.errors import InputError, OutputError, ScBiGNNError
from scbignn_infer.files import ReportFile, label_file, stem
from scbignn_infer.registry import load_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scbignn_infer.bundle import ModelBundle
    from scbignn_infer.files import Annotate, Settings
    from scbignn_infer.pipeline import Annotator

Record = dict[str, Any]
MANIFEST = "manifest.jsonl"
FORMATS = ("h5ad", "csv", "tsv", "parquet")
SAME_LABELS = ("device", "threads", "batch_cells", "memory_limit")
"""Settings that say where and how fast work is done, and change no label."""
HASH_BYTES = 1 << 22


@dataclass(frozen=True)
class Sample:
    """One file that is a graph of its own.

    Attributes
    ----------
    name
        Names the output.
    query, target
        What is read and what is written.
    report
        A report that is written, too.
    """

    name: str
    query: Path
    target: Path
    report: ReportFile | None = None


@dataclass(frozen=True)
class Task:
    """A sample to label.

    Attributes
    ----------
    sample, settings
        What, and how; the model is named.
    overwrite
        Replace an output of which there is no record, and slots.
    before
        The record of an earlier run, or none.
    ours
        Whether an output that is there may be replaced, since an earlier run has made it.
    split
        Divide the sample if it has more cells.
    """

    sample: Sample
    settings: Settings
    overwrite: bool = False
    before: Record | None = None
    ours: bool = False
    split: int | None = None


def find_samples(
    patterns: Sequence[str],
    folder: Path,
    *,
    sheet: Path | None = None,
    suffix: str = "h5ad",
    report: bool = False,
    sample_key: str | None = None,
) -> list[Sample]:
    """List the samples that paths, patterns and a sheet name.

    Parameters
    ----------
    patterns
        Paths, or patterns such as ``data/*.h5ad``.
    folder
        Where outputs go.
    sheet
        A CSV file with a column ``query`` and, if wanted, one ``name``; paths are relative to it.
    suffix
        Of the outputs.
    report, sample_key
        Whether each gets a report, and the column of ``obs`` that it divides by.

    Raises
    ------
    InputError, OutputError
        A pattern matches nothing, the sheet cannot be used, two samples have one name, or an output
        would be a sample itself.
    """
    named = [(stem(path), path) for pattern in patterns for path in _match(pattern)]
    named += _read_sheet(sheet) if sheet is not None else []
    samples: dict[str, Sample] = {}
    for name, query in named:
        target = folder / f"{name}.{suffix}"
        page = ReportFile(folder / f"{name}.html", sample_key) if report else None
        found = Sample(name, query.absolute(), target.absolute(), page)
        if samples.setdefault(name, found).query != found.query:
            raise InputError(
                f"the samples {samples[name].query} and {query} are both called '{name}'",
                expected="a name of its own for each, since outputs are named after it",
                do="name them in a sheet (--samples) with the columns query and name",
            )
    queries = {sample.query.resolve() for sample in samples.values()}
    for sample in samples.values():
        if sample.target.resolve() in queries:
            raise OutputError(
                f"the output {sample.target} would be a sample itself",
                expected="a folder without the samples",
                do="choose another -O",
            )
    if not samples:
        raise InputError("no sample", expected="at least one file", do="name files or a sheet")
    return list(samples.values())


def _match(pattern: str) -> list[Path]:
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [Path(pattern)]  # what is missing is reported with its sample
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207 - may be absolute
    if not found:
        raise InputError(
            f"nothing matches '{pattern}'", expected="at least one file", do="check the pattern"
        )
    return found


def _read_sheet(sheet: Path) -> list[tuple[str, Path]]:
    expected = "a CSV file with a column 'query' of paths and, if wanted, a column 'name'"
    try:
        with open(sheet, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read the sheet {sheet} ({error})", expected=expected, do="mend the file"
        ) from None
    if not rows or any(not row.get("query") for row in rows):
        raise InputError(
            f"the sheet {sheet} has no samples or one without a path",
            expected=expected,
            do="mend the file",
        )
    paths = [sheet.parent / row["query"] for row in rows]
    names = [(row.get("name") or "").strip() or stem(p) for row, p in zip(rows, paths, strict=True)]
    for name in names:
        if "/" in name or "\\" in name or name.startswith("."):
            raise InputError(
                f"the sheet {sheet} names a sample '{name}'",
                expected="names that a file may have, without a slash or a leading dot",
                do="rename it",
            )
    return list(zip(names, paths, strict=True))


def plan_tasks(
    samples: Sequence[Sample],
    folder: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    split: int | None = None,
) -> list[Task]:
    """Return a task for each sample, by what the folder's manifest says of earlier runs.

    A sample whose output is not there is noted as started, so that what a kill leaves behind is
    known as ours.

    Raises
    ------
    OutputError
        The manifest cannot be read or written.
    """
    before: dict[str, Record] = {}
    made: set[str] = set()
    for record in read_manifest(folder):
        before[record["sample"]] = record
        if record.get("status") in ("started", "done"):
            made.add(str(record.get("output")))
    new = [s for s in samples if str(s.target) not in made and not s.target.exists()]
    append_records(folder, [_record(sample, "started") for sample in new])
    made.update(str(sample.target) for sample in new)
    return [
        Task(s, settings, overwrite, before.get(s.name), str(s.target) in made, split)
        for s in samples
    ]


def read_manifest(folder: Path) -> list[Record]:
    """Return the records of earlier runs; a line that a kill cut short is passed over."""
    records: list[Record] = []
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(
            f"cannot read {folder / MANIFEST} ({error})",
            expected="the records of an earlier run",
            do="remove it, or choose another folder",
        ) from None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("sample"), str):
            records.append(record)
    return records


def append_records(folder: Path, records: Sequence[Record]) -> None:
    """Add lines to the manifest, on the disk for good.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    path = folder / MANIFEST
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    try:
        with open(path, "ab+") as file:
            file.seek(0, os.SEEK_END)
            cut_short = False
            if file.tell():
                file.seek(-1, os.SEEK_END)
                cut_short = file.read(1) != b"\n"
            file.write(b"\n" * cut_short + lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"cannot write {path} ({error.strerror})",
            expected="a folder that can be written, with free space",
            do="free space, then run again: what is whole is not done twice",
        ) from None


def remove_leftovers(samples: Iterable[Sample]) -> None:
    """Remove temporary files of workers that were killed while they wrote these samples."""
    for sample in samples:
        targets = [sample.target, *([sample.report.path] if sample.report else [])]
        for target in targets:
            for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
                path.unlink(missing_ok=True)
        shutil.rmtree(parts_folder(sample), ignore_errors=True)


def parts_folder(sample: Sample) -> Path:
    """Return where the parts of a divided sample wait for each other."""
    return sample.target.with_name(f".{sample.target.name}.parts")


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return _digest(path)
    inside = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        inside.update(f"{file.relative_to(path).as_posix()}\0{_digest(file)}\n".encode())
    return inside.hexdigest()


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(HASH_BYTES):
            found.update(data)
    return found.hexdigest()


def label_sample(task: Task, *, annotate: Annotate | None = None, error: str = "") -> Record:
    """Label one sample, unless an earlier run has left it whole; what goes wrong is in the record.

    Parameters
    ----------
    task
        What to do.
    annotate
        Gives the labels, where they are not to be made here.
    error
        What has gone wrong already, if anything.

    Returns
    -------
    dict
        ``status`` is ``done``, ``skipped`` or ``failed``; see docs/production.md for the rest.
    """
    sample = task.sample
    if error:
        return failed(sample, error)
    try:
        return _label_sample(task, annotate)
    except ScBiGNNError as refusal:
        return failed(sample, str(refusal))
    except MemoryError:
        return failed(sample, "the memory ran out; use fewer workers or pass --memory-limit")
    except Exception as surprise:  # noqa: BLE001 - that of one sample must not stop the others
        return failed(sample, f"unexpected {type(surprise).__name__}: {surprise}")


def failed(sample: Sample, error: str) -> Record:
    """Return the record of a sample that could not be labelled."""
    return {**_record(sample, "failed"), "error": error}


def _record(sample: Sample, status: str) -> Record:
    return {
        "sample": sample.name,
        "status": status,
        "input": str(sample.query),
        "output": str(sample.target),
    }


def _label_sample(task: Task, annotate: Annotate | None) -> Record:
    sample, settings = task.sample, task.settings
    work = _work(task)
    if _is_whole(task, work):
        return {**(task.before or {}), "status": "skipped"}
    summary = label_file(
        sample.query,
        sample.target,
        settings,
        overwrite=task.overwrite,
        replace=task.ours,
        report=sample.report,
        make_annotator=held_annotator,
        annotate=annotate,
    )
    return {
        "sample": sample.name,
        "status": "done",
        **summary,
        **work,
        "output_sha256": fingerprint(sample.target),
        "error": "",
    }


def is_whole(task: Task) -> bool:
    """Tell whether an earlier run did the same work and its output is as it was written."""
    return task.before is not None and _is_whole(task, _work(task))


def _work(task: Task) -> dict[str, Any]:
    """Return what an output depends on: input, model, settings and version."""
    query, settings = task.sample.query, task.settings
    if not query.exists():
        raise InputError(f"no file {query}", expected="a file of cells", do="check the path")
    return {
        "input_sha256": fingerprint(query),
        "model_sha256": load_model(str(settings.model)).sha256,
        "settings": {k: v for k, v in settings.as_dict().items() if k not in SAME_LABELS},
        "report": task.sample.report is not None,
        "scbignn_infer": __version__,
    }


def _is_whole(task: Task, work: Mapping[str, Any]) -> bool:
    before, sample = task.before, task.sample
    if before is None or before.get("status") != "done":
        return False
    if any(before.get(key) != value for key, value in work.items()):
        return False
    if sample.report is not None and not sample.report.path.exists():
        return False
    return (
        before.get("output") == str(sample.target)
        and sample.target.is_file()
        and fingerprint(sample.target) == before.get("output_sha256")
    )


_held: dict[tuple[str, str], Annotator] = {}
_holding = threading.Lock()


def held_annotator(settings: Settings, bundle: ModelBundle) -> Annotator:
    """Return the annotator that this process holds for a model and settings, or make it."""
    key = bundle.sha256, repr(settings)
    with _holding:
        if key not in _held:
            _held.clear()  # one model at a time: a worker's memory is for cells
            _held[key] = settings.annotator(bundle)
        return _held[key]


def with_threads(settings: Settings, threads: int) -> Settings:
    """Return settings with their share of the machine's threads, where none were asked for."""
    return settings if settings.threads else replace(settings, threads=max(1, threads))
