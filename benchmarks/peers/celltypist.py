"""CellTypist, trained on the reference of each task as its documentation says.

Run in ``benchmarks/``, in an environment as in ``peers/README.md``:
``python -m peers.celltypist FOLDER --out results/celltypist.json``, FOLDER from
``peers.export_tasks``.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import celltypist
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

from peers.common import Rows, read_tasks

if TYPE_CHECKING:
    from peers.common import Array, Cells

# The tutorials select features, the reference of `train` does not by default.
TRAINING: dict[str, dict[str, Any]] = {
    "CellTypist": {},
    "CellTypist, feature selection": {"feature_selection": True},
}


def prepare(cells: Cells, genes: Array | None = None) -> ad.AnnData:
    """Return log1p of counts scaled to 10,000 over the genes that there are."""
    keep = np.ones(len(cells.symbols), bool) if genes is None else genes
    data = ad.AnnData(
        sp.csr_matrix(cells.counts[:, keep]),
        obs=pd.DataFrame(index=np.arange(len(cells.labels)).astype(str)),
        var=pd.DataFrame(index=cells.symbols[keep]),
    )
    sc.pp.normalize_total(data, target_sum=1e4)
    sc.pp.log1p(data)
    return data


def train(cells: Cells, options: dict[str, Any], seed: int) -> tuple[celltypist.models.Model, bool]:
    """Train, and say whether every solver converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = celltypist.train(
            prepare(cells), cells.labels, n_jobs=1, random_state=seed, **options
        )
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    return model, converged


def annotate(
    data: ad.AnnData, model: celltypist.models.Model, *, voting: bool = False
) -> dict[str, Array]:
    """Return the labels of each column that CellTypist adds."""
    table = celltypist.annotate(data, model, majority_voting=voting).predicted_labels
    return {name: table[name].to_numpy(str) for name in table.columns}


def main() -> None:
    """Score all tasks, each cell by itself and with majority voting; cuts by itself only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2", help="of the selection of features")
    parser.add_argument("--no-cuts", action="store_true", help="leave out the cuts of the query")
    arguments = parser.parse_args()
    seeds = [int(s) for s in arguments.seeds.split(",")]
    rows = Rows(arguments.out)
    for task in read_tasks(arguments.folder):
        views = {} if arguments.no_cuts else task.views
        for method, options in TRAINING.items():
            # Without a selection nothing is drawn.
            for seed in seeds if options else seeds[:1]:
                model, converged = train(task.reference, options, seed)
                more = {"seed": seed, "converged": converged}
                found = annotate(prepare(task.query), model, voting=True)
                rows.add(task, "all", method, found["predicted_labels"], **more)
                name = f"{method}, majority voting"
                rows.add(task, "all", name, found["majority_voting"], **more)
                for view, genes in views.items():
                    found = annotate(prepare(task.query, genes), model)
                    rows.add(task, view, method, found["predicted_labels"], **more)


if __name__ == "__main__":
    main()
