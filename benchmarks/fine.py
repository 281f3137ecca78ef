"""Many types of few cells: models with the usual steps and with those of a fine reference.

Run: ``python benchmarks/fine.py --seeds 0,1 --out FILE.json`` (needs the extra ``training`` and
``SCBIGNN_DATA``). Each type of a study keeps 9 to 60 cells, drawn anew with each seed; the model
learns from two thirds of them and is scored on the others. ``organs`` are the types of eleven
mouse organs, told by organ (68 types, Smart-seq2), ``blood`` is of six studies (20 types, 10x), and
``sorted`` are ten populations of one study, which is no fine reference. In ``blood, new studies``
half of the studies are learned from and the others scored.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from accuracy import SIMPLE, baselines, score, summarise, variants
from scbignn_training.data import join, read_study
from scbignn_training.recipe import Source
from scbignn_training.settings import Settings
from scbignn_training.sizes import suited
from scbignn_training.train import fit_start
from tasks import FILES, Task
from tasks import rows as rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
BLOOD, ORGANS = "pbmc_6studies_sccomp.h5ad", "mouse_tabula_muris_facs_organs.h5ad"
FEWEST, MOST = 9, 60
"""Cells of a type."""
LEAST = 9
"""Smaller types are left out: a model of two thirds takes types of five cells or more."""
METHODS = ("scBiGNN", "gene level", "network alone", "discriminant head alone")
BASELINES = {k: v for k, v in SIMPLE.items() if k != "kNN"}


def columns(file: str, *keys: str) -> tuple[Study, list[Array]]:
    """Return a study and columns of its cells."""
    path = Source(file=file).locate()
    return read_study(path), [read_study(path, label_key=key).labels for key in keys]


def studies() -> Iterator[tuple[str, Study, Array | None]]:
    """Yield name and cells of each study, and which half a cell is of where halves are scored."""
    study, (label, tissue) = columns(ORGANS, "cell_type", "tissue")
    both = np.array([f"{t}: {x}" for t, x in zip(tissue, label, strict=True)], dtype=object)
    yield "organs", replace(study, labels=both), None
    study, (label, origin) = columns(BLOOD, "cell_type", "study")
    study = replace(study, labels=label)
    yield "blood", study, None
    yield "blood, new studies", study, np.char.startswith(origin.astype(str), "SCP")
    study, (label,) = columns(FILES["zheng"], "cell_type")
    yield "sorted", replace(study, labels=label), None


def few(study: Study, seed: int) -> Array:
    """Return rows of 9 to 60 cells of each type that has enough."""
    rng, kept = np.random.default_rng(seed), []
    for label in np.unique(study.labels.astype(str)):
        rows = rng.permutation(np.flatnonzero(study.labels == label))
        wanted = int(np.exp(rng.uniform(np.log(FEWEST), np.log(MOST))))
        if len(rows) >= LEAST:
            kept.append(rows[:wanted])
    return np.sort(np.concatenate(kept))


def halves(study: Study, half: Array, seed: int) -> Iterator[Task]:
    """Yield tasks of one half of the studies each, few cells of each type, and the other half."""
    for i in (0, 1):
        inside, outside = (np.flatnonzero(half == side) for side in (bool(i), not i))
        reference = rows_of(study, inside)
        reference = rows_of(reference, few(reference, seed))
        known = np.isin(study.labels[outside].astype(str), reference.labels.astype(str))
        yield Task(f"blood, new studies #{i}", reference, rows_of(study, outside[known]))


def thirds(name: str, study: Study, seed: int) -> Iterator[Task]:
    """Yield tasks of two thirds of few cells of each type, and the other third."""
    study = rows_of(study, few(study, seed))
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    for i, (inside, outside) in enumerate(folds.split(study.labels, study.labels.astype(str))):
        yield Task(f"{name} #{i}", rows_of(study, inside), rows_of(study, outside))


def main() -> None:
    """Score all methods on all tasks and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default="", help="names of studies, with semicolons")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, study, half in studies():
        if arguments.only and name not in arguments.only.split(";"):
            continue
        for seed in map(int, arguments.seeds.split(",")):
            todo = thirds(name, study, seed) if half is None else halves(study, half, seed)
            for task in todo:
                about = {"task": task.name, "seed": seed, "view": "all"}
                reference = join([task.reference])
                usual = msgspec.structs.replace(Settings(), seed=seed)
                for steps, settings in (("", suited(usual, reference)), (", usual steps", usual)):
                    start = fit_start(reference, [], settings)
                    found = variants(start.reference, start.pair, task.query, settings)
                    for method in METHODS:
                        scores = score(task.query.labels, found[method])
                        rows.append({**about, "method": method + steps, **scores})
                for method, said in baselines(task, task.query, BASELINES).items():
                    rows.append({**about, "method": method, **score(task.query.labels, said)})
                arguments.out.write_text(json.dumps(rows, indent=0))
        print(
            name, summarise([r for r in rows if r["task"].startswith(name)]), sep="\n", flush=True
        )


if __name__ == "__main__":
    main()
