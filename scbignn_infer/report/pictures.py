"""Explanations as one PNG picture, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scbignn_infer.errors import MissingExtraError
from scbignn_infer.model.interpretation import by_absence, by_presence
from scbignn_infer.output.atomic import replacing
from scbignn_infer.plain import visible
from scbignn_infer.report.palette import LESS, MORE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scbignn_infer.explanation import CellExplanation
    from scbignn_infer.model.bundle import Interpretation

COLUMNS = 3
BAR, PANEL = 0.19, 3.4
"""Height of a bar and width of a panel, in inches."""
TITLE = 0.9
"""Height that title and axis of a panel take, in inches."""


def draw_model(target: Path, types: Mapping[str, Interpretation], n_genes: int) -> None:
    """Draw the genes that carry each type by presence, and to the left those by absence."""
    panels = {
        visible(label): {
            g.symbol: g.weight
            for side in (by_presence(looked_at.genes), by_absence(looked_at.genes))
            for g in side[:n_genes]
        }
        for label, looked_at in types.items()
    }
    _draw(target, panels, "integrated gradient; below 0 by absence")


def draw_cells(target: Path, cells: Sequence[CellExplanation], n_genes: int) -> None:
    """Draw the genes that speak for and against the label of each cell; see :func:`draw_model`."""
    panels = {
        f"{visible(cell.cell)}\n{visible(cell.best_label)}, confidence {cell.confidence:.2f}": {
            **dict(list(cell.present.items())[:n_genes]),
            **{symbol: -e for symbol, e in list(cell.missing.items())[:n_genes]},
        }
        for cell in cells
    }
    _draw(target, panels, "log-odds for the label")


def _draw(target: Path, panels: Mapping[str, Mapping[str, float]], axis: str) -> None:
    """Draw a panel of bars for each title, the largest on top."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", extra="report", purpose="a PNG picture") from None
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    bars = max(1, *(len(values) for values in panels.values()))
    figure = Figure(figsize=(PANEL * columns, (BAR * bars + TITLE) * rows), layout="constrained")
    for i, (title, values) in enumerate(panels.items(), 1):
        panel = figure.add_subplot(rows, columns, i)
        colours = [MORE if v >= 0 else LESS for v in values.values()]
        panel.barh(range(len(values)), list(values.values()), color=colours)
        names = [visible(name) for name in values]
        panel.set_yticks(range(len(values)), names, fontsize=8, parse_math=False)
        panel.set_ylim(bars - 0.4, -0.6)
        panel.set_title(title, fontsize=9, parse_math=False)
        panel.set_xlabel(axis, fontsize=8)
        panel.tick_params(axis="x", labelsize=8)
        panel.locator_params(axis="x", nbins=5)
        panel.spines[["top", "right"]].set_visible(False)
    with replacing(target) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
