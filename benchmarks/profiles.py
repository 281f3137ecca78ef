"""Models from averages alone, beside twins trained on the cells and a naive classifier.

Run: ``python benchmarks/profiles.py --seeds 0 --out FILE.json`` (needs the extra ``training`` and
``SCBIGNN_DATA``). Of each cross-study pair the reference is reduced to the mean expression of its
types; the model learns from cells simulated from these means. ``open`` are other studies, on which
the simulation was chosen.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

import tasks
from accuracy import score, summarise, variants
from scbignn_training.data import join, read_study
from scbignn_training.profiles import ProfileSet
from scbignn_training.recipe import Source
from scbignn_training.settings import Settings
from scbignn_training.simulate import Simulation, simulate
from scbignn_training.train import fit_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
MARKERS, SIZE, PSEUDO = 200, 0.3, 5e-6
"""Of the naive classifier: genes, size of the negative binomial, least expression."""

METHODS = ("scBiGNN", "gene level", "network alone", "discriminant head alone")


def averages(study: Study) -> ProfileSet:
    """Return the mean expression of each type of a study: the share of its counts on each gene."""
    labels = study.labels.astype(str)
    types = np.unique(labels)
    sums = np.stack([np.asarray(study.counts[labels == t].sum(axis=0)).ravel() for t in types])
    seen = np.asarray(sums.any(axis=0))
    means = sums[:, seen].astype(np.float64)
    nothing = np.full(len(types), "", object)
    return ProfileSet(
        study.path,
        study.path.stem,
        means / means.sum(axis=1, keepdims=True),
        [s for s, kept in zip(study.symbols, seen, strict=True) if kept],
        types.astype(object),
        nothing,
        nothing,
        np.array([(labels == t).sum() for t in types]),
    )


def markers(means: Array) -> Array:
    """Rank genes by the best of their types: sqrt(p) x log-ratio to the next or to the rest."""
    log = np.log(means + PSEUDO)
    rank = np.full(means.shape[1], 1e9)
    for c in range(len(means)):
        others = np.delete(log, c, axis=0)
        for rest in (others.max(axis=0), others.mean(axis=0)):
            value = -np.sqrt(means[c] + PSEUDO) * (log[c] - rest)
            rank = np.minimum(rank, np.argsort(np.argsort(value, kind="stable"), kind="stable"))
    best: Array = np.argsort(rank, kind="stable")
    return best


def naive(profiles: ProfileSet, query: Study) -> Array:
    """Label cells by the negative binomial likelihood of the best markers under each profile."""
    column = {s: i for i, s in enumerate(query.symbols)}
    shared = [i for i, s in enumerate(profiles.symbols) if s in column]
    means = profiles.means[:, shared]
    means = means / means.sum(axis=1, keepdims=True)
    counts = query.counts[:, [column[profiles.symbols[i]] for i in shared]]
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)[:, None]
    best = markers(means)[:MARKERS]
    seen = counts[:, best].toarray()
    likelihood = np.stack(
        [
            (
                seen * np.log(totals * p / (totals * p + SIZE)) - SIZE * np.log1p(totals * p / SIZE)
            ).sum(axis=1)
            for p in means[:, best] + PSEUDO
        ],
        axis=1,
    )
    called: Array = profiles.labels[likelihood.argmax(axis=1)]
    return called


def open_tasks() -> Iterator[tasks.Task]:
    """Yield pairs of studies that are not among the tested ones."""

    def read(file: str, key: str, **keep: str) -> Study:
        study = read_study(Source(file=file).locate(), label_key=key)
        if keep:
            import anndata as ad

            obs = ad.read_h5ad(Source(file=file).locate(), backed="r").obs
            for column, value in keep.items():
                not_value = value.startswith("!")
                same = (obs[column].astype(str) == value.lstrip("!")).to_numpy()
                study = tasks.rows(study, same != not_value)
        return study

    six = "pbmc_6studies_sccomp.h5ad"
    import anndata as ad

    for name in ad.read_h5ad(Source(file=six).locate(), backed="r").obs["study"].unique():
        one, rest = (read(six, "cell_type_common", study=v) for v in (name, f"!{name}"))
        one = tasks.rows(one, one.labels != "other")
        yield tasks.make(f"6studies: {name} -> rest", one, rest)
    lines = "cellbench_sc_mixology.h5ad"
    one, rest = (read(lines, "cell_type", protocol=v) for v in ("Drop-seq", "!Drop-seq"))
    yield tasks.make("cell lines: Drop-seq -> CEL-seq2", one, rest)
    islets = {
        "type B pancreatic cell": "beta",
        "pancreatic A cell": "alpha",
        "pancreatic D cell": "delta",
        "pancreatic PP cell": "gamma",
        "pancreatic ductal cell": "ductal",
        "pancreatic stellate cell": "stellate",
        "endothelial cell": "endothelial",
        "pancreatic acinar cell": "acinar",
    }
    muris = read("mouse_tabula_muris_facs_organs.h5ad", "cell_type", tissue="pancreas")
    muris = replace(muris, labels=np.array([islets.get(x, x) for x in muris.labels], object))
    baron = read("mouse_pancreas_baron_mouse1.h5ad", "cell_type_common")
    yield tasks.make("mouse islets: Tabula Muris -> Baron", muris, baron)
    yield tasks.make("mouse islets: Baron -> Tabula Muris", baron, muris)
    lung = read("mouse_tabula_muris_facs_organs.h5ad", "cell_type", tissue="lung")
    to = {
        "natural killer cell": "NK cells",
        "T cell": "T cells",
        "B cell": "B cells",
    }
    lung = replace(lung, labels=np.array([to.get(x, x) for x in lung.labels], object))
    zilionis = read("mouse_lung_zilionis_800.h5ad", "cell_type")
    upper = replace(lung, symbols=[s.upper() for s in lung.symbols])
    yield tasks.make("mouse lung: Tabula Muris -> Zilionis", upper, zilionis)


def main() -> None:
    """Score the models of all pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--open", action="store_true", help="the open pairs instead")
    parser.add_argument("--cells", action="store_true", help="twins trained on the cells, too")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    changed = {k: json.loads(v) for k, v in (x.split("=", 1) for x in arguments.set)}
    simulation = msgspec.convert(changed, Simulation)
    todo = list(open_tasks()) if arguments.open else [tasks.pair(*p) for p in tasks.PAIRS]
    rows: list[dict[str, Any]] = []
    for task in todo:
        profiles = averages(task.reference)
        found = {"naive": (0, naive(profiles, task.query))}
        for seed in map(int, arguments.seeds.split(",")):
            settings = Settings(seed=seed)
            learned = {"profiles": simulate(profiles, simulation, seed)}
            if arguments.cells:
                learned["cells"] = task.reference
            for what, cells in learned.items():
                start = time.perf_counter()
                began = fit_start(join([cells], min_cells=3), [], settings)
                said = variants(began.reference, began.pair, task.query, settings)
                print(task.name, what, round(time.perf_counter() - start, 1), "s", flush=True)
                for name in METHODS:
                    found[f"{what}: {name}"] = (seed, said[name])
            for method, (s, labels) in found.items():
                rows.append({"task": task.name, "method": method, "seed": s})
                rows[-1] |= score(task.query.labels, labels)
            arguments.out.write_text(json.dumps(rows, indent=0))
    print(summarise(rows))


if __name__ == "__main__":
    main()
