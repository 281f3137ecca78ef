"""``evaluate``: score labels against the truth and against other labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from scbignn_infer.cli.options import (
    FILE,
    json_option,
    moved_option,
    overwrite_option,
    read_map,
    settings_options,
)
from scbignn_infer.cli.printing import as_score, make_console, make_table, print_json, print_pairs
from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.annotation.provenance import Provenance
    from scbignn_infer.evaluation import Scores
    from scbignn_infer.query.readers import FileQuery, Query
    from scbignn_infer.settings import Settings

Summary = dict[str, Any]


MOVED = "evaluate scores the labels in a file; first write: scbignn-infer annotate FILE -m MODEL"


@click.command()
@click.argument("labelled", type=FILE)
@click.option("--truth", required=True, metavar="KEY", help="Column of obs with the true labels.")
@settings_options("key_added")
@moved_option("-m", "--model", to=MOVED)
@click.option("--map", "map_file", type=FILE, help="JSON object that renames true labels.")
@click.option(
    "--against", metavar="KEY", help="Column of obs with other labels, to compare and to score."
)
@click.option("-o", "--output", type=FILE, help="HTML page to write instead of tables.")
@overwrite_option
@json_option
def evaluate(
    labelled: Path,
    truth: str,
    settings: Settings,
    map_file: Path | None,
    against: str | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score labels against the truth.

    Takes the labels that annotate wrote into LABELLED (.h5ad).
    """
    import numpy as np

    from scbignn_infer import evaluation
    from scbignn_infer.annotation.annotation import UNKNOWN
    from scbignn_infer.label_file import open_file
    from scbignn_infer.output import atomic
    from scbignn_infer.query.identity import Identity

    if output is not None:
        read = [Identity.of(path) for path in (labelled, map_file) if path is not None]
        atomic.check_output(output, suffixes=(".html",), overwrite=overwrite, inputs=read)
    names = read_map(map_file) if map_file is not None else {}
    with open_file(labelled) as cells:
        labels = _written_labels(cells, settings.key_added)
        given, options = [_labels(cells, truth, "choose with --truth")], ["--truth"]
        if against is not None:
            given.append(_labels(cells, against, "choose with --against"))
            options.append("--against")
        cells.identity.check()
    columns = []
    for option, column in zip(options, given, strict=True):
        renamed = [names.get(label, label) for label in column]
        same = evaluation.same_meaning(
            {*renamed} - {*names.values()}, labels.cell_types, labels.joins
        )
        columns.append(np.array([same.get(label, label) for label in renamed], dtype=object))
        labels.warnings.extend(_renamed(option, same))
    true, other = columns[0], columns[1] if against is not None else None
    scores = evaluation.score(
        true,
        labels.best,
        labels.final != UNKNOWN,
        labels.cell_types,
        confidence=labels.confidence,
        final=labels.final,
        joins=labels.joins,
    )
    compared: Summary | None = None
    if other is not None:
        known = np.isin(true, [*labels.cell_types, *labels.joins]) & (other != "")
        compared = {
            "key": against,
            "agreement": asdict(evaluation.agreement(labels.best, other)),
            "scores": None,
        }
        if known.any():
            theirs = evaluation.score(true, other, known, labels.cell_types, joins=labels.joins)
            compared["scores"] = {"accuracy": theirs.accuracy, "macro_f1": theirs.macro_f1}
    for warning in labels.warnings:
        make_console(stderr=True).print(f"warning: {warning}", soft_wrap=True)
    if as_json:
        print_json(
            {
                "file": str(labelled),
                **scores.as_dict(),
                "against": compared,
                "warnings": labels.warnings,
            }
        )
    elif output is None:
        _print_scores(scores, compared)
    if output is not None:
        from scbignn_infer.report.summaries import write_scores

        with atomic.replacing(output, new=not overwrite) as page:
            write_scores(page, labelled.name, scores, compared, warnings=labels.warnings)


@dataclass(frozen=True)
class _Labels:
    """Labels that are scored, (n,) each, their model's types, what joins these, what to say."""

    best: Any
    final: Any
    confidence: Any
    cell_types: list[str]
    joins: dict[str, list[str]]
    warnings: list[str]


def _print_scores(scores: Scores, compared: Summary | None) -> None:
    console = make_console()
    left_out = [f"{label or '(none)'} {n:,}" for label, n in scores.left_out.items()]
    n_left_out = sum(scores.left_out.values())
    print_pairs(
        console,
        {
            "cells scored": f"{scores.n_cells:,}",
            "left out": f"{n_left_out:,}, unknown to the model: {', '.join(left_out)}"
            if left_out
            else "",
            "accuracy": as_score(scores.accuracy),
            "macro-F1": as_score(scores.macro_f1),
            "called unknown": f"{scores.unknown_share:.1%}",
            "accuracy of the called": as_score(scores.called_accuracy),
            "calibration error": as_score(scores.calibration_error),
            "labels given": scores.depths.said if scores.depths else "",
        },
    )
    rows = [
        (label, *(as_score(v) for k, v in asdict(c).items() if k != "n"), f"{c.n:,}")
        for label, c in scores.per_class.items()
    ]
    console.print(make_table(["type", "precision", "recall", "F1", "cells"], rows))
    counts = [
        (f"{i} {label}", *(f"{n:,}" for n in row))
        for i, (label, row) in enumerate(zip(scores.labels, scores.confusion, strict=True), 1)
    ]
    numbers = [str(i) for i in range(1, len(scores.labels) + 1)]
    console.print(make_table(["true type (row), best label (column)", *numbers], counts))
    bins = [(as_score(b.confidence), as_score(b.accuracy), f"{b.n:,}") for b in scores.reliability]
    console.print(make_table(["mean confidence", "accuracy", "cells"], bins))
    if compared is None:
        return
    agreed, theirs = compared["agreement"], compared["scores"] or {}
    print_pairs(
        console,
        {
            f"against {compared['key']}": f"{agreed['share']:.1%} of {agreed['n_cells']:,} cells "
            f"have the same label (kappa {agreed['kappa']:.3f})",
            "its accuracy": as_score(theirs.get("accuracy")),
            "its macro-F1": as_score(theirs.get("macro_f1")),
        },
    )
    differ = [(a, b, f"{n:,}") for a, b, n in agreed["pairs"]]
    console.print(make_table(["label", compared["key"], "cells"], differ))


def _renamed(option: str, same: dict[str, str]) -> list[str]:
    """Say which labels of a column were taken for labels of the model."""
    if not same:
        return []
    said = ", ".join(f"'{label}' as {own}" for label, own in sorted(same.items()))
    return [f"labels of {option} were read by what they mean: {said}; --map says it otherwise"]


def _labels(cells: Query, key: str, do: str) -> list[str]:
    """Return a column of obs as strings, missing values as empty ones."""
    try:
        return cells.obs_column(key)
    except InputError as error:
        raise InputError(error.found, expected=error.expected, do=do) from None


def _written_labels(cells: FileQuery, key: str) -> _Labels:
    """Return the labels that annotate has written."""
    import numpy as np

    from scbignn_infer.annotation.annotation import joins_of
    from scbignn_infer.annotation.provenance import Provenance

    do = "run scbignn-infer annotate first"
    record = cells.uns(key)
    names = [f"{key}_{name}" for name in ("best_cell_type", "cell_type", "confidence")]
    if not isinstance(record, dict) or "cell_types" not in record:
        raise InputError(
            f"{cells.path} holds no labels of a model under the key '{key}'",
            expected=f"obs['{names[0]}']",
            do=do,
        )
    types = [str(c) for c in record["cell_types"]]
    best, final, confidence = (np.array(_labels(cells, name, do), dtype=object) for name in names)
    return _Labels(
        best,
        final,
        confidence.astype(np.float64),
        types,
        joins_of(record, types),
        _warnings_of(Provenance.from_record(record)),
    )


def _warnings_of(provenance: Provenance) -> list[str]:
    """Return why scores on these cells say nothing of new data."""
    adapted = provenance.adapted.said if provenance.adapted else ""
    return [*filter(None, [provenance.adaptation, adapted]), *provenance.training_warnings()]
