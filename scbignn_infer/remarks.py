"""What the user should know before labels are believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.genes import LOW_COVERAGE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from scbignn_infer.readers import Query
    from scbignn_infer.results import Annotation

MAX_NOVELTY = 0.99
"""Of the typical cell; above it, a query is unlike the reference as a whole."""
MANY_UNKNOWN = 0.5
"""Share of unknown cells that is more than the odd type."""
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

    Parameters
    ----------
    annotation
        Labels, with their provenance.
    """
    provenance = annotation.provenance
    coverage, note = provenance["genes"]["coverage"], provenance["params"].get("device_note", "")
    unknown = float(np.mean(annotation.codes < 0))
    remarks = []
    if coverage < LOW_COVERAGE:
        remarks.append(
            f"the data have only {coverage:.0%} of the genes that the model's network reads; "
            "labels are less reliable"
        )
    if np.median(annotation.novelty) > MAX_NOVELTY:
        remarks.append(
            f"most cells are unlike any that {provenance['model']['name']} was trained on "
            f"(median novelty above {MAX_NOVELTY}); is it the right model?"
        )
    if unknown > MANY_UNKNOWN:
        remarks.append(
            f"{unknown:.0%} of the cells are called unknown: they are of other types, or of a "
            "tissue, state or technology that the model has not seen; best_cell_type holds what "
            "they resemble most, a report (--report) shows where they lie"
        )
    if note:
        remarks.append(note)
    return [*remarks, *provenance.get("notes", ()), *training_remarks(provenance)]


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
