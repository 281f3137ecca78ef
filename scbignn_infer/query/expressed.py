"""How groups of cells express the genes of a file: sums over one pass through it.

All genes of the file are summed, whether a model knows them or not; what is held are three numbers
a group and gene, however many cells there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scbignn_infer.network.levels import READ_CELLS
from scbignn_infer.network.panel import TARGET_SUM
from scbignn_infer.query.gene_match import genes_only
from scbignn_infer.query.gene_names import SPECIES, GeneNames, without_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice

NOISE = 0.3
"""Added to the spread of a gene, so that none stands out by being still."""


@dataclass(frozen=True)
class FileGenes:
    """The genes of a file: symbols, and the place of each column among them.

    A column that is none of them has the place after the last.
    """

    symbols: list[str]
    place: Array

    @classmethod
    def of(cls, query: Query, choice: Choice) -> FileGenes:
        """Return all genes, those of the model first; names that stand there twice are one gene."""
        columns, match = query.gene_columns(choice.matrix), choice.genes
        is_gene, _ = genes_only(columns)
        names = _symbols(columns[match.column], choice.bundle.spec.species)
        known = match.reference_index
        names = [
            choice.bundle.gene_symbols[k] if k >= 0 else n
            for n, k in zip(names, known, strict=True)
        ]
        kept = np.ones(len(names), dtype=bool) if is_gene is None else is_gene.copy()
        if match.foreign is not None:
            kept &= ~match.foreign
        order = np.lexsort((np.where(known >= 0, known, 0), known < 0))
        ordered = dict.fromkeys(names[i] for i in order if kept[i])
        places = {name: i for i, name in enumerate(ordered)}
        place = [places[name] if k else len(places) for name, k in zip(names, kept, strict=True)]
        return cls(list(places), np.array(place, np.int32))

    @cached_property
    def repeats(self) -> bool:
        """Whether several columns are one gene."""
        used = self.place[self.place < len(self.symbols)]
        return len(used) > len(self.symbols)


def _symbols(names: Sequence[str], species: str) -> Sequence[str]:
    """Return names of genes with the symbols of Ensembl ids among them."""
    if species not in SPECIES or not any(name.startswith("ENS") for name in names):
        return names
    symbol = GeneNames.of(species).symbol
    return [symbol.get(without_version(name)) or name for name in names]


@dataclass(frozen=True)
class Shown:
    """How groups of cells express genes; cells without counts are left out.

    Attributes
    ----------
    symbols
        The genes.
    cells
        (n_groups,) number of cells.
    sums
        (3, n_groups, n_genes) of the cells' log1p(CP10k), of its squares, and of cells with the
        gene.
    """

    symbols: list[str]
    cells: Array
    sums: Array

    @classmethod
    def of(
        cls, query: Query, choice: Choice, genes: FileGenes, codes: Array, n_groups: int
    ) -> Shown:
        """Read a query once; ``codes`` (n_cells,) are the groups of its cells."""
        width, densify = len(genes.symbols) + 1, choice.panel.densify
        sums, cells, start = np.zeros((3, n_groups, width)), np.zeros(n_groups), 0
        for block in query.blocks(choice.matrix, READ_CELLS):
            linear, totals = densify.linear(block)
            found = np.flatnonzero(totals > 0)
            group = codes[start : start + len(totals)][found]
            start += len(totals)
            cells += np.bincount(group, minlength=n_groups)
            ones = np.ones(len(found))
            member = sp.csr_matrix((ones, (group, found)), shape=(n_groups, len(totals)))
            shown = sp.csr_matrix(
                (linear.data, genes.place[linear.indices], linear.indptr),
                shape=(len(totals), width),
            )
            if genes.repeats or not linear.has_canonical_format:
                shown.sum_duplicates()
            scale = TARGET_SUM / np.maximum(totals, 1)
            values = np.log1p(shown.data * np.repeat(scale, np.diff(shown.indptr)))
            for i, of in enumerate((values, values * values, values > 0)):
                shown.data = of.astype(np.float64)
                part = (member @ shown).tocoo()
                sums[i, part.row, part.col] += part.data
        return cls(genes.symbols, cells, sums[:, :, :-1])

    @cached_property
    def _total(self) -> Array:
        total: Array = self.sums.sum(axis=1)
        return total

    @cached_property
    def place(self) -> dict[str, int]:
        """The place of each symbol."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def is_all(self, group: int) -> bool:
        """Tell whether there are no other cells than those of a group."""
        return bool(self.cells[group] == self.cells.sum())

    def of_genes(self, symbols: Sequence[str], n_groups: int) -> tuple[Array, Array]:
        """Return means and shares (n_groups, n_symbols) of some genes in the first groups."""
        columns, rows = [self.place[symbol] for symbol in symbols], slice(n_groups)
        cells = np.maximum(self.cells[rows], 1)[:, None]
        mean, _, share = (of[rows, columns] / cells for of in self.sums)
        return mean, share

    def of_group(self, group: int) -> tuple[Array, Array, Array]:
        """Return mean, variance and share (n_genes,) of a group."""
        return _moments(self.sums[:, group], self.cells[group])

    def of_rest(self, group: int) -> tuple[Array, Array, Array]:
        """Return the same of all others."""
        rest = np.maximum(self._total - self.sums[:, group], 0)  # not a little less, by rounding
        return _moments(rest, self.cells.sum() - self.cells[group])

    def against_rest(self, group: int) -> tuple[Array, Array]:
        """Return the differences (n_genes,) of a group from all others, and their shares."""
        mean, variance, _ = self.of_group(group)
        others, their_variance, share = self.of_rest(group)
        spread = np.sqrt((variance + their_variance) / 2) + NOISE
        return (mean - others) / spread, share


def _moments(sums: Array, cells: float) -> tuple[Array, Array, Array]:
    """Return mean, variance and share (n_genes,) by sums (3, n_genes) over some cells."""
    mean, squares, share = sums / max(cells, 1)
    return mean, np.maximum(squares - mean**2, 0), share
