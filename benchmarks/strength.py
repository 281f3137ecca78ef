"""What the strength of cells does to labels of body models: wrong ones, right ones, foreign cells.

Run: ``python benchmarks/strength.py MODEL... --out benchmarks/results/strength.json`` (needs the
extra ``training`` and ``SCBIGNN_DATA``). Models and files are those of ``body.py``; each file is
labelled with its tissue given, by the model as it is and without the term of strength in the
support of a cell. A label is wrong if its best type is, by the rules of ``body.py``. Foreign are
cells of labels that are not scored, and human cancer cell lines, which no body model knows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from body import may_score, meant, tasks
from calibration import LINES
from scbignn_infer import Annotator
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.model.bundle import ModelBundle, read_bundle
from scbignn_infer.model.validate import ANY_TISSUE
from scbignn_training.data import read_study

if TYPE_CHECKING:
    from collections.abc import Iterator

    from body import Task
    from scbignn_infer import Annotation
    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
RULES = ("without", "with")


def annotators_of(path: Path) -> dict[str, Annotator]:
    """Return a model without the term of strength, and as it is."""
    bundle = read_bundle(path)
    thresholds = msgspec.structs.replace(bundle.spec.thresholds, weak=0.0)
    spec = msgspec.structs.replace(bundle.spec, thresholds=thresholds)
    files = {name: bundle.read(name) for name in spec.files}
    plain = ModelBundle(bundle.path, spec, files, bundle.sha256)
    both = zip(RULES, (plain, bundle), strict=True)
    return {rule: Annotator(b, device="cpu", threads=1) for rule, b in both}


def labelled(
    annotators: dict[str, Annotator], cells: Study, tissue: tuple[str, ...]
) -> dict[str, Annotation]:
    """Label cells without the term of strength, and with it."""
    return {
        rule: a.annotate_matrix(
            cells.counts, cells.symbols, rules=Rules.of(a.bundle, tissue=tissue)
        )
        for rule, a in annotators.items()
    }


def right(task: Task, found: Annotation) -> tuple[Array, Array]:
    """Tell of which cells the best type is right (n,), and which are scored (n,)."""
    truth = np.array([task.terms.get(str(x), "") for x in task.cells.labels], object)
    wanted = sorted(set(task.terms.values()) & set(truth))
    best = np.array(found.ontology_ids)[found.ontology.best(found.probabilities)]
    said = np.array([meant(b, t, wanted) for b, t in zip(best, truth, strict=True)], object)
    return said == truth, truth != ""


def share(called: Array, cells: Array, least: int = 5) -> float | None:
    """Return the share of some cells that keep a label, if they are not too few."""
    return round(float(called[cells].mean()), 4) if cells.sum() >= least else None


def rows(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield what becomes of the cells of each file, by the first model that has not seen it."""
    done = set()
    for path in paths:
        annotators = annotators_of(path)
        spec = annotators["with"].bundle.spec
        known = {t.name for t in spec.tissues}
        for task in tasks(spec.species):
            if task.name in done or not may_score(spec, spec.species, task):
                continue
            done.add(task.name)
            tissue = tuple(sorted(task.places & known)) or (ANY_TISSUE,)
            row: dict[str, Any] = {"model": path.name, "file": task.name}
            for name, found in labelled(annotators, task.cells, tissue).items():
                called = found.codes >= 0
                true, scored = right(task, found)
                row[f"{name}_right_hidden"] = share(~called, scored & true)
                row[f"{name}_wrong_given"] = share(called, scored & ~true)
                row[f"{name}_foreign_given"] = share(called, ~scored, 20)
            yield row
        if spec.species == "human":
            lines = read_study(LINES.locate(), label_key="cell_type")
            row = {"model": path.name, "file": "cell lines"}
            for name, found in labelled(annotators, lines, (ANY_TISSUE,)).items():
                row[f"{name}_foreign_given"] = share(found.codes >= 0, np.ones(len(found), bool))
            yield row


def main() -> None:
    """Write a JSON list with a row for each file, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = []
    for row in rows(arguments.models):
        found.append(row)
        print(row, flush=True)
    arguments.out.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")
    for name in ("right_hidden", "wrong_given", "foreign_given"):
        for rule in RULES:
            values = [r[f"{rule}_{name}"] for r in found if r.get(f"{rule}_{name}") is not None]
            print(f"{name} {rule} strength: {np.mean(values):.3f} of {len(values)} files")


if __name__ == "__main__":
    main()
