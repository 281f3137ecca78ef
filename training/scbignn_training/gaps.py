"""Genes that the study of a cell did not measure: absent there, which is not the same as zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = np.ndarray[Any, Any]
ROUNDS = 30
"""Of the shares of genes and the totals of studies, which need each other; 10 usually suffice."""


@dataclass(frozen=True)
class Gaps:
    """Which genes were measured for each cell.

    Attributes
    ----------
    batches
        (n,) study of each cell.
    measured
        (b, m) which genes each study measured.
    """

    batches: Array
    measured: Array

    def subset(self, rows: Array) -> Gaps:
        """Return those of some cells."""
        return replace(self, batches=self.batches[rows])

    def of(self, rows: slice | Array) -> Array:
        """Return (n, m) which genes were measured for some cells."""
        found: Array = self.measured[self.batches[rows]]
        return found

    @property
    def cells_per_gene(self) -> Array:
        """(m,) cells for which each gene was measured."""
        found: Array = np.bincount(self.batches, minlength=len(self.measured)) @ self.measured
        return found

    def cells_per_type(self, codes: Array, n_classes: int) -> Array:
        """Return the (c, m) cells of each type for which each gene was measured."""
        return self.weight_per_type(codes, np.ones(len(codes)), n_classes)

    def weight_per_type(self, codes: Array, weights: Array, n_classes: int) -> Array:
        """Return the (c, m) weight of each type's cells for which each gene was measured."""
        total = np.zeros((n_classes, len(self.measured)))
        np.add.at(total, (codes, self.batches), weights)
        found: Array = total @ self.measured
        return found

    def patterns(self) -> Iterator[tuple[Array, Array]]:
        """Yield the rows of cells of studies with the same genes, and (m,) which these are."""
        kinds, kind = np.unique(self.measured, axis=0, return_inverse=True)
        of_cell = kind.ravel()[self.batches]
        for i, measured in enumerate(kinds):
            rows = np.flatnonzero(of_cell == i)
            if len(rows):
                yield rows, measured


def gene_shares(sums: Array, measured: Array) -> Array:
    """Return the (g,) share of all counts on each gene, as if all studies had measured all of them.

    A study's total is what it counted over the share of the genes that it measured; a gene's share
    is what was counted of it over the totals of the studies that measured it.

    Parameters
    ----------
    sums
        (b, g) counts of each study on each gene.
    measured
        (b, g) which genes it measured.
    """
    share = sums.sum(axis=0) / sums.sum()
    for _ in range(ROUNDS):
        totals = sums.sum(axis=1) / np.maximum(measured @ share, 1e-6)
        share = sums.sum(axis=0) / np.maximum(totals @ measured, 1e-300)
        share = share / share.sum()
    found: Array = share
    return found
