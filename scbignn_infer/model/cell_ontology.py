"""The Cell Ontology: its terms, what is above them, and which of them a name means."""

from __future__ import annotations

import gzip
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

BY_FUNCTION = frozenset(
    {
        "cell",
        "electrically active cell",
        "electrically responsive cell",
        "electrically signaling cell",
        "eukaryotic cell",
        "motile cell",
        "nucleate cell",
        "protein secreting cell",
        "secretory cell",
        "single nucleate cell",
        "stuff accumulating cell",
    }
)
"""Terms that group cells across tissues and lineages, which nobody labels cells by."""


class Entry(NamedTuple):
    """A term of the ontology that is not deprecated."""

    label: str
    above: frozenset[str]
    """Ids of its ancestors, and its own."""
    synonyms: tuple[str, ...] = ()


@cache
def terms() -> dict[str, Entry]:
    """Return all terms by their ids."""
    table = gzip.decompress(
        files("scbignn_infer.model").joinpath("cell_ontology.tsv.gz").read_bytes()
    )
    rows = (line.split("\t") for line in table.decode().splitlines())
    return {
        term: Entry(label, frozenset([term, *above.split()]), tuple(filter(None, names.split("|"))))
        for term, label, above, names in rows
    }


def term_of(name: str) -> str:
    """Return the id that a name means: an id, a term's name or synonym, or an everyday name.

    Case, signs, plurals and the word "cell" do not count. An empty string is returned for a name
    of no term, and for a synonym of several.
    """
    if name in terms():
        return name
    exact, word = _by_label().get(name.strip().lower(), ""), plain(name)
    return exact or (_by_name().get(word, "") if word else "")


def plain(name: str) -> str:
    """Return a name without case, signs, plurals and the word "cell"; a minus is "negative"."""
    name = re.sub(r"(?<=\w)-(?=\s|$)", " negative ", name.lower())
    words = re.sub(r"[^a-z0-9]+", " ", name.replace("\u03b3", "gamma")).split()
    words = [
        w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words
    ]
    return " ".join(w for w in words if w not in ("cell", "positive"))


@cache
def _by_label() -> dict[str, str]:
    """Map the terms' own names to their ids."""
    return {entry.label.lower(): term for term, entry in terms().items()}


@cache
def _by_name() -> dict[str, str]:
    """Map plain names to ids: everyday names, then names of terms, then synonyms of one term."""
    text = files("scbignn_infer.model").joinpath("cell_names.tsv").read_text("utf-8")
    everyday = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    found = {plain(name): term for name, term in everyday}
    for term, entry in terms().items():
        found.setdefault(plain(entry.label), term)
    several: dict[str, set[str]] = {}
    for term, entry in terms().items():
        for name in entry.synonyms:
            several.setdefault(plain(name), set()).add(term)
    for name, meant in several.items():
        if len(meant) == 1:
            found.setdefault(name, *meant)
    return found
