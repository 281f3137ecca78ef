"""How deep labels may be: what must hold on cells that the model has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.ontology import Ontology
from scbignn_training.ontology import nodes

if TYPE_CHECKING:
    from scbignn_infer.model.bundle import Node
    from scbignn_training.data import Reference

Array = np.ndarray[Any, Any]
BARS = [i / 100 for i in range(50, 100, 5)]
"""Thresholds that are tried."""
WRONG = 2.0
"""What a wrong label costs, where a right type earns 1."""
SHARE, SHORT = 0.9, 0.03
"""The share that sets are fitted for, and by how much that of each study may fall short of it."""
POWERS = [i / 10 for i in range(20, 9, -1)]


def names_of(reference: Reference) -> list[tuple[str, str]]:
    """Return what each class is called, and its Cell Ontology id or an empty string."""
    meant = {label: told.name for label, told in reference.meant.items()}
    return [(meant.get(t, t), reference.ontology.get(t, "")) for t in reference.cell_types]


def joining(reference: Reference) -> list[Node]:
    """Return what joins the types that the classes of a reference are called."""
    return nodes(list(dict(names_of(reference)).values()), reference.groups)


def labels_of(reference: Reference) -> tuple[Grouping, Ontology]:
    """Return the types of a reference, and the labels that its cells may be given."""
    grouping = Grouping.of(names_of(reference))
    ids = [term for _, term in names_of(reference)]
    return grouping, Ontology.above(joining(reference), ids, grouping)


def fit_label_threshold(
    ontology: Ontology, probabilities: Array, codes: Array, studies: Array
) -> float:
    r"""Return what the types of a label must sum to.

    A right label of k of n types earns its share of the information, :math:`1 - \log k / \log n`,
    a wrong one costs twice what a right type earns, and unknown earns nothing. The threshold of the
    largest mean over the studies is taken, the lower where two are equal.

    Parameters
    ----------
    ontology
        The labels.
    probabilities, codes
        (n, n_types) of cells that the model has not seen, and their types.
    studies
        (n,) the study of each.

    Returns
    -------
    float
        0 if nothing joins the types, so that labels are types.
    """
    if len(ontology.labels) == ontology.n_types:
        return 0.0
    worth = 1 - np.log(ontology.size) / np.log(ontology.n_types)
    earned = []
    for bar in BARS:
        label, together = ontology.deepest(probabilities, bar)
        right = ontology.holds[label, codes]
        value = np.where(together < bar, 0.0, np.where(right, worth[label], -WRONG))
        earned.append(np.mean([value[studies == s].mean() for s in np.unique(studies)]))
    return BARS[int(np.argmax(earned))]


def fit_sets(probabilities: Array, codes: Array, studies: Array) -> float:
    """Return the power that the share of a set is raised to.

    It is the largest with which the sets for 90 % hold the true type of at least 87 % of the cells
    of each study (conformal prediction, over studies), or 1 if none is.

    Parameters
    ----------
    probabilities, codes, studies
        As in :func:`fit_label_threshold`.
    """
    own = probabilities[np.arange(len(codes)), codes]
    before = np.where(probabilities > own[:, None], probabilities, 0).sum(axis=1)
    for power in POWERS:
        inside = before < SHARE**power
        if min(inside[studies == s].mean() for s in np.unique(studies)) >= SHARE - SHORT:
            return power
    return 1.0
