"""What a cell's neighbours are worth: the query's own, or those of the reference bank.

Run: ``python benchmarks/graph_kinds.py --models FOLDER --out
benchmarks/results/graph_kinds.json`` (needs the extra ``training`` and ``SCBIGNN_DATA``). The cells
are those of ``held_out_study.py``: studies that a model never saw, by the labels that the files of
one kind share. ``--recipe NAME`` or ``NAME:STUDY`` (repeatable) takes some alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from held_out_study import cases
from scbignn_infer.annotator import Annotator
from scbignn_infer.evaluation import score
from scbignn_training.data import read_study
from shelf import common_labels, common_names

if TYPE_CHECKING:
    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.settings import GraphKind

KINDS: tuple[GraphKind, ...] = ("query", "reference")


def main() -> None:
    """Write a JSON list with the scores of each kind of graph on each study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of the twins")
    parser.add_argument("--recipe", action="append", default=[], help="NAME or NAME:STUDY")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for recipe, bundle, source in cases(options.models, options.recipe):
        study = read_study(source.locate(), exclude=source.exclude)
        truth = common_labels(recipe, source)
        found: dict[str, Annotation] = {}
        for kind in KINDS:
            annotator = Annotator.load(bundle, device="cpu", threads=1, graph=kind)
            found[kind] = annotator.annotate_matrix(study.counts, study.symbols)
        mean = (found["query"].probabilities + found["reference"].probabilities) / 2
        found["mean of both"] = replace(found["query"], probabilities=mean)
        for graph, annotation in found.items():
            called, confidence = annotation.labels != "unknown", annotation.confidence
            names = common_names(recipe, annotation.cell_types, set(truth)).astype(object)
            types, best = list(dict.fromkeys(names)), names[annotation.best_codes]
            scores = score(truth, best, called, types, confidence=confidence)
            gene = score(truth, names[annotation.gene_level_codes], called, types)
            rows.append(
                {
                    "case": f"{bundle.name} on {source.called}",
                    "graph": graph,
                    "cells": scores.n_cells,
                    "accuracy": scores.accuracy,
                    "macro_f1": scores.macro_f1,
                    "gene_level_accuracy": gene.accuracy,
                    "unknown": scores.unknown_share,
                    "called_accuracy": scores.called_accuracy,
                    "calibration_error": scores.calibration_error,
                }
            )
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
