"""Neighbours by faiss or hnswlib: what they cost, and how many true ones they find.

Run in ``benchmarks/``, in an environment as in ``peers/README.md``, by ``graph.py``:
``python -m peers.knn faiss|hnswlib POINTS.npy TRUTH.npz THREADS``. Prints a row.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
K = 16
"""Neighbours, the point itself among them."""


def faiss(unit: Array, threads: int) -> Array:
    """Search lists of k-means: four for each square root of the number of points, 32 probed."""
    import faiss

    faiss.omp_set_num_threads(threads)
    lists = int(4 * len(unit) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(96), 96, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = 40
    index.train(unit)
    index.add(unit)
    index.nprobe = 32
    found: Array = index.search(unit, K)[1]
    return found


def hnswlib(unit: Array, threads: int) -> Array:
    """Search a graph of 16 links, built with 100 candidates and searched with 50."""
    import hnswlib

    index = hnswlib.Index("ip", 96)
    index.init_index(len(unit), ef_construction=100, M=16)
    index.set_num_threads(threads)
    index.add_items(unit)
    index.set_ef(50)
    found: Array = index.knn_query(unit, K)[0]
    return found


def main() -> None:
    """Search, and print what it cost."""
    name, points, truth, threads = sys.argv[1:]
    unit, true = np.load(points), np.load(truth)
    start, before = time.perf_counter(), time.process_time()
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    found = {"faiss": faiss, "hnswlib": hnswlib}[name](unit, int(threads))
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    pairs = zip(found[true["sample"]], true["near"], strict=True)
    status = Path("/proc/self/status").read_text()
    row = {
        "search": name,
        "cells": len(unit),
        "seconds": round(seconds, 2),
        "cpu": round(cpu, 2),
        "peak_mb": round(int(status.partition("VmHWM:")[2].split()[0]) / 1e3),
        "recall": round(float(np.mean([np.isin(b, a).mean() for a, b in pairs])), 4),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
