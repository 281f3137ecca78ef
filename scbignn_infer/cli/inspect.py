"""``inspect``: what a file holds, and which model fits it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scbignn_infer.cli.options import FILE, json_option, settings_options
from scbignn_infer.cli.printing import make_console, make_table, print_json, print_pairs
from scbignn_infer.errors import BundleError, GeneError, InputError
from scbignn_infer.settings import READING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scbignn_infer.query.matrices import Verdict
    from scbignn_infer.query.readers import Query
    from scbignn_infer.settings import Reading, Settings

Summary = dict[str, Any]
FEW = 0.01
"""Share of cells with hardly a gene above which it is said."""


@click.command()
@click.argument("query", type=FILE)
@click.option(
    "-m",
    "--model",
    metavar="NAME|PATH",
    help="Model to compare the genes with; by default all that are found.",
)
@settings_options(*(name for name in READING if name not in ("batch_key", "cluster_key")))
@json_option
def inspect(
    query: Path,
    model: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Say what a file holds.

    Judges each matrix of QUERY and how its genes fit each model, before any labelling.
    """
    from scbignn_infer.label_file import open_file
    from scbignn_infer.model import registry
    from scbignn_infer.query import matrices
    from scbignn_infer.query.reading import judge_matrices

    reading = settings.reading
    models = {model: model} if model is not None else registry.list_models()
    with open_file(query, reading) as cells:
        verdicts = judge_matrices(cells)
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
        over = matrices.passed_over(verdicts, n_genes)
        for entry in report["matrices"]:
            entry["passed_over"] = over.get(entry["name"], "")
        try:
            report["matrix"] = matrices.choose_matrix(verdicts, reading.matrix, n_genes)
        except InputError as error:
            report["problem"] = str(error)
        fitting = [m["matrix"] for m in report["models"] if m["fits"]]
        report["matrix"] = next(iter(fitting), report["matrix"])
    if as_json:
        print_json(report)
    else:
        _print_inspection(report)


def _matrix_entry(cells: Query, name: str, verdict: Verdict) -> Summary:
    from scbignn_infer.query.gene_match import genes_only
    from scbignn_infer.query.readers import INDEX

    columns = cells.gene_columns(name)
    _, left_out = genes_only(columns)
    return {
        "name": name,
        "genes": len(columns[INDEX]) - sum(left_out.values()),
        "left_out": left_out,
        "state": verdict.state,
        "usable": verdict.usable,
        "reason": verdict.reason
        + (f"; {verdict.few:.0%} of the cells have hardly a gene" if verdict.few > FEW else ""),
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
    from scbignn_infer.model import registry
    from scbignn_infer.query import gene_match
    from scbignn_infer.query.gene_fit import GeneFits
    from scbignn_infer.query.reading import join, refuse

    entry: Summary = {"name": name, "version": "", "fits": False, "reason": "no usable matrix"}
    try:
        bundle = registry.load_model(path)
    except BundleError as error:
        if not listed:
            raise
        return entry | {"reason": error.found}
    entry |= {"name": bundle.name, "version": bundle.spec.version}
    fits, reason = GeneFits(bundle), ""
    try:
        matrix, fit, _ = join(cells, fits, reading, verdicts)
    except GeneError:
        raise
    except InputError:
        return entry
    try:
        refuse(cells, matrix, fit, fits.genes, reading)
    except GeneError as error:
        reason = f"{error.found}; expected {error.expected}"
    match = fit.match
    low = match.coverage < gene_match.LOW_COVERAGE
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
    console = make_console()
    chosen = report["matrix"]
    print_pairs(console, {"file": report["file"], "cells": f"{report['cells']:,}"})
    matrices = [
        (
            "->" if m["name"] == chosen else "",
            m["name"],
            f"{m['genes']:,}",
            m["state"],
            m["reason"] + (f"; passed over: {m['passed_over']}" if m["passed_over"] else ""),
        )
        for m in report["matrices"]
    ]
    console.print(make_table(["used", "matrix", "genes", "holds", "because"], matrices))
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
    console.print(
        make_table(["model", "gene names", "shared", "coverage", "fits", "because"], models)
    )
    if not any(m["fits"] for m in report["models"]):
        console.print("No model fits this file.")
