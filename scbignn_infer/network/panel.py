"""From sparse rows of counts to the dense input of the gene level.

What depends only on *which* genes a file has is worked out once per file (:class:`Panel`), from
reference statistics that the bundle carries (:func:`panel_tables`): a closed-form discriminant head
on the present genes and the imputation of absent ones. Nothing is fitted on the query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.network.blas import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.query.gene_match import GeneMatch

TARGET_SUM = 1e4
RESIDUAL_GENES = 128
"""Best-ranked present genes that are compared with a type's profile, one by one."""
STRENGTH_GENES = 256
"""Those that tell how much of its type's profile a cell shows."""
LIMIT = 10.0
"""Scaled expression is cut at +- this: in training, in the networks and in the residual."""
SCALED_STEPS = 12.0
"""Steps of one standard deviation in which scaled expression is kept, so that a byte holds all of
it, up to ``LIMIT``."""
RESIDUAL_NOISE = 0.3
"""Added to the spread of a gene within types, so that none decides by being still."""


@one_blas_thread()
def panel_tables(
    statistics: Mapping[str, Array], present: Array, *, net_genes: int, panel_genes: int
) -> tuple[Array, dict[str, Array]]:
    r"""Make the tables of ``gene_level.onnx`` that depend on which genes a file has.

    The *panel* is the first ``panel_genes`` present genes in rank order; on it

    - the discriminant head takes scaled expression of a type as Gaussian with the within-class
      covariance :math:`\Sigma = U U^\top + D` cut to the panel; by the Woodbury identity it needs
      :math:`A = \Sigma^{-1} \mu^\top`, :math:`\nu_c = \mu_c A_c` and :math:`\log n_c` alone;
    - absent genes of the network are imputed by their expectation under a factor model
      :math:`F F^\top + E` of the total covariance:
      :math:`\hat z = z E^{-1} F_S (I + F_S^\top E^{-1} F_S)^{-1} F_{miss}^\top`
      (the posterior mean h of factor analysis; Bishop 2006, eq. 12.42);
    - a cell's *misfit* is its squared Mahalanobis distance under that model a gene, about 1 for
      cells like the reference's: :math:`(z E^{-1} z^\top - h G h^\top) / k` with
      :math:`G = I + F_S^\top E^{-1} F_S`.

    Parameters
    ----------
    statistics
        Tables of ``statistics.npz``, genes in rank order.
    present
        (n_reference_genes,) which genes the file has.
    net_genes, panel_genes
        Genes of the network, and the most that the panel takes.

    Returns
    -------
    panel
        (k,) positions of the panel's genes among the reference genes.
    tables
        Inputs of ``gene_level.onnx`` by name, float32 (positions int64).
    """
    ranked = statistics["gene_mean"].shape[0]
    panel = np.flatnonzero(present[:ranked])[:panel_genes]
    factors = statistics["within_factors"][panel]
    diagonal = statistics["within_residual"][panel] + float(statistics["ridge"])
    class_mean = statistics["class_mean"][:, panel]
    weight = _inverse_times(factors, diagonal, class_mean.T)
    norm = np.einsum("ck,kc->c", class_mean, weight)

    absent = np.flatnonzero(~present[:net_genes])
    total = statistics["total_factors"]
    noise = statistics["total_residual"][panel, None]
    scaled = total[panel] / noise
    precision = np.eye(total.shape[1]) + total[panel].T @ scaled
    posterior = np.linalg.inv(precision)
    impute_out = np.zeros((total.shape[1], net_genes))
    impute_out[:, absent] = total[absent].T

    position = np.zeros(net_genes, np.int64)
    in_net = np.flatnonzero(panel < net_genes)
    position[panel[in_net]] = in_net
    tables = {
        "gene_mean": statistics["gene_mean"][panel],
        "gene_scale": statistics["gene_scale"][panel],
        "class_weight": weight,
        "class_norm": norm,
        "class_prior": np.log(statistics["cells_per_type"].astype(np.float64)),
        "impute_in": scaled @ posterior,
        "impute_out": impute_out,
        "net_present": present[:net_genes],
        "misfit_weight": 1 / (noise[:, 0] * len(panel)),
        "misfit_inner": precision / len(panel),
    }
    return panel, {k: np.ascontiguousarray(v, np.float32) for k, v in tables.items()} | {
        "net_position": position
    }


def _inverse_times(factors: Array, diagonal: Array, right: Array) -> Array:
    """Return (factors @ factors.T + diag(diagonal))^-1 @ right, by the Woodbury identity."""
    scaled = factors / diagonal[:, None]
    inner = np.eye(factors.shape[1]) + factors.T @ scaled
    solved: Array = right / diagonal[:, None] - scaled @ np.linalg.solve(inner, scaled.T @ right)
    return solved


@dataclass(frozen=True)
class Densifier:
    """Turns CSR rows of a file into dense counts of the panel's genes and library totals.

    The total of a cell is the sum over the genes that the file shares with the reference, divided
    by the share of the reference's counts that fall on them. So a file that lost genes gets the
    total that it would have had, and genes the reference does not know change nothing. Log-values
    that were cut to some genes *after* normalisation keep the total that they were scaled to.

    Attributes
    ----------
    panel_column
        (n_file_genes,) column of the panel for each gene of the file; the panel's size where it
        is not in the panel.
    shared
        (n_file_genes,) 1 where the reference knows the gene, else 0.
    share
        Share of the reference's counts that falls on the shared genes.
    panel_size
        Number of panel genes.
    state
        What the rows hold: ``counts`` (linear), ``log1p`` or ``log1p-cut``.
    log_base
        Natural logarithm of the base of the rows' logarithm.
    target_sum
        Total of each cell of a cut of log-values.
    foreign
        (n_file_genes,) 1 for genes of another species in a file of two, else 0; or ``None``.
        Cells that are mostly of these genes get no counts and the total 0.
    """

    panel_column: Array
    shared: Array
    share: float
    panel_size: int
    state: str
    log_base: float = 1.0
    target_sum: float = TARGET_SUM
    foreign: Array | None = None

    @classmethod
    def make(
        cls,
        reference_index: Array,
        share: Array,
        panel: Array,
        state: str,
        *,
        base: float = math.e,
        target_sum: float = TARGET_SUM,
        foreign: Array | None = None,
    ) -> Densifier:
        """Lay out the columns for one file.

        Parameters
        ----------
        reference_index
            (n_file_genes,) position of each gene of the file among the reference genes, or -1.
        share
            (n_reference_genes,) share of the reference's counts on each gene.
        panel
            (k,) positions of the panel's genes among the reference genes.
        state
            ``counts``, ``log1p`` or ``log1p-cut``.
        base, target_sum
            Of the logarithm, and the cells' total before they were cut.
        foreign
            (n_file_genes,) which genes are of another species, in a file of two.
        """
        column = np.full(len(share) + 1, len(panel), np.int32)  # as scipy's sparse matrices have
        column[panel] = np.arange(len(panel))
        known = reference_index >= 0
        return cls(
            panel_column=column[reference_index],  # -1 takes the last, which is no panel gene
            shared=known.astype(np.float64),
            share=max(float(share[np.unique(reference_index[known])].sum()), 1e-6),
            panel_size=len(panel),
            state=state,
            log_base=math.log(base),
            target_sum=target_sum,
            foreign=None if foreign is None else foreign.astype(np.float64),
        )

    def mostly_foreign(self, rows: sp.csr_matrix) -> Array:
        """Tell which cells have most of their counts on genes of another species (n,)."""
        if self.foreign is None:
            return np.zeros(rows.shape[0], dtype=bool)
        linear = self._linear(rows)
        found: Array = linear @ self.foreign > linear @ (1 - self.foreign)
        return found

    def _linear(self, rows: sp.csr_matrix) -> sp.csr_matrix:
        """Return rows as they were before a logarithm."""
        values = np.asarray(rows.data, np.float32)
        if self.state != "counts":
            values = np.expm1(values * np.float32(self.log_base))
        return sp.csr_matrix((values, rows.indices, rows.indptr), shape=rows.shape)

    def totals(self, rows: sp.csr_matrix) -> Array:
        """Return the totals (n,) alone."""
        self._check(rows)
        return self._totals(self._linear(rows))

    def __call__(self, rows: sp.csr_matrix) -> tuple[Array, Array]:
        """Return counts (n, k) and totals (n, 1) as float32; an empty cell has total 0.

        Raises
        ------
        InputError
            The rows hold NaN, infinite or negative values, or indices beyond their genes.
        """
        linear, totals = self.linear(rows)
        # toarray adds up repeated columns, so duplicated genes are summed; the last column
        # gathers what the panel does not hold.
        panel = sp.csr_matrix(
            (linear.data, self.panel_column.take(rows.indices), rows.indptr),
            shape=(rows.shape[0], self.panel_size + 1),
        ).toarray()
        if self.foreign is not None:
            panel[self.mostly_foreign(rows)] = 0
        return np.ascontiguousarray(panel[:, :-1]), totals[:, None]

    def linear(self, rows: sp.csr_matrix) -> tuple[sp.csr_matrix, Array]:
        """Return rows as they were before a logarithm, on all genes of the file, and totals (n,).

        An InputError is raised as in :meth:`__call__`.
        """
        self._check(rows)
        linear = self._linear(rows)
        return linear, self._totals(linear)

    def _totals(self, linear: sp.csr_matrix) -> Array:
        """Return the totals (n,) of rows of linear values."""
        sums = linear @ self.shared
        cut = self.state == "log1p-cut"
        totals = np.where(sums > 0, self.target_sum, 0.0) if cut else sums / self.share
        if self.foreign is not None:
            totals[linear @ self.foreign > linear @ (1 - self.foreign)] = 0
        return totals.astype(np.float32)

    def _check(self, rows: sp.csr_matrix) -> None:
        """Raise an InputError if rows hold what no cell has."""
        values, columns = np.asarray(rows.data, np.float32), rows.indices
        if len(columns) and not 0 <= columns.min() <= columns.max() < len(self.shared):
            wrong = columns.min() if columns.min() < 0 else columns.max()
            raise InputError(
                f"the matrix refers to gene {wrong} of {len(self.shared)}",
                expected="column indices within the gene table",
                do="the file is damaged; write it again from its source",
            )
        if len(values) and not 0 <= values.min() <= values.max() < np.inf:
            raise InputError(
                "the matrix holds NaN, infinite or negative values",
                expected="counts or log1p values, finite and not negative",
                do="choose another matrix with --matrix, or mend the file",
            )


def within_spread(statistics: Mapping[str, Array], genes: Array) -> Array:
    """Return the standard deviation of some genes within types, and a little noise.

    Parameters
    ----------
    statistics
        Tables of ``statistics.npz``, genes in rank order.
    genes
        (g,) positions.
    """
    factors, rest = statistics["within_factors"][genes], statistics["within_residual"][genes]
    spread: Array = np.sqrt((factors**2).sum(axis=1) + rest) + RESIDUAL_NOISE
    return spread


@dataclass(frozen=True)
class Panel:
    """The genes of one file in one model.

    Attributes
    ----------
    genes
        (k,) positions of the panel's genes among the reference genes, in rank order.
    symbols
        Their symbols.
    tables
        What :func:`panel_tables` says of them: inputs of the gene level.
    densify
        Turns rows of the file into counts (n, k) and totals (n, 1).
    statistics
        Tables of the model, of all its genes.
    n_scaled
        Number of its first genes, whose scaled expression is kept of each cell.
    """

    genes: Array
    symbols: list[str]
    tables: dict[str, Array]
    densify: Densifier
    statistics: Mapping[str, Array]
    n_scaled: int

    @classmethod
    def of(
        cls, bundle: ModelBundle, match: GeneMatch, statistics: Mapping[str, Array] | None = None
    ) -> Panel:
        """Work out the panel of a model for genes, and rows of counts; the tables may be others."""
        spec = bundle.spec
        statistics = bundle.statistics if statistics is None else statistics
        genes, tables = panel_tables(
            statistics,
            match.present,
            net_genes=spec.gene_level.net_genes,
            panel_genes=spec.preprocessing.panel_genes,
        )
        densify = Densifier.make(
            match.reference_index,
            statistics["gene_share"],
            genes,
            "counts",
            foreign=match.foreign,
        )
        symbols = [bundle.gene_symbols[i] for i in genes]
        kept = STRENGTH_GENES if spec.thresholds.weak else RESIDUAL_GENES
        return cls(genes, symbols, tables, densify, statistics, min(kept, len(genes)))

    def of_rows(self, state: str, base: float, target_sum: float = TARGET_SUM) -> Panel:
        """Return the panel for rows that hold something else; see :class:`Densifier`."""
        densify = replace(self.densify, state=state, log_base=math.log(base), target_sum=target_sum)
        return replace(self, densify=densify)

    @one_blas_thread()
    def misfit(self, rows: sp.csr_matrix) -> float:
        """Return the median misfit of some rows of the file; 1 if none has counts.

        See :func:`panel_tables`.
        """
        counts, totals = self.densify(rows)
        full = totals[:, 0] > 0
        if not full.any():
            return 1.0
        z = self.standardize(counts[full], totals[full])
        h = z @ self.tables["impute_in"]
        explained = ((h @ self.tables["misfit_inner"]) * h).sum(axis=1)
        return float(np.median((z * z) @ self.tables["misfit_weight"] - explained))

    @one_blas_thread()
    def discriminants(self, profiles: Array) -> tuple[Array, Array]:
        r"""Return what the discriminant head would need to know of other profiles than the types'.

        For profiles (m, g) of the first g genes in scaled expression these are
        :math:`\Sigma^{-1} \mu^\top` (g, m) and :math:`\mu \Sigma^{-1} \mu^\top` (m,); see
        :func:`panel_tables`.
        """
        tables, first = self.statistics, self.genes[: profiles.shape[1]]
        diagonal = tables["within_residual"][first] + float(tables["ridge"])
        weight = _inverse_times(tables["within_factors"][first], diagonal, profiles.T)
        return weight, np.einsum("mk,km->m", profiles, weight)

    def standardize(self, counts: Array, totals: Array) -> Array:
        """Return scaled expression (n, g) of the first g genes, for counts (n, g) of them."""
        first = slice(counts.shape[1])
        mean, scale = self.tables["gene_mean"][first], self.tables["gene_scale"][first]
        shown = np.log1p(counts * (TARGET_SUM / np.maximum(totals, 1.0)))
        scaled: Array = np.clip((shown - mean) / scale, -LIMIT, LIMIT)
        return scaled

    def scale(self, counts: Array, totals: Array) -> Array:
        """Return :meth:`standardize` of the first ``n_scaled`` genes, in :data:`SCALED_STEPS`."""
        scaled = self.standardize(counts[:, : self.n_scaled], totals)
        return np.rint(scaled * SCALED_STEPS).astype(np.int8)

    @cached_property
    def profile(self) -> tuple[Array, Array]:
        """What :meth:`scale` gives for each type, (c, n_scaled), and its spread (n_scaled,)."""
        first = self.genes[: self.n_scaled]
        mean, spread = (
            self.statistics["class_mean"][:, first],
            within_spread(self.statistics, first),
        )
        return mean * SCALED_STEPS, spread * SCALED_STEPS

    @cached_property
    def evidence(self) -> tuple[Array, Array]:
        """What :meth:`discriminants` says of the types by the genes that :meth:`scale` takes."""
        mean = self.statistics["class_mean"][:, self.genes[: self.n_scaled]]
        weight, norm = self.discriminants(mean)
        return weight / SCALED_STEPS, norm
