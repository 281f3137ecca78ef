"""Which of the file's genes are the model's, and whether there are enough of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scbignn_infer.errors import GeneError

Array = np.ndarray[Any, Any]
LOW_COVERAGE = 0.4


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
        Share of the attention network's genes that the file has.
    n_duplicates
        Columns of the file that repeat a gene; their counts are summed.
    """

    column: str
    reference_index: Array
    present: Array
    coverage: float
    n_duplicates: int

    @property
    def n_shared(self) -> int:
        """Number of reference genes that the file has."""
        return int(self.present.sum())


def match_genes(
    candidates: Mapping[str, Sequence[str]],
    symbols: Sequence[str],
    ensembl_ids: Sequence[str],
    *,
    net_genes: int,
    min_genes: int,
    column: str | None = None,
) -> GeneMatch:
    """Join the genes of a file with those of a model.

    Parameters
    ----------
    candidates
        Columns of the file's gene table that may hold names, the index first.
    symbols, ensembl_ids
        Names of the reference genes in rank order; ids may be empty strings.
    net_genes
        The first so many reference genes feed the attention network; coverage counts these.
    min_genes
        With fewer of them in the file, its cells cannot be labelled.
    column
        Use this column and no other.

    Returns
    -------
    GeneMatch
        For the column that covers most of the network's genes; the earlier one on a tie.

    Raises
    ------
    GeneError
        There is no such column, or the file shares fewer than ``min_genes`` genes.
    """
    if column is not None:
        if column not in candidates:
            raise GeneError(
                f"no gene column '{column}'",
                expected=f"one of {', '.join(candidates)}",
                do="choose with --gene-column",
            )
        candidates = {column: candidates[column]}
    lookups = [{g: i for i, g in enumerate(names) if g} for names in (symbols, ensembl_ids)]
    best: GeneMatch | None = None
    for name, values in candidates.items():
        for lookup in lookups:
            index = np.fromiter((lookup.get(v, -1) for v in values), np.int64, len(values))
            hit = index[index >= 0]
            present = np.zeros(len(symbols), dtype=bool)
            present[hit] = True
            coverage = float(present[:net_genes].mean())
            if best is None or (coverage, present.sum()) > (best.coverage, best.n_shared):
                best = GeneMatch(name, index, present, coverage, len(hit) - int(present.sum()))
    if best is None or best.present[:net_genes].sum() < min_genes:
        n = 0 if best is None else int(best.present[:net_genes].sum())
        shown = "; ".join(f"{k}: {', '.join(v[:3])}" for k, v in candidates.items())
        raise GeneError(
            f"the data share {n} of the {net_genes} genes that the model reads "
            f"(the data have {shown})",
            expected=f"at least {min_genes}, named like {', '.join(symbols[:3])}",
            do="check species and gene names; choose the column with --gene-column",
        )
    return best
