"""What a matrix holds: a verdict from rows sampled across the whole of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.network.blas import one_blas_thread
from scbignn_infer.query import layer_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scbignn_infer._types import Array

State = Literal[
    "counts",
    "log1p",
    "log1p-cut",
    "scaled",
    "non-finite",
    "empty",
    "constant",
    "square-root",
    "log-log",
    "two-scales",
    "unknown",
]
USABLE: tuple[State, ...] = ("counts", "log1p", "log1p-cut")
"""States that can be annotated, best first."""
BASES = {"log1p": math.e, "log2(1 + x)": 2.0, "log10(1 + x)": 10.0}
"""Logarithms that are recognised, and how they are called."""
MAX_LINEAR = 1e9
"""A logarithm whose inversion gives more than this is none."""
NO_MATRIX = "the data hold neither X, nor raw, nor a layer"
CURES: dict[State, str] = {
    "square-root": "square the values, or store the raw counts as layers['counts'], and try again",
    "log-log": "take one logarithm back (numpy.expm1), or store the raw counts as "
    "layers['counts'], and try again",
    "two-scales": "bring all cells to one scale, best to raw counts, before files are joined",
}
"""What a user can do about a state, where it is not to store the counts."""
MAX_LOG1P = 12.0
"""log1p(1.6e5); a larger value of a log-normalised matrix would be a cell with one gene."""
MAX_LOG = 20.0
"""Nearly no logarithm is larger, in any base: 2^20 is the whole of a cell scaled to a million."""
MIN_LOG1P = 2.75
"""If no value is larger, log1p was not taken of counts scaled to thousands."""
LINEAR_TAIL = 16.0
"""Of linear values one in a thousand is so many times the median (21 to 550 in ten studies, whole
or cut to some genes), and of logarithms none (1.6 to 13)."""
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
BASE_10 = 1.7
"""Totals differ by so many times more in base 10 at most, relative to base e, if it is base 10."""
SMOOTHED = 0.7
"""Correlation of the typical cell with the cell most like it, in genes that few cells show, above
which values were smoothed over cells (at most 0.63 in ten studies, 0.76 to 1 after smoothing)."""
SMOOTH_CELLS, SMOOTH_GENES = 200, 1500
"""How many are compared at most."""
RARE, ENOUGH_GENES = 0.3, 100
"""Share of the cells that show such a gene at most, and how many such genes are enough."""
ONE_SPREAD, SPREAD_WITHIN, SPREAD_CELLS = 0.95, 0.2, 50
"""Share of the genes that a tenth of the cells or more show, whose standard deviation is 1 within
this on the log scale: above it, each gene was divided by its own (.98 to 1 in twenty studies after
that; at most .41 of counts and .89 of logarithms, whole or of 2,000 genes); of fewer cells it is
not asked."""
DENSE = 0.9
"""Share of values that are not 0 above which too few rare genes are taken for smoothed ones."""
FEW_GENES, MANY_GENES = 20, 1000
"""A barcode with fewer genes is no cell, where the matrix has so many genes."""
FEWER_ENTRIES = 0.75
"""A matrix with less than this share of another's entries holds a part of it."""


@dataclass(frozen=True)
class Verdict:
    """What one matrix holds."""

    state: State
    """``counts`` (non-negative, linear; whole or not, scaled to a total or not), ``log1p`` (the
    logarithm of such counts, of all genes), ``log1p-cut`` (scaled over all genes, then reduced to
    some of them), ``scaled`` (negative values), ``non-finite``, ``empty``, ``constant`` (all cells
    the same), ``square-root`` or ``log-log`` (of counts), ``two-scales`` (some cells hold one of
    these, others another) or ``unknown``."""
    reason: str
    """The observation that decided."""
    base: float = math.e
    """Of the logarithm."""
    doubt: str = ""
    """Why it is not read unless the user asks for it, or nothing."""
    caution: str = ""
    """Why labels are less reliable if it is read, or nothing."""
    whole: bool = False
    """Whether all values are whole numbers."""
    binary: bool = False
    """Whether all values are 0 or 1."""
    counted: bool = False
    """Whether a cell's values, any logarithm taken back, sum up to what was counted of it."""
    entries: int = 0
    """Values of the sampled cells that are not 0."""
    few: float = 0.0
    """Share of the sampled cells with hardly any gene."""
    shown: Array | None = field(default=None, repr=False, compare=False)
    """Which genes some of the cells show, as :func:`~.joined.shown_genes` packs it, or ``None``."""
    sample: sp.csr_matrix | None = field(default=None, repr=False, compare=False)
    """The sampled cells on their genes, if they have few counts, to be asked how many."""

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
    n_genes = np.diff(rows.indptr)
    few = float((n_genes < FEW_GENES).mean()) if rows.shape[1] >= MANY_GENES else 0.0
    if np.array_equal(values, np.round(values)):
        verdict = Verdict(
            "counts",
            f"whole numbers up to {high:.0f}",
            whole=True,
            binary=low == high == 1,
            counted=True,
        )
    else:
        verdict = _judge_decimals(rows, error)
    return replace(verdict, entries=len(values), few=few)


def _judge_decimals(rows: sp.csr_matrix, error: float) -> Verdict:
    """Return the verdict on values that are not all whole numbers."""
    forms = [_Form("", 1.0, rows), *_logarithms(rows)]
    odd = _odd_forms(rows)
    exact = (
        _whole_counts(forms[1:], error)
        or _of_two_scales(rows, error)
        or _of_one_unit(forms)
        or _whole_counts(odd, error)
        or _of_one_unit(odd)
    )
    if exact is not None:
        return exact
    if _of_one_spread(rows):
        return Verdict("scaled", "each gene has a standard deviation of 1")
    verdict = _of_one_total([*forms, *odd]) or _by_size(rows)
    if not verdict.usable:
        return verdict
    return replace(verdict, doubt=_smoothness(rows) or _log_before(rows, verdict))


@dataclass(frozen=True)
class _Form:
    """Values as they are, or inverted as if they were a logarithm or something odder."""

    name: str
    base: float
    linear: sp.csr_matrix
    odd: State | None = None

    @property
    def totals(self) -> Array:
        """Sums of the cells that are not empty."""
        return _totals(self.linear)

    @property
    def spread(self) -> float:
        """How far the totals differ, relative to their mean."""
        return float(self.totals.std() / self.totals.mean())

    @property
    def same(self) -> bool:
        """Whether the cells have one total, or each of two groups of cells has one."""
        totals = np.sort(self.totals)
        if len(totals) < ENOUGH_CELLS:
            return self.spread < SAME_TOTAL_OF_FEW
        if self.spread < SAME_TOTAL:
            return True
        cut = int(np.diff(np.log(totals)).argmax()) + 1
        parts = totals[:cut], totals[cut:]
        return all(len(t) >= ENOUGH_CELLS and t.std() < SAME_TOTAL * t.mean() for t in parts)

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
        if self.odd is not None:
            return Verdict(self.odd, self.name)
        low, total, high = np.quantile(self.totals, [0, 0.5, 1])
        if self.base == 1.0:
            reason = f"linear values that sum to {total:.4g} in each cell"
            return Verdict("counts", reason if same else "counts divided by a size factor")
        if same:
            sums = self.sums.split(" to ")[0]
            reason = f"{sums} to {total:.0f} in each cell"
            if high > 2 * low:
                reason = f"{sums} to {low:.0f} in some cells and {high:.0f} in others"
            return Verdict("log1p", reason, self.base)
        return Verdict("log1p-cut", f"{self.sums}, in multiples of one value", self.base)


def _logarithms(rows: sp.csr_matrix) -> list[_Form]:
    high = float(rows.data.max())
    return [
        _Form(name, base, _inverse(rows, base))
        for name, base in BASES.items()
        if high * math.log(base) <= math.log(MAX_LINEAR)
    ]


def _of_two_scales(rows: sp.csr_matrix, error: float) -> Verdict | None:
    """Return the verdict on whole numbers in some cells and no linear values in the others.

    Where the others hold a logarithm, that is sure, and the matrix is not read.
    """
    starts = rows.indptr[:-1]
    n = np.diff(rows.indptr)
    held = np.flatnonzero(n >= 3)
    decimals = np.zeros(len(n), np.int64)
    some = n > 0
    decimals[some] = np.add.reduceat((rows.data % 1 != 0).astype(np.int64), starts[some])
    whole, others = held[decimals[held] == 0], held[decimals[held] > 0]
    if min(len(whole), len(others)) < ENOUGH_CELLS:
        return None
    rest = _judge_decimals(rows[others], error)
    if rest.state == "counts":
        return None
    reason = (
        f"whole numbers in {len(whole)} of the sampled cells, {rest.state} ({rest.reason}) in "
        f"{len(others)}"
    )
    if rest.usable:
        return Verdict("two-scales", reason)
    return Verdict(
        "counts",
        reason,
        caution=f"{len(others) / len(held):.0%} of the cells hold "
        "values of another scale than the others: files were joined",
    )


def _odd_forms(rows: sp.csr_matrix) -> list[_Form]:
    """Return the forms of values that were not made by one logarithm."""
    squares = rows.power(2)
    forms = [_Form("their squares are counts", 1.0, squares, "square-root")]
    once = _inverse(rows, math.e) if rows.data.max() < math.log(MAX_LOG) else None
    if once is not None:
        twice = _inverse(once, math.e)
        forms.append(
            _Form("log1p was taken of values that were log1p already", 1, twice, "log-log")
        )
    return forms


def _whole_counts(forms: list[_Form], error: float) -> Verdict | None:
    """Return the verdict on a logarithm, or an odder form, of whole numbers."""
    for form in forms:
        linear = form.linear.data
        if _whole(linear, error * np.log1p(linear) * (linear + 1) * (4 if form.odd else 1)):
            if form.odd is not None:
                return form.verdict(same=False)
            reason = f"{form.name} of whole numbers up to {linear.max():.0f}"
            return Verdict("log1p", reason, form.base, counted=True)
    return None


def _of_one_unit(forms: list[_Form]) -> Verdict | None:
    """Return the verdict on values that are multiples of each cell's least one."""
    fits: list[tuple[int, _Form, Array]] = []
    for form in forms:
        fit, seen = _multiples(form.linear)
        if seen.any() and fit[seen].mean() > 0.9:
            return form.verdict(same=form.same)
        fits.append((int(fit.sum()), form, fit))
    fits.sort(key=lambda entry: -entry[0])
    if len(fits) < 2 or fits[1][0] < ENOUGH_CELLS:
        return None
    (n, one, fit), (m, other, also) = fits[:2]
    if (fit | also).mean() < 0.9 or (fit & also).sum() > 0.1 * m:
        return None
    scales = [f.name or "linear values" for f in (one, other)]
    return Verdict("two-scales", f"{scales[0]} in {n} of the sampled cells, {scales[1]} in {m}")


def _of_one_total(forms: list[_Form]) -> Verdict | None:
    """Return the verdict on values that were scaled to one total: the form that differs least."""
    best = min(forms, key=lambda form: form.spread)
    if len(best.totals) >= ENOUGH_CELLS:
        return best.verdict(same=True) if best.spread < SAME_TOTAL else None
    for form in forms:
        total = float(np.median(form.totals))
        if form.odd is None and any(abs(total / t - 1) < SAME_TOTAL for t in USUAL_TOTALS):
            return form.verdict(same=True)
    return None


def _by_size(rows: sp.csr_matrix) -> Verdict:
    """Return the verdict on values that nothing explains, such as those of corrected counts.

    The largest value says little: a logarithm to base 2 of RPKM reaches 18. Linear values have a
    long tail, and logarithms of any base have none.
    """
    values = rows.data
    high, (median, most) = float(values.max()), np.quantile(values, [0.5, 0.999])
    tail = float(most / median)
    forms = {form.base: form for form in _logarithms(rows)}
    if most > MAX_LOG or 2.0 not in forms or (high > MAX_LOG1P and tail > LINEAR_TAIL):
        reason = f"non-integer linear values up to {high:.4g}"
        return Verdict("counts", reason, counted=True)
    spread = {base: float(np.log(form.totals).std()) for base, form in forms.items()}
    base = math.e
    if high > MAX_LOG1P or 2 * spread[2.0] < spread[math.e]:
        base = 2.0 if spread[2.0] <= spread.get(math.e, math.inf) else math.e
    elif 10.0 in forms and spread[10.0] < BASE_10 * spread[math.e]:
        linear = forms[10.0].linear.data
        base = 10.0 if np.quantile(linear, 0.999) > LINEAR_TAIL * np.median(linear) else math.e
    form = forms[base]
    if base != math.e:
        return Verdict("log1p-cut", f"{form.sums}, and no value is far from the others", base)
    if high < MIN_LOG1P:
        return Verdict("unknown", f"fractions up to {high:.3g}, too small for log1p of CP10k")
    if float(np.median(form.totals)) <= MAX_CUT or high > MAX_LOG1P:
        low, top = form.totals.min(), form.totals.max()
        return Verdict("log1p-cut", f"expm1 sums to {low:.0f}-{top:.0f} a cell")
    return Verdict("unknown", f"fractions up to {high:.3g}, neither linear nor log1p of CP10k")


@one_blas_thread()
def _smoothness(rows: sp.csr_matrix) -> str:
    """Say that values were smoothed over cells, as by MAGIC or scVI, or nothing.

    Genes that few cells show differ from cell to cell by chance, unless cells were averaged.
    """
    some = rows[:: max(1, rows.shape[0] // SMOOTH_CELLS)][:SMOOTH_CELLS]
    shown = np.bincount(some.indices, minlength=some.shape[1]) / max(some.shape[0], 1)
    rare = np.flatnonzero((shown > 0) & (shown <= RARE))
    genes = rare if len(rare) >= ENOUGH_GENES else np.flatnonzero(shown)
    if some.shape[0] < ALIKE_CELLS or len(genes) < ENOUGH_GENES:
        return ""
    if genes is not rare and shown[genes].mean() < DENSE:
        return ""
    genes = genes[:: max(1, len(genes) // SMOOTH_GENES)]
    values = some[:, genes].toarray()
    values = np.log1p(values / values.mean(axis=0))
    values -= values.mean(axis=0)
    size = np.linalg.norm(values, axis=1)
    values = values[size > 0] / size[size > 0, None]
    alike = values @ values.T
    np.fill_diagonal(alike, -1)
    typical = float(np.median(alike.max(axis=1))) if len(alike) else 0.0
    if typical < SMOOTHED:
        return ""
    return (
        f"values were smoothed over cells (imputed, denoised or averaged): genes that few cells "
        f"show agree between cells (correlation {typical:.2f})"
    )


def _of_one_spread(rows: sp.csr_matrix) -> bool:
    """Tell whether each gene was divided by its standard deviation, though none was centred."""
    n = rows.shape[0]
    shown = np.bincount(rows.indices, minlength=rows.shape[1])
    genes = np.flatnonzero(shown >= max(n / 10, 1))
    if n < SPREAD_CELLS or len(genes) < ENOUGH_GENES:
        return False
    spread = rows[:, genes[:: max(1, len(genes) // SMOOTH_GENES)]].toarray().std(axis=0)
    near = np.abs(np.log(np.maximum(spread, 1e-9))) < SPREAD_WITHIN
    return bool(near.mean() > ONE_SPREAD)


def _log_before(rows: sp.csr_matrix, verdict: Verdict) -> str:
    """Say that values of one total were logarithms before, or nothing: linear ones have a tail."""
    linear = verdict.state == "counts" and not verdict.counted
    median, most = np.quantile(rows.data, [0.5, 0.999])
    if not linear or rows.shape[1] < MANY_GENES or most > LINEAR_TAIL * median:
        return ""
    return (
        "no value is far from the others: it seems that a logarithm was taken before cells were "
        "scaled to one total"
    )


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


def _multiples(rows: sp.csr_matrix) -> tuple[Array, Array]:
    """Tell of which cells small values are multiples of the least one, and of which it is seen."""
    starts = rows.indptr[:-1][np.diff(rows.indptr) > 0]
    n = np.diff([*starts, len(rows.data)])
    ratio = rows.data / np.repeat(np.minimum.reduceat(rows.data, starts), n)
    telling = (ratio > 1.5) & (ratio < MULTIPLE)
    off = telling & (np.abs(ratio - np.round(ratio)) > 0.02)
    wrong, looked_at = (np.add.reduceat(flags.astype(int), starts) for flags in (off, telling))
    seen = looked_at >= 3
    return seen & (wrong <= 0.02 * looked_at), seen


def choose_matrix(
    verdicts: Mapping[str, Verdict],
    wanted: str | None = None,
    n_genes: Mapping[str, int] | None = None,
) -> str:
    """Choose the matrix to annotate from: the wanted one, if it is usable.

    What :func:`passed_over` names is not taken. What was cut after it was scaled comes last; then
    more genes win, then counts over log1p, then matrices whose names mean counts, then the order of
    the verdicts. An :class:`~scbignn_infer.errors.InputError` says why none is usable.
    """
    if wanted is not None and wanted not in verdicts:
        raise InputError(
            f"no matrix '{wanted}'",
            expected=f"one of {', '.join(verdicts)}",
            do="see: scbignn-infer inspect",
        )
    candidates = {wanted: verdicts[wanted]} if wanted is not None else verdicts
    rivals = {} if wanted is not None else passed_over(verdicts, n_genes)
    usable = [name for name, v in candidates.items() if v.usable and name not in rivals]
    if not usable:
        raise _no_matrix(verdicts, candidates, rivals)

    def rank(name: str) -> tuple[bool, bool, int, int, bool]:
        v = candidates[name]
        named = bool(layer_names.COUNTS.match(name)) and v.whole
        return (
            v.state == "log1p-cut",
            bool(v.caution),
            -(n_genes or {}).get(name, 0),
            USABLE.index(v.state),
            not named,
        )

    return min(usable, key=rank)


def _no_matrix(
    verdicts: Mapping[str, Verdict], candidates: Mapping[str, Verdict], rivals: Mapping[str, str]
) -> InputError:
    """Return the error of a query without a matrix that can be read."""
    others = [name for name, v in verdicts.items() if v.usable and name not in candidates]
    cures = [CURES[v.state] for v in candidates.values() if v.state in CURES]
    do = next(iter(cures), "store the raw counts as layers['counts'] and try again")
    if others:
        do = f"leave out --matrix: {', '.join(others)} can be used"
    if rivals:
        do += f", or pass --matrix {next(iter(rivals))} to read it all the same"
    faults = [
        f"{name} is {v.state} ({v.reason})" + (f", but {rivals[name]}" if name in rivals else "")
        for name, v in candidates.items()
    ]
    what = "; ".join(faults) or NO_MATRIX
    return InputError(
        f"no usable matrix: {what}",
        expected="counts, or log1p of counts scaled to one total, in X, raw or a layer",
        do=do,
    )


def passed_over(
    verdicts: Mapping[str, Verdict], n_genes: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Say of each usable matrix that is not taken, unless the user asks for it, why.

    These are parts of the counts, such as unspliced ones, or clearly fewer entries than another
    matrix with no more genes has; and values that were smoothed, or made 0 and 1.
    """
    usable = {name: v for name, v in verdicts.items() if v.usable}
    genes = n_genes or {}
    reasons = {name: layer_names.why_never(name) or v.doubt for name, v in usable.items()}
    kept = [name for name in usable if not reasons[name]]

    def drop(name: str, reason: str) -> None:
        reasons[name] = reason
        kept.remove(name)

    if not all(usable[name].binary for name in kept):
        for name in [name for name in kept if usable[name].binary]:
            drop(name, "all values are 0 or 1")
    whole = [n for n in kept if not layer_names.is_split(n) and usable[n].state != "log1p-cut"]
    for name in list(kept):
        is_sum = "+" in name and name == layer_names.sum_of_layers(list(verdicts))
        least = FEWER_ENTRIES * usable[name].entries if is_sum else 0
        as_many = [
            n
            for n in whole
            if n != name and genes.get(n, 0) >= genes.get(name, 0) and usable[n].entries >= least
        ]
        if is_sum and as_many:
            drop(name, f"{as_many[0]} holds counts")
            whole.remove(name)
        elif layer_names.is_split(name) and as_many:
            drop(name, "it holds a part of the counts")
    for name in list(kept):
        fuller = max(
            (n for n in kept if genes.get(n, 0) <= genes.get(name, 0)),
            key=lambda n: usable[n].entries,
        )
        share = usable[name].entries / max(usable[fuller].entries, 1)
        if share < FEWER_ENTRIES and usable[name].entries < usable[fuller].entries:
            drop(name, f"it has only {share:.0%} of the entries of {fuller}")
    return {name: reason for name, reason in reasons.items() if reason}
