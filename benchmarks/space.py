"""Cells as imaging and spatial arrays see them: few genes, few counts, and spots of two types.

Run: ``python benchmarks/space.py --models FOLDER --out benchmarks/results/space.json`` (needs the
extra ``training`` and ``SCBIGNN_DATA``). FOLDER holds a model of each reference of ``tasks.PAIRS``;
one that it lacks is trained. A model labels the cells of the other study, changed in these ways:

- ``panel``: genes as a panel has them. Half tell the types of the *reference* apart, half are drawn
  at random. Ribosomal, mitochondrial and the most expressed genes are left out: imaging cannot
  tell their molecules apart.
- ``foreign panel``: all genes are drawn, as if the panel had been made for another tissue.
- ``bins``: all genes, counts drawn until a cell has so many.
- ``panel, bins``: both.
- ``spots``: two cells of different types, in shares, with the counts of a spot.

Beside it, a logistic regression is trained anew for each change, on the same cells as the model and
the genes of the cut; and where counts are few, another one on cells with counts drawn to the same
number. Scores are of the cells of types that the reference has; in spots, of the larger type.
Nothing is chosen by these scores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tasks
from accuracy import SIMPLE, log1p_cp10k
from scbignn_infer.annotator import Annotator
from scbignn_infer.evaluation import calibration_error, reliability, score
from scbignn_infer.query.gene_match import MIN_COVERAGE
from scbignn_infer.settings import Reading
from scbignn_training.data import rank_genes
from scbignn_training.recipe import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_training.data import Study

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
PANELS, FOREIGN = (300, 500, 1000, 2000, 5000), (300, 1000)
BINS = (50, 100, 200)
PANEL_OF_BINS, BINS_OF_PANEL = 500, (50, 100)
SPOTS, SPOT_COUNTS = (0.7, 0.5), 500
"""Shares of the larger type, and counts of a spot."""
CROWDED = 50
"""Genes that are left out of panels, as the most expressed."""
SEEN = 0.01
"""Share of the reference's cells in which a gene of a panel is seen."""
REGRESSION = "logistic regression, C = 0.01"
SHALLOW = f"{REGRESSION}, as many counts"
REGRESSION_GENES = 1000
READING = Reading(min_gene_coverage=0.0)


@dataclass(frozen=True)
class View:
    """A query as a platform would see it."""

    kind: str
    size: float
    """Genes, counts or the share of the larger type."""
    counts: sp.csr_matrix
    symbols: list[str]
    truth: Array
    """(n,) types; of spots, the larger one."""
    others: Array | None = None
    """(n,) the smaller types of spots."""
    depth: int | None = None
    """Counts that cells were thinned to."""


def thinned(counts: sp.csr_matrix, depth: Any, rng: np.random.Generator) -> sp.csr_matrix:
    """Draw as many counts of each cell as ``depth`` says, on average; cells of fewer stay."""
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    share = np.minimum(np.broadcast_to(depth, totals.shape) / totals, 1)
    drawn = sp.csr_matrix(counts, copy=True)
    each = np.repeat(share, np.diff(drawn.indptr))
    drawn.data = rng.binomial(np.rint(drawn.data).astype(int), each).astype(np.float32)
    drawn.eliminate_zeros()
    return drawn


def panel(reference: Study, query: Study, size: int, share: float, seed: int) -> list[str]:
    """Return genes of a panel that the query has; a share of them tells the reference's types."""
    held = set(query.symbols)
    mean = np.asarray(log1p_cp10k(reference.counts).mean(axis=0)).ravel()
    seen = np.asarray((reference.counts > 0).mean(axis=0)).ravel() >= SEEN
    crowded = set(np.argsort(-mean, kind="stable")[:CROWDED].tolist())
    fit = [
        i
        for i, name in enumerate(reference.symbols)
        if seen[i] and i not in crowded and name in held
        and not name.upper().startswith(("MT-", "RPL", "RPS"))
    ]  # fmt: skip
    if len(fit) < size:
        return []
    codes = np.unique(reference.labels.astype(str), return_inverse=True)[1]
    totals = np.asarray(reference.counts.sum(axis=1)).ravel()
    ranked = rank_genes(reference.counts[:, fit], totals, codes, len(fit))
    best, rest = ranked[: round(size * share)], ranked[round(size * share) :]
    drawn = np.random.default_rng(seed).permutation(rest)[: size - len(best)]
    return [reference.symbols[fit[i]] for i in np.sort([*best, *drawn]).astype(int)]


def cut(query: Study, symbols: list[str]) -> sp.csr_matrix:
    """Return the counts of some genes."""
    column = {name: i for i, name in enumerate(query.symbols)}
    return sp.csr_matrix(query.counts[:, [column[name] for name in symbols]])


def spots(query: Study, share: float, rng: np.random.Generator) -> View:
    """Return spots of two cells of different types."""
    truth = query.labels.astype(str)
    first = rng.permutation(len(truth))
    second = np.array([rng.choice(np.flatnonzero(truth != truth[i])) for i in first])
    mixed = thinned(query.counts[first], SPOT_COUNTS * share, rng)
    mixed = mixed + thinned(query.counts[second], SPOT_COUNTS * (1 - share), rng)
    return View(
        *("spots", share, sp.csr_matrix(mixed), query.symbols, truth[first], truth[second]),
        depth=SPOT_COUNTS,
    )


def views(reference: Study, query: Study, seed: int) -> Iterator[View]:
    """Yield the query as it is, and as platforms would see it."""
    rng, truth = np.random.default_rng(seed), query.labels.astype(str)
    if seed == 0:
        yield View("as it is", 0, query.counts, query.symbols, truth)
    for kind, sizes, share in (("panel", PANELS, 0.5), ("foreign panel", FOREIGN, 0.0)):
        for size in sizes:
            if symbols := panel(reference, query, size, share, seed):
                yield View(kind, size, cut(query, symbols), symbols, truth)
    for depth in BINS:
        counts = thinned(query.counts, depth, rng)
        yield View("bins", depth, counts, query.symbols, truth, depth=depth)
    symbols = panel(reference, query, PANEL_OF_BINS, 0.5, seed)
    for depth in BINS_OF_PANEL if symbols else ():
        counts = thinned(cut(query, symbols), depth, rng)
        yield View("panel, bins", depth, counts, symbols, truth, depth=depth)
    for share in SPOTS:
        yield spots(query, share, rng)


def retrained(reference: Study, view: View, counts: sp.csr_matrix) -> tuple[Array, Array]:
    """Return labels and confidence of a regression on the genes of a view, trained on counts."""
    column = {name: i for i, name in enumerate(view.symbols)}
    shared = [i for i, name in enumerate(reference.symbols) if name in column]
    known = sp.csr_matrix(counts[:, shared])
    types, codes = np.unique(reference.labels.astype(str), return_inverse=True)
    totals = np.asarray(known.sum(axis=1)).ravel()
    ranked = rank_genes(known, totals, codes, REGRESSION_GENES)
    order = [column[reference.symbols[shared[i]]] for i in ranked]
    x, unseen = log1p_cp10k(known)[:, ranked], log1p_cp10k(view.counts)[:, order]
    model = make_pipeline(StandardScaler(), clone(SIMPLE[REGRESSION]))
    model.fit(x.toarray().astype(np.float32), codes)
    chances = model.predict_proba(unseen.toarray().astype(np.float32))
    return types[chances.argmax(axis=1)], chances.max(axis=1)


def shallow(reference: Study, view: View, seed: int) -> sp.csr_matrix:
    """Return the counts of the reference's genes of a view, drawn to as many as its cells have."""
    held = np.isin(reference.symbols, view.symbols).astype(np.float32)
    cut = sp.csr_matrix(reference.counts @ sp.diags_array(held))
    return thinned(cut, view.depth, np.random.default_rng(seed))


def scores(
    view: View, best: Array, confidence: Array, known: Array, types: list[str]
) -> dict[str, Any]:
    """Return how good labels and confidence are; in a spot of halves both types are right."""
    told = score(view.truth[known], best[known], np.ones(known.sum(), bool), types)
    right = best == view.truth
    row: dict[str, Any] = {"accuracy": told.accuracy, "macro_f1": told.macro_f1}
    if view.others is not None:
        row["either"] = float((right | (best == view.others))[known].mean())
        right = right | (best == view.others) if view.size == 0.5 else right
    row["confidence"] = float(confidence[known].mean())
    row["ece"] = calibration_error(reliability(confidence[known], right[known]))
    return row


def rows(
    annotator: Annotator, reference: Study, view: View, seed: int, kept: list[Row]
) -> Iterator[Row]:
    """Yield the scores of the model and of the regressions on one view."""
    found = annotator.annotate_matrix(view.counts, view.symbols, reading=READING)
    types, ontology = found.cell_types, found.ontology
    joins = {
        ontology.labels[i]: [types[j] for j in np.flatnonzero(ontology.holds[i])]
        for i in ontology.joins
    }
    known, called = np.isin(view.truth, types), found.codes >= 0
    if view.others is not None:
        known &= np.isin(view.others, types)
    coverage = found.provenance.genes.coverage
    about: Row = {"view": view.kind, "size": view.size, "cells": int(known.sum()), "seed": seed}
    typical = np.median(np.asarray(view.counts.sum(axis=1)).ravel())
    about |= {"counts": round(float(typical), 4)}
    told = score(view.truth, found.best_labels, called, types, final=found.labels, joins=joins)
    row = about | {"method": "scBiGNN", "coverage": coverage, "refused": coverage < MIN_COVERAGE}
    row |= scores(view, found.best_labels.astype(str), found.confidence, known, types)
    row |= {
        "unknown": float(1 - called[known].mean()),
        "true": told.depths and told.depths.true_share,
    }
    if view.others is None and not known.all():
        row["unseen_labelled"] = float(called[~known].mean())
    yield row
    same = [r for r in kept if about.items() <= r.items() and r["method"] != row["method"]]
    if same:
        yield from same
        return
    trained = {REGRESSION: reference.counts}
    if view.depth is not None:
        trained[SHALLOW] = shallow(reference, view, seed)
    for method, counts in trained.items():
        best, confidence = retrained(reference, view, counts)
        yield about | {"method": method} | scores(view, best, confidence, known, types)


def model_of(name: str, models: Path) -> Path:
    """Return the bundle of one study, trained where there is none."""
    if not (models / name).exists():
        file = Source(file=tasks.FILES[name]).locate()
        command = ["train", str(file), "--label-key", "cell_type_common", "--name", name]
        command += ["--min-cells", str(tasks.MIN_REFERENCE_CELLS), "--threads", "1"]
        program = "from scbignn_infer.cli import main; main()"
        subprocess.run([sys.executable, "-c", program, *command, "-o", str(models)], check=True)
    return models / name


def main() -> None:
    """Write a JSON list with a row for each pair, view, seed and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--keep", type=Path, help="result whose regressions are not trained again")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    kept = json.loads(arguments.keep.read_text()) if arguments.keep else []
    found: list[Row] = []
    for seed in map(int, arguments.seeds.split(",")):
        for pair in tasks.PAIRS:
            annotator = Annotator.load(model_of(pair[0], arguments.models), device="cpu", threads=1)
            reference = tasks.pair(*pair).reference
            query = tasks.study(pair[1], "cell_type_common")
            name = " -> ".join(pair)
            of_pair = [r for r in kept if r["task"] == name]
            for view in views(reference, query, seed):
                for row in rows(annotator, reference, view, seed, of_pair):
                    shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
                    found.append({"task": name, **shown})
                    print(found[-1], flush=True)
            arguments.out.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
