"""Whether more drawn cells, other weights or a naive head help a body model at the gene level.

Run: ``python benchmarks/body_means.py RECIPE... --out FILE.json`` (needs the extra ``training``).
Data sets of profiles are left out as in ``descent.py``, and cells drawn from them are labelled with
their tissue given, best types down the ontology. One network is trained on the recipe's cells; the
discriminant's means are those of these cells, or of many more. Cells are drawn as in training, and
with a gene noise and depth as real ones have (``plain``). Real cells are the better judge.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import log_softmax, softmax

from body import GENES, Task, scores
from descent import HELD, SEED, as_read
from profiles import PSEUDO, SIZE, markers
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.kinship import kinship
from scbignn_infer.annotation.ontology import Ontology
from scbignn_training.blocks import log_expression
from scbignn_training.data import join, well_known
from scbignn_training.gene_level import LEAST_LOG_P, GeneLevel, Panel, fit_gene_level
from scbignn_training.ontology import is_below, nodes
from scbignn_training.recipe import read_recipe
from scbignn_training.simulate import simulate
from scbignn_training.statistics import scale
from scbignn_training.train import read_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_training.data import Reference
    from scbignn_training.profiles import ProfileSet
    from scbignn_training.recipe import Recipe

Array = np.ndarray[Any, Any]
CELLS, MANY = 10, 192
"""Cells of a profile that are labelled, and those that means are taken of."""
PLAIN = {"size": 1.5, "depth": 4000.0, "depth_spread": 0.5, "ambient": 0.05}
"""Of the other cells that are labelled."""
WAYS = {
    "as it is": {"net": 1.0, "few": 0.5, "logistic": 0.35},
    "means of many": {"net": 1.0, "many": 0.5, "logistic": 0.35},
    "network alone": {"net": 1.0},
    "discriminant alone": {"few": 1.0},
    "discriminant alone, means of many": {"many": 1.0},
    "logistic head alone": {"logistic": 1.0},
    "means of many, without logistic head": {"net": 1.0, "many": 0.5},
    "means of many, weight 1": {"net": 1.0, "many": 1.0, "logistic": 0.35},
    "means of many, weight .25": {"net": 1.0, "many": 0.25, "logistic": 0.35},
    "naive NB alone": {"naive": 1.0},
    "means of many, with naive NB .5": {"net": 1.0, "many": 0.5, "logistic": 0.35, "naive": 0.5},
}
"""Weights of the log-probabilities."""
KIN = {f"as it is, kin {power:g}": power for power in (0.5, 1.0, 2.0, 4.0)}
"""The power by which types of other tissues leave what is said for them to their kin."""


def means_of(sets: list[ProfileSet], recipe: Recipe, reference: Reference, level: Any) -> Array:
    """Return the discriminant's means (c, m) of many cells a profile, drawn anew."""
    tables = level.statistics
    m, n = len(tables["gene_mean"]), len(reference.cell_types)
    code = {label: i for i, label in enumerate(reference.cell_types)}
    some = msgspec.structs.replace(recipe.simulation, cells=MANY)
    total, number = np.zeros((2, n, m))
    for batch, p in enumerate(sets):
        study = simulate(p, some, recipe.settings.seed + 1)
        place = {s: i for i, s in enumerate(study.symbols)}
        has = np.array([s in place for s in reference.symbols])
        own = [place[s] for s in np.array(reference.symbols)[has]]
        counts = sp.csr_matrix(study.counts[:, own])
        share = 1.0 if reference.covered is None else reference.covered[batch]
        totals = (np.asarray(counts.sum(axis=1)).ravel() / share).astype(np.float32)
        first = np.flatnonzero(has[:m])
        x = log_expression(sp.csr_matrix(counts[:, : len(first)]), totals)
        scaling = tables["gene_mean"][first], tables["gene_scale"][first]
        for label in dict.fromkeys(study.labels.tolist()):
            if label in code:
                rows = np.flatnonzero(study.labels == label)
                z = scale(x[rows].toarray(), *scaling)
                total[code[label], first] += z.sum(axis=0)
                number[code[label], first] += len(rows)
    known = number > 0
    found = np.where(known, total / np.maximum(number, 1), tables["class_mean"])
    return found.astype(np.float16).astype(np.float64)


def naive(sets: list[ProfileSet], reference: Reference, task: Task) -> Array:
    """Return log-probabilities (n, c) by the likelihood of the best markers under each profile."""
    code = {label: i for i, label in enumerate(reference.cell_types)}
    common = set(task.cells.symbols).intersection(*(p.symbols for p in sets))
    symbols = sorted(common)
    columns = [{s: i for i, s in enumerate(p.symbols)} for p in sets]
    blocks = [p.means[:, [c[s] for s in symbols]] for p, c in zip(sets, columns, strict=True)]
    means = np.concatenate(blocks)
    means /= means.sum(axis=1, keepdims=True)
    best = markers(means)[:GENES]
    place = {s: i for i, s in enumerate(task.cells.symbols)}
    counts = task.cells.counts[:, [place[symbols[i]] for i in best]].toarray()
    totals = np.maximum(counts.sum(axis=1), 1)[:, None]
    said = np.full((len(counts), len(code)), -np.inf)
    labels = np.concatenate([p.labels for p in sets])
    for label, profile in zip(labels, means[:, best], strict=True):
        if str(label) in code:
            p = totals * (profile / profile.sum() + PSEUDO)
            likelihood = counts * np.log(p / (p + SIZE)) - SIZE * np.log1p(p / SIZE)
            own = said[:, code[str(label)]]
            said[:, code[str(label)]] = np.maximum(own, likelihood.sum(axis=1))
    found: Array = log_softmax(said, axis=1).clip(LEAST_LOG_P)
    return found


def rows(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield the macro-F1 of each way on each data set that was left out."""
    sets, settings = read_tables(recipe), recipe.settings
    inside = [p for p in sets if p.name not in HELD[recipe.species]]
    studies = well_known([simulate(p, recipe.simulation, 0) for p in inside], recipe.gene_studies)
    reference = join(studies, min_cells=recipe.min_cells).in_rank_order(settings.ranked_genes)
    cells = reference.cells(min(settings.ranked_genes, len(reference.symbols)))
    n, m = len(reference.cell_types), len(cells.present)
    level = fit_gene_level(cells.expression, cells.codes, n, settings, seed=0, gaps=cells.gaps)
    tables = level.statistics | {"class_mean": means_of(inside, recipe, reference, level)}
    levels = {"few": level, "many": GeneLevel(level.net, tables, level.logistic, level.blend)}
    meant = {t.label: t for p in inside for t in p.meant}
    types = [meant[t] for t in reference.cell_types]
    names, ids = [(t.name, t.ontology_id) for t in types], [t.ontology_id for t in types]
    joins = nodes(list(dict(names).values()))
    for p in (p for p in sets if p.name in HELD[recipe.species]):
        places = {t.place for t in p.meant}
        if not any(t.place in places for t in types):
            continue
        terms = {t.label: t.ontology_id for t in p.meant}
        terms = {k: t for k, t in terms.items() if any(is_below(own, [t]) for own in ids)}
        own = np.array([t.everywhere or t.place in places for t in types])
        grouping = Grouping.of(names).only(own)
        close = {way: kinship(ids, joins, power) for way, power in KIN.items()}
        ontology, called = Ontology.above(joins, ids, grouping), np.array(grouping.ontology_ids)
        for drawn, changed in (("as in training", {}), ("plain", PLAIN)):
            noise = msgspec.structs.replace(recipe.simulation, cells=CELLS, **changed)
            task = Task(p.name, recipe.species, simulate(p, noise, SEED), terms, frozenset(places))
            present, counts, totals = as_read(task, reference, m)
            said = {"naive": naive(inside, reference, task)}
            for name, one in levels.items():
                panel = Panel(one, present[:m], settings.panel_genes)
                found = [part.numpy() for part in panel.run(counts, totals, "parts")]
                _, said["net"], said[name], said["logistic"] = found
            row: dict[str, Any] = {"species": recipe.species, "set": p.name, "cells": drawn}
            for way, weights in WAYS.items():
                told = softmax(sum(w * said[k] for k, w in weights.items()), axis=1) * own
                codes = ontology.descend(grouping.sum(told / told.sum(axis=1, keepdims=True)))
                row[way] = round(scores(task, called[codes])[0], 4)
            log_p = np.sum([w * said[k] for k, w in WAYS["as it is"].items()], axis=0)
            for way in KIN:
                kin = replace(grouping, close=close[way])
                codes = ontology.descend(kin.sum(np.exp(kin.narrow(np.asarray(log_p, np.float32)))))
                row[way] = round(scores(task, called[codes])[0], 4)
            yield row


def main() -> None:
    """Write a JSON list with a row for each data set, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for path in arguments.recipes:
        for row in rows(read_recipe(path)):
            found.append(row)
            print(json.dumps(row), flush=True)
            arguments.out.write_text(json.dumps(found, indent=0) + "\n")
    for key in dict.fromkeys((r["species"], r["cells"]) for r in found):
        own = [r for r in found if (r["species"], r["cells"]) == key]
        print(*key, {way: round(float(np.mean([r[way] for r in own])), 3) for way in (*WAYS, *KIN)})


if __name__ == "__main__":
    main()
