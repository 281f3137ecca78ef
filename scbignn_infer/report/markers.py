"""How the query's cells express the genes that carry their labels, and what else they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scbignn_infer.gene_evidence import Groups, evidence_of

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.gene_evidence import Called, Evidence
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice

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
    evidence: list[Evidence] = field(default_factory=list)
    """For each label, what its cells show against all others, and which markers are missing."""


def express(query: Query, choice: Choice, called: Called, grouping: Grouping) -> Markers:
    """Read the query once more for the genes that the model looks at for each called type."""
    groups = Groups.by_label(called)
    found, shown = evidence_of(query, choice, called, grouping, groups)
    genes: list[str] = []
    for label in found:
        new = [g.gene for g in label.looked_at if g.gene not in genes]
        genes += new[:PER_TYPE] if label.group == label.label else []
    genes = genes[:MOST]
    place = {symbol: i for i, symbol in enumerate(choice.panel.symbols)}
    columns, rows = [place[gene] for gene in genes], slice(len(found))
    absent = {
        label.group: {g.gene: g.weight for g in label.lacks[:PER_TYPE]}
        for label in found
        if label.group == label.label
    }
    values = (shown.mean[rows, columns], shown.share[rows, columns])
    return Markers(genes, groups.names, *values, absent, found)
