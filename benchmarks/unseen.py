"""Types that the model never saw, and whether they are told from those that it knows.

Run: ``python benchmarks/unseen.py make FOLDER`` writes the tasks, ``... unseen.py run FOLDER``
trains and labels them (needs the extra ``training`` and ``SCBIGNN_DATA``),
``peers.celltypist_unseen`` does so with CellTypist, and ``... unseen.py score FOLDER --out
benchmarks/results/unseen.json`` scores.

Within a study each type is left out in turn: half of the cells of the others train, the other half
and the cells of that type are labelled. Across studies a model labels another study with types
that it has not. Scored are the area under the ROC of each signal, unseen against seen, and which
share of the unseen keeps a label where 95 % of the seen do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from scbignn_infer.annotation.scores import smooth
from scbignn_infer.annotator import Annotator
from scbignn_infer.model.registry import load_model
from scbignn_infer.network.exact import ExactSearch, unit_rows
from scbignn_infer.network.neighbors import build_graph
from scbignn_infer.query.readers import open_query
from scbignn_infer.settings import Reading
from scbignn_training.recipe import Source

Array = np.ndarray[Any, Any]
WITHIN = {
    "zheng": ("pbmc_zheng_facs.h5ad", "cell_type_common"),
    "pbmc3k": ("pbmc3k_seurat.h5ad", "cell_type_common"),
    "baron": ("pancreas_baron_human1.h5ad", "cell_type_common"),
    "kidney": ("scdcc_human_kidney_2000g.h5ad", "cell_type"),
}
FRESH = {
    "mouse islets": ("mouse_pancreas_baron_mouse1.h5ad", "cell_type_common"),
    "mouse embryo": ("mouse_pancreas_bastidas_1000.h5ad", "cell_type"),
    "mouse lung": ("mouse_lung_zilionis_800.h5ad", "cell_type"),
    "cell lines": ("cellbench_sc_mixology.h5ad", "cell_type"),
    "segerstolpe": ("pancreas_segerstolpe_neuca_2000g.h5ad", "cell_type_common"),
}
"""Studies that were not looked at while the rule was found; it was scored on them as it stood."""
ACROSS = {
    "pbmc3k -> zheng": ("pbmc3k", "zheng"),
    "pbmc3k -> kang": ("pbmc3k", "kang"),
    "kang -> zheng": ("kang", "zheng"),
}
MORE = {"kang": ("pbmc_kang_ifnb.h5ad", "cell_type_common")}
MOST, LEAST = 2500, 20
"""Cells of a study that are used, and cells that a type must have to be left out."""
KEPT_SEEN = 0.95
NOVELTIES = (1.0, 0.99, 0.95, 0.9)
"""Values of ``--max-novelty``; 1 is the default."""


def read(name: str) -> ad.AnnData:
    """Return a study with its labels in ``obs["label"]``."""
    file, key = (WITHIN | FRESH | MORE)[name]
    cells = ad.read_h5ad(Source(file=file).locate())
    cells = ad.AnnData(
        sp.csr_matrix(cells.X),
        obs={"label": cells.obs[key].astype(str).to_numpy()},
        var=cells.var[[]],
    )
    rows = np.random.default_rng(0).permutation(cells.n_obs)[:MOST]
    return cells[np.sort(rows)].copy()


def halves(labels: Array) -> Array:
    """Return which cells train: half of each type."""
    inside = np.zeros(len(labels), dtype=bool)
    rng = np.random.default_rng(0)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        inside[rows[: len(rows) // 2]] = True
    return inside


def make(folder: Path) -> None:
    """Write a folder with ``train.h5ad`` and ``query.h5ad`` for each task."""
    for name in WITHIN | FRESH:
        cells = read(name)
        labels = cells.obs["label"].to_numpy()
        inside = halves(labels)
        types, n = np.unique(labels, return_counts=True)
        for left_out in types[n >= LEAST]:
            write(
                folder / f"{name} without {left_out}".replace("/", "_"),
                cells[inside & (labels != left_out)],
                cells[~inside],
            )
    for task, (reference, query) in ACROSS.items():
        write(folder / task, read(reference), read(query))


def write(folder: Path, train: ad.AnnData, query: ad.AnnData) -> None:
    """Write one task."""
    folder.mkdir(parents=True, exist_ok=True)
    train.write_h5ad(folder / "train.h5ad")
    query.write_h5ad(folder / "query.h5ad")


def train(folder: Path) -> None:
    """Train the model of one task, unless it is there."""
    if (folder / "model").exists():
        return
    command = ["train", str(folder / "train.h5ad"), "--label-key", "label", "--name", "model"]
    program = "from scbignn_infer.cli import main; main()"
    options = ["-o", str(folder), "--threads", "1", "--quiet", "--min-cells", "6"]
    subprocess.run([sys.executable, "-c", program, *command, *options], check=True)


def signals(folder: Path) -> dict[str, Array]:
    """Label a task's query; return the truth, the labels and what may tell unseen from seen."""
    annotator = Annotator.load(folder / "model", device="cpu", threads=1)
    with open_query(folder / "query.h5ad") as query:
        found = annotator.annotate_query(query, Reading(allow_species_mismatch=True))
        truth = np.array(query.obs_column("label"))
    unit, bank = (unit_rows(z) for z in (found.embedding, annotator.bundle.reference["embedding"]))
    graph = build_graph(found.embedding, 15, runtime=annotator.runtime)
    _, nearest = ExactSearch(bank, annotator.runtime).nearest(unit, 1)
    return {
        "truth": truth,
        "known": np.array(annotator.bundle.cell_types),
        "label": found.best_labels.astype(str),
        "confidence": found.confidence,
        "probabilities": found.probabilities,
        "novelty": found.novelty,
        "residual": found.residual,
        "support": found.support,
        "smoothed distance": smooth(1 - nearest[:, 0], graph.indices),
    }


def regression(folder: Path) -> Array:
    """Return the highest probability of a logistic regression trained on the same cells."""
    train, query = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("train", "query"))
    genes = train.var_names.intersection(query.var_names)

    def expression(cells: ad.AnnData) -> Array:
        x = sp.csr_matrix(cells[:, genes].X, dtype=np.float64)
        totals = np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1)
        return np.log1p((sp.diags_array(1e4 / totals) @ x).toarray())

    x, y = expression(train), train.obs["label"].astype(str).to_numpy()
    best = np.argsort(-x.var(axis=0))[:1000]
    mean, scale = x[:, best].mean(axis=0), x[:, best].std(axis=0) + 1e-3
    model = LogisticRegression(C=0.01, max_iter=500).fit(
        ((x[:, best] - mean) / scale).clip(-8, 8), y
    )
    z = ((expression(query)[:, best] - mean) / scale).clip(-8, 8)
    likeliest: Array = model.predict_proba(z).max(axis=1)
    return likeliest


def work(folder: Path) -> None:
    """Train and label one task, unless it is done."""
    if (folder / "ours.npz").exists():
        return
    train(folder)
    found: dict[str, Any] = signals(folder) | {"regression": regression(folder)}
    np.savez(folder / "ours.npz", **found)
    print(folder.name, flush=True)


def outcome(folder: Path) -> tuple[dict[str, Array], Array]:
    """Return what a task's model said of its cells, and which of these it has not seen."""
    found = dict(np.load(folder / "ours.npz"))
    return found, ~np.isin(found["truth"], found["known"])


def tells(folder: Path) -> bool:
    """Whether a task has cells of both kinds."""
    _, unseen = outcome(folder)
    return bool(unseen.any() and not unseen.all())


def fresh(folder: Path) -> bool:
    """Whether a task is of a study on which the rule was not found."""
    return folder.name.split(" without ")[0] in FRESH


def score(folder: Path) -> list[dict[str, Any]]:
    """Return the scores of every signal on one task."""
    found, unseen = outcome(folder)
    scores = {
        "confidence": 1 - found["confidence"],
        "distance": found["smoothed distance"],
        "residual": found["residual"],
        "scBiGNN": -found["support"],
        "logistic regression": 1 - found["regression"],
    }
    if (folder / "celltypist.npz").exists():
        scores["CellTypist"] = 1 - np.load(folder / "celltypist.npz")["confidence"]
    rows = []
    for signal, values in scores.items():
        keep = np.quantile(values[~unseen], KEPT_SEEN)
        row = {"task": folder.name, "signal": signal, "unseen": int(unseen.sum())}
        row |= {"fresh": fresh(folder)}
        row |= {"auroc": round(float(roc_auc_score(unseen, values)), 4)}
        rows.append(row | {"labelled": round(float((values[unseen] <= keep).mean()), 4)})
    return rows


def strictness(folders: list[Path]) -> list[dict[str, Any]]:
    """Return what keeps and loses a label by default and below some novelties, means over tasks."""
    shares: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for folder in folders:
        found, unseen = outcome(folder)
        kept = found["support"] >= load_model(folder / "model").spec.thresholds.confidence
        across = "across studies" if "->" in folder.name else "studies"
        kind = "fresh studies" if fresh(folder) else across
        for most in NOVELTIES:
            called = kept & (found["novelty"] <= most)
            share = float(called[unseen].mean()), float(1 - called[~unseen].mean())
            shares.setdefault((kind, most), []).append(share)
    return [
        {"tasks": kind, "n_tasks": len(found), "max_novelty": most}
        | dict(zip(("unseen_labelled", "seen_unknown"), np.mean(found, 0).round(4), strict=True))
        for (kind, most), found in shares.items()
    ]


def main() -> None:
    """Make, run or score the tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["make", "run", "score"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.step == "make":
        make(arguments.folder)
        return
    folders = sorted(p for p in arguments.folder.iterdir() if (p / "train.h5ad").exists())
    if arguments.step == "run":
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, folders))
        return
    folders = [folder for folder in folders if tells(folder)]
    rows = [row for folder in folders for row in score(folder)]
    found = {"signals": rows, "strictness": strictness(folders)}
    arguments.out.write_text(json.dumps(found, indent=0))


if __name__ == "__main__":
    main()
