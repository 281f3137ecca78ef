"""The Cell Ontology: what the types of a model have in common, and what that is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scbignn_infer.errors import InputError
from scbignn_infer.model.bundle import Term
from scbignn_infer.model.cell_ontology import BY_FUNCTION
from scbignn_infer.model.cell_ontology import terms as all_terms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


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


def lineages(terms: Sequence[str]) -> list[list[Term]]:
    """Return for each type the groups that it belongs to, from narrow to wide.

    A group is a term that some of the types, and not all, have above them; where several terms
    have the same types, the one of the shortest name stands for them, which is the usual one ("T
    cell" rather than "mature alpha-beta T cell"). Smaller groups go first, and one that would
    cross another is left out, so that groups make a tree. A group's level is one above that of
    the highest group within it, and 1 where there is none.

    Parameters
    ----------
    terms
        Ontology id of each type, or an empty string, which belongs to no group.
    """
    above = [all_terms()[t].above if t else frozenset() for t in terms]
    named: dict[frozenset[int], list[str]] = {}
    for term in frozenset().union(*above):
        members = frozenset(i for i, a in enumerate(above) if term in a)
        if 1 < len(members) < len(terms) and all_terms()[term].label not in BY_FUNCTION:
            named.setdefault(members, []).append(term)
    tree: dict[frozenset[int], Term] = {}
    for members in sorted(named, key=lambda m: (len(m), sorted(m))):
        if any(members & other and not other <= members for other in tree):
            continue
        term = min(named[members], key=lambda t: (len(all_terms()[t].label), t))
        level = 1 + max((g.level for m, g in tree.items() if m < members), default=0)
        tree[members] = Term(label=all_terms()[term].label, ontology_id=term, level=level)
    return [[group for members, group in tree.items() if i in members] for i in range(len(terms))]
