"""The inner loops alone, on two threads, beside torch and scikit-learn.

Run: ``python benchmarks/kernels.py --out benchmarks/results/kernels.json`` (needs the extra
``training`` and ``SCBIGNN_DATA``). Medians of five passes in one process:

- *gene level* of the shipped ``human-pbmc`` on 50,000 cells of pbmc3k drawn again, from CSR rows in
  memory of all genes: densified and run, in the annotator's own way;
- the same *network* alone (trained for one epoch) on dense blocks of zheng's cells, by onnxruntime
  with a batch a thread (the annotator's way), by onnxruntime with all threads within each operator,
  and eagerly by torch, in batches of 256 and of 2,048;
- *exact graph* of 50,000 points in 64 dimensions, 15 neighbours, beside scikit-learn's;
- *cell level* of ``human-pbmc`` on 100,000 cells with 15 random neighbours each.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import onnxruntime
import torch
from sklearn.neighbors import NearestNeighbors

import gene_speed
from scbignn_infer.annotator import Annotator
from scbignn_infer.network.levels import cell_pass, gene_pass
from scbignn_infer.network.neighbors import Graph, build_graph
from scbignn_infer.network.parallel import in_order
from scbignn_infer.network.sessions import Session, choose_runtime
from scbignn_infer.query.readers import MatrixQuery
from scbignn_training.recipe import Source

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, Any]
THREADS, REPEATS = 2, 5


def timed(kernel: str, cells: int, work: Callable[[], object]) -> Row:
    """Return a row with the median of some passes, after one that does not count."""
    work()
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    row = {"kernel": kernel, "cells": cells, "threads": THREADS}
    row |= {"seconds": round(float(np.median(spent)), 4)}
    print(row, flush=True)
    return row


def quiet(stage: str, done: int, total: int) -> None:
    """Take progress and say nothing."""


def gene_level(annotator: Annotator) -> list[Row]:
    """Time the annotator's gene level from CSR rows."""
    source = ad.read_h5ad(Source(file="pbmc3k_seurat.h5ad").locate())
    rows = np.random.default_rng(0).integers(0, source.n_obs, 50_000)
    query = MatrixQuery(source.X.tocsr()[rows], list(source.var_names))
    choice = annotator.choose(query)
    work = partial(
        gene_pass,
        annotator.pair.gene_level(choice.panel),
        query,
        choice.matrix,
        workers=THREADS,
        report=quiet,
    )
    return [timed("gene level, from CSR rows", 50_000, work)]


def network() -> list[Row]:
    """Time the network alone in onnxruntime and in torch, on the same dense blocks."""
    panel, graph, query = gene_speed.exported({})
    counts, totals = panel.inputs(query.counts, query.totals)
    tables = {name: table.numpy() for name, table in panel.tables._asdict().items()}
    session, n = Session(graph, choose_runtime("cpu", THREADS)), len(counts)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    threaded = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    panel.level.eval()
    rows = []
    for size in (256, 2048):
        blocks = [slice(i, i + size) for i in range(0, n, size)]

        def onnx(rows: slice) -> object:
            return session.run(counts=counts[rows].numpy(), totals=totals[rows].numpy(), **tables)

        @torch.no_grad()
        def eager(blocks: list[slice] = blocks) -> None:
            for rows in blocks:
                panel.level(counts[rows], totals[rows], panel.tables)

        def ours(blocks: list[slice] = blocks) -> None:
            list(in_order(onnx, blocks, workers=THREADS))

        def within(blocks: list[slice] = blocks) -> None:
            for rows in blocks:
                feed = {"counts": counts[rows].numpy(), "totals": totals[rows].numpy(), **tables}
                threaded.run(None, feed)

        rows += [
            timed(f"network, onnxruntime, batches of {size}", n, ours),
            timed(f"network, threads within operators, batches of {size}", n, within),
            timed(f"network, eager torch, batches of {size}", n, eager),
        ]
    return rows


def exact_graph() -> list[Row]:
    """Time the exact graph beside scikit-learn's."""
    points = np.random.default_rng(0).standard_normal((50_000, 64), np.float32)
    runtime = choose_runtime("cpu", THREADS)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    search = NearestNeighbors(n_neighbors=16, algorithm="brute").fit(unit)
    return [
        timed("exact graph", 50_000, lambda: build_graph(points, 15, runtime=runtime)),
        timed("exact graph, scikit-learn", 50_000, lambda: search.kneighbors(unit)),
    ]


def cell_level(annotator: Annotator) -> list[Row]:
    """Time the annotator's cell level."""
    n, rng = 100_000, np.random.default_rng(0)
    logits = rng.standard_normal((n, len(annotator.bundle.cell_types)), np.float32)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    indices = rng.integers(0, n, (n, 15))
    similarity = np.sort(rng.random((n, 15), np.float32))[:, ::-1].copy()
    graph = Graph(indices, similarity, "exact", reach=similarity[:, -1].copy())
    layers = annotator.bundle.spec.cell_level.layers
    work = partial(
        cell_pass,
        layers,
        annotator.pair.session,
        logits,
        graph,
        workers=THREADS,
        report=quiet,
    )
    return [timed("cell level", n, work)]


def main() -> None:
    """Time all and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    annotator = Annotator.load("human-pbmc", device="cpu", threads=THREADS)
    rows = gene_level(annotator) + network() + exact_graph() + cell_level(annotator)
    arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
