"""Cells of few counts, labelled by a model as it is and as it is set to so few.

Run: ``python benchmarks/shallow.py --models FOLDER --out benchmarks/results/shallow.json`` (needs
the extra ``training`` and ``SCBIGNN_DATA``). FOLDER holds the models of ``space.py``. The form and
its bound were chosen by these scores, on queries that are in no pair of ``space.py``; counts of the
cells are drawn to fewer, of all genes and of panels.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import space
import tasks
from scbignn_infer.annotator import Annotator
from scbignn_infer.query.readers import MatrixQuery
from scbignn_infer.query.reading import with_misfit
from scbignn_training.data import read_study
from scbignn_training.recipe import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse as sp

    from scbignn_training.data import Study

SIX = Source(file="pbmc_6studies_sccomp.h5ad", name="six studies")
ENGE = Source(file="pancreas_enge_2017.h5ad", name="enge")
PAIRS = (
    ("kang", SIX, "cell_type_common"),
    ("zheng", SIX, "cell_type_common"),
    ("baron", ENGE, "cell_type"),
)
COUNTS = (50, 100, 200, 500, 1000)
PANEL = 1000


def views(reference: Study, query: Study) -> Iterator[tuple[str, int, sp.csr_matrix, list[str]]]:
    """Yield cells of few counts: the genes' name, the counts, and both."""
    symbols = space.panel(reference, query, PANEL, 0.5, 0)
    for genes, names in (("all", query.symbols), (f"panel of {PANEL:,}", symbols)):
        whole = space.cut(query, names)
        for counts in COUNTS:
            yield genes, counts, space.thinned(whole, counts, np.random.default_rng(0)), names


def rows(models: Path) -> Iterator[dict[str, Any]]:
    """Yield scores of each pair and view, with and without what is done for few counts."""
    for name, source, key in PAIRS:
        reference = tasks.study(name, "cell_type_common")
        study = read_study(source.locate(), label_key=key)
        truth = study.labels.astype(str)
        annotator = Annotator.load(space.model_of(name, models), device="cpu", threads=1)
        for genes, counts, few, symbols in views(reference, study):
            query = MatrixQuery(few, symbols)
            choice = annotator.choose(query, space.READING)
            plain = with_misfit(query, replace(choice, few_counts=None))
            for chosen in (plain, choice):
                found = annotator.annotate_query(query, space.READING, choice=chosen)
                known, called = np.isin(truth, found.cell_types), found.codes >= 0
                best, view = found.best_labels.astype(str), space.View("", 0, few, symbols, truth)
                row = {"model": name, "query": source.called, "genes": genes, "counts": counts}
                row |= {"set_to": found.provenance.few_counts}
                row |= space.scores(view, best, found.confidence, known, found.cell_types)
                yield row | {"unknown": float(1 - called[known].mean())}


def main() -> None:
    """Write a JSON list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = []
    for row in rows(arguments.models):
        found.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        print(found[-1], flush=True)
    arguments.out.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
