"""``explain`` of groups of cells: the evidence for labels and clusters, printed and written."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from scbignn_infer.cli.printing import make_console, print_json, print_pairs
from scbignn_infer.output.table import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from scbignn_infer.gene_evidence import Evidence, GeneEvidence
    from scbignn_infer.settings import Settings

OUTPUTS = (".html", ".csv", ".tsv")
MOST_LABELS = 5
"""Labels of a group that are printed."""
TITLES = ("key", "group", "label", "kind", "gene", "share", "share_of_rest", "difference", "weight")


def find_groups(path: Path, where: str | None, settings: Settings) -> tuple[str, list[Evidence]]:
    """Label a file and return the model's name and the evidence for its groups of cells."""
    from scbignn_infer import label_file
    from scbignn_infer.gene_evidence import find_evidence

    with label_file.open_file(path, settings.reading, settings.memory_limit) as query:
        bundle, *_ = label_file.find_model(query, settings)
        annotator = label_file.make_annotator(settings, bundle)
        found = find_evidence(annotator, query, settings.reading, where=where)
        query.identity.check()
        return bundle.name, found


def write_groups(output: Path, suffix: str, name: str, groups: Sequence[Evidence]) -> list[str]:
    """Write a page, or a table with a row for each gene of each group; return warnings."""
    if suffix == ".html":
        from scbignn_infer.report import summaries

        summaries.write_evidence(output, name, groups)
        return []
    return write_rows(output, suffix, TITLES, _rows(groups))


def _rows(groups: Sequence[Evidence]) -> Iterator[tuple[str | float | None, ...]]:
    """Yield a row for each gene of each group."""
    for group in groups:
        start = (group.key, group.group, group.label)
        for kind in ("shown", "looked_at", "lacks"):
            genes: list[GeneEvidence] = getattr(group, kind)
            yield from ((*start, kind, *asdict(gene).values()) for gene in genes)
        for kind in ("absent", "unseen"):
            yield from ((*start, kind, gene, *[""] * 4) for gene in getattr(group, kind))


def print_groups(
    model: str, groups: Sequence[Evidence], n_genes: int, *, title: str, as_json: bool
) -> None:
    """Print the evidence for each group; ``title`` says what groups are that are no clusters."""
    if as_json:
        found = [asdict(group) | {"missing": group.missing} for group in groups]
        print_json({"model": model, "groups": found})
        return
    console = make_console()
    for group in groups:
        print_pairs(
            console,
            {
                group.key or title: group.group,
                "cells": f"{group.cells:,}, mean confidence {group.confidence:.2f}",
                "labels": _counts(group.labels) if [*group.labels] != [group.group] else "",
                "most like": _counts(group.best_labels) if group.reasons else "",
                "unknown because": _counts(group.reasons),
                "its cells show": _genes(group.shown, n_genes),
                "model looks at": _genes(group.looked_at, n_genes) + _for(group),
                "and for absence": _genes(group.lacks, n_genes),
                "missing": group.missing,
            },
        )
        console.print()
    console.print(
        "gene 90% (5%) +2.1: 90% of these cells have it and 5% of all others; its mean is 2.1 "
        "standard deviations higher. Cells are asked for all genes of the file",
        soft_wrap=True,
    )


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {n:,}" for name, n in list(counts.items())[:MOST_LABELS]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f", {more} more" if more else "")


def _for(group: Evidence) -> str:
    """Say for which label, where it is not that of the group."""
    return f" (for {group.label})" if group.looked_at and group.label != group.group else ""


def _genes(genes: Sequence[GeneEvidence], n: int) -> str:
    return ", ".join(map(_gene, genes[:n]))


def _gene(gene: GeneEvidence) -> str:
    rest = "" if gene.share_of_rest is None else f" ({gene.share_of_rest:.0%})"
    higher = "" if gene.share_of_rest is None else f" {gene.difference:+.1f}"
    return f"{gene.gene} {gene.share:.0%}{rest}{higher}"
