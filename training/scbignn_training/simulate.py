r"""Cells from profiles: what a study would have shown of a type of which only the mean is known.

A data set is simulated in a few *virtual laboratories*. A laboratory l multiplies gene g by
:math:`f_{lg} = e^{\sigma_f N}` and has an ambient share :math:`\alpha_l \sim U(0, 2 \alpha)`. A
cell i of type c with the profile :math:`p_c` has the counts

.. math::

    n_{ig} \sim \mathrm{Poisson}(L_i \, q_{ig} \, \gamma_{ig}), \quad
    \gamma_{ig} \sim \Gamma(s, 1/s), \quad L_i = D e^{\sigma_L N}, \quad
    q_i \propto f_l \odot [(1 - \alpha_l)((1 - d_i) p_c + d_i p_{c'}) + \alpha_l \bar p],

so the noise of a gene is negative binomial of size s. A share :math:`\delta` of the cells are
doublets: :math:`d_i \sim U(0, 0.4)` of another type of the data set; others have :math:`d_i = 0`.
:math:`\bar p` is the mean profile of the data set.
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
MOST_MIXED = 0.4
"""The largest share of another type in a doublet."""
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
    gene_factor: float = 0.4
    """Standard deviation of a laboratory's log factor of a gene."""
    ambient: Share = 0.1
    """Mean share of a cell's counts that is the mean profile of the data set."""
    doublets: Share = 0.05
    """Share of the cells that hold counts of another type."""

    def as_record(self) -> dict[str, float | int | str]:
        """Return the settings as flat JSON values, their names told from those of training."""
        values: dict[str, float | int | str] = msgspec.to_builtins(self)
        return {f"simulation_{k}": v for k, v in values.items()}


def simulate(profiles: ProfileSet, simulation: Simulation, seed: int) -> Study:
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
    """
    means = profiles.means
    labs = [_laboratory(profiles, simulation, seed, i) for i in range(simulation.laboratories)]
    blocks = []
    for row in range(len(means)):
        chance = _chance(seed, profiles.name, *profiles.rows[row])
        for i, lab in enumerate(labs):
            n = simulation.cells // len(labs) + (i < simulation.cells % len(labs))
            blocks.append(_cells(means, row, n, lab, simulation, chance=chance))
    return Study(
        profiles.path,
        sp.csr_matrix(sp.vstack(blocks)),
        profiles.symbols,
        [""] * len(profiles.symbols),
        np.repeat(profiles.labels, simulation.cells),
        Origin(
            profiles.name,
            simulated=True,
            file=str(profiles.path),
            citation=profiles.citation,
            tissues=tuple(sorted({t.place for t in profiles.meant})),
            study=profiles.meant[0].study if profiles.meant else "",
        ),
        meant=profiles.meant,
    )


def _cells(
    means: Array,
    row: int,
    n: int,
    lab: tuple[Array, float],
    simulation: Simulation,
    *,
    chance: np.random.Generator,
) -> sp.csr_matrix:
    """Return (n, g) counts of cells of one type in one virtual laboratory."""
    (factor, share), ambient = lab, means.mean(axis=0)
    expected = (means[row] + simulation.ambient * ambient) * simulation.depth
    genes = np.flatnonzero(expected >= LEAST_EXPECTED)
    rate = np.tile(means[row, genes], (n, 1))
    mixed = np.flatnonzero(chance.random(n) < simulation.doublets)
    others = np.delete(np.arange(len(means)), row)
    if len(mixed) and len(others):
        part = chance.uniform(0, MOST_MIXED, (len(mixed), 1))
        other = means[chance.choice(others, len(mixed))][:, genes]
        rate[mixed] = (1 - part) * rate[mixed] + part * other
    rate = factor[genes] * ((1 - share) * rate + share * ambient[genes])
    rate /= rate.sum(axis=1, keepdims=True)
    depth = np.exp(simulation.depth_spread * chance.standard_normal((n, 1)))
    rate *= simulation.depth * depth
    rate *= chance.gamma(simulation.size, 1 / simulation.size, rate.shape)
    drawn = sp.csr_matrix(chance.poisson(rate).astype(np.float32))
    places = genes[drawn.indices]
    return sp.csr_matrix((drawn.data, places, drawn.indptr), shape=(n, means.shape[1]))


def _chance(seed: int, *words: str) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(w.encode()) for w in words)])


def _laboratory(
    profiles: ProfileSet, simulation: Simulation, seed: int, number: int
) -> tuple[Array, float]:
    """Return a virtual laboratory's factor of each gene and its ambient share."""
    chance = _chance(seed, profiles.name, f"laboratory {number}")
    factor = np.exp(simulation.gene_factor * chance.standard_normal(len(profiles.symbols)))
    share = chance.uniform(0, min(2 * simulation.ambient, 1))
    return factor, float(share)
