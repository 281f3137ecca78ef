"""Figures as inline SVG: bars, histograms, lines, dots. Colours that the colour-blind can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.report.words import escape, short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = np.ndarray[Any, Any]
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#332288",
    "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499",
)  # fmt: skip
"""Okabe and Ito's colours, then Tol's muted ones; more types take them again, and have names."""
UNKNOWN_COLOUR = "#9a9a9a"
INK, GRID = "#222222", "#e3e3e3"
RAMP = ((0, 34, 78), (65, 77, 107), (124, 123, 120), (188, 175, 111), (254, 232, 56))
"""Cividis in five steps."""


def colours(labels: Sequence[str], unknown: str) -> dict[str, str]:
    """Give each label its colour; the unknown one is grey."""
    named = [label for label in labels if label != unknown]
    found = {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(named)}
    return found | {unknown: UNKNOWN_COLOUR}


def ramp(value: float) -> str:
    """Return the colour of a value from 0 to 1."""
    at = min(max(value, 0.0), 1.0) * (len(RAMP) - 1)
    i = min(int(at), len(RAMP) - 2)
    mixed = [round(a + (b - a) * (at - i)) for a, b in zip(RAMP[i], RAMP[i + 1], strict=True)]
    return "#" + "".join(f"{c:02x}" for c in mixed)


def svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """Wrap parts of a figure; the title is read to those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width:.0f}px">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", turn: float = 0) -> str:
    """Place words."""
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(words)}</text>'


def histogram(
    values: Array, title: str, axis: str, *, mark: tuple[str, float] | None = None
) -> str:
    """Draw how values from 0 to 1 are distributed, and a line at one of them with what it is."""
    n, _ = np.histogram(values[np.isfinite(values)], bins=25, range=(0, 1))
    width, height, left, bottom = 360.0, 190.0, 48.0, 34.0
    high = max(int(n.max(initial=0)), 1)
    wide, tall = width - left - 8, height - bottom - 18
    parts = [
        f'<rect x="{left + i * wide / 25:.1f}" y="{18 + tall * (1 - c / high):.1f}" '
        f'width="{wide / 25 - 1:.1f}" height="{tall * c / high:.1f}" fill="{PALETTE[0]}"/>'
        for i, c in enumerate(n)
    ]
    parts += [
        text(left + tick * wide, height - 18, f"{tick:g}", anchor="middle")
        for tick in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts += [
        text(left - 6, 24, f"{high:,}", anchor="end"),
        text(left - 6, 18 + tall, "0", anchor="end"),
        text(left + wide / 2, height - 3, axis, anchor="middle"),
        text(12, 18 + tall / 2, "cells", anchor="middle", turn=-90),
    ]
    if mark is not None:
        said, value = mark
        x, right = left + value * wide, value > 0.5
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{18 + tall:.1f}" stroke="{INK}" '
            f'stroke-dasharray="4 3"/>'
        )
        anchor = "end" if right else "start"
        parts.append(text(x + (-4 if right else 4), 14, f"{said} {value:.2f}", anchor=anchor))
    return svg(width, height, parts, title)


def shares(rows: Mapping[str, Mapping[str, int]], colour: Mapping[str, str], title: str) -> str:
    """Draw a bar of 100 % for each row, divided by label."""
    left, wide, step = 130.0, 460.0, 24.0
    parts = []
    for i, (name, counts) in enumerate(rows.items()):
        total, x, y = max(sum(counts.values()), 1), left, 6 + i * step
        parts.append(text(left - 8, y + 13, short(name), anchor="end"))
        for label, n in counts.items():
            span = wide * n / total
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{span:.1f}" height="17" '
                f'fill="{colour[label]}"><title>{escape(name)}: {escape(label)} {n:,} '
                f"({n / total:.1%})</title></rect>"
            )
            x += span
        parts.append(text(left + wide + 8, y + 13, f"{total:,}"))
    return svg(left + wide + 80, 12 + step * max(len(rows), 1), parts, title)


def dots(
    labels: Sequence[str], genes: Sequence[str], mean: Array, fraction: Array, title: str
) -> str:
    """Draw a dot for each label and gene: its size is the share of cells, its colour the mean."""
    step, left, top = 19.0, 130.0, 86.0
    scale = mean / np.maximum(mean.max(axis=0, keepdims=True), 1e-9)
    parts = [text(left + j * step + 4, top - 8, gene, turn=-60) for j, gene in enumerate(genes)]
    for i, label in enumerate(labels):
        y = top + (i + 0.5) * step
        parts.append(text(left - 12, y + 4, short(label), anchor="end"))
        for j, gene in enumerate(genes):
            radius = 8 * float(np.sqrt(fraction[i, j]))
            if radius > 0.3:
                parts.append(
                    f'<circle cx="{left + j * step:.1f}" cy="{y:.1f}" r="{radius:.1f}" '
                    f'fill="{ramp(float(scale[i, j]))}" stroke="#777" stroke-width="0.4"><title>'
                    f"{escape(label)}, {escape(gene)}: {fraction[i, j]:.0%} of cells, mean "
                    f"{mean[i, j]:.2f}</title></circle>"
                )
    width = left + max(len(genes), 1) * step + 40
    return svg(width, top + step * max(len(labels), 1) + 12, parts, title)


def bars(values: Mapping[str, float], title: str, axis: str) -> str:
    """Draw a bar for each name, from the largest on as they come."""
    left, wide, step = 110.0, 330.0, 18.0
    most = max((abs(v) for v in values.values()), default=1.0) or 1.0
    parts = []
    for i, (name, value) in enumerate(values.items()):
        y = 4 + i * step
        parts.append(text(left - 8, y + 12, name, anchor="end"))
        parts.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{wide * abs(value) / most:.1f}" height="13" '
            f'fill="{PALETTE[0] if value >= 0 else PALETTE[5]}"/>'
        )
        parts.append(text(left + wide * abs(value) / most + 6, y + 12, f"{value:.2f}"))
    bottom = 12 + step * max(len(values), 1)
    parts.append(text(left + wide / 2, bottom + 8, axis, anchor="middle"))
    return svg(left + wide + 60, bottom + 14, parts, title)


def confusion(labels: Sequence[str], counts: Array, title: str) -> str:
    """Draw cells by true type (row) and best label (column); colour is the share of the row."""
    step, left, top = 34.0, 130.0, 110.0
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = []
    for i, label in enumerate(labels):
        parts.append(text(left - 8, top + (i + 0.6) * step, short(label), anchor="end"))
        parts.append(text(left + (i + 0.6) * step, top - 8, short(label), turn=-60))
        for j in range(len(labels)):
            x, y, dark = left + j * step, top + i * step, share[i, j] < 0.6
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 1}" height="{step - 1}" '
                f'fill="{ramp(float(share[i, j]))}"><title>{escape(label)} as '
                f"{escape(labels[j])}: {int(counts[i, j]):,} ({share[i, j]:.1%})</title></rect>"
            )
            if counts[i, j]:
                parts.append(
                    f'<text x="{x + step / 2:.1f}" y="{y + step / 2 + 4:.1f}" text-anchor="middle" '
                    f'style="fill:{"#fff" if dark else INK};font-size:10px">'
                    f"{int(counts[i, j]):,}</text>"
                )
    side = step * max(len(labels), 1)
    return svg(left + side + 60, top + side + 10, parts, title)


def reliability(bins: Sequence[tuple[float, float, int]], title: str) -> str:
    """Draw accuracy against mean confidence; on the line, confidence is what it says."""
    left, top, side = 48.0, 12.0, 240.0

    def at(confidence: float, accuracy: float) -> tuple[float, float]:
        return left + side * confidence, top + side * (1 - accuracy)

    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    parts = [
        f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#999" stroke-dasharray="4 3"/>',
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="{GRID}"/>',
    ]
    for tick in (0, 0.5, 1):
        parts.append(text(left + side * tick, top + side + 14, f"{tick:g}", anchor="middle"))
        parts.append(text(left - 6, top + side * (1 - tick) + 4, f"{tick:g}", anchor="end"))
    most = max((n for *_, n in bins), default=1)
    for confidence, accuracy, n in bins:
        x, y = at(confidence, accuracy)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 + 6 * float(np.sqrt(n / most)):.1f}" '
            f'fill="{PALETTE[0]}"><title>{n:,} cells: confidence {confidence:.2f}, accuracy '
            f"{accuracy:.2f}</title></circle>"
        )
    parts.append(text(left + side / 2, top + side + 30, "mean confidence", anchor="middle"))
    parts.append(text(12, top + side / 2, "accuracy", anchor="middle", turn=-90))
    return svg(left + side + 20, top + side + 36, parts, title)
