"""Doublets made of studies that a model never saw, and whether ``--mixtures`` finds them.

Run: ``python benchmarks/doublets.py --models FOLDER --out FILE.json`` (needs the extra ``training``
and ``SCBIGNN_DATA``). Models of one study, and twins of recipes without a study, are trained into
FOLDER unless they are there. A doublet is the sum of the counts of two cells of different types of
one sample; a file holds all cells of a study and a tenth as many doublets. In the view "as deep as
a cell" each doublet keeps a random half of its counts, so that only its genes tell it. The form of
the score, its constants and the bar of a name were chosen on the rows that say so. ``--export
FOLDER`` writes the same files for ``peers/scrublet_doublets.py``. ``--cost FILE.json`` times the
command on 50,000 cells with and without ``--mixtures`` instead.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

import tasks
from adapt import labelled, model_of
from held_out_study import ROOT, twin
from scbignn_infer.annotator import Annotator
from scbignn_training.data import read_study
from scbignn_training.recipe import Source, read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
CHOSEN_ON = (("pbmc3k", "kang"), ("kang", "zheng"), ("baron", "neuca"), ("neuca", "baron"))
PAIRS = (("kang", "pbmc3k"), ("zheng", "pbmc3k"))
TWINS = ("mouse-pancreas", "human-lung-cancer-lines")
FOREIGN = (
    "mouse-pancreas without baron",
    "mouse-pancreas without tabula-muris",
    "human-lung-cancer-lines without cel-seq2",
)
"""Files of a foreign technology or age, on which the power of the misfit was chosen."""
SHIPPED = (
    ("human-body", "liver_aizarani_2019.h5ad"),
    ("mouse-body", "mouse_lung_zilionis_800.h5ad"),
)
"""Models that did not learn from a file."""
UNLABELLED = ("human-pbmc", "pbmc_10studies_UNLABELLED_3000.h5ad", ("SCP424*", "10x_8K*"))
"""A model, a file without labels, and its batches from which no shipped model has learned."""
SEEDS = (0, 1, 2)
SHARE = 0.1
"""Of doublets, relative to the cells."""
VIEWS = ("as they are", "as deep as a cell")
COST_CELLS, COST_RUNS = 50_000, 2


@dataclass(frozen=True)
class Case:
    """A model and the cells of a study that it has not seen."""

    name: str
    bundle: Path
    cells: Study
    samples: Array
    chosen_on: bool = False


def cases(models: Path) -> Iterator[Case]:
    """Yield those on which the score was chosen, then the others."""
    for pairs in (CHOSEN_ON, PAIRS):
        for reference, query in pairs:
            cells, name = tasks.study(query, "cell_type_common"), f"{reference} -> {query}"
            yield case(name, model_of(reference, models), cells, chosen_on=pairs is CHOSEN_ON)
    for recipe_name in TWINS:
        path = ROOT / "training" / "recipes" / f"{recipe_name}.toml"
        recipe = read_recipe(path)
        for source in recipe.reference:
            bundle = twin(path, recipe, source, models)[1]
            name = f"{recipe_name} without {source.called}"
            yield case(name, bundle, labelled(recipe, source), chosen_on=name in FOREIGN)
    for model, file in SHIPPED:
        study = read_study(Source(file=file).locate(), label_key="cell_type")
        name = f"{model} -> {file.split('.')[0]}"
        yield case(name, ROOT / "exported_models" / model, study)
    yield unlabelled_case(*UNLABELLED)


def case(name: str, bundle: Path, cells: Study, *, chosen_on: bool = False) -> Case:
    """Return a case of one sample, without cells that have no label."""
    known = ~np.isin(cells.labels.astype(str), ["", "nan", "other"])
    samples = np.zeros(int(known.sum()), int)
    return Case(name, bundle, tasks.rows(cells, known), samples, chosen_on)


def unlabelled_case(model: str, file: str, batches: tuple[str, ...]) -> Case:
    """Return a case whose types are those that the model calls the cells."""
    path = Source(file=file).locate()
    batch = ad.read_h5ad(path, backed="r").obs["batch"].astype(str).to_numpy()
    kept = np.array([b.startswith(tuple(x.rstrip("*") for x in batches)) for b in batch])
    cells = tasks.rows(read_study(path, label_key=None), kept)
    bundle = ROOT / "exported_models" / model
    found = Annotator.load(bundle, device="cpu", threads=1).annotate_matrix(
        cells.counts, cells.symbols
    )
    cells = replace(cells, labels=found.best_labels)
    return Case(f"{model} -> {' and '.join(batches)}".replace("*", ""), bundle, cells, batch[kept])


def with_doublets(case: Case, seed: int, view: str) -> tuple[sp.csr_matrix, Array]:
    """Return counts of the cells and of doublets, and the two cells (m, 2) of each doublet."""
    rng, n = np.random.default_rng(seed), len(case.cells.labels)
    first, second = rng.integers(0, n, (2, 50 * n))
    labels = case.cells.labels.astype(str)
    usable = (labels[first] != labels[second]) & (case.samples[first] == case.samples[second])
    pairs = np.stack([first, second], axis=1)[usable][: max(int(SHARE * n), 1)]
    counts = sp.csr_matrix(case.cells.counts)
    both = sp.csr_matrix(counts[pairs[:, 0]] + counts[pairs[:, 1]])
    if view == "as deep as a cell":
        both.data = rng.binomial(np.rint(both.data).astype(np.int64), 0.5).astype(both.dtype)
        both.eliminate_zeros()
    return sp.csr_matrix(sp.vstack([counts, both])), pairs


def scores(found: Annotation, truth: list[str], n: int) -> dict[str, Any]:
    """Return how n cells and the doublets after them, whose names are true, are told apart."""
    assert found.mixtures is not None
    score = np.nan_to_num(found.mixtures.score.astype(float), nan=-1e6)
    named, names = found.mixtures.named, found.mixture_names[n:]
    types = set(found.cell_types)
    known = [i for i, t in enumerate(truth) if named[n + i] and set(t.split(" + ")) <= types]
    right = np.mean([names[i] == truth[i] for i in known]) if known else np.nan
    return {
        "auroc": round(float(roc_auc_score(np.arange(len(score)) >= n, score)), 4),
        "cells_named": round(float(named[:n].mean()), 4),
        "doublets_named": round(float(named[n:].mean()), 4),
        "right_name": None if np.isnan(right) else round(float(right), 4),
    }


def rows(case: Case, export: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the scores of one model on one study, by view and seed."""
    annotator = Annotator.load(case.bundle, device="cpu", threads=1)
    rules, n = replace(annotator.rules, mixtures=True), len(case.cells.labels)
    labels = case.cells.labels.astype(str)
    for view in VIEWS:
        for seed in SEEDS:
            counts, pairs = with_doublets(case, seed, view)
            row = {"task": case.name, "chosen_on": case.chosen_on, "view": view, "seed": seed}
            if export is not None:
                name = f"{case.name}--{view}--{seed}".replace(" ", "_").replace(">", "")
                sp.save_npz(export / f"{name}.npz", counts)
                (export / f"{name}.json").write_text(json.dumps(row | {"cells": n}))
            truth = [" + ".join(sorted({labels[a], labels[b]})) for a, b in pairs]
            found = annotator.annotate_matrix(counts, case.cells.symbols, rules=rules)
            yield {**row, "method": "scBiGNN", "cells": n} | scores(found, truth, n)


def cost() -> dict[str, Any]:
    """Return processor seconds of the command on 50,000 cells, without and with mixtures."""
    cells = ad.read_h5ad(Source(file=tasks.FILES["pbmc3k"]).locate())
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(cells.X)[rng.integers(0, cells.n_obs, COST_CELLS)]
    counts.data = rng.binomial(counts.data.astype(np.int64), 0.8).astype(np.float32)
    counts.eliminate_zeros()
    program = [sys.executable, "-c", "from scbignn_infer.cli import main; main()", "annotate"]
    found: dict[str, Any] = {"cells": COST_CELLS, "without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder:
        query, output = Path(folder) / "cells.h5ad", Path(folder) / "labels.csv"
        ad.AnnData(counts, var=cells.var[[]]).write_h5ad(query)
        for _ in range(COST_RUNS):
            for name, more in (("without", []), ("with", ["--mixtures"])):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                options = ["-m", "human-pbmc", "-o", str(output), "--overwrite", "-q", *more]
                subprocess.run([*program, str(query), *options, "--threads", "1"], check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                found[name].append(round(used, 2))
    return found


def main() -> None:
    """Write a JSON list of scores, or the cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="folder of the models")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--export", type=Path, help="folder for the files, for peers")
    parser.add_argument("--cost", type=Path, help="time the command instead, into this file")
    arguments = parser.parse_args()
    if arguments.cost is not None:
        arguments.cost.write_text(json.dumps(cost(), indent=0) + "\n")
        return
    if arguments.export is not None:
        arguments.export.mkdir(parents=True, exist_ok=True)
    done = []
    for one in cases(arguments.models):
        for row in rows(one, arguments.export):
            print(row, flush=True)
            done.append(row)
    arguments.out.write_text("[\n" + ",\n".join(map(json.dumps, done)) + "\n]\n")


if __name__ == "__main__":
    main()
