"""A table of types: what each published profile is, in which tissue, and whether to learn of it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from scbignn_infer.errors import InputError
from scbignn_training.ontology import check_terms, is_below

ADULT = "adult"
COLUMNS = (
    *("library", "dataset", "cell_type", "label", "ontology_id"),
    *("tissue", "age", "study", "use"),
)
EVERYWHERE = frozenset(
    {
        "CL:0000057",  # fibroblast
        "CL:0000071",  # blood vessel endothelial cell
        "CL:0000136",  # adipocyte
        "CL:0000192",  # smooth muscle cell
        "CL:0000499",  # stromal cell
        "CL:0000669",  # pericyte
        "CL:0000988",  # hematopoietic cell
        "CL:0002138",  # lymphatic endothelial cell
        "CL:0002573",  # Schwann cell
    }
)
"""Terms below which types occur in any tissue: blood, vessels, connective tissue, nerves."""
FLUIDS = frozenset({"blood"})
"""Tissues all of whose cells circulate."""
CIRCULATES = frozenset({"CL:0000988"})  # hematopoietic cell
RESIDENT = frozenset(
    {
        "CL:0000097",  # mast cell
        "CL:0000235",  # macrophage
        "CL:0000844",  # germinal center B cell
    }
)
"""Terms below these whose types never circulate, by their definition."""
AT_HOME = frozenset(
    {
        "CL:0000091",  # Kupffer cell
        "CL:0000092",  # osteoclast
        "CL:0000129",  # microglial cell
        "CL:0000138",  # chondrocyte
        "CL:0000346",  # hair follicle dermal papilla cell
        "CL:0000388",  # tendon cell
        "CL:0000442",  # follicular dendritic cell
        "CL:0000449",  # brown adipocyte
        "CL:0000503",  # theca cell
        "CL:0000583",  # alveolar macrophage
        "CL:0000632",  # hepatic stellate cell
        "CL:0000650",  # mesangial cell
        "CL:0000817",  # precursor B cell
        "CL:0000826",  # pro-B cell
        "CL:0000893",  # thymocyte
        "CL:0002132",  # stromal cell of ovary
        "CL:0002343",  # decidual natural killer cell
        "CL:0002410",  # pancreatic stellate cell
        "CL:0002489",  # double negative thymocyte
        "CL:0002504",  # enteric smooth muscle cell
        "CL:0000809",  # double-positive thymocyte
        "CL:0009101",  # fibroblastic reticular cell
        "CL:1000398",  # endothelial cell of hepatic sinusoid
        "CL:2000002",  # decidual cell
        "CL:3000001",  # Hofbauer cell
        "CL:4023051",  # vascular leptomeningeal cell
        "CL:4033043",  # lung interstitial macrophage
    }
)
"""Terms below these whose types occur in their own tissue only."""


@dataclass(frozen=True)
class ProfileType:
    """What a published profile is.

    Attributes
    ----------
    name, ontology_id
        Of the type, in any tissue.
    tissue, age
        Where it is from.
    study
        Whose cells the profile is the mean of.
    """

    name: str
    ontology_id: str
    tissue: str
    age: str
    study: str

    @property
    def place(self) -> str:
        """The tissue; an age other than adult is part of its name."""
        return self.tissue if self.age == ADULT else f"{self.age} {self.tissue}"

    @property
    def everywhere(self) -> bool:
        """Whether any adult tissue has the type, by the ontology."""
        by_term = is_below(self.ontology_id, EVERYWHERE) and not is_below(self.ontology_id, AT_HOME)
        return self.age == ADULT and by_term

    @property
    def resident(self) -> bool:
        """Whether the type never circulates, by the ontology."""
        return not is_below(self.ontology_id, CIRCULATES) or is_below(self.ontology_id, RESIDENT)

    @property
    def label(self) -> str:
        """Of the class: the type in that tissue."""
        return f"{self.place}: {self.name}"


def read_types(path: str | Path, library: str) -> dict[tuple[str, str], ProfileType]:
    """Return what the usable profiles of a library are, by data set and published name.

    Parameters
    ----------
    path
        A table with the columns ``library``, ``dataset``, ``cell_type``, ``label``,
        ``ontology_id``, ``tissue``, ``age``, ``study`` and ``use``, separated by tabs. Only rows
        with ``yes`` in ``use`` are taken.
    library
        Of which rows.

    Raises
    ------
    InputError
        There is no such file, or it is no such table, or it has no row of that library, or an id is
        no term of the ontology.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the table of types {path} ({error})",
            expected="a table like training/tables/profile_types.tsv",
            do="mend types in the recipe",
        ) from None
    missing = [c for c in COLUMNS if not rows or c not in rows[0]]
    found = {
        (r["dataset"], r["cell_type"]): ProfileType(
            *(r[c] for c in ("label", "ontology_id", "tissue", "age", "study"))
        )
        for r in (() if missing else rows)
        if r["library"] == library and r["use"] == "yes"
    }
    if not found:
        raise InputError(
            f"the table of types {path} has no "
            + (f"column {', '.join(missing)}" if missing else f"usable row of {library}"),
            expected="a table like training/tables/profile_types.tsv",
            do="mend types in the recipe",
        )
    check_terms({t.name: t.ontology_id for t in found.values()})
    return found
