"""Which types take over what is said for a type of another tissue: those of its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.annotation.chances import logsumexp
from scbignn_infer.network.blas import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import Node

POWER = 2.0
"""Of the number of classes below the narrowest common term. From .5 to 4 scores are the same on
data sets of profiles that were left out; on cells of other laboratories 1 is a little worse than
2."""


def kinship(class_ids: Sequence[str], nodes: Sequence[Node], power: float = POWER) -> Array:
    r"""Return how close the classes of a model are, (n_classes, n_classes) float32.

    :math:`s_{kc} = n_{kc}^{-2}`, where :math:`n_{kc}` counts the classes below the narrowest term
    that both are below. But for a factor this is :math:`e^{2 R}` with the similarity R of Resnik
    (1995), the information content of that term. Classes that no term joins have the root alone.

    Parameters
    ----------
    class_ids
        (n_classes,) their ontology ids, or empty strings.
    nodes
        The terms that join them.
    power
        That of :math:`n_{kc}`.
    """
    named = [own or f"?{i}" for i, own in enumerate(class_ids)]
    ids, which, number = np.unique(named, return_inverse=True, return_counts=True)
    fewest = np.full((len(ids), len(ids)), len(named))
    place = {own: i for i, own in enumerate(ids.tolist())}
    joined = [np.array([place[x] for x in n.below if x in place], np.int64) for n in nodes]
    for among in sorted(joined, key=lambda among: -number[among].sum()):  # the narrowest is last
        fewest[np.ix_(among, among)] = number[among].sum()
    np.fill_diagonal(fewest, number)
    close: Array = (fewest.astype(np.float64) ** -power).astype(np.float32)[np.ix_(which, which)]
    return close


@one_blas_thread()
def inherit(log_p: Array, kept: Array, close: Array) -> Array:
    r"""Return log-probabilities (n, n_kept) of the classes that stay, with those of their kin.

    What a cell is said to be with a probability of :math:`p_k`, of a class that goes, is divided
    among those that stay, by how close they are and by what the cell is said to be:

    .. math:: p'_c = p_c + \sum_k p_k \frac{s_{kc}\, p_c}{\sum_{c'} s_{kc'}\, p_{c'}}

    With all :math:`s` alike this is Bayes' rule given that the cell is of none of them. But that a
    cell looks like the prostate's glands is no reason to take it for a T cell, if it is of the
    pancreas: rather for a cell of ducts.

    Parameters
    ----------
    log_p
        (n, n_classes) log-probabilities.
    kept
        (n_classes,) those that stay, at least one.
    close
        What :func:`kinship` returns.
    """
    log_p = log_p - logsumexp(log_p)
    own, gone = log_p[:, kept], np.exp(log_p[:, ~kept])
    total = logsumexp(own)
    own = own - total
    shared = close[~kept][:, kept]
    taken = (gone / (np.exp(own) @ shared.T)) @ shared
    inherited: Array = own + np.log(np.exp(total) + taken)
    return inherited
