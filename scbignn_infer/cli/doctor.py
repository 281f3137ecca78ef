"""``doctor``: what is installed and what really works."""

from __future__ import annotations

from dataclasses import asdict

import click

from scbignn_infer.cli.options import json_option
from scbignn_infer.cli.printing import describe_error, make_console, print_json, print_pairs
from scbignn_infer.errors import ScBiGNNError


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the installation.

    Says what is installed, which devices really work, and what to repair.
    """
    from scbignn_infer.doctor import examine

    report = examine()
    if as_json:
        print_json(asdict(report) | _why(len(report.problems)))
    else:
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
    if report.problems:
        ctx.exit(1)


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
