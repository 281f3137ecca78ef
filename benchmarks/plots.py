"""Draw the figures of docs/benchmarks.md and docs/space.md from the raw results.

Run: ``python benchmarks/plots.py`` (needs matplotlib). Reads what ``report.py`` reads and writes
``docs/figures/*.svg``, the same bytes from the same results; a figure without results is skipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from report import Row

FIGURES = report.PAGE.parent / "figures"
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
"""The colours of Okabe and Ito, which the colour-blind can tell apart."""
METHODS = {
    "scBiGNN": (BLUE, "o"),
    "CellTypist": (ORANGE, "s"),
    "CellTypist, majority voting": (RED, "s"),
    "CellTypist, feature selection": (ORANGE, "^"),
    "CellTypist, feature selection, majority voting": (RED, "^"),
    "SingleR": (GREEN, "D"),
    "logistic regression, C = 0.01": (PURPLE, "v"),
    "logistic regression, C = 1": (BLACK, "v"),
}
"""Colour and marker of each method: CellTypist's four variants share two of each."""
FLOORS = (0.05, 0.4)
"""Coverage below which data are refused, and below which there is a warning."""
STYLE: dict[Any, object] = {
    "font.size": 9,
    "svg.hashsalt": "scbignn",
    "svg.fonttype": "path",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e0e0e0",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def score(found: list[Row], task: str, method: str) -> float:
    """Return the mean macro-F1 of a method on a task, NaN without rows."""
    values = [r["macro_f1"] for r in found if (r["task"], r["method"]) == (task, method)]
    return float(np.mean(values)) if values else float("nan")


def pairs() -> Figure | None:
    """Draw macro-F1 of each method on each pair."""
    found = report.rows("pairs")
    if not found:
        return None
    found = found + report.rows("celltypist") + report.rows("singler")
    tasks = list(dict.fromkeys(r["task"] for r in report.rows("pairs")))
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    rows = np.arange(len(tasks))[::-1]
    for i, (method, (colour, marker)) in enumerate(METHODS.items()):
        ours = method == "scBiGNN"
        axes.plot(
            [score(found, task, method) for task in tasks],
            rows + (len(METHODS) / 2 - i - 0.5) * 0.08,
            linestyle="none",
            marker=marker,
            color=colour,
            markersize=8 if ours else 5,
            zorder=3 if ours else 2,
            label=method,
        )
    axes.set_yticks(rows, tasks)
    axes.set_xlabel("macro-F1 on the query")
    axes.set_ylabel("reference -> query")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def em() -> Figure | None:
    """Draw each blood pair without EM, with the controls that were run, and with EM."""
    found = report.em_rows()
    if not report.rows("em"):
        return None
    shown = ["without EM", *report.STEPS.values()]
    steps = {f"scBiGNN, {step}": step for step in shown}
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    tasks = list(dict.fromkeys(r["task"] for r in report.rows("em")))
    styles = zip((BLUE, RED, GREEN, PURPLE, BLACK), "osD^v", strict=True)
    for task, (colour, marker) in zip(tasks, styles, strict=True):
        values = [score(found, task, method) for method in steps]
        axes.plot(range(len(steps)), values, marker=marker, color=colour, label=task)
    axes.set_xticks(range(len(steps)), list(steps.values()))
    axes.set_xlim(-0.3, len(steps) - 0.7)
    axes.set_ylabel("macro-F1 on the query")
    figure.legend(title="reference -> query", loc="outside right center")
    return figure


def panels() -> Figure | None:
    """Draw how scBiGNN stands to the regression that is retrained on the genes of each cut."""
    found = report.rows("pairs", cuts=True)
    if not found:
        return None
    differs = report.differences(found)
    tops = sorted({int(view.split()[-1]) for _, view in differs})
    sizes = sorted({int(view.split()[0]) for _, view in differs})
    tasks = list(dict.fromkeys(task for task, _ in differs))
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    width = 0.8 / len(tops)
    for i, (top, colour) in enumerate(zip(tops, (SKY, BLUE, ORANGE, RED), strict=False)):
        x, y = [], []
        for (task, view), difference in differs.items():
            size, without = (int(word) for word in view.split() if word.isdigit())
            if without == top:
                spread = (tasks.index(task) + 0.5) / len(tasks) - 0.5
                x.append(sizes.index(size) + (i + 0.5 + 0.7 * spread) * width - 0.4)
                y.append(difference)
        axes.plot(x, y, "o", color=colour, markersize=4, label=f"{top} a type")
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.axhline(-report.MARGIN, color="#767676", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("genes that the query keeps")
    axes.set_ylabel("macro-F1 less that of the\nretrained logistic regression")
    figure.legend(title="best genes removed", loc="outside right center")
    return figure


def speed() -> Figure | None:
    """Draw seconds and peak memory of whole processes against cells, all axes logarithmic."""
    found = report.medians([r for r in report.results("speed") or [] if "file_mb" not in r])
    if not found:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4))
    styles = zip(
        dict.fromkeys(r["method"] for r in found),
        ((BLUE, "o"), (ORANGE, "s"), (RED, "s"), (GREEN, "D")),
        strict=False,
    )
    for method, (colour, marker) in styles:
        own = [r for r in found if r["method"] == method]
        for axis, key in zip(axes, ("seconds", "peak_mb"), strict=True):
            axis.loglog(
                [r["cells"] for r in own],
                [r[key] for r in own],
                marker=marker,
                color=colour,
                label=method,
            )
    for axis, title in zip(axes, ("seconds", "peak memory, MB"), strict=True):
        axis.set_xlabel("cells")
        axis.set_ylabel(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def coverage() -> Figure | None:
    """Draw accuracy, macro-F1 and confidence against the share of the model's genes."""
    found = report.results("gene_coverage")
    if not found:
        return None
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 3.0), sharey=True)
    titles = {"accuracy": "accuracy", "macro_f1": "macro-F1", "confidence": "mean confidence"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        orders = dict.fromkeys(r["order"] for r in found)
        for order, (colour, marker) in zip(
            orders, ((BLUE, "o"), (RED, "s"), (GREEN, "D")), strict=True
        ):
            own = [r for r in found if r["order"] == order]
            axis.semilogx(
                [r["coverage"] for r in own],
                [r[key] for r in own],
                linestyle="none",
                marker=marker,
                markersize=4,
                color=colour,
                label=f"genes hidden {order}",
            )
        for floor in FLOORS:
            axis.axvline(floor, color="#767676", linewidth=0.8, linestyle="--")
        axis.set_title(title)
        axis.set_xlabel("coverage")
        axis.set_xlim(4e-3, 1.2)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1)
    return figure


def space() -> Figure | None:
    """Draw macro-F1 against the genes of a panel and the counts of a cell, means over pairs."""
    found = report.results("space")
    if not found:
        return None
    methods = {
        "scBiGNN": (BLUE, "o"),
        report.RETRAINED: (PURPLE, "v"),
        report.SHALLOW: (ORANGE, "s"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), sharey=True)
    for axis, view, unit in zip(axes, ("panel", "bins"), ("genes", "counts"), strict=True):
        pairs_of = [
            {r["task"] for r in found if (r["view"], r["size"]) == (view, size)}
            for size in {r["size"] for r in found if r["view"] == view}
        ]
        everywhere = set.intersection(*pairs_of)  # the same pairs at each size
        for method, (colour, marker) in methods.items():
            own = [r for r in found if (r["view"], r["method"]) == (view, method)]
            own = [r for r in own if r["task"] in everywhere]
            sizes = sorted({r["size"] for r in own})
            means = [np.mean([r["macro_f1"] for r in own if r["size"] == size]) for size in sizes]
            axis.semilogx(sizes, means, marker=marker, color=colour, label=method)
        ticks = sorted({r["size"] for r in found if r["view"] == view})
        axis.set_xticks(ticks, [f"{size:,g}" for size in ticks])
        axis.minorticks_off()
        axis.set_xlabel(f"{unit} of a {'panel' if view == 'panel' else 'cell'}")
    axes[0].set_ylabel("macro-F1 on the query")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def main() -> None:
    """Write every figure whose results are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the figures")
    parser.add_argument("--format", default="svg", help="png to look at them")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    with mpl.rc_context(STYLE):
        for draw in (pairs, em, panels, speed, coverage, space):
            figure = draw()
            if figure is None:
                print(f"{draw.__name__}: no results, skipped")
                continue
            path = arguments.out / f"{draw.__name__}.{arguments.format}"
            metadata = {"Date": None, "Creator": None} if arguments.format == "svg" else None
            figure.savefig(path, facecolor="white", dpi=110, metadata=metadata)
            print(path)


if __name__ == "__main__":
    main()
