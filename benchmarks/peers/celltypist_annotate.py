"""CellTypist on one file, as a user runs it: read, normalise, annotate, write.

Run in ``benchmarks/``, in an environment as in ``peers/README.md``, by ``speed.py``:
``python -m peers.celltypist_annotate QUERY OUTPUT --model FILE [--voting]``. With ``--train
REFERENCE`` it makes the model first, from ``obs["cell_type_common"]``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import celltypist
import scanpy as sc


def read(path: Path) -> ad.AnnData:
    """Return the cells as CellTypist wants them."""
    cells = ad.read_h5ad(path)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    return cells


def main() -> None:
    """Train, or annotate one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("query", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--voting", action="store_true")
    parser.add_argument("--train", type=Path)
    arguments = parser.parse_args()
    if arguments.train:
        reference = read(arguments.train)
        labels = reference.obs["cell_type_common"].astype(str)
        # As its tutorials do; a model of all genes would make it hold all of them densely.
        options = {"feature_selection": True, "n_jobs": 1, "random_state": 0}
        celltypist.train(reference, labels.to_numpy(), **options).write(str(arguments.model))
    model = celltypist.models.Model.load(str(arguments.model))
    cells = read(arguments.query)
    found = celltypist.annotate(cells, model, majority_voting=arguments.voting)
    ad.settings.allow_write_nullable_strings = True  # its pins of pandas and anndata disagree
    for name in found.predicted_labels:
        cells.obs[name] = found.predicted_labels[name].astype(str).astype("category")
    if arguments.output.suffix == ".csv":
        labels = cells.obs[list(found.predicted_labels)]
        labels.join(found.probability_matrix).to_csv(arguments.output)
    else:
        cells.obsm["probabilities"] = found.probability_matrix.to_numpy()
        cells.write_h5ad(arguments.output)


if __name__ == "__main__":
    main()
