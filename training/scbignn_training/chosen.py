"""Which cells of a file are read, decided by its columns alone: before any count is."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scbignn_infer.errors import InputError
from scbignn_training.described import LABEL, TERM, Described, described
from scbignn_training.ontology import name_of
from scbignn_training.sampling import quotas, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer.query.readers import Query

Array = np.ndarray[Any, Any]
MOST_CELLS, MOST_VALUES = 200_000, 150_000_000
"""Cells that a training reads at most, and what these may hold that is not zero, unless it is told
otherwise: 1.2 GB, of which it keeps up to four copies."""


@dataclass(frozen=True)
class Wanted:
    """Which cells of a file are read, and as what.

    Attributes
    ----------
    label_key
        Column of ``obs`` with the labels; none for unlabelled cells, and an empty string for the
        one of the CELLxGENE schema.
    exclude
        Patterns by column of ``obs``; cells that match one are left out.
    study_key
        Columns that together tell the studies of the file apart.
    most_per_type
        Of more cells of a type, a sample as even as possible over the studies; 0 for all.
    most
        Of more cells in all, a sample with small types whole; 0 for all.
    most_values
        Of cells that hold more than so many values that are not zero, a smaller sample; 0 for any.
    seed
        Of the samples.
    """

    label_key: str | None = None
    exclude: Mapping[str, Sequence[str]] = field(default_factory=dict)
    study_key: Sequence[str] = ()
    most_per_type: int = 0
    most: int = 0
    most_values: int = 0
    seed: int = 0

    def room(self, values_per_cell: float) -> int:
        """Return how many cells that hold so many values may be read; 0 for all."""
        if not self.most_values:
            return self.most
        fit = max(1, int(self.most_values / max(values_per_cell, 1.0)))
        return min(fit, self.most or fit)


class Chosen(NamedTuple):
    """The cells of a file, before any count is read."""

    keep: Array
    labels: Array
    studies: Array | None
    ontology: dict[str, str]
    told: Described
    left_out: dict[str, int]


def choose_cells(query: Query, wanted: Wanted, values_per_cell: float) -> Chosen:
    """Decide by the columns of a file which of its cells are read."""
    told = described(query)
    key = wanted.label_key
    if key == "":
        if told is None:
            raise InputError(
                f"{query.name} does not say by the CELLxGENE schema which column has the labels",
                expected="the name of that column of obs",
                do="give it with --label-key (label_key in a recipe)",
            )
        key = LABEL
    labels = np.full(query.n_cells, "", object) if key is None else _labels(query, key, told)
    left_out: dict[str, int] = {}
    keep = np.ones(query.n_cells, dtype=bool)
    if key is not None and told and told.secondary is not None and told.secondary.any():
        if told.secondary.all():
            raise InputError(
                f"all {query.n_cells:,} cells of {query.name} have is_primary_data False",
                expected="cells of the study's own: these are copies of other files' cells",
                do="train on the file that has them first, or remove the column",
            )
        keep &= ~told.secondary
        left_out["is_primary_data is False"] = int(told.secondary.sum())
    for name, patterns in wanted.exclude.items():
        values = column(query, name)
        keep &= np.array([not any(fnmatch(v, p) for p in patterns) for v in values])
    studies = None
    if wanted.study_key:
        parts = [column(query, name, "--study-key") for name in wanted.study_key]
        studies = np.array([" / ".join(map(str, row)) for row in zip(*parts, strict=True)], object)
    room = wanted.room(values_per_cell)
    if (key is not None and wanted.most_per_type) or room:
        rows = np.flatnonzero(keep)
        groups = None if studies is None else studies[rows]
        chosen, beyond = _sample(labels[rows], groups, wanted, room)
        keep = np.isin(np.arange(query.n_cells), rows[chosen])
        left_out |= beyond
    ontology: dict[str, str] = {}
    if told and told.terms is not None and key is not None:
        ontology = {
            str(label): str(term)
            for label, term in dict.fromkeys(zip(labels[keep], told.terms[keep], strict=True))
            if label and term
        }
    return Chosen(keep, labels, studies, ontology, told or Described(), left_out)


def _sample(
    labels: Array, studies: Array | None, wanted: Wanted, room: int
) -> tuple[Array, dict[str, int]]:
    """Return rows of cells that are few enough, and how many others there are, by the reason."""
    n = len(labels)
    most = wanted.most_per_type or n
    if n <= min(most, room or n):
        return np.arange(n), {}
    _, codes = np.unique(labels.astype(str), return_inverse=True)
    groups = np.zeros(n, np.int64)
    if studies is not None:
        _, groups = np.unique(studies.astype(str), return_inverse=True)
    each = np.minimum(np.bincount(codes), most)
    few = quotas(each, room) if room else each
    lost = {
        "beyond --max-cells-per-type": n - int(each.sum()),
        "beyond --max-cells": int((each - few).sum()),
    }
    rows = spread(codes, groups, few, wanted.seed)
    return rows, {reason: m for reason, m in lost.items() if m}


def _labels(query: Query, key: str, told: Described | None) -> Array:
    """Return the labels of a column; of one of ontology ids, their names."""
    labels = column(query, key)
    if told is None or key != TERM:
        return labels
    return np.array([name_of(term) or term for term in labels], dtype=object)


def column(query: Query, name: str, option: str = "--label-key") -> Array:
    """Return a column (n,) of a file as strings."""
    try:
        return np.array(query.obs_column(name), dtype=object)
    except InputError as error:
        raise InputError(
            error.found,
            expected=error.expected,
            do=f"choose with {option} (or in the recipe)",
        ) from None
