"""``annotate -O``: many samples into a folder, and what became of each."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from scbignn_infer.cli.about import command
from scbignn_infer.cli.printing import (
    describe_error,
    make_console,
    make_table,
    print_json,
    print_pairs,
    print_warnings,
    say,
)
from scbignn_infer.cli.running import end_if_terminated
from scbignn_infer.errors import InputError, OutputError, ScBiGNNError
from scbignn_infer.settings import RuleKeywords

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from scbignn_infer.batch.manifest import Manifest
    from scbignn_infer.batch.samples import Sample
    from scbignn_infer.settings import Settings

Record = dict[str, Any]
SOME_FAILED = 3
"""Exit code where samples failed and others did not stop for them."""


@dataclass(frozen=True)
class Common:
    """Options of ``annotate`` that are neither settings nor about one file or many alone."""

    figures: Path | None
    basis: str | None
    sample_key: str | None
    time_limit: float | None
    overwrite: bool
    quiet: bool
    as_json: bool

    @property
    def silent(self) -> bool:
        """Tell whether nothing is said while cells are labelled."""
        return self.quiet or self.as_json


@dataclass(frozen=True)
class SampleOptions:
    """Options of ``annotate`` that are about many samples: which, what is written, and by whom."""

    samples: Path | None
    suffix: str
    reports: bool
    workers: int
    scheduler: str | None
    split: int | None


def annotate_samples(
    patterns: Sequence[str],
    folder: Path,
    settings: Settings,
    options: SampleOptions,
    common: Common,
) -> None:
    """Label samples into a folder; exit with 3 if any failed."""
    from scbignn_infer.batch import manifest, overview, samples
    from scbignn_infer.label_file import now

    _refuse(settings, options)
    chosen = samples.find_samples(
        patterns,
        folder,
        sheet=options.samples,
        suffix=options.suffix,
        report=options.reports,
        figures=common.figures,
        basis=common.basis,
        sample_key=common.sample_key or settings.reading.batch_key,
    )
    named = [path for s in chosen for path in (*s.outputs, s.figures) if path is not None]
    overview.refuse(folder, named, overwrite=common.overwrite, reports=options.reports)
    _make_folder(folder, "-O")
    if common.figures is not None:
        _make_folder(common.figures, "--figures")
    started = now()
    with manifest.hold(folder) as book:
        records = list(_label(chosen, book, settings, options, common))
        place = {sample.name: i for i, sample in enumerate(chosen)}
        records.sort(key=lambda record: place[record["sample"]])
        written, odd = overview.write(folder, records, book.run, reports=options.reports)
        warnings = [*book.warnings, *odd]
    failed = _failed(records)
    if common.as_json:
        document = {
            "folder": str(folder),
            "overview": list(map(str, written)),
            "warnings": warnings,
            "samples": records,
            "command": command(),
            "started": started,
            "finished": now(),
        }
        print_json(document | _why(failed, len(records)))
    if not common.quiet:
        print_warnings(warnings)
    if not common.silent:
        _print_records(records, folder, written, common.figures)
    else:
        if not common.quiet:
            print_warnings(_warnings(records))
        for record in failed:
            say(f"error: {record['sample']}: {record['error']}", err=True)
    if failed:
        click.get_current_context().exit(SOME_FAILED)


def _refuse(settings: Settings, options: SampleOptions) -> None:
    """Refuse settings that are no settings of many samples, or of parts of one."""
    from scbignn_infer.annotation import adapt
    from scbignn_infer.annotation.rules import Rules
    from scbignn_infer.model import registry

    if settings.model is None:
        raise InputError(
            "many samples and no model",
            expected="one model for all of them, so that their labels are comparable",
            do="choose one with -m; see: scbignn-infer inspect FILE",
        )
    rules = Rules.of(registry.load_model(settings.model), **settings.some(RuleKeywords))
    if options.split is not None and rules.tissues is not None and not rules.tissue.how:
        raise InputError(
            "a sample is to be divided, and its tissue found from all of its cells",
            expected="--tissue NAME or --tissue any with --split and a body model",
            do="pass one, or leave out --split",
        )
    if options.split is not None and settings.mixtures:
        raise InputError(
            "a sample is to be divided, and mixtures are named by what is usual in all of it",
            expected="--split without --mixtures",
            do="leave out one of the two",
        )
    if settings.adapt:
        adapt.refuse_fixed("reference" if options.split else settings.graph)
    if options.split is not None and settings.graph != "reference":
        raise InputError(
            "a sample is to be divided on its own graph, on which labels depend on all cells",
            expected="--graph reference with --split",
            do="pass both, or leave out --split",
        )


def _label(
    chosen: Sequence[Sample],
    book: Manifest,
    settings: Settings,
    options: SampleOptions,
    common: Common,
) -> Iterator[Record]:
    """Label samples into the folder of a manifest, and note there what became of each."""
    from scbignn_infer.batch import cluster, samples

    tasks = samples.plan_tasks(
        chosen, book, settings, overwrite=common.overwrite, split=options.split
    )
    folders = [book.path.parent, *(f for sample in chosen if (f := sample.figures) is not None)]
    if book.locked:
        samples.remove_leftovers(folders)
    results = cluster.run(
        tasks,
        workers=options.workers,
        scheduler=options.scheduler,
        time_limit=common.time_limit,
    )
    try:
        with closing(results):  # so that workers end before their temporary files go
            for i, record in enumerate(results, 1):
                end_if_terminated()
                if record["status"] != "skipped":
                    book.append([record])
                if not common.silent:
                    say(f"[{i}/{len(tasks)}] {_line(record)}", err=True)
                yield record
    finally:
        samples.remove_leftovers(folders, book.run)


def _why(failed: Sequence[Record], n: int) -> dict[str, Any]:
    """Return what the JSON document says of the whole run, if samples failed."""
    if not failed:
        return {}
    error = ScBiGNNError(
        f"{len(failed)} of {n} samples failed",
        expected="samples that can be labelled",
        do="mend what the error of each says, then run again: whole samples are skipped",
    )
    return {"error": describe_error(error, code=SOME_FAILED)}


def _make_folder(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder} ({error.strerror})",
            expected="a folder that can be written",
            do=f"choose another {option}",
        ) from None


def _failed(records: Iterable[Record]) -> list[Record]:
    return [r for r in records if r["status"] == "failed"]


def _warnings(records: Iterable[Record]) -> list[str]:
    return [f"{r['sample']}: {w}" for r in records for w in r.get("warnings", ())]


def _line(record: Record) -> str:
    """Say what became of a sample."""
    if record["status"] == "failed":
        return f"{record['sample']}: FAILED, {record['error']}"
    if record["status"] == "skipped":
        return f"{record['sample']}: whole already"
    return (
        f"{record['sample']}: {record['cells']:,} cells, {record['unknown']:,} unknown, "
        f"{record['seconds']:.1f} s"
    )


def _print_records(
    records: list[Record], folder: Path, written: Sequence[Path], figures: Path | None
) -> None:
    console = make_console(stderr=True)
    counts = {
        status: sum(r["status"] == status for r in records)
        for status in ("done", "skipped", "failed")
    }
    whole = [r for r in records if r["status"] != "failed"]
    rows = [
        (r["sample"], r["status"], f"{r['cells']:,}", f"{r['unknown'] / max(r['cells'], 1):.1%}")
        for r in whole
    ]
    console.print(make_table(["sample", "status", "cells", "unknown"], rows))
    print_warnings(_warnings(records))
    for record in _failed(records):
        console.print(f"error: {record['sample']}: {record['error']}", soft_wrap=True)
    print_pairs(
        console,
        {
            "samples": ", ".join(f"{n} {status}" for status, n in counts.items() if n),
            "cells": f"{sum(r['cells'] for r in whole):,}",
            "output": str(folder),
            "overview": ", ".join(map(str, written)),
            "figures": "" if figures is None else f"{figures}, a folder for each sample",
        },
    )
