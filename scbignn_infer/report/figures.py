"""Figures as inline SVG: bars, histograms, lines, dots. Lines and words take the page's colour."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.plain import visible
from scbignn_infer.report.palette import CHECKS, CROSSES, LESS, MORE, PLAIN, STRIPES, ramp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.evaluation import ReliabilityBin
    from scbignn_infer.report.palette import Look

MOST = 18
"""Characters of a name beside a bar or a dot."""
INK = "#222222"
"""Of words on a light colour, on any page."""
SIZES = (0.1, 0.5, 1.0)
"""Shares of cells that the scale of dots shows."""
STROKES = {
    STRIPES: ("stripes", '<path d="M-1,1l2,-2M0,6l6,-6M5,7l2,-2" stroke="#fff"/>'),
    CROSSES: ("crosses", '<path d="M0,0l6,6M0,6l6,-6" stroke="#fff"/>'),
    CHECKS: ("checks", '<path d="M0,3h6M3,0v6" stroke="#fff"/>'),
}
"""Name of each pattern, and what is drawn on the colour."""
PLACES = {
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "line": ("x1", "y1", "x2", "y2"),
    "text": ("x", "y"),
}
"""The attributes that say where an element is."""


class Drawing(str):
    """SVG, which a template does not escape."""

    def __html__(self) -> str:
        return self


def fill(look: Look) -> str:
    """Return what an element with a look is filled with; see :func:`patterns`."""
    if look.pattern == PLAIN:
        return look.colour
    return f"url(#{STROKES[look.pattern][0]}-{look.colour[1:]})"


def patterns(looks: Mapping[str, Look]) -> Drawing:
    """Return the definitions of the patterns among some looks: once on a page, and not seen."""
    drawn = dict.fromkeys(look for look in looks.values() if look.pattern != PLAIN)
    size, defined = 'patternUnits="userSpaceOnUse" width="6" height="6"', []
    for look in drawn:
        name, strokes = STROKES[look.pattern]
        under = f'<rect width="6" height="6" fill="{look.colour}"/>'
        defined.append(f'<pattern id="{name}-{look.colour[1:]}" {size}>{under}{strokes}</pattern>')
    hidden = 'width="0" height="0" style="position:absolute" aria-hidden="true"'
    return Drawing(f"<svg {hidden}><defs>{''.join(defined)}</defs></svg>" if defined else "")


def swatch(look: Look) -> Drawing:
    """Draw a look, as it stands beside a name."""
    size = 'viewBox="0 0 12 12" class="swatch" aria-hidden="true"'
    return Drawing(f'<svg {size}><rect width="12" height="12" rx="2" fill="{fill(look)}"/></svg>')


def histogram(
    values: Array, title: str, axis: str, *, mark: tuple[str, float] | None = None
) -> Drawing:
    """Draw how values from 0 to 1 are distributed, and a line at one of them with what it is."""
    n, _ = np.histogram(values[np.isfinite(values)], bins=25, range=(0, 1))
    width, height, left, bottom = 360.0, 190.0, 48.0, 34.0
    high = max(int(n.max(initial=0)), 1)
    wide, tall = width - left - 8, height - bottom - 18
    step = wide / 25
    parts = [
        _draw("rect", left + i * step, 18 + tall - h, step - 1, h, fill=MORE)
        for i, h in enumerate(tall * n / high)
    ]
    parts += [
        _text(left + tick * wide, height - 18, f"{tick:g}", anchor="middle")
        for tick in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts += [
        _text(left - 6, 24, f"{high:,}", anchor="end"),
        _text(left - 6, 18 + tall, "0", anchor="end"),
        _text(left + wide / 2, height - 3, axis, anchor="middle"),
        _text(12, 18 + tall / 2, "cells", anchor="middle", turn=-90),
    ]
    if mark is not None:
        caption, value = mark
        x = left + value * wide
        anchor, off = ("end", -4) if value > 0.5 else ("start", 4)
        parts += [
            _draw("line", x, 12, x, 18 + tall, stroke="currentColor", stroke_dasharray="4 3"),
            _text(x + off, 14, f"{caption} {value:.2f}", anchor=anchor),
        ]
    return _svg(width, height, parts, title)


def shares(rows: Mapping[str, Mapping[str, int]], looks: Mapping[str, Look], title: str) -> Drawing:
    """Draw a bar of 100 % for each row, divided by label, with the percentages that find room."""
    left, wide, step = 130.0, 460.0, 24.0
    parts = []
    for i, (name, counts) in enumerate(rows.items()):
        total, x, y = max(sum(counts.values()), 1), left, 6 + i * step
        parts.append(_text(left - 8, y + 13, _short(name), anchor="end"))
        for label, n in counts.items():
            span, hover = wide * n / total, f"{name}: {label} {n:,} ({n / total:.1%})"
            parts.append(_draw("rect", x, y, span, 17, hover=hover, fill=fill(looks[label])))
            if span >= 26:
                parts.append(_badge(x + span / 2, y + 9, f"{n / total:.0%}"))
            x += span
        parts.append(_text(left + wide + 8, y + 13, f"{total:,}"))
    return _svg(left + wide + 80, 12 + step * max(len(rows), 1), parts, title)


def dots(
    labels: Sequence[str], genes: Sequence[str], mean: Array, fraction: Array, title: str
) -> Drawing:
    """Draw a dot for each label and gene: its size is the share of cells, its colour the mean.

    Scales of both stand below.
    """
    step, left, top = 19.0, 142.0, 86.0
    scale = mean / np.maximum(mean.max(axis=0, keepdims=True), 1e-9)
    parts = [_text(left + j * step + 4, top - 8, gene, turn=-60) for j, gene in enumerate(genes)]
    for i, label in enumerate(labels):
        y = top + (i + 0.5) * step
        parts.append(_text(left - 12, y + 4, _short(label), anchor="end"))
        for j, gene in enumerate(genes):
            radius = 8 * float(np.sqrt(fraction[i, j]))
            if radius > 0.3:
                hover = f"{label}, {gene}: {fraction[i, j]:.0%} of cells, mean {mean[i, j]:.2f}"
                look = {"fill": ramp(scale[i, j]), "stroke": "#777", "stroke_width": "0.4"}
                parts.append(_draw("circle", left + j * step, y, radius, hover=hover, **look))
    width = max(left + max(len(genes), 1) * step + 40, 350.0)
    low = top + step * max(len(labels), 1) + 22
    return _svg(width, low + 44, [*parts, *_scales(low)], title)


def _scales(top: float) -> list[str]:
    """Draw what sizes and colours of dots mean, on 350 units."""
    parts, x = [_text(8, top + 4, "cells with the gene")], 20.0
    for share in SIZES:
        look = {"fill": "none", "stroke": "currentColor"}
        parts.append(_draw("circle", x, top + 22, 8 * share**0.5, **look))
        parts.append(_text(x + 11, top + 26, f"{share:.0%}"))
        x += 48
    parts.append(_text(185, top + 4, "mean, of the highest label's"))
    steps = [(185 + i * 9, ramp((i + 0.5) / 10)) for i in range(10)]
    parts += [_draw("rect", x, top + 15, 9.5, 12, fill=colour) for x, colour in steps]
    return [*parts, _text(185, top + 40, "0"), _text(275, top + 40, "1", anchor="end")]


def bars(values: Mapping[str, float], title: str, axis: str) -> Drawing:
    """Draw a bar for each name, from the largest on as they come."""
    left, wide, step = 110.0, 330.0, 18.0
    most = max((abs(v) for v in values.values()), default=1.0) or 1.0
    parts = []
    for i, (name, value) in enumerate(values.items()):
        y, span = 4 + i * step, wide * abs(value) / most
        parts += [
            _text(left - 8, y + 12, name, anchor="end"),
            _draw("rect", left, y, span, 13, fill=MORE if value >= 0 else LESS),
            _text(left + span + 6, y + 12, f"{value:.2f}"),
        ]
    bottom = 12 + step * max(len(values), 1)
    parts.append(_text(left + wide / 2, bottom + 8, axis, anchor="middle"))
    return _svg(left + wide + 60, bottom + 14, parts, title)


def confusion(labels: Sequence[str], counts: Array, title: str) -> Drawing:
    """Draw cells by true type (row) and best label (column); colour is the share of the row."""
    step, left, top = 34.0, 130.0, 110.0
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = []
    for i, label in enumerate(labels):
        parts.append(_text(left - 8, top + (i + 0.6) * step, _short(label), anchor="end"))
        parts.append(_text(left + (i + 0.6) * step, top - 8, _short(label), turn=-60))
        for j, called in enumerate(labels):
            n, part, x, y = int(counts[i, j]), share[i, j], left + j * step, top + i * step
            hover = f"{label} as {called}: {n:,} ({part:.1%})"
            parts.append(_draw("rect", x, y, step - 1, step - 1, hover=hover, fill=ramp(part)))
            if n:
                style = f"fill:{'#fff' if part < 0.6 else INK};font-size:10px"
                middle = x + step / 2, y + step / 2 + 4
                parts.append(_text(*middle, f"{n:,}", anchor="middle", style=style))
    side = step * max(len(labels), 1)
    return _svg(left + side + 60, top + side + 10, parts, title)


def reliability(bins: Sequence[ReliabilityBin], title: str) -> Drawing:
    """Draw accuracy against mean confidence; on the line, confidence is what it says."""
    left, top, side, low = 48.0, 12.0, 240.0, 252.0
    parts = [
        _draw("line", left, low, left + side, top, stroke="currentColor", stroke_dasharray="4 3"),
        _draw("rect", left, top, side, side, fill="none", stroke="#8a8a8a"),
    ]
    for tick in (0, 0.5, 1):
        parts.append(_text(left + side * tick, low + 14, f"{tick:g}", anchor="middle"))
        parts.append(_text(left - 6, low - side * tick + 4, f"{tick:g}", anchor="end"))
    most = max((b.n for b in bins), default=1)
    for b in bins:
        x, y, r = left + side * b.confidence, low - side * b.accuracy, 3 + 6 * (b.n / most) ** 0.5
        hover = f"{b.n:,} cells: confidence {b.confidence:.2f}, accuracy {b.accuracy:.2f}"
        parts.append(_draw("circle", x, y, r, hover=hover, fill=MORE))
    parts.append(_text(left + side / 2, low + 30, "mean confidence", anchor="middle"))
    parts.append(_text(12, top + side / 2, "accuracy", anchor="middle", turn=-90))
    return _svg(left + side + 20, low + 36, parts, title)


def _draw(tag: str, *places: float, words: str = "", hover: str = "", **attributes: str) -> str:
    """Return an element at its places; ``hover`` is shown where the mouse is on it."""
    placed = {key: f"{at:.1f}" for key, at in zip(PLACES[tag], places, strict=True)}
    given = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in (placed | attributes).items())
    title = f"<title>{_escape(hover)}</title>" if hover else ""
    return f"<{tag}{given}>{title}{_escape(words)}</{tag}>"


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", turn: int = 0, **more: str
) -> str:
    turned = {"transform": f"rotate({turn} {x:.1f} {y:.1f})"} if turn else {}
    return _draw("text", x, y, words=words, text_anchor=anchor, **turned, **more)


def _badge(x: float, y: float, words: str) -> str:
    """Write a number on a ground of its own, which is read on any colour."""
    wide = 7.0 * len(words)
    ground = _draw("rect", x - wide / 2, y - 6, wide, 12, rx="2", fill="#ffffffd9")
    style = f"fill:{INK};font-size:10px"
    return ground + _text(x, y + 4, words, anchor="middle", style=style)


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> Drawing:
    """Wrap parts of a figure; the title is read to those who cannot see it."""
    return Drawing(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{_escape(title)}" '
        f'style="width:{width:.0f}px">{"".join(parts)}</svg>'
    )


def _escape(text: str) -> str:
    return html.escape(visible(text))


def _short(name: str) -> str:
    """Return a name cut to what a figure has room for."""
    shown = visible(name)
    return shown if len(shown) <= MOST else f"{shown[: MOST - 1]}…"
