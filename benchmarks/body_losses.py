"""What body models lose on cells of other laboratories, and of which kind it is.

Run: ``python benchmarks/body_losses.py MODEL... --out FILE.json`` (needs the extra ``training`` and
``SCBIGNN_DATA``). Files, truth and scores are those of ``body.py``, with the tissue given. The loss
of macro-F1 of a file is divided by the number of cells of its types; what would be won if a label
that is above the true one counted as right stands beside it, then the mean confidence, the accuracy
and the expected calibration error. Give twins after shipped models.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from body import OTHER, may_score, meant, tasks
from scbignn_infer import Annotator
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.evaluation import calibration_error, reliability
from scbignn_infer.model.bundle import read_bundle
from scbignn_infer.model.cell_ontology import terms
from scbignn_infer.model.validate import ANY_TISSUE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from body import Task

Array = np.ndarray[Any, Any]
FEW, SOME = 10, 30
"""Cells of a type below which one error moves its F1 by more than .1, and by more than .03."""
WEAK = 0.85
"""Types of a lower F1 are named, with what most of their cells are called."""


def losses(task: Task, called: Array, confidence: Array, own: Array) -> dict[str, Any]:
    """Return the loss of macro-F1 by kind, the calibration, and the weak types.

    ``own`` (n_cells,) is the probability of the best type alone.
    """
    truth = np.array([task.terms.get(str(x), "") for x in task.cells.labels], object)
    known = truth != ""
    truth, called, sure, own = truth[known], called[known], confidence[known], own[known]
    wanted = sorted(set(truth), key=lambda t: -len(terms()[t].above))
    said = np.array([meant(c, t, wanted) for c, t in zip(called, truth, strict=True)], object)
    wider = [c != t and c in terms()[t].above for c, t in zip(called, truth, strict=True)]
    cells = {t: int(np.equal(truth, t).sum()) for t in wanted}
    f1 = {t: _f1(np.equal(truth, t), np.equal(said, t)) for t in wanted}
    kind = {t: "few" if n < FEW else "some" if n < SOME else "many" for t, n in cells.items()}
    forgiven = np.where(wider, truth, said)
    kind_loss = {
        f"loss_{k}": round(sum(1 - f1[t] for t in wanted if kind[t] == k) / len(wanted), 4)
        for k in ("few", "some", "many")
    }
    right = np.equal(said, truth)
    bins = reliability(sure, right)
    won = np.mean([_f1(np.equal(truth, t), np.equal(forgiven, t)) - f1[t] for t in wanted])
    return {
        "macro_f1": round(float(np.mean(list(f1.values()))), 4),
        **kind_loss,
        "if_wider_were_right": round(float(won), 4),
        "confidence": round(float(sure.mean()), 4),
        "accuracy": round(float(right.mean()), 4),
        "ece": round(float(calibration_error(bins) or 0.0), 4),
        "ece_of_own": round(float(calibration_error(reliability(own, right)) or 0.0), 4),
        "own_below_0.2": round(float((own < 0.2).mean()), 4),
        "weak": [
            {
                "type": terms()[t].label,
                "cells": cells[t],
                "f1": round(f1[t], 3),
                "called": _names(called[np.equal(truth, t)]),
            }
            for t in sorted(wanted, key=lambda t: f1[t])
            if f1[t] < WEAK
        ],
    }


def _f1(real: Array, given: Array) -> float:
    return 2 * float((real & given).sum()) / max(float(real.sum() + given.sum()), 1.0)


def _names(called: Array) -> dict[str, int]:
    most = Counter(terms()[c].label if c else OTHER for c in called).most_common(3)
    return dict(most)


def rows(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the losses on each file, by the first model that may be scored on it."""
    bundles = {path: read_bundle(path) for path in paths}
    for species in dict.fromkeys(b.spec.species for b in bundles.values()):
        for task in tasks(species):
            path = next((p for p in paths if may_score(bundles[p].spec, species, task)), None)
            if path is None:
                continue
            own = tuple(sorted(task.places & {t.name for t in bundles[path].spec.tissues}))
            found = Annotator(bundles[path], threads=1).annotate_matrix(
                task.cells.counts,
                task.cells.symbols,
                rules=Rules.of(bundles[path], tissue=own or (ANY_TISSUE,)),
            )
            best = found.ontology.best(found.probabilities)
            called = np.array(found.ontology_ids)[best]
            alone = found.probabilities[np.arange(len(best)), best]
            said = losses(task, called, found.confidence, alone)
            yield {"species": species, "task": task.name} | said


def table(found: list[dict[str, Any]]) -> str:
    """Return the losses as a Markdown table, with the means of each species."""
    keys = (
        "macro_f1",
        "loss_few",
        "loss_some",
        "loss_many",
        "if_wider_were_right",
        "ece",
        "ece_of_own",
    )
    lines = [f"| file | {' | '.join(keys)} | weak types |", "| --- " * (len(keys) + 2) + "|"]
    for species in dict.fromkeys(r["species"] for r in found):
        own = [r for r in found if r["species"] == species]
        mean = {"task": "mean", "weak": []} | {k: np.mean([r[k] for r in own]) for k in keys}
        for r in [*own, mean]:
            weak = "; ".join(f"{w['type']} ({w['cells']}) {w['f1']:.2f}" for w in r["weak"][:3])
            numbers = " | ".join(f"{r[k]:.3f}" for k in keys)
            lines.append(f"| {species}: {r['task']} | {numbers} | {weak} |")
    return "\n".join(lines)


def main() -> None:
    """Write a JSON list with a row for each file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="bundles, twins last")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for record in rows(arguments.models):
        found.append(record)
        print(json.dumps(record), flush=True)
        arguments.out.write_text(json.dumps(found, indent=0) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
