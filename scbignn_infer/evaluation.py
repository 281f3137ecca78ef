"""Scores of labels against the truth, in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scbignn_infer.errors import InputError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ClassScores:
    """How well one true cell type was found."""

    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True)
class Scores:
    """How well the cells whose true type the model knows were labelled.

    Attributes
    ----------
    n_cells
        Cells that were scored.
    left_out
        Cells that were not, by their true label, most frequent first.
    accuracy, macro_f1
        Of the best label; macro-F1 is the mean over the types present in the truth.
    unknown_share
        Share of the scored cells that were called unknown.
    called_accuracy
        Accuracy among the cells that were not, or ``None`` where all were.
    per_class
        Scores of each type present in the truth.
    labels
        Types present in the truth or among the best labels.
    confusion
        (len(labels), len(labels)) cells by true type (row) and best label (column).
    """

    n_cells: int
    left_out: dict[str, int]
    accuracy: float
    macro_f1: float
    unknown_share: float
    called_accuracy: float | None
    per_class: dict[str, ClassScores]
    labels: list[str]
    confusion: Array

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as JSON can hold them."""
        return asdict(self) | {"confusion": self.confusion.tolist()}


def score(truth: Array, best: Array, called: Array, cell_types: Sequence[str]) -> Scores:
    """Compare labels with the truth.

    Parameters
    ----------
    truth, best
        (n,) true labels, and labels without rejection.
    called
        (n,) whether the final label is one of the model's, not unknown.
    cell_types
        The labels that the model knows; cells of another true label are left out.

    Raises
    ------
    InputError
        The model knows none of the true labels.
    """
    known = np.isin(truth, cell_types)
    names, counts = np.unique(truth[~known], return_counts=True)
    left_out = {str(names[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}
    if not known.any():
        raise InputError(
            f"the model knows none of the true labels ({', '.join(left_out) or 'no cells'})",
            expected=f"some of {', '.join(cell_types)}",
            do="rename the labels with --map, or choose another --truth or model",
        )
    truth, best, called = truth[known], best[known], called[known]
    met = {*truth, *best}
    labels = [c for c in cell_types if c in met]
    labels += sorted(met.difference(labels))
    code = {label: i for i, label in enumerate(labels)}
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, ([code[t] for t in truth], [code[b] for b in best]), 1)

    hits, n_true, n_best = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    per_class = {
        label: ClassScores(
            precision=float(hits[i] / max(n_best[i], 1)),
            recall=float(hits[i] / n_true[i]),
            f1=float(2 * hits[i] / (n_true[i] + n_best[i])),
            n=int(n_true[i]),
        )
        for i, label in enumerate(labels)
        if n_true[i]
    }
    right = truth == best
    return Scores(
        n_cells=len(truth),
        left_out=left_out,
        accuracy=float(right.mean()),
        macro_f1=float(np.mean([c.f1 for c in per_class.values()])),
        unknown_share=float(1 - called.mean()),
        called_accuracy=float(right[called].mean()) if called.any() else None,
        per_class=per_class,
        labels=labels,
        confusion=confusion,
    )
