"""Time and memory of training on large references, from file to bundle.

Run: ``python benchmarks/training_scale.py --cells 100000 --genes 2000 --out FILE.json`` (needs the
extra ``training`` and ``SCBIGNN_DATA``). Cells are drawn from a real study with replacement and
thinned binomially to 50-100 %, so types, sparsity and noise are real while no two cells are alike.
``train`` runs as a process of its own; its wall time and the peak of its memory are written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import tasks

if TYPE_CHECKING:
    from scbignn_training.data import Study

BLOCK = 4096
COMMAND = "from scbignn_infer.cli import main; main()"


def resample(study: Study, n_cells: int, n_genes: int, seed: int) -> ad.AnnData:
    """Return thinned copies of real cells over the genes with most counts."""
    rng = np.random.default_rng(seed)
    total = np.asarray(study.counts.sum(axis=0)).ravel()
    genes = np.sort(np.argsort(-total, kind="stable")[:n_genes])
    counts = sp.csr_matrix(study.counts[:, genes])
    rows = rng.integers(0, counts.shape[0], n_cells)
    blocks = []
    for i in range(0, n_cells, BLOCK):
        block = counts[rows[i : i + BLOCK]]
        rate = np.repeat(rng.uniform(0.5, 1.0, block.shape[0]), np.diff(block.indptr))
        thinned = rng.binomial(np.round(block.data).astype(np.int64), rate).astype(np.float32)
        block = sp.csr_matrix((thinned, block.indices, block.indptr), shape=block.shape)
        block.eliminate_zeros()
        blocks.append(block)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(study.labels[rows].astype(str))},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[study.symbols[g] for g in genes])
    return ad.AnnData(sp.csr_matrix(sp.vstack(blocks)), obs, var)


def spend(arguments: list[object], threads: int) -> dict[str, Any]:
    """Run ``train`` in a process of its own; return its time and its memory at most."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"train ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),  # KiB on Linux
    }


def measure(file: Path, folder: Path, threads: int, *options: str) -> dict[str, Any]:
    """Train on a file in a process of its own, with some more options of ``train``."""
    arguments = [file, *options, "--label-key", "cell_type", "--name", "scale", "-o", folder]
    row = spend([*arguments, "--overwrite", "--threads", threads], threads)
    record = json.loads((folder / "scale" / "bundle.json").read_text())
    return row | {"scores": record["training"]["scores"]}


def main() -> None:
    """Make the cells, train on them and write one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", choices=sorted(tasks.FILES), default="kidney")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    study = tasks.study(arguments.study, "cell_type")
    cells = resample(study, arguments.cells, arguments.genes, arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "cells.h5ad"
        cells.write_h5ad(file)
        row: dict[str, Any] = {
            "study": arguments.study,
            "cells": cells.n_obs,
            "genes": cells.n_vars,
            "values_per_cell": round(cells.X.nnz / cells.n_obs, 1),
            "threads": arguments.threads,
        }
        del cells
        row |= measure(file, Path(name), arguments.threads)
    arguments.out.write_text(json.dumps(row, indent=0))
    print(row)


if __name__ == "__main__":
    main()
