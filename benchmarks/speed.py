"""What `annotate` costs as a whole process, beside CellTypist on the same files in the same run.

Run: ``python benchmarks/speed.py FOLDER --out benchmarks/results/speed.json [--sizes ...]
[--celltypist ENVIRONMENT/bin/python]`` (needs the extra ``training`` and ``SCBIGNN_DATA``; the
environment is that of ``peers/README.md``). FOLDER receives the files: cells of pbmc3k drawn again
and again, each count thinned binomially, uncompressed CSR. A million cells take 7 GB, twice while
they are annotated. Seconds, CPU and peak memory are the operating system's account of the finished
process. Up to ``--most-peers`` cells CellTypist runs in turn with the package, ``--pairs`` times:
whatever else the machine does meets both. Majority voting and scanpy run once, with ``--voting``.
All read h5ad and write the same kind of file, ``--write``; a row has the load before its run.
``--variants N`` then annotates N cells stored in other ways.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

from scbignn_training.recipe import Source

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
SOURCE = Source(file="pbmc3k_seurat.h5ad")
MODEL = "human-pbmc"
KEPT = 0.95
"""Chance of a count to be kept."""
BLOCK = 10_000
VARIANTS = {
    "CSR, gzip": ("csr", "gzip"),
    "CSR, lzf": ("csr", "lzf"),
    "CSC": ("csc", None),
    "CSC, gzip": ("csc", "gzip"),
    "dense": ("dense", None),
    "dense, gzip": ("dense", "gzip"),
}
Row = dict[str, Any]


def make(n: int, path: Path) -> None:
    """Write a file of ``n`` cells, block by block."""
    source = ad.read_h5ad(SOURCE.locate())
    counts, rng = source.X.tocsr(), np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", pd.DataFrame(index=[f"cell{i}" for i in range(n)]))
        write_elem(file, "var", source.var[[]])
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            write_elem(file, name, {})
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([n, counts.shape[1]])
        growing = {"maxshape": (None,), "chunks": (1 << 18,)}
        data = group.create_dataset("data", (0,), dtype="f4", **growing)
        indices = group.create_dataset("indices", (0,), dtype="i4", **growing)
        ends = [np.zeros(1, np.int64)]
        for start in range(0, n, BLOCK):
            block = counts[rng.integers(0, counts.shape[0], min(BLOCK, n - start))]
            block.data = rng.binomial(block.data.astype(np.int64), KEPT).astype(np.float32)
            block.eliminate_zeros()
            ends.append(ends[-1][-1] + block.indptr[1:])
            for dataset, values in ((data, block.data), (indices, block.indices)):
                dataset.resize((ends[-1][-1],))
                dataset[ends[-2][-1] :] = values
        group.create_dataset("indptr", data=np.concatenate(ends))


def store(source: Path, path: Path, form: str, compression: Any) -> None:
    """Write the cells of a file in another form."""
    cells = ad.read_h5ad(source)
    cells.X = {"csr": cells.X.tocsr, "csc": cells.X.tocsc, "dense": cells.X.toarray}[form]()
    cells.write_h5ad(path, compression=compression)


def run(method: str, n: int, command: list[str], said: Path | None = None) -> Row:
    """Run a command to its end and return what it cost; what it prints goes to a file."""
    load, start = os.getloadavg()[0], time.perf_counter()
    with (
        open(said or os.devnull, "wb") as stdout,
        subprocess.Popen(command, cwd=HERE, stdout=stdout) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    row = {
        "method": method,
        "cells": n,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1e3),
        "load": round(load, 1),
    }
    print(row, flush=True)
    return row


def apart(work: Callable[..., object], *arguments: object) -> None:
    """Do work in another process: memory that is held here counts in the peak of what is timed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(work, *arguments).result()


def main() -> None:
    """Time all sizes and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", default="2638,10000,50000,100000,1000000")
    parser.add_argument("--celltypist", type=Path, help="Python of its environment")
    parser.add_argument("--most-peers", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--voting", action="store_true", help="majority voting and scanpy, too")
    parser.add_argument("--write", default="h5ad", help="h5ad or csv")
    parser.add_argument("--variants", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    output, model = folder / f"output.{arguments.write}", folder / "celltypist.pkl"
    peer = [str(arguments.celltypist), "-m"]
    options = ["-m", MODEL, "--threads", str(arguments.threads), "--overwrite", "--json"]

    def query_of(n: int) -> Path:
        query = folder / f"{n}.h5ad"
        if not query.is_file():
            apart(make, n, query)
        return query

    def ours(method: str, n: int, query: Path) -> Row:
        command = [sys.executable, "-m", "scbignn_infer.cli", "annotate"]
        said = folder / "summary.json"
        row = run(method, n, [*command, str(query), "-o", str(output), *options], said)
        stages = json.loads(said.read_text())["stages"]
        return row | {"stages": {name: round(seconds, 2) for name, seconds in stages.items()}}

    rows: list[Row] = []
    for n in map(int, filter(None, arguments.sizes.split(","))):
        query = query_of(n)
        paths = [str(query), str(output)]
        celltypist = [*peer, "peers.celltypist_annotate", *paths, "--model", str(model)]
        if arguments.celltypist and not model.is_file():
            subprocess.run([*celltypist, "--train", str(SOURCE.locate())], cwd=HERE, check=True)
        peers = bool(arguments.celltypist) and n <= arguments.most_peers
        for pair in range(arguments.pairs if peers else 1):
            found = [ours("scBiGNN", n, query)]
            if peers:
                found.append(run("CellTypist", n, celltypist))
            rows += [row | {"pair": pair, "written": arguments.write} for row in found]
            arguments.out.write_text(json.dumps(rows, indent=0))
        if peers and arguments.voting:
            rows.append(run("CellTypist, majority voting", n, [*celltypist, "--voting"]))
            leiden = [*peer, "peers.scanpy_leiden", *paths]
            rows.append(run("scanpy, neighbours and Leiden", n, leiden))
    for name, (form, compression) in VARIANTS.items() if arguments.variants else ():
        stored = folder / "variant.h5ad"
        apart(store, query_of(arguments.variants), stored, form, compression)
        size = round(stored.stat().st_size / 1e6)
        rows.append(ours(f"scBiGNN, {name}", arguments.variants, stored) | {"file_mb": size})
    arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
