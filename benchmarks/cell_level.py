"""What each part of the cell level is worth, on the same gene levels.

Run: ``python benchmarks/cell_level.py --seeds 0,1,2 --out FILE.json`` (needs the extra
``training`` and ``SCBIGNN_DATA``). For each task and seed both levels are trained on the reference;
then the cell level is trained anew in each form, on the same out-of-fold graphs, and scored on the
same query. The gain is macro-F1 of the pair minus that of its gene level.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import accuracy
import tasks
from scbignn_training import cell_level, em, gate
from scbignn_training.cell_level import CellGraph, CellLevel, shield_of
from scbignn_training.data import Study, join, read_study, unlabelled_cells
from scbignn_training.settings import Settings
from scbignn_training.train import fit_start

FORMS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "without reciprocity": {"reciprocity": -20.0},
    "without shield": {"shield": (-1.0, 0.0)},
    "without noise": {"logit_noise": 0.0},
    "one layer": {"cell_layers": 1},
    "three layers": {"cell_layers": 3},
    "all of the cell level (share 1)": {"cell_share": 1.0},
}


def train(graphs: list[CellGraph], form: dict[str, Any], base: Settings) -> CellLevel:
    """Train the cell level in one form."""
    form = dict(form)
    gate.RECIPROCITY = form.pop("reciprocity", 4.0)
    settings = msgspec.structs.replace(base, **form)
    shield = shield_of(graphs, settings)
    return cell_level.fit_cell_level(graphs, shield, settings, share=settings.cell_share)


def run(task: tasks.Task, seed: int, foreign: list[Study]) -> list[accuracy.Row]:
    """Score every form on one task, at EM iteration 0 and after EM where there are cells for it."""
    settings = Settings(seed=seed)
    reference = join([task.reference], min_cells=tasks.MIN_REFERENCE_CELLS)
    start = fit_start(reference, foreign, settings)
    m = len(start.labelled.present)
    query = unlabelled_cells(start.reference, [task.query], m, min(settings.net_genes, m))
    assert query is not None
    truth = task.query.labels.astype(str)
    names = np.array(start.reference.cell_types)
    rows = []
    for i, pair in enumerate(start.iterate(settings, settings.em_iterations if foreign else 0)):
        graph = em.run_gene_level(pair.gene, query, settings)
        base = accuracy.score(truth, names[graph.gene_logits.argmax(1).numpy()])["macro_f1"]
        for form, changes in FORMS.items() if i != 1 else ():
            level = train(start.crossfit.graphs, changes, settings)
            with torch.no_grad():
                labels = names[level(graph.gene_logits, graph).argmax(1).numpy()]
            found = accuracy.score(truth, labels)
            row = {"task": task.name, "seed": seed, "iteration": i, "form": form, **found}
            rows.append(row | {"gain": round(found["macro_f1"] - base, 5)})
    return rows


def main() -> None:
    """Run all tasks, write the rows and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = tasks.UNLABELLED
    foreign = [read_study(source.locate(), exclude=source.exclude)]
    rows: list[accuracy.Row] = []
    for seed in map(int, arguments.seeds.split(",")):
        for pair in tasks.PAIRS:
            rows += run(tasks.pair(*pair), seed, foreign if pair in tasks.PBMC_PAIRS else [])
        for fold in tasks.FOLDS:
            rows += run(tasks.fold(*fold), seed, [])
        arguments.out.write_text(json.dumps(rows, indent=0))
    groups = {
        "pairs": [r for r in rows if "->" in r["task"] and r["iteration"] == 0],
        "after EM": [r for r in rows if r["iteration"] > 0],
        "folds": [r for r in rows if "#" in r["task"]],
    }
    for form in FORMS:
        cells = [form]
        for name, members in groups.items():
            tasks_of = sorted({r["task"] for r in members})
            gains = [
                np.mean([r["gain"] for r in members if r["task"] == t and r["form"] == form])
                for t in tasks_of
            ]
            cells.append(f"{name} {np.mean(gains):+.4f} (worst {min(gains):+.3f})")
        print(" | ".join(cells))


if __name__ == "__main__":
    main()
