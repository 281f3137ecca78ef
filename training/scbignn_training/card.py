"""The model card: ``README.md`` of a bundle, made from its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scbignn_infer.model.interpretation import by_absence, by_presence, signed_interpretation
from scbignn_infer.plain import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from scbignn_infer.model.bundle import BundleSpec, GeneWeight

    Array = np.ndarray[Any, Any]


def model_card(spec: BundleSpec, class_mean: Array) -> str:
    """Return the card of a model in Markdown.

    Parameters
    ----------
    spec
        The record of the model.
    class_mean
        (n_types, n_ranked_genes) means of scaled expression: they tell which genes a type lacks.
    """
    lines = [
        f"# {spec.name} {spec.version}",
        "",
        spec.description,
        "",
        *_adaptation(spec),
        *_facts(spec),
        "",
        *_types(spec),
        *_looks_at(spec, class_mean),
        *_calibration(spec),
        *_confusions(spec),
        *_cannot_tell(spec),
        *_data(spec),
        *_studies(spec),
        *_em(spec),
        *_limits(spec),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _adaptation(spec: BundleSpec) -> list[str]:
    files = ", ".join(spec.training.adapted_to)
    return [f"Adapted to {files}: its accuracy on those cells is transductive.", ""] * bool(files)


def _facts(spec: BundleSpec) -> list[str]:
    rows = {
        "species": spec.species,
        "tissue": spec.tissue,
        "assays": ", ".join(spec.assays),
        "licence": spec.licence,
        "unknown below": f"confidence {spec.thresholds.confidence}",
    }
    return [f"- {name}: {value}" for name, value in rows.items() if value]


def _types(spec: BundleSpec) -> list[str]:
    training = spec.training
    head = ("cell type", "Cell Ontology", "training cells", "F1, out of fold")
    rows = (
        (
            c.label,
            c.ontology_id or "-",
            training.cells_per_type[c.label],
            training.scores_per_type.get(c.label, "-"),
            training.held_out_scores_per_type.get(c.label, "-"),
        )
        for c in spec.cell_types
    )
    table = _table((*head, "F1, held-out studies"), rows)
    return ["## What it can say", "", *table, ""]


def _looks_at(spec: BundleSpec, class_mean: Array) -> list[str]:
    if not spec.interpretation:
        return []
    rows = (
        (label, _symbols(by_presence(found.genes)), _symbols(by_absence(found.genes)))
        for label, found in signed_interpretation(spec, class_mean).items()
    )
    return [
        "## What it looks at",
        "",
        (
            "The genes that carry each type most, by integrated gradients of the gene level: those "
            "that its cells have more of than the mean of the other types, and those that they "
            "have less of:"
        ),
        "",
        *_table(("cell type", "present", "absent"), rows),
        "",
    ]


def _symbols(genes: list[GeneWeight]) -> str:
    return ", ".join(gene.symbol for gene in genes[:10]) or "-"


def _calibration(spec: BundleSpec) -> list[str]:
    found = spec.training.calibration
    if found is None:
        return []
    where = "of studies left out" if spec.training.held_out_scores else "out of fold"
    rows = ((b.confidence, b.accuracy, b.n_cells) for b in found.bins)
    return [
        "## How sure it is",
        "",
        (
            f"Expected calibration error on cells {where}, on which the temperature was fitted: "
            f"{found.error}."
        ),
        "",
        *_table(("mean confidence", "accuracy", "cells"), rows),
        "",
    ]


def _confusions(spec: BundleSpec) -> list[str]:
    training = spec.training
    where = "of studies left out" if training.held_out_scores else "out of fold"
    lines = [
        f"- {c.share:.0%} of {c.truth} as {c.called} ({c.n} cells)" for c in training.confusions
    ]
    none = [f"No type takes more than 5 % of another's cells {where}."]
    text = [f"Of the cells {where}, it calls", "", *lines] if lines else none
    return ["## What it confuses", "", *text, ""]


def _cannot_tell(spec: BundleSpec) -> list[str]:
    training = spec.training
    lines = [f"- {line}" for line in training.cannot_tell]
    lines += [f"- merged: {old} into {new}" for old, new in training.merged_labels.items()]
    lines += [
        f"- left out: {label or 'no label'} ({n} cells)"
        for label, n in training.dropped_labels.items()
    ]
    return [
        "## What it cannot tell",
        "",
        "Cells of any other type come out as unknown, or as the nearest of the types above.",
        "",
        *lines,
        *[""] * bool(lines),
    ]


def _data(spec: BundleSpec) -> list[str]:
    training = spec.training
    head = ("name", "file", "role", "cells", "title", "accession", "citation", "licence")
    rows = (
        (d.name, d.file, d.role, d.n_cells, d.title, d.accession, d.citation, d.licence)
        for d in training.datasets
    )
    return [
        "## Trained on",
        "",
        *_table(head, rows),
        "",
        (
            f"{training.n_cells} cells; seed {training.seed}. Genes: the {len(spec.genes)} that "
            "every reference has."
        ),
        "",
    ]


def _studies(spec: BundleSpec) -> list[str]:
    scores = spec.training.held_out_scores
    if not scores:
        return []
    rows = ((name, s.n_cells, s.accuracy, s.macro_f1) for name, s in scores.items())
    return [
        "## Held-out studies",
        "",
        "Each was left out in turn; a model of the rest was scored on its cells of known types:",
        "",
        *_table(("study", "cells", "accuracy", "macro-F1"), rows),
        "",
    ]


def _em(spec: BundleSpec) -> list[str]:
    training = spec.training
    rows = (
        (h.iteration, f"{h.gene_level_f1:.4f}", f"{h.cell_level_f1:.4f}", "*" * h.kept)
        for h in training.em_history
    )
    return [
        "## EM",
        "",
        f"Macro-F1 on held-out cells ({training.validation}):",
        "",
        *_table(("iteration", "gene level", "with cell level", "kept"), rows),
        "",
    ]


def _limits(spec: BundleSpec) -> list[str]:
    training = spec.training
    return [
        "## Limits",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in training.scores.items()),
        "",
        (
            "Cells out of fold are of the training studies; the gene level had not seen them, but "
            "cell level, temperature and threshold were fitted on them: expect less on other "
            "studies."
        ),
        "",
        *(f"- {note}" for note in training.notes),
    ]


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    cells = ([visible(str(v)).replace("|", "\\|") for v in row] for row in rows)
    body = [f"| {' | '.join(row)} |" for row in cells]
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body]
