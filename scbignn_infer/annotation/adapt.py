r"""EM on the query: the means of a model, estimated once more with cells that it is sure of.

One step in closed form, without gradients. **E-step**: gene and cell level label the query, and
trusted cells are chosen (:meth:`Adaptation.trust`). **M-step**: with :math:`n_c` trusted cells of
type :math:`c` that have the mean :math:`m_c` of scaled expression where the reference's have
:math:`\mu_c`, the differences :math:`d_c = m_c - \mu_c` are taken as

.. math::
    d_c = s + \delta_c + \epsilon_c, \quad
    \operatorname{cov}(\delta) = K = (1 - \rho) I + \rho R, \quad
    \operatorname{var}(\epsilon_c) = \kappa / n_c

for each gene: :math:`s` is common to all types, what a laboratory does to a gene. :math:`\delta` is
what it does to one type and, by the correlation :math:`R` of the types' means (cut at 0), to those
like it. The estimates are those of kriging with an unknown mean (Rasmussen and Williams 2006,
"Gaussian Processes for Machine Learning", section 2.7), over the types :math:`t` that were trusted:

.. math::
    V = K_{tt} + \kappa \operatorname{diag}(1 / n_t), \quad
    s = \frac{1^\top V^{-1} d_t}{1^\top V^{-1} 1}, \quad
    \delta = K_{\cdot t} V^{-1} (d_t - s)

So a type with few trusted cells follows its relatives, and one without relatives the common shift.
The gene level then runs again, since these means are inputs of its graph; embedding, novelty and
residual follow. A type of few cells has no say in the shift, and would lose its cells to types that
have: cells that were called one of few keep what was said of them; others may join them.

What decides whether a cell is unknown, its support, may gain what that of a trusted cell typically
does, which is what the laboratory cost it. More is taken back (:meth:`Adaptation.excess`): cells of
a type that the model lacks gain most, as they pull the mean of what they are called to themselves.

E- and M-step are those of the EM of scBiGNN, where the gene level learns from the cell level's
labels of unlabelled cells; what is estimated here is the part in closed form. See docs/method.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
from msgspec.structs import replace

from scbignn_infer.annotation.provenance import Adapted
from scbignn_infer.annotation.scores import calibrate
from scbignn_infer.errors import InputError
from scbignn_infer.network.blas import one_blas_thread
from scbignn_infer.network.levels import READ_CELLS
from scbignn_infer.network.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.rules import Rules
    from scbignn_infer.annotation.scores import CellScores
    from scbignn_infer.network.levels import GenePass
    from scbignn_infer.network.neighbors import Graph
    from scbignn_infer.network.panel import Panel
    from scbignn_infer.settings import GraphKind

OF_TISSUES = "it is a model of many tissues, whose types are chosen first"
"""Why a body model stays as it is."""


@dataclass(frozen=True)
class Round:
    """What both levels say of n cells.

    Attributes
    ----------
    genes, scores
        The gene level's, and what follows from the cell level's; its labels are the model's types.
    rules
        By which labels were given.
    builders, graphs
        What found the neighbours; which cells and their graphs, if they are kept.
    """

    genes: GenePass
    scores: CellScores
    rules: Rules
    builders: set[str] = field(default_factory=set)
    graphs: list[tuple[Any, Graph]] = field(default_factory=list)

    @property
    def agreement(self) -> float:
        """Share of the cells with counts to which both levels give the same type."""
        own = self.scores.probabilities.argmax(axis=1) == self.genes.logits.argmax(axis=1)
        return float(own[~self.genes.empty].mean()) if not self.genes.empty.all() else 1.0

    @property
    def consent(self) -> float:
        """Share of the neighbours of a cell that have its label, the mean of cells with any."""
        own = self.scores.agreement[~self.genes.empty]
        own = own[~np.isnan(own)]
        return float(own.mean()) if len(own) else 1.0

    def take(self, other: Round, cells: Array) -> None:
        """Say of some cells (n,) what another round said of them; all but where they lie."""
        self.genes.logits[cells] = other.genes.logits[cells]
        self.scores.take(other.scores, cells)


@dataclass(frozen=True)
class Adaptation:
    """How the means of a model follow a query.

    Attributes
    ----------
    steps
        How many are made, each by the labels of the one before.
    teacher
        Which labels are learned: those of the pair of levels, or the gene level's own.
    confident
        A cell is trusted from this confidence on, or from the median of its type if that is lower.
    agree
        Of its neighbours, weighted, so many must have its label.
    strange
        A cell is not trusted if its residual is so many times that of a typical type: the median
        over types of their cells' medians.
    many
        Types that fewer cells are called do not say what is typical.
    min_cells
        Types with fewer trusted cells do not count.
    few
        Cells stay with a type to which fewer are called.
    enough, sure
        Queries with fewer trusted cells, or a smaller share of them, are left alone: they are
        small, or of another tissue.
    types
        So are those with fewer types of them, and with less than half of the model's: what a
        laboratory does to all genes cannot be told from what it does to two or three types.
    share
        If less of the cells are trusted, they are a choice that says little of the rest of their
        type: all types have the common shift, and none a difference of its own.
    varies
        Whether what varies within types follows, too.
    prior
        Cells that count as much as the reference: kappa.
    relatives
        How much of what is done to a type is done to its relatives: rho.
    tolerated
        The step is undone if the share of cells that both levels agree on falls by more.
    apart
        And if the share of neighbours of one label does.
    kept, taught
        And if the model that was taught so calls less of the trusted cells of a type that type, of
        those with so many.
    """

    steps: int = 2
    teacher: Literal["pair", "gene"] = "pair"
    confident: float = 0.8
    agree: float = 0.8
    strange: float = 1.5
    many: int = 20
    min_cells: int = 5
    few: int = 50
    enough: int = 300
    sure: float = 0.4
    types: int = 4
    share: float = 0.6
    varies: bool = True
    prior: float = 100.0
    relatives: float = 0.9
    tolerated: float = 0.01
    apart: float = 0.025
    kept: float = 0.9
    taught: int = 10

    def trust(self, found: Round, temperature: float) -> Array:
        """Return the type (n,) of each trusted cell, -1 for the others."""
        said, p = found.scores, found.scores.probabilities
        near = ~(said.agreement < self.agree)
        if self.teacher == "gene":
            p, near = calibrate(found.genes.logits, temperature), np.ones(len(p), dtype=bool)
        codes, sure = p.argmax(axis=1), p.max(axis=1)
        usable = ~found.genes.empty
        bar, typical = np.full(p.shape[1], self.confident), []
        for c in np.unique(codes[usable]):
            own = usable & (codes == c)
            bar[c] = min(self.confident, float(np.median(sure[own])))
            if own.sum() >= self.many:
                typical.append(float(np.median(said.residual[own])))
        most = self.strange * float(np.median(typical)) if typical else np.inf
        kept = usable & near & (sure >= bar[codes]) & (said.residual <= most)
        return np.where(kept, codes, -1)

    def small(self, found: Round) -> Array:
        """Return the types (c,) that are called, but to few cells."""
        codes = found.scores.probabilities.argmax(axis=1)[~found.genes.empty]
        n = np.bincount(codes, minlength=found.scores.probabilities.shape[1])
        return (n > 0) & (n < self.few)

    def stay(self, found: Round) -> Array:
        """Return the cells (n,) that keep what was said of them."""
        codes = found.scores.probabilities.argmax(axis=1)
        stay: Array = self.small(found)[codes] & ~found.genes.empty
        return stay

    def excess(self, before: Round, after: Round, codes: Array) -> Array:
        """Return the support (n,) that cells gain beyond a typical trusted one (code >= 0)."""
        gain = after.scores.support - before.scores.support
        usual = max(float(np.median(gain[codes >= 0])), 0.0)
        return np.maximum(gain - usual, 0).astype(np.float32)

    @one_blas_thread()
    def m_step(
        self, panel: Panel, sums: Array, n: Array, *, own: bool = True
    ) -> tuple[dict[str, Array], Array]:
        """Estimate the means again.

        Parameters
        ----------
        panel
            The genes, with the reference's statistics.
        sums, n
            (c, k) scaled expression summed over the trusted cells of each type, and (c,) their
            number.
        own
            Whether types have differences of their own.

        Returns
        -------
        statistics, shift
            All tables of the model, and (k,) what the types share.
        """
        tables = panel.statistics
        class_mean, gene_mean = (tables[x].astype(np.float64) for x in ("class_mean", "gene_mean"))
        reference, seen = class_mean[:, panel.genes], np.flatnonzero(n >= self.min_cells)
        covariance = self._covariance(reference)
        inner = covariance[np.ix_(seen, seen)] + np.diag(self.prior / n[seen])
        weight = np.linalg.inv(inner)
        difference = sums[seen] / n[seen, None] - reference[seen]
        shift = weight.sum(axis=0) @ difference / weight.sum()
        if own:
            delta = covariance[:, seen] @ weight @ (difference - shift)
            class_mean[:, panel.genes] = reference + delta
        gene_mean[panel.genes] += shift * tables["gene_scale"][panel.genes]
        return {**tables, "class_mean": class_mean, "gene_mean": gene_mean}, shift

    def _covariance(self, mean: Array) -> Array:
        """Return the covariance (c, c) of what a laboratory does to types with these means."""
        centred = mean - mean.mean(axis=0)
        unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
        values, vectors = np.linalg.eigh(np.maximum(unit @ unit.T, 0))
        alike: Array = (vectors * np.maximum(values, 0)) @ vectors.T  # a covariance is >= 0
        return self.relatives * alike + (1 - self.relatives) * np.eye(len(mean))

    def record(self, found: Round, codes: Array, cell_types: list[str]) -> Adapted:
        """Return what is said of a step on trusted cells, which is refused where they are few."""
        n = np.bincount(codes[codes >= 0], minlength=len(cell_types))
        seen = np.flatnonzero(n >= self.min_cells)
        cells, least = int(n[seen].sum()), max(2, min(self.types, (len(n) + 1) // 2))
        usable = int((~found.genes.empty).sum())
        why = (
            f"the model is sure of {cells:,} of {usable:,} cells, of {len(seen)} types; it needs "
            f"{self.enough} cells, {self.sure:.0%} of all, of {least} types"
        )
        unsure = cells < max(self.enough, self.sure * usable) or len(seen) < least
        return Adapted(
            refused=why if unsure else "",
            cells=cells,
            types=[cell_types[c] for c in seen],
            cells_of_types=[int(n[c]) for c in seen],
            small=[cell_types[c] for c in np.flatnonzero(self.small(found))],
            own=cells >= self.share * usable,
            agreement=round(found.agreement, 4),
        )

    def judged(
        self, adapted: Adapted, shift: Array, codes: Array, before: Round, after: Round
    ) -> Adapted:
        """Return what is said of a step that was made, which is undone if it made things worse.

        That is so if cells agree less, or if cells with a code >= 0, which taught it, are no more
        called what they were.
        """
        size, now = round(float(np.sqrt((shift**2).mean())), 4), round(after.agreement, 4)
        refused = ""
        if now < adapted.agreement - self.tolerated:
            refused = f"the levels agree on fewer cells after it ({adapted.agreement} -> {now})"
        elif after.consent < before.consent - self.apart:
            said = f"{before.consent:.4f} -> {after.consent:.4f}"
            refused = f"fewer neighbours have one label after it ({said})"
        elif (share := self._kept(codes, after)) < self.kept:
            refused = f"of the cells that taught it a type, only {share:.0%} are still called that"
        return replace(adapted, refused=refused, shift=size, agreement_after=now)

    def _kept(self, codes: Array, after: Round) -> float:
        """Return which share of its trusted cells the type keeps that keeps the least."""
        same = after.scores.probabilities.argmax(axis=1) == codes
        types, n = np.unique(codes[codes >= 0], return_counts=True)
        return min((float(same[codes == c].mean()) for c in types[n >= self.taught]), default=1.0)

    def after(self, adapted: Adapted, first: Adapted, steps: int) -> Adapted:
        """Return what is said of all steps, by what is of the last and the first."""
        if adapted.refused:
            return adapted
        return replace(adapted, steps=steps, small=first.small, agreement=first.agreement)


def type_sums(
    blocks: Callable[[int], Iterable[sp.csr_matrix]],
    panel: Panel,
    codes: Array,
    *,
    n_types: int,
    workers: int,
) -> Array:
    """Return scaled expression of the panel (c, k), summed over the cells of each type.

    Parameters
    ----------
    blocks
        Yields the rows of the query, so many at a time.
    panel
        The genes.
    codes
        (n,) types of the cells, -1 for those that are left out.
    n_types, workers
        Number of types, and of blocks side by side.
    """
    total = np.zeros((n_types, len(panel.genes)))
    add = partial(_block_sums, panel, n_types)
    for part in in_order(add, _with_codes(blocks(READ_CELLS), codes), workers=workers):
        total += part
    return total


def refuse_fixed(graph: GraphKind) -> None:
    """Refuse to adapt where labels do not depend on other cells."""
    if graph == "reference":
        raise InputError(
            "an adaptation to the query's cells, with the graph of the reference",
            expected="labels that may depend on the other cells of the query",
            do="leave out --adapt (adapt), or take graph 'query' and no --split",
        )


def _with_codes(
    blocks: Iterable[sp.csr_matrix], codes: Array
) -> Iterator[tuple[sp.csr_matrix, Array]]:
    start = 0
    for block in blocks:
        yield block, codes[start : start + block.shape[0]]
        start += block.shape[0]


def _block_sums(panel: Panel, n_types: int, item: tuple[sp.csr_matrix, Array]) -> Any:
    """Sum the rows of a block by their types."""
    block, codes = item
    rows = np.flatnonzero(codes >= 0)
    scaled = panel.standardize(*panel.densify(block[rows])).astype(np.float64)
    one = np.ones(len(rows))
    member = sp.csr_matrix((one, (codes[rows], np.arange(len(rows)))), (n_types, len(rows)))
    return member @ scaled
