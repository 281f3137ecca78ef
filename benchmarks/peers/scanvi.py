"""scANVI, trained on the reference of each task and mapped to the query by scArches.

Run in ``benchmarks/``, in an environment as in ``peers/README.md``:
``python -m peers.scanvi FOLDER --out results/scanvi.json``, FOLDER from ``peers.export_tasks``.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
import torch

from peers.common import Rows, read_tasks

if TYPE_CHECKING:
    from peers.common import Array, Cells, Task

N_GENES = 2000
UNKNOWN = "Unknown"
# All of the following is of the tutorial "Reference mapping with scvi-tools".
FORM: dict[str, Any] = {
    "use_layer_norm": "both",
    "use_batch_norm": "none",
    "encode_covariates": True,
    "dropout_rate": 0.2,
    "n_layers": 2,
}
REFERENCE_EPOCHS = 20
SAMPLES_PER_LABEL = 100
QUERY_EPOCHS = 100
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


def prepare(cells: Cells, batch: str, labels: Array) -> ad.AnnData:
    """Return raw counts with the batch and the label of each cell."""
    index = np.char.add(f"{batch} ", np.arange(len(cells.labels)).astype(str))
    return ad.AnnData(
        cells.counts.copy(),
        obs=pd.DataFrame({"batch": batch, "label": labels}, index=index),
        var=pd.DataFrame(index=cells.symbols),
    )


def variable_genes(reference: ad.AnnData) -> Array:
    """Return the names of the most variable genes of the reference, at most ``N_GENES``."""
    if reference.n_vars <= N_GENES:
        return reference.var_names.to_numpy()
    # Loess needs genes that are expressed.
    expressed = reference[:, np.asarray(reference.X.sum(axis=0)).ravel() > 0].copy()
    sc.pp.highly_variable_genes(expressed, n_top_genes=N_GENES, flavor="seurat_v3")
    return expressed.var_names[expressed.var["highly_variable"]].to_numpy()


def annotate(task: Task, scvi_epochs: int | None) -> Array:
    """Fit scVI, then scANVI on the reference, fit the query's part and return its labels."""
    reference = prepare(task.reference, "reference", task.reference.labels)
    query = prepare(task.query, "query", np.full(len(task.query.labels), UNKNOWN))
    genes = variable_genes(reference[:, reference.var_names.isin(query.var_names)].copy())
    reference = reference[:, genes].copy()
    scvi.model.SCVI.setup_anndata(reference, batch_key="batch", labels_key="label")
    base = scvi.model.SCVI(reference, **FORM)
    base.train(max_epochs=scvi_epochs, **QUIET)
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNKNOWN)
    model.train(max_epochs=REFERENCE_EPOCHS, n_samples_per_label=SAMPLES_PER_LABEL, **QUIET)
    scvi.model.SCANVI.prepare_query_anndata(query, model)
    mapped = scvi.model.SCANVI.load_query_data(query, model, accelerator="cpu")
    mapped.train(max_epochs=QUERY_EPOCHS, plan_kwargs={"weight_decay": 0.0}, **QUIET)
    return np.asarray(mapped.predict(), str)


def main() -> None:
    """Score all tasks on the whole query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--scvi-epochs", type=int, help="of scVI on the reference; its own rule")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    rows = Rows(arguments.out)
    for task in read_tasks(arguments.folder):
        for seed in [int(s) for s in arguments.seeds.split(",")]:
            scvi.settings.seed = seed
            start = time.perf_counter()
            found = annotate(task, arguments.scvi_epochs)
            seconds = round(time.perf_counter() - start)
            rows.add(task, "all", "scANVI", found, seed=seed, seconds=seconds)


if __name__ == "__main__":
    main()
