"""SingleR, trained on the reference of each task.

Run in ``benchmarks/``, in an environment as in ``peers/README.md``:
``python -m peers.singler FOLDER --out results/singler.json``, FOLDER from ``peers.export_tasks``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import singler

from peers.common import Rows, read_tasks

if TYPE_CHECKING:
    from peers.common import Array, Cells

# The book of SingleR says Wilcoxon tests (areas under the curve) for references of single cells.
# The classic markers, by differences of medians, are the default, and meant for bulk references.
MARKERS = {"SingleR": "auc", "SingleR, classic markers": "classic"}


def prepare(cells: Cells, genes: Array | None = None) -> sp.csc_matrix:
    """Return log2(1 + counts / size factor), genes by cells; the mean size factor is 1."""
    keep = np.ones(len(cells.symbols), bool) if genes is None else genes
    counts = cells.counts[:, keep]
    totals = np.asarray(counts.sum(axis=1), float).ravel()
    factors = np.maximum(totals, 1) / totals.mean()
    x = sp.csr_matrix(sp.diags_array(1 / factors) @ counts).log1p() / np.log(2)
    x = sp.csc_matrix(x.T)
    x.sort_indices()
    return x


def annotate(reference: Cells, query: Cells, markers: str, genes: Array | None = None) -> Array:
    """Return the best label of each cell."""
    found = singler.annotate_single(
        test_data=prepare(query, genes),
        test_features=(query.symbols if genes is None else query.symbols[genes]).tolist(),
        ref_data=prepare(reference),
        ref_features=reference.symbols.tolist(),
        ref_labels=reference.labels.tolist(),
        train_args={"marker_method": markers},
    )
    return np.array(found["best"], str)


def main() -> None:
    """Score all tasks; cuts of the query with one kind of marker only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--no-cuts", action="store_true", help="leave out the cuts of the query")
    arguments = parser.parse_args()
    rows = Rows(arguments.out)
    for task in read_tasks(arguments.folder):
        for method, markers in MARKERS.items():
            views: dict[str, Array | None] = {"all": None}
            if method == "SingleR" and not arguments.no_cuts:
                views |= task.views
            for view, genes in views.items():
                labels = annotate(task.reference, task.query, markers, genes)
                rows.add(task, view, method, labels)


if __name__ == "__main__":
    main()
