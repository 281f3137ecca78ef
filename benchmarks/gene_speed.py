"""Cells a second that the gene level labels: of each form, and of shipped models as they run.

Run: ``python benchmarks/gene_speed.py --out benchmarks/results/gene_speed.json`` (needs the extra
``training`` and ``SCBIGNN_DATA``). Each form is trained for one epoch on pbmc3k at its shipped
size, exported, and run by onnxruntime over zheng's cells in batches of the annotator's size.
With ``--shipped``, models with few and with hundreds of types label pbmc3k's cells instead, from
sparse rows to embedding and logits, on one thread and on two (needs no ``training``).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from scbignn_infer import Annotator
from scbignn_infer.network.levels import gene_pass
from scbignn_infer.network.sessions import Session, choose_runtime
from scbignn_infer.query.readers import MatrixQuery

if TYPE_CHECKING:
    from scbignn_training.data import Cells
    from scbignn_training.gene_level import Panel

BATCH = 256
FORMS_OF_ATTENTION: dict[str, dict[str, Any]] = {
    "program": {},
    "full": {"gene_form": "full"},
    "none": {"n_programs": 0},
}
REPEATS = 7
SHIPPED = ("human-pbmc", "human-body")
CELLS = 20_000


def exported(form: dict[str, Any]) -> tuple[Panel, bytes, Cells]:
    """Return a form trained for one epoch, for the genes of the query, its graph and the query."""
    import tasks
    from scbignn_training.data import join, unlabelled_cells
    from scbignn_training.export import export_gene_level
    from scbignn_training.gene_level import Panel, fit_gene_level
    from scbignn_training.settings import Settings

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


def shipped(model: str, threads: int) -> dict[str, Any]:
    """Return how fast a shipped model goes from sparse rows to embedding and logits."""
    import anndata as ad

    from start_up import DATA

    cells = ad.read_h5ad(DATA / "pbmc3k_seurat.h5ad")
    rows = np.random.default_rng(0).integers(0, cells.n_obs, CELLS)
    annotator = Annotator.load(model, device="cpu", threads=threads)
    query = MatrixQuery(cells.X.tocsr()[rows], list(cells.var_names))
    choice = annotator.choose(query)
    level, spent, cpu = annotator.pair.gene_level(choice.panel), [], []
    for _ in range(REPEATS):
        start, before = time.perf_counter(), time.process_time()
        gene_pass(level, query, choice.matrix, workers=threads, report=lambda *_: None)
        spent.append(time.perf_counter() - start)
        cpu.append(time.process_time() - before)
    return {
        "form": f"shipped {model}",
        "types": len(annotator.bundle.cell_types),
        "cells": CELLS,
        "seconds": round(float(np.median(spent)), 4),
        "least_cpu_seconds": round(min(cpu), 4),
        "threads": threads,
    }


def main() -> None:
    """Time all and write the rows; those of the other kind stay as they were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shipped", action="store_true")
    arguments = parser.parse_args()
    old = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    rows = [row for row in old if row["form"].startswith("shipped") is not arguments.shipped]
    if arguments.shipped:
        rows += [shipped(model, threads) for model in SHIPPED for threads in (1, 2)]
    else:
        import torch

        torch.set_num_threads(1)
        for form, changes in FORMS_OF_ATTENTION.items():
            spent, n = seconds(changes)
            rows.append({"form": form, "cells": n, "seconds": round(spent, 4), "threads": 1})
    for row in rows:
        print(f"{row['form']:20s} {row['threads']} {row['cells'] / row['seconds']:,.0f} cells/s")
    arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
