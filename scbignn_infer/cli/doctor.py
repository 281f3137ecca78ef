"""``doctor``: what is installed, what really works, and whether it labels as it should."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from scbignn_infer.cli.options import FILE, given, json_option, settings_options
from scbignn_infer.cli.printing import (
    describe_error,
    make_console,
    make_table,
    print_json,
    print_pairs,
    say,
)
from scbignn_infer.errors import ScBiGNNError

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.doctor import Findings
    from scbignn_infer.settings import Settings


@click.command()
@click.option(
    "--qualify",
    is_flag=True,
    help="Label the golden cases of the shipped models and compare with what they must give.",
)
@click.option(
    "-o",
    "--output",
    "folder",
    type=FILE,
    help="With --qualify: folder for the record of it (.json and .html).",
)
@settings_options("device", "threads")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, settings: Settings, qualify: bool, folder: Path | None, as_json: bool
) -> None:
    """Check the installation.

    Says what is installed, which devices really work, and what to repair.
    """
    if not qualify:
        if wrong := given(("folder", "device", "threads")):
            raise click.UsageError(f"{', '.join(wrong)}: of use only with --qualify")
        _examine(ctx, as_json=as_json)
        return
    document = _qualify(settings, folder, quiet=as_json)
    passed = document["record"]["passed"]
    if as_json:
        print_json(document | ({} if passed else _failure()))
    if not passed:
        ctx.exit(1)


def _examine(ctx: click.Context, *, as_json: bool) -> None:
    """Look at the installation and say what is found."""
    from scbignn_infer.doctor import examine

    report = examine()
    if as_json:
        print_json(asdict(report) | _why(len(report.problems)))
    else:
        _print(report)
    if report.problems:
        ctx.exit(1)


def _print(report: Findings) -> None:
    console = make_console()
    print_pairs(console, {k: v or "missing" for k, v in report.versions.items()})
    training = ", ".join(f"{k} {v or 'missing'}" for k, v in report.training.items())
    print_pairs(
        console,
        {
            "training": training,
            "providers": ", ".join(report.providers_listed),
            **report.providers,
            **{f"model {k}": v for k, v in report.models.items()},
        },
    )
    for problem in report.problems:
        console.print(f"problem: {problem}", soft_wrap=True)
    if not report.problems:
        console.print("Nothing to repair.")


def _why(problems: int) -> dict[str, dict[str, str]]:
    """Return what the JSON document says of the whole, if there are problems."""
    if not problems:
        return {}
    error = ScBiGNNError(
        f"{problems} problems of the installation",
        expected="none",
        do="repair what the list of problems names",
    )
    return {"error": describe_error(error)}


def _qualify(settings: Settings, folder: Path | None, *, quiet: bool) -> dict[str, Any]:
    """Run the golden cases, write the record where a folder is given, and say what came of it."""
    from scbignn_infer.qualification.filing import check_folder, file_record
    from scbignn_infer.qualification.record import qualify, sealed

    if folder is not None:
        check_folder(folder)
    record = qualify(device=settings.device, threads=settings.threads)
    paths = file_record(record, folder) if folder is not None else []
    document = sealed(record)
    if not quiet:
        _print_outcomes(document)
        for path in paths:
            say(f"wrote {path}")
    return document


def _failure() -> dict[str, dict[str, str]]:
    """Return what the JSON document says of the whole, if the check fails."""
    error = ScBiGNNError(
        "this installation does not do what the released package did",
        expected="the labels and scores of the golden cases, and nothing to repair",
        do="see what failed in the record; then install scbignn-infer again",
    )
    return {"error": describe_error(error)}


def _print_outcomes(document: dict[str, Any]) -> None:
    from scbignn_infer.qualification.sheet import verdict

    console, record = make_console(), document["record"]
    rows = [
        [
            f"{case['model']} {case['version']}",
            str(case["cells"]),
            str(sum(case["labels"].values())) if case["labels"] else "-",
            f"{max(case['scores'].values()):.1e}" if case["scores"] else "-",
            f"{sum(case['seconds'].values()):.1f}",
            verdict(passed=case["passed"]),
        ]
        for case in record["cases"]
    ]
    titles = ("model", "cells", "other labels", "largest difference", "seconds", "result")
    console.print(make_table(titles, rows))
    problems = [f"{c['model']}: {c['problem']}" for c in record["cases"] if c["problem"]]
    for problem in [*problems, *record["problems"]]:
        console.print(f"problem: {problem}", soft_wrap=True)
    for file in record["package"]["files"].get("altered", ()):
        console.print(
            f"problem: {file} was altered or removed since it was installed", soft_wrap=True
        )
    say(f"{verdict(passed=record['passed'])}; SHA-256 of the record: {document['sha256']}")
