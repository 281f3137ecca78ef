"""The shipped human-pbmc on a study it never saw, beside a logistic regression on the same cells.

Run: ``python benchmarks/held_out_study.py`` (needs the extra ``training`` and ``SCBIGNN_DATA``).
Scored are the cells of zheng_facs whose type both models know; neither saw any of its cells, and
nothing was chosen on it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scbignn_infer.pipeline import Annotator
from scbignn_infer.readers import open_query
from scbignn_training.data import join, rank_genes, read_study
from scbignn_training.recipe import Source, read_recipe

ROOT = Path(__file__).resolve().parents[1]
QUERY = Source(file="pbmc_zheng_facs.h5ad")
LABELS = "cell_type_common"


def log1p_cp10k(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Scale each cell to 10,000 and take log1p."""
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return sp.csr_matrix(sp.diags_array(1e4 / totals) @ counts).log1p()


def main() -> None:
    """Print a JSON object with the scores of each model."""
    recipe = read_recipe(ROOT / "training" / "recipes" / "human-pbmc.toml")
    files = [read_study(s.locate(), label_key=recipe.label_key) for s in recipe.reference]
    reference = join(files, merge=recipe.merge, drop=recipe.drop, min_cells=recipe.min_cells)
    query = read_study(QUERY.locate(), label_key=LABELS)
    scored = np.isin(query.labels.astype(str), reference.cell_types)
    truth = query.labels[scored].astype(str)

    with open_query(QUERY.locate()) as cells:
        found = Annotator.load(ROOT / "exported_models" / recipe.name).annotate_query(cells)
    predictions = {
        "scbignn-infer": found.best_labels[scored],
        "scbignn-infer, gene level alone": found.gene_level_labels[scored],
    }

    column = {s: i for i, s in enumerate(query.symbols)}
    shared = [i for i, s in enumerate(reference.symbols) if s in column]
    known = reference.counts[:, shared]
    ranked = rank_genes(known, np.asarray(known.sum(axis=1)).ravel(), reference.codes, 1000)
    order = [column[reference.symbols[shared[i]]] for i in ranked]
    x = log1p_cp10k(known)[:, ranked].toarray()
    unseen = log1p_cp10k(query.counts)[:, order].toarray()[scored]
    for c in (1.0, 0.01):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        model.fit(x, np.array(reference.cell_types)[reference.codes])
        predictions[f"logistic regression, C = {c}"] = model.predict(unseen)

    scores = {
        name: {
            "accuracy": round(accuracy_score(truth, labels.astype(str)), 4),
            "macro_f1": round(
                f1_score(
                    truth,
                    labels.astype(str),
                    labels=np.unique(truth),
                    average="macro",
                    zero_division=0,
                ),
                4,
            ),
        }
        for name, labels in predictions.items()
    }
    print(json.dumps({"cells": int(scored.sum()), "scores": scores}, indent=1))


if __name__ == "__main__":
    main()
