"""Joined files: genes that part of the cells never show, because their file did not have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.network.blas import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from scbignn_infer._types import Array

SHOWN = 0.5
"""Share of the other cells that show a gene of which silence is told."""
SAMPLE = 256
"""Cells that are looked at."""
SURE_CELLS = 16
"""A gene that half of the cells show is silent in so many by chance once in 65,536 times."""
FEWEST_CELLS = 2 * SURE_CELLS
"""Of fewer, part and others together, nothing is told."""
SEGMENTS = 16
"""Stretches of the file that are looked at where no batches are given."""
AXES = 2
"""Directions in which the cells differ most, along which they are divided, too."""
ENOUGH_GENES = 20
"""So many genes that most other cells show are enough to tell."""
MANY_SILENT = 0.08
"""Share of such genes that are silent in part of the cells, above which files were joined (at most
0.06 in eleven studies, in any order; that is fetal beside adult brain)."""


def shown_genes(rows: sp.csr_matrix, cells: Array) -> Array:
    """Return which genes some of the rows show, 8 to a byte, to be asked later."""
    return np.packbits(rows[cells].toarray() > 0, axis=1)


@one_blas_thread()
def silent_genes(shows: Array, batches: Sequence[Array] = ()) -> tuple[float, float]:
    """Tell which share of common genes part of the cells never show, and how large that part is.

    Both are zero if hardly a gene is silent. ``shows`` (n, n_genes) is of sampled cells in the
    order of the file, and ``batches`` are which of these are of each batch. Without batches,
    stretches of the file are looked at, and the two sides of the directions in which the cells
    differ most.
    """
    n, total = len(shows), shows.sum(axis=0)
    if n < FEWEST_CELLS:
        return 0.0, 0.0
    worst, silent = 0.0, np.zeros(0, np.int64)
    for cells in batches or _parts(shows, total):
        if not SURE_CELLS <= len(cells) <= n - SURE_CELLS:
            continue
        inside = shows[cells].sum(axis=0)
        common = (total - inside) / (n - len(cells)) >= SHOWN
        share = float((inside[common] == 0).mean()) if common.sum() >= ENOUGH_GENES else 0.0
        if share > worst:
            worst, silent = share, np.flatnonzero(common & (inside == 0))
    if worst <= MANY_SILENT:
        return 0.0, 0.0
    return worst, float((~shows[:, silent].any(axis=1)).mean())


def _parts(shows: Array, total: Array) -> list[Array]:
    """Return stretches of the cells, and cells on either side of cuts and main directions."""
    n = len(shows)
    parts = list(np.array_split(np.arange(n), min(SEGMENTS, max(n // SURE_CELLS, 1))))
    for stretch in parts[1:]:
        parts += [np.arange(stretch[0]), np.arange(stretch[0], n)]
    common = np.argsort(-total, kind="stable")[:1000]
    values = shows[:, common].astype(np.float32)
    values -= values.mean(axis=0)
    _, vectors = np.linalg.eigh(values @ values.T)
    for axis in vectors[:, ::-1][:, :AXES].T:
        order = np.argsort(axis, kind="stable")
        cut = int(np.diff(axis[order]).argmax()) + 1
        parts += [order[:cut], order[cut:], np.flatnonzero(axis < 0), np.flatnonzero(axis > 0)]
    return parts
