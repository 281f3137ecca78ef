"""Accuracy on studies that a model never saw, with ablations and baselines.

Run: ``python benchmarks/accuracy.py SUITE --seeds 0,1,2 --out FILE.json`` (needs the extra
``training`` and ``SCBIGNN_DATA``). Every row of the JSON list is one method on one task with one
seed. ``--set NAME=VALUE`` changes a setting of the models. The suites:

- ``pairs``, ``panels``, ``folds``: models of one study on another, with cuts of its genes, and on
  folds of the same study;
- ``em``: every iteration of EM on unlabelled cells of other studies, and its ``CONTROLS``;
- ``paper``: five folds within a study, whose test cells are the unlabelled ones of EM, as in the
  paper;
- ``rare``: what ``min_cells`` costs and gains.

Nothing is chosen on a query: blend, temperature and EM iteration come from the reference alone.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import scipy.sparse as sp
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import tasks
from scbignn_infer.network.panel import Densifier
from scbignn_infer.query.gene_match import ModelGenes, match_genes
from scbignn_training.cell_level import make_graph
from scbignn_training.data import join, rank_genes, read_study
from scbignn_training.gene_level import Panel
from scbignn_training.settings import Settings
from scbignn_training.train import fit, fit_start

if TYPE_CHECKING:
    from collections.abc import Callable

    from scbignn_training.data import Reference, Study
    from scbignn_training.em import Pair
    from scbignn_training.train import Model

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
CONTROLS: dict[str, dict[str, Any]] = {
    "": {},
    "alpha0": {"pseudo_weight_gene": 0, "pseudo_weight_cell": 0, "pseudo_confidence": 1},
    "self": {"teacher": "gene"},
}
"""EM and what it is measured against: ``alpha0`` trains on for as long as EM does, without any use
of the unlabelled cells; in ``self`` the gene level is its own teacher."""
SUITES = ("pairs", "panels", "folds", "em", "paper", "rare")
LEAST_CELLS = (10, 5, 3)
"""Of a type, in ``rare``."""
MANY = 10
"""Training cells that a type has in the score of types with many."""
CUT_METHODS = ("scBiGNN", "gene level", "discriminant head alone")
"""What is scored on cuts of the query's genes."""


def score(truth: Array, predicted: Array) -> dict[str, float]:
    """Return accuracy and macro-F1 over the types of the truth."""
    truth, predicted = truth.astype(str), predicted.astype(str)
    f1 = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    return {"accuracy": round(accuracy_score(truth, predicted), 5), "macro_f1": round(f1, 5)}


@torch.no_grad()
def variants(
    reference: Reference, pair: Pair, query: Study, settings: Settings
) -> dict[str, Array]:
    """Return the labels of each part of a model and of the whole."""
    m = len(pair.gene.statistics["gene_mean"])
    match = match_genes(
        {"symbol": query.symbols},
        ModelGenes(reference.symbols, [], species="", weight=np.ones(min(settings.net_genes, m))),
    )
    densify = Densifier.make(match.reference_index, reference.gene_share, np.arange(m), "counts")
    counts, totals = densify(query.counts)
    panel = Panel(pair.gene, match.present, settings.panel_genes)
    z, *parts = panel.run(sp.csr_matrix(counts), totals[:, 0], "parts")
    net, discriminant, logistic = parts
    logits = panel.run(sp.csr_matrix(counts), totals[:, 0])[1]
    graph = make_graph(z, logits, torch.zeros_like(logits), settings)
    found = {
        "scBiGNN": pair.cell(logits, graph),
        "gene level": logits,
        "network alone": net,
        "discriminant head alone": discriminant,
        "logistic head alone": logistic,
        "network + discriminant": net + 0.5 * discriminant,
        "network + logistic": net + 0.35 * logistic,
        "discriminant + logistic": 0.5 * discriminant + 0.35 * logistic,
        "cell level, share 1": pair.cell.undivided(logits, graph),
        "teacher": pair.teacher(logits, graph),
    }
    names = np.array(reference.cell_types)
    return {name: names[values.argmax(1).numpy()] for name, values in found.items()}


def ours(task: tasks.Task, seed: int, settings: Settings) -> Model:
    """Train on the reference of a task."""
    settings = msgspec.structs.replace(settings, seed=seed)
    reference = join([task.reference], min_cells=tasks.MIN_REFERENCE_CELLS)
    return fit(reference, [], settings)


def log1p_cp10k(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Scale each cell to 10,000 and take log1p."""
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return sp.csr_matrix(sp.diags_array(1e4 / totals) @ counts).log1p()


def baselines(task: tasks.Task, query: Study, methods: dict[str, Any]) -> dict[str, Array]:
    """Fit scikit-learn classifiers on the 1,000 best genes that the query has too."""
    column = {s: i for i, s in enumerate(query.symbols)}
    shared = [i for i, s in enumerate(task.reference.symbols) if s in column]
    known = task.reference.counts[:, shared]
    types, codes = np.unique(task.reference.labels.astype(str), return_inverse=True)
    totals = np.asarray(known.sum(axis=1)).ravel()
    ranked = rank_genes(known, totals, codes, 1000)
    order = [column[task.reference.symbols[shared[i]]] for i in ranked]
    x = log1p_cp10k(known)[:, ranked].toarray()
    unseen = log1p_cp10k(query.counts)[:, order].toarray()
    found = {}
    for name, classifier in methods.items():
        model = make_pipeline(StandardScaler(), classifier).fit(x, types[codes])
        found[name] = model.predict(unseen)
    return found


SIMPLE = {
    "logistic regression, C = 1": LogisticRegression(C=1.0, max_iter=500),
    "logistic regression, C = 0.01": LogisticRegression(C=0.01, max_iter=500),
    "linear SVC": LinearSVC(C=0.01, max_iter=5000),
    "kNN": KNeighborsClassifier(15, metric="cosine"),
}


def run(
    todo: list[tasks.Task],
    seeds: list[int],
    settings: Settings,
    add: Callable[[Row], None],
    *,
    cuts: bool,
    simple: bool,
) -> None:
    """Score every method on every task, and on cuts of the query's genes if asked."""
    for task in todo:
        views = [("all", task.query), *(tasks.panels(task) if cuts else [])]
        truth = task.query.labels
        for seed in seeds:
            start = time.perf_counter()
            model = ours(task, seed, settings)
            about = {"task": task.name, "seed": seed}
            about |= {"seconds": round(time.perf_counter() - start, 1)}
            for view, query in views:
                found = variants(model.reference, model.pair, query, settings)
                for method, labels in found.items():
                    if view == "all" or method in CUT_METHODS:
                        add({**about, "view": view, "method": method, **score(truth, labels)})
        for view, query in views if simple else []:
            methods = {k: v for k, v in SIMPLE.items() if view == "all" or k.endswith("0.01")}
            about = {"task": task.name, "seed": 0, "view": view}
            for method, labels in baselines(task, query, methods).items():
                add({**about, "method": method, **score(truth, labels)})


def run_em(
    todo: list[tasks.Task],
    seeds: list[int],
    settings: Settings,
    foreign: list[Study],
    add: Callable[[Row], None],
) -> None:
    """Score every EM iteration and those of the controls, all from one start."""
    for task in todo:
        reference = join([task.reference], min_cells=tasks.MIN_REFERENCE_CELLS)
        for seed in seeds:
            chosen = msgspec.structs.replace(settings, seed=seed)
            start = fit_start(reference, foreign, chosen)
            for control, changes in CONTROLS.items():
                how = msgspec.structs.replace(chosen, **changes)
                for i, pair in enumerate(start.iterate(how, how.em_iterations)):
                    if control and i == 0:
                        continue  # the start is the same for all
                    found = variants(start.reference, pair, task.query, how)
                    for method in ("scBiGNN", "gene level"):
                        row = {"task": task.name, "seed": seed, "view": "all", "method": method}
                        row |= {"control": control, "iteration": i}
                        add(row | score(task.query.labels, found[method]))


def run_paper(seeds: list[int], settings: Settings, add: Callable[[Row], None]) -> None:
    """Score every EM iteration on the cells that it had without labels."""
    for number, study, seed in product(range(5), tasks.PAPER, seeds):
        task = tasks.fold(study, number)
        chosen = msgspec.structs.replace(settings, seed=seed)
        reference = join([task.reference], min_cells=tasks.MIN_REFERENCE_CELLS)
        start = fit_start(reference, [task.query], chosen)
        for i, pair in enumerate(start.iterate(chosen, chosen.em_iterations)):
            found = variants(start.reference, pair, task.query, chosen)
            for method in ("scBiGNN", "gene level", "network alone"):
                row = {"task": task.name, "seed": seed, "view": "all", "method": method}
                add(row | {"iteration": i} | score(task.query.labels, found[method]))


def run_rare(seeds: list[int], settings: Settings, add: Callable[[Row], None]) -> None:
    """Score models with more and with fewer small types, on all types and on those with many."""
    for study, number, seed in product(tasks.RARE, (0, 1), seeds):
        task = tasks.fold(study, number)
        truth = task.query.labels.astype(str)
        names, n = np.unique(task.reference.labels.astype(str), return_counts=True)
        many = np.isin(truth, names[n >= MANY])
        for least in LEAST_CELLS:
            reference = join([task.reference], min_cells=least)
            model = fit(reference, [], msgspec.structs.replace(settings, seed=seed))
            found = variants(model.reference, model.pair, task.query, settings)["scBiGNN"]
            row = {"task": task.name, "seed": seed, "view": "all", "method": "scBiGNN"}
            row |= {"min_cells": least, "types": len(reference.cell_types)}
            row |= {f"{k}_many": v for k, v in score(truth[many], found[many]).items()}
            add(row | score(truth, found))


def summarise(rows: list[Row]) -> str:
    """Return a table: mean over tasks of each method, and its spread over seeds."""
    lines = []
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        seeds = sorted({r["seed"] for r in mine})
        by_seed = [
            np.mean([[r["accuracy"], r["macro_f1"]] for r in mine if r["seed"] == s], axis=0)
            for s in seeds
        ]
        accuracy, f1 = np.mean(by_seed, axis=0)
        lines.append(
            f"{method:32s} accuracy {accuracy:.4f}  macro-F1 {f1:.4f} "
            f"+- {np.std([b[1] for b in by_seed]):.4f}  ({len(seeds)} seeds)"
        )
    return "\n".join(lines)


def main() -> None:
    """Run one suite and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--no-simple", action="store_true", help="leave out scikit-learn")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    changed = dict(item.split("=", 1) for item in arguments.set)
    settings = msgspec.convert(
        {k: json.loads(v) for k, v in changed.items()}, type=Settings, strict=False
    )
    seeds = [int(s) for s in arguments.seeds.split(",")]
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        arguments.out.write_text(json.dumps(rows, indent=0))

    if arguments.suite in ("paper", "rare"):
        {"paper": run_paper, "rare": run_rare}[arguments.suite](seeds, settings, add)
        return
    if arguments.suite == "em":
        source = tasks.UNLABELLED
        foreign = [read_study(source.locate(), exclude=source.exclude)]
        run_em([tasks.pair(*p) for p in tasks.PBMC_PAIRS], seeds, settings, foreign, add)
        return
    folds = [tasks.fold(*f) for f in tasks.FOLDS] if arguments.suite == "folds" else []
    todo = folds or [tasks.pair(*p) for p in tasks.PAIRS]
    cuts = arguments.suite == "panels"
    run(todo, seeds, settings, add, cuts=cuts, simple=not arguments.no_simple)
    print(summarise(rows))


if __name__ == "__main__":
    main()
