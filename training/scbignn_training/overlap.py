"""Cells that stand in two of the studies that a model learns from."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scbignn_infer.errors import InputError
from scbignn_training.blocks import slices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
FEWEST_GENES = 20
"""Cells with counts on fewer of the common genes may be alike by chance."""
COPY = 0.5
"""From this share of a study's cells on, it is a copy of another."""


class Shared(NamedTuple):
    """Cells that two studies have in common."""

    studies: tuple[str, str]
    cells: int
    share: float
    """Of the smaller study's cells."""


def shared_cells(files: Sequence[Study]) -> list[Shared]:
    """Return which studies have cells in common, by their values of the genes that all have.

    Names of cells are not looked at: each export may give its own. Simulated cells do not count.
    """
    real = [f for f in files if not f.origin.simulated]
    if len(real) < 2:
        return []
    common = set(real[0].symbols).intersection(*(f.symbols for f in real[1:]))
    weight = dict(zip(sorted(common), _weights(len(common)), strict=True))
    prints = [_prints(file, weight) for file in real]
    n = list(map(len, prints))
    every, study = np.concatenate(prints), np.repeat(np.arange(len(real)), n)
    order = np.argsort(every, kind="stable")
    ends = np.flatnonzero(np.diff(every[order])) + 1
    both: Counter[tuple[int, int]] = Counter()
    starts, stops = np.append(0, ends), np.append(ends, len(every))
    several = np.flatnonzero(stops - starts > 1)
    for start, stop in zip(starts[several], stops[several], strict=True):
        both.update(combinations(study[order[start:stop]].tolist(), 2))
    return [
        Shared((real[i].origin.name, real[j].origin.name), cells, cells / min(n[i], n[j]))
        for (i, j), cells in sorted(both.items())
    ]


def refuse_copies(files: Sequence[Study]) -> None:
    """Refuse studies of which one is a copy or a part of another.

    A study that is left out would be seen all the same, so that what depends on it would be too
    sure: scores, temperature, and the bounds for unknown cells.

    Raises
    ------
    InputError
        At least half of the cells of a study stand in another.
    """
    for shared in shared_cells(files):
        if shared.share >= COPY:
            one, other = shared.studies
            raise InputError(
                f"{shared.cells:,} cells stand in both '{one}' and '{other}'",
                expected="each cell once, since a study that is left out must not be seen",
                do="leave out one of the two",
            )


def _weights(n: int) -> Array:
    return np.random.default_rng(0).integers(1, 1 << 63, n, dtype=np.uint64)


def _prints(file: Study, weight: dict[str, Any]) -> Array:
    """Return a number for each cell, the sum of its values by gene, each times that gene's weight.

    Sums are modulo 2 to the 64th, so that only the same values give the same number.
    """
    columns = np.array([i for i, symbol in enumerate(file.symbols) if symbol in weight], np.int64)
    own = np.array([weight[file.symbols[i]] for i in columns], np.uint64)
    parts = [np.zeros(0, np.uint64)]
    for rows in slices(file.counts.shape[0]):
        counts = file.counts[rows][:, columns]
        bits = counts.data.astype(np.float32).view(np.uint32).astype(np.uint64)
        ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(bits * own[counts.indices])])
        found = ends[counts.indptr[1:]] - ends[counts.indptr[:-1]]
        parts.append(found[np.diff(counts.indptr) >= FEWEST_GENES])
    enough: Array = np.unique(np.concatenate(parts))
    return enough
