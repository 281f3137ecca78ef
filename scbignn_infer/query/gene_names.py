"""The genes of a species by any of their names, from the tables in ``gene_tables``."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from functools import cache, cached_property
from importlib.resources import files
from itertools import chain, compress, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SPECIES = ("human", "mouse")
"""Species whose genes are known."""
VERSION = re.compile(r"^(ENS[A-Z]*G\d{11})(?:\.\d+|_PAR_Y)+$")
"""An Ensembl gene id with a version."""
GENOME = re.compile(
    r"^(?:(?P<human>GRCh3[78]|hg(?:19|38)|human|homo_sapiens)"
    r"|(?P<mouse>GRCm3[89]|mm(?:9|10|39)|mouse|mus_musculus))"
    r"(?:-\d{4}-[A-Z])?(?:[_.-]+(?=.)|$)",
    re.IGNORECASE,
)
"""A genome at the beginning of a gene's name, or as the whole of one in a column of genomes."""
MARKS = {
    "human": re.compile(r"^(?:GRCh3|hg[13]|human|homo)|ENSG\d", re.IGNORECASE | re.MULTILINE),
    "mouse": re.compile(r"^(?:GRCm3|mm[139]|mouse|mus_)|ENSMUSG\d", re.IGNORECASE | re.MULTILINE),
}
"""What a genome's name or an Ensembl id of a species holds, to be looked for in many at once."""
COMPOUND = re.compile(
    r"^(?:(?P<before>.+?)[_:|;-])?(?P<id>ENS(?:MUS)?G\d{11})(?:\.\d+)?(?:[_:|;-](?P<after>.+))?$"
)
"""A symbol and an Ensembl id in one name."""
NUMBERED = re.compile(r"^(.+)\|\d+$")
"""A symbol and an Entrez id in one name."""
COPY = re.compile(r"^(.+)[._-]\d{1,2}$")
"""What programs make of a name that is there already: CD3D.1, CD3D-1, CD3D_1."""
NO_NAME = re.compile(r"^(?:gene|feature|var|variable|column|col|x|v|g)?[ _.-]?\d+$", re.IGNORECASE)
"""A number in place of a name."""
ENOUGH = 50
"""Names that must be known before a species is told from them."""
SHAPES = {
    "human": re.compile(r"^(?:ENSG\d{11}$|C\d+orf\d+$|LINC\d{5}$|HLA-[A-Z])", re.MULTILINE),
    "mouse": re.compile(
        r"^(?:ENSMUSG\d{11}$|[A-Z][a-z][a-z\d]+$|[A-Z\d]+\d{2}Rik$|H2-[A-Z][a-z])", re.MULTILINE
    ),
}
"""Names that only one species has, as it writes them."""
SURE = 10
"""So many of them, and none of the other's, tell the species without a table."""
CLEARLY = 1.05
"""So many times more names must be known in one species than in the other."""


def without_version(name: str) -> str:
    """Return an Ensembl id without its version, and any other name as it is."""
    match = VERSION.match(name)
    return match[1] if match else name


def plain_names(name: str) -> list[str]:
    """Return the names that stand in one with a genome before it, or of a symbol and an id."""
    bare = GENOME.sub("", name, count=1) or name
    if match := COMPOUND.match(bare):
        return [n for n in (match["before"], match["after"], match["id"]) if n]
    if match := NUMBERED.match(bare):
        return [match[1]]
    return [without_version(bare)]


def genome_of(name: str) -> str:
    """Return the species of a name's genome or Ensembl id, or nothing."""
    if match := GENOME.match(name):
        return str(match.lastgroup)
    if "ENS" not in name:
        return ""
    return "mouse" if "ENSMUSG" in name else "human" if "ENSG" in name else ""


def count_marks(names: Iterable[str], species: str) -> int:
    """Count the names that may bear a species' genome or Ensembl id."""
    return len(MARKS[species].findall("\n".join(names)))


class GeneNames:
    """The symbols of a species, and the Ensembl id of each id, symbol, previous symbol and synonym.

    A symbol that two genes bear names neither; nor does a previous symbol or a synonym that is
    another gene's symbol, or two genes' (the tables leave these out).
    """

    def __init__(self, table: str) -> None:
        fields = table.rstrip("\n").replace("\n", "\t").split("\t")  # tens of thousands of lines
        ids, symbols, others = fields[::3], fields[1::3], fields[2::3]
        self._table = ids, symbols
        self.gene: dict[str, str] = dict(zip(ids, ids, strict=True))
        self.gene.update(zip(symbols, ids, strict=True))
        self.symbols = set(symbols)
        named, others = list(compress(ids, others)), list(filter(None, others))
        genes = map(repeat, named, [names.count("|") + 1 for names in others])
        self.gene.update(zip("|".join(others).split("|"), chain.from_iterable(genes), strict=True))
        for symbol, n in Counter(symbols).items():
            if n > 1:
                del self.gene[symbol]

    def __contains__(self, name: str) -> bool:
        """Tell whether this is a name of a gene, or of several."""
        return name in self.gene or name in self.symbols

    @cached_property
    def symbol(self) -> dict[str, str]:
        """The symbol of each Ensembl id."""
        return dict(zip(*self._table, strict=True))

    @staticmethod
    @cache
    def of(species: str) -> GeneNames:
        """Return the genes of one of :data:`SPECIES`; their table is read once."""
        table = files("scbignn_infer").joinpath("gene_tables", f"{species}.tsv.gz")
        return GeneNames(gzip.decompress(table.read_bytes()).decode())


def all_names() -> set[str]:
    """Return every known name of a gene, in all species."""
    return {name for s in SPECIES for name in (*GeneNames.of(s).gene, *GeneNames.of(s).symbols)}


def shapes_of(names: Iterable[str]) -> dict[str, int]:
    """Count the names that only one species has, for each."""
    text = "\n".join(names)
    return {species: len(shape.findall(text)) for species, shape in SHAPES.items()}


def surely_of(columns: Iterable[Iterable[str]]) -> str | None:
    """Tell the one species of which some names surely are, and none is of another's shape.

    ``columns`` are all by which genes may be matched; no table of genes is read.
    """
    found = [shapes_of(name for name in names if not NO_NAME.match(name)) for names in columns]
    seen = {species for shapes in found for species, n in shapes.items() if n}
    sure = {species for shapes in found for species, n in shapes.items() if n >= SURE}
    return sure.pop() if len(seen) == len(sure) == 1 else None


def species_of(names: Iterable[str]) -> tuple[str, bool] | None:
    """Tell the species by gene names, and whether they are in upper case though it writes others.

    Ensembl ids tell by their prefix. Symbols of human are in upper case and those of mouse are not;
    symbols of mouse in upper case are told by those that human has not, such as GM10076 or H2-AA.
    Where too few names are known, or as many in either species, this is ``None``.
    """
    names = {without_version(str(name)) for name in names}
    shapes = shapes_of(names)
    sure = [species for species, n in shapes.items() if n >= SURE]
    if len(sure) == 1 and sum(shapes.values()) == shapes[sure[0]]:
        return sure[0], False
    human, mouse = (GeneNames.of(species) for species in SPECIES)
    n_known = {
        ("human", False): sum(name in human for name in names),
        ("mouse", False): sum(name in mouse for name in names),
    }
    if n_known[("human", False)] >= n_known[("mouse", False)]:
        upper = _upper("mouse")
        n_known[("mouse", True)] = sum(name in upper for name in names)
    first, second = sorted(n_known, key=lambda kind: -n_known[kind])[:2]
    if n_known[first] < ENOUGH or n_known[first] < CLEARLY * n_known[second]:
        return None
    return first


@cache
def _upper(species: str) -> frozenset[str]:
    return frozenset(symbol.upper() for symbol in GeneNames.of(species).symbols)
