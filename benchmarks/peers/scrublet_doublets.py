"""Scrublet on the files with doublets that ``benchmarks/doublets.py --export`` wrote.

Run in ``benchmarks/``, in an environment of its own (``pip install scrublet "setuptools<81"``;
0.2.3 here): ``python -m peers.scrublet_doublets FOLDER --out FILE.json``. All settings are its own
defaults; the expected rate of doublets is the true one. By default only the files of the first seed
are looked at (``--seeds 0,1,2`` takes all).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scrublet
from sklearn.metrics import roc_auc_score


def main() -> None:
    """Write a JSON list of scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    seeds = [int(s) for s in arguments.seeds.split(",")]
    done = []
    for path in sorted(arguments.folder.glob("*.npz")):
        row = json.loads(path.with_suffix(".json").read_text())
        if row["seed"] not in seeds:
            continue
        counts, n = sp.csc_matrix(sp.load_npz(path)), row["cells"]
        made = np.arange(counts.shape[0]) >= n
        finder = scrublet.Scrublet(counts, expected_doublet_rate=float(made.mean()))
        few = min(30, counts.shape[0] - 1)
        score, named = finder.scrub_doublets(verbose=False, n_prin_comps=few)
        row |= {"method": "scrublet", "auroc": round(float(roc_auc_score(made, score)), 4)}
        if named is not None:  # it finds no threshold in some files
            row["cells_named"] = round(float(named[~made].mean()), 4)
            row["doublets_named"] = round(float(named[made].mean()), 4)
        print(row, flush=True)
        done.append(row)
    arguments.out.write_text("[\n" + ",\n".join(map(json.dumps, done)) + "\n]\n")


if __name__ == "__main__":
    main()
