"""CellTypist on the tasks of ``unseen.py``: how sure it is of each cell.

Run in ``benchmarks/``, in an environment as in ``peers/README.md``:
``python -m peers.celltypist_unseen FOLDER``. Trained with feature selection, as its tutorials do.
"""

from __future__ import annotations

import sys
from pathlib import Path

import celltypist
import numpy as np

from peers.celltypist_annotate import read


def main() -> None:
    """Write ``celltypist.npz`` into the folder of each task."""
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        if not (folder / "train.h5ad").exists() or (folder / "celltypist.npz").exists():
            continue
        train, query = read(folder / "train.h5ad"), read(folder / "query.h5ad")
        labels = train.obs["label"].astype(str).to_numpy()
        options = {"feature_selection": True, "n_jobs": 1, "random_state": 0}
        model = celltypist.train(train, labels, **options)
        found = celltypist.annotate(query, model)
        chances = found.probability_matrix.to_numpy()
        label = found.predicted_labels["predicted_labels"].to_numpy(str)
        np.savez(folder / "celltypist.npz", confidence=chances.max(axis=1), label=label)
        print(folder.name, flush=True)


if __name__ == "__main__":
    main()
