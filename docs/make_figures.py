"""Draw the pictures of the docs that no benchmark draws: ``python docs/make_figures.py``.

figures/report.svg holds parts of the report of the example, and figures/example_map.png is one of
its figures. The others are pictures of the notebooks, which need R for one of them.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from click.testing import CliRunner
from nbclient import NotebookClient

from scbignn_infer.cli import main

FIGURES = Path(__file__).with_name("figures")
NOTEBOOKS = Path(__file__).with_name("notebooks")
PICTURES = {
    "clusters": {"clusters": 0},
    "consensus": {"consensus": 1},
    "from_r": {"from_r": 0},
    "space": {"section": 0, "bins": 1, "spots": 2},
}
"""Files of pictures by notebook, with the place of each among the notebook's pictures."""
EXAMPLE = "pbmc700.h5ad"
MAP, LEFT, TOP = 420.0, 12.0, 96.0
"""Side of the map and its corner."""
FONT = "font-family:system-ui,'Segoe UI',Roboto,sans-serif;fill:#222"


def report() -> tuple[str, bytes]:
    """Label the example and return its report and its map for print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in (
            ["example", "-o", str(folder)],
            [
                *("annotate", str(folder / EXAMPLE), "--report", str(folder / "report.html")),
                *("--figures", str(folder / "figures")),
            ],
        ):
            done = CliRunner().invoke(main, command, catch_exceptions=False)
            if done.exit_code:
                raise SystemExit(done.output)
        page = (folder / "report.html").read_text(encoding="utf-8")
        return page, (folder / "figures" / "map.png").read_bytes()


def text(x: float, y: float, said: str, size: int = 13, weight: int = 400) -> str:
    """Return a line of text."""
    style = f"font-size:{size}px;font-weight:{weight}"
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{style}">{said}</text>'


def numbers(packed: str, kind: str) -> np.ndarray[Any, Any]:
    """Return the numbers of the map as the page holds them."""
    return np.frombuffer(base64.b64decode(packed), dtype=kind)


def mark(x: float, y: float, size: float, kind: dict[str, Any]) -> str:
    """Return the sign of a label: a dot, or for the later ones a ring, a cross, a triangle."""
    colour, form = kind["colour"], kind["pattern"]
    if form < 2:
        look = f'fill="{colour}"' if form == 0 else f'fill="none" stroke="{colour}"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {look}/>'
    lines = "M-1,-1L1,1M-1,1L1,-1" if form == 2 else "M-1,1L0,-1L1,1Z"
    place = f'transform="translate({x:.1f} {y:.1f}) scale({size})"'
    return f'<path d="{lines}" {place} fill="none" stroke="{colour}" stroke-width=".4"/>'


def drawn_map(data: dict[str, Any]) -> list[str]:
    """Return the cells at their places, coloured by label, and the legend."""
    kinds = data["kinds"]["label"]["categories"]
    side = f'width="{MAP + 12:.0f}" height="{MAP + 12:.0f}"'
    parts = [f'<rect x="{LEFT}" y="{TOP}" {side} fill="none" stroke="#d9d9d9"/>']
    x, y = (numbers(data[axis], "<u2") / 65535 * MAP for axis in "xy")
    for i, label in enumerate(numbers(data["columns"]["label"], "u1")):
        parts.append(mark(LEFT + 6 + x[i], TOP + 6 + MAP - y[i], 2.5, kinds[label]))
    for i, kind in enumerate(kinds):
        left, low = LEFT + MAP + 30, TOP + 14 + 22 * i
        parts.append(mark(left + 6, low - 5, 5, kind))
        parts.append(text(left + 20, low, f"{escape(kind['label'])} ({kind['n']:,})"))
    return parts


def figure(page: str) -> str:
    """Return head, map and genes of a report as one drawing."""
    (data,) = re.findall(r'id="data">(.+?)</script>', page, re.DOTALL)
    (warning,) = re.findall(r'<p class="warning">(.+?)</p>', page)
    facts = re.findall(r"<div><b>(.+?)</b>(.+?)</div>", page.split("<h2>")[2])
    (dots,) = re.findall(r'(<svg [^>]+aria-label="Expression of marker.+?</svg>)', page, re.DOTALL)
    wide, tall = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', dots)[0])
    low, width = TOP + MAP + 50, 960.0
    parts = [
        text(LEFT, 26, EXAMPLE, 20, 700),
        f'<rect x="{LEFT}" y="38" width="{width - 2 * LEFT}" height="24" fill="#fdf1e8"/>',
        f'<rect x="{LEFT}" y="38" width="4" height="24" fill="#D55E00"/>',
        text(LEFT + 12, 55, warning),
        text(LEFT, TOP - 10, "Map of the cells", 15, 700),
        *drawn_map(json.loads(data)),
    ]
    short = [(name, value) for name, value in facts if len(value) < 40]
    for i, (name, value) in enumerate(short):
        x, y = LEFT + MAP + 260, TOP + 14 + 38 * i
        parts += [text(x, y, name, 11, 600), text(x, y + 15, value)]
    parts += [
        text(LEFT, low, "Genes that carry the labels", 15, 700),
        re.sub(
            r"<svg [^>]+>", f'<g transform="translate(0 {low + 8:.0f})" font-size="11">', dots
        ).replace("</svg>", "</g>"),
    ]
    size = f'viewBox="0 0 {max(width, wide):.0f} {low + 12 + tall:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{FONT};background:#fff">'
    return "\n".join([head, *parts, "</svg>\n"])


def pictures(notebook: str) -> list[bytes]:
    """Run a notebook and return its pictures."""
    document = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(document, resources={"metadata": {"path": folder}}).execute()
    outputs = [o.get("data", {}) for cell in document.cells for o in cell.get("outputs", ())]
    return [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]


if __name__ == "__main__":
    page, drawn = report()
    (FIGURES / "report.svg").write_text(figure(page), encoding="utf-8")
    (FIGURES / "example_map.png").write_bytes(drawn)
    for notebook, files in PICTURES.items():
        found = pictures(notebook)
        for name, place in files.items():
            (FIGURES / f"{name}.png").write_bytes(found[place])
