"""EM on the query, ``--adapt``: what it mends, what it harms, and what teaches best.

Run: ``python benchmarks/adapt.py --models FOLDER --out FILE.json`` (needs the extra ``training``
and ``SCBIGNN_DATA``). Models of one study, and twins of recipes without a study, are trained into
FOLDER unless they are there. Every row is one method on one query, whole or without the cells of
types that the model has not seen; scores are of the types that it knows. Pairs of studies and the
mouse twins run with all ``--seeds``, whose models lie in FOLDER/seed-N, the others with the first.
A run that was killed goes on where it was.
``--few`` scores samples of four pairs instead, without the rule that few cells are left alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from itertools import chain, product, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
from sklearn.metrics import f1_score

import tasks
from accuracy import score
from held_out_study import ROOT, twin
from scbignn_infer.annotation.adapt import Adaptation
from scbignn_infer.annotator import Annotator
from scbignn_training.data import read_study
from scbignn_training.recipe import Source, read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_training.data import Study
    from scbignn_training.recipe import Recipe

Array = np.ndarray[Any, Any]
PAIRS = (*tasks.PAIRS, ("zheng", "kang"))
TWINS = {
    "mouse-pancreas": ("baron", "bastidas"),
    "human-pbmc": ("kang", "pbmc3k", "zheng", "scp", "sra"),
    "human-pancreas": ("baron", "baron-others", "segerstolpe"),
    "human-lung-cancer-lines": ("cel-seq2", "drop-seq"),
}
LEFT_OUT = (
    ("kang", "CD14 Mono", "pbmc3k"),
    ("zheng", "NK", "pbmc3k"),
    ("baron", "alpha", "neuca"),
)
"""A frequent type that the model of a study is not taught, and a query that has it."""
METHODS = {
    "without": None,
    "adapt": Adaptation(),
    "one step": Adaptation(steps=1),
    "means alone": Adaptation(varies=False),
    "one step, means alone": Adaptation(steps=1, varies=False),
    "shift only": Adaptation(share=2.0),
    "small types follow": Adaptation(few=0),
    "gene level teaches itself": Adaptation(teacher="gene"),
}
FEW_PAIRS = (("kang", "pbmc3k"), ("pbmc3k", "kang"), ("zheng", "pbmc3k"), ("baron", "neuca"))
FEW, DRAWS = (30, 60, 100, 150, 200, 300, 500), 4
LEAST = 10
"""Cells that a type must have to be the worst."""


def model_of(study: str, models: Path, left_out: str = "", seed: int = 0) -> Path:
    """Return the bundle of one study, maybe without a type, trained where there is none."""
    name = f"{study}-without-{left_out}".replace(" ", "-") if left_out else study
    if not (models / name).exists():
        file = Source(file=tasks.FILES[study]).locate()
        if left_out:
            cells = ad.read_h5ad(file)
            file = models / f"{name}.h5ad"
            cells[(cells.obs["cell_type_common"] != left_out).to_numpy()].write_h5ad(file)
        command = ["train", str(file), "--label-key", "cell_type_common", "--name", name]
        options = ["--min-cells", "3", "--threads", "1", "-o", str(models), "--seed", str(seed)]
        program = "from scbignn_infer.cli import main; main()"
        subprocess.run([sys.executable, "-c", program, *command, *options], check=True)
    return models / name


def labelled(recipe: Recipe, source: Source) -> Study:
    """Return the cells of a file, with the labels of a recipe."""
    cells = read_study(source.locate(), label_key=recipe.label_key, exclude=source.exclude)
    truth = np.array([recipe.merge.get(x, x) for x in cells.labels], object)
    return replace(cells, labels=truth)


def seeded(name: str, models: Path, seed: int) -> Path:
    """Return the recipe of a model with another seed, in the folder of its twins."""
    path = ROOT / "training" / "recipes" / f"{name}.toml"
    if seed == 0:
        return path
    models.mkdir(parents=True, exist_ok=True)
    copy = models / path.name
    copy.write_text(f"{path.read_text()}\n[settings]\nseed = {seed}\n")
    return copy


def twins_of(name: str, models: Path, seed: int = 0) -> Iterator[tuple[str, Path, Study]]:
    """Yield names, bundles and queries of a recipe without each of some studies."""
    path = seeded(name, models, seed)
    recipe = read_recipe(path)
    for source in (s for s in recipe.reference if s.called in TWINS[name]):
        bundle = twin(path, recipe, source, models)[1]
        yield f"{name} without {source.called}", bundle, labelled(recipe, source)


def seeded_cases(models: Path, seed: int) -> Iterator[tuple[str, Path, Study]]:
    """Yield names, bundles and queries: pairs of studies, and mouse both ways."""
    folder = models / f"seed-{seed}" if seed else models
    for reference, query in PAIRS:
        cells = tasks.study(query, "cell_type_common")
        yield f"{reference} -> {query}", model_of(reference, folder, seed=seed), cells
    yield from twins_of("mouse-pancreas", folder, seed)


def all_seeds(models: Path, seeds: list[int]) -> Iterator[tuple[int, tuple[str, Path, Study]]]:
    """Yield the seeds, and the cases of each."""
    for seed in seeds:
        yield from zip(repeat(seed), seeded_cases(models, seed))


def cases(models: Path) -> Iterator[tuple[str, Path, Study]]:
    """Yield names, bundles and queries: models without a type, and twins of shipped recipes."""
    for reference, left_out, query in LEFT_OUT:
        cells = tasks.study(query, "cell_type_common")
        bundle = model_of(reference, models, left_out)
        yield f"{reference} without {left_out} -> {query}", bundle, cells
    for name in list(TWINS)[1:]:
        yield from twins_of(name, models)


def scores(found: Annotation, truth: Array) -> dict[str, Any]:
    """Return scores of known types, and how many cells of unseen ones keep a label."""
    known = np.isin(truth, found.cell_types)
    names, n = np.unique(truth[known], return_counts=True)
    best, labels = found.best_labels.astype(str), found.labels.astype(str)
    called, right = labels != "unknown", labels == truth
    f1 = f1_score(truth[known], best[known], labels=names, average=None, zero_division=0)
    adapted = found.provenance.adapted
    return {
        **score(truth[known], best[known]),
        "unknown": round(float(1 - called[known].mean()), 4),
        "precision": round(float(right[known & called].mean()), 4) if called.any() else None,
        "unseen_kept": round(float(called[~known].mean()), 4) if (~known).any() else None,
        "f1": {str(k): [round(float(v), 4), int(m)] for k, v, m in zip(names, f1, n, strict=True)},
        "said": adapted.said if adapted else "",
    }


def few_cells(models: Path) -> list[dict[str, Any]]:
    """Return what a step changes on samples of a query, however few cells are trusted."""
    rows = []
    for reference, query in FEW_PAIRS:
        annotator = Annotator.load(model_of(reference, models), device="cpu", threads=1)
        annotator.adaptation = Adaptation(enough=1)
        cells = tasks.pair(reference, query).query
        for n, seed in product(FEW, range(DRAWS)):
            chosen = np.random.default_rng(seed).permutation(len(cells.labels))[:n]
            some = tasks.rows(cells, np.sort(chosen))
            truth, gains = some.labels.astype(str), []
            for adapt in (False, True):
                rules = replace(annotator.rules, adapt=adapt)
                found = annotator.annotate_matrix(some.counts, some.symbols, rules=rules)
                gains.append(score(truth, found.best_labels))
            adapted = found.provenance.adapted
            row = {"task": f"{reference} -> {query}", "cells": n, "seed": seed}
            row["trusted"] = adapted.cells if adapted else 0
            rows.append(row | {k: round(gains[1][k] - v, 5) for k, v in gains[0].items()})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a JSON list, a line for each row."""
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def main() -> None:
    """Write a JSON list of scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of the models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--few", action="store_true", help="score samples of few cells instead")
    parser.add_argument("--seeds", default="0,1,2", help="of the models")
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    there = {(r["seed"], r["task"]) for r in rows if "seed" in r}
    if arguments.few:
        write(arguments.out, few_cells(arguments.models))
        return
    seeds = [int(s) for s in arguments.seeds.split(",")]
    todo = chain(all_seeds(arguments.models, seeds), zip(repeat(seeds[0]), cases(arguments.models)))
    for seed, (name, bundle, cells) in todo:
        if (seed, name) in there:
            continue
        annotator = Annotator.load(bundle, device="cpu", threads=1)
        inside = np.isin(cells.labels.astype(str), annotator.bundle.cell_types)
        views = {"known types": inside, "all cells": np.ones(len(inside), dtype=bool)}
        for view, kept in list(views.items())[: 1 if inside.all() else 2]:
            query = tasks.rows(cells, kept)
            for method, how in list(METHODS.items())[: None if seed == seeds[0] else 2]:
                annotator.adaptation = how or Adaptation()
                rules = replace(annotator.rules, adapt=how is not None)
                found = annotator.annotate_matrix(query.counts, query.symbols, rules=rules)
                row = {"task": name, "seed": seed, "view": view, "method": method}
                row["cells"] = len(found)
                rows.append(row | scores(found, query.labels.astype(str)))
        write(arguments.out, rows)
    print(summarise(rows))


def summarise(rows: list[dict[str, Any]]) -> str:
    """Return a line for each method on each query, against the same model without it."""
    lines = []
    before = {(r["task"], r["view"], r["seed"]): r for r in rows if r["method"] == "without"}
    for r in rows:
        old = before[r["task"], r["view"], r["seed"]]
        changes = [(r["f1"][k][0] - v, k, n) for k, (v, n) in old["f1"].items() if n >= LEAST]
        worst = min(changes)
        lines.append(
            f"{r['task']:32s} {r['view']:12s} {r['method']:26s} "
            f"macro-F1 {old['macro_f1']:.4f} {r['macro_f1'] - old['macro_f1']:+.4f}  "
            f"accuracy {r['accuracy']:.3f}  unknown {r['unknown']:.2f}  "
            f"precision {r['precision']}  unseen kept {r['unseen_kept']}  "
            f"worst type {worst[0]:+.3f} {worst[1]} ({worst[2]})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
