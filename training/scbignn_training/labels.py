"""A look at labels before anything is trained: what would make a worse model, as a table."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.model.cell_ontology import plain
from scbignn_training.blocks import dense
from scbignn_training.overlap import shared_cells
from scbignn_training.sampling import place_in_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scbignn_training.data import Reference, Study
    from scbignn_training.recipe import Recipe

Array = np.ndarray[Any, Any]
PLACEHOLDER = re.compile(
    r"^(?:|nan|n/?a|none|null|\?+|-+|unknown.*|unassigned.*|unannotated.*|unclassified.*"
    r"|unlabell?ed.*|undefined.*|undetermined.*|ambiguous.*|.*\bdoublets?\b.*"
    r"|.*\bmultiplets?\b.*|low[ _-]?quality.*|debris|empty(?:[ _-]?droplets?)?|contaminat.*|others?"
    r"|not applicable|fail(?:ed)?[ _-]?qc)$",
    re.IGNORECASE,
)
"""Labels that say that a cell is of no type, or of none that is known."""
CHECK_GENES, CHECK_CELLS, CHECK_FOLDS = 500, 200, 3
"""Genes, cells a type at most, and folds by which types are looked at before training."""
MIXED = 0.4
"""Share of a type's held-out cells that are called another one: they cannot be told apart."""


class Finding(NamedTuple):
    """One row of the table."""

    what: str
    labels: str
    cells: int
    do: str


def placeholders(files: Sequence[Study], keep: Iterable[str] = ()) -> list[str]:
    """Return the labels of some files that name no type, but for those that are to be kept."""
    labels = {str(x) for file in files for x in np.unique(file.labels.astype(str))}
    return sorted(x for x in labels - set(keep) if PLACEHOLDER.match(x.strip()))


def found_in(files: Sequence[Study], reference: Reference, recipe: Recipe) -> list[Finding]:
    """Return what is odd in the labels of some files, which a recipe joined to a reference."""
    findings = [
        Finding("not read", why, n, "") for file in files for why, n in file.left_out.items()
    ]
    total = sum(len(f.labels) for f in files)
    for label, n in reference.dropped.items():
        findings.append(Finding(*_left_out(label, n, recipe)))
    lost = sum(reference.dropped.values())
    if lost:
        share = f"{len(reference.dropped)} of {len(reference.dropped) + len(reference.cell_types)}"
        findings.append(
            Finding(f"left out in all ({lost / max(total, 1):.1%} of the cells)", share, lost, "")
        )
    return [
        *findings,
        *_without_effect(files, recipe),
        *_in_two_studies(files),
        *_spellings(files, recipe.merge),
        *_one_study(reference),
        *_mixed(reference),
    ]


def _left_out(label: str, n: int, recipe: Recipe) -> tuple[str, str, int, str]:
    """Return why cells of a label were left out, the label, how many, and what to do."""
    if not label:
        return "no label, left out", "(empty)", n, ""
    if label in recipe.drop:
        return "dropped by the recipe", label, n, ""
    if PLACEHOLDER.match(label.strip()) is not None:
        do = "rename it, if it is a type" if label == UNKNOWN else "keep it with --keep-label"
        return "names no type, left out", label, n, do
    few = f"fewer than {recipe.min_cells} cells, left out"
    return few, label, n, "lower --min-cells, or merge it"


def _without_effect(files: Sequence[Study], recipe: Recipe) -> list[Finding]:
    """Return what a recipe says of labels and studies that are not there."""
    labels = {str(x) for file in files for x in np.unique(file.labels.astype(str))}
    wished = [
        *(("merge", x) for x in recipe.merge),
        *(("drop", x) for x in recipe.drop),
        *(("keep", x) for x in recipe.keep),
    ]
    if not any(source.types for source in recipe.reference):  # which gives labels other names
        new = [change for change in recipe.relabel if change.to not in labels]
        wished += (("relabel", change.label) for change in new)
    known = {source.called for source in recipe.reference}
    return [
        *(
            Finding(f"of '{what}', and no cell has this label", label or "(empty)", 0, "mend it")
            for what, label in wished
            if label not in labels
        ),
        *(
            Finding("of 'relabel', and no reference is called so", study, 0, "mend it")
            for change in recipe.relabel
            for study in change.studies
            if study not in known
        ),
    ]


def _in_two_studies(files: Sequence[Study]) -> list[Finding]:
    """Return studies that have cells in common, though neither is a copy."""
    what, do = "the same cells in two studies", "leave them out of one, or scores are too good"
    return [Finding(what, " | ".join(s.studies), s.cells, do) for s in shared_cells(files)]


def _spellings(files: Sequence[Study], merge: Mapping[str, str]) -> list[Finding]:
    """Return labels that differ by case, signs or a plural only."""
    n: dict[str, int] = defaultdict(int)
    for file in files:
        for label, cells in zip(
            *np.unique(file.labels.astype(str), return_counts=True), strict=True
        ):
            n[merge.get(str(label), str(label))] += int(cells)
    alike: dict[str, list[str]] = defaultdict(list)
    for label in n:
        alike[plain(label)].append(label)
    return [
        Finding(
            "spelled in several ways",
            " | ".join(sorted(labels)),
            sum(n[x] for x in labels),
            "merge them in a recipe, if they are one type",
        )
        for word, labels in alike.items()
        if len(labels) > 1 and word
    ]


def _one_study(reference: Reference) -> list[Finding]:
    """Return types that one study only has: nothing tells how well other studies' are found."""
    if len(reference.origins) < 2:
        return []
    found = []
    for code, label in enumerate(reference.cell_types):
        studies, n = np.unique(reference.batches[reference.codes == code], return_counts=True)
        if len(studies) == 1:
            name = reference.origins[int(studies[0])].name
            do = "not scored on studies left out"
            found.append(Finding(f"in one study only ({name})", label, int(n[0]), do))
    return found


def _mixed(reference: Reference) -> list[Finding]:
    """Return pairs of types that a quick discriminant does not tell apart on held-out cells."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    n = np.bincount(reference.codes)
    order = np.random.default_rng(0).permutation(len(reference.codes))
    some = place_in_type(reference.codes, order) < CHECK_CELLS
    few = reference.subset(np.flatnonzero(some & (n >= CHECK_FOLDS)[reference.codes]))
    if len(few.cell_types) < 2:
        return []
    few = few.in_rank_order(CHECK_GENES)
    x = dense(few.cells(min(CHECK_GENES, len(few.symbols))).expression).numpy()
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        folds = StratifiedKFold(CHECK_FOLDS, shuffle=True, random_state=0)
        called = cross_val_predict(model, x, few.codes, cv=folds)
    found = []
    for code, label in enumerate(few.cell_types):
        mine = few.codes == code
        share = np.bincount(called[mine], minlength=len(few.cell_types)) / mine.sum()
        share[code] = 0
        if share.max() >= MIXED:
            what = f"held-out cells are called another type ({share.max():.0%})"
            pair = f"{label} -> {few.cell_types[int(share.argmax())]}"
            do = "merge them in a recipe, unless you need both"
            found.append(Finding(what, pair, int(n[reference.cell_types.index(label)]), do))
    return found
