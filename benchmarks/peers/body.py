"""Peers on the files of the body models, trained on the same simulated cells or on the profiles.

Run in ``benchmarks/``, in an environment as in ``peers/README.md``:
``python -m peers.body FOLDER --methods singler,logistic,celltypist``, FOLDER from
``body.py --export``. Each method writes the scores of each class for each cell; ``body.py --peers``
reads them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

Array = np.ndarray[Any, Any]
Scores = Callable[[sp.csr_matrix, Array], Array]
HVG, C, LIMIT = 1500, 0.01, 10.0
"""The most variable genes, on which the regressions are trained in time; the logistic regression's
strength, and its largest z-score."""


def read(path: Path) -> tuple[sp.csr_matrix, Array, dict[str, Array]]:
    """Return counts, gene symbols and what else a file of ``body.py --export`` holds."""
    with np.load(path) as file:
        parts = {name: file[name] for name in file.files}
    shape = len(parts["indptr"]) - 1, len(parts["symbols"])
    counts = sp.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape)
    return counts, parts["symbols"], parts


def log1p(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Return log1p of counts scaled to 10,000."""
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return sp.csr_matrix(sp.diags_array(1e4 / totals) @ counts).log1p()


def variable(x: sp.csr_matrix) -> tuple[Array, Array, Array]:
    """Return the most variable genes, their means and standard deviations."""
    mean = np.asarray(x.mean(axis=0)).ravel()
    variance = np.asarray(x.power(2).mean(axis=0)).ravel() - mean**2
    best = np.argsort(-variance / (mean + 0.05), kind="stable")[:HVG]
    return best, mean[best], np.sqrt(variance[best]) + 1e-3


def logistic(reference: Path) -> Scores:
    """Train a multinomial regression on z-scores of the most variable genes."""
    from sklearn.linear_model import LogisticRegression

    counts, symbols, more = read(reference)
    x = log1p(counts)
    best, mean, sd = variable(x)

    def scaled(values: sp.csr_matrix) -> Array:
        z: Array = np.clip((values.toarray() - mean) / sd, -LIMIT, LIMIT).astype(np.float32)
        return z

    model = LogisticRegression(C=C, max_iter=60, tol=1e-3).fit(scaled(x[:, best]), more["codes"])

    def score(query: sp.csr_matrix, names: Array) -> Array:
        found: Array = model.decision_function(scaled(_columns(log1p(query), names, symbols[best])))
        return _spread(found, model.classes_, len(more["labels"]))

    return score


def celltypist(reference: Path) -> Scores:
    """Train CellTypist by stochastic gradient descent, as its documentation says for many types."""
    import anndata as ad
    import celltypist as peer
    import pandas as pd

    counts, symbols, more = read(reference)
    best = variable(log1p(counts))[0]

    def table(values: sp.csr_matrix, names: Array) -> ad.AnnData:
        index = np.arange(values.shape[0]).astype(str)
        var = pd.DataFrame(index=names)
        return ad.AnnData(log1p(values), obs=pd.DataFrame(index=index), var=var)

    labels = more["codes"].astype(str)
    model = peer.train(
        table(counts, symbols)[:, best].copy(),
        labels,
        n_jobs=1,
        use_SGD=True,
        check_expression=False,
        random_state=0,
    )

    def score(query: sp.csr_matrix, names: Array) -> Array:
        found = peer.annotate(table(query, names), model).decision_matrix
        return _spread(found.to_numpy(), found.columns.astype(int), len(more["labels"]))

    return score


def singler(reference: Path) -> Scores:
    """Give SingleR the profiles themselves, a sample each."""
    import singler as peer

    _, _, more = read(reference)
    profiles, symbols = np.log2(1 + 1e4 * more["means"].T), more["symbols"].tolist()
    labels = more["mean_codes"].astype(str).tolist()

    def score(query: sp.csr_matrix, names: Array) -> Array:
        found = peer.annotate_single(
            test_data=sp.csc_matrix(log1p(query).T),
            test_features=names.tolist(),
            ref_data=profiles,
            ref_features=symbols,
            ref_labels=labels,
        )
        every = found["scores"]
        columns = [str(c) for c in every.column_names]
        scores = np.stack([np.asarray(every.column(c)) for c in columns], axis=1)
        return _spread(scores, np.array(columns, int), len(more["labels"]))

    return score


def _columns(x: sp.csr_matrix, names: Array, wanted: Array) -> sp.csr_matrix:
    """Return the wanted genes; those that there are not are 0."""
    place = {s: i for i, s in enumerate(names.tolist())}
    known = [j for j, s in enumerate(wanted.tolist()) if s in place]
    rows = x[:, [place[wanted[j]] for j in known]].tocoo()
    to = np.array(known)[rows.col]
    return sp.csr_matrix((rows.data, (rows.row, to)), (x.shape[0], len(wanted)))


def _spread(found: Array, classes: Any, n: int) -> Array:
    scores = np.full((len(found), n), -1e6, np.float32)
    scores[:, np.asarray(classes)] = found
    return scores


METHODS = {"SingleR": singler, "logistic regression": logistic, "CellTypist": celltypist}


def main() -> None:
    """Score the files of all species."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    arguments = parser.parse_args()
    for reference in sorted(arguments.folder.glob("*/reference.npz")):
        for method in arguments.methods.split(","):
            start = time.perf_counter()
            score = METHODS[method](reference)
            trained = time.perf_counter() - start
            for path in sorted(reference.parent.glob("query *.npz")):
                counts, symbols, _ = read(path)
                scores = score(counts, symbols)
                name = path.name.replace("query ", f"{method} ", 1)
                np.savez(path.with_name(name), scores=scores, seconds=np.array(trained))
                print(reference.parent.name, name, round(time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
