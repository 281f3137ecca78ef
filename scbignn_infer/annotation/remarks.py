"""What the user should know before labels are believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.query.gene_match import LOW_COVERAGE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.query.readers import Query

MAX_NOVELTY = 0.99
"""Of the typical cell; above it, a query is unlike the reference as a whole."""
MANY_UNKNOWN = 0.5
"""Share of unknown cells that is more than the odd type."""
MANY_EMPTY = 0.3
"""Share of barcodes without cells that is more than a filter leaves."""
FEW_TRAINING_CELLS = 3
"""So many cells that a model was trained on are no chance."""


def note_names(annotation: Annotation, query: Query) -> None:
    """Record what a reader has to say of the cells, and how many bear the name of another."""
    notes = list(getattr(query, "notes", ()))
    names = query.cell_names()
    if repeated := len(names) - len(set(names)):
        notes.append(f"cells with the name of an earlier cell: {repeated}; all cells are kept")
    if notes:
        annotation.provenance["notes"] = notes


def remarks_on(annotation: Annotation) -> list[str]:
    """Return what is to be remarked on: few genes, strange cells, many unknown, no GPU.

    The model and the tissue are blamed only where no other cause is known.

    Parameters
    ----------
    annotation
        Labels, with their provenance.
    """
    provenance = annotation.provenance
    coverage, note = provenance["genes"]["coverage"], provenance["params"].get("device_note", "")
    remarks = _causes(annotation)
    if coverage < LOW_COVERAGE:
        remarks.append(
            f"the data have only {coverage:.0%} of the genes that the model's network reads; "
            "labels are less reliable"
        )
    if not _causes(annotation):
        remarks += _blames(annotation)
    if note:
        remarks.append(note)
    return [*remarks, *provenance.get("notes", ()), *training_remarks(provenance)]


def _causes(annotation: Annotation) -> list[str]:
    """Return what is wrong with the data, each with its cure."""
    matrix, genes = annotation.provenance["matrix"], annotation.provenance["genes"]
    empty = max(matrix.get("few_genes", 0.0), annotation.n_empty / max(len(annotation), 1))
    silent, foreign = genes.get("silent", {}), genes.get("foreign", {})
    remarks = []
    if empty > MANY_EMPTY:
        remarks.append(
            f"{empty:.0%} of the barcodes are empty or nearly so: this looks like a raw, "
            "unfiltered matrix; give the filtered one (filtered_feature_bc_matrix of Cell Ranger), "
            "or remove barcodes without cells first"
        )
    if matrix.get("doubt"):
        remarks.append(
            f"{matrix['name']} was read, but {matrix['doubt']}: labels are less reliable; give the "
            "raw counts"
        )
    if silent.get("genes"):
        remarks.append(
            f"{silent['genes']:.0%} of the common genes are 0 in all of {silent['cells']:.0%} of "
            "the cells: files with different genes were joined; label each file on its own, or "
            "join the genes that all files have"
        )
    if foreign.get("cells"):
        remarks.append(
            f"{foreign['cells']:,} of {len(annotation):,} cells are mostly of "
            f"{foreign['species']}, another species than the model's, and are unknown; label "
            f"them with a model of {foreign['species']}"
        )
    return remarks


def _blames(annotation: Annotation) -> list[str]:
    """Return what many strange or unknown cells say of the model."""
    remarks, unknown = [], float(np.mean(annotation.codes < 0))
    if np.median(annotation.novelty) > MAX_NOVELTY:
        remarks.append(
            f"most cells are unlike any that {annotation.provenance['model']['name']} was trained "
            f"on (median novelty above {MAX_NOVELTY}); is it the right model?"
        )
    if unknown > MANY_UNKNOWN:
        remarks.append(
            f"{unknown:.0%} of the cells are called unknown: they are of other types, or of a "
            "tissue, state or technology that the model has not seen; best_cell_type holds what "
            "they resemble most, a report (--report) shows where they lie"
        )
    return remarks


def training_remarks(provenance: Mapping[str, Any]) -> list[str]:
    """Return what is to be remarked on where cells of the query trained the model.

    Parameters
    ----------
    provenance
        Of an annotation, or what of it stands in ``uns``.
    """
    n = int(provenance.get("training_cells", 0))
    if n < FEW_TRAINING_CELLS:
        return []
    name = provenance["model"]["name"]
    said = f"{name} was trained on at least {n:,} of these cells"
    return [f"{said}; scores on them say nothing about new data"]
