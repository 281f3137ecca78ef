"""``annotate``: label the cells of a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scbignn_infer.cli.about import command, provenance
from scbignn_infer.cli.options import (
    FILE,
    Seconds,
    basis_option,
    figures_option,
    gathered,
    given,
    json_option,
    overwrite_option,
    repeated,
    sample_key_option,
    settings_options,
)
from scbignn_infer.cli.printing import print_drawn, print_json, print_warnings, say, show_progress
from scbignn_infer.cli.running import alive
from scbignn_infer.cli.samples import Common, SampleOptions, annotate_samples
from scbignn_infer.cli.summary import print_summary
from scbignn_infer.errors import OutputError
from scbignn_infer.settings import SAME_LABELS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from scbignn_infer.apart import JobApart
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.label_file import Job
    from scbignn_infer.settings import Settings

Summary = dict[str, Any]
LONG_SECONDS = 20.0
"""What takes longer is said beforehand."""
NOT_OF_EXPLAIN = ("model", "key_added", "write_graph", "cluster_key")
"""Settings that are left out of the command that shows why cells have their labels."""


@dataclass(frozen=True)
class FileOptions:
    """Options of ``annotate`` that are about one file: what is written."""

    output: Path | None
    cluster_table: Path | None
    in_place: bool
    estimate: bool
    report: Path | None


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
    click.option(
        "--estimate",
        is_flag=True,
        help="Only say what time and memory labelling would take, and write nothing.",
    ),
    click.option(
        "--cluster-table",
        type=FILE,
        help="With --cluster-key: table of the clusters to write, too, .csv or .tsv.",
    ),
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
    figures_option(samples=True),
    basis_option,
    sample_key_option,
    click.option(
        "--time-limit",
        type=Seconds(),
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
    # Before numpy is imported: its threads would wait more than they work, as network/blas says.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
    work = estimate_file if one.estimate else annotate_file
    work(Path(queries[0]), settings, one, common)


def estimate_file(query: Path, settings: Settings, options: FileOptions, common: Common) -> None:
    """Say what labelling one file would take."""
    from scbignn_infer import label_file

    suffix = ".h5ad" if options.output is None else options.output.suffix
    report = options.report is not None or common.figures is not None
    expected = label_file.estimate_file(query, settings, suffix=suffix, report=report)
    if common.as_json:
        print_json(expected)
    elif not common.quiet:
        time, memory = _as_time(expected["seconds"]), expected["memory_bytes"] / 1e9
        threads = "1 thread" if expected["threads"] == 1 else f"{expected['threads']} threads"
        say(
            f"{query}: {expected['cells']:,} cells would take about {time} and {memory:.1f} GB of "
            f"memory with {expected['model']['name']} on {threads}"
        )


def annotate_file(query: Path, settings: Settings, options: FileOptions, common: Common) -> None:
    """Label one file and print a summary."""
    from scbignn_infer.label_file import Job

    target = _target(query, options.output, in_place=options.in_place)
    views, key = None, common.sample_key or settings.reading.batch_key
    if options.report is not None or common.figures is not None:
        from scbignn_infer.report.views import Views

        views = Views(options.report, common.figures, key, common.basis)
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
            views=views,
            cluster_table=options.cluster_table,
            sample_key=key,
            progress=alive(progress),
        ) as job,
    ):
        if not common.silent:
            _announce(job.n_cells, job.expected)
        summary = job.run()
    if common.as_json:
        about = {"command": command(), "provenance": provenance(query, settings, summary)}
        print_json(summary | about)
        print_warnings([] if common.quiet else summary["warnings"])
    elif not common.quiet:
        print_summary(
            summary,
            model=settings.model,
            report=options.report,
            explain=repeated(SETTINGS.keys() - {*NOT_OF_EXPLAIN, *SAME_LABELS}),
            draw=repeated(("key_added",)),
        )
        print_drawn(options.report, common.figures)


def _announce(n_cells: int, expected: Estimate) -> None:
    """Say what takes long before it is done."""
    if expected.seconds <= LONG_SECONDS:
        return
    time, gigabytes = _as_time(expected.seconds), expected.memory / 1e9
    say(f"{n_cells:,} cells will take about {time} and {gigabytes:.1f} GB of memory", err=True)


def _as_time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"


def _target(query: Path, output: Path | None, *, in_place: bool) -> Path:
    from scbignn_infer.label_file import beside, stem

    if output is None:
        return query if in_place else beside(query, f"{stem(query)}.scbignn.h5ad")
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
