"""The command line. Heavy modules are imported inside the commands that need them."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scbignn_infer import __version__
from scbignn_infer.errors import (
    BundleError,
    GeneError,
    InputError,
    MissingExtraError,
    OutputError,
    ScBiGNNError,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from scbignn_infer.bundle import BundleSpec, Interpretation
    from scbignn_infer.choice import Choice, Reading
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.evaluation import Scores
    from scbignn_infer.matrices import Verdict
    from scbignn_infer.pipeline import Annotator, Progress
    from scbignn_infer.readers import FileQuery, Query
    from scbignn_infer.readers.tables import Orientation
    from scbignn_infer.results import Annotation

Summary = dict[str, Any]
WIDTH_OF_PIPES = 160
LONG_SECONDS = 20.0
"""What takes longer is said beforehand."""
TRAINING_MODULES = ("torch", "torch_geometric", "sklearn", "onnx", "onnxscript")


class Failure(click.ClickException):
    """One line on stderr and exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"error: {self.message}", err=True)


class Commands(click.Group):
    """The one place where errors and signals become a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; SIGTERM unwinds the stack, so that temporary files are removed."""
        signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except ScBiGNNError as error:
            raise Failure(str(error)) from None
        except MemoryError:
            raise Failure(
                "the memory ran out; expected enough for the cells' embeddings and graph; "
                "close other programs or annotate one sample at a time"
            ) from None
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(128 + signal.SIGINT) from None


_terminated: list[int] = []
"""Signals that were received."""


def _terminate(number: int, frame: Any) -> None:
    _terminated.append(number)
    sys.exit(128 + number)


def _alive(progress: Progress) -> Progress:
    """Let progress end the process, where a library has swallowed what a signal raised."""

    def report(stage: str, done: int, total: int) -> None:
        if _terminated:
            sys.exit(128 + _terminated[0])
        progress(stage, done, total)

    return report


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scbignn-infer")
def main() -> None:
    """Label the cells of single-cell RNA-seq data with a bilevel graph neural network."""


FILE = click.Path(path_type=Path)
model_option = click.option(
    "-m", "--model", metavar="NAME|PATH", help="Model to use; by default the one that fits best."
)
key_option = click.option(
    "--key-added",
    default="scbignn",
    show_default=True,
    callback=lambda ctx, parameter, value: _plain_key(value),
    help="Prefix of everything that annotate writes.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what exists already.")


def reading_options(command: Any) -> Any:
    """Add the options on how a query is read."""
    options = (
        click.option(
            "--matrix", metavar="X|raw|layers/NAME", help="Matrix to read; by default the best."
        ),
        click.option("--gene-column", metavar="NAME", help="Column of var with the gene names."),
        click.option(
            "--min-gene-coverage",
            type=click.FloatRange(0, 1),
            metavar="SHARE",
            help="Refuse data with a lower share of the model's genes.",
        ),
        click.option(
            "--allow-species-mismatch",
            is_flag=True,
            help="Match the symbols of another species, whatever their case.",
        ),
        click.option(
            "--orientation",
            type=click.Choice(["cells-by-genes", "genes-by-cells"]),
            help="Rows by columns of a text table; by default found by the gene names.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _open(query: Path, orientation: Orientation | None = None) -> FileQuery:
    """Open a file of cells; the names of genes tell which side of a text table has them."""
    from scbignn_infer import gene_names, readers, registry
    from scbignn_infer.readers import tables

    known: set[str] = set()
    if tables.is_table(query) and orientation is None:
        bundles = map(registry.load_model, registry.list_models().values())
        known = gene_names.all_names().union(*(b.gene_symbols for b in bundles))
    return readers.open_query(query, known_genes=known, orientation=orientation)


def _plain_key(key: str) -> str:
    if not key or "/" in key:
        raise click.BadParameter("must not be empty or hold a slash")
    return key


@main.command()
@click.argument("query", type=FILE)
@model_option
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="File to write: .h5ad, .csv, .tsv or .parquet; by default QUERY.scbignn.h5ad.",
)
@reading_options
@click.option(
    "--batch-key", metavar="KEY", help="Column of obs; only cells with one value are neighbours."
)
@key_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default all.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the approximate graph search.",
)
@click.option(
    "--batch-cells",
    type=click.IntRange(min=1),
    help="Cells that go through the gene level at once; by default 256, on a GPU 4096.",
)
@click.option(
    "--memory-limit",
    metavar="SIZE",
    callback=lambda ctx, parameter, value: _bytes(value),
    help="Refuse, before any work, what is estimated to need more, such as 4GB.",
)
@click.option(
    "--unknown-threshold",
    type=click.FloatRange(0, 1),
    metavar="CONFIDENCE",
    help="Call cells below it unknown, novel ones sooner; by default the model's.",
)
@click.option("--no-unknown", is_flag=True, help="Give every cell with counts a label.")
@click.option(
    "--level",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Coarser labels: so many steps up the Cell Ontology.",
)
@click.option("--group-map", type=FILE, help="Coarser labels: JSON object, type to group.")
@click.option("--report", type=FILE, help="HTML report to write, too (extra 'report').")
@click.option("--sample-key", metavar="KEY", help="Column of obs that the report divides by.")
@overwrite_option
@click.option("--in-place", is_flag=True, help="Write into QUERY itself.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
def annotate(
    query: Path,
    model: str | None,
    output: Path | None,
    matrix: str | None,
    gene_column: str | None,
    min_gene_coverage: float | None,
    allow_species_mismatch: bool,
    orientation: Orientation | None,
    batch_key: str | None,
    key_added: str,
    device: str,
    threads: int | None,
    seed: int,
    batch_cells: int | None,
    memory_limit: int | None,
    unknown_threshold: float | None,
    no_unknown: bool,
    level: int,
    group_map: Path | None,
    report: Path | None,
    sample_key: str | None,
    overwrite: bool,
    in_place: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Label the cells of a file.

    Writes a copy of QUERY (.h5ad) with the labels, or a table of them.
    """
    from time import perf_counter

    from scbignn_infer import pipeline, registry, writers
    from scbignn_infer.choice import Reading

    start = perf_counter()
    target = _target(query, output, in_place=in_place)
    to_h5ad = target.suffix == ".h5ad"
    reading = Reading(matrix, gene_column, min_gene_coverage, allow_species_mismatch, batch_key)
    with ExitStack() as stack:
        progress = _alive(stack.enter_context(_progress(hidden=quiet or as_json)))
        cells = stack.enter_context(_open(query, orientation))
        if in_place and not cells.h5ad:
            raise OutputError(
                f"{query} is no .h5ad file of today's format, and labels cannot be written into it",
                expected="a new file",
                do="leave out --in-place",
            )
        writers.check_target(target, overwrite=overwrite or in_place)
        if report is not None:
            _check_report(report, cells, sample_key or batch_key, overwrite=overwrite)
        slots = pipeline.slot_names(key_added)
        if to_h5ad and cells.h5ad:
            writers.check_h5ad_slots(query, slots, overwrite=overwrite)
        choice, novelty = None, None
        if model is not None:
            bundle = registry.load_model(model)
        else:
            bundle, choice, novelty = pipeline.choose_model(
                cells, reading, device=device, threads=threads
            )
        annotator = pipeline.Annotator(
            bundle,
            device=device,
            threads=threads,
            seed=seed,
            batch_cells=batch_cells,
            memory_limit=memory_limit,
            unknown=not no_unknown,
            unknown_threshold=unknown_threshold,
            level=level,
            groups=_read_map(group_map) if group_map is not None else None,
        )
        copied = to_h5ad and cells.h5ad
        expected = annotator.estimate(
            cells.n_cells, output_bytes=query.stat().st_size if copied else 0
        )
        if expected.seconds > LONG_SECONDS and not (quiet or as_json):
            click.echo(_expectation(cells.n_cells, expected), err=True)
        finish = stack.enter_context(writers.copying(query, target)) if copied else None
        choice = choice or annotator.choose(cells, reading)
        annotation = annotator.annotate_query(cells, reading, choice=choice, progress=progress)
        if report is not None:
            progress("report", 0, 1)
            _write_report(report, annotator, cells, choice, annotation, sample_key or batch_key)
            progress("report", 1, 1)
        whole = cells.to_adata() if to_h5ad and not copied else None
        names = [] if to_h5ad else cells.cell_names()
        cells.close()
        progress("write", 0, 1)
        if finish is not None:
            finish(pipeline.slot_values(annotation, key_added))
        elif whole is not None:
            writers.refuse_existing(pipeline.taken_slots(whole, key_added), overwrite=overwrite)
            writers.write_new_h5ad(whole, target, pipeline.slot_values(annotation, key_added))
        else:
            writers.write_table(
                target,
                names,
                columns=pipeline.obs_columns(annotation, key_added),
                probabilities=annotation.probabilities,
                cell_types=annotation.cell_types,
            )
        progress("write", 1, 1)
    summary = {
        "input": str(query),
        "output": str(target),
        **_summary(annotation, novelty),
        "seconds": round(perf_counter() - start, 3),
    }
    if as_json:
        _print_json(summary)
    elif not quiet:
        _print_summary(summary)


def _bytes(size: str | None) -> int | None:
    """Return a size such as 500MB or 4G in bytes, in powers of 1,000."""
    if size is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"'{size}' is no size such as 500MB or 4GB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


def _expectation(n_cells: int, expected: Estimate) -> str:
    seconds, gigabytes = expected.seconds, expected.memory / 1e9
    time = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
    return f"{n_cells:,} cells will take about {time} and {gigabytes:.1f} GB of memory"


def _stem(query: Path) -> str:
    """Return the name of a file without suffixes such as .csv.gz, and that of a folder."""
    name = query.resolve().name
    return re.sub(r"(\.(h5ad|h5|loom|zarr|zip|csv|tsv|txt|tab|mtx|gz))+$", "", name) or name


def _target(query: Path, output: Path | None, *, in_place: bool) -> Path:
    if output is None:
        return query if in_place else query.with_name(f"{_stem(query)}.scbignn.h5ad")
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


@contextmanager
def _progress(*, hidden: bool) -> Iterator[Progress]:
    """Show a bar for each stage where stderr is a terminal."""
    if hidden or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=_console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def _summary(annotation: Annotation, novelty: Mapping[str, float] | None) -> Summary:
    from scbignn_infer.results import UNKNOWN

    provenance, labels = annotation.provenance, annotation.counts()
    return {
        "cells": len(annotation),
        "model": provenance["model"],
        "adaptation": provenance["adaptation"],
        "median_novelty": novelty,
        "matrix": provenance["matrix"],
        "genes": provenance["genes"],
        "params": provenance["params"],
        "stages": provenance["seconds"],
        "labels": labels,
        "unknown": labels.get(UNKNOWN, 0),
        "empty": int(annotation.empty.sum()),
        "warnings": _warnings(annotation),
    }


def _warnings(annotation: Annotation) -> list[str]:
    """Return what the user should know before the labels are believed."""
    from statistics import median

    from scbignn_infer.genes import LOW_COVERAGE
    from scbignn_infer.pipeline import MAX_NOVELTY

    provenance = annotation.provenance
    coverage = provenance["genes"]["coverage"]
    warnings = []
    if coverage < LOW_COVERAGE:
        warnings.append(
            f"the data have only {coverage:.0%} of the genes that the model's network reads; "
            "labels are less reliable"
        )
    if median(annotation.novelty.tolist()) > MAX_NOVELTY:
        warnings.append(
            f"most cells are unlike any that {provenance['model']['name']} was trained on "
            f"(median novelty above {MAX_NOVELTY}); is it the right model?"
        )
    return warnings


def _check_report(report: Path, cells: FileQuery, key: str | None, *, overwrite: bool) -> None:
    """Refuse a report that cannot be written, before any work is done."""
    from importlib.util import find_spec

    _check_page(report, overwrite=overwrite)
    if find_spec("umap") is None:
        raise MissingExtraError("umap", extra="report", purpose="the map of the report")
    if key is not None:
        cells.obs_column(key)


def _check_page(page: Path, *, overwrite: bool) -> None:
    """Refuse an HTML page that cannot be written."""
    if page.suffix != ".html":
        raise OutputError(
            f"the page '{page.name}'", expected="a name that ends in .html", do="rename it"
        )
    if not page.parent.is_dir():
        raise OutputError(
            f"no folder {page.parent}", expected="an existing folder", do="make it first"
        )
    if page.exists() and not overwrite:
        raise OutputError(
            f"{page} exists", expected="a new file", do="choose another or pass --overwrite"
        )


def _write_report(
    report: Path,
    annotator: Annotator,
    cells: FileQuery,
    choice: Choice,
    annotation: Annotation,
    key: str | None,
) -> None:
    from scbignn_infer.report import write_report
    from scbignn_infer.report.layout import lay_out
    from scbignn_infer.report.markers import express

    write_report(
        report,
        annotation,
        annotator.bundle.spec,
        lay_out(annotation.embedding, runtime=annotator.runtime, seed=annotator.seed),
        name=cells.path.name,
        cell_names=cells.cell_names(),
        warnings=_warnings(annotation),
        samples=None if key is None else cells.obs_column(key),
        markers=express(annotator, cells, choice, annotation),
    )


def _print_summary(summary: Summary) -> None:
    console = _console(stderr=True)
    model, matrix, genes, n = (summary[k] for k in ("model", "matrix", "genes", "cells"))
    chosen = ""
    if summary["median_novelty"] is not None:
        novelty = ", ".join(f"{k} {v:.2f}" for k, v in summary["median_novelty"].items())
        chosen = f", nearest to the cells (median novelty: {novelty})"
    _print_pairs(
        console,
        {
            "cells": f"{n:,}, of which {summary['unknown']:,} unknown"
            + (f" ({summary['empty']:,} without counts)" if summary["empty"] else ""),
            "model": f"{model['name']} {model['version']}{chosen}",
            "matrix": f"{matrix['name']}: {matrix['state']} ({matrix['reason']})",
            "genes": f"{genes['n_shared']:,} shared by '{genes['column']}'{_other_genes(genes)}; "
            f"{genes['coverage']:.0%} of what the network reads",
        },
    )
    if summary["adaptation"]:
        console.print(summary["adaptation"], soft_wrap=True)
    rows = [(label, f"{count:,}", f"{count / n:.1%}") for label, count in summary["labels"].items()]
    console.print(_table(["label", "cells", "share"], rows))
    for warning in summary["warnings"]:
        console.print(f"warning: {warning}", soft_wrap=True)
    _print_pairs(console, {"seconds": f"{summary['seconds']:.1f}", "output": summary["output"]})


def _other_genes(genes: Mapping[str, Any]) -> str:
    """Say what of the genes was renamed, summed or left out."""
    left_out = ", ".join(f"{n:,} {kind}" for kind, n in genes["left_out"].items())
    parts = [
        f"{genes['n_renamed']:,} by another name" if genes["n_renamed"] else "",
        f"{genes['n_duplicates']:,} duplicates summed" if genes["n_duplicates"] else "",
        f"left out: {left_out}" if left_out else "",
    ]
    said = "; ".join(filter(None, parts))
    return f" ({said})" if said else ""


@main.command()
@click.argument("query", type=FILE)
@model_option
@reading_options
@json_option
def inspect(
    query: Path,
    model: str | None,
    matrix: str | None,
    gene_column: str | None,
    min_gene_coverage: float | None,
    allow_species_mismatch: bool,
    orientation: Orientation | None,
    as_json: bool,
) -> None:
    """Say what a file holds.

    Judges each matrix of QUERY and how its genes fit each model, before any labelling.
    """
    from scbignn_infer import choice, matrices, registry

    models = {model: model} if model is not None else registry.list_models()
    reading = choice.Reading(matrix, gene_column, min_gene_coverage, allow_species_mismatch)
    with _open(query, orientation) as cells:
        verdicts = choice.judge_matrices(cells)
        report: Summary = {
            "file": str(query),
            "cells": cells.n_cells,
            "matrix": None,
            "problem": "",
        }
        report["matrices"] = [_matrix_entry(cells, name, v) for name, v in verdicts.items()]
        report["models"] = [
            _fit(cells, verdicts, name, path, reading, listed=model is None)
            for name, path in models.items()
        ]
        n_genes = {m["name"]: m["genes"] for m in report["matrices"]}
        try:
            report["matrix"] = matrices.choose_matrix(verdicts, matrix, n_genes)
        except InputError as error:
            report["problem"] = str(error)
        fitting = [m["matrix"] for m in report["models"] if m["fits"]]
        report["matrix"] = next(iter(fitting), report["matrix"])
    if as_json:
        _print_json(report)
    else:
        _print_inspection(report)


def _matrix_entry(cells: Query, name: str, verdict: Verdict) -> Summary:
    from scbignn_infer.genes import genes_only
    from scbignn_infer.readers import INDEX

    columns = cells.gene_columns(name)
    _, left_out = genes_only(columns)
    return {
        "name": name,
        "genes": len(columns[INDEX]) - sum(left_out.values()),
        "left_out": left_out,
        "state": verdict.state,
        "usable": verdict.usable,
        "reason": verdict.reason,
    }


def _fit(
    cells: Query,
    verdicts: Mapping[str, Verdict],
    name: str,
    path: str | Path,
    reading: Reading,
    *,
    listed: bool,
) -> Summary:
    """Say how a file fits a model; a damaged model among those listed hides no other."""
    from scbignn_infer import choice, genes, registry

    entry: Summary = {"name": name, "version": "", "fits": False, "reason": "no usable matrix"}
    try:
        bundle = registry.load_model(path)
    except BundleError as error:
        if not listed:
            raise
        return entry | {"reason": error.found}
    entry |= {"name": bundle.name, "version": bundle.spec.version}
    wanted, reason = choice.model_genes(bundle), ""
    try:
        matrix, match = choice.join(cells, wanted, reading, verdicts)
    except GeneError:
        raise
    except InputError:
        return entry
    try:
        genes.refuse_unfit(
            match,
            cells.gene_columns(matrix),
            wanted,
            min_coverage=reading.min_gene_coverage,
            allow_species_mismatch=reading.allow_species_mismatch,
        )
    except GeneError as error:
        reason = f"{error.found}; expected {error.expected}"
    low = match.coverage < genes.LOW_COVERAGE
    return entry | {
        "fits": not reason,
        "reason": reason or ("low coverage: labels are less reliable" if low else "enough genes"),
        "matrix": matrix,
        "gene_column": match.column,
        "shared_genes": match.n_shared,
        "renamed_genes": match.n_renamed,
        "coverage": match.coverage,
    }


def _print_inspection(report: Summary) -> None:
    console = _console()
    chosen = report["matrix"]
    _print_pairs(console, {"file": report["file"], "cells": f"{report['cells']:,}"})
    matrices = [
        ("->" if m["name"] == chosen else "", m["name"], f"{m['genes']:,}", m["state"], m["reason"])
        for m in report["matrices"]
    ]
    console.print(_table(["used", "matrix", "genes", "holds", "because"], matrices))
    if report["problem"]:
        console.print(report["problem"], soft_wrap=True)
    models = [
        (
            f"{m['name']} {m['version']}",
            m.get("gene_column", ""),
            f"{m['shared_genes']:,}" if "shared_genes" in m else "",
            f"{m['coverage']:.0%}" if "coverage" in m else "",
            "yes" if m["fits"] else "no",
            m["reason"],
        )
        for m in report["models"]
    ]
    console.print(_table(["model", "gene names", "shared", "coverage", "fits", "because"], models))
    if not any(m["fits"] for m in report["models"]):
        console.print("No model fits this file.")


@main.group()
def models() -> None:
    """List, show or verify models."""


@models.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the models."""
    from scbignn_infer import registry

    entries = [_model_entry(name, path) for name, path in registry.list_models().items()]
    if as_json:
        _print_json({"models": entries})
        return
    console = _console()
    if not entries:
        folders = ", ".join(map(str, registry.model_folders()))
        console.print(f"No model in {folders}", soft_wrap=True)
        return
    titles = ["model", "version", "species", "tissue", "types", "size", "path"]
    rows = [
        (
            e["name"],
            e["version"] or "damaged",
            e.get("species", ""),
            e.get("tissue", ""),
            str(len(e.get("cell_types", ()))),
            _megabytes(e.get("size", 0)),
            e["path"],
        )
        for e in entries
    ]
    console.print(_table(titles, rows))


def _model_entry(name: str, path: Path) -> Summary:
    """Describe a model, or say what is wrong with it."""
    from scbignn_infer import registry

    entry: Summary = {"name": name, "path": str(path), "version": None, "problem": ""}
    try:
        bundle = registry.load_model(path)
    except BundleError as error:
        return entry | {"problem": str(error)}
    spec = bundle.spec
    return entry | {
        "version": spec.version,
        "species": spec.species,
        "tissue": spec.tissue,
        "cell_types": bundle.cell_types,
        "files": len(spec.files),
        "size": sum(f.size for f in spec.files.values()),
        "sha256": bundle.sha256,
    }


@models.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the card of a model.

    NAME is that of a model, or the path of one.
    """
    import msgspec

    from scbignn_infer import registry

    bundle = registry.load_model(name)
    if as_json:
        card: Summary = msgspec.to_builtins(bundle.spec)
        genes = card.pop("genes")
        _print_json({**card, "n_genes": len(genes), "path": str(bundle.path)})
    else:
        _print_card(bundle.spec, bundle.path)


def _print_card(spec: BundleSpec, path: Path) -> None:
    console, training = _console(), spec.training
    console.print(f"{spec.name} {spec.version}", style="bold")
    _print_pairs(
        console,
        {
            "": spec.description,
            "path": str(path),
            "licence": spec.licence,
            "species": spec.species,
            "tissue": spec.tissue,
            "assays": ", ".join(spec.assays),
            "genes": f"{len(spec.genes):,}, the network reads {spec.gene_level.net_genes:,}",
            "levels": f"{spec.gene_level.form} (genes), {spec.cell_level.form} (cells)",
            "unknown": f"below a confidence of {spec.thresholds.confidence:.3g} "
            f"(temperature {spec.temperature:.3g})",
            "cells": f"{training.n_cells:,}, seed {training.seed}",
        },
    )
    types = [
        (
            c.label,
            c.ontology_id,
            ", ".join(f"{t.level} {t.label}" for t in c.lineage),
            f"{training.cells_per_type.get(c.label, 0):,}",
            _score(training.scores_per_type.get(c.label)),
            _score(training.held_out_scores_per_type.get(c.label)),
        )
        for c in spec.cell_types
    ]
    titles = ["label", "ontology", "levels", "training cells", "F1 out of fold", "F1 held out"]
    console.print(_table(titles, types))
    for set_ in training.datasets:
        known = (set_.title, set_.citation, set_.accession, set_.licence)
        details = "; ".join(filter(None, known))
        line = f"{set_.role} {set_.file} ({set_.n_cells:,} cells): {details}"
        console.print(line, soft_wrap=True)
    if training.adaptation:
        console.print(training.adaptation, soft_wrap=True)
    history = [
        (
            str(e.iteration),
            _score(e.gene_level_f1),
            _score(e.cell_level_f1),
            "*" if e.kept else "",
            f"{e.seconds:.1f}",
        )
        for e in training.em_history
    ]
    console.print(_table(["EM", "gene level F1", "cell level F1", "kept", "seconds"], history))
    _print_pairs(console, {name: _score(value) for name, value in training.scores.items()})
    studies = [
        (name, f"{s.n_cells:,}", _score(s.accuracy), _score(s.macro_f1))
        for name, s in training.held_out_scores.items()
    ]
    if studies:
        console.print(_table(["study left out", "cells", "accuracy", "macro-F1"], studies))
    confused = [f"{c.truth} as {c.called} {c.share:.0%}" for c in training.confusions]
    _print_pairs(console, {"confuses": ", ".join(confused)})
    for line in training.cannot_tell:
        console.print(f"cannot tell: {line}", soft_wrap=True)
    merged = [f"{old} -> {new}" for old, new in training.merged_labels.items()]
    dropped = [f"{label} ({n})" for label, n in training.dropped_labels.items()]
    _print_pairs(console, {"merged": ", ".join(merged), "dropped": ", ".join(dropped)})
    for note in training.notes:
        console.print(f"note: {note}", soft_wrap=True)


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@click.pass_context
def verify(ctx: click.Context, names: Sequence[str], as_json: bool) -> None:
    """Check models against their checksums.

    Reads every file of each NAME, or of all models that can be found.
    """
    from scbignn_infer import registry

    found = registry.list_models()
    if not names and not found:
        raise BundleError(
            "no model was found",
            expected=f"one in {', '.join(map(str, registry.model_folders()))}",
            do=f"install one, or set {registry.MODEL_PATH_VARIABLE}",
        )
    chosen = {name: found.get(name, Path(name)) for name in names} if names else found
    entries = [_model_entry(name, path) for name, path in chosen.items()]
    if as_json:
        _print_json({"models": entries})
    else:
        for e in entries:
            details = e["problem"] or f"{e['files']} files, {_megabytes(e['size'])}"
            click.echo(f"{'FAILED' if e['problem'] else 'ok':<6} {e['name']}: {details}")
    if any(e["problem"] for e in entries):
        ctx.exit(1)


@main.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the installation.

    Says what is installed, which devices really work, and what to repair.
    """
    from scbignn_infer.doctor import examine

    report = examine()
    if as_json:
        _print_json(asdict(report))
    else:
        console = _console()
        _print_pairs(console, {k: v or "missing" for k, v in report.versions.items()})
        training = ", ".join(f"{k} {v or 'missing'}" for k, v in report.training.items())
        _print_pairs(
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


@main.command()
@click.argument("labelled", type=FILE)
@click.option("--truth", required=True, metavar="KEY", help="Column of obs with the true labels.")
@click.option(
    "-m", "--model", metavar="NAME|PATH", help="Label the cells with this model first, in memory."
)
@key_option
@click.option("--map", "map_file", type=FILE, help="JSON object that renames true labels.")
@click.option(
    "--against", metavar="KEY", help="Column of obs with other labels, to compare and to score."
)
@click.option("-o", "--output", type=FILE, help="HTML page to write instead of tables.")
@overwrite_option
@json_option
def evaluate(
    labelled: Path,
    truth: str,
    model: str | None,
    key_added: str,
    map_file: Path | None,
    against: str | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score labels against the truth.

    Takes the labels that annotate wrote into LABELLED (.h5ad), or those of --model.
    """
    import numpy as np

    from scbignn_infer import evaluation, pipeline, registry, results

    if output is not None:
        _check_page(output, overwrite=overwrite)
    names = _read_map(map_file) if map_file is not None else {}
    with _open(labelled) as cells:
        given = _labels(cells, truth, "choose with --truth")
        true = np.array([names.get(label, label) for label in given], dtype=object)
        if model is not None:
            annotation = pipeline.Annotator(registry.load_model(model)).annotate_query(cells)
            found = _Labels(
                annotation.best_labels,
                annotation.labels,
                annotation.confidence,
                annotation.cell_types,
            )
        else:
            found = _written_labels(cells, key_added)
        other = None
        if against is not None:
            named = _labels(cells, against, "choose with --against")
            other = np.array([names.get(label, label) for label in named], dtype=object)
    scores = evaluation.score(
        true,
        found.best,
        found.final != results.UNKNOWN,
        found.cell_types,
        confidence=found.confidence,
    )
    compared: Summary | None = None
    if other is not None:
        known = np.isin(true, found.cell_types) & (other != "")
        compared = {
            "key": against,
            "agreement": asdict(evaluation.agreement(found.best, other)),
            "scores": None,
        }
        if known.any():
            theirs = evaluation.score(true, other, known, found.cell_types)
            compared["scores"] = {"accuracy": theirs.accuracy, "macro_f1": theirs.macro_f1}
    if as_json:
        _print_json({"file": str(labelled), **scores.as_dict(), "against": compared})
    elif output is None:
        _print_scores(scores, compared)
    if output is not None:
        from scbignn_infer.report.summaries import write_scores

        write_scores(output, labelled.name, scores, compared)


@dataclass(frozen=True)
class _Labels:
    """Labels that are scored, (n,) each, and the types that their model knows."""

    best: Any
    final: Any
    confidence: Any
    cell_types: list[str]


def _print_scores(scores: Scores, compared: Summary | None) -> None:
    console = _console()
    left_out = [f"{label or '(none)'} {n:,}" for label, n in scores.left_out.items()]
    n_left_out = sum(scores.left_out.values())
    _print_pairs(
        console,
        {
            "cells scored": f"{scores.n_cells:,}",
            "left out": f"{n_left_out:,}, unknown to the model: {', '.join(left_out)}"
            if left_out
            else "",
            "accuracy": _score(scores.accuracy),
            "macro-F1": _score(scores.macro_f1),
            "called unknown": f"{scores.unknown_share:.1%}",
            "accuracy of the called": _score(scores.called_accuracy),
            "calibration error": _score(scores.calibration_error),
        },
    )
    rows = [
        (label, *(_score(v) for k, v in asdict(c).items() if k != "n"), f"{c.n:,}")
        for label, c in scores.per_class.items()
    ]
    console.print(_table(["type", "precision", "recall", "F1", "cells"], rows))
    counts = [
        (f"{i} {label}", *(f"{n:,}" for n in row))
        for i, (label, row) in enumerate(zip(scores.labels, scores.confusion, strict=True), 1)
    ]
    numbers = [str(i) for i in range(1, len(scores.labels) + 1)]
    console.print(_table(["true type (row), best label (column)", *numbers], counts))
    bins = [(_score(b.confidence), _score(b.accuracy), f"{b.n:,}") for b in scores.reliability]
    console.print(_table(["mean confidence", "accuracy", "cells"], bins))
    if compared is None:
        return
    agreed, theirs = compared["agreement"], compared["scores"] or {}
    _print_pairs(
        console,
        {
            f"against {compared['key']}": f"{agreed['share']:.1%} of {agreed['n_cells']:,} cells "
            f"have the same label (kappa {agreed['kappa']:.3f})",
            "its accuracy": _score(theirs.get("accuracy")),
            "its macro-F1": _score(theirs.get("macro_f1")),
        },
    )
    differ = [(a, b, f"{n:,}") for a, b, n in agreed["pairs"]]
    console.print(_table(["label", compared["key"], "cells"], differ))


def _read_map(path: Path) -> dict[str, str]:
    reason = "not an object of strings"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        names, reason = None, str(error)
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise InputError(
            f"cannot use the map {path} ({reason})",
            expected='a JSON object such as {"CD14+ Monocyte": "CD14 Mono"}',
            do="mend the file",
        )
    return names


def _labels(cells: Query, key: str, do: str) -> list[str]:
    """Return a column of obs as strings, missing values as empty ones."""
    try:
        return cells.obs_column(key)
    except InputError as error:
        raise InputError(error.found, expected=error.expected, do=do) from None


def _written_labels(cells: FileQuery, key: str) -> _Labels:
    """Return the labels that annotate has written."""
    import numpy as np

    do = "run scbignn-infer annotate first, or pass -m MODEL"
    record = cells.uns(key)
    names = [f"{key}_{name}" for name in ("best_cell_type", "cell_type", "confidence")]
    if not isinstance(record, dict) or "cell_types" not in record:
        raise InputError(
            f"{cells.path} holds no labels of a model under the key '{key}'",
            expected=f"obs['{names[0]}']",
            do=do,
        )
    best, final, confidence = (np.array(_labels(cells, name, do), dtype=object) for name in names)
    return _Labels(
        best, final, confidence.astype(np.float64), [str(c) for c in record["cell_types"]]
    )


@main.command()
@click.argument("target")
@click.option("--cell-type", metavar="LABEL", help="Of a model: this type alone.")
@click.option("--cells", metavar="NAME,...", help="Of a query: the cells to explain.")
@click.option("--n", "n_genes", type=click.IntRange(1, 20), default=10, show_default=True)
@model_option
@reading_options
@click.option("-o", "--output", type=FILE, help="HTML page to write instead of tables.")
@overwrite_option
@json_option
def explain(
    target: str,
    cell_type: str | None,
    cells: str | None,
    n_genes: int,
    model: str | None,
    matrix: str | None,
    gene_column: str | None,
    min_gene_coverage: float | None,
    allow_species_mismatch: bool,
    orientation: Orientation | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Say which genes carry a label.

    Of a model (TARGET is its name or path) the genes and pairs of genes that carry each type; of a
    query (TARGET is a file, with --cells) why these cells were called what they were.
    """
    from scbignn_infer import registry
    from scbignn_infer.choice import Reading

    if output is not None:
        _check_page(output, overwrite=overwrite)
    if cells is None:
        spec = registry.load_model(target).spec
        found_ = _interpretation(spec, cell_type)
        if output is not None:
            from scbignn_infer.report.summaries import write_model

            write_model(output, spec.name, found_)
        if as_json or output is None:
            _print_interpretation(spec.name, found_, n_genes, as_json=as_json)
        return
    from scbignn_infer import explanation, pipeline

    reading = Reading(matrix, gene_column, min_gene_coverage, allow_species_mismatch)
    with _open(Path(target), orientation) as query:
        if model is not None:
            bundle = registry.load_model(model)
        else:
            bundle, _, _ = pipeline.choose_model(query, reading)
        annotator = pipeline.Annotator(bundle)
        wanted = [name.strip() for name in cells.split(",") if name.strip()]
        found = explanation.explain_cells(annotator, query, wanted, reading)
    if output is not None:
        from scbignn_infer.report.summaries import write_cells

        write_cells(output, Path(target).name, found)
    if as_json:
        _print_json({"model": bundle.name, "cells": [asdict(cell) for cell in found]})
    if as_json or output is not None:
        return
    console = _console()
    for cell in found:
        _print_pairs(
            console,
            {
                "cell": cell.cell,
                "label": f"{cell.label}"
                + (f" (best: {cell.best_label})" if cell.label != cell.best_label else ""),
                "confidence": f"{cell.confidence:.3f}, novelty {cell.novelty:.2f}",
                "gene level": _shares(cell.gene_level),
                "cell level": _shares(cell.cell_level),
                "neighbours": ", ".join(f"{k} {n}" for k, n in cell.neighbors.items()),
                "present": _effects(cell.present, n_genes),
                "missing": _effects(cell.missing, n_genes),
            },
        )
        console.print()


def _interpretation(spec: BundleSpec, cell_type: str | None) -> dict[str, Interpretation]:
    """Return what a model looks at for each of its types, or for one."""
    if not spec.interpretation:
        raise BundleError(
            f"the model {spec.name} says nothing of what it looks at",
            expected="a model that was trained by this version or a later one",
            do="train it again with: scbignn-infer train",
        )
    labels = [c.label for c in spec.cell_types]
    if cell_type is not None and cell_type not in labels:
        raise InputError(
            f"the model {spec.name} has no type '{cell_type}'",
            expected=f"one of {', '.join(labels)}",
            do="choose with --cell-type",
        )
    chosen = labels if cell_type is None else [cell_type]
    return {label: spec.interpretation[label] for label in chosen}


def _print_interpretation(
    name: str, types: Mapping[str, Interpretation], n_genes: int, *, as_json: bool
) -> None:
    import msgspec

    if as_json:
        _print_json({"model": name, "types": msgspec.to_builtins(types)})
        return
    rows = []
    for label, found in types.items():
        genes = ", ".join(f"{g.symbol} {g.weight:.2f}" for g in found.genes[:n_genes])
        pairs = ", ".join("-".join(p.genes) for p in found.pairs[:n_genes])
        rows.append((label, genes, pairs))
    titles = ["type", "genes that carry it", "pairs attended to together"]
    _console().print(_table(titles, rows))


def _shares(probabilities: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {p:.2f}" for label, p in probabilities.items())


def _effects(effects: Mapping[str, float], n: int) -> str:
    return ", ".join(f"{symbol} {e:+.2f}" for symbol, e in list(effects.items())[:n])


@main.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=FILE,
    default=Path(),
    help="Folder to copy it into; by default this one.",
)
@overwrite_option
def example(folder: Path, overwrite: bool) -> None:
    """Copy the example data.

    They come with the package: 700 human blood cells.
    """
    from importlib.resources import files

    from scbignn_infer import writers

    target = folder / "pbmc700.h5ad"
    writers.check_target(target, overwrite=overwrite)
    with writers.replacing(target) as temporary:
        source = files("scbignn_infer").joinpath("examples", target.name)
        temporary.write_bytes(source.read_bytes())
    click.echo(f"wrote {target}; label its cells with:\n\n  scbignn-infer annotate {target}")


@main.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def train(ctx: click.Context, arguments: Sequence[str]) -> None:
    """Train a model.

    Needs the extra 'training'.
    """
    from importlib.util import find_spec

    for module in TRAINING_MODULES:
        if find_spec(module) is None:
            raise MissingExtraError(module, extra="training", purpose="training")
    from scbignn_training.cli import train as command

    code = command.main(
        args=list(arguments), prog_name="scbignn-infer train", standalone_mode=False
    )
    if isinstance(code, int):
        ctx.exit(code)


def _print_json(document: Summary) -> None:
    click.echo(json.dumps(document, indent=2))


def _console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is, and wide where it is piped."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if terminal else WIDTH_OF_PIPES,
    )


def _print_pairs(console: Console, pairs: Mapping[str, str]) -> None:
    """Print a line for each pair that has a value."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        if value:
            console.print(f"{name:<{width}}  {value}", soft_wrap=True)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a plain table; columns of numbers stand at the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, title in enumerate(titles):
        cells = [row[i] for row in rows if row[i]]
        numbers = all(re.fullmatch(r"[\d,.]+%?", cell) for cell in cells)
        table.add_column(title, justify="right" if cells and numbers else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
