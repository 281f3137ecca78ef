"""Which of the file's genes are the model's, whether there are enough, and of which species."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.errors import GeneError
from scbignn_infer.query.gene_names import (
    COPY,
    NO_NAME,
    SPECIES,
    SURE,
    GeneNames,
    count_marks,
    genome_of,
    plain_names,
    shapes_of,
    species_of,
    without_version,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer._types import Array

MIN_COVERAGE = 0.05
"""Below it one cell in four gets a wrong label, or more, as docs/benchmarks.md shows."""
LOW_COVERAGE = 0.4
"""Below it types begin to be lost, which is said."""
FEATURE_TYPES = ("feature_types", "feature_type", "modality")
"""Columns that tell genes from proteins, peaks and guides."""
GENE_TYPES = {"gene expression", "gene", "rna", "gex"}
"""What they call genes, in lower case."""
OTHER_SPECIES = 500
"""So many genes that only another species has are of a mixture of two."""
MIN_OF_A_SPECIES = 50
"""So many genes with the genome of each of two species are of a mixture."""
UNLIKE = 0.2
"""Below this coverage, symbols in another case are looked for."""


@dataclass(frozen=True)
class ModelGenes:
    """The genes of a model, in rank order."""

    symbols: Sequence[str]
    ensembl_ids: Sequence[str]
    """Empty strings where there is none."""
    species: str
    """``human``, ``mouse`` or another, of which no other names are known."""
    weight: Array
    """(net_genes,) what each of the network's genes, which come first, counts in coverage."""
    min_genes: int = 1
    """With fewer of these, cells cannot be labelled."""

    @cached_property
    def lookup(self) -> Lookup:
        """What finds the genes by their names."""
        return Lookup(self)

    @cached_property
    def lookup_in_any_case(self) -> Lookup:
        """What finds symbols whatever their case, too."""
        return Lookup(self, any_case=True)


@dataclass(frozen=True)
class GeneMatch:
    """The join of the file's genes with the reference's."""

    column: str
    """The column of the file's gene table whose names matched."""
    reference_index: Array
    """(n_file_genes,) position of each gene among the reference genes, -1 if none."""
    present: Array
    """(n_reference_genes,) which reference genes the file has."""
    coverage: float
    """Share of the network's genes in the file, weighted by how well they tell types apart."""
    n_duplicates: int
    """Columns of the file that repeat a gene; their counts are summed."""
    n_renamed: int = 0
    """Genes found by another name than the model's: an Ensembl id, previous symbol or synonym."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Features that are no genes, by their type, and genes of another species."""
    foreign: Array | None = None
    """(n_file_genes,) which genes are of another species, if the file holds two; else ``None``."""
    foreign_species: str = ""

    @property
    def n_shared(self) -> int:
        """Number of reference genes that the file has."""
        return int(self.present.sum())


def genes_only(columns: Mapping[str, Sequence[str]]) -> tuple[Array | None, dict[str, int]]:
    """Return which features a column of types calls genes, ``None`` if all, and how many others."""
    name = next((n for n in FEATURE_TYPES if n in columns), None)
    if name is None:
        return None, {}
    types = np.array(columns[name], dtype=object)
    mask = np.array([t.lower() in GENE_TYPES for t in types], dtype=bool)
    if mask.all() or not mask.any():  # a column of the same name that means something else
        return None, {}
    kinds, n = np.unique(types[~mask].astype(str), return_counts=True)
    return mask, dict(zip(kinds.tolist(), n.tolist(), strict=True))


def match_genes(
    candidates: Mapping[str, Sequence[str]],
    genes: ModelGenes,
    *,
    column: str | None = None,
    any_case: bool = False,
) -> GeneMatch:
    """Join the genes of a file with those of a model, by the column that covers most of them.

    A name is the model's symbol or Ensembl id, the id with a version, or any other name that stands
    for one gene alone. Features that are no genes match nothing. Of columns that cover as much, the
    earlier one is taken: ``candidates`` has the index first. ``column`` leaves no choice, and
    without such a column a :class:`~scbignn_infer.errors.GeneError` is raised.
    """
    if column is not None and column not in candidates:
        raise GeneError(
            f"no gene column '{column}'",
            expected=f"one of {', '.join(candidates)}",
            do="choose with --gene-column",
        )
    mask, left_out = genes_only(candidates)
    foreign, other = foreign_genes(candidates, genes)
    if foreign is not None:
        mask = ~foreign if mask is None else mask & ~foreign
        left_out = left_out | {f"genes of {other}": int(foreign.sum())}
    chosen = {column: candidates[column]} if column is not None else dict(candidates)
    best = _best_column(chosen, genes, genes.lookup_in_any_case if any_case else genes.lookup, mask)
    if not any_case and best.coverage < UNLIKE:
        cased = {name: v for name, v in chosen.items() if _in_another_case(v, genes.species)}
        if cased:
            best = _best_column(cased, genes, genes.lookup_in_any_case, mask)
    return replace(best, left_out=left_out, foreign=foreign, foreign_species=other)


def _best_column(
    columns: Mapping[str, Sequence[str]], genes: ModelGenes, lookup: Lookup, mask: Array | None
) -> GeneMatch:
    """Return the join by the column that covers most; the earlier one on a tie."""
    n = len(genes.symbols)
    best = GeneMatch("", np.full(0, -1), np.zeros(n, dtype=bool), 0.0, 0)
    for name, values in columns.items():
        index, n_renamed = lookup(values)
        if mask is not None:
            index = np.where(mask, index, -1)
        hit = index[index >= 0]
        present = np.zeros(n, dtype=bool)
        present[hit] = True
        coverage = float(genes.weight @ present[: len(genes.weight)] / genes.weight.sum())
        if not best.column or (coverage, present.sum()) > (best.coverage, best.n_shared):
            n_duplicates = len(hit) - int(present.sum())
            best = GeneMatch(name, index, present, coverage, n_duplicates, n_renamed)
    return best


def _in_another_case(values: Sequence[str], species: str) -> bool:
    """Tell whether symbols are a species', in lower case, or in upper case though it has none."""
    names = [plain_names(str(v))[0] for v in values]
    cases = (str.islower,) if species == "human" else (str.islower, str.isupper)
    if species not in SPECIES or not any(sum(map(case, names)) > len(names) / 2 for case in cases):
        return False
    told = species_of(name.upper() for name in names)
    return told is not None and told[0] == species


def foreign_genes(
    candidates: Mapping[str, Sequence[str]], genes: ModelGenes
) -> tuple[Array | None, str]:
    """Return which genes are of another species than the model, in a file of two, and of which.

    Species are told by the genome in a gene's name or in a column of genomes, by Ensembl ids, or
    by symbols that only one species has. In other files these are ``None`` and nothing.
    """
    of_model = genes.species
    if of_model not in SPECIES:
        return None, ""
    other = next(s for s in SPECIES if s != of_model)
    for values in candidates.values():
        if count_marks(values, other) >= MIN_OF_A_SPECIES:
            marks = np.array([genome_of(v) for v in values])
            if (marks == of_model).sum() >= MIN_OF_A_SPECIES:
                return marks == other, other
    for values in candidates.values():
        if min(shapes_of(values).values()) < SURE:
            continue
        names, other_names = (GeneNames.of(s) for s in (of_model, other))
        ours = np.array([v in names for v in values])
        foreign = np.array([v in other_names for v in values])
        if min((ours & ~foreign).sum(), (foreign & ~ours).sum()) >= OTHER_SPECIES:
            return foreign & ~ours, other
    return None, ""


def refuse_unfit(
    match: GeneMatch,
    candidates: Mapping[str, Sequence[str]],
    genes: ModelGenes,
    *,
    min_coverage: float | None = None,
    allow_species_mismatch: bool = False,
) -> None:
    """Raise a GeneError if the genes of a file are of another species or too few of the model's.

    By default :data:`MIN_COVERAGE` is enough, and as many genes as the model asks for.
    """
    least = MIN_COVERAGE if min_coverage is None else min_coverage
    enough = max(genes.min_genes, 1) if min_coverage is None else 1
    read = len(genes.weight)
    n = int(match.present[:read].sum())
    fits = n >= enough and match.coverage >= least
    if not fits:
        _refuse_no_names(candidates, genes)
    if match.column and not allow_species_mismatch:
        values = candidates[match.column]
        if match.foreign is not None:
            values = [v for v, foreign in zip(values, match.foreign, strict=True) if not foreign]
        _refuse_other_species(values, genes)
    if fits:
        return
    shown = "; ".join(f"{k}: {', '.join(map(str, v[:3]))}" for k, v in candidates.items())
    if 2 * match.n_shared > len(match.reference_index):
        raise GeneError(
            f"the data have {len(match.reference_index):,} genes, and {n} of the {read} that the "
            f"model reads, a coverage of {match.coverage:.0%}",
            expected=f"at least {enough} genes and a coverage of {least:.0%}",
            do="give a file with more genes; --min-gene-coverage 0 labels it all the same, and "
            "labels are less reliable then",
        )
    raise GeneError(
        f"the data share {n} of the {read} genes that the model reads, a coverage of "
        f"{match.coverage:.0%} (the data have {shown})",
        expected=f"at least {enough} genes and a coverage of {least:.0%}, "
        f"named like {', '.join(genes.symbols[:3])}",
        do="check species and gene names; choose the column with --gene-column, or lower "
        "--min-gene-coverage",
    )


def _refuse_other_species(values: Sequence[str], genes: ModelGenes) -> None:
    names = (name for v in values for name in plain_names(str(v)))
    told = species_of(names) if genes.species in SPECIES else None
    if told is not None and told[0] != genes.species:
        raise other_species(values, told[0], genes.species, upper=told[1])


def other_species(
    values: Sequence[str], species: str, of_model: str, *, upper: bool = False
) -> GeneError:
    """Return the error of genes of another species than the model, maybe in upper case."""
    shown = ", ".join(str(v) for v in values[:3])
    return GeneError(
        f"the genes are of {species}{', in upper case' if upper else ''} ({shown}) "
        f"and the model is of {of_model}",
        expected=f"genes of {of_model}",
        do=f"choose a model of {species}, or pass --allow-species-mismatch "
        "(allow_species_mismatch=True) to match symbols in any case",
    )


def _refuse_no_names(candidates: Mapping[str, Sequence[str]], genes: ModelGenes) -> None:
    """Raise if genes bear numbers in place of names, and say whether they are Entrez ids."""
    names = [str(v) for v in next(iter(candidates.values()), ())]
    if not names or sum(bool(NO_NAME.match(v)) for v in names) < 0.9 * len(names):
        return
    shown = ", ".join(names[:3])
    numbers = [int(v) for v in names if v.isdecimal()]
    if len(numbers) == len(names) and max(numbers) > 2 * len(numbers):
        raise GeneError(
            f"the genes are numbers ({shown}), probably Entrez ids (NCBI Gene)",
            expected=f"symbols or Ensembl ids, named like {', '.join(genes.symbols[:3])}",
            do="turn the ids into symbols (with mygene or org.Hs.eg.db), write these into a "
            "column of var and name it with --gene-column",
        )
    raise GeneError(
        f"the genes have no names: they are called {shown}",
        expected=f"symbols or Ensembl ids, named like {', '.join(genes.symbols[:3])}",
        do="take the names, in the same order, from the source of the data and write them into "
        "var_names",
    )


class Lookup:
    """Finds the model's genes by any of their names; the case of symbols may not matter."""

    def __init__(self, genes: ModelGenes, *, any_case: bool = False) -> None:
        self._case = str.upper if any_case else str
        self._names = GeneNames.of(genes.species) if genes.species in SPECIES else None
        self._symbols = genes.symbols
        symbols = list(map(self._case, genes.symbols)) if any_case else genes.symbols
        places = range(len(symbols) - 1, -1, -1)  # of one name twice, the first gene has it
        self._by_symbol = dict(zip(reversed(symbols), places, strict=True))
        self._by_symbol.pop("", None)
        self._by_id = {name: i for i, name in enumerate(genes.ensembl_ids) if name}

    def __call__(self, values: Sequence[str]) -> tuple[Array, int]:
        """Return the position of each name in the model, -1 if none, and how many are others."""
        names = [without_version(v) for v in values]
        index = np.array([self._by_symbol.get(self._case(n), -1) for n in names], np.int64)
        missing = np.flatnonzero(index < 0).tolist()
        parts = {j: plain_names(names[j]) for j in missing}
        for j, bare in parts.items():
            if bare[0] != names[j]:
                places = (self._by_symbol.get(self._case(name), -1) for name in bare)
                index[j] = max(places)
        taken = set(index.tolist())
        for j, bare in parts.items():
            if index[j] < 0:  # the model's own name goes before another
                places = (self._find_other(name) for name in bare)
                index[j] = next((i for i in places if i >= 0 and i not in taken), -1)
        n_renamed = int((index[missing] >= 0).sum())
        self._add_copies(names, parts, index)
        return index, n_renamed

    def _find_other(self, name: str) -> int:
        """Return the position of the gene with another name than the model's, -1 if none."""
        i = self._by_id.get(name, -1)
        gene = None if i >= 0 or self._names is None else self._names.gene.get(name)
        if gene is None:
            return i
        i = self._by_id.get(gene, -1)
        return self._by_gene.get(gene, -1) if i < 0 else i

    @cached_property
    def _by_gene(self) -> dict[str, int]:
        """The position of each gene of the model by the id that its symbol stands for.

        Two symbols of the model that are one gene's names are told apart by neither.
        """
        if self._names is None:
            return {}
        genes = list(map(self._names.gene.get, self._symbols))
        n = Counter(genes)
        return {gene: i for i, gene in enumerate(genes) if gene and n[gene] == 1}

    def _add_copies(
        self, names: Sequence[str], parts: Mapping[int, list[str]], index: Array
    ) -> None:
        """Find genes that bear a copy's number, as CD3D.1, where that is sure.

        The name without the number is in the file, too, and the name with it is no gene.
        """
        if self._names is None:
            return
        copies = {
            j: match[1]
            for j, bare in parts.items()
            if index[j] < 0 and (match := COPY.match(bare[0])) and bare[0] not in self._names
        }
        if not copies:
            return
        place = {name: j for j, name in enumerate(names) if index[j] >= 0}
        place |= {bare[0]: j for j, bare in parts.items() if index[j] >= 0}
        for j, name in copies.items():
            if name in place:
                index[j] = index[place[name]]
