"""Figures for print, by matplotlib: at their size in a journal, with words that stay words."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.errors import MissingExtraError
from scbignn_infer.plain import visible
from scbignn_infer.report.palette import CHECKS, CROSSES, LESS, MORE, PLAIN, RAMP, STRIPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scbignn_infer._types import Array
    from scbignn_infer.report.composition import Composition
    from scbignn_infer.report.findings import Findings
    from scbignn_infer.report.markers import Dots
    from scbignn_infer.report.palette import Look

MILLIMETRE = 1 / 25.4
ONE_COLUMN, TWO_COLUMNS = 89 * MILLIMETRE, 183 * MILLIMETRE
"""Widths of a figure in most journals, in inches."""
SQUARE = 120 * MILLIMETRE
"""Side of the map, one and a half columns."""
TALL = 240 * MILLIMETRE
"""The most that a page has room for."""
ROW = 4.2 * MILLIMETRE
"""Height of a bar or a row of dots."""
MOST_VECTORS = 5000
"""More cells are a picture within the svg and the pdf, which stay small."""
DPI = 300
"""Of the png."""
STYLE: Any = {
    "font.family": "DejaVu Sans",  # which matplotlib brings along
    "font.size": 6.5,
    "axes.titlesize": 7,
    "axes.labelsize": 6.5,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "scbignn-infer",
    "pdf.fonttype": 42,
    "savefig.dpi": DPI,
    "figure.dpi": DPI,
}
MARKS = {PLAIN: "o", STRIPES: "o", CROSSES: "x", CHECKS: "^"}
"""Forms of cells on the map; those with stripes are rings."""
HATCHES = {PLAIN: "", STRIPES: "////", CROSSES: "xxx", CHECKS: "+++"}
MOST = 28
"""Characters of a name."""
MOVES = sorted(
    [(x, y) for x in (-1.0, -0.5, 0.0, 0.5, 1.0) for y in range(-5, 6)],
    key=lambda move: (4 * abs(move[0]) + abs(move[1]), move),
)
"""By how many of its widths and heights a name is moved, so that it lies on no other."""
HIDDEN = 0.4
"""The share of a label's cells that its name may lie on."""
SAMPLES = 60
"""More are in the table alone."""


def draw(findings: Findings) -> dict[str, Figure]:
    """Return the figures by name; that of genes is left out where none were read."""
    try:
        from matplotlib import rc_context  # noqa: F401
    except ImportError:
        purpose = "figures for print"
        raise MissingExtraError("matplotlib", extra="report", purpose=purpose) from None
    with _style():
        drawn = {"map": _map(findings), "confidence": _confidence(findings)}
        if findings.markers is not None:
            of = {"markers": findings.markers.shown, "evidence": findings.markers.carried}
            labels = findings.markers.labels
            drawn |= {name: _dots(labels, dots) for name, dots in of.items() if dots.genes}
        return drawn | {"composition": _composition(findings)}


def save(figure: Figure, path: Path, form: str) -> None:
    """Write a figure; the same findings give the same bytes."""
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with _style():
        figure.savefig(path, format=form[1:], metadata=undated.get(form), facecolor="white")


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


def _figure(width: float, height: float, **how: Any) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **how)


def _map(findings: Findings) -> Figure:
    """Draw the cells with the names of their labels on them."""
    figure = _figure(SQUARE, SQUARE)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.94))
    _empty(axes)
    scaled, labels = findings.cell_map.scaled, findings.labelled.labels
    rare_last = sorted(findings.looks.items(), key=lambda item: item[0] != UNKNOWN)
    for label, look in rare_last:
        _cells(axes, scaled[labels == label], look, len(labels))
    n = findings.labelled.counts()
    grey = f"; grey: {n[UNKNOWN]:,} unknown" if UNKNOWN in n else ""
    axes.set_title(f"{len(labels):,} cells{grey}", loc="left")
    names = sorted(n.keys() - {UNKNOWN}, key=lambda label: (-n[label], label))
    places = {label: scaled[labels == label] for label in names}
    _names(figure, axes, findings.cell_map.centres(labels), places)
    return figure


def _cells(axes: Axes, places: Array, look: Look, n_cells: int) -> None:
    size = max(0.4, min(5.0, 3500 / n_cells))
    ring = look.pattern == STRIPES
    axes.scatter(
        places[:, 0],
        places[:, 1],
        s=size * (1 if look.pattern == PLAIN else 1.6),
        c="none" if ring else look.colour,
        edgecolors=look.colour if ring else None,
        marker=MARKS[look.pattern],
        linewidths=0 if look.pattern in (PLAIN, CHECKS) else 0.5,
        rasterized=n_cells > MOST_VECTORS,
    )


def _empty(axes: Axes) -> None:
    """Leave the axes of a map without ticks: they have no unit."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    for side in axes.spines.values():
        side.set_color("#bbbbbb")


def _names(
    figure: Figure,
    axes: Axes,
    centres: Mapping[str, tuple[float, float]],
    places: Mapping[str, Array],
) -> None:
    """Write names where most of their cells lie; moved if they would lie on others, or hide all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import Stroke

    renderer: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    edge, taken = axes.get_window_extent(renderer), list[Any]()
    for label, cells in places.items():
        x, y = centres[label]
        how: Any = {"ha": "center", "va": "center", "fontsize": 7, "parse_math": False}
        ground = axes.text(x, y, _short(label), zorder=5, color="white", alpha=0.8, **how)
        box = ground.get_window_extent(renderer).padded(1.5)
        moved = [box.translated(a * box.width, b * box.height) for a, b in MOVES]
        inside = [b for b in moved if edge.x0 <= b.x0 and b.x1 <= edge.x1] or moved
        inside = [b for b in inside if edge.y0 <= b.y0 and b.y1 <= edge.y1] or inside
        free = [b for b in inside if not any(b.overlaps(other) for other in taken)] or inside
        drawn = axes.transData.transform(cells)
        hidden = [((b.min < drawn) & (drawn < b.max)).all(axis=1).mean() for b in free]
        chosen = next((b for b, h in zip(free, hidden, strict=True) if h <= HIDDEN), free[0])
        taken.append(chosen)
        middle = ((chosen.x0 + chosen.x1) / 2, (chosen.y0 + chosen.y1) / 2)
        left, low = map(float, axes.transData.inverted().transform(middle))
        ground.set_position((left, low))
        ground.set_path_effects([Stroke(linewidth=1.8, foreground="white")])  # drawn as paths
        axes.text(left, low, _short(label), zorder=6, **how)  # which stays text
        if not chosen.padded(box.height / 2).contains(*axes.transData.transform((x, y))):
            axes.plot([x, left], [y, low], color="#555555", linewidth=0.4, zorder=4)


def _confidence(findings: Findings) -> Figure:
    """Draw the map by how sure labels are, and how that is distributed in each label.

    That is the support: the confidence is the one of a type, also where the label joins several.
    """
    labelled, order = findings.labelled, list(findings.looks)
    support = labelled.support.clip(0, 1)
    height = min(max(80 * MILLIMETRE, ROW * (len(order) + 4)), TALL)
    figure = _figure(TWO_COLUMNS, height, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.05, 1))
    _empty(left)
    scaled, sure = findings.cell_map.scaled, np.nan_to_num(support)
    least_last = np.argsort(-sure, kind="stable")  # so that they are seen
    drawn = left.scatter(
        *scaled[least_last].T,
        s=max(0.4, min(5.0, 3500 / len(labelled))),
        c=sure[least_last],
        cmap=_ramp(),
        vmin=0,
        vmax=1,
        linewidths=0,
        rasterized=len(labelled) > MOST_VECTORS,
    )
    scale = left.inset_axes((0.03, -0.045, 0.5, 0.022))
    figure.colorbar(drawn, cax=scale, label="support", orientation="horizontal")
    values = [support[labelled.labels == label] for label in order]
    for i, (known, look) in enumerate(zip(values, findings.looks.values(), strict=True)):
        if len(known := known[np.isfinite(known)]):
            low, first, middle, third, high = np.percentile(known, [5, 25, 50, 75, 95])
            right.plot([low, high], [i, i], color="#555555", linewidth=0.6)
            (box,) = right.barh(i, third - first, left=first, height=0.6)
            _fill(box, look)
            right.plot([middle] * 2, [i - 0.3, i + 0.3], color="black", linewidth=1.2)
    names = [f"{_short(k)} ({len(v):,})" for k, v in zip(order, values, strict=True)]
    _rows(right, range(len(order)), names)
    threshold = labelled.provenance.params.confidence_threshold
    if threshold > 0:
        right.axvline(threshold, color="#555555", linewidth=0.6, linestyle=(0, (4, 3)))
    right.set_xlim(0, 1.01)
    right.set_xlabel(
        "support, the probability of a label less penalties:\n"
        "median, quartiles, 5 to 95 %; dashed: unknown below"
    )
    return figure


def _dots(labels: Sequence[str], dots: Dots) -> Figure:
    """Draw a dot for each label and gene: its size is the share of cells, its colour the mean."""
    from matplotlib.lines import Line2D

    n_labels, n_genes = len(labels), len(dots.genes)
    step = min(3.6 * MILLIMETRE, (TWO_COLUMNS - 38 * MILLIMETRE) / n_genes)
    width = max(ONE_COLUMN, 38 * MILLIMETRE + step * n_genes)
    height = min(ROW * n_labels + 36 * MILLIMETRE, TALL)
    figure = _figure(width, height, layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(height - 0.5, 0.08), width_ratios=(3, 1, 2))
    axes, below = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0])
    below.axis("off")
    most = 0.9 * step * 72  # of a dot, in points
    scale = dots.mean / np.maximum(dots.mean.max(axis=0, keepdims=True), 1e-9)
    row, column = (v.ravel() for v in np.indices(scale.shape))
    drawn = axes.scatter(
        column,
        row,
        s=most**2 * dots.fraction.ravel(),
        c=scale.ravel(),
        cmap=_ramp(),
        vmin=0,
        vmax=1,
        edgecolors="#777777",
        linewidths=0.25,
    )
    _rows(axes, range(n_labels), [_short(label) for label in labels])
    names = [visible(gene) for gene in dots.genes]
    axes.set_xticks(range(n_genes), names, rotation=90, fontstyle="italic", parse_math=False)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_xlim(-0.8, n_genes - 0.2)
    sizes = [
        Line2D([], [], marker="o", linestyle="", color="#777777", markersize=most * share**0.5)
        for share in (0.1, 0.5, 1)
    ]
    said = ["10 %", "50 %", "100 %"]
    title = "cells with the gene"
    below.legend(sizes, said, title=title, loc="upper left", ncols=3, frameon=False, borderpad=0)
    scale = figure.add_subplot(grid[1, 2])
    figure.colorbar(
        drawn, cax=scale, orientation="horizontal", label="mean, of the highest label's"
    )
    return figure


def _composition(findings: Findings) -> Figure:
    """Draw the share of each label: of all cells, of two samples and between them, or of many."""
    found, looks = findings.composition, findings.looks
    if len(found.samples) == 1:
        return _of_one(found, looks)
    return _of_two(found, looks) if len(found.samples) == 2 else _of_many(found, looks)


def _of_one(found: Composition, looks: Mapping[str, Look]) -> Figure:
    figure, axes = _bars(ONE_COLUMN, len(found.labels), 1)
    shares = 100 * found.shares[0]
    for bar, look in zip(
        axes[0].barh(range(len(shares)), shares, height=0.7), looks.values(), strict=True
    ):
        _fill(bar, look)
    for i, (share, n) in enumerate(zip(shares, found.cells[0], strict=True)):
        axes[0].text(share, i, f"  {n:,} ({share:.1f} %)", va="center")
    axes[0].set_xlim(0, 1.45 * shares.max())
    axes[0].set_xlabel(f"% of {found.totals[0]:,} cells")
    _rows(axes[0], range(len(shares)), [_short(label) for label in found.labels])
    return figure


def _of_two(found: Composition, looks: Mapping[str, Look]) -> Figure:
    """Draw both samples side by side, the second paler, and the difference."""
    figure, (left, right) = _bars(TWO_COLUMNS, 1.7 * len(found.labels), 2)
    shares, place = 100 * found.shares, np.arange(len(found.labels))
    for i, off in enumerate((-0.2, 0.2)):
        bars = left.barh(place + off, shares[i], height=0.38)
        for bar, look in zip(bars, looks.values(), strict=True):
            _fill(bar, look)
            bar.set_alpha((1, 0.5)[i])
        for y, share, n in zip(place + off, shares[i], found.cells[i], strict=True):
            left.text(share, y, f"  {n:,} ({share:.1f} %)", va="center", fontsize=5.5)
    first, second = map(_short, found.samples)
    n, m = found.totals
    said = f"above: {first} ({n:,} cells)\nbelow, paler: {second} ({m:,} cells)"
    left.set_title(said, loc="left", parse_math=False)
    left.set_xlim(0, 1.35 * shares.max())
    left.set_xlabel("% of the cells of a sample")
    _rows(left, place, [_short(label) for label in found.labels])
    change = shares[1] - shares[0]
    right.barh(place, change, height=0.6, color=[MORE if c >= 0 else LESS for c in change])
    for y, c in zip(place, change, strict=True):
        right.text(c, y, f" {c:+.1f} ", va="center", ha="left" if c >= 0 else "right")
    reach = 1.35 * max(float(np.abs(change).max()), 1.0)
    right.set_xlim(-reach, reach)
    right.axvline(0, color="black", linewidth=0.5)
    right.set_xlabel(f"percentage points: {second} less {first}", parse_math=False)
    _rows(right, place, [""] * len(place))
    right.spines["left"].set_visible(False)
    return figure


def _of_many(found: Composition, looks: Mapping[str, Look]) -> Figure:
    """Draw a bar of 100 % for each sample, divided by label, with the numbers that find room."""
    names = found.samples[:SAMPLES]
    shown = 100 * found.shares[:SAMPLES]
    figure, (axes,) = _bars(TWO_COLUMNS, len(names) + 2 + len(looks) / 4, 1)
    start = np.zeros(len(names))
    for (label, look), share in zip(looks.items(), shown.T, strict=True):
        bars = axes.barh(range(len(names)), share, left=start, height=0.75, label=_short(label))
        for bar, (i, s) in zip(bars, enumerate(share), strict=True):
            _fill(bar, look)
            if s >= 5:
                paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
                axes.text(
                    start[i] + s / 2,
                    i,
                    f"{s:.0f}",
                    ha="center",
                    va="center",
                    fontsize=5.5,
                    bbox=paper,
                )
        start = start + share
    axes.set_xlim(0, 100)
    totals = found.totals[: len(names)]
    named = [f"{_short(name)} ({n:,})" for name, n in zip(names, totals, strict=True)]
    _rows(axes, range(len(names)), named)
    axes.set_xlabel("% of the cells of a sample")
    legend = figure.legend(loc="outside lower center", ncols=4, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _bars(width: float, rows: float, columns: int) -> tuple[Figure, Any]:
    """Return a figure for rows of bars, and its axes."""
    figure = _figure(width, min(ROW * rows + 18 * MILLIMETRE, TALL), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _rows(axes: Axes, places: Any, names: Sequence[str]) -> None:
    """Name rows from above to below."""
    axes.set_yticks(list(places), names, parse_math=False)
    axes.set_ylim(max(places) + 0.7, min(places) - 0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _fill(patch: Any, look: Look) -> None:
    """Give a bar or a box its colour and its pattern, in white."""
    patch.set_facecolor(look.colour)
    if look.pattern != PLAIN:
        patch.set_edgecolor("white")
        patch.set_linewidth(0)
        patch.set_hatch(HATCHES[look.pattern])


def _ramp() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    steps = [tuple(c / 255 for c in step) for step in RAMP]
    return LinearSegmentedColormap.from_list("ramp", steps)


def _short(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= MOST else f"{shown[: MOST - 1]}…"
