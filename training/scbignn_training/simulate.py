r"""Cells from profiles: what a study would have shown of a type of which only the mean is known.

A data set is simulated in a few *virtual laboratories*. A laboratory l multiplies gene g by
:math:`f_{lg} = e^{\sigma_f N}`, has an ambient share :math:`\alpha_l \sim U(0, 2 \alpha)`, and a
typical depth :math:`D_l = D e^{\sigma_D N}`. A cell i of type c with the profile :math:`p_c` has
the counts

.. math::

    n_{ig} \sim \mathrm{Poisson}(L_i \, q_{ig} \, \gamma_{ig}), \quad
    \gamma_{ig} \sim \Gamma(s, 1/s), \quad L_i = D_l e^{\sigma_L N}, \quad
    q_i \propto f_l \odot [(1 - \alpha_l)((1 - d_i) p_c \odot e^{\Lambda u_i} + d_i p_{c'})
    + \alpha_l \bar p],

so the noise of a gene is negative binomial of size s. A share :math:`\delta` of the cells are
doublets: :math:`d_i \sim U(0, 0.4)` of another type of the data set; others have :math:`d_i = 0`.
:math:`\bar p` is the mean profile of the data set. :math:`\Lambda` are low-rank factors of the
within-type covariance of log-expression of labelled cells, where there are any;
:math:`u_i \sim N(0, I)`.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import scipy.sparse as sp

from scbignn_training.data import Origin, Study

if TYPE_CHECKING:
    from scbignn_training.profiles import ProfileSet

Array = np.ndarray[Any, Any]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
LEAST_EXPECTED = 1e-4
"""Genes of fewer expected counts a cell, at the mean of a type, are not drawn."""


class Simulation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How cells are drawn from profiles; docs/method.md gives the reasons."""

    cells: Annotated[int, msgspec.Meta(ge=3)] = 120
    """Cells of each profile."""
    laboratories: Annotated[int, msgspec.Meta(ge=1)] = 4
    """Virtual laboratories that the cells of a data set are spread over."""
    size: Positive = 0.3
    """Of the negative binomial noise of a gene; smaller is noisier."""
    depth: Positive = 2500.0
    """Typical total counts of a cell."""
    depth_spread: float = 0.6
    """Standard deviation of the log depth within a laboratory."""
    laboratory_depth: float = 0.0
    """Standard deviation of the log of a laboratory's typical depth."""
    gene_factor: float = 0.4
    """Standard deviation of a laboratory's log factor of a gene."""
    type_factor: float = 0.0
    """Standard deviation of a laboratory's log factor of a gene in one type."""
    pseudo: float = 0.0
    """Expression that is added to each gene of a profile, in shares of a cell's counts."""
    shrink: float = 0.0
    """Cells of the data set's mean profile that are added to each profile's own."""
    ambient: Share = 0.1
    """Mean share of a cell's counts that is the mean profile of the data set."""
    doublets: Share = 0.05
    """Share of the cells that hold counts of another type."""

    def as_record(self) -> dict[str, float | int | str]:
        """Return the settings as flat JSON values, their names told from those of training."""
        values: dict[str, float | int | str] = msgspec.to_builtins(self)
        return {f"simulation_{k}": v for k, v in values.items()}


def simulate(
    profiles: ProfileSet,
    simulation: Simulation,
    seed: int,
    factors: tuple[list[str], Array] | None = None,
) -> Study:
    """Draw cells of each type of a data set.

    Chance is seeded by the names of data set, type and tissue, so a profile's cells do not depend
    on the other profiles of the table, save through ambient counts and doublets.

    Parameters
    ----------
    profiles
        Means of one data set.
    simulation
        Strength of each kind of noise.
    seed
        Of all chance.
    factors
        Symbols (h,) and factors (h, r) of the within-type covariance of log-expression; genes
        that are not among them vary by noise alone.
    """
    means, n = profiles.means, simulation.cells
    ambient = means.mean(axis=0)
    cells = np.where(profiles.n_cells > 0, profiles.n_cells, 300)
    w = simulation.shrink / (cells + simulation.shrink)
    means = (1 - w[:, None]) * means + w[:, None] * ambient + simulation.pseudo
    means /= means.sum(axis=1, keepdims=True)
    loading = _loading(profiles.symbols, factors)
    labs = [_laboratory(profiles, simulation, seed, i) for i in range(simulation.laboratories)]
    blocks = []
    for row, mean in enumerate(means):
        chance = _chance(seed, profiles.name, *profiles.rows[row])
        others = np.delete(np.arange(len(means)), row)
        genes = np.flatnonzero(
            (mean + simulation.ambient * ambient) * simulation.depth >= LEAST_EXPECTED
        )
        for lab, (factor, share, depth) in enumerate(labs):
            m = n // len(labs) + (lab < n % len(labs))
            rate = np.tile(mean[genes], (m, 1))
            if loading is not None:
                shift = chance.standard_normal((m, loading.shape[1])) @ loading[genes].T
                rate *= np.exp(shift - 0.5 * (loading[genes] ** 2).sum(axis=1))
            mixed = np.flatnonzero(chance.random(m) < simulation.doublets)
            if len(mixed) and len(others):
                part = chance.uniform(0, 0.4, (len(mixed), 1))
                other = means[chance.choice(others, len(mixed))][:, genes]
                rate[mixed] = (1 - part) * rate[mixed] + part * other
            if simulation.type_factor:
                rate *= np.exp(simulation.type_factor * chance.standard_normal(len(genes)))
            rate = factor[genes] * ((1 - share) * rate + share * ambient[genes])
            rate /= rate.sum(axis=1, keepdims=True)
            rate *= depth * np.exp(simulation.depth_spread * chance.standard_normal((m, 1)))
            rate *= chance.gamma(simulation.size, 1 / simulation.size, rate.shape)
            drawn = sp.csr_matrix(chance.poisson(rate).astype(np.float32))
            # astype: the columns of the other genes are empty
            drawn = sp.csr_matrix(
                (drawn.data, genes[drawn.indices], drawn.indptr), shape=(m, means.shape[1])
            )
            blocks.append(drawn)
    return Study(
        profiles.path,
        sp.csr_matrix(sp.vstack(blocks)),
        profiles.symbols,
        [""] * len(profiles.symbols),
        np.repeat(profiles.labels, n),
        Origin(
            profiles.name,
            True,
            str(profiles.path),
            profiles.citation,
            tuple(sorted({t.place for t in profiles.meant})),
        ),
    )


def _chance(seed: int, *words: str) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(w.encode()) for w in words)])


def _laboratory(
    profiles: ProfileSet, simulation: Simulation, seed: int, number: int
) -> tuple[Array, float, float]:
    """Return a virtual laboratory's factor of each gene, ambient share and typical depth."""
    chance = _chance(seed, profiles.name, f"laboratory {number}")
    factor = np.exp(simulation.gene_factor * chance.standard_normal(len(profiles.symbols)))
    share = chance.uniform(0, min(2 * simulation.ambient, 1))
    depth = simulation.depth * np.exp(simulation.laboratory_depth * chance.standard_normal())
    return factor, float(share), float(depth)


def _loading(symbols: list[str], factors: tuple[list[str], Array] | None) -> Array | None:
    """Return the (g, r) factors of the genes of a data set."""
    if factors is None:
        return None
    place = {s: i for i, s in enumerate(factors[0])}
    found = np.array([place.get(s, -1) for s in symbols])
    loading: Array = factors[1][found]
    loading[found < 0] = 0
    return loading
