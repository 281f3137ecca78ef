"""Pages of single results: scores, what a model looks at, why cells were called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scbignn_infer.report import figures
from scbignn_infer.report.page import facts, table, warned, write_page
from scbignn_infer.report.words import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scbignn_infer.evaluation import Scores
    from scbignn_infer.explanation import CellExplanation
    from scbignn_infer.model.bundle import Interpretation


def write_scores(
    target: Path,
    name: str,
    scores: Scores,
    against: Mapping[str, Any] | None = None,
    *,
    warnings: Sequence[str] = (),
) -> None:
    """Write accuracy, confusion and calibration, and how another labelling compares.

    Parameters
    ----------
    target, name
        The page, and what was scored.
    scores
        What was found.
    against
        Key, agreement and scores of another labelling.
    warnings
        Shown first.

    Raises
    ------
    OutputError
        The file cannot be written; nothing is left behind.
    """
    shown = {
        "cells scored": f"{scores.n_cells:,}",
        "left out": ", ".join(f"{k or '(none)'} {n:,}" for k, n in scores.left_out.items()),
        "accuracy": f"{scores.accuracy:.3f}",
        "macro-F1": f"{scores.macro_f1:.3f}",
        "called unknown": f"{scores.unknown_share:.1%}",
        "calibration error": ""
        if scores.calibration_error is None
        else f"{scores.calibration_error:.3f}",
    }
    rows = [
        (label, f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}", f"{c.n:,}")
        for label, c in scores.per_class.items()
    ]
    bins = [(b.confidence, b.accuracy, b.n) for b in scores.reliability]
    titles = ("type", "precision", "recall", "F1", "cells")
    parts = [
        f"<h1>{escape(name)}</h1>{warned(warnings)}{facts(shown)}",
        f"<h2>Types</h2>{table(titles, rows, (1, 2, 3, 4))}",
        "<h2>True type (row), best label (column)</h2>"
        + figures.confusion(scores.labels, scores.confusion, "Confusion"),
    ]
    if bins:
        parts.append(f"<h2>Calibration</h2>{figures.reliability(bins, 'Calibration')}")
    if against is not None:
        agreed, theirs = against["agreement"], against["scores"] or {}
        known = {
            "same label": f"{agreed['share']:.1%} of {agreed['n_cells']:,} cells",
            "kappa": f"{agreed['kappa']:.3f}",
            **{key: f"{value:.3f}" for key, value in theirs.items()},
        }
        differ = [(a, b, f"{n:,}") for a, b, n in agreed["pairs"]]
        key = str(against["key"])
        listed = table(("label", key, "cells"), differ, (2,))
        parts.append(f"<h2>Against {escape(key)}</h2>{facts(known)}{listed}")
    write_page(target, f"{name}: scores", parts)


def write_model(target: Path, name: str, types: Mapping[str, Interpretation]) -> None:
    """Write the genes and pairs of genes that carry the types of a model.

    Raises
    ------
    OutputError
        The file cannot be written; nothing is left behind.
    """
    parts = [f"<h1>{escape(name)}: what it looks at</h1>", _SIGNS]
    for label, found in types.items():
        genes = {g.symbol: g.weight for g in found.genes}
        pairs = [("\u2013".join(p.genes), f"{p.weight:.2g}") for p in found.pairs[:10]]
        figure = figures.bars(genes, f"Genes that carry {label}", "integrated gradient")
        listed = table(("attended to together", "weight"), pairs, (1,)) if pairs else ""
        parts.append(f'<h2>{escape(label)}</h2><div class="two">{figure}{listed}</div>')
    write_page(target, f"{name}: what it looks at", parts)


_SIGNS = """<p class="soft">Blue genes carry a type by their presence: its cells have more of them
than the mean of the other types. Orange genes, with a minus, carry it by their absence: its cells
have less.</p>"""


def write_cells(target: Path, name: str, cells: Sequence[CellExplanation]) -> None:
    """Write why cells were called what they were.

    Raises
    ------
    OutputError
        The file cannot be written; nothing is left behind.
    """
    parts = [f"<h1>{escape(name)}</h1>"]
    for cell in cells:
        shown = {
            "label": cell.label,
            "best label": cell.best_label,
            "confidence": f"{cell.confidence:.3f}",
            "novelty": f"{cell.novelty:.2f}",
            "gene level": ", ".join(f"{k} {p:.2f}" for k, p in cell.gene_level.items()),
            "cell level": ", ".join(f"{k} {p:.2f}" for k, p in cell.cell_level.items()),
            "neighbours": ", ".join(f"{k} {n}" for k, n in cell.neighbors.items()),
        }
        effects = cell.present | {symbol: -e for symbol, e in cell.missing.items()}
        figure = figures.bars(effects, f"Genes behind {cell.cell}", "log-odds for the label")
        parts.append(f"<h2>{escape(cell.cell)}</h2>{facts(shown)}{figure}")
    write_page(target, f"{name}: why", parts)
