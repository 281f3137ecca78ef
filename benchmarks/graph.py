"""The graph: exact or approximate, how many true neighbours it holds, and what that is worth.

Run: ``python benchmarks/graph.py FILE --out benchmarks/results/graph.json [--sizes ...]`` (needs
``SCBIGNN_DATA``). FILE is what ``annotate`` wrote of 200,000 cells or more, such as ``speed.py``
leaves behind, for its embedding. Three questions:

- *crossover*: seconds of exact search and of pynndescent, without and with its compilation, among
  the first cells of the file;
- *recall*: the share of the true 15 neighbours of 2,000 cells that pynndescent finds, in the
  embedding and among points of 200 overlapping Gaussian clusters in 96 dimensions, which are
  harder. "Kept" is how many neighbours it keeps for each that is asked for, "candidates" how many
  it tries a cell and round;
- *labels*: real studies labelled on graphs that miss a share of the true neighbours, at random, and
  have the next ones instead.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import h5py
import numpy as np

from scbignn_infer import annotator as pipeline
from scbignn_infer.annotator import Annotator
from scbignn_infer.network import descent, exact
from scbignn_infer.network.neighbors import Graph, build_graph
from scbignn_infer.network.sessions import choose_runtime
from scbignn_infer.query.readers import open_query
from scbignn_training.recipe import Source

if TYPE_CHECKING:
    from scbignn_infer.network.neighbors import Search

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
SEARCHES = ((1.0, 15), (1.5, 24), (1.5, 60))
"""Kept neighbours for each that is asked for, and candidates; the last is the package's."""
CROSSOVER = (25_000, 50_000, 100_000, 150_000, 200_000)
RECALLS = (1.0, 0.98, 0.95, 0.9, 0.8, 0.6)
STUDIES = {
    "human-pbmc": ("pbmc_10studies_UNLABELLED_3000.h5ad", None),
    "human-pancreas": ("pancreas_baron_neuca_2000g.h5ad", "cell_type"),
}
N_NEIGHBORS = 15
SAMPLE = 2000
SEEDS = 3


def clusters(n: int) -> Array:
    """Return points of overlapping clusters, (n, 96)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 96), np.float32)
    return centres[rng.integers(0, 200, n)] + rng.standard_normal((n, 96), np.float32)


def timed(embedding: Array, threads: int, search: Search) -> tuple[Array, float]:
    """Return the graph's neighbours and the seconds it took."""
    runtime = choose_runtime("cpu", threads)
    start = time.perf_counter()
    found = build_graph(embedding, N_NEIGHBORS, runtime=runtime, search=search)
    return found.indices, round(time.perf_counter() - start, 2)


def crossover(embedding: Array, threads: int) -> list[Row]:
    """Return the seconds of both searches at each size."""
    _, compiling = timed(embedding[:2000], threads, descent)
    rows = []
    for n in CROSSOVER:
        row = {"cells": n, "compile": compiling}
        for search in (exact, descent):
            _, row[search.NAME] = timed(embedding[:n], threads, search)
        rows.append(row)
        print(rows[-1], flush=True)
    return rows


def recall(name: str, embedding: Array, threads: int) -> list[Row]:
    """Return a row for each way to search."""
    unit = exact.unit_rows(embedding)
    sample = np.random.default_rng(1).choice(len(unit), SAMPLE, replace=False)
    search = exact.ExactSearch(unit, choose_runtime("cpu", threads))
    near, _ = search.nearest(unit[sample], N_NEIGHBORS + 1)
    rows = []
    for kept, candidates in SEARCHES:
        descent.WIDER, descent.CANDIDATES = kept, candidates
        found, seconds = timed(embedding, threads, descent)
        pairs = zip(sample, near, found[sample], strict=True)
        # Of the true ones, the cell itself is no neighbour.
        share = np.mean([len(({*true} - {own}) & {*got}) / N_NEIGHBORS for own, true, got in pairs])
        row = {"points": name, "cells": len(unit), "kept": kept, "candidates": candidates}
        rows.append(row | {"recall": round(float(share), 4), "seconds": seconds})
        print(rows[-1], flush=True)
    return rows


def labels(model: str, file: str, truth: str | None) -> list[Row]:
    """Return how labels move as the graph misses true neighbours."""
    annotator = Annotator.load(model, device="cpu", threads=1)
    with open_query(Source(file=file).locate()) as query:
        known = np.array(query.obs_column(truth) if truth else [])
        first = annotator.annotate_query(query).best_labels
        rows = []
        for share in RECALLS:
            same, right = [], []
            for seed in range(SEEDS):

                def missing(
                    z: Array, k: int, *, seed: int = seed, share: float = share, **rest: Any
                ) -> Graph:
                    found = build_graph(z, 4 * k, runtime=rest["runtime"])
                    kept = np.random.default_rng(seed).random(found.indices.shape) < share
                    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
                    near = np.take_along_axis(found.similarity, order, 1)
                    indices = np.take_along_axis(found.indices, order, 1)
                    return Graph(indices, near, found.builder, near.min(axis=1))

                with patch.object(pipeline, "build_graph", missing):
                    found = annotator.annotate_query(query).best_labels
                same.append(np.mean(found == first))
                scored = np.isin(known, annotator.bundle.cell_types)
                right.append(np.mean(found[scored] == known[scored]) if truth else np.nan)
            row = {"model": model, "file": file, "recall": share, "cells": len(first)}
            row["same"] = round(float(np.mean(same)), 5)
            row["accuracy"] = round(float(np.mean(right)), 4) if truth else None
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("--sizes", default="200000,1000000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with h5py.File(arguments.labelled) as file:
        embedding = file["obsm/X_scbignn"][:200_000]
    rows: dict[str, list[Row]] = {
        "labels": [row for model, study in STUDIES.items() for row in labels(model, *study)],
        "crossover": crossover(embedding, arguments.threads),
        "recall": recall("embedding", embedding, arguments.threads),
    }
    for n in map(int, arguments.sizes.split(",")):
        rows["recall"] += recall("clusters", clusters(n), arguments.threads)
        arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
