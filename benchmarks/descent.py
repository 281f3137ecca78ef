"""Body models on data sets of profiles that they have not seen: the best type, flat or descended.

Run: ``python benchmarks/descent.py RECIPE... --out FILE.json`` (needs the extra ``training`` and
``SCBIGNN_DATA``). For each recipe one gene level is trained on cells simulated without some data
sets of profiles, and labels cells simulated from these. The rows compare the most probable type
with the one that is found down the ontology, with the tissue given and not given, and say how many
labels as deep as is sure are given and true at each threshold. The files of ``body.py`` are not
used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from scipy.special import softmax

from body import Task, scores
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.model.cell_ontology import terms
from scbignn_training.data import join, well_known
from scbignn_training.depth import BARS
from scbignn_training.gene_level import Panel, fit_gene_level
from scbignn_training.ontology import is_below, nodes
from scbignn_training.recipe import read_recipe
from scbignn_training.simulate import simulate
from scbignn_training.train import read_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse as sp

    from scbignn_training.data import Reference
    from scbignn_training.profile_types import ProfileType
    from scbignn_training.recipe import Recipe

Array = np.ndarray[Any, Any]
HELD = {
    "human": [
        "COVID-Infected_PBMCs_COVID19_cellAtlas",
        "cbmc_ref",
        "ref_pan_indrop",
        "Adult_Rectum_Wang",
        "COVID-Infected_Bronchoalveolar_lavage_fluid_COVID19_cellAtlas",
        "Adult_Placenta_HCA",
        "Adult_Brain_Darmanis",
        "Tcell_Adult_Lung_10x",
    ],
    "mouse": [
        "Adult_MammaryGland_Virgin_MCA",
        "Adult_BoneMarrow_MCA",
        "Neonatal_Rib_MCA",
        "Adult_PeripheralBlood_MCA",
        "Adult_Spleen_MCA",
    ],
}
"""Data sets that are left out."""
CELLS, SEED = 20, 7
"""Cells of a profile that are labelled, and their seed, another than in training."""


def as_read(task: Task, reference: Reference, m: int) -> tuple[Array, sp.csr_matrix, Array]:
    """Return which genes of a reference a task has, counts of its first m, and the totals."""
    place = {s: i for i, s in enumerate(task.cells.symbols)}
    present = np.array([s in place for s in reference.symbols])
    index = [place.get(s, 0) for s in reference.symbols[:m]]
    counts = task.cells.counts[:, index].multiply(present[:m]).tocsr()
    shared = [place[s] for s in reference.symbols if s in place]
    totals = np.asarray(task.cells.counts[:, shared].sum(axis=1)).ravel()
    return present, counts, (totals / reference.gene_share[present].sum()).astype(np.float32)


def trained(recipe: Recipe) -> tuple[Any, list[ProfileType], list[Task]]:
    """Return what labels cells of a study, the types of its classes, and tasks it has not seen."""
    sets, settings = read_tables(recipe), recipe.settings
    held = HELD[recipe.species]
    inside = [simulate(p, recipe.simulation, 0) for p in sets if p.name not in held]
    reference = join(well_known(inside, recipe.gene_studies), min_cells=recipe.min_cells)
    reference = reference.in_rank_order(settings.ranked_genes)
    cells = reference.cells(min(settings.ranked_genes, len(reference.symbols)))
    n = len(reference.cell_types)
    level = fit_gene_level(cells.expression, cells.codes, n, settings, seed=0, gaps=cells.gaps)
    panel = Panel(level, cells.present, settings.panel_genes)
    some = msgspec.structs.replace(recipe.simulation, cells=CELLS)
    meant = {t.label: t for p in sets for t in p.meant}
    known = {t.ontology_id for t in meant.values()}
    tasks = []
    for p in (p for p in sets if p.name in held):
        named = {t.label: t.ontology_id for t in p.meant}
        named = {k: t for k, t in named.items() if any(is_below(own, [t]) for own in known)}
        places = frozenset(t.place for t in p.meant)
        tasks.append(Task(p.name, recipe.species, simulate(p, some, SEED), named, places))

    def label(task: Task) -> Array:
        m = len(cells.present)
        present, counts, totals = as_read(task, reference, m)
        own = Panel(level, present[:m], settings.panel_genes) if not present.all() else panel
        parts = [part.numpy() for part in own.run(counts, totals, "parts")[1:]]
        told: Array = softmax(np.tensordot([1, *settings.blend], parts, axes=1), axis=1)
        return told

    return label, [meant[t] for t in reference.cell_types], tasks


def rows(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield the scores on each data set, with the tissue given and not given."""
    label, types, tasks = trained(recipe)
    names = [(t.name, t.ontology_id) for t in types]
    joins, ids = nodes(list(dict(names).values())), [term for _, term in names]
    for task in tasks:
        told = label(task)
        truth = np.array([task.terms.get(str(x), "") for x in task.cells.labels], dtype=object)
        own = np.array([t.everywhere or t.place in task.places for t in types])
        if not any(t.place in task.places for t in types):
            own[:] = True
        for way, stay in (("given", own), ("any", np.ones(len(types), dtype=bool))):
            grouping = Grouping.of(names).only(stay)
            kept = told * stay
            p = grouping.sum(kept / kept.sum(axis=1, keepdims=True))
            ontology = Ontology.above(joins, ids, grouping)
            called = np.array(grouping.ontology_ids, dtype=object)
            best = {"flat": p.argmax(axis=1), "descent": ontology.descend(p)}
            row: dict[str, Any] = {"species": recipe.species, "set": task.name, "tissue": way}
            row |= {k: round(scores(task, called[codes])[0], 4) for k, codes in best.items()}
            yield row | {f"{bar:.2f}": labels(ontology, p, truth, bar) for bar in BARS}


def labels(ontology: Ontology, p: Array, truth: Array, bar: float) -> dict[str, float]:
    """Return the share of scored cells with a label, and that of true ones of these."""
    codes, together = ontology.deepest(p, bar)
    said = np.array(ontology.ontology_ids, dtype=object)[codes]
    given = (together >= bar) & (truth != "")
    true = [
        t in terms()[s].above or s in terms()[t].above
        for s, t in zip(said[given], truth[given], strict=True)
    ]
    labelled = given.sum() / max((truth != "").sum(), 1)
    return {
        "labelled": round(float(labelled), 4),
        "true": round(float(np.mean(true)) if true else 0.0, 4),
    }


def main() -> None:
    """Write a JSON list with a row for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for path in arguments.recipes:
        for row in rows(read_recipe(path)):
            found.append(row)
            print(row, flush=True)
    arguments.out.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
