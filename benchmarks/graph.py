"""The graph: exact or approximate, how many true neighbours it holds, and what that is worth.

Run: ``python benchmarks/graph.py FOLDER --out benchmarks/results/graph.json [--sizes ...] [--peer
ENVIRONMENT/bin/python]`` (needs ``SCBIGNN_DATA``; the environment is that of ``peers/README.md``).
FOLDER receives the points. Three questions, of which ``--only`` asks some:

- *crossover*: seconds and CPU seconds of exact search and of ivf, among the first of the points;
- *recall*: the share of the true 15 neighbours of 2,000 points that each search finds, and its
  costs: in the embedding of made-up cells between real ones, among points of 200 overlapping
  Gaussian clusters, and on a bent surface of six dimensions, each of 96 numbers;
- *labels*: real studies labelled on graphs that miss a share of the true neighbours, at random, and
  have the next ones instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import scipy.sparse as sp

from scbignn_infer.annotator import Annotator
from scbignn_infer.network import exact, pair
from scbignn_infer.network.neighbors import Graph, build_graph, search_for
from scbignn_infer.network.sessions import choose_runtime
from scbignn_infer.query.readers import MatrixQuery, open_query

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
HERE = Path(__file__).resolve().parent
MODEL = "human-pbmc"
BETWEEN = ("pbmc3k_seurat.h5ad", "pbmc_zheng_facs.h5ad", "pbmc_10studies_UNLABELLED_3000.h5ad")
BLOCK = 2000
CROSSOVER = (5_000, 10_000, 20_000, 30_000)
RECALLS = (1.0, 0.98, 0.95, 0.9, 0.8, 0.6)
STUDIES = {
    "human-pbmc": ("pbmc_10studies_UNLABELLED_3000.h5ad", None),
    "human-pancreas": ("pancreas_baron_neuca_2000g.h5ad", "cell_type"),
}
N_NEIGHBORS = 15
SAMPLE = 2000
SEEDS = 3


def between(n: int) -> Array:
    """Return embeddings (n, 96) of made-up cells of three studies, each between two neighbours.

    Each count of a cell and of one of its 15 neighbours is thinned binomially, by shares that add
    up to 1, and the sum goes through the gene level.
    """
    import anndata as ad  # not above: a process that is measured would hold it, and PyTorch

    from scbignn_training.recipe import Source

    annotator, rng, found = (
        Annotator.load(MODEL, device="cpu", threads=1),
        np.random.default_rng(0),
        [],
    )
    studies = []
    for file in BETWEEN:
        study = ad.read_h5ad(Source(file=file).locate())
        counts = sp.csr_matrix(study.X)
        query = MatrixQuery(counts, list(study.var_names))
        level = annotator.pair.gene_level(annotator.choose(query).panel)
        graph = build_graph(level.label(counts)[0], N_NEIGHBORS, runtime=annotator.runtime)
        studies.append((counts, level, graph.indices))
    for start in range(0, n, BLOCK):
        counts, level, near = studies[start // BLOCK % len(studies)]
        cells = rng.integers(0, counts.shape[0], min(BLOCK, n - start))
        others = near[cells, rng.integers(0, N_NEIGHBORS, len(cells))]
        share = rng.random(len(cells))
        rows = thinned(counts[cells], share, rng) + thinned(counts[others], 1 - share, rng)
        found.append(level.label(sp.csr_matrix(rows))[0])
    return np.concatenate(found)


def thinned(counts: sp.csr_matrix, share: Array, rng: np.random.Generator) -> sp.csr_matrix:
    """Keep each count with the probability of its cell."""
    kept = rng.binomial(np.rint(counts.data).astype(int), np.repeat(share, np.diff(counts.indptr)))
    counts.data = kept.astype(np.float32)
    counts.eliminate_zeros()
    return counts


def clusters(n: int) -> Array:
    """Return points of overlapping clusters, (n, 96)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 96), np.float32)
    return centres[rng.integers(0, 200, n)] + rng.standard_normal((n, 96), np.float32)


def curved(n: int) -> Array:
    """Return points of a bent surface of six dimensions, (n, 96)."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(-1, 1, (n, 6)) @ (2 * rng.standard_normal((6, 96)))
    return np.cos(angles + rng.uniform(0, 6.3, 96)).astype(np.float32)


POINTS = {"cells": between, "clusters": clusters, "curved": curved}


def file_of(folder: Path, name: str, n: int) -> Path:
    """Return a file with so many points; it is made if it is not there."""
    path = folder / f"{name}-{n}.npy"
    if not path.is_file():
        np.save(path, POINTS[name](n))
    return path


def true_neighbors(path: Path, threads: int) -> Path:
    """Return a file with the cells of a sample, and their true neighbours."""
    truth = path.with_suffix(".npz")
    if not truth.is_file():
        unit = exact.unit_rows(np.load(path))
        sample = np.sort(np.random.default_rng(1).choice(len(unit), SAMPLE, replace=False))
        search = exact.ExactSearch(unit, choose_runtime("cpu", threads))
        near, _ = search.nearest(unit[sample], N_NEIGHBORS + 1)
        # Of the true ones, the cell itself is no neighbour.
        others = [row[row != own][:N_NEIGHBORS] for own, row in zip(sample, near, strict=True)]
        np.savez(truth, sample=sample, near=others)
    return truth


def measure(name: str, points: Path, n: int, truth: Path | None, threads: int) -> Row:
    """Return what a search costs in a fresh process, and the share of true neighbours it finds."""
    embedding = np.load(points)[:n]
    runtime, before = choose_runtime("cpu", threads), os.times()
    start = time.perf_counter()
    search = search_for(n, name)
    found = build_graph(embedding, N_NEIGHBORS, runtime=runtime, search=search).indices
    seconds, after = time.perf_counter() - start, os.times()
    row: Row = {"search": name, "cells": n, "seconds": round(seconds, 2)}
    row["cpu"] = round(after.user + after.system - before.user - before.system, 2)
    row["peak_mb"] = peak_mb()
    if truth is not None:
        true = np.load(truth)
        pairs = zip(found[true["sample"]], true["near"], strict=True)
        row["recall"] = round(float(np.mean([np.isin(b, a).mean() for a, b in pairs])), 4)
    return row


def peak_mb() -> int:
    """Return the peak of this process alone, without that of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1e3)


def crossover(points: Path, threads: int) -> list[Row]:
    """Return the costs of each search at each size."""
    rows = []
    for n in CROSSOVER:
        row: Row = {"cells": n}
        for name in ("exact", "ivf"):
            cost = apart(measure, name, points, n, None, threads)
            row |= {name: cost["seconds"], f"{name}_cpu": cost["cpu"]}
        rows.append(row)
        print(row, flush=True)
    return rows


def recall(points: Path, n: int, threads: int, searches: list[str], peer: Path | None) -> list[Row]:
    """Return a row for each way to search."""
    truth = true_neighbors(points, threads)
    rows = [apart(measure, name, points, n, truth, threads) for name in searches]
    for name in ("faiss", "hnswlib") if peer else ():
        command = [str(peer), "-m", "peers.knn", name, str(points), str(truth), str(threads)]
        said = subprocess.run(command, cwd=HERE, check=True, capture_output=True).stdout
        rows.append(json.loads(said.splitlines()[-1]))
    for row in rows:
        row["points"] = points.name.partition("-")[0]
        print(row, flush=True)
    return rows


def apart(work: Callable[..., Row], *arguments: object) -> Row:
    """Do work in another process, whose memory is its own and which has compiled nothing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def labels(model: str, file: str, truth: str | None) -> list[Row]:
    """Return how labels move as the graph misses true neighbours."""
    from scbignn_training.recipe import Source

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

                with patch.object(pair, "build_graph", missing):
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", default="200000,1000000")
    parser.add_argument("--only", default="labels,crossover,recall")
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--searches", default="ivf,pynndescent")
    parser.add_argument("--peer", type=Path, help="Python of an environment with faiss and hnswlib")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder, threads, out = arguments.folder.resolve(), arguments.threads, arguments.out
    rows: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    wanted = arguments.only.split(",")
    if "labels" in wanted:
        rows["labels"] = [row for model, study in STUDIES.items() for row in labels(model, *study)]
    if "crossover" in wanted:
        rows["crossover"] = crossover(file_of(folder, "cells", max(CROSSOVER)), threads)
    for n in map(int, arguments.sizes.split(",") if "recall" in wanted else ()):
        for name in arguments.points.split(","):
            others = [r for r in rows.get("recall", []) if (r["points"], r["cells"]) != (name, n)]
            points, searches = file_of(folder, name, n), arguments.searches.split(",")
            found = recall(points, n, threads, searches, arguments.peer)
            rows["recall"] = others + found
            out.write_text(json.dumps(rows, indent=0))
    out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
