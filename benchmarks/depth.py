"""Labels of any depth on studies that a model never saw: how many are true, and how deep.

Run: ``python benchmarks/depth.py --models FOLDER --out FILE.json`` (needs the extra ``training``
and ``SCBIGNN_DATA``). The models are those of ``held_out_study.py``; each is asked for types alone
(``--depth leaf``), for labels as deep as is sure, and for sets of 90 %, with all genes and with the
500 most variable ones. The threshold and the power of sets are those of the bundles, which training
has chosen without the study. Scored are the cells whose type the model knows; of the others, how
many keep a label.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from held_out_study import OTHERS, cases
from scbignn_infer import Annotator
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.evaluation import depths
from scbignn_training.data import read_study

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_training.data import Study
    from scbignn_training.recipe import Recipe, Source

Array = np.ndarray[Any, Any]
GENES = 500
SHARE = 0.9


def views(study: Study) -> Iterator[tuple[str, Any, list[str]]]:
    """Yield the name, counts and genes of a study as it is, and of its most variable genes."""
    yield "all", study.counts, study.symbols
    mean = np.asarray(study.counts.mean(axis=0)).ravel()
    spread = np.asarray(study.counts.power(2).mean(axis=0)).ravel() - mean**2
    some = np.sort(np.argsort(-spread)[:GENES])
    yield str(GENES), study.counts[:, some].tocsr(), [study.symbols[i] for i in some]


def scores(found: Annotation, truth: Array) -> dict[str, Any]:
    """Return how the labels of cells compare with the truth."""
    known, ontology = np.isin(truth, found.cell_types), found.ontology
    joins = {
        ontology.labels[i]: [found.cell_types[j] for j in np.flatnonzero(ontology.holds[i])]
        for i in ontology.joins
    }
    called = found.codes >= 0
    told = depths(truth[known], found.labels[known], called[known], joins)
    hidden = called & (found.best_labels == truth) & (found.labels != truth)
    return {
        "cells": int(known.sum()),
        "labelled": round(float(called[known].mean()), 4),
        "true": round(told.true_share or 0.0, 4),
        "right_type": round(told.right / int(known.sum()), 4),
        "hidden": round(float(hidden[known].mean()), 4),
        "unseen": int((~known).sum()),
        "unseen_labelled": round(float(called[~known].mean()), 4) if (~known).any() else None,
    }


def sets_of(found: Annotation, truth: Array) -> dict[str, Any]:
    """Return how many sets of labels hold the true type, and how many types a set has."""
    known, ontology = np.isin(truth, found.cell_types), found.ontology
    held = {label: ontology.holds[i] for i, label in enumerate(ontology.labels)}
    types = {s: np.any([held[x] for x in s.split("|")], axis=0) for s in set(found.label_sets) if s}
    inside = np.array([types.get(s, np.zeros(ontology.n_types, bool)) for s in found.label_sets])
    codes = np.array([found.cell_types.index(t) for t in truth[known]])
    return {
        "covered": round(float(inside[known][np.arange(len(codes)), codes].mean()), 4),
        "types_in_set": round(float(inside[known].sum(axis=1).mean()), 3),
    }


def rows(recipe: Recipe, path: Path, source: Source) -> Iterator[dict[str, Any]]:
    """Yield the scores of one model on one study."""
    annotator = Annotator.load(path, device="cpu", threads=1)
    study = read_study(source.locate(), label_key=recipe.label_key, exclude=source.exclude)
    truth = np.array([recipe.merge.get(x, x) for x in study.labels], dtype=object)
    for view, counts, symbols in views(study):
        for depth in ("leaf", "sure"):
            rules = Rules.of(annotator.bundle, depth=depth, sets=SHARE)
            found = annotator.annotate_matrix(counts, symbols, rules=rules)
            limits = annotator.bundle.spec.thresholds
            row: dict[str, Any] = {"model": path.name, "study": source.called, "view": view}
            row |= {"depth": depth, "threshold": limits.label, "power": limits.sets}
            yield row | scores(found, truth) | sets_of(found, truth)


def main() -> None:
    """Write a JSON list with the scores of each model on each study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of the twins")
    parser.add_argument("--recipe", action="append", default=[], help="NAME or NAME:STUDY")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = []
    others = {source.file for sources in OTHERS.values() for source in sources}
    for recipe, path, source in cases(arguments.models, arguments.recipe):
        if source.file in others:  # its labels are none of the model's own
            continue
        for row in rows(recipe, path, source):
            found.append(row)
            print(row, flush=True)
    arguments.out.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
