"""What a matrix holds: a verdict from rows sampled across the whole of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = np.ndarray[Any, Any]
State = Literal[
    "counts", "log1p", "log1p-cut", "scaled", "non-finite", "empty", "constant", "unknown"
]
USABLE: tuple[State, ...] = ("counts", "log1p", "log1p-cut")
"""States that can be annotated, best first."""
BASES = {"log1p": math.e, "log2(1 + x)": 2.0, "log10(1 + x)": 10.0}
"""Logarithms that are recognised, and how they are called."""
MAX_LINEAR = 1e9
"""A logarithm whose inversion gives more than this is none."""
MAX_LOG1P = 12.0
"""log1p(1.6e5); a larger value of a log-normalised matrix would be a cell with one gene."""
MAX_CUT = 1.01e4
"""What values of unknown origin may sum to, to be taken for log1p of counts scaled to 10,000."""
SAME_TOTAL = 0.01
"""Spread of the totals, relative to their mean, below which cells were scaled to one total."""
SAME_TOTAL_OF_FEW = 1e-4
ENOUGH_CELLS = 5
"""Fewer may have nearly one total by chance."""
USUAL_TOTALS = (1e4, 1e5, 1e6)
MULTIPLE = 50
"""Multiples of a cell's least value that are looked at; larger ones are whole by chance."""
ALIKE_CELLS = 10
SAMPLE_ROWS = 512


@dataclass(frozen=True)
class Verdict:
    """What one matrix holds.

    Attributes
    ----------
    state
        ``counts`` (non-negative, linear; whole or not, scaled to a total or not), ``log1p`` (the
        logarithm of such counts, of all genes), ``log1p-cut`` (scaled over all genes, then reduced
        to some of them), ``scaled`` (negative values), ``non-finite``, ``empty``, ``constant``
        (all cells the same) or ``unknown``.
    reason
        The observation that decided.
    base
        Of the logarithm.
    """

    state: State
    reason: str
    base: float = math.e

    @property
    def usable(self) -> bool:
        """Whether cells can be labelled from it."""
        return self.state in USABLE


def sample_rows(n_rows: int, n: int = SAMPLE_ROWS) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return up to ``n`` row numbers spread evenly over ``n_rows``, in ascending order."""
    return np.unique(np.linspace(0, max(n_rows - 1, 0), min(n, n_rows)).astype(np.int64))


def judge(rows: sp.csr_matrix) -> Verdict:
    """Say what a matrix holds from a sample of its rows.

    Values are counts if they are whole, or scaled counts if each cell has the same total. They are
    a logarithm if its inversion makes them one of these, or makes the values of each cell multiples
    of its least one, as counts that were divided by a size factor are.

    Parameters
    ----------
    rows
        (n, n_genes) sampled rows.
    """
    error = np.finfo(rows.dtype).eps if rows.dtype.kind == "f" else 0.0
    rows = sp.csr_matrix(rows, dtype=np.float64, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    values = rows.data
    if not len(values):
        return Verdict("empty", f"{rows.shape[0]} sampled cells x {rows.shape[1]} genes, all zero")
    if not np.isfinite(values).all():
        return Verdict("non-finite", f"{int((~np.isfinite(values)).sum())} NaN or infinite values")
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return Verdict("scaled", f"negative values (down to {low:.3g})")
    if rows.shape[0] >= ALIKE_CELLS and _alike(rows):
        return Verdict("constant", f"all {rows.shape[0]} sampled cells hold the same values")
    if np.array_equal(values, np.round(values)):
        return Verdict("counts", f"whole numbers up to {high:.0f}")
    forms = [_Form("", 1.0, rows), *_logarithms(rows)]
    return (
        _whole_counts(forms, error) or _of_one_unit(forms) or _of_one_total(forms) or _by_size(rows)
    )


@dataclass(frozen=True)
class _Form:
    """Values as they are, or inverted as if they were a logarithm."""

    name: str
    base: float
    linear: sp.csr_matrix

    @property
    def totals(self) -> Array:
        """Sums of the cells that are not empty."""
        return _totals(self.linear)

    @property
    def spread(self) -> float:
        """How far the totals differ, relative to their mean."""
        return float(self.totals.std() / self.totals.mean())

    @property
    def sums(self) -> str:
        """The inversion and what it sums to, in words."""
        inverted = {1.0: "values sum", math.e: "expm1 sums"}.get(
            self.base, f"{self.base:.0f}^x - 1 sums"
        )
        low, high = self.totals.min(), self.totals.max()
        return f"{inverted} to {low:.4g}-{high:.4g} a cell"

    def verdict(self, *, same: bool) -> Verdict:
        """Return what it holds if this is the right form."""
        total = float(np.median(self.totals))
        if self.base == 1.0:
            reason = f"linear values that sum to {total:.4g} in each cell"
            return Verdict("counts", reason if same else "counts divided by a size factor")
        if same:
            reason = self.sums.split(" to ")[0] + f" to {total:.0f} in each cell"
            return Verdict("log1p", reason, self.base)
        return Verdict("log1p-cut", f"{self.sums}, in multiples of one value", self.base)


def _logarithms(rows: sp.csr_matrix) -> list[_Form]:
    high = float(rows.data.max())
    return [
        _Form(name, base, _inverse(rows, base))
        for name, base in BASES.items()
        if high * math.log(base) <= math.log(MAX_LINEAR)
    ]


def _whole_counts(forms: list[_Form], error: float) -> Verdict | None:
    """Return the verdict on a logarithm of whole numbers."""
    for form in forms[1:]:
        linear = form.linear.data
        if _whole(linear, error * np.log1p(linear) * (linear + 1)):
            reason = f"{form.name} of whole numbers up to {linear.max():.0f}"
            return Verdict("log1p", reason, form.base)
    return None


def _of_one_unit(forms: list[_Form]) -> Verdict | None:
    """Return the verdict on values that are multiples of each cell's least one."""
    for form in forms:
        if _multiples(form.linear):
            most = SAME_TOTAL if len(form.totals) >= ENOUGH_CELLS else SAME_TOTAL_OF_FEW
            return form.verdict(same=form.spread < most)
    return None


def _of_one_total(forms: list[_Form]) -> Verdict | None:
    """Return the verdict on values that were scaled to one total: the form that differs least."""
    best = min(forms, key=lambda form: form.spread)
    if len(best.totals) >= ENOUGH_CELLS:
        return best.verdict(same=True) if best.spread < SAME_TOTAL else None
    for form in forms:
        total = float(np.median(form.totals))
        if any(abs(total / usual - 1) < SAME_TOTAL for usual in USUAL_TOTALS):
            return form.verdict(same=True)
    return None


def _by_size(rows: sp.csr_matrix) -> Verdict:
    """Return the verdict on values that nothing explains, such as those of corrected counts."""
    high = float(rows.data.max())
    if high > MAX_LOG1P:
        return Verdict("counts", f"non-integer linear values up to {high:.4g}")
    totals = _totals(_inverse(rows, math.e))
    if float(np.median(totals)) <= MAX_CUT:
        return Verdict("log1p-cut", f"expm1 sums to {totals.min():.0f}-{totals.max():.0f} a cell")
    return Verdict("unknown", f"fractions up to {high:.3g}, neither linear nor log1p of CP10k")


def _inverse(rows: sp.csr_matrix, base: float) -> sp.csr_matrix:
    return sp.csr_matrix(
        (np.expm1(rows.data * math.log(base)), rows.indices, rows.indptr), shape=rows.shape
    )


def _totals(rows: sp.csr_matrix) -> Array:
    """Return the sums of the cells that are not empty."""
    totals = np.asarray(rows.sum(axis=1)).ravel()
    return totals[totals > 0]


def _alike(rows: sp.csr_matrix) -> bool:
    n = np.diff(rows.indptr)
    if not (n == n[0]).all():
        return False
    indices, values = rows.indices.reshape(len(n), -1), rows.data.reshape(len(n), -1)
    return bool((indices == indices[0]).all() and (values == values[0]).all())


def _whole(values: Array, error: Array) -> bool:
    """Tell whether values are whole within the error of their storage."""
    tolerance = np.maximum(1e-3, 4 * error)
    telling = tolerance < 0.1
    near = np.abs(values - np.round(values)) <= tolerance
    return bool(telling.mean() > 0.5 and near[telling].mean() > 0.999)


def _multiples(rows: sp.csr_matrix) -> bool:
    """Tell whether in nearly every cell small values are multiples of its least one."""
    starts = rows.indptr[:-1][np.diff(rows.indptr) > 0]
    n = np.diff([*starts, len(rows.data)])
    ratio = rows.data / np.repeat(np.minimum.reduceat(rows.data, starts), n)
    telling = (ratio > 1.5) & (ratio < MULTIPLE)
    off = telling & (np.abs(ratio - np.round(ratio)) > 0.02)
    wrong, looked_at = (np.add.reduceat(flags.astype(int), starts) for flags in (off, telling))
    seen = looked_at >= 3
    return bool(seen.any() and (wrong[seen] <= 0.02 * looked_at[seen]).mean() > 0.9)


def choose_matrix(
    verdicts: Mapping[str, Verdict],
    wanted: str | None = None,
    n_genes: Mapping[str, int] | None = None,
) -> str:
    """Choose the matrix to annotate from.

    What was cut after it was scaled comes last; then more genes win, then counts over log1p.

    Parameters
    ----------
    verdicts
        Verdict of each candidate, in the order of preference among equals.
    wanted
        The user's choice, taken if usable.
    n_genes
        Genes of each candidate.

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
        others = [name for name, v in verdicts.items() if v.usable]
        raise InputError(
            "no usable matrix: "
            + "; ".join(f"{n} is {v.state} ({v.reason})" for n, v in candidates.items()),
            expected="counts, or log1p of counts scaled to one total, in X, raw or a layer",
            do=f"leave out --matrix: {', '.join(others)} can be used"
            if others
            else "store the raw counts as layers['counts'] and try again",
        )

    def rank(name: str) -> tuple[bool, int, int]:
        state = candidates[name].state
        return state == "log1p-cut", -(n_genes or {}).get(name, 0), USABLE.index(state)

    return min(usable, key=rank)
