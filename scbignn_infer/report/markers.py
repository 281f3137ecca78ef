"""How the query's cells express the genes that carry their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.model.interpretation import by_absence, by_presence, signed_interpretation
from scbignn_infer.network.levels import READ_CELLS
from scbignn_infer.network.panel import TARGET_SUM

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.model.bundle import CellType
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.report.labelled import Labelled

PER_TYPE, MOST = 4, 48
"""Genes of a label, of those that no label before it shows, and of all labels."""


@dataclass(frozen=True)
class Markers:
    """Genes that carry the called types, and how the query's cells express them."""

    genes: list[str]
    """Symbols of genes that carry a type by their presence."""
    labels: list[str]
    mean: Array
    """(labels, genes) mean log1p(CP10k)."""
    fraction: Array
    """(labels, genes) share of cells with the gene."""
    absent: dict[str, dict[str, float]]
    """By label, genes that carry it by their absence, and their weight, below 0."""


def express(query: Query, choice: Choice, labelled: Labelled, grouping: Grouping) -> Markers:
    """Read the query once more for the genes that the model looks at for each called type."""
    labels = list(labelled.counts())
    place = {symbol: i for i, symbol in enumerate(choice.panel.symbols)}
    bundle = choice.bundle
    carriers = signed_interpretation(bundle.spec, bundle.statistics["class_mean"])
    chosen = labelled.provenance.tissue.chosen
    preferred = sorted(enumerate(bundle.spec.cell_types), key=lambda c: c[1].tissue not in chosen)
    genes: list[str] = []
    absent: dict[str, dict[str, float]] = {}
    for label in labels:
        for cell_type in filter(carriers.get, _types_of(grouping, preferred, label)):
            read = [g for g in carriers[cell_type].genes if g.symbol in place]
            new = [g.symbol for g in by_presence(read) if g.symbol not in genes]
            genes += new[:PER_TYPE]
            lacks = {g.symbol: g.weight for g in by_absence(read)[:PER_TYPE]}
            absent[label] = lacks | absent.get(label, {})
    genes = genes[:MOST]
    columns = [place[s] for s in genes]
    code = {label: i for i, label in enumerate(labels)}
    codes = np.array([code[label] for label in labelled.labels])
    total, some = np.zeros((2, len(labels), len(genes)))
    start = 0
    for block in query.blocks(choice.matrix, READ_CELLS):
        counts, totals = choice.panel.densify(block)
        shown = np.log1p(counts[:, columns] * (TARGET_SUM / np.maximum(totals, 1)))
        rows = codes[start : start + len(shown)]
        np.add.at(total, rows, shown)
        np.add.at(some, rows, shown > 0)
        start += len(shown)
    n = np.bincount(codes, minlength=len(labels))[:, None]
    return Markers(genes, labels, total / n, some / n, absent)


def _types_of(grouping: Grouping, types: list[tuple[int, CellType]], label: str) -> list[str]:
    """Return a class of each of the types behind a label, several where labels are groups."""
    if label not in grouping.labels:
        return []
    group = grouping.labels.index(label)
    own = [cell_type for code, cell_type in types if grouping.group[code] == group]
    return list({c.called: c.label for c in reversed(own)}.values())[::-1]
