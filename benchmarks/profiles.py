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
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import msgspec
import numpy as np
import torch

import tasks
from accuracy import score, summarise, variants
from scbignn_training.data import join, read_study
from scbignn_training.profiles import ProfileSet, read_profiles
from scbignn_training.recipe import Source
from scbignn_training.settings import Settings
from scbignn_training.simulate import Simulation, simulate
from scbignn_training.train import fit_start

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
MARKERS, SIZE, PSEUDO = 200, 0.3, 5e-6
"""Of the naive classifier: genes, size of the negative binomial, least expression."""

LIBRARY = "../profiles/human_cellprofilelibrary.h5ad"
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


def naive(sets: list[ProfileSet], query: Study) -> Array:
    """Label cells by the negative binomial likelihood of the best markers under each profile."""
    common = set(sets[0].symbols).intersection(*(s.symbols for s in sets))
    profiles = sets[0]
    if len(sets) > 1:
        symbols = sorted(common)
        columns = [[s.symbols.index(g) for g in symbols] for s in sets]
        means = np.vstack([s.means[:, c] for s, c in zip(sets, columns, strict=True)])
        labels = np.concatenate([s.labels for s in sets])
        profiles = replace(profiles, means=means, labels=labels, symbols=symbols)
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


BLOOD = {
    "B": ("*B cell*", "B", "Bcells*", "Class switched B"),
    "CD14 Mono": ("CD14*", "Classical mono*", "Activated mono*"),
    "CD16 Mono": ("CD16*", "Non classical*"),
    "CD4 T": ("CD4*", "T helper*", "Tcells memory CD4", "Tcells CD4", "Treg"),
    "CD8 T": ("naive CD8*", "cytotoxic T*", "CD8*", "Tcells CD8", "Tcells memory CD8"),
    "NK": ("natural killer*", "NK*"),
    "DC": ("conventional dend*", "DC", "cDC*"),
    "pDC": ("plasmacytoid*", "pDC"),
}
LIVER = {
    "Hepatocyte": ("Hep*",),
    "Liver sinusoidal endothelial cell": ("*LSEC*",),
    "Macrovascular endothelial cells": ("Portal endo*",),
    "Epithelial cell": ("Cholangio*",),
    "Stellate cell/Myofibroblast": ("Stellate*",),
    "Kupffer cell": ("*macrophage*", "*Macrophage*", "*Mac*"),
    "T/NK cell": ("*T cell*", "*NK*"),
    "B cell": ("*B cell*",),
}
BRAIN = {
    "Neuron": ("L2*", "L4*", "L5*", "L6*", "Lamp5", "Pvalb", "Sst", "Sst*", "Vip", "Sncg"),
    "Astrocyte": ("Astro*",),
    "Oligodendrocyte": ("Oligo*",),
    "OPC": ("OPC*",),
    "microglia": ("Micro*",),
    "Vascular": ("Endo*", "VLMC*", "Peri*"),
}
ISLETS = {
    "type B pancreatic cell": "beta",
    "pancreatic A cell": "alpha",
    "pancreatic D cell": "delta",
    "pancreatic PP cell": "gamma",
    "pancreatic ductal cell": "ductal",
    "pancreatic stellate cell": "stellate",
    "endothelial cell": "endothelial",
    "pancreatic acinar cell": "acinar",
}
LUNG = {"natural killer cell": "NK cells", "T cell": "T cells", "B cell": "B cells"}


def _some(file: str, key: str, column: str, *values: str) -> Study:
    """Read the cells of a file with some values in a column."""
    path = Source(file=file).locate()
    keep = ad.read_h5ad(path, backed="r").obs[column].astype(str).isin(values).to_numpy()
    return tasks.rows(read_study(path, label_key=key), keep)


def _renamed(study: Study, names: Mapping[str, str]) -> Study:
    return replace(study, labels=np.array([names.get(x, x) for x in study.labels], object))


def published(datasets: list[str], coarse: Mapping[str, tuple[str, ...]]) -> list[ProfileSet]:
    """Return published profiles whose names mean one of a few coarse types."""
    found = []
    for s in read_profiles(Source(file=LIBRARY).locate(), include={"dataset": datasets}):
        named = [next((t for t, p in coarse.items() if _fits(x, p)), "") for x in s.labels]
        kept = np.flatnonzero([bool(x) for x in named])
        parts = {k: getattr(s, k)[kept] for k in ("means", "tissues", "ontology_ids", "n_cells")}
        found.append(replace(s, labels=np.array(named, object)[kept], **parts))
    return found


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, p) for p in patterns)


def open_tasks() -> Iterator[tuple[str, list[ProfileSet], Study]]:
    """Yield profiles and cells of other studies than those of the tested pairs."""
    six, muris = "pbmc_6studies_sccomp.h5ad", "mouse_tabula_muris_facs_organs.h5ad"
    names = ["10x_6K", "SRR11038995", "SRR7244582", "SCP345_580", "SCP345_860", "SCP591"]
    blood = read_study(Source(file=six).locate(), label_key="cell_type_common")
    yield "census, COVID -> 6 studies", published(["*Census*", "COVID*PBMCs*"], BLOOD), blood
    for name in names[1::2]:
        rest = _some(six, "cell_type_common", "study", *(n for n in names if n != name))
        rest = tasks.rows(rest, rest.labels != "other")
        one = _some(six, "cell_type_common", "study", name)
        yield f"5 studies -> {name}", [averages(rest)], one
    liver = read_study(Source(file="liver_aizarani_2019.h5ad").locate(), label_key="cell_type")
    yield "HCA liver -> Aizarani", published(["Adult_Liver_HCA"], LIVER), liver
    brain = read_study(Source(file="brain_darmanis_2015.h5ad").locate(), label_key="cell_type")
    yield "Allen brain -> Darmanis", published(["Adult_Brain_Allen*"], BRAIN), brain
    islets = _renamed(_some(muris, "cell_type", "tissue", "pancreas"), ISLETS)
    baron = read_study(
        Source(file="mouse_pancreas_baron_mouse1.h5ad").locate(), label_key="cell_type_common"
    )
    yield "Tabula Muris islets -> Baron", [averages(islets)], baron
    yield "Baron -> Tabula Muris islets", [averages(baron)], islets
    lung = _renamed(_some(muris, "cell_type", "tissue", "lung"), LUNG)
    lung = replace(lung, symbols=[s.upper() for s in lung.symbols])
    path = Source(file="mouse_lung_zilionis_800.h5ad").locate()
    yield "Tabula Muris lung -> Zilionis", [averages(lung)], read_study(path, label_key="cell_type")


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
    rows: list[dict[str, Any]] = []
    for name, sets, query, cells in todo(only_open=arguments.open):
        known = np.isin(query.labels.astype(str), np.concatenate([s.labels for s in sets]))
        asked = tasks.rows(query, known)
        rows.append({"task": name, "method": "naive", "seed": 0})
        rows[-1] |= score(asked.labels, naive(sets, asked))
        for seed in map(int, arguments.seeds.split(",")):
            learned = {"profiles": [simulate(s, simulation, seed) for s in sets]}
            if arguments.cells and cells is not None:
                learned["cells"] = [cells]
            for what, studies in learned.items():
                start = time.perf_counter()
                settings = Settings(seed=seed)
                began = fit_start(join(studies, min_cells=3), [], settings)
                said = variants(began.reference, began.pair, asked, settings)
                print(name, what, round(time.perf_counter() - start, 1), "s", flush=True)
                for method in METHODS:
                    rows.append({"task": name, "method": f"{what}: {method}", "seed": seed})
                    rows[-1] |= score(asked.labels, said[method])
        arguments.out.write_text(json.dumps(rows, indent=0))
    print(summarise(rows))


def todo(*, only_open: bool) -> Iterator[tuple[str, list[ProfileSet], Study, Study | None]]:
    """Yield name, profiles, query and the cells behind the profiles, where there are any."""
    if only_open:
        yield from ((*task, None) for task in open_tasks())
        return
    for names in tasks.PAIRS:
        task = tasks.pair(*names)
        yield task.name, [averages(task.reference)], task.query, task.reference


if __name__ == "__main__":
    main()
