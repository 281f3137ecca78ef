"""Accuracy and confidence against the share of the model's genes that the data have.

Run: ``python benchmarks/gene_coverage.py --models FOLDER --out
benchmarks/results/gene_coverage.json`` (needs ``SCBIGNN_DATA``). FOLDER holds
``human-pbmc-without-pbmc3k``, made by ``train --recipe training/recipes/human-pbmc.toml --leave-out
pbmc3k``, which has not seen the cells of pbmc3k that it labels. Genes are hidden at random (three
seeds), from the most expressed on, or from the least expressed on. Scored are the cells of types
that the model knows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp

from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import GeneError
from scbignn_infer.evaluation import score
from scbignn_infer.settings import Reading
from scbignn_training.recipe import Source

Array = np.ndarray[Any, Any]
MODEL, FILE = "human-pbmc-without-pbmc3k", "pbmc3k_seurat.h5ad"
HIDDEN = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
SEEDS = 3
READING = Reading(min_gene_coverage=0.0)


def orders(counts: sp.csr_matrix) -> dict[str, list[Array]]:
    """Return orders in which genes are hidden, by name."""
    mean = np.asarray(counts.mean(axis=0)).ravel()
    by_mean = np.argsort(-mean, kind="stable")
    rng = np.random.default_rng(0)
    return {
        "at random": [rng.permutation(len(mean)) for _ in range(SEEDS)],
        "most expressed first": [by_mean],
        "least expressed first": [by_mean[::-1]],
    }


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    annotator = Annotator.load(arguments.models / MODEL, device="cpu", threads=2)
    cells = ad.read_h5ad(Source(file=FILE).locate())
    counts, genes = sp.csr_matrix(cells.X), np.array(cells.var_names)
    truth = cells.obs["cell_type_common"].astype(str).to_numpy()
    rows = []
    for name, ways in orders(counts).items():
        for seed, order in enumerate(ways):
            for hidden in HIDDEN:
                kept = np.sort(order[round(hidden * len(genes)) :])
                try:
                    found = annotator.annotate_matrix(
                        counts[:, kept], genes[kept].tolist(), reading=READING
                    )
                except GeneError:
                    break  # none of the model's is left
                scores = score(
                    truth, found.best_labels, found.labels != "unknown", found.cell_types
                )
                row = {"hidden": hidden, "order": name, "seed": seed, "genes": len(kept)}
                row |= {
                    "coverage": round(found.provenance.genes.coverage, 4),
                    "read": found.provenance.genes.n_shared,
                    "accuracy": round(scores.accuracy, 4),
                    "macro_f1": round(scores.macro_f1, 4),
                    "confidence": round(float(found.confidence.mean()), 4),
                    "unknown": round(scores.unknown_share, 4),
                    "novelty": round(float(np.median(found.novelty)), 4),
                }
                rows.append(row)
                print(row, flush=True)
    arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
