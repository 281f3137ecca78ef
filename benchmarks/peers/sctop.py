"""scTOP: cells projected on the mean profiles of the reference's types.

Run in ``benchmarks/``, with this project's Python: ``python -m peers.sctop FOLDER --out
results/sctop.json``, FOLDER from ``peers.export_tasks``. The formula of Yampolskaya et al. 2023,
Development 150:dev201873, as the package ``sctop`` 2.0.3 has it (``process`` and ``score`` at their
defaults, no selection of genes): genes become normal scores by their rank in the cell, and a cell
gets the type with the largest coefficient of a least-squares fit by the types' profiles.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.stats import norm, rankdata

from peers.common import Rows, read_tasks

if TYPE_CHECKING:
    from peers.common import Array, Cells

MANY = 100
"""Cells of a type whose profile is no more as sparse as a single cell's."""
BLOCK = 500
"""Cells that are dense at a time."""


def shares(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Scale each cell to a total of 1."""
    totals = np.asarray(counts.sum(axis=1), float).ravel()
    return sp.csr_matrix(sp.diags_array(1 / np.where(totals > 0, totals, 1)) @ counts)


def normal_scores(x: Array) -> Array:
    """Return the normal scores of the ranks in each row (n, g), rows of length 1."""
    z = norm.ppf(rankdata(x, axis=1) / (x.shape[1] + 1))
    scored: Array = z / np.linalg.norm(z, axis=1, keepdims=True)
    return scored


def annotate(reference: Cells, query: Cells) -> dict[str, Array]:
    """Return the best label of each cell, by all types and by those of many cells."""
    _, own, other = np.intersect1d(reference.symbols, query.symbols, return_indices=True)
    types, codes, n = np.unique(reference.labels, return_inverse=True, return_counts=True)
    x = shares(reference.counts)
    means = np.array([np.asarray(x[codes == c].mean(axis=0)).ravel() for c in range(len(types))])
    basis = normal_scores(means)[:, own]
    bases = {"scTOP": n > 0, f"scTOP, types of {MANY} cells": n >= MANY}
    fits = {m: np.linalg.solve(b @ b.T, b) for m, k in bases.items() if len(b := basis[k])}
    found: dict[str, list[Array]] = {method: [] for method in fits}
    for start in range(0, query.counts.shape[0], BLOCK):
        z = normal_scores(shares(query.counts[start : start + BLOCK]).toarray())[:, other]
        for method, fit in fits.items():
            found[method].append(types[bases[method]][(z @ fit.T).argmax(axis=1)])
    return {method: np.concatenate(parts) for method, parts in found.items()}


def main() -> None:
    """Score all tasks on the whole query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = Rows(arguments.out)
    for task in read_tasks(arguments.folder):
        for method, labels in annotate(task.reference, task.query).items():
            rows.add(task, "all", method, labels)


if __name__ == "__main__":
    main()
