"""Write the bundle of the present format version, frozen: packed, with the labels that it gives.

Run ``python tests/bundles/make.py`` once for a format version, when it is released, and never
again: what is here must stay readable. The small model is trained in seconds on half of the genes.
If labels change on purpose, ``python tests/bundles/make.py --labels`` stores those of the bundles
that are here, and the changelog says so.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

from scbignn_infer import __version__
from scbignn_infer.annotator import Annotator
from scbignn_infer.model.bundle import FORMAT_VERSION, read_bundle
from scbignn_infer.sharing.packing import write_packed

HERE = Path(__file__).parent
CELLS = HERE.parent / "data" / "pancreas400.h5ad"
ARRAYS = ("probabilities", "neighbor_agreement", "novelty", "residual", "embedding")
LABELS = ("labels", "best_labels", "gene_level_labels")


def run(path: Path) -> dict[str, np.ndarray]:
    """Label every third cell with a bundle, on one thread."""
    cells = ad.read_h5ad(CELLS)[::3]
    annotator = Annotator.load(path, device="cpu", threads=1)
    found = annotator.annotate_matrix(sp.csr_matrix(cells.X), list(cells.var_names))
    labels = {name: np.asarray(getattr(found, name)).astype(str) for name in LABELS}
    return labels | {name: np.asarray(getattr(found, name), np.float32) for name in ARRAYS}


def train(folder: Path) -> Path:
    """Train a small model on the other cells."""
    import torch

    from scbignn_training.pack import write_bundle
    from scbignn_training.recipe import Recipe, Source
    from scbignn_training.settings import Settings
    from scbignn_training.train import train as fit

    torch.set_num_threads(1)
    cells = ad.read_h5ad(CELLS)
    rows, genes = np.arange(cells.n_obs) % 3 > 0, np.arange(cells.n_vars) % 2 == 0
    cells[rows, genes].copy().write_h5ad(folder / "cells.h5ad")
    recipe = Recipe(
        name=f"frozen-{FORMAT_VERSION}",
        version="1",
        description="A small model of human islets for tests.",
        tissue="pancreas",
        licence="BSD-3-Clause",
        label_key="cell_type",
        reference=[Source(file=str(folder / "cells.h5ad"), citation="Baron et al. 2016")],
        settings=Settings(
            gene_epochs=4,
            em_iterations=0,
            folds=2,
            cell_epochs=4,
            net_genes=200,
            ranked_genes=600,
            panel_genes=300,
            factors=8,
            graph_factors=8,
            embedding_size=16,
        ),
    )
    return write_bundle(fit(recipe), recipe, folder)


def store() -> None:
    """Write what each frozen bundle says."""
    for path in sorted(HERE.glob("*.scbignn.zip")):
        np.savez_compressed(HERE / path.name.replace(".scbignn.zip", ".npz"), **run(path))


def main() -> None:
    """Write the packed bundle and what it says."""
    target = HERE / f"format-{FORMAT_VERSION}.scbignn.zip"
    if target.exists():
        raise SystemExit(f"{target} is frozen")
    with tempfile.TemporaryDirectory() as folder:
        bundle = read_bundle(train(Path(folder)))
        write_packed(bundle, target)
    store()
    about = {"made_with": __version__, "bundle_sha256": bundle.sha256}
    target.with_name(f"format-{FORMAT_VERSION}.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    store() if sys.argv[1:] == ["--labels"] else main()
