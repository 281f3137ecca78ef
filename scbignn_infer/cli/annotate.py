"""``annotate``: label the cells of a file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scbignn_infer.cli.options import (
    FILE,
    gathered,
    given,
    json_option,
    overwrite_option,
    settings_options,
)
from scbignn_infer.cli.printing import (
    make_console,
    make_table,
    print_json,
    print_pairs,
    print_warnings,
    say,
    show_progress,
)
from scbignn_infer.cli.running import alive
from scbignn_infer.cli.samples import Common, SampleOptions, annotate_samples
from scbignn_infer.errors import OutputError
from scbignn_infer.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from scbignn_infer.annotation.provenance import Genes
    from scbignn_infer.apart import JobApart
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.label_file import Job
    from scbignn_infer.settings import Settings

Summary = dict[str, Any]
FEW_PAIRS = 5
LONG_SECONDS = 20.0
"""What takes longer is said beforehand."""


@dataclass(frozen=True)
class FileOptions:
    """Options of ``annotate`` that are about one file: what is written."""

    output: Path | None
    report: Path | None
    in_place: bool


@click.command()
@click.argument("queries", nargs=-1, metavar="QUERY...")
@gathered(
    "one",
    FileOptions,
    click.option(
        "-o",
        "--output",
        type=FILE,
        help="File to write: .h5ad, .csv, .tsv, .parquet or .xlsx; by default QUERY.scbignn.h5ad.",
    ),
    click.option("--in-place", is_flag=True, help="Write into QUERY itself."),
    click.option("--report", type=FILE, help="HTML report to write, too (extra 'report')."),
)
@click.option(
    "-O",
    "--output-folder",
    "folder",
    type=FILE,
    help="Label many QUERY, each a sample of its own, into this folder.",
)
@settings_options(*SETTINGS)
@gathered(
    "many",
    SampleOptions,
    click.option("--samples", type=FILE, help="With -O: CSV of samples, columns query and name."),
    click.option(
        "--format",
        "suffix",
        type=click.Choice(["h5ad", "csv", "tsv", "parquet", "xlsx"]),
        default="h5ad",
        show_default=True,
        help="With -O: format of the outputs.",
    ),
    click.option("--reports", is_flag=True, help="With -O: write a report beside each output."),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="With -O: local processes.",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="With -O: label on the workers of a running dask scheduler (extra 'distributed').",
    ),
    click.option(
        "--split",
        type=click.IntRange(min=1),
        metavar="CELLS",
        help="With -O and --graph reference: divide samples of more cells.",
    ),
)
@gathered(
    "common",
    Common,
    click.option(
        "--sample-key",
        metavar="KEY",
        help="Column of obs that the report and a workbook divide by.",
    ),
    click.option(
        "--time-limit",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Stop after this time; with -O, the time of each sample.",
    ),
    overwrite_option,
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    json_option,
)
def annotate(
    queries: tuple[str, ...],
    folder: Path | None,
    settings: Settings,
    one: FileOptions,
    many: SampleOptions,
    common: Common,
) -> None:
    """Label the cells of a file, or of many.

    Writes a copy of QUERY (.h5ad) with the labels, or a table of them. With -O, each QUERY (a file
    or a pattern) is labelled on its own into a folder; samples that are whole there are skipped.
    """
    wrong = given([field.name for field in fields(many if folder is None else one)])
    if folder is not None:
        if wrong:
            raise click.UsageError(f"{', '.join(wrong)}: not with -O, which names outputs itself")
        annotate_samples(queries, folder, settings, many, common)
        return
    if len(queries) != 1 or wrong:
        raise click.UsageError(
            f"{', '.join(wrong) or f'{len(queries)} files'}: many files are labelled into a "
            "folder; pass -O FOLDER"
            if queries or wrong
            else "name a file to label, or several and -O FOLDER"
        )
    annotate_file(Path(queries[0]), settings, one, common)


def annotate_file(query: Path, settings: Settings, options: FileOptions, common: Common) -> None:
    """Label one file and print a summary."""
    from scbignn_infer.label_file import Job, ReportFile

    target = _target(query, options.output, in_place=options.in_place)
    page, sample_key = None, common.sample_key or settings.reading.batch_key
    if options.report is not None:
        page = ReportFile(options.report, sample_key)
    make: Callable[..., Job | JobApart] = Job
    if common.time_limit is not None:
        from scbignn_infer.apart import JobApart

        make = partial(JobApart, seconds=common.time_limit)
    with (
        show_progress(hidden=common.silent) as progress,
        make(
            query,
            target,
            settings,
            overwrite=common.overwrite,
            report=page,
            sample_key=sample_key,
            progress=alive(progress),
        ) as job,
    ):
        if not common.silent:
            _announce(job.n_cells, job.expected)
        summary = job.run()
    if common.as_json:
        print_json(summary)
        print_warnings([] if common.quiet else summary["warnings"])
    elif not common.quiet:
        _print_summary(summary)


def _announce(n_cells: int, expected: Estimate) -> None:
    """Say what takes long before it is done."""
    if expected.seconds <= LONG_SECONDS:
        return
    seconds, gigabytes = expected.seconds, expected.memory / 1e9
    time = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
    say(f"{n_cells:,} cells will take about {time} and {gigabytes:.1f} GB of memory", err=True)


def _target(query: Path, output: Path | None, *, in_place: bool) -> Path:
    from scbignn_infer.label_file import stem

    if output is None:
        return query if in_place else query.with_name(f"{stem(query)}.scbignn.h5ad")
    same = output.exists() and query.exists() and output.samefile(query)
    if in_place and not same:
        raise click.UsageError("--in-place writes into QUERY; leave out --output")
    if same and not in_place:
        raise OutputError(
            f"the output {output} is the input",
            expected="another file",
            do="choose another -o, or pass --in-place",
        )
    return output


def _print_summary(summary: Summary) -> None:
    from scbignn_infer.annotation.provenance import Provenance

    console = make_console(stderr=True)
    based, n = Provenance.from_record(summary), summary["cells"]
    model, matrix, genes, chosen = based.model, based.matrix, based.genes, ""
    if based.reference_distance is not None:
        far = ", ".join(f"{k} {v:.2f}" for k, v in based.reference_distance.items())
        chosen = f", {based.why} (distance to the references: {far})"
    print_pairs(
        console,
        {
            "cells": f"{n:,}, of which {summary['unknown']:,} unknown"
            + (f" ({summary['empty']:,} without counts)" if summary["empty"] else ""),
            **({} if based.left_out is None else {"left out": based.left_out.said}),
            "model": f"{model.name} {model.version}{chosen}",
            "tissue": based.tissue.said,
            "matrix": f"{matrix.name}: {matrix.state} ({matrix.reason})",
            "genes": f"{genes.n_shared:,} shared by '{genes.column}'{_other_genes(genes)}; "
            f"{genes.coverage:.0%} of what the network reads",
        },
    )
    if based.adaptation:
        console.print(based.adaptation, soft_wrap=True)
    if based.adapted is not None:
        console.print(based.adapted.said, soft_wrap=True)
    rows = [(label, f"{count:,}", f"{count / n:.1%}") for label, count in summary["labels"].items()]
    console.print(make_table(["label", "cells", "share"], rows))
    if "mixtures" in summary:
        print_pairs(console, {"mixtures": _mixtures(summary["mixtures"], n)})
    print_warnings(summary["warnings"])
    print_pairs(console, {"seconds": f"{summary['seconds']:.1f}", "output": summary["output"]})


def _mixtures(cells: dict[str, int], n: int) -> str:
    """Say how many cells are between two types, and the most frequent pairs."""
    named = sum(cells.values())
    few = ", ".join(f"{pair} {m:,}" for pair, m in list(cells.items())[:FEW_PAIRS])
    more = f", {len(cells) - FEW_PAIRS} more pairs" if len(cells) > FEW_PAIRS else ""
    return f"{named:,} cells ({named / n:.1%})" + (f": {few}{more}" if cells else "")


def _other_genes(genes: Genes) -> str:
    """Say what of the genes was renamed, summed or left out."""
    left_out = ", ".join(f"{n:,} {kind}" for kind, n in genes.left_out.items())
    parts = [
        f"{genes.n_renamed:,} by another name" if genes.n_renamed else "",
        f"{genes.n_duplicates:,} duplicates summed" if genes.n_duplicates else "",
        f"left out: {left_out}" if left_out else "",
    ]
    remarks = "; ".join(filter(None, parts))
    return f" ({remarks})" if remarks else ""
