"""What ``annotate`` prints of one file: what was read, labels, clusters, what to do next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from scbignn_infer.cli.printing import make_console, make_table, print_pairs, print_warnings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from scbignn_infer.label_file import Summary

MOST_CLUSTERS = 40
"""Clusters of a column that are printed; tables have all."""
FEW_PAIRS = 5
PROGRAM = "scbignn-infer"
CLUSTER_TITLES = ["cells", "label", "share", "next", "share", "mixed", "confidence"]


def print_summary(
    summary: Summary,
    *,
    model: str | None,
    report: Path | None,
    explain: Sequence[str],
    draw: Sequence[str],
) -> None:
    """Print the summary of a job.

    ``model`` is that which was named, ``report`` a page; ``explain`` and ``draw`` are the options
    with which the commands ``explain`` and ``report`` find the same labels.
    """
    from scbignn_infer.annotation.provenance import Provenance

    console = make_console(stderr=True)
    based, n = Provenance.from_record(summary), summary["cells"]
    used, chosen = based.model, ""
    if based.reference_distance is not None:
        far = ", ".join(f"{k} {v:.2f}" for k, v in based.reference_distance.items())
        chosen = f", {based.why} (distance to the references: {far})"
    print_pairs(
        console,
        {
            "cells": f"{n:,}, of which {summary['unknown']:,} unknown"
            + (f" ({summary['empty']:,} without counts)" if summary["empty"] else ""),
            **({} if based.left_out is None else {"left out": based.left_out.said}),
            "model": f"{used.name} {used.version}{chosen}",
            "tissue": based.tissue.said,
            "matrix": based.matrix_said,
            "genes": based.genes.said,
        },
    )
    if based.adaptation:
        console.print(based.adaptation, soft_wrap=True)
    if based.adapted is not None:
        console.print(based.adapted.said, soft_wrap=True)
    rows = [(label, f"{count:,}", f"{count / n:.1%}") for label, count in summary["labels"].items()]
    console.print(make_table(["label", "cells", "share"], rows))
    for key, clusters in summary.get("clusters", {}).items():
        _print_clusters(console, key, clusters)
    if "mixtures" in summary:
        print_pairs(console, {"mixtures": _mixtures(summary["mixtures"], n)})
    print_warnings(summary["warnings"])
    first, second = _next_steps(summary, ["-m", model or used.name, *explain], draw, report)
    print_pairs(
        console,
        {
            "seconds": f"{summary['seconds']:.1f}",
            "output": summary["output"],
            "next": first,
            "": second,
        },
    )


def _mixtures(cells: dict[str, int], n: int) -> str:
    """Say how many cells are between two types, and the most frequent pairs."""
    named = sum(cells.values())
    few = ", ".join(f"{pair} {m:,}" for pair, m in list(cells.items())[:FEW_PAIRS])
    more = f", {len(cells) - FEW_PAIRS} more pairs" if len(cells) > FEW_PAIRS else ""
    return f"{named:,} cells ({named / n:.1%})" + (f": {few}{more}" if cells else "")


def _print_clusters(console: Console, key: str, clusters: list[dict[str, Any]]) -> None:
    rows = [
        (
            c["cluster"],
            f"{c['cells']:,}",
            c["cell_type"],
            f"{c['share']:.0%}",
            c["runner_up"],
            f"{c['runner_up_share']:.0%}" if c["runner_up"] else "",
            "mixed" if c["mixed"] else "",
            f"{c['confidence']:.2f}",
        )
        for c in clusters[:MOST_CLUSTERS]
    ]
    console.print(make_table([key, *CLUSTER_TITLES], rows))
    if more := len(clusters) - len(rows):
        console.print(f"{more:,} more; --cluster-table FILE.csv writes all", soft_wrap=True)


def _next_steps(
    summary: Summary, explain: Sequence[str], draw: Sequence[str], report: Path | None
) -> tuple[str, str]:
    """Say in two lines how to look at the labels."""
    output = summary["output"]
    look = "to see the cells on a map, add --report report.html"
    if output.endswith(".h5ad"):
        look = f"to see the cells on a map: {shlex.join([PROGRAM, 'report', output, *draw])}"
    if report is not None:
        look = f"open {report} in a browser"
    why = shlex.join([PROGRAM, "explain", summary["input"], *explain])
    if summary["unknown"]:
        where = shlex.quote('scbignn_cell_type == "unknown"')
        return look, f"to see what the unknown cells are: {why} --where {where}"
    return look, f"to see the genes behind each label: {why}"
