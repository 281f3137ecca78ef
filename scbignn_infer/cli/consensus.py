"""``consensus``: one label of several, by the Cell Ontology."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scbignn_infer.cli.options import FILE, json_option, overwrite_option, read_map
from scbignn_infer.cli.printing import (
    as_score,
    make_console,
    make_table,
    print_json,
    print_warnings,
)

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.common_label import Consensus

SUFFIXES = (".csv", ".tsv")
SHOWN = 5
"""Labels that are no term, of each column."""


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--keys", required=True, metavar="KEY,KEY", help="Columns of obs with labels, two or more."
)
@click.option(
    "--at-least",
    type=click.IntRange(min=1),
    metavar="N",
    help="Labels that must be at a term or below it [default: all].",
)
@click.option(
    "--map", "map_file", type=FILE, help="JSON object: a name or id of a term for each label."
)
@click.option("-o", "--output", type=FILE, help="Table to write, by cell (.csv, .tsv).")
@overwrite_option
@json_option
def consensus(
    file: Path,
    keys: str,
    at_least: int | None,
    map_file: Path | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make one label of several, by the Cell Ontology.

    Takes any columns of labels in FILE, of this program or others: names or ids of the ontology,
    and everyday names such as "CD4 T". Each cell is given the deepest term that its labels are, or
    are below.
    """
    from scbignn_infer.common_label import consensus as agree
    from scbignn_infer.label_file import open_file
    from scbignn_infer.output import atomic
    from scbignn_infer.query.identity import Identity

    if output is not None:
        read = [Identity.of(path) for path in (file, map_file) if path is not None]
        atomic.check_output(output, suffixes=SUFFIXES, overwrite=overwrite, inputs=read)
    names = read_map(map_file) if map_file is not None else {}
    with open_file(file) as cells:
        wanted = dict.fromkeys(key.strip() for key in keys.split(",") if key.strip())
        columns = {key: cells.obs_column(key) for key in wanted}
        cell_names = cells.cell_names()
        cells.identity.check()
    found = agree(columns, at_least=at_least, names=names)
    for key, labels in found.unmapped.items():
        if labels:
            few = ", ".join(f"'{label}' ({n:,})" for label, n in list(labels.items())[:SHOWN])
            more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
            make_console(stderr=True).print(
                f"warning: labels of '{key}' that name no term of the Cell Ontology, and have no "
                f"say: {few}{more}; say what they mean with --map",
                soft_wrap=True,
            )
    if as_json:
        print_json(_summary(file, found))
    else:
        _print(found)
    if output is not None:
        with atomic.replacing(output, new=not overwrite) as part:
            warnings = _write(part, output.suffix, cell_names, found)
        print_warnings(warnings)


def _counts(found: Consensus) -> dict[str, int]:
    import numpy as np

    labels, n = np.unique(found.labels.astype(str), return_counts=True)
    return {str(labels[i]): int(n[i]) for i in np.argsort(-n, kind="stable")}


def _summary(file: Path, found: Consensus) -> dict[str, object]:
    return {
        "file": str(file),
        "labels": _counts(found),
        "pairs": [pair._asdict() for pair in found.pairs],
        "unmapped": found.unmapped,
    }


def _print(found: Consensus) -> None:
    console = make_console()
    rows = [[f"{a}, {b}", f"{n:,}", *map(as_score, of)] for a, b, n, *of in found.pairs]
    titles = ["columns", "cells", "same", "one above the other", "different"]
    console.print(make_table(titles, rows))
    labels = [[label, f"{n:,}"] for label, n in _counts(found).items()]
    console.print(make_table(["consensus", "cells"], labels))


def _write(path: Path, suffix: str, cells: list[str], found: Consensus) -> list[str]:
    from math import isnan

    from scbignn_infer.output.table import write_rows

    titles = ["cell", "consensus", "consensus_ontology_id", "n_labels", "agreement"]
    agreement = ["" if isnan(a) else f"{a:.4g}" for a in found.agreement.tolist()]
    columns = (cells, found.labels, found.ontology_ids, found.n_labels.tolist(), agreement)
    return write_rows(path, suffix, titles, zip(*columns, strict=True))
