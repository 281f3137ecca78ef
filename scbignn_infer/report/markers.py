"""How the query's cells express the genes that they show, and those that carry their labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scbignn_infer.gene_evidence import Groups, evidence_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.gene_evidence import Called, Evidence, GeneEvidence
    from scbignn_infer.query.expressed import Shown
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice

PER_TYPE, MOST = 4, 48
"""Genes of a label, of those that no label before it shows, and of all labels."""


@dataclass(frozen=True)
class Dots:
    """How the cells of each label express some genes."""

    genes: list[str]
    mean: Array
    """(labels, genes) mean log1p(CP10k)."""
    fraction: Array
    """(labels, genes) share of cells with the gene."""

    @classmethod
    def of(cls, shown: Shown, n_labels: int, by_label: Iterable[list[GeneEvidence]]) -> Self:
        """Take the first genes of each label that no label before it has."""
        genes: list[str] = []
        for own in by_label:
            genes += [g.gene for g in own if g.gene not in genes][:PER_TYPE]
        return cls(genes[:MOST], *shown.of_genes(genes[:MOST], n_labels))


@dataclass(frozen=True)
class Markers:
    """The genes of the called types, and how the query's cells express them."""

    labels: list[str]
    shown: Dots
    """Of genes that the cells of a type show most against all others."""
    carried: Dots
    """Of genes that carry a type in the model by their presence."""
    absent: dict[str, dict[str, float]]
    """By label, genes that carry it by their absence, and their weight, below 0."""
    n_genes: int
    """Of the file, which were all looked at for what cells show."""
    evidence: list[Evidence] = field(default_factory=list)
    """For each label, what its cells show against all others, and which markers are missing."""


def express(query: Query, choice: Choice, called: Called, grouping: Grouping) -> Markers:
    """Read the query once more, for all of its genes."""
    groups = Groups.by_label(called)
    found, shown = evidence_of(query, choice, called, grouping, groups)
    types = [label for label in found if label.group == label.label]
    return Markers(
        groups.names,
        Dots.of(shown, len(found), (label.shown for label in types)),
        Dots.of(shown, len(found), (label.looked_at for label in types)),
        absent={label.group: {g.gene: g.weight for g in label.lacks[:PER_TYPE]} for label in types},
        n_genes=len(shown.symbols),
        evidence=found,
    )
