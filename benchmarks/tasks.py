"""What is benchmarked: cross-study pairs, folds within a study, and cuts of the query's genes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from sklearn.model_selection import StratifiedKFold

from scbignn_training.data import read_study
from scbignn_training.recipe import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
FILES = {
    "kang": "pbmc_kang_ifnb.h5ad",
    "pbmc3k": "pbmc3k_seurat.h5ad",
    "zheng": "pbmc_zheng_facs.h5ad",
    "baron": "pancreas_baron_human1.h5ad",
    "baron mouse": "mouse_pancreas_baron_mouse1.h5ad",
    "neuca": "pancreas_baron_neuca_2000g.h5ad",
    "segerstolpe": "pancreas_segerstolpe_neuca_2000g.h5ad",
    "kidney": "scdcc_human_kidney_2000g.h5ad",
}
PBMC_PAIRS = (
    ("kang", "pbmc3k"),
    ("pbmc3k", "kang"),
    ("pbmc3k", "zheng"),
    ("zheng", "pbmc3k"),
    ("kang", "zheng"),
)
PAIRS = (
    *PBMC_PAIRS,
    ("baron", "segerstolpe"),
    ("neuca", "segerstolpe"),
    ("baron", "neuca"),
)
FOLDS = tuple((study, fold) for study in ("zheng", "kidney", "baron") for fold in (0, 1))
PAPER = ("baron", "baron mouse", "zheng")
"""Studies of the paper of which some cells are at hand."""
RARE = ("baron", "baron mouse")
"""Studies with types of few cells."""
PANELS = tuple((n, top) for n in (2000, 1000, 500) for top in (0, 5, 20, 50))
UNLABELLED = Source(
    file="pbmc_10studies_UNLABELLED_3000.h5ad",
    exclude={"batch": ["GSE115189*"]},  # carries the barcodes of pbmc3k
)
MIN_REFERENCE_CELLS = 3


@dataclass(frozen=True)
class Task:
    """One reference and one query, with labels of both.

    The query holds only cells whose type occurs in the reference, so that scores are of what a
    model can know.
    """

    name: str
    reference: Study
    query: Study


@cache
def study(name: str, label_key: str) -> Study:
    """Read one study."""
    return read_study(Source(file=FILES[name]).locate(), label_key=label_key)


def rows(cells: Study, keep: Array) -> Study:
    """Return some of the cells."""
    return replace(cells, counts=cells.counts[keep], labels=cells.labels[keep])


def make(name: str, reference: Study, query: Study) -> Task:
    """Drop types with under three reference cells, and query cells of unknown types."""
    types, n = np.unique(reference.labels.astype(str), return_counts=True)
    known = types[n >= MIN_REFERENCE_CELLS]
    inside = np.isin(reference.labels.astype(str), known)
    outside = np.isin(query.labels.astype(str), known)
    return Task(name, rows(reference, inside), rows(query, outside))


def pair(reference: str, query: str) -> Task:
    """Return a cross-study pair, on the common labels."""
    parts = (study(name, "cell_type_common") for name in (reference, query))
    return make(f"{reference} -> {query}", *parts)


def fold(name: str, number: int) -> Task:
    """Return one of five folds within a study, on its finest labels."""
    cells = study(name, "cell_type")
    split = StratifiedKFold(5, shuffle=True, random_state=0)
    inside, outside = list(split.split(cells.labels, cells.labels.astype(str)))[number]
    return make(f"{name} #{number}", rows(cells, inside), rows(cells, outside))


def panels(task: Task) -> Iterator[tuple[str, Study]]:
    """Yield the query cut to 2,000, 1,000 and 500 genes.

    Genes are taken by their variance in the query, after the 0, 5, 20 or 50 genes that tell each
    type best in the *query* were removed: cuts that a file might have, and cruel ones.
    """
    counts, labels = task.query.counts, task.query.labels.astype(str)
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    x = sp.csc_matrix(sp.diags_array(1e4 / totals) @ counts).log1p()
    mean = np.asarray(x.mean(axis=0)).ravel()
    variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
    by_variance = np.argsort(-variance, kind="stable")
    best = []
    for label in np.unique(labels):
        difference = np.asarray(x[np.flatnonzero(labels == label)].mean(axis=0)).ravel() - mean
        best.append(np.argsort(-difference / np.sqrt(variance + 1e-3), kind="stable"))
    for size, top in PANELS:
        gone = {int(g) for order in best for g in order[:top]}
        kept = np.sort([g for g in by_variance if int(g) not in gone][:size])
        cut = replace(
            task.query,
            counts=sp.csr_matrix(counts[:, kept]),
            symbols=[task.query.symbols[i] for i in kept],
            ensembl_ids=[task.query.ensembl_ids[i] for i in kept],
        )
        yield f"{size} genes without {top}", cut
