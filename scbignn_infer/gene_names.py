"""The genes of a species by any of their names, from the tables in ``gene_tables``."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SPECIES = ("human", "mouse")
"""Species whose genes are known."""
VERSION = re.compile(r"^(ENS[A-Z]*G\d{11})(?:\.\d+|_PAR_Y)+$")
"""An Ensembl gene id with a version."""
ENOUGH = 50
"""Names that must be known before a species is told from them."""
SHAPES = {
    "human": re.compile(r"ENSG\d{11}$|C\d+orf\d+$|LINC\d{5}$|HLA-[A-Z]"),
    "mouse": re.compile(r"ENSMUSG\d{11}$|[A-Z][a-z][a-z\d]+$|[A-Z\d]+\d{2}Rik$|H2-[A-Z][a-z]"),
}
"""Names that only one species has, as it writes them."""
SURE = 10
"""So many of them, and none of the other's, tell the species without a table."""
CLEARLY = 1.05
"""So many times more names must be known in one species than in the other."""


def without_version(name: str) -> str:
    """Return an Ensembl id without its version, and any other name as it is."""
    found = VERSION.match(name)
    return found[1] if found else name


class GeneNames:
    """The genes of a species.

    A symbol that two genes bear names neither; nor does a previous symbol or a synonym that is
    another gene's symbol, or two genes' (the tables leave these out).

    Attributes
    ----------
    gene
        Ensembl id of each name: ids, symbols, previous symbols and synonyms.
    symbols
        The symbols alone.
    """

    def __init__(self, table: str) -> None:
        ids, symbols, others = zip(*(line.split("\t") for line in table.splitlines()), strict=True)
        self.gene: dict[str, str] = dict(zip(ids, ids, strict=True))
        self.gene.update(zip(symbols, ids, strict=True))
        self.symbols = set(symbols)
        for gene, names in zip(ids, others, strict=True):
            if names:
                self.gene.update(dict.fromkeys(names.split("|"), gene))
        for symbol, n in Counter(symbols).items():
            if n > 1:
                del self.gene[symbol]

    @staticmethod
    @cache
    def of(species: str) -> GeneNames:
        """Return the genes of one of :data:`SPECIES`; their table is read once."""
        table = files("scbignn_infer").joinpath("gene_tables", f"{species}.tsv.gz")
        return GeneNames(gzip.decompress(table.read_bytes()).decode())


def all_names() -> set[str]:
    """Return every known name of a gene, in all species."""
    return {name for s in SPECIES for name in (*GeneNames.of(s).gene, *GeneNames.of(s).symbols)}


def species_of(names: Iterable[str]) -> tuple[str, bool] | None:
    """Tell the species by gene names, and whether they are in upper case though it writes others.

    Ensembl ids tell by their prefix. Symbols of human are in upper case and those of mouse are not;
    symbols of mouse in upper case are told by those that human has not, such as GM10076 or H2-AA.

    Parameters
    ----------
    names
        Symbols or Ensembl ids.

    Returns
    -------
    tuple of str and bool or None
        ``None`` where too few names are known, or as many in either species.
    """
    names = {without_version(str(name)) for name in names}
    shapes = {s: sum(bool(shape.match(name)) for name in names) for s, shape in SHAPES.items()}
    sure = [species for species, n in shapes.items() if n >= SURE]
    if len(sure) == 1 and sum(shapes.values()) == shapes[sure[0]]:
        return sure[0], False
    human, mouse = (GeneNames.of(species) for species in SPECIES)
    found = {
        ("human", False): sum(name in human.gene or name in human.symbols for name in names),
        ("mouse", False): sum(name in mouse.gene or name in mouse.symbols for name in names),
    }
    if found[("human", False)] > found[("mouse", False)]:
        upper = _upper("mouse")
        found[("mouse", True)] = sum(name in upper for name in names)
    first, second = sorted(found, key=lambda kind: -found[kind])[:2]
    if found[first] < ENOUGH or found[first] < CLEARLY * found[second]:
        return None
    return first


@cache
def _upper(species: str) -> frozenset[str]:
    return frozenset(symbol.upper() for symbol in GeneNames.of(species).symbols)
