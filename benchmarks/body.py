"""Body models on cells of other laboratories, with the tissue given and not given.

Run: ``python benchmarks/body.py MODEL... --out FILE.json`` (needs the extra ``training`` and
``SCBIGNN_DATA``). Each file is scored by the first of the models of its species that has not seen
its study: give twins that leave studies out after the shipped one. What the labels of the files
mean stands in ``body_truth.tsv``. A prediction that is finer than the label counts as right, by
the Cell Ontology. With ``--baselines RECIPE`` the profiles of a recipe are scored without a model.
``--export FOLDER`` writes its simulated cells and the files for ``peers/body.py``, and ``--peers
FOLDER`` scores what that has written; the peers' reference leaves out all data sets that leak.
With ``--markers`` cells whose genes contradict their label are of the type that they show, by
``label_markers.tsv``, whatever a method says of them.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from profiles import PSEUDO, SIZE, markers
from scbignn_infer import Annotator
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.model.bundle import read_bundle
from scbignn_infer.model.cell_ontology import terms
from scbignn_infer.model.validate import ANY_TISSUE
from scbignn_training.data import read_study
from scbignn_training.recipe import Source, read_recipe
from scbignn_training.simulate import simulate
from scbignn_training.train import read_tables
from tasks import rows as some_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer import Annotation
    from scbignn_training.data import Study
    from scbignn_training.profile_types import ProfileType
    from scbignn_training.recipe import Recipe

Array = np.ndarray[Any, Any]
Reader = Callable[[str], "Iterator[Task]"]
TRUTH, MARKERS = (
    Path(__file__).with_name(f"{name}.tsv") for name in ("body_truth", "label_markers")
)
LEAKS = {
    "ref_pan_indrop": "pancreas_baron",
    "Adult_Pancreas_HCA": "pancreas_enge",
    "Adult_Brain_Darmanis": "brain_darmanis",
}
"""Data sets of profiles that are means of the cells of a file, by the start of its name."""
CELL_TYPES = Path(__file__).parents[1] / "training" / "tables" / "cell_types.tsv"
LEFT_OUT = LEAKS["Adult_Pancreas_HCA"]
"""A file that the peers do not label: without its study hardly an islet is among the profiles."""
CLEAR_SHARE, ENOUGH_CELLS, ENOUGH_SHARE = 0.5, 5.0, 0.02
"""As in ``scbignn_infer.annotation.tissues``."""
GENES = 1000
"""Of the naive classifier: about two for each profile."""
OTHER = "other"


@dataclass(frozen=True)
class Task:
    """The cells of one organ of one file, and what their labels mean.

    Attributes
    ----------
    name, species
        File and organ.
    cells
        With labels as published.
    terms
        Ontology id of each label that is scored.
    places
        Names of the tissues that a user would give.
    """

    name: str
    species: str
    cells: Study
    terms: dict[str, str]
    places: frozenset[str]


@dataclass(frozen=True)
class Classes:
    """What the columns of scores are.

    Attributes
    ----------
    terms, places
        Ontology id and tissue of each.
    everywhere
        Which of them occur in any tissue.
    """

    terms: Array
    places: Array
    everywhere: Array

    @classmethod
    def of_types(cls, types: list[ProfileType]) -> Classes:
        """Return those of profiles."""
        return cls(
            np.array([t.ontology_id for t in types]),
            np.array([t.place for t in types]),
            np.array([t.everywhere for t in types]),
        )

    def found(self, probabilities: Array) -> tuple[str, float]:
        """Return the tissue that cells are most probably of, and its share; empty if none is clear.

        Types that one tissue alone has tell it.
        """
        mass = probabilities.sum(axis=0) * ~self.everywhere
        names = np.unique(self.places)
        share = np.array([mass[self.places == name].sum() for name in names])
        told, share = share.sum(), share / max(share.sum(), 1e-12)
        second, best = np.sort(share)[-2:]
        enough = told >= max(ENOUGH_CELLS, ENOUGH_SHARE * len(probabilities))
        clear = enough and best >= CLEAR_SHARE and second <= best / 2
        return str(names[share.argmax()]) if clear else "", float(best)

    def stay(self, places: frozenset[str]) -> Array:
        """Return the classes of some tissues and those that occur everywhere; all without any."""
        own = np.isin(self.places, list(places))
        return own | self.everywhere if own.any() else np.ones_like(own)

    def called(self, probabilities: Array, places: frozenset[str] = frozenset()) -> Array:
        """Return the most probable type of each cell, by its ontology id.

        Parameters
        ----------
        probabilities
            (n, c) of each class.
        places
            Tissues whose classes stay, with those of types that occur everywhere; if the model has
            none of them, all stay.
        """
        stay = self.stay(places)
        terms, which = np.unique(self.terms[stay], return_inverse=True)
        summed = np.zeros((len(probabilities), len(terms)))
        np.add.at(summed.T, which, probabilities[:, stay].T)
        called: Array = terms[summed.argmax(axis=1)]
        return called


def tasks(species: str) -> Iterator[Task]:
    """Yield the scored cells of each organ of each file of a species."""
    with TRUTH.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [r for r in rows if r["species"] == species and r["scored"] == "yes"]
    for name in dict.fromkeys(r["file"] for r in rows):
        here = [r for r in rows if r["file"] == name]
        path = Source(file=name).locate()
        study = read_study(path, label_key="cell_type")
        organs = list(dict.fromkeys(r["organ"] for r in here))
        where = read_study(path, label_key="tissue").labels if len(organs) > 1 else None
        for organ in organs:
            own = [r for r in here if r["organ"] == organ]
            cells = study if where is None else some_rows(study, where == organ)
            adult = {r["tissue"] for r in own if r["age"] == "adult"}
            young = {f"{r['age']} {r['tissue']}" for r in own if r["age"] != "adult"}
            yield Task(
                name.removesuffix(".h5ad") + (f" {organ}" if where is not None else ""),
                species,
                cells,
                {r["label"]: r["ontology_id"] for r in own},
                frozenset(adult | young),
            )


def by_markers(species: str) -> Iterator[Task]:
    """Yield the tasks with cells labelled by their markers, where these contradict the label.

    The first rule of the table that is true of a cell and its label counts.
    """
    with MARKERS.open(encoding="utf-8", newline="") as file:
        rules = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for task in tasks(species):
        labels, found = task.cells.labels.astype(object), dict(task.terms)
        for rule in rules:
            stem = rule["file"].removesuffix(".h5ad")
            if task.name in (stem, f"{stem} {rule['organ']}"):
                new = f"{rule['label']}: {rule['ontology_id']}"
                cells = (labels == rule["label"]) & contradicts(task.cells, rule)
                labels[cells], found[new] = new, rule["ontology_id"]
        yield replace(task, cells=replace(task.cells, labels=labels), terms=found)


def contradicts(cells: Study, rule: dict[str, str]) -> Array:
    """Return the cells (n,) with counts on all genes of a rule and on none that it excludes.

    Of genes joined by ``|`` one is enough.
    """
    place, counts = {s: i for i, s in enumerate(cells.symbols)}, cells.counts.tocsc()
    found = np.ones(len(cells.labels), dtype=bool)
    for side, wanted in (("shows", True), ("lacks", False)):
        for names in filter(None, rule[side].split(",")):
            own = [place[s] for s in names.split("|") if s in place]
            found &= (np.asarray(counts[:, own].sum(axis=1)).ravel() > 0) == wanted
    return found


def scores(task: Task, called: Array) -> tuple[float, float]:
    """Return macro-F1 and accuracy over the scored cells; a finer prediction is right."""
    truth = np.array([task.terms.get(str(x), "") for x in task.cells.labels], object)
    wanted = sorted(set(task.terms.values()) & set(truth), key=lambda t: -len(terms()[t].above))
    said = np.array([meant(c, t, wanted) for c, t in zip(called, truth, strict=True)], object)
    truth, said = truth[truth != ""], said[truth != ""]
    f1: list[float] = []
    for term in wanted:
        real, given = np.equal(truth, term), np.equal(said, term)
        f1.append(2 * float((real & given).sum()) / max(float(real.sum() + given.sum()), 1.0))
    return float(np.mean(f1)), float((truth == said).mean())


def meant(called: str, truth: str, wanted: list[str]) -> str:
    """Return which true type a prediction is: the cell's own, if it may be, else the deepest."""
    above = terms()[called].above if called else frozenset()
    return truth if truth in above else next((t for t in wanted if t in above), OTHER)


def row(
    task: Task, method: str, called: dict[str, Array], tissue: str, share: float, *, known: bool
) -> dict[str, Any]:
    """Return the scores of one method on one task.

    Parameters
    ----------
    task, method
        What was labelled, and by what.
    called
        Ontology ids of the cells, with the tissue ``given``, ``found`` and not used (``any``).
    tissue, share
        The tissue that was found, and its share; empty if none is clear.
    known
        Whether the method knows a tissue of the task.
    """
    record: dict[str, Any] = {
        "species": task.species,
        "task": task.name,
        "method": method,
        "cells": sum(str(x) in task.terms for x in task.cells.labels),
        "tissue": " + ".join(sorted(task.places)),
        "known": known,
        "found": tissue,
        "share": round(share, 3),
        "right": tissue in task.places,
    }
    for way, types in called.items():
        f1, accuracy = scores(task, types)
        record |= {f"{way}_macro_f1": round(f1, 4), f"{way}_accuracy": round(accuracy, 4)}
    return record


def models(paths: list[Path], read: Reader) -> Iterator[dict[str, Any]]:
    """Score body models on the files that they have not seen."""
    bundles = {path: read_bundle(path) for path in paths}
    annotators = {path: Annotator(bundle, threads=1) for path, bundle in bundles.items()}
    for species in dict.fromkeys(b.spec.species for b in bundles.values()):
        for task in read(species):
            path = next((p for p in paths if may_score(bundles[p].spec, species, task)), None)
            if path is None:
                continue
            names = {t.name for t in bundles[path].spec.tissues}
            own = tuple(sorted(task.places & names))
            wishes = {"given": own or (ANY_TISSUE,), "found": (), "any": (ANY_TISSUE,)}
            said = {
                way: annotators[path].annotate_matrix(
                    task.cells.counts,
                    task.cells.symbols,
                    rules=Rules.of(bundles[path], tissue=wish),
                )
                for way, wish in wishes.items()
            }
            called = {
                way: np.array(a.ontology_ids)[a.ontology.best(a.probabilities)]
                for way, a in said.items()
            }
            told = said["found"].provenance.tissue
            share = max(told.shares.values(), default=0.0)
            record = row(task, "scBiGNN", called, " + ".join(told.chosen), share, known=bool(own))
            record["right"] = bool(told.chosen) and task.places.issuperset(told.chosen)
            unknown = float((said["given"].codes < 0).mean())
            record |= {"model": path.name, "how": told.how, "unknown": round(unknown, 3)}
            yield record | labelled(task, said["given"])


def labelled(task: Task, found: Annotation) -> dict[str, float]:
    """Return the share of scored cells with a label of any depth, and that of true ones of these.

    A label is true if it is above the true type, or below it.
    """
    truth = [task.terms.get(str(x), "") for x in task.cells.labels]
    said = [
        (label, term, size)
        for label, term, size in zip(
            found.label_ids, truth, found.ontology.size[found.codes], strict=True
        )
        if term
    ]
    given = [(label, term, size) for label, term, size in said if label]
    true = [
        term in terms()[label].above or label in terms()[term].above for label, term, _ in given
    ]
    return {
        "labelled": round(len(given) / len(said), 4),
        "true": round(float(np.mean(true)) if true else 0.0, 4),
        "types_of_label": round(float(np.mean([size for *_, size in given])), 2),
    }


def may_score(spec: Any, species: str, task: Task) -> bool:
    """Tell whether a model is of the species of a task and has not seen its study."""
    seen = {LEAKS[d.name] for d in spec.training.datasets if d.name in LEAKS}
    learned = {study_of(d.file) for d in spec.training.datasets if d.role == "reference"}
    of_profiles = any(task.name.startswith(s) for s in seen)
    return spec.species == species and not of_profiles and study_of(task.name) not in learned


@cache
def studies() -> dict[str, str]:
    """Return whose cells the files are that body models learn from, by the file's stem."""
    with CELL_TYPES.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["library"]: row["study"] for row in rows}


def study_of(name: str) -> str:
    """Return whose cells a file or a task is of; its own name if no model learns from it."""
    stem = name.removesuffix(".h5ad").split(" ")[0]
    return studies().get(stem, stem)


def baselines(recipe: Recipe, read: Reader) -> Iterator[dict[str, Any]]:
    """Score the profiles of a recipe by negative binomial likelihood and by correlation."""
    sets = read_tables(recipe)
    symbols = sorted(set[str].intersection(*(set(p.symbols) for p in sets)))
    blocks = []
    for p in sets:
        place = {s: i for i, s in enumerate(p.symbols)}
        blocks.append(p.means[:, [place[s] for s in symbols]])
    means = np.concatenate(blocks)
    means /= means.sum(axis=1, keepdims=True)
    source = np.repeat([p.name for p in sets], [len(p.labels) for p in sets])
    types = [t for p in sets for t in p.meant]
    best = markers(means)
    for task in read(recipe.species):
        leaking = [d for d, start in LEAKS.items() if task.name.startswith(start)]
        kept = np.flatnonzero(~np.isin(source, leaking))
        classes = Classes.of_types([types[i] for i in kept])
        cells = _matching_case(task.cells, symbols)
        column = {s: i for i, s in enumerate(cells.symbols)}
        shared = [i for i in best if symbols[i] in column]
        counts = cells.counts[:, [column[symbols[i]] for i in shared]].toarray()
        for method, likelihood in (
            ("naive NB on the profiles", _naive(counts, means[kept][:, shared])),
            ("log-Pearson on the profiles", _correlation(counts, means[kept][:, shared])),
        ):
            told = softmax(likelihood, axis=1)
            tissue, share = classes.found(told)
            ways = {
                "given": task.places,
                "found": frozenset([tissue] if tissue else []),
                "any": frozenset[str](),
            }
            called = {way: classes.called(told, places) for way, places in ways.items()}
            known = bool(np.isin(classes.places, list(task.places)).any())
            yield row(task, method, called, tissue, share, known=known)


def export(recipe: Recipe, folder: Path) -> None:
    """Write simulated cells and profiles of a recipe, and the files to label, for the peers.

    Both have the genes that all data sets of profiles measured. Data sets that are of a file's own
    cells are left out.
    """
    files = [f for f in tasks(recipe.species) if not f.name.startswith(LEFT_OUT)]
    leaking = [d for d, start in LEAKS.items() if any(f.name.startswith(start) for f in files)]
    sets = [p for p in read_tables(recipe) if p.name not in leaking]
    symbols = sorted(set[str].intersection(*(set(p.symbols) for p in sets)))
    labels = np.array(sorted({t.label for p in sets for t in p.meant}))
    code = {label: i for i, label in enumerate(labels.tolist())}
    studies = [simulate(p, recipe.simulation, recipe.settings.seed) for p in sets]
    counts = sp.vstack([_cut(s, symbols) for s in studies]).tocsr()
    means = np.concatenate([p.means[:, np.searchsorted(p.symbols, symbols)] for p in sets])
    meant = {t.label: t for p in sets for t in p.meant}
    own = folder / recipe.species
    own.mkdir(parents=True, exist_ok=True)
    np.savez(
        own / "reference.npz",
        **_arrays(counts, symbols),
        codes=np.array([code[str(x)] for s in studies for x in s.labels]),
        labels=labels,
        terms=np.array([meant[label].ontology_id for label in labels.tolist()]),
        places=np.array([meant[label].place for label in labels.tolist()]),
        everywhere=np.array([meant[label].everywhere for label in labels.tolist()]),
        means=means / means.sum(axis=1, keepdims=True),
        mean_codes=np.array([code[t.label] for p in sets for t in p.meant]),
    )
    for task in files:
        cells = _matching_case(task.cells, symbols)
        shared = sorted(set(symbols) & set(cells.symbols))
        np.savez(own / f"query {task.name}.npz", **_arrays(_cut(cells, shared), shared))


def _cut(cells: Study, symbols: list[str]) -> sp.csr_matrix:
    column = {s: i for i, s in enumerate(cells.symbols)}
    return sp.csr_matrix(cells.counts[:, [column[s] for s in symbols]])


def _arrays(counts: sp.csr_matrix, symbols: list[str]) -> dict[str, Any]:
    parts = {name: getattr(counts, name) for name in ("data", "indices", "indptr")}
    return {**parts, "symbols": np.array(symbols)}


def peers(recipe: Recipe, folder: Path) -> Iterator[dict[str, Any]]:
    """Score what the peers say: the best class of each cell, among those that may stay."""
    own = folder / recipe.species
    with np.load(own / "reference.npz") as file:
        classes = Classes(file["terms"], file["places"], file["everywhere"])
    for task in tasks(recipe.species):
        for path in sorted(own.glob(f"* {task.name}.npz")):
            method = path.name.removesuffix(f" {task.name}.npz")
            if method == "query":
                continue
            with np.load(path) as file:
                scores = file["scores"]
            every = np.eye(len(classes.terms))
            tissue, share = classes.found(every[scores.argmax(axis=1)])
            ways = {
                "given": task.places,
                "found": frozenset([tissue] if tissue else []),
                "any": frozenset[str](),
            }
            called = {
                way: classes.terms[np.where(classes.stay(places), scores, -np.inf).argmax(axis=1)]
                for way, places in ways.items()
            }
            known = bool(np.isin(classes.places, list(task.places)).any())
            yield row(task, method, called, tissue, share, known=known)


def _matching_case(cells: Study, symbols: list[str]) -> Study:
    """Return cells with gene names in the case of the profiles, where they are in another."""
    if len(set(symbols) & set(cells.symbols)) > 0.1 * len(symbols):
        return cells
    names = {s.upper(): s for s in symbols}
    return replace(cells, symbols=[names.get(s.upper(), s) for s in cells.symbols])


def _naive(counts: Array, means: Array) -> Array:
    """Return the negative binomial log-likelihood of the best markers under each profile."""
    totals = np.maximum(counts.sum(axis=1), 1)[:, None]
    means = means / means.sum(axis=1, keepdims=True)
    seen = counts[:, :GENES]
    return np.stack(
        [
            (
                seen * np.log(totals * p / (totals * p + SIZE)) - SIZE * np.log1p(totals * p / SIZE)
            ).sum(axis=1)
            for p in means[:, :GENES] + PSEUDO
        ],
        axis=1,
    )


def _correlation(counts: Array, means: Array) -> Array:
    """Return 100 times the correlation of log expression with each profile."""
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    x, y = np.log1p(counts / totals * 1e4), np.log1p(means / means.sum(axis=1)[:, None] * 1e4)
    x, y = (a - a.mean(axis=1, keepdims=True) for a in (x, y))
    x, y = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-9) for a in (x, y))
    found: Array = 100 * x @ y.T
    return found


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the mean of each method over the files of each species, as a Markdown table."""
    lines = [
        "| species | method | files | tissue given | found | not given | tissue right |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key in dict.fromkeys((r["species"], r["method"]) for r in rows):
        own = [r for r in rows if (r["species"], r["method"]) == key]
        known = [r for r in own if r["known"]]
        means = [np.mean([r[f"{w}_macro_f1"] for r in own]) for w in ("given", "found", "any")]
        right = f"{sum(r['right'] for r in known)} of {len(known)}"
        lines.append(
            f"| {key[0]} | {key[1]} | {len(own)} | "
            + " | ".join(f"{m:.3f}".lstrip("0") for m in means)
            + f" | {right} |"
        )
    return "\n".join(lines)


def by_file(rows: list[dict[str, Any]]) -> str:
    """Return macro-F1 of each file with the tissue given, and what was found, as a table."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    lines = [
        f"| file | cells | {' | '.join(methods)} | tissue found |",
        "| --- " * (len(methods) + 3) + "|",
    ]
    for key in dict.fromkeys((r["species"], r["task"]) for r in rows):
        own = {r["method"]: r for r in rows if (r["species"], r["task"]) == key}
        f1 = [f"{own[m]['given_macro_f1']:.3f}" if m in own else "" for m in methods]
        first = next(iter(own.values()))
        found = "yes" if first["right"] else first["found"] or "none is clear"
        lines.append(f"| {key[0]}: {key[1]} | {first['cells']:,} | {' | '.join(f1)} | {found} |")
    return "\n".join(lines)


def main() -> None:
    """Score models and baselines, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="bundles, twins last")
    parser.add_argument("--baselines", action="append", type=Path, default=[], metavar="RECIPE")
    parser.add_argument("--markers", action="store_true", help="where genes contradict a label")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write it for the peers")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="score what they have written")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    recipes = [read_recipe(r) for r in arguments.baselines]
    if arguments.export:
        for recipe in recipes:
            export(recipe, arguments.export)
        return
    read = by_markers if arguments.markers else tasks
    parts = [models(arguments.models, read), *(baselines(recipe, read) for recipe in recipes)]
    if arguments.peers:
        parts += [peers(recipe, arguments.peers) for recipe in recipes]
    for part in parts:
        for record in part:
            found.append(record)
            print(json.dumps(record), flush=True)
            arguments.out.write_text(json.dumps(found, indent=0) + "\n")
    print(summary(found), by_file(found), sep="\n\n")


if __name__ == "__main__":
    main()
