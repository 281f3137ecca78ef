"""Write the golden outputs: labels and scores of the shipped example under the shipped models.

Run ``python tests/golden/make.py`` after a shipped model was trained anew, and look at the change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scbignn_infer.annotator import Annotator
from scbignn_infer.query.readers import open_query

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
GOLDEN = {
    "pbmc700": ("human-pbmc", REPOSITORY / "scbignn_infer" / "examples" / "pbmc700.h5ad"),
    "pancreas400": ("human-pancreas", REPOSITORY / "tests" / "data" / "pancreas400.h5ad"),
}


def run(name: str) -> dict[str, np.ndarray]:
    """Annotate one file on one thread."""
    model, path = GOLDEN[name]
    annotator = Annotator.load(REPOSITORY / "exported_models" / model, device="cpu", threads=1)
    with open_query(path) as query:
        found = annotator.annotate_query(query)
    return {
        "labels": found.labels.astype(str),
        "best_labels": found.best_labels.astype(str),
        "gene_level_labels": found.gene_level_labels.astype(str),
        "probabilities": found.probabilities,
        "neighbor_agreement": found.neighbor_agreement,
        "novelty": found.novelty,
        "embedding": found.embedding,
        "model_sha256": np.array(annotator.bundle.sha256),
    }


if __name__ == "__main__":
    for name in GOLDEN:
        np.savez_compressed(HERE / f"{name}.npz", **run(name))
