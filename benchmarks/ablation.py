"""What each part is worth: the whole beside forms that lack one part, from the same networks.

Run: ``python benchmarks/ablation.py --seeds 0,1,2 --out FILE.json`` (needs the extra ``training``
and ``SCBIGNN_DATA``). For each task and seed both levels are trained once. Forms of the gene level
leave out a head or fix the strength of the discriminant; forms of the cell level are trained anew
on the same out-of-fold cells, ``--forms`` takes some of them alone. Every row is a form on a task
with a seed; ``gain`` is its macro-F1 minus that of the gene level as shipped, ``worst_type`` the
least such difference of a type of ten cells or more.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from sklearn.metrics import f1_score

import tasks
from accuracy import score
from scbignn_infer.network import descent
from scbignn_infer.network.neighbors import build_graph
from scbignn_infer.network.sessions import choose_runtime
from scbignn_training import em, gate
from scbignn_training.cell_level import fit_cell_level, make_graph, shield_of
from scbignn_training.data import join, unlabelled_cells
from scbignn_training.gene_level import GeneLevel, Panel
from scbignn_training.settings import Settings
from scbignn_training.train import fit_start

if TYPE_CHECKING:
    from accuracy import Row
    from scbignn_training.cell_level import CellGraph
    from scbignn_training.data import Cells
    from scbignn_training.train import Start

Array = np.ndarray[Any, Any]
CELL_FORMS: dict[str, dict[str, Any]] = {
    "both levels": {},
    "without the factor scores in the graph": {"graph_factors": 0},
    "without noise": {"logit_noise": 0.0},
    "without shield": {"shield": (-1.0, 0.0)},
    "without reciprocity": {"reciprocity": -20.0},
    "one layer": {"cell_layers": 1},
    "three layers": {"cell_layers": 3},
    "query's graph by pynndescent": {"approximate": True},
    "share 1": {"cell_share": 1.0},
    "GraphSAGE instead of the gate": {"cell_form": "sage"},
    "GraphSAGE, share 1": {"cell_form": "sage", "cell_share": 1.0},
}
FEWEST = 10
"""Cells of a type whose difference counts as its own."""


@torch.no_grad()
def gene_forms(level: GeneLevel, query: Cells, settings: Settings) -> dict[str, Array]:
    """Return the label codes of the gene level in each of its forms."""

    def parts(statistics: dict[str, Array]) -> list[torch.Tensor]:
        other = GeneLevel(level.net, statistics, level.logistic, level.blend)
        panel = Panel(other, query.present, settings.panel_genes)
        return list(panel.run(query.counts, query.totals, "parts")[1:])

    net, discriminant, logistic = parts(level.statistics)
    fixed = parts(level.statistics | {"strength_precision": np.array(1e6)})[1]
    a, b = level.blend
    forms = {
        "gene level": net + a * discriminant + b * logistic,
        "gene level, strength fixed at 1": net + a * fixed + b * logistic,
        "gene level without discriminant": net + b * logistic,
        "gene level without logistic regression": net + a * discriminant,
        "gene level without network": a * discriminant + b * logistic,
    }
    return {name: values.argmax(1).numpy() for name, values in forms.items()}


def in_part(graph: CellGraph, width: int, settings: Settings) -> CellGraph:
    """Return the graph built on the first numbers of the embedding."""
    parts = graph.embedding[:, :width], graph.gene_logits, graph.targets
    return make_graph(*parts, settings)


def approximately(graph: CellGraph, settings: Settings) -> CellGraph:
    """Return the graph as pynndescent finds it."""
    runtime = choose_runtime("cpu", torch.get_num_threads())
    found = build_graph(
        graph.embedding.numpy(), settings.n_neighbors, runtime=runtime, search=descent
    )
    near = {"neighbor_indices": found.indices, "neighbor_similarity": found.similarity}
    return replace(graph, **{name: torch.from_numpy(values) for name, values in near.items()})


def cell_form(start: Start, graph: CellGraph, form: dict[str, Any], base: Settings) -> Array:
    """Return the label codes of a cell level trained in one form."""
    form = dict(form)
    gate.RECIPROCITY = form.pop("reciprocity", 4.0)
    if form.pop("approximate", False):
        graph = approximately(graph, base)
    settings = msgspec.structs.replace(base, **form)
    graphs = start.crossfit.graphs
    if settings.graph_factors == 0:
        width = settings.embedding_size
        graphs = [in_part(g, width, settings) for g in graphs]
        graph = in_part(graph, width, settings)
    shield = shield_of(graphs, settings)
    level = fit_cell_level(graphs, shield, settings, share=settings.cell_share)
    with torch.no_grad():
        codes: Array = level(graph.gene_logits, graph).argmax(1).numpy()
    return codes


def run(task: tasks.Task, seed: int, forms: list[str]) -> list[Row]:
    """Score the forms of the gene level and some of the cell level on one task."""
    settings = Settings(seed=seed)
    reference = join([task.reference], min_cells=tasks.MIN_REFERENCE_CELLS)
    start = fit_start(reference, [], settings)
    m = len(start.labelled.present)
    query = unlabelled_cells(start.reference, [task.query], m, min(settings.net_genes, m))
    assert query is not None
    names = np.array(start.reference.cell_types)
    truth = task.query.labels.astype(str)
    codes = np.searchsorted(names, truth)
    found = gene_forms(start.pair.gene, query, settings)
    graph = em.run_gene_level(start.pair.gene, replace(query, codes=codes), settings)
    for name in forms:
        found[name] = cell_form(start, graph, CELL_FORMS[name], settings)
    per_type = {form: types(codes, labels) for form, labels in found.items()}
    scores = {form: score(truth, names[labels]) for form, labels in found.items()}
    base = scores["gene level"]["macro_f1"]
    return [
        {
            "task": task.name,
            "view": "all",
            "seed": seed,
            "method": form,
            **scores[form],
            "gain": round(scores[form]["macro_f1"] - base, 5),
            "worst_type": round(float((per_type[form] - per_type["gene level"]).min()), 5),
        }
        for form in found
    ]


def types(codes: Array, labels: Array) -> Array:
    """Return the F1 of each type that has ten cells or more."""
    many = np.flatnonzero(np.bincount(codes) >= FEWEST)
    found: Array = f1_score(codes, labels, labels=many, average=None, zero_division=0)
    return found


def main() -> None:
    """Run all tasks and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--forms", default=",".join(CELL_FORMS), help="Of the cell level.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[Row] = []
    todo = [*(("pair", p) for p in tasks.PAIRS), *(("fold", f) for f in tasks.FOLDS)]
    for seed in map(int, arguments.seeds.split(",")):
        for kind, task in todo:
            rows += run(getattr(tasks, kind)(*task), seed, arguments.forms.split(","))
            arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
