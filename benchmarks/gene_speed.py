"""Cells a second that the exported gene level of each form labels, on one thread.

Run: ``python benchmarks/gene_speed.py --out benchmarks/results/gene_speed.json`` (needs the extra
``training`` and ``SCBIGNN_DATA``). Each form is trained for one epoch on pbmc3k at its shipped
size, exported, and run by onnxruntime over zheng's cells in batches of the annotator's size.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

import tasks
from scbignn_infer.network.sessions import Session, choose_runtime
from scbignn_training.data import join, unlabelled_cells
from scbignn_training.export import export_gene_level
from scbignn_training.gene_level import Panel, fit_gene_level
from scbignn_training.settings import Settings

if TYPE_CHECKING:
    from scbignn_training.data import Cells

BATCH = 256
FORMS_OF_ATTENTION: dict[str, dict[str, Any]] = {
    "program": {},
    "full": {"gene_form": "full"},
    "none": {"n_programs": 0},
}
REPEATS = 7


def exported(form: dict[str, Any]) -> tuple[Panel, bytes, Cells]:
    """Return a form trained for one epoch, for the genes of the query, its graph and the query."""
    settings = msgspec.structs.replace(Settings(), gene_epochs=1, **form)
    task = tasks.pair("pbmc3k", "zheng")
    reference = join([task.reference], min_cells=tasks.MIN_REFERENCE_CELLS)
    reference = reference.in_rank_order(settings.ranked_genes)
    labelled = reference.cells(settings.ranked_genes)
    n_types = len(reference.cell_types)
    level = fit_gene_level(labelled.expression, labelled.codes, n_types, settings, seed=0)
    query = unlabelled_cells(reference, [task.query], settings.ranked_genes, settings.net_genes)
    assert query is not None
    panel = Panel(level, query.present, settings.panel_genes)
    return panel, export_gene_level(level, panel), query


def seconds(form: dict[str, Any]) -> tuple[float, int]:
    """Return the median time of one pass over the query, and its number of cells."""
    panel, graph, query = exported(form)
    session = Session(graph, choose_runtime("cpu", 1))
    counts, totals = (a.numpy() for a in panel.inputs(query.counts, query.totals))
    tables = {name: table.numpy() for name, table in panel.tables._asdict().items()}
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for i in range(0, len(counts), BATCH):
            rows = slice(i, i + BATCH)
            session.run(counts=counts[rows], totals=totals[rows], **tables)
        spent.append(time.perf_counter() - start)
    return float(np.median(spent)), len(counts)


def main() -> None:
    """Time all forms and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for form, changes in FORMS_OF_ATTENTION.items():
        spent, n = seconds(changes)
        rows.append({"form": form, "cells": n, "seconds": round(spent, 4), "threads": 1})
        print(f"{form:8s} {n / spent:,.0f} cells/s")
    arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
