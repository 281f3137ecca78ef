"""Scores of labels against the truth, in plain numpy."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer._types import Array


@dataclass(frozen=True)
class ClassScores:
    """How well one true cell type was found."""

    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True)
class ReliabilityBin:
    """Cells of like confidence: their mean confidence, how many of them are right, and how many."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Agreement:
    """How far two labellings of the same cells agree.

    Attributes
    ----------
    n_cells
        Cells that both label.
    share
        Of them, those with the same label.
    kappa
        The share beyond what chance would give, Cohen's (1960).
    pairs
        Label of the first, of the second, and cells; the most frequent pairs that differ.
    """

    n_cells: int
    share: float
    kappa: float
    pairs: list[tuple[str, str, int]]


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
    calibration_error, reliability
        Accuracy less confidence, absolute, mean over the cells, in ten bins of confidence (Naeini
        et al. 2015); and the bins that hold cells. ``None`` and empty without confidences.
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
    calibration_error: float | None = None
    reliability: tuple[ReliabilityBin, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as JSON can hold them."""
        return asdict(self) | {"confusion": self.confusion.tolist()}


def score(
    truth: Array,
    best: Array,
    called: Array,
    cell_types: Sequence[str],
    *,
    confidence: Array | None = None,
) -> Scores:
    """Compare labels with the truth.

    Parameters
    ----------
    truth, best
        (n,) true labels, and labels without rejection.
    called
        (n,) whether the final label is one of the model's, not unknown.
    cell_types
        The labels that the model knows; cells of another true label are left out.
    confidence
        (n,) of the best labels.

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
    bins = () if confidence is None else reliability(confidence[known], truth == best)
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
        calibration_error=calibration_error(bins),
        reliability=bins,
    )


def reliability(confidence: Array, right: Array, n_bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Return how often cells of like confidence are right, in bins from 0 to 1 that hold any."""
    place = np.minimum((confidence * n_bins).astype(np.int64), n_bins - 1)
    return tuple(
        ReliabilityBin(
            float(confidence[place == b].mean()),
            float(right[place == b].mean()),
            int((place == b).sum()),
        )
        for b in np.unique(place)
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float | None:
    """Return the expected calibration error of bins, ``None`` of none."""
    n = sum(b.n for b in bins)
    return sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / n if n else None


def agreement(first: Array, second: Array, *, most: int = 10) -> Agreement:
    """Compare two labellings of the same cells; those without a label in either are left out.

    Parameters
    ----------
    first, second
        (n,) labels.
    most
        Pairs of different labels to list.

    Raises
    ------
    InputError
        No cell has a label in both.
    """
    both = (first != "") & (second != "")
    if not both.any():
        raise InputError(
            "no cell has a label in both columns",
            expected="two labellings of the same cells",
            do="choose another column with --against",
        )
    pairs = Counter(zip(first[both].tolist(), second[both].tolist(), strict=True))
    n = int(both.sum())
    share = sum(count for (a, b), count in pairs.items() if a == b) / n
    sides = [Counter(side[both].tolist()) for side in (first, second)]
    chance = sum(sides[0][label] * sides[1][label] for label in sides[0]) / n**2
    kappa = (share - chance) / (1 - chance) if chance < 1 else 1.0
    differ = [(a, b, count) for (a, b), count in pairs.most_common() if a != b]
    return Agreement(n, share, kappa, differ[:most])
