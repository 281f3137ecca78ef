"""Pages of single results: scores, what a model looks at, why cells were called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scbignn_infer.report.page import write_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scbignn_infer.evaluation import Scores
    from scbignn_infer.explanation import CellExplanation
    from scbignn_infer.gene_evidence import Evidence
    from scbignn_infer.model.bundle import Interpretation


def write_scores(
    target: Path,
    name: str,
    scores: Scores,
    against: Mapping[str, Any] | None = None,
    *,
    warnings: Sequence[str] = (),
) -> None:
    """Write accuracy, confusion and calibration, and how another labelling compares."""
    types = [(k, c.precision, c.recall, c.f1, c.n) for k, c in scores.per_class.items()]
    left_out = ", ".join(f"{k or '(none)'} {n:,}" for k, n in scores.left_out.items())
    parts = {"scores": scores, "types": types, "left_out": left_out, "against": against}
    depths = scores.depths.said if scores.depths else ""
    write_page(target, "scores", name=name, warnings=warnings, depths=depths, **parts)


def write_model(target: Path, name: str, types: Mapping[str, Interpretation]) -> None:
    """Write the genes and pairs of genes that carry the types of a model."""
    shown = [
        (
            label,
            {g.symbol: g.weight for g in carriers.genes},
            [("\u2013".join(p.genes), p.weight) for p in carriers.pairs[:10]],
        )
        for label, carriers in types.items()
    ]
    write_page(target, "model", name=name, types=shown)


def write_cells(target: Path, name: str, cells: Sequence[CellExplanation]) -> None:
    """Write why cells were called what they were."""
    effects = [cell.present | {symbol: -e for symbol, e in cell.missing.items()} for cell in cells]
    write_page(target, "cells", name=name, cells=list(zip(cells, effects, strict=True)))


def write_evidence(target: Path, name: str, groups: Sequence[Evidence]) -> None:
    """Write what groups of cells show, beside what the model looks at."""
    tables: dict[str, list[Evidence]] = {}
    for group in groups:
        tables.setdefault(group.key or "label", []).append(group)
    write_page(target, "groups", name=name, tables=tables)
