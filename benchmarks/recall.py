"""How many of the true nearest neighbours the approximate graph holds, and what it takes.

Run: ``python benchmarks/recall.py --out benchmarks/results/recall.json [--labelled FILE]``. FILE is
what ``annotate`` wrote, such as ``speed.py`` leaves behind, for its embedding. Beside it stand
points of 200 overlapping Gaussian clusters in 96 dimensions, which are harder. The truth is exact
search for 2,000 of the cells. Each factor is how many neighbours pynndescent keeps for each that is
asked for.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from scbignn_infer import neighbors
from scbignn_infer.neighbors import ExactSearch, build_graph, unit_rows
from scbignn_infer.sessions import choose_runtime

Array = np.ndarray[Any, Any]
FACTORS = (1.0, 1.5)
N_NEIGHBORS = 15
SAMPLE = 2000


def clusters(n: int) -> Array:
    """Return points of overlapping clusters, (n, 96)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 96), np.float32)
    return centres[rng.integers(0, 200, n)] + rng.standard_normal((n, 96), np.float32)


def measure(name: str, embedding: Array, threads: int) -> list[dict[str, Any]]:
    """Return a row for each factor; the first graph of a process also compiles."""
    runtime = choose_runtime("cpu", threads)
    build_graph(embedding[:2000], N_NEIGHBORS, runtime=runtime, exact_max_cells=0)
    unit = unit_rows(embedding)
    sample = np.random.default_rng(1).choice(len(unit), SAMPLE, replace=False)
    near, _ = ExactSearch(runtime).search(unit[sample], unit, N_NEIGHBORS + 1)
    rows = []
    for factor in FACTORS:
        neighbors.WIDER = factor
        start = time.perf_counter()
        found, _, _ = build_graph(embedding, N_NEIGHBORS, runtime=runtime, exact_max_cells=0)
        spent = time.perf_counter() - start
        pairs = zip(sample, near, found[sample], strict=True)
        # Of the true ones, the cell itself is no neighbour.
        recall = np.mean(
            [len(({*true} - {own}) & {*got}) / N_NEIGHBORS for own, true, got in pairs]
        )
        row = {"cells": len(unit), "points": name, "factor": factor}
        rows.append(row | {"recall": round(float(recall), 4), "seconds": round(spent, 1)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--sizes", default="200000,1000000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    if arguments.labelled:
        with h5py.File(arguments.labelled) as file:
            rows += measure("embedding", file["obsm/X_scbignn"][:], arguments.threads)
    for n in map(int, arguments.sizes.split(",")):
        rows += measure("clusters", clusters(n), arguments.threads)
        arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
