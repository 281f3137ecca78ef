"""How many EM iterations are kept: by held-out studies where there are several, else by cells."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from scbignn_infer.model.bundle import EMIteration
from scbignn_training.sampling import place_in_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scbignn_training.data import Reference
    from scbignn_training.evaluate import Outcome

Array = np.ndarray[Any, Any]
STUDIES = "each study left out in turn"


def splits(
    reference: Reference, folds: int, seed: int, *, most: int = 5
) -> tuple[str, list[tuple[Array, Array]]]:
    """Return what is held out, and row numbers of training and held-out cells of each split.

    Each study is left out in turn, with all of its files and profiles, where there are several,
    else one fold of the cells. Where two or more studies are of real cells, these alone are left
    out and scored, since simulated ones resemble each other. Of more than ``most`` studies several
    are left out at once; with 0, none is. Held-out
    cells of a type that the rest does not know, and single cells of a type, are not scored. A
    study is not left out if the rest cannot be trained on or shares no type with it; if that is so
    of all, cells are held out.
    """
    rows = np.arange(len(reference.codes))
    study, simulated = reference.studies, reference.simulated
    real = np.unique(study[~simulated])
    left_out = real if len(real) > 1 else np.unique(study)
    scored = ~simulated if len(real) > 1 else np.ones(len(rows), dtype=bool)
    if len(left_out) > 1 and most > 0:
        place = {s: i % max(most, 2) for i, s in enumerate(left_out.tolist())}
        group = np.array([place.get(s, -1) for s in study.tolist()])
        pairs = [(rows[group != g], rows[(group == g) & scored]) for g in set(place.values())]
        known = [(inside, _known(reference, inside, outside)) for inside, outside in pairs]
        usable = [
            (inside, outside)
            for inside, outside in known
            if np.count_nonzero(np.bincount(reference.codes[inside]) >= folds) >= 2
            and np.bincount(reference.codes[outside]).max(initial=0) >= 2
        ]
        if usable:
            return STUDIES, usable
    order = np.random.default_rng(seed).permutation(rows)
    out = place_in_type(reference.codes, order) % folds == folds - 1
    return f"one of {folds} folds of the cells", [(rows[~out], rows[out])]


def _known(reference: Reference, inside: Array, outside: Array) -> Array:
    n = np.bincount(reference.codes[inside], minlength=len(reference.cell_types))
    return outside[n[reference.codes[outside]] >= 2]


def keep(
    outcomes: list[Iterator[Outcome]],
    tolerance: float,
    report: Callable[[EMIteration], None],
) -> tuple[list[EMIteration], list[Outcome]]:
    """Run all splits iteration by iteration and say which one is kept.

    Once an iteration is worse than the best by more than ``tolerance``, no further one is run.
    Of the iterations whose mean macro-F1 is within ``tolerance`` of the best, the latest: it has
    learned from the most studies, and validation within a study cannot tell them apart.

    Parameters
    ----------
    outcomes
        For each split, what iteration 0, 1, ... makes of its held-out cells.
    tolerance
        In macro-F1 of the pair.
    report
        Called after each iteration.

    Returns
    -------
    history, kept
        The iterations, and the outcomes of the kept one.
    """
    history: list[EMIteration] = []
    of_each: list[list[Outcome]] = []
    start = time.perf_counter()
    for i, found in enumerate(zip(*outcomes, strict=True)):
        of_each.append(list(found))
        row = EMIteration(
            iteration=i,
            gene_level_f1=float(np.mean([o.gene_level_f1 for o in found])),
            cell_level_f1=float(np.mean([o.cell_level_f1 for o in found])),
            kept=False,
            seconds=round(time.perf_counter() - start, 2),
        )
        start = time.perf_counter()
        history.append(row)
        report(row)
        if row.cell_level_f1 < max(h.cell_level_f1 for h in history) - tolerance:
            break
    best = max(h.cell_level_f1 for h in history)
    kept = max(h.iteration for h in history if h.cell_level_f1 >= best - tolerance)
    history[kept] = msgspec.structs.replace(history[kept], kept=True)
    return history, of_each[kept]
