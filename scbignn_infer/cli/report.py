"""``report``: the report and figures of a file that is labelled already."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from scbignn_infer.cli.options import (
    FILE,
    basis_option,
    figures_option,
    json_option,
    overwrite_option,
    sample_key_option,
    settings_options,
)
from scbignn_infer.cli.printing import print_drawn, print_json, print_warnings

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.settings import Settings

SETTINGS = ("key_added", "device", "threads", "memory_limit")


@click.command()
@click.argument("labelled", type=FILE, metavar="LABELLED.h5ad")
@click.option(
    "-o", "--output", type=FILE, help="HTML page to write; by default beside LABELLED, as .html."
)
@figures_option(samples=False)
@basis_option
@sample_key_option
@click.option(
    "-m",
    "--model",
    metavar="NAME|PATH",
    help="Model that gave the labels; by default the installed one of its name and checksum.",
)
@settings_options(*SETTINGS)
@overwrite_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
def report(
    labelled: Path,
    output: Path | None,
    figures: Path | None,
    basis: str | None,
    sample_key: str | None,
    model: str | None,
    settings: Settings,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw the report and figures of a labelled file.

    No cell is labelled again: labels are shown as they stand in the file, with the model's genes
    and card if that model is installed or named with -m.
    """
    from scbignn_infer.label_file import beside, stem
    from scbignn_infer.report.stored import show
    from scbignn_infer.report.views import Views

    page = output or beside(labelled, f"{stem(labelled)}.html")
    views, settings = Views(page, figures, sample_key, basis), replace(settings, model=model)
    drawn, warnings = show(labelled, views, settings, overwrite=overwrite)
    if as_json:
        paths = [str(path) for path in drawn]
        print_json({"input": str(labelled), "drawn": paths, "warnings": warnings})
    if not quiet:
        print_warnings(warnings)
    if not quiet and not as_json:
        print_drawn(page, figures)
