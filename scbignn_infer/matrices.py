"""What a matrix holds: a verdict from rows sampled across the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError

State = Literal["counts", "log1p", "log1p-cut", "scaled", "non-finite", "empty", "unknown"]
USABLE: tuple[State, ...] = ("counts", "log1p", "log1p-cut")
"""States that can be annotated, best first."""
MAX_LOG1P = 12.0
"""log1p(1.6e5); a larger value of a log-normalised matrix would be a cell with one gene."""
SAMPLE_ROWS = 512


@dataclass(frozen=True)
class Verdict:
    """What one matrix holds.

    Attributes
    ----------
    state
        ``counts`` (non-negative, linear; whole or not), ``log1p`` (of the whole library scaled
        to one total), ``log1p-cut`` (log-normalised first, then reduced to some of the genes),
        ``scaled`` (negative values), ``non-finite``, ``empty`` or ``unknown``.
    reason
        The observation that decided.
    """

    state: State
    reason: str

    @property
    def usable(self) -> bool:
        """Whether cells can be labelled from it."""
        return self.state in USABLE


def sample_rows(n_rows: int, n: int = SAMPLE_ROWS) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return up to ``n`` row numbers spread evenly over ``n_rows``, in ascending order."""
    return np.unique(np.linspace(0, max(n_rows - 1, 0), min(n, n_rows)).astype(np.int64))


def judge(rows: sp.csr_matrix) -> Verdict:
    """Say what a matrix holds from a sample of its rows.

    Parameters
    ----------
    rows
        (n, n_genes) sampled rows.
    """
    values = np.asarray(rows.data, dtype=np.float64)
    if rows.shape[0] == 0 or rows.shape[1] == 0 or not np.any(values):
        return Verdict("empty", f"{rows.shape[0]} sampled cells x {rows.shape[1]} genes, all zero")
    if not np.isfinite(values).all():
        return Verdict("non-finite", f"{int((~np.isfinite(values)).sum())} NaN or infinite values")
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return Verdict("scaled", f"negative values (down to {low:.3g})")
    if np.array_equal(values, np.round(values)):
        return Verdict("counts", f"whole numbers up to {high:.0f}")
    if high > MAX_LOG1P:
        return Verdict("counts", f"non-integer linear values up to {high:.4g}")
    linear = rows.astype(np.float64)
    linear.data = np.expm1(linear.data)
    totals = np.asarray(linear.sum(axis=1)).ravel()
    totals = totals[totals > 0]
    spread = float(totals.std() / totals.mean())
    if spread < 0.01:
        return Verdict("log1p", f"expm1 sums to {np.median(totals):.0f} in each cell")
    if float(np.median(totals)) <= 1.01e4:
        return Verdict("log1p-cut", f"expm1 sums to {totals.min():.0f}-{totals.max():.0f} a cell")
    return Verdict("unknown", f"fractions up to {high:.3g}, neither linear nor log1p of CP10k")


def choose_matrix(verdicts: Mapping[str, Verdict], wanted: str | None = None) -> str:
    """Choose the matrix to annotate from: counts before log1p before a cut of log1p.

    Parameters
    ----------
    verdicts
        Verdict of each candidate, in the order of preference among equals.
    wanted
        The user's choice, taken if usable.

    Raises
    ------
    InputError
        None is usable, or the wanted one is not there or not usable.
    """
    if wanted is not None and wanted not in verdicts:
        raise InputError(
            f"no matrix '{wanted}'",
            expected=f"one of {', '.join(verdicts)}",
            do="see: scbignn-infer inspect",
        )
    candidates = {wanted: verdicts[wanted]} if wanted is not None else verdicts
    usable = [name for name, v in candidates.items() if v.usable]
    if not usable:
        raise InputError(
            "no usable matrix: "
            + "; ".join(f"{n} is {v.state} ({v.reason})" for n, v in candidates.items()),
            expected="counts, or log1p of counts scaled to 10,000 a cell, in X, raw or a layer",
            do="store the raw counts as layers['counts'] and try again",
        )
    return min(usable, key=lambda n: USABLE.index(candidates[n].state))
