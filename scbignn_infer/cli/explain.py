"""``explain``: why cells were called what they were; ``models explain``: what carries a type."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scbignn_infer.cli.options import (
    FILE,
    json_option,
    moved_option,
    overwrite_option,
    settings_options,
)
from scbignn_infer.cli.printing import (
    make_console,
    make_table,
    print_json,
    print_pairs,
    print_warnings,
)
from scbignn_infer.errors import BundleError, InputError
from scbignn_infer.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer.explanation import CellExplanation
    from scbignn_infer.model.bundle import GeneWeight, Interpretation, ModelBundle
    from scbignn_infer.settings import Settings

OUTPUTS = (".html", ".png", ".csv", ".tsv")


genes_option = click.option(
    "--n",
    "n_genes",
    type=click.IntRange(1, 20),
    default=10,
    show_default=True,
    help="Genes to show.",
)
output_option = click.option(
    "-o",
    "--output",
    type=FILE,
    help="File to write instead of tables: .html, .png, .csv or .tsv.",
)
MOVED = "explain takes a file; for a model write: scbignn-infer models explain NAME"


@click.command()
@click.argument("query", type=FILE)
@click.option("--cells", metavar="NAME,...", help="Explain these cells one by one.")
@click.option(
    "--where",
    metavar="CONDITION",
    help="Explain the cells for which this holds, such as 'scbignn_cell_type == \"unknown\"'.",
)
@moved_option("--cell-type", to=MOVED)
@genes_option
@settings_options(*(name for name in SETTINGS if name not in ("key_added", "write_graph")))
@output_option
@overwrite_option
@json_option
def explain(
    query: Path,
    cells: str | None,
    where: str | None,
    n_genes: int,
    settings: Settings,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Show why cells have their labels.

    Labels the cells of QUERY, a file. For each label, or each cluster with --cluster-key, shows the
    genes that its cells have more of than all others, beside what the model looks at. With --cells,
    shows for single cells the genes and the neighbours that carry the label.
    """
    from scbignn_infer.cli import groups
    from scbignn_infer.output import atomic
    from scbignn_infer.query.identity import Identity

    if cells is None and not query.exists() and query.name == str(query):
        raise click.UsageError(MOVED)
    if cells is not None and (where is not None or settings.reading.cluster_key):
        raise click.UsageError("--cells names single cells; leave out --where and --cluster-key")
    if output is not None:
        read, allowed = [Identity.of(query)], groups.OUTPUTS if cells is None else OUTPUTS
        atomic.check_output(output, suffixes=allowed, overwrite=overwrite, inputs=read)
    if cells is None:
        model, found = groups.find_groups(query, where, settings)
        if output is not None:
            with atomic.replacing(output, new=not overwrite) as page:
                warnings = groups.write_groups(page, output.suffix, query.name, found)
            print_warnings(warnings)
        if as_json or output is None:
            title = "label" if where is None else "where"
            groups.print_groups(model, found, n_genes, title=title, as_json=as_json)
        return
    wanted = [name.strip() for name in cells.split(",") if name.strip()]
    name, explained = _explain_cells(query, wanted, settings)
    if output is not None:
        with atomic.replacing(output, new=not overwrite) as page:
            warnings = _write_cells(page, output.suffix, query.name, explained, n_genes)
        print_warnings(warnings)
    if as_json:
        print_json({"model": name, "cells": [asdict(cell) for cell in explained]})
    elif output is None:
        _print_cells(explained, n_genes)


@click.command("explain")
@click.argument("name")
@click.option("--cell-type", metavar="LABEL", help="This type alone.")
@genes_option
@output_option
@overwrite_option
@json_option
def explain_model(
    name: str,
    cell_type: str | None,
    n_genes: int,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Show which genes carry each type.

    NAME is that of a model, or a path with a slash, such as ./mine. Shows genes and pairs of genes.
    """
    from scbignn_infer.model import registry
    from scbignn_infer.output import atomic
    from scbignn_infer.query.identity import Identity

    if output is not None:
        read = [Identity.of(Path(name))]
        atomic.check_output(output, suffixes=OUTPUTS, overwrite=overwrite, inputs=read)
    bundle = registry.load_model(name)
    types = _interpretation(bundle, cell_type)
    if output is not None:
        with atomic.replacing(output, new=not overwrite) as page:
            warnings = _write_model(page, output.suffix, bundle.name, types, n_genes)
        print_warnings(warnings)
    if as_json or output is None:
        _print_interpretation(bundle.name, types, n_genes, as_json=as_json)


def _explain_cells(
    path: Path, wanted: list[str], settings: Settings
) -> tuple[str, list[CellExplanation]]:
    """Label a file and return the model's name and why these cells have their labels."""
    from scbignn_infer import explanation, label_file

    with label_file.open_file(path, settings.reading, settings.memory_limit) as query:
        bundle, *_ = label_file.find_model(query, settings)
        annotator = label_file.make_annotator(settings, bundle)
        explained = explanation.explain_cells(annotator, query, wanted, settings.reading)
        query.identity.check()
        return bundle.name, explained


def _write_model(
    output: Path, suffix: str, name: str, types: Mapping[str, Interpretation], n_genes: int
) -> list[str]:
    """Write a picture, a page or a table of a model; return warnings."""
    from scbignn_infer.output.table import write_rows
    from scbignn_infer.report import pictures, summaries

    if suffix == ".png":
        pictures.draw_model(output, types, n_genes)
    elif suffix == ".html":
        summaries.write_model(output, name, types)
    else:
        rows = [(label, g.symbol, g.weight) for label, t in types.items() for g in t.genes]
        return write_rows(output, suffix, ("cell_type", "gene", "weight"), rows)
    return []


def _write_cells(
    output: Path, suffix: str, name: str, cells: list[CellExplanation], n_genes: int
) -> list[str]:
    """Write a picture, a page or a table of cells; return warnings."""
    from scbignn_infer.output.table import write_rows
    from scbignn_infer.report import pictures, summaries

    if suffix == ".png":
        pictures.draw_cells(output, cells, n_genes)
    elif suffix == ".html":
        summaries.write_cells(output, name, cells)
    else:
        rows = [
            (cell.cell, cell.best_label, symbol, sign * effect)
            for cell in cells
            for genes, sign in ((cell.present, 1), (cell.missing, -1))
            for symbol, effect in genes.items()
        ]
        return write_rows(output, suffix, ("cell", "label", "gene", "log_odds"), rows)
    return []


def _print_cells(cells: Sequence[CellExplanation], n_genes: int) -> None:
    console = make_console()
    for cell in cells:
        best = f" (best: {cell.best_label})" if cell.label != cell.best_label else ""
        print_pairs(
            console,
            {
                "cell": cell.cell,
                "label": f"{cell.label}{best}",
                "confidence": f"{cell.confidence:.3f}, novelty {cell.novelty:.2f}",
                "support": _support(cell),
                "gene level": _shares(cell.gene_level),
                "cell level": _shares(cell.cell_level),
                "neighbours": ", ".join(f"{k} {n}" for k, n in cell.neighbors.items()),
                "present": _effects(cell.present, n_genes),
                "missing": _effects(cell.missing, n_genes),
            },
        )
        console.print()


def _support(cell: CellExplanation) -> str:
    """Return the numbers that are compared with thresholds, and why the cell is unknown."""
    said = f"{cell.support:.3f}, threshold {max(cell.threshold, 0):.3g}"
    if cell.label_threshold > cell.threshold > 0:
        said += f"; probability {cell.together:.3f}, threshold {cell.label_threshold:.3g}"
    return said + (f"; unknown: {cell.reason}" if cell.reason else "")


def _interpretation(bundle: ModelBundle, cell_type: str | None) -> dict[str, Interpretation]:
    """Return what a model looks at for each of its types, or for one; absence has a minus."""
    from scbignn_infer.model.bundle import Interpretation
    from scbignn_infer.model.interpretation import signed_interpretation

    spec = bundle.spec
    if not spec.interpretation:
        raise BundleError(
            f"the model {spec.name} has no record of its genes",
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
    types = signed_interpretation(spec, bundle.statistics["class_mean"])
    return types if cell_type is None else {cell_type: types.get(cell_type, Interpretation())}


def _print_interpretation(
    name: str, types: Mapping[str, Interpretation], n_genes: int, *, as_json: bool
) -> None:
    import msgspec

    from scbignn_infer.model.interpretation import by_absence, by_presence

    if as_json:
        print_json({"model": name, "types": msgspec.to_builtins(types)})
        return
    rows = [
        (
            label,
            _weights(by_presence(carriers.genes)[:n_genes]),
            _weights(by_absence(carriers.genes)[:n_genes]),
            ", ".join("-".join(p.genes) for p in carriers.pairs[:n_genes]),
        )
        for label, carriers in types.items()
    ]
    titles = ["type", "genes that carry it", "by their absence", "pairs attended to together"]
    make_console().print(make_table(titles, rows))


def _weights(genes: Sequence[GeneWeight]) -> str:
    return ", ".join(f"{gene.symbol} {gene.weight:.2f}" for gene in genes)


def _shares(probabilities: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {p:.2f}" for label, p in probabilities.items())


def _effects(effects: Mapping[str, float], n: int) -> str:
    return ", ".join(f"{symbol} {e:+.2f}" for symbol, e in list(effects.items())[:n])
