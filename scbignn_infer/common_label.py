"""Several labels of a cell made one: the deepest term of the Cell Ontology that they share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from math import isnan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.errors import InputError
from scbignn_infer.model.cell_ontology import BY_FUNCTION, term_of, terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer._types import Array

MISSING = ("NAType", "NaTType")
"""Types of what pandas has for a missing value, which cannot be compared."""
NO_NAMES: Mapping[str, str] = {}


class Pair(NamedTuple):
    """How two columns agree on the cells to which both give a term: shares of these."""

    first: str
    second: str
    n_cells: int
    same: float
    nested: float
    """One term is above the other."""
    different: float


@dataclass(frozen=True)
class Consensus:
    """What several columns of labels say of n cells together.

    Attributes
    ----------
    labels, ontology_ids
        (n,) names and ids of the terms that the labels share; ``unknown`` and an empty string where
        they share none, or no label is a term.
    n_labels
        (n,) labels of the cell that are terms.
    agreement
        (n,) share of the pairs of these labels of which one is the other or above it; NaN of fewer
        than two.
    pairs
        How the columns agree, two by two.
    unmapped
        By column, the labels that are no term, with their cells, the most frequent first.
    """

    labels: Array
    ontology_ids: Array
    n_labels: Array
    agreement: Array
    pairs: list[Pair]
    unmapped: dict[str, dict[str, int]]


def consensus(
    columns: Mapping[str, Sequence[str]],
    *,
    at_least: int | None = None,
    names: Mapping[str, str] = NO_NAMES,
) -> Consensus:
    """Return what columns of labels say together, as a term of the Cell Ontology.

    The term is the deepest that enough of the labels are, or are below; terms that group cells by
    function alone ("motile cell", "cell") are none. Labels that name no term have no say.

    Parameters
    ----------
    columns
        By name, two or more columns of (n,) labels: names of terms or their ids.
    at_least
        Labels that must be at a term or below it; by default all that the cell has.
    names
        Names or ids of terms by label, for labels that the ontology has not.

    Raises
    ------
    InputError
        Fewer than two columns, columns of different lengths, a name that is no term, or more
        labels wanted than there are columns.

    Examples
    --------
    >>> from scbignn_infer import consensus
    >>> both = consensus({"one": ["CD4 T", "B"], "two": ["CD8 T", "naive B cell"]})
    >>> both.labels.tolist()
    ['alpha-beta T cell', 'B cell']
    """
    _check(columns, at_least)
    known = {label: _must_be_term(name) for label, name in names.items()}
    ids: list[list[str]] = []
    unmapped: dict[str, dict[str, int]] = {}
    for key, column in columns.items():
        labels = list(map(_text, column))
        n = Counter(labels)
        meant = {label: known.get(label) or term_of(label) for label in n}
        ids.append([meant[label] for label in labels])
        lost = {x: m for x, m in n.items() if not meant[x] and x not in ("", UNKNOWN)}
        unmapped[key] = dict(sorted(lost.items(), key=lambda item: (-item[1], item[0])))
    rows = list(zip(*ids, strict=True))
    said = {row: _agree(row, at_least) for row in set(rows)}
    term = [said[row][0] for row in rows]
    label = {t: terms()[t].label if t else UNKNOWN for t in set(term)}
    return Consensus(
        labels=np.array([label[t] for t in term], dtype=object),
        ontology_ids=np.array(term, dtype=object),
        n_labels=np.array([said[row][1] for row in rows], np.int64),
        agreement=np.array([said[row][2] for row in rows], np.float32),
        pairs=[
            _compare(a, b, Counter(zip(ids[i], ids[j], strict=True)))
            for (i, a), (j, b) in combinations(enumerate(columns), 2)
        ],
        unmapped=unmapped,
    )


def _check(columns: Mapping[str, Sequence[str]], at_least: int | None) -> None:
    lengths = {key: len(labels) for key, labels in columns.items()}
    if len(columns) < 2 or len(set(lengths.values())) > 1:
        said = ", ".join(f"'{key}' of {n:,} cells" for key, n in lengths.items())
        raise InputError(
            f"the columns {said or 'of nothing'}",
            expected="two or more columns of labels of the same cells",
            do="name them with --keys",
        )
    if at_least is not None and not 1 <= at_least <= len(columns):
        raise InputError(
            f"at least {at_least} labels of {len(columns)} columns",
            expected=f"1 to {len(columns)}",
            do="change --at-least (at_least)",
        )


def _text(label: object) -> str:
    """Return a label as text; what pandas and numpy have for a missing one is empty."""
    if isinstance(label, str):
        return label
    missing = label is None or type(label).__name__ in MISSING
    return "" if missing or (isinstance(label, float) and isnan(label)) else str(label)


def _must_be_term(name: str) -> str:
    term = term_of(name)
    if not term:
        raise InputError(
            f"'{name}' as the meaning of a label",
            expected="a name or an id of the Cell Ontology, such as CL:0000236",
            do="mend --map (names); look it up at https://www.ebi.ac.uk/ols4/ontologies/cl",
        )
    return term


def _agree(row: tuple[str, ...], at_least: int | None) -> tuple[str, int, float]:
    """Return the term of a cell's labels, how many are terms, and how far they agree."""
    votes = [terms()[term].above for term in row if term]
    needed = at_least or len(votes)
    if not votes or len(votes) < needed:
        return "", len(votes), np.nan
    n = {term: sum(term in above for above in votes) for term in frozenset().union(*votes)}
    shared = [t for t, m in n.items() if m >= needed and terms()[t].label not in BY_FUNCTION]
    deepest = max(shared, key=lambda t: (len(terms()[t].above), n[t], t), default="")
    of_terms = [term for term in row if term]
    near = [_is_near(a, b) for a, b in combinations(of_terms, 2)]
    return deepest, len(votes), float(np.mean(near)) if near else np.nan


def _is_near(one: str, other: str) -> bool:
    """Tell whether one term is the other, or above it."""
    return one in terms()[other].above or other in terms()[one].above


def _compare(a: str, b: str, n: Counter[tuple[str, str]]) -> Pair:
    """Say how often the terms of two columns agree, by how many cells have each two."""
    both = {pair: m for pair, m in n.items() if all(pair)}
    total = sum(both.values())
    same = sum(m for (x, y), m in both.items() if x == y)
    near = sum(m for pair, m in both.items() if _is_near(*pair))
    shares = [m / max(total, 1) for m in (same, near - same, total - near)]
    return Pair(a, b, total, *shares)
