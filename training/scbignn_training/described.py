"""What a file of the CELLxGENE schema says of its cells, so that the user need not say it.

The columns of ``obs`` are those of https://github.com/chanzuckerberg/single-cell-curation: a label
and its ontology term, and tissue, assay and donor of each cell. A cell that another file of the
collection holds, too, has ``is_primary_data`` False.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scbignn_infer.errors import InputError
from scbignn_training.ontology import name_of

if TYPE_CHECKING:
    from scbignn_infer.query.readers import Query

Array = np.ndarray[Any, Any]
LABEL, TERM = "cell_type", "cell_type_ontology_term_id"


class Described(NamedTuple):
    """What the columns say: of each cell, and of all."""

    labels: Array | None = None
    """(n,) of ``obs["cell_type"]``."""
    terms: Array | None = None
    """(n,) Cell Ontology ids, empty where there is none that this version of the ontology has."""
    secondary: Array | None = None
    """(n,) cells that are in another file, too."""
    tissue: str = ""
    assays: tuple[str, ...] = ()


def described(query: Query) -> Described | None:
    """Return what a file says, or nothing if it is not of the schema."""
    labels, terms = (column_or_none(query, name) for name in (LABEL, TERM))
    if labels is None or terms is None:
        return None
    primary = column_or_none(query, "is_primary_data")
    tissues, assays = (column_or_none(query, name) for name in ("tissue", "assay"))
    return Described(
        labels,
        np.array([t if name_of(t) else "" for t in terms], dtype=object),
        None if primary is None else primary == "False",
        "" if tissues is None else ", ".join(most_frequent(tissues)),
        () if assays is None else tuple(most_frequent(assays)),
    )


def most_frequent(values: Array) -> list[str]:
    """Return the different values, those of most cells first."""
    names, n = np.unique(values.astype(str), return_counts=True)
    return [str(names[i]) for i in np.argsort(-n, kind="stable") if names[i]]


def column_or_none(query: Query, name: str) -> Array | None:
    """Return a column (n,) of a file as strings, or ``None`` where there is none."""
    try:
        return np.array(query.obs_column(name), dtype=object)
    except InputError:
        return None
