"""What one sample costs a worker: the figures behind docs/production.md.

Run: ``python benchmarks/sample_costs.py FOLDER --out benchmarks/results/sample_costs.json`` (needs
``SCBIGNN_DATA``). A sample of each size is labelled in a process of its own that has labelled it
before, with one thread, from opening the file to its two checksums; CPU seconds and the highest
resident memory are those of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import speed
from scbignn_infer.batch.samples import Sample, Task, label_sample
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from scbignn_infer.settings import GraphKind

KINDS: tuple[GraphKind, ...] = ("query", "reference")
REPEATS = {10_000: 5, 100_000: 1}
"""How often a sample of so many cells is labelled, after once that is not counted."""


def cost(folder: Path, n: int, kind: GraphKind) -> dict[str, Any]:
    """Label a sample again and again, and return what the median took."""
    sample = Sample(str(n), folder / f"{n}.h5ad", folder / f"{n}.labelled.h5ad")
    settings = Settings(model=speed.MODEL, threads=1, graph=kind)
    taken = []
    for _ in range(1 + REPEATS[n]):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        record = label_sample(Task(sample, settings, overwrite=True))
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken.append((cpu, time.perf_counter() - start, record["stages"]))
    cpu, wall, stages = sorted(taken[1:], key=lambda t: t[0])[REPEATS[n] // 2]
    return {
        "cells": n,
        "neighbours": kind,
        "cpu": round(cpu, 2),
        "seconds": round(wall, 2),
        **{name.replace(" ", "_"): round(s, 2) for name, s in stages.items()},
        "peak_mb": round(after.ru_maxrss / 1e3),
        "read_mb": round(sample.query.stat().st_size / 1e6, 1),
        "written_mb": round(sample.target.stat().st_size / 1e6, 1),
    }


def main() -> None:
    """Write a JSON list with a row for each size and kind of graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folder = options.folder.resolve()
    rows = []
    for n in REPEATS:
        if not (folder / f"{n}.h5ad").is_file():
            speed.make(n, folder / f"{n}.h5ad")
        for kind in KINDS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rows.append(pool.submit(cost, folder, n, kind).result())
            print(rows[-1], flush=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
