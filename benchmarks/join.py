"""What joining the parts of a divided sample costs, to ten million cells: whole processes.

Run: ``python benchmarks/join.py FOLDER --out benchmarks/results/join.json [--sizes ...]``. FOLDER
receives 11 GB for ten million cells, which are removed. The parts are not labelled here: each has
the results of the shipped example's cells, drawn again, in the files that ``--split`` leaves. Of
the query only the rows that are sampled to judge it hold values: the joining reads no other.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import msgspec
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem

import scbignn_infer
from scbignn_infer.annotator import Annotator
from scbignn_infer.batch.samples import Sample, Task
from scbignn_infer.batch.split import ARRAYS, ON_DISK, join, plan
from scbignn_infer.query.matrices import sample_rows
from scbignn_infer.settings import Settings
from speed import apart, run

EXAMPLE = Path(scbignn_infer.__file__).parent / "examples" / "pbmc700.h5ad"
MODEL, SPLIT = "human-pbmc", 100_000


def task_of(folder: Path, n: int, suffix: str) -> Task:
    """Return the task of labelling a sample of n cells in parts."""
    settings = Settings(model=MODEL, graph="reference", threads=1)
    sample = Sample(f"{n}", folder / f"{n}.h5ad", folder / f"labelled_{n}.{suffix}")
    return Task(sample, settings, overwrite=True, ours=True, split=SPLIT)


def make_query(n: int, path: Path) -> None:
    """Write a file of n cells, most of them without values."""
    cells, rows = ad.read_h5ad(EXAMPLE), sample_rows(n)
    counts = sp.csr_matrix(cells.X)[np.arange(len(rows)) % cells.n_obs]
    lengths = np.zeros(n + 1, np.int64)
    lengths[rows + 1] = np.diff(counts.indptr)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", pd.DataFrame(index=[f"cell{i}" for i in range(n)]))
        write_elem(file, "var", cells.var)
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            write_elem(file, name, {})
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.array([n, counts.shape[1]])
        for name, values in {"data": counts.data, "indices": counts.indices}.items():
            group.create_dataset(name, data=values)
        group.create_dataset("indptr", data=np.cumsum(lengths))


def make_parts(task: Task) -> None:
    """Write what labelling the parts would."""
    cells = ad.read_h5ad(EXAMPLE)
    annotator = Annotator.load(MODEL, graph="reference", threads=1)
    found = annotator.annotate_matrix(cells.X, cells.var_names)
    based = np.array(msgspec.json.encode(found.provenance).decode())
    rng = np.random.default_rng(0)
    for part in plan(task):
        part.path.parent.mkdir(exist_ok=True)
        drawn = rng.integers(0, len(found), part.stop - part.start)
        arrays: dict[str, Any] = {name: getattr(found, name)[drawn] for name in (*ON_DISK, *ARRAYS)}
        np.savez(part.path, provenance=based, **arrays)


def join_parts(task: Task) -> None:
    """Join them, as a worker does."""
    parts = plan(task)
    record = join(task, parts, [""] * len(parts))
    if record["status"] != "done":
        raise SystemExit(record["error"])


def main() -> None:
    """Join all sizes, each in a fresh process, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", default="100000,1000000,10000000")
    parser.add_argument("--format", default="h5ad", help="h5ad or csv")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only-join", type=int, help="for the fresh process")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    if arguments.only_join:
        join_parts(task_of(folder, arguments.only_join, arguments.format))
        return
    rows = []
    for n in map(int, arguments.sizes.split(",")):
        task = task_of(folder, n, arguments.format)
        apart(make_query, n, task.sample.query)
        apart(make_parts, task)
        again = [*sys.argv[:2], "--format", arguments.format, "--only-join", str(n)]
        row = run("join", n, [sys.executable, str(Path(__file__).resolve()), *again[1:]])
        size = task.sample.target.stat().st_size
        rows.append(row | {"written": arguments.format, "output_mb": round(size / 1e6)})
        for path in (task.sample.query, task.sample.target):
            path.unlink()
        if arguments.out:
            arguments.out.write_text(json.dumps(rows, indent=0))
    for left in folder.glob(".*.parts"):
        shutil.rmtree(left)


if __name__ == "__main__":
    main()
