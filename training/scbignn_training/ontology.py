"""The Cell Ontology: what the types of a model have in common, and what that is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scbignn_infer.errors import InputError
from scbignn_infer.model.bundle import Node, Term
from scbignn_infer.model.cell_ontology import BY_FUNCTION
from scbignn_infer.model.cell_ontology import terms as all_terms

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence


SECRETING, KNOWN = "secreting cell", frozenset({"antibody secreting cell"})
"""The end of the names of terms by a product, and one that is a lineage."""
VAGUE = 0.75
"""Share of the types from which on a term that joins them says nothing."""


def check_terms(ontology: Mapping[str, str]) -> None:
    """Raise if a type is given an id that the ontology has not.

    Raises
    ------
    InputError
        There is no such term, or it is deprecated.
    """
    for label, term in ontology.items():
        if term and term not in all_terms():
            raise InputError(
                f"the ontology id '{term}' of '{label}'",
                expected="a term of the Cell Ontology that is not deprecated, such as CL:0000236",
                do="look it up at https://www.ebi.ac.uk/ols4/ontologies/cl and mend the recipe",
            )


def name_of(term: str) -> str:
    """Return the name of a term, or nothing if the ontology has no such term."""
    return all_terms()[term].label if term in all_terms() else ""


def is_below(term: str, wanted: Collection[str]) -> bool:
    """Tell whether a term is one of some terms or below one; an empty string is not."""
    return bool(term) and not all_terms()[term].above.isdisjoint(wanted)


def lineages(terms: Sequence[str], names: Mapping[str, str] | None = None) -> list[list[Term]]:
    """Return for each type the groups that it belongs to, from narrow to wide.

    A group is a term that some of the types, and not all, have above them; where several terms
    have the same types, one that has a name here stands for them, else that of the shortest name,
    which is the usual one ("T cell" rather than "mature alpha-beta T cell"). Terms with a name
    here go first, then smaller groups, and one that would cross another is left out, so that
    groups make a tree. A group's level is one above that of the highest group within it, and 1
    where there is none.

    Parameters
    ----------
    terms
        Ontology id of each type, or an empty string, which belongs to no group.
    names
        What some terms are called here.
    """
    names = names or {}
    named = _joined(terms, names)
    nested: list[frozenset[int]] = []
    for members in sorted(named, key=lambda m: (named[m] not in names, len(m), sorted(m))):
        if all(not members & o or members <= o or o <= members for o in nested):
            nested.append(members)
    tree: dict[frozenset[int], Term] = {}
    for members in sorted(nested, key=lambda m: (len(m), sorted(m))):
        term = named[members]
        level = 1 + max((g.level for m, g in tree.items() if m < members), default=0)
        label = names.get(term, all_terms()[term].label)
        tree[members] = Term(label=label, ontology_id=term, level=level)
    return [[group for members, group in tree.items() if i in members] for i in range(len(terms))]


def nodes(terms: Sequence[str], names: Mapping[str, str] | None = None) -> list[Node]:
    """Return what joins types, narrow before wide: the labels of cells whose type is not sure.

    They need not make a tree. A term that joins nearly all types is left out.

    Parameters
    ----------
    terms
        Ontology id of each type, or an empty string, which nothing joins.
    names
        What some terms are called here.
    """
    names = names or {}
    named = _joined(terms, names)
    return [
        Node(
            label=names.get(named[members], all_terms()[named[members]].label),
            ontology_id=named[members],
            below=sorted({terms[i] for i in members}),
        )
        for members in sorted(named, key=lambda m: (len(m), sorted(m)))
        if len(members) <= VAGUE * len(terms)
    ]


def _joined(terms: Sequence[str], names: Mapping[str, str]) -> dict[frozenset[int], str]:
    """Map types, by their places, to the term that they, not all types, have in common.

    Of several terms one that has a name here stands, or the type's own id, if it is one of them, or
    the shortest name.
    """
    above = [all_terms()[t].above if t else frozenset() for t in terms]
    named: dict[frozenset[int], list[str]] = {}
    for term in frozenset().union(*above):
        members = frozenset(i for i, a in enumerate(above) if term in a)
        if 1 < len(members) < len(terms) and _is_label(all_terms()[term].label):
            named.setdefault(members, []).append(term)
    usual = _usual(terms)
    return {m: min(found, key=lambda t: (t not in names, *usual(t))) for m, found in named.items()}


def _is_label(name: str) -> bool:
    return name not in BY_FUNCTION and (name in KNOWN or not name.endswith(SECRETING))


def _usual(terms: Collection[str]) -> Callable[[str], tuple[bool, int, str]]:
    """Return what sorts terms: ids of types, then short names."""
    return lambda term: (term not in terms, len(all_terms()[term].label), term)
