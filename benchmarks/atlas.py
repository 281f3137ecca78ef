"""Time and memory of training on an atlas: many studies and hundreds of types in one large file.

Run: ``python benchmarks/atlas.py --cells 50000,1000000 --out FILE.json`` (needs the extra
``training`` and the profiles beside ``SCBIGNN_DATA``). A pool of cells is simulated from the
profiles of 200 types. The atlas is drawn from it with replacement; each of 30 studies thins the
counts of each gene by a rate of its own, to about 1,000 counts a cell, so no two cells are alike.
``train`` runs as a process of its own; ``--only-read`` runs ``train --check``, which reads, joins,
and looks at the labels. A run that was killed goes on with the same command, if the
folder is given (``--folder``) and kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem

from scbignn_training.profiles import read_profiles
from scbignn_training.recipe import Source
from scbignn_training.simulate import Simulation, simulate
from training_scale import measure, spend

if TYPE_CHECKING:
    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
TABLE = "../profiles/human_cellprofilelibrary.h5ad"
TYPES, STUDIES, GENES, POOL = 200, 30, 20_000, 100
SIMULATION = Simulation(cells=POOL, size=1.0, depth=1500)
KEPT, STUDY_SPREAD, TYPE_SPREAD = 0.6, 0.3, 1.2
"""Mean share of counts that a study keeps, and spreads of log rates and of log shares of types."""
BLOCK = 20_000


def pool(seed: int) -> tuple[sp.csr_matrix, Array, list[str]]:
    """Return simulated counts of 200 types on 20,000 genes, their labels and the genes."""
    parts: list[Study] = []
    labels: list[str] = []
    for profiles in read_profiles(Source(file=TABLE).locate()):
        if len(labels) < TYPES * POOL and len(profiles.symbols) > GENES // 2:
            study = simulate(profiles, SIMULATION, seed)
            parts.append(study)
            labels += [f"{profiles.name}: {label}" for label in study.labels]
    symbols = sorted({s for study in parts for s in study.symbols})[:GENES]
    place = {s: i for i, s in enumerate(symbols)}
    wide = []
    for study in parts:
        kept = [i for i, s in enumerate(study.symbols) if s in place]
        moved = sp.csr_matrix(study.counts[:, kept]).tocoo()
        columns = np.array([place[study.symbols[i]] for i in kept])[moved.col]
        shape = (moved.shape[0], len(symbols))
        wide.append(sp.csr_matrix((moved.data, (moved.row, columns)), shape=shape))
    n = TYPES * POOL
    return sp.csr_matrix(sp.vstack(wide))[:n], np.array(labels[:n], dtype=object), symbols


def write(path: Path, n_cells: int, seed: int) -> float:
    """Write an atlas block by block; return how many values a cell has that are not zero."""
    rng = np.random.default_rng(seed)
    counts, labels, symbols = pool(seed)
    rates = KEPT * np.exp(STUDY_SPREAD * rng.standard_normal((STUDIES, len(symbols)))).clip(0, 1.6)
    chance = np.exp(TYPE_SPREAD * rng.standard_normal(TYPES))
    types = rng.choice(TYPES, n_cells, p=chance / chance.sum())
    rows = types * POOL + rng.integers(0, POOL, n_cells)
    studies = rng.integers(0, STUDIES, n_cells)
    indptr = [np.zeros(1, np.int64)]
    with h5py.File(path, "w") as file:
        x = file.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        x.attrs["shape"] = (n_cells, len(symbols))
        chunked = {"shape": (0,), "maxshape": (None,), "chunks": (1 << 20,)}
        data = x.create_dataset("data", dtype=np.float32, **chunked)
        indices = x.create_dataset("indices", dtype=np.int32, **chunked)
        for i in range(0, n_cells, BLOCK):
            block = counts[rows[i : i + BLOCK]]
            study = np.repeat(studies[i : i + BLOCK], np.diff(block.indptr))
            block.data = rng.binomial(
                block.data.astype(np.int64), rates[study, block.indices]
            ).astype(np.float32)
            block.eliminate_zeros()
            start = len(data)
            for stored, values in ((data, block.data), (indices, block.indices)):
                stored.resize((start + block.nnz,))
                stored[start:] = values
            indptr.append(start + block.indptr[1:].astype(np.int64))
        x.create_dataset("indptr", data=np.concatenate(indptr))
        obs = {
            "cell_type": pd.Categorical(labels[rows].astype(str)),
            "study": pd.Categorical([f"study {s + 1:02d}" for s in studies]),
        }
        write_elem(file, "obs", pd.DataFrame(obs, index=[f"cell{i}" for i in range(n_cells)]))
        write_elem(file, "var", pd.DataFrame(index=symbols))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        return len(data) / n_cells


def main() -> None:
    """Make an atlas of each size, train on it and write a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="1000000", help="one or more, with commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the atlas and unfinished runs; is kept")
    parser.add_argument("--only-write", action="store_true", help="make the atlas, do not train")
    parser.add_argument("--only-read", action="store_true", help="train --check alone")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for n in map(int, arguments.cells.split(",")):
            file = folder / f"atlas_{n}.h5ad"
            if not file.exists():
                print(n, "cells,", write(file, n, arguments.seed), "values each", flush=True)
            if arguments.only_write:
                continue
            row: dict[str, Any] = {"cells": n, "genes": GENES, "types": TYPES, "studies": STUDIES}
            row |= {"threads": arguments.threads, "file_gb": round(file.stat().st_size / 1e9, 2)}
            if arguments.only_read:
                columns = ["--label-key", "cell_type", "--study-key", "study"]
                row |= spend([file, *columns, "--check"], arguments.threads)
            else:
                row |= measure(file, folder, arguments.threads, "--study-key", "study")
            found.append(row)
            print(row, flush=True)
            arguments.out.write_text(json.dumps(found, indent=0))
            if arguments.folder is None:
                file.unlink()


if __name__ == "__main__":
    main()
