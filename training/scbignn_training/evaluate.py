"""Scores of held-out cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import f1_score

from scbignn_infer.model.bundle import Confusion

if TYPE_CHECKING:
    from scbignn_training.calibrate import Probe

Array = np.ndarray[Any, Any]
CONFUSED_SHARE = 0.05
CONFUSED_CELLS = 3
MOST_CONFUSIONS = 20


@dataclass(frozen=True)
class Outcome:
    """What a pair of levels makes of cells that it has not seen.

    Attributes
    ----------
    gene_level_f1, cell_level_f1
        Macro-F1 of the gene level alone and of the pair, mean over views of the cells.
    truth, called
        (n,) label codes of the cells as they are, and what the pair calls them.
    logits
        (n, c) of the cell level, where the types are those of all cells.
    batches
        (n,) study of each cell, where it is known.
    distance, residual
        (n,) how strange the cells are, where that was asked.
    probes
        The cells as they are, and cut to fewer genes; types are those that the pair knows.
    """

    gene_level_f1: float
    cell_level_f1: float
    truth: Array
    called: Array
    logits: Array
    batches: Array = field(default_factory=lambda: np.empty(0, np.int64))
    distance: Array = field(default_factory=lambda: np.empty(0))
    residual: Array = field(default_factory=lambda: np.empty(0))
    probes: list[Probe] = field(default_factory=list)


def macro_f1(truth: Array, predicted: Array) -> float:
    """Mean F1 over the types that occur in the truth."""
    return float(
        f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    )


def f1_per_type(truth: Array, predicted: Array, cell_types: list[str]) -> dict[str, float]:
    """F1 of each type that occurs in the truth."""
    present = np.unique(truth)
    scores = f1_score(truth, predicted, labels=present, average=None, zero_division=0)
    return {cell_types[c]: round(float(s), 4) for c, s in zip(present, scores, strict=True)}


def confusions(truth: Array, called: Array, cell_types: list[str]) -> list[Confusion]:
    """Pairs of types of which the second takes many cells of the first, worst first."""
    n_types = len(cell_types)
    counts = np.bincount(truth * n_types + called, minlength=n_types**2).reshape(n_types, n_types)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(share, 0)
    pairs = np.argwhere((share > CONFUSED_SHARE) & (counts >= CONFUSED_CELLS))
    worst = sorted(pairs.tolist(), key=lambda pair: -share[tuple(pair)])[:MOST_CONFUSIONS]
    return [
        Confusion(
            truth=cell_types[i],
            called=cell_types[j],
            share=round(float(share[i, j]), 4),
            n=int(counts[i, j]),
        )
        for i, j in worst
    ]
