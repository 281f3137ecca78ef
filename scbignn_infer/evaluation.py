"""Scores of labels against the truth, in plain numpy."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.errors import InputError
from scbignn_infer.model.cell_ontology import plain, term_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from scbignn_infer._types import Array


NO_JOINS: Mapping[str, Collection[str]] = {}
"""Labels are types alone."""


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
    """How far two labellings agree on the cells that both label."""

    n_cells: int
    share: float
    """Of the cells, those with the same label."""
    kappa: float
    """The share beyond what chance would give, Cohen's (1960)."""
    pairs: list[tuple[str, str, int]]
    """Label of the first, of the second, and cells; the most frequent pairs that differ."""


@dataclass(frozen=True)
class Depths:
    """How the final labels of the scored cells compare with the truth along the ontology.

    Cells are counted. A label is ``finer`` if the truth joins its types with others, ``coarser`` if
    it joins the types of the truth with others.
    """

    right: int
    finer: int
    coarser: int
    wrong: int
    unknown: int

    @property
    def true_share(self) -> float | None:
        """Share of the labels given that are true: right, finer or coarser; ``None`` of none."""
        called = self.right + self.finer + self.coarser + self.wrong
        return 1 - self.wrong / called if called else None

    @property
    def said(self) -> str:
        """One line that says it; empty without labels."""
        if self.true_share is None:
            return ""
        counts = [f"{n:,} {kind}" for kind, n in asdict(self).items() if kind != "unknown"]
        return f"{', '.join(counts)}; {self.true_share:.1%} are true"


@dataclass(frozen=True)
class Scores:
    """How well the cells whose true type the model knows were labelled."""

    n_cells: int
    """Cells that were scored."""
    left_out: dict[str, int]
    """Cells that were not, by their true label, most frequent first."""
    accuracy: float
    """Of the best label, as the macro-F1."""
    macro_f1: float
    """Mean over the types present in the truth."""
    unknown_share: float
    """Share of the scored cells that were called unknown."""
    called_accuracy: float | None
    """Accuracy among the cells that were not, or ``None`` where all were."""
    per_class: dict[str, ClassScores]
    """Of each type present in the truth."""
    labels: list[str]
    """Types present in the truth or among the best labels."""
    confusion: Array
    """(len(labels), len(labels)) cells by true type (row) and best label (column)."""
    calibration_error: float | None = None
    """Accuracy less confidence, absolute, mean over the cells, in ten bins of confidence (Naeini et
    al. 2015); ``None`` without confidences."""
    reliability: tuple[ReliabilityBin, ...] = ()
    """The bins that hold cells."""
    depths: Depths | None = None
    """Of the final labels; ``None`` where they are not known."""

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as JSON can hold them."""
        told = asdict(self) | {"confusion": self.confusion.tolist()}
        if self.depths is not None:
            told["depths"] |= {"true_share": self.depths.true_share}
        return told


def same_meaning(
    labels: Collection[str], cell_types: Sequence[str], joins: Collection[str] = ()
) -> dict[str, str]:
    """Map labels that say in other words what a model does to the model's own.

    Names are the same but for case, signs, plurals and the word "cell", or mean the same term of
    the Cell Ontology. Where several of the model's labels would do, one that joins types goes
    first, and a label that could be either of two types is left out.
    """
    own = dict.fromkeys([*joins, *cell_types])
    found: dict[str, str] = {}
    for says in (plain, term_of):
        said: dict[str, list[str]] = {}
        for name in own:
            said.setdefault(says(name), []).append(name)
        for label in labels:
            same = said.get(says(label), []) if label and says(label) else []
            if label not in own and (len(same) == 1 or (same and same[0] in joins)):
                found.setdefault(label, same[0])
    return found


def score(
    truth: Array,
    best: Array,
    called: Array,
    cell_types: Sequence[str],
    *,
    confidence: Array | None = None,
    final: Array | None = None,
    joins: Mapping[str, Collection[str]] = NO_JOINS,
) -> Scores:
    """Compare labels with the truth; an InputError says that the model knows no true label.

    ``best`` (n,) are labels without rejection, with their ``confidence``; ``called`` tells where
    the ``final`` one is not unknown. ``joins`` maps labels that join types to these. Cells whose
    true label is neither a type nor such a label are left out; a best label below the true one is
    right.
    """
    known = np.isin(truth, [*cell_types, *joins])
    names, counts = np.unique(truth[~known], return_counts=True)
    left_out = {str(names[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}
    if not known.any():
        raise InputError(
            f"the model knows none of the true labels ({', '.join(left_out) or 'no cells'})",
            expected=f"some of {', '.join(cell_types)}",
            do="rename the labels with --map, or choose another --truth or model",
        )
    truth, best, called = truth[known], best[known], called[known]
    below = [b in joins.get(t, ()) for t, b in zip(truth, best, strict=True)]
    best = np.where(below, truth, best)
    bins = () if confidence is None else reliability(confidence[known], truth == best)
    met = {*truth, *best}
    labels = [c for c in (*cell_types, *joins) if c in met]
    labels = list(dict.fromkeys(labels))
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
        depths=None if final is None else depths(truth, final[known], called, joins),
    )


def depths(
    truth: Array, final: Array, called: Array, joins: Mapping[str, Collection[str]] = NO_JOINS
) -> Depths:
    """Tell right labels (n,) from finer, coarser and wrong ones; those not called are unknown."""
    types = {label: frozenset(joins.get(label, (label,))) for label in {*truth, *final}}
    n: Counter[str] = Counter()
    pairs = Counter(zip(truth.tolist(), final.tolist(), called.tolist(), strict=True))
    for (true, said, is_called), cells in pairs.items():
        a, b = types[said], types[true]
        met = "right" if said == true else "finer" if a < b else "coarser" if b < a else "wrong"
        n[met if is_called else "unknown"] += cells
    return Depths(n["right"], n["finer"], n["coarser"], n["wrong"], n["unknown"])


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
    """Compare two labellings (n,) of the same cells; those without a label in either are left out.

    At most ``most`` pairs of different labels are listed. An InputError says that no cell has both.
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
