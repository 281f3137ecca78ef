"""Which of the file's genes are the model's, whether there are enough, and of which species."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.errors import GeneError
from scbignn_infer.gene_names import SPECIES, GeneNames, species_of, without_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = np.ndarray[Any, Any]
MIN_COVERAGE = 0.05
"""Below it one cell in four gets a wrong label, or more, as docs/benchmarks.md shows."""
LOW_COVERAGE = 0.4
"""Below it types begin to be lost, which is said."""
FEATURE_TYPES = ("feature_types", "feature_type", "modality")
"""Columns that tell genes from proteins, peaks and guides."""
GENE_TYPES = {"gene expression", "gene", "rna", "gex"}
"""What they call genes, in lower case."""


@dataclass(frozen=True)
class ModelGenes:
    """The genes of a model, in rank order.

    Attributes
    ----------
    symbols, ensembl_ids
        Their names; ids may be empty strings.
    species
        ``human``, ``mouse`` or another, of which no other names are known.
    weight
        (net_genes,) what each of the network's genes, which come first, counts in coverage.
    min_genes
        With fewer of these, cells cannot be labelled.
    """

    symbols: Sequence[str]
    ensembl_ids: Sequence[str]
    species: str
    weight: Array
    min_genes: int = 1

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
    """The join of the file's genes with the reference's.

    Attributes
    ----------
    column
        The column of the file's gene table whose names matched.
    reference_index
        (n_file_genes,) position of each gene of the file among the reference genes, -1 if none.
    present
        (n_reference_genes,) which reference genes the file has.
    coverage
        Share of the attention network's genes that the file has, weighted by how well they tell
        the types apart.
    n_duplicates
        Columns of the file that repeat a gene; their counts are summed.
    n_renamed
        Genes that were found by another name than the model's: an Ensembl id, a previous symbol
        or a synonym.
    left_out
        Features that are no genes, by their type.
    """

    column: str
    reference_index: Array
    present: Array
    coverage: float
    n_duplicates: int
    n_renamed: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def n_shared(self) -> int:
        """Number of reference genes that the file has."""
        return int(self.present.sum())


def genes_only(columns: Mapping[str, Sequence[str]]) -> tuple[Array | None, dict[str, int]]:
    """Tell genes from other features, such as proteins, where a column says so.

    Returns
    -------
    mask, left_out
        (n_file_genes,) which are genes, ``None`` where all are; and how many of each other type.
    """
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
    """Join the genes of a file with those of a model.

    A name is the model's symbol or Ensembl id, the id with a version, or any other name that stands
    for one gene alone. Features that are no genes match nothing.

    Parameters
    ----------
    candidates
        Columns of the file's gene table that may hold names, the index first.
    genes
        Those of the model.
    column
        Use this column and no other.
    any_case
        Match symbols whatever their case.

    Returns
    -------
    GeneMatch
        For the column that covers most of the network's genes; the earlier one on a tie.

    Raises
    ------
    GeneError
        There is no such column.
    """
    if column is not None and column not in candidates:
        raise GeneError(
            f"no gene column '{column}'",
            expected=f"one of {', '.join(candidates)}",
            do="choose with --gene-column",
        )
    mask, left_out = genes_only(candidates)
    chosen = {column: candidates[column]} if column is not None else dict(candidates)
    lookup = genes.lookup_in_any_case if any_case else genes.lookup
    n = len(genes.symbols)
    best = GeneMatch("", np.full(0, -1), np.zeros(n, dtype=bool), 0.0, 0, 0, left_out)
    for name, values in chosen.items():
        index, n_renamed = lookup(values)
        if mask is not None:
            index = np.where(mask, index, -1)
        hit = index[index >= 0]
        present = np.zeros(n, dtype=bool)
        present[hit] = True
        coverage = float(genes.weight @ present[: len(genes.weight)] / genes.weight.sum())
        if not best.column or (coverage, present.sum()) > (best.coverage, best.n_shared):
            n_duplicates = len(hit) - int(present.sum())
            best = GeneMatch(name, index, present, coverage, n_duplicates, n_renamed, left_out)
    return best


def refuse_unfit(
    match: GeneMatch,
    candidates: Mapping[str, Sequence[str]],
    genes: ModelGenes,
    *,
    min_coverage: float | None = None,
    allow_species_mismatch: bool = False,
) -> None:
    """Raise if the genes of a file are of another species or too few of the model's.

    Parameters
    ----------
    match, candidates, genes
        The join, and what was joined.
    min_coverage
        The least that is enough; by default :data:`MIN_COVERAGE`, and as many genes as the model
        asks for.
    allow_species_mismatch
        Do not look at the species.

    Raises
    ------
    GeneError
        The genes are of another species, or coverage is too low.
    """
    if match.column and not allow_species_mismatch:
        _refuse_other_species(candidates[match.column], genes)
    least = MIN_COVERAGE if min_coverage is None else min_coverage
    enough = max(genes.min_genes, 1) if min_coverage is None else 1
    read = len(genes.weight)
    n = int(match.present[:read].sum())
    if n >= enough and match.coverage >= least:
        return
    shown = "; ".join(f"{k}: {', '.join(map(str, v[:3]))}" for k, v in candidates.items())
    raise GeneError(
        f"the data share {n} of the {read} genes that the model reads, a coverage of "
        f"{match.coverage:.0%} (the data have {shown})",
        expected=f"at least {enough} genes and a coverage of {least:.0%}, "
        f"named like {', '.join(genes.symbols[:3])}",
        do="check species and gene names; choose the column with --gene-column, or lower "
        "--min-gene-coverage",
    )


def _refuse_other_species(values: Sequence[str], genes: ModelGenes) -> None:
    found = species_of(values) if genes.species in SPECIES else None
    if found is None or found[0] == genes.species:
        return
    species, upper = found
    shown = ", ".join(str(v) for v in values[:3])
    raise GeneError(
        f"the genes are of {species}{', in upper case' if upper else ''} ({shown}) "
        f"and the model is of {genes.species}",
        expected=f"genes of {genes.species}",
        do=f"choose a model of {species}, or pass --allow-species-mismatch "
        "(allow_species_mismatch=True) to match symbols in any case",
    )


class Lookup:
    """Finds the model's genes by any of their names.

    Parameters
    ----------
    genes
        Those of the model.
    any_case
        Whether the case of symbols does not matter.
    """

    def __init__(self, genes: ModelGenes, *, any_case: bool = False) -> None:
        self._case = str.upper if any_case else str
        self._names = GeneNames.of(genes.species) if genes.species in SPECIES else None
        named = [(i, n) for i, n in enumerate(genes.symbols) if n]
        self._by_symbol = {self._case(name): i for i, name in reversed(named)}
        self._by_id = {name: i for i, name in enumerate(genes.ensembl_ids) if name}
        if self._names is not None:
            # Two symbols of the model that are one gene's names are told apart by neither.
            by_gene: dict[str, list[int]] = {}
            for i, name in named:
                if gene := self._names.gene.get(name):
                    by_gene.setdefault(gene, []).append(i)
            self._by_id = {g: i[0] for g, i in by_gene.items() if len(i) == 1} | self._by_id

    def __call__(self, values: Sequence[str]) -> tuple[Array, int]:
        """Return the position of each name in the model, -1 if none, and how many are others."""
        names = [without_version(v) for v in values]
        index = np.array([self._by_symbol.get(self._case(n), -1) for n in names], np.int64)
        taken = set(index.tolist())
        n_renamed = 0
        for j in np.flatnonzero(index < 0):
            i = self._by_id.get(names[j], -1)
            if i < 0 and self._names is not None:
                i = self._by_id.get(self._names.gene.get(names[j], ""), -1)
            if i >= 0 and i not in taken:  # the model's own name goes before another
                index[j] = i
                n_renamed += 1
        return index, n_renamed
