"""The model card: ``README.md`` of a bundle, made from its record."""

from __future__ import annotations

from collections.abc import Iterable

from scbignn_infer.bundle import BundleSpec


def model_card(spec: BundleSpec) -> str:
    """Return the card of a model in Markdown."""
    training = spec.training
    lines = [
        f"# {spec.name} {spec.version}",
        "",
        spec.description,
        "",
        *_adaptation(spec),
        *_facts(spec),
        "",
        "## What it can say",
        "",
        *_table(
            ("cell type", "Cell Ontology", "training cells", "F1, out of fold"),
            (
                (
                    c.label,
                    c.ontology_id or "-",
                    training.cells_per_type[c.label],
                    training.scores_per_type.get(c.label, "-"),
                )
                for c in spec.cell_types
            ),
        ),
        "",
        "Any other type in a query is called one of these, or unknown.",
        "",
        *_labels(spec),
        "## Trained on",
        "",
        *_table(
            ("file", "role", "cells", "title", "accession", "citation", "licence"),
            (
                (d.file, d.role, d.n_cells, d.title, d.accession, d.citation, d.licence)
                for d in training.datasets
            ),
        ),
        "",
        f"{training.n_cells} cells; seed {training.seed}. Genes: the {len(spec.genes)} that every "
        "reference has.",
        "",
        "## EM",
        "",
        f"Macro-F1 on held-out cells ({training.validation}):",
        "",
        *_table(
            ("iteration", "gene level", "with cell level", "kept"),
            (
                (h.iteration, f"{h.gene_level_f1:.4f}", f"{h.cell_level_f1:.4f}", "*" * h.kept)
                for h in training.em_history
            ),
        ),
        "",
        "## Out of fold",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in training.scores.items()),
        "",
        "These cells are of the training studies; the gene level had not seen them, but blend, "
        "cell level, temperature and threshold were fitted on them: expect less on other studies.",
        "",
        *(f"- {note}" for note in training.notes),
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


def _labels(spec: BundleSpec) -> list[str]:
    lines = [f"- merged: {old} into {new}" for old, new in spec.training.merged_labels.items()]
    lines += [
        f"- left out: {label or 'no label'} ({n} cells)"
        for label, n in spec.training.dropped_labels.items()
    ]
    return [*lines, ""] if lines else []


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    body = ["| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body]
