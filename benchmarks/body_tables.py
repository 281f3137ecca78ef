"""The tables of docs/benchmarks.md that say how body models label cells of other laboratories."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]
SPECIES = "human", "mouse"
OURS = "scBiGNN"
WAYS = {"given": "tissue given", "found": "found by the model", "any": "not used"}
"""What is known of the tissue, by the keys of the scores."""
METHODS = {
    OURS: OURS,
    "naive NB on the profiles": "naive NB on the profiles",
    "log-Pearson on the profiles": "log-Pearson on the profiles",
    "logistic regression": "logistic regression on the simulated cells",
    "CellTypist": "CellTypist on the simulated cells",
}
SHORT = {"naive NB on the profiles": "naive NB", "log-Pearson on the profiles": "log-Pearson"}
FILES = {
    "brain_darmanis_2015": "Darmanis 2015",
    "liver_aizarani_2019": "Aizarani 2019",
    "pancreas_baron_human1": "Baron 2016 donor 1",
    "pancreas_baron_neuca_2000g": "Baron 2016 donors 2 and 4, 2,000 genes",
    "pancreas_segerstolpe_neuca_2000g": "Segerstolpe 2016, 2,000 genes",
    "pbmc3k_seurat": "10x pbmc3k",
    "pbmc_6studies_sccomp": "six studies of SCP345, SCP591 and others",
    "pbmc_kang_ifnb": "Kang 2018",
    "pbmc_zheng_facs": "Zheng 2017",
    "mouse_lung_zilionis_800": "Zilionis 2019",
    "mouse_pancreas_baron_mouse1": "Baron 2016 mouse 1",
    "mouse_pancreas_bastidas_1000": "Bastidas-Ponce 2019, E15.5",
    "mouse_tabula_muris_facs_organs": "Tabula Muris 2018,",
}
"""What a file is called, before the organ where it has several."""


def file_name(task: str) -> str:
    """Return what readers call the file of a task."""
    name, _, organ = task.partition(" ")
    return f"{FILES[name]} {organ}".strip()


def means(found: list[Row]) -> list[str]:
    """Return a table of species by methods: mean macro-F1 over our files, and tissues found."""
    lines = [
        f"| species | method | files | {' | '.join(WAYS.values())} | tissue right |",
        "|---" * (4 + len(WAYS)) + "|",
    ]
    ours = {r["task"] for r in found if r["method"] == OURS}
    for species in SPECIES:
        for method, title in METHODS.items():
            own = [r for r in found if (r["species"], r["method"]) == (species, method)]
            own = [r for r in own if r["task"] in ours]
            if own:
                scores = [f"{np.mean([r[f'{way}_macro_f1'] for r in own]):.3f}" for way in WAYS]
                known = [r["right"] for r in own if r["known"]]
                cells = [species, title, f"{len(own)}", *scores, f"{sum(known)} of {len(known)}"]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def by_file(found: list[Row]) -> list[str]:
    """Return a table of files: macro-F1 of the model, and of the others with the tissue given."""
    others = [method for method in METHODS if method != OURS]
    titles = ["file", "cells", f"{OURS}, tissue given", "found", "not used", "tissue found"]
    titles += [SHORT.get(method, method) for method in others]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in sorted((r for r in found if r["method"] == OURS), key=lambda r: r["species"]):
        same = {r["method"]: r for r in found if r["task"] == row["task"]}
        scores = [f"{row[f'{way}_macro_f1']:.3f}" for way in WAYS]
        if not row["known"]:
            scores[0] += " (the model has no such tissue)"
        tissue = "yes" if row["right"] else row["found"] or "none is clear"
        named = f"{row['species']}: {file_name(row['task'])}"
        cells = [named, f"{row['cells']:,}", *scores, tissue]
        cells += [f"{same[m]['given_macro_f1']:.3f}" if m in same else "" for m in others]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
