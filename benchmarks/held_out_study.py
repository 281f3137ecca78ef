"""Recipes on studies that their models never saw, beside logistic regressions on the same cells.

Run: ``python benchmarks/held_out_study.py --models FOLDER --out FILE.json`` (needs the extra
``training`` and ``SCBIGNN_DATA``). For each recipe of several studies a twin is trained without
each of them, unless FOLDER holds it already. Scored are the cells whose type the model knows, by
the labels that the files of one kind share: a finer call of the model is right if it is below the
file's label in the recipe's groups. ``--recipe NAME`` or ``NAME:STUDY`` (repeatable) takes some
alone. ``--export FOLDER`` writes the same cells for ``peers.celltypist``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tasks
from accuracy import SIMPLE, baselines, score
from peers.export_tasks import export
from scbignn_infer.annotator import Annotator
from scbignn_training.data import Study, read_study
from scbignn_training.recipe import Source, read_recipe
from scbignn_training.train import read_reference
from shelf import common_labels, common_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scbignn_training.recipe import Recipe

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parents[1]
OTHERS = {"human-pancreas": (Source(file="pancreas_enge_2017.h5ad", name="enge", study="enge"),)}
"""Files that score a model beside its own, by a twin without the profiles of that study."""
REGRESSIONS = {name: SIMPLE[name] for name in SIMPLE if name.startswith("logistic regression")}


def twin(path: Path, recipe: Recipe, source: Source, models: Path) -> tuple[Recipe, Path]:
    """Return the recipe without a study, and its bundle, trained where there is none."""
    twin = recipe.without(source.of)
    if not (models / twin.name).exists():
        command = ["train", "--recipe", str(path), "--leave-out", source.of, "--threads", "1"]
        program = "from scbignn_infer.cli import main; main()"
        subprocess.run([sys.executable, "-c", program, *command, "-o", str(models)], check=True)
    return twin, models / twin.name


def cases(models: Path, names: Sequence[str] = ()) -> Iterator[tuple[Recipe, Path, Source]]:
    """Yield recipes, their bundles, and the file that each is scored on."""
    for path in sorted((ROOT / "training" / "recipes").glob("*.toml")):
        recipe = read_recipe(path)
        sources = (*recipe.reference, *OTHERS.get(recipe.name, ()))
        for source in sources if len(recipe.reference) > 1 else ():
            called = recipe.name, f"{recipe.name}:{source.called}"
            if not names or not set(called).isdisjoint(names):
                yield *twin(path, recipe, source, models), source


def as_task(recipe: Recipe, source: Source) -> tasks.Task:
    """Return the cells that a model learns from, and those of known types that score it."""
    known = read_reference(recipe)
    truth = common_labels(recipe, source)
    names = common_names(recipe, known.cell_types, set(truth))
    labels = names[known.codes]
    reference = Study(Path(), known.counts, known.symbols, known.ensembl_ids, labels)
    query = read_study(source.locate(), exclude=source.exclude)
    query = Study(query.path, query.counts, query.symbols, query.ensembl_ids, truth)
    name = f"{recipe.name.split('-without-')[0]}: {source.called}"
    return tasks.Task(name, reference, query)


def main() -> None:
    """Write a JSON list with the scores of each method on each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of the twins")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", action="append", default=[], help="NAME or NAME:STUDY")
    parser.add_argument("--export", type=Path, help="folder for the cells, for peers")
    arguments = parser.parse_args()
    rows = []
    chosen = cases(arguments.models, arguments.recipe)
    for i, (recipe, bundle, source) in enumerate(chosen):
        task = as_task(recipe, source)
        query, truth = task.query, set(task.query.labels)
        found = Annotator.load(bundle, device="cpu", threads=1).annotate_matrix(
            query.counts, query.symbols
        )
        names = common_names(recipe, found.cell_types, truth)
        common = dict(zip(found.cell_types, names, strict=True))
        scored = np.isin(query.labels.astype(str), names.astype(str))
        task = tasks.Task(task.name, task.reference, tasks.rows(query, scored))
        labels = {
            "scBiGNN": np.array([common[x] for x in found.best_labels[scored]], object),
            "gene level": np.array([common[x] for x in found.gene_level_labels[scored]], object),
            **baselines(task, task.query, REGRESSIONS),
        }
        for method, called in labels.items():
            row = {"task": task.name, "view": "all", "method": method, "seed": 0}
            rows.append(row | {"cells": int(scored.sum())} | score(task.query.labels, called))
            print(rows[-1], flush=True)
        if arguments.export:
            arguments.export.mkdir(parents=True, exist_ok=True)
            export(task, arguments.export / f"held_out_{i}.npz", cuts=False)
    arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
