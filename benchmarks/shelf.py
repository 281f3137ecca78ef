"""Recipes without one study each: what their parts are worth, before a whole model is trained.

Run: ``python benchmarks/shelf.py RECIPE... --out FILE.json`` (needs the extra ``training`` and
``SCBIGNN_DATA``). Both levels are trained without a study and label its cells, after 0 to ``--em``
iterations of EM. ``--quick`` is the smallest training that tells: few epochs, two folds, best with
``--most N`` cells of a type in a study. A label is scored as the recipe has it ("type"), and as
all files of its kind have it ("common", ``cell_type_common``): a finer call is right there if it
is below the file's label in the recipe's groups. "relabelled" is this after the recipe's
``[[relabel]]``, which mends cells whose genes contradict their cluster. ``--parts`` trains on the
labelled cells alone and on the profiles alone, too. ``--halves`` leaves out half of a study's
cells, and trains on all others or on the other half alone.
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
from sklearn.metrics import f1_score

from scbignn_infer.errors import InputError
from scbignn_training import em
from scbignn_training.data import Study, read_study, relabelled, unlabelled_cells
from scbignn_training.ontology import lineages
from scbignn_training.recipe import read_recipe
from scbignn_training.sampling import place_in_type
from scbignn_training.train import fit_start, read_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_training.data import Reference
    from scbignn_training.recipe import Recipe, Source
    from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
COMMON = "cell_type_common"
QUICK = {
    "gene_epochs": 8,
    "cell_epochs": 4,
    "folds": 2,
    "graph_cells": 1500,
    "covariance_cells": 3000,
    "logistic_cells": 2500,
}


def few(reference: Reference, rows: Array, most: int) -> Array:
    """Return at most some rows of each type in each study."""
    if not most:
        return rows
    kind = np.unique(
        reference.batches[rows] * len(reference.cell_types) + reference.codes[rows],
        return_inverse=True,
    )[1]
    order = np.random.default_rng(1).permutation(len(rows))
    return rows[place_in_type(kind, order) < most]


def of_rows(reference: Reference, rows: Array) -> Study:
    """Return cells of one study as a file would have them."""
    batch = int(reference.batches[rows[0]])
    genes = np.arange(len(reference.symbols))
    if reference.measured is not None:
        genes = np.flatnonzero(reference.measured[batch])
    symbols, ids = (
        [names[i] for i in genes] for names in (reference.symbols, reference.ensembl_ids)
    )
    labels = np.array(reference.cell_types, object)[reference.codes[rows]]
    return Study(Path(), reference.counts[rows][:, genes].tocsr(), symbols, ids, labels)


def common_names(recipe: Recipe, types: list[str], truth: set[str]) -> Array:
    """Return what each type is called among the labels of a file: itself or a group of it."""
    terms = [recipe.ontology.get(t, "") for t in types]
    groups = {i: x for x, i in recipe.ontology.items() if x not in types}
    found = []
    for label, line in zip(types, lineages(terms, groups), strict=True):
        names = [label, *(group.label for group in line)]
        found.append(next((name for name in names if name in truth), label))
    return np.array(found, object)


def common_labels(recipe: Recipe, source: Source) -> Array:
    """Return a file's labels as all files of its kind have them, in the recipe's words."""
    labels = None
    for column in (COMMON, recipe.label_key, "cell_type"):
        try:
            labels = read_study(source.locate(), label_key=column, exclude=source.exclude).labels
            break
        except InputError:
            continue
    if labels is None:
        raise SystemExit(f"{source.file} has no labels")
    merge = {old: new for old, new in recipe.merge.items() if old not in recipe.ontology}
    return np.array([merge.get(x, x) for x in labels], object)


def mended_labels(recipe: Recipe, source: Source, common: Array) -> Array | None:
    """Return the common labels of a file after the recipe's relabelling, if it changes any."""
    study = read_study(source.locate(), label_key=recipe.label_key, exclude=source.exclude)
    mended = common.copy()
    for change in recipe.relabel:
        if source.called in change.studies:
            found = relabelled(study, change.label, change.to, change.genes).labels
            changed = found != study.labels
            types = sorted(set(recipe.merge.values()) | {change.to})
            mended[changed] = common_names(recipe, types, set(common))[types.index(change.to)]
    return mended if (mended != common).any() else None


def scores(truth: Array, called: Array, known: set[str]) -> dict[str, Any]:
    """Return the scores on cells of known types."""
    rows = np.isin(truth.astype(str), sorted(known))
    truth, called = truth[rows].astype(str), called[rows].astype(str)
    if not len(truth):
        return {"cells": 0}
    types = np.unique(truth)
    each = f1_score(truth, called, labels=types, average=None, zero_division=0)
    return {
        "cells": len(truth),
        "accuracy": round(float((truth == called).mean()), 4),
        "macro_f1": round(float(each.mean()), 4),
        "types": {
            str(t): [int((truth == t).sum()), round(float(f), 3)]
            for t, f in zip(types, each, strict=True)
        },
    }


def labels(
    reference: Reference, inside: Array, query: Study, foreign: list[Study], settings: Settings
) -> Iterator[tuple[list[str], Array]]:
    """Yield the types and what each EM iteration calls the cells of a query."""
    enough = np.bincount(reference.codes[inside], minlength=len(reference.cell_types)) >= 5
    start = fit_start(reference.subset(inside[enough[reference.codes[inside]]]), foreign, settings)
    m = len(start.labelled.present)
    cells = unlabelled_cells(start.reference, [query], m, min(settings.net_genes, m))
    if cells is None or len(cells.totals) < query.counts.shape[0]:
        raise SystemExit("a cell without counts")
    for pair in start.iterate(settings, settings.em_iterations if foreign else 0):
        with torch.no_grad():
            graph = em.run_gene_level(pair.gene, cells, settings)
            best = pair.cell(graph.gene_logits, graph).argmax(1).numpy()
        yield start.reference.cell_types, np.array(start.reference.cell_types, object)[best]


def cases(
    recipe: Recipe, reference: Reference, arguments: argparse.Namespace
) -> Iterator[tuple[Source, str, Array, Study, Array]]:
    """Yield what is scored on: source, name of the case, training rows, query, common labels."""
    studies, simulated = reference.studies, reference.simulated
    for place, source in enumerate(recipe.reference):
        if arguments.study and source.called not in arguments.study:
            continue
        own = reference.batches == place
        none = np.array([], object)
        if arguments.halves:
            half = own & (np.random.default_rng(0).random(len(own)) < 0.5)
            query = of_rows(reference, np.flatnonzero(half))
            yield source, "half, with the others", np.flatnonzero(~half), query, none
            yield source, "half, alone", np.flatnonzero(own & ~half), query, none
            continue
        query = read_study(source.locate(), label_key=recipe.label_key, exclude=source.exclude)
        common = common_labels(recipe, source)
        query = replace(
            query, labels=np.array([recipe.merge.get(x, x) for x in query.labels], object)
        )
        rest = studies != studies[own][0]
        yield source, "all parts", np.flatnonzero(rest), query, common
        if arguments.parts:
            yield source, "labelled cells", np.flatnonzero(rest & ~simulated), query, common
            yield source, "profiles", np.flatnonzero(rest & simulated), query, common


def main() -> None:
    """Write a JSON list with the scores of each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--study", action="append", help="score on this one alone")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--most", type=int, default=0)
    parser.add_argument("--em", type=int, default=0)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--halves", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    for path in arguments.recipes:
        recipe = read_recipe(path)
        changed: dict[str, Any] = {"em_iterations": arguments.em}
        changed |= QUICK if arguments.quick else {}
        settings = msgspec.structs.replace(recipe.settings, **changed)
        foreign = [read_study(s.locate()) for s in recipe.unlabelled] if arguments.em else []
        reference = read_reference(recipe)
        for source, case, inside, query, common in cases(recipe, reference, arguments):
            rows = few(reference, inside, arguments.most)
            runs = labels(reference, rows, query, foreign, settings)
            for iteration, (types, called) in enumerate(runs):
                row: dict[str, Any] = {"recipe": recipe.name, "version": recipe.version}
                row |= {"study": source.called, "case": case, "iteration": iteration}
                row["trained_on"] = len(rows)
                row["type"] = scores(query.labels, called, set(types))
                if len(common):
                    names = common_names(recipe, types, set(common))
                    coarse = dict(zip(types, names, strict=True))
                    plain = np.array([coarse[x] for x in called], object)
                    row["common"] = scores(common, plain, set(names))
                    mended = mended_labels(recipe, source, common)
                    if mended is not None:
                        row["relabelled"] = scores(mended, plain, set(names))
                print({k: v for k, v in row.items() if k not in ("type", "common")}, flush=True)
                for k in ("type", "common"):
                    print(" ", k, row.get(k), flush=True)
                done.append(row)
                arguments.out.write_text(json.dumps(done, indent=0))


if __name__ == "__main__":
    main()
