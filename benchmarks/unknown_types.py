"""What shipped models call the cells of types that they do not know.

Run: ``python benchmarks/unknown_types.py --out benchmarks/results/unknown_types.json`` (needs the
extra ``training`` and ``SCBIGNN_DATA``). The cells are those of the models' own studies that were
left out of training, because their types are too small or their labels too impure. Models that do
not follow the file are passed over: the files that they learned from name most types otherwise.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from held_out_study import ROOT
from scbignn_infer.annotator import Annotator
from scbignn_training.data import read_study
from scbignn_training.recipe import read_recipe


def main() -> None:
    """Write a JSON list with the labels of each left-out type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    rows = []
    options = parser.parse_args()
    for path in sorted((ROOT / "training" / "recipes").glob("*.toml")):
        recipe = read_recipe(path)
        annotator = Annotator.load(ROOT / "exported_models" / recipe.name, device="cpu", threads=1)
        for source in recipe.reference if annotator.bundle.spec.follows_file else ():
            study = read_study(source.locate(), label_key=recipe.label_key, exclude=source.exclude)
            truth = np.array([recipe.merge.get(x, x) for x in study.labels], object)
            found = annotator.annotate_matrix(study.counts, study.symbols)
            for label in sorted(set(truth) - set(found.cell_types)):
                called = Counter(found.labels[truth == label].tolist())
                rows.append(
                    {
                        "model": recipe.name,
                        "study": source.called,
                        "type": label,
                        "cells": called.total(),
                        "unknown": called["unknown"],
                        "called": ", ".join(
                            f"{k} {n}" for k, n in called.most_common() if k != "unknown"
                        ),
                    }
                )
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
