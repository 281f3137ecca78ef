"""What of a query is read: which matrix, in which state, by which gene names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import GeneError, InputError
from scbignn_infer.network.panel import TARGET_SUM, Panel
from scbignn_infer.network.shallow import LEAST_COUNTS, SHALLOW, at_counts
from scbignn_infer.query.gene_fit import GeneFits
from scbignn_infer.query.gene_match import genes_only, match_genes, refuse_unfit
from scbignn_infer.query.joined import FEWEST_CELLS, SAMPLE, shown_genes, silent_genes
from scbignn_infer.query.layer_names import is_split, sum_of_layers, summands
from scbignn_infer.query.matrices import (
    FEW_GENES,
    MANY_GENES,
    choose_matrix,
    judge,
    passed_over,
    sample_rows,
)
from scbignn_infer.query.readers.query import refuse_counts_in_obsm
from scbignn_infer.settings import AS_FOUND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.query.gene_fit import GeneFit
    from scbignn_infer.query.gene_match import GeneMatch, ModelGenes
    from scbignn_infer.query.matrices import Verdict
    from scbignn_infer.query.readers import Query
    from scbignn_infer.settings import Reading

GENES_AS_CELLS = 0.2
"""Share of the cells that bear names of genes, above which they are genes."""
ENOUGH_OF_DEEP = 0.3
"""Cells with less than this share of the genes of a deep cell are not asked what they lack."""
USUAL_WITHIN = 3.0
"""A cut of log-values whose estimated total is 10,000 within this factor was scaled to 10,000."""
MOSTLY_EMPTY = 0.5
"""Share of barcodes with hardly any gene above which the typical one is no cell."""
MISFIT_CELLS = 512
"""Cells of a file that say how well it fits a model."""


@dataclass(frozen=True)
class Choice:
    """What of a query is going to be read by a model: a matrix, and its genes in the model."""

    matrix: str
    verdicts: dict[str, Verdict]
    fit: GeneFit = field(repr=False)
    """Its genes in the model."""
    target_sum: float = TARGET_SUM
    """Total that each cell had before it was cut, if the matrix is a cut of log-values."""
    passed_over: dict[str, str] = field(default_factory=dict)
    """Matrices that can be read and were not taken, and why."""
    misfit: float | None = None
    """Of the typical cell, where the model's certainty depends on it."""
    few_counts: float | None = None
    """Of the typical cell, where they are so few that the model is set to them."""

    @property
    def verdict(self) -> Verdict:
        """What the chosen matrix holds."""
        return self.verdicts[self.matrix]

    @property
    def bundle(self) -> ModelBundle:
        """The model."""
        return self.fit.bundle

    @property
    def genes(self) -> GeneMatch:
        """The join of its genes with the model's."""
        return self.fit.match

    @cached_property
    def panel(self) -> Panel:
        """Its genes in the model, for rows of what it holds."""
        panel = self.fit.panel
        if self.few_counts is not None:
            tables = at_counts(self.bundle.statistics, self.few_counts)
            panel = Panel.of(self.bundle, self.genes, tables)
        return panel.of_rows(self.verdict.state, self.verdict.base, self.target_sum)

    def for_graph(self, graph: str) -> Choice:
        """Return it as it is, or, with the reference's graph, without what follows the cells."""
        return replace(self, few_counts=None) if graph == "reference" else self

    @property
    def doubt(self) -> str:
        """Why the chosen matrix should not be trusted, or nothing."""
        if self.verdict.binary:
            return "all values are 0 or 1"
        if is_split(self.matrix):
            return "it holds a part of the counts"
        return self.passed_over.get(self.matrix, "") or self.verdict.caution


def judge_matrices(query: Query) -> dict[str, Verdict]:
    """Return a verdict on each matrix of the query, from rows sampled across all of it.

    Features that are no genes are left out. Layers into which counts were split are judged as
    their sum, too, which is named like ``layers/spliced+unspliced+ambiguous``.
    """
    if query.n_cells == 0:
        raise InputError(
            f"{query.name} holds zero cells", expected="at least one cell", do="check the data"
        )
    sample, names = sample_rows(query.n_cells), query.matrices()
    stored_as = getattr(query, "stored_as", str)
    whole = sum_of_layers(names)
    parts = summands(whole, names) if whole is not None else []
    verdicts: dict[str, Verdict] = {}
    judged: dict[Any, Verdict] = {}
    total = None
    for name in names:
        stored = stored_as(name)  # names may be links to one object, which is judged once
        if stored not in judged or name in parts:
            rows = gene_rows(query, name, sample)
            if name in parts:
                total = rows if total is None else total + rows
            judged.setdefault(stored, _judge(rows))
        verdicts[name] = judged[stored]
    if whole is not None and total is not None:
        verdicts[whole] = _judge(total)
    return verdicts


def _judge(rows: sp.csr_matrix) -> Verdict:
    """Return the verdict on sampled rows, with what is asked of them later."""
    verdict, shown = judge(rows), shown_genes(rows, sample_rows(rows.shape[0], SAMPLE))
    few = verdict.entries <= SHALLOW * rows.shape[0]  # each value is a count at least
    is_shallow = verdict.state == "counts" and verdict.whole and few
    return replace(verdict, shown=shown, sample=rows if is_shallow else None)


def gene_rows(query: Query, matrix: str, rows: Array) -> sp.csr_matrix:
    """Return some rows of a matrix, without the features that are no genes."""
    mask, _ = genes_only(query.gene_columns(matrix))
    values = query.rows(matrix, rows)
    return values if mask is None else values[:, np.flatnonzero(mask)]


def choose(
    query: Query,
    bundle: ModelBundle,
    reading: Reading = AS_FOUND,
    *,
    verdicts: Mapping[str, Verdict] | None = None,
    fits: GeneFits | None = None,
    measure_misfit: bool = True,
) -> Choice:
    """Decide which matrix and which gene names to use for a model.

    ``verdicts`` are what :func:`judge_matrices` returns, and ``fits`` of the model, where there are
    some already. An InputError says that no matrix is usable, that too few genes are the
    model's, or that they are of another species.
    """
    verdicts = dict(judge_matrices(query) if verdicts is None else verdicts)
    fits = fits or GeneFits(bundle)
    matrix, fit, rivals = join(query, fits, reading, verdicts)
    refuse(query, matrix, fit, fits.genes, reading)
    choice = Choice(matrix, verdicts, fit, passed_over=rivals)
    if choice.verdict.state == "log1p-cut":
        choice = replace(choice, target_sum=_target_sum(query, choice))
    choice = replace(choice, few_counts=_few_counts(query, choice))
    return with_misfit(query, choice) if measure_misfit else choice


def with_misfit(query: Query, choice: Choice) -> Choice:
    """Return a choice with its misfit, where the model's certainty depends on it."""
    if choice.bundle.spec.certainty is None:
        return choice
    return replace(choice, misfit=typical_misfit(query, choice.matrix, choice.panel))


def _few_counts(query: Query, choice: Choice) -> float | None:
    """Return the counts of the typical cell, if these are few; genes that are lost count, too.

    Barcodes with hardly any gene are no cells. If most are such, the file is not of cells alone,
    and what is typical says nothing of these.
    """
    rows = choice.verdict.sample
    if rows is None or choice.verdict.few > MOSTLY_EMPTY:
        return None
    mask, _ = genes_only(query.gene_columns(choice.matrix))
    if mask is not None:  # back among the features that are no genes
        wide = (rows.data, np.flatnonzero(mask)[rows.indices], rows.indptr)
        rows = sp.csr_matrix(wide, shape=(rows.shape[0], len(mask)))
    totals = choice.fit.panel.densify.totals(rows)
    is_cell = np.diff(rows.indptr) >= (FEW_GENES if rows.shape[1] >= MANY_GENES else 1)
    totals = totals[is_cell & (totals > 0)]
    typical = float(np.median(totals)) if len(totals) else np.inf
    return typical if LEAST_COUNTS <= typical < SHALLOW else None


def typical_misfit(query: Query, matrix: str, panel: Panel) -> float:
    """Return the median misfit of cells sampled across a query."""
    return panel.misfit(query.rows(matrix, sample_rows(query.n_cells, MISFIT_CELLS)))


def refuse(query: Query, matrix: str, fit: GeneFit, genes: ModelGenes, reading: Reading) -> None:
    """Raise if the genes of a matrix do not fit a model, and say where a matrix is transposed."""
    if reading.min_gene_coverage in fit.accepted:
        return
    match = fit.match
    try:
        refuse_unfit(
            match,
            query.gene_columns(matrix),
            genes,
            min_coverage=reading.min_gene_coverage,
            allow_species_mismatch=reading.allow_species_mismatch,
        )
    except GeneError:
        names = query.cell_names()
        n = match_genes({"cells": names}, genes).n_shared
        if n > max(match.n_shared, GENES_AS_CELLS * len(names)):
            raise GeneError(
                f"the matrix is genes x cells: {n:,} cells bear the names of genes "
                f"({', '.join(names[:3])})",
                expected="cells x genes, cells in obs and genes in var",
                do="turn it round (adata.T) and write it again",
            ) from None
        raise
    fit.accepted.add(reading.min_gene_coverage)


def find_silent_genes(
    query: Query, choice: Choice, batches: Sequence[Array]
) -> tuple[float, float]:
    """Return which share of common genes part of the cells never show, and how large that is."""
    if choice.verdict.shown is None or len(choice.verdict.shown) < FEWEST_CELLS:
        return 0.0, 0.0
    index, foreign = choice.genes.reference_index, choice.genes.foreign
    mask, _ = genes_only(query.gene_columns(choice.matrix))
    if mask is not None:
        index, foreign = index[mask], None if foreign is None else foreign[mask]
    rows = np.unpackbits(choice.verdict.shown, axis=1, count=len(index)).astype(bool)
    of_model = rows[:, index >= 0]
    n = of_model.sum(axis=1)
    kept = n >= ENOUGH_OF_DEEP * np.quantile(n, 0.9)  # shallow cells lack genes by chance
    if foreign is not None:
        kept &= n >= rows[:, foreign].sum(axis=1)
    sample = sample_rows(query.n_cells)
    sample = sample[sample_rows(len(sample), SAMPLE)]
    among = [np.flatnonzero(np.isin(sample[kept], cells)) for cells in batches]
    return silent_genes(of_model[kept], among)


def join(
    query: Query, fits: GeneFits, reading: Reading, verdicts: Mapping[str, Verdict]
) -> tuple[str, GeneFit, dict[str, str]]:
    """Return the best matrix, how its genes fit a model, and why others were passed over.

    Whether the genes are enough is not asked. An InputError says that no matrix is usable.
    """
    if not any(verdict.usable for verdict in verdicts.values()):
        refuse_counts_in_obsm(query)
    found: dict[str, GeneFit] = {}
    for name in verdicts:
        if name != "raw" and found.keys() - {"raw"}:
            found[name] = next(fit for n, fit in found.items() if n != "raw")  # of the same table
        else:
            found[name] = fits.of(query.gene_columns(name), reading)
    n_genes = {name: fit.match.n_shared for name, fit in found.items()}
    matrix = choose_matrix(verdicts, reading.matrix, n_genes)
    return matrix, found[matrix], passed_over(verdicts, n_genes)


def batches_of(query: Query, key: str | None) -> list[Array]:
    """Return the cells of each value of a column of ``obs``, none without a column."""
    if key is None:
        return []
    _, codes = np.unique(np.array(query.obs_column(key), dtype=object), return_inverse=True)
    return [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]


def _target_sum(query: Query, choice: Choice) -> float:
    """Estimate to which total log-values were scaled before most genes were cut away.

    The shared genes' part of it is known, and which part they are of the reference's counts.
    Where that is near 10,000, it is taken to be that; other bases than e have no usual total.
    """
    rows = query.rows(choice.matrix, sample_rows(query.n_cells))
    totals = choice.fit.panel.of_rows("log1p", choice.verdict.base).densify.totals(rows)
    totals = totals[totals > 0]
    guess = float(np.median(totals)) if len(totals) else TARGET_SUM
    near = 1 / USUAL_WITHIN < guess / TARGET_SUM < USUAL_WITHIN
    usual = near and choice.verdict.base == math.e
    return TARGET_SUM if usual else guess
