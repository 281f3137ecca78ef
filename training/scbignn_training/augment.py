"""What training cells go through so that a new study looks familiar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scbignn_infer.network.panel import TARGET_SUM
from scbignn_training.blocks import row_of_each, with_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse as sp
    from torch import Tensor

    from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
VIEWS = 3
"""Views of held-out cells: clean, thinned, cut and distorted."""
PANELS: tuple[int | None, ...] = (None, None, 2000, 1000, 500, 200)
"""Genes of the panels that certainty is fitted on."""
DISTORTED, THINNED = (0.2, 0.9), 0.4
"""Strengths of their distortion, and the chance that cells are thinned."""


def augment_batch(
    x: Tensor, targets: Tensor, settings: Settings, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Corrupt a batch of expression and mix its cells pairwise.

    Half of the batches lose one random set of genes; genes drop out cell by cell; each gene gets a
    factor shared by the batch and each cell a scale; then mixup (Zhang et al. 2018).

    Parameters
    ----------
    x, targets
        (b, g) expression and (b, c) target distributions.
    settings
        Strengths.
    generator
        Source of the batch-wide choices.
    """
    b, g = x.shape
    if generator.random() < settings.lost_panel_chance:
        x = x * (torch.rand(g, device=x.device) > settings.lost_panel_share * generator.random())
    x = x * (torch.rand_like(x) > settings.gene_dropout)
    x = x * (1 + settings.cell_scale_noise * torch.randn(b, 1, device=x.device)).clamp(min=0)
    x = x * (settings.gene_factor_noise * torch.randn(1, g, device=x.device)).exp()
    other = torch.randperm(b, device=x.device)
    share = float(generator.beta(settings.mixup, settings.mixup))
    mixed = share * x + (1 - share) * x[other]
    return mixed, share * targets + (1 - share) * targets[other]


def thin(
    counts: sp.csr_matrix, totals: Array, generator: np.random.Generator
) -> tuple[sp.csr_matrix, Array]:
    """Thin whole counts (n, g) binomially to 15-50 % a cell, as by shallower sequencing."""
    rate = generator.uniform(0.15, 0.5, counts.shape[0])
    whole = np.round(counts.data).astype(np.int64)
    thinned = generator.binomial(whole, row_of_each(counts, rate)).astype(np.float32)
    return with_values(counts, thinned), (totals * rate).astype(np.float32)


def draw_panel(variability: Array, generator: np.random.Generator) -> Array:
    """Choose 6-60 % of the ranked genes, more or less by variability.

    Half of the panels also miss the best-ranked 0-8 %.

    Parameters
    ----------
    variability
        (m,) standardised log dispersion of the ranked genes.
    generator
        Source of chance.

    Returns
    -------
    ndarray
        (m,) bool.
    """
    m = len(variability)
    taste = variability * generator.uniform(-0.3, 1.5) + generator.standard_normal(m)
    size = int(m * generator.uniform(0.06, 0.6))
    present = np.zeros(m, dtype=bool)
    present[np.argsort(-taste, kind="stable")[:size]] = True
    if generator.random() < 0.5:
        present[: int(m * generator.uniform(0, 0.08))] = False
    return present


def distort_genes(
    counts: sp.csr_matrix, totals: Array, sd: float, generator: np.random.Generator
) -> sp.csr_matrix:
    """Multiply each gene's log1p(CP10k) by a factor exp(sd N), as another protocol would."""
    scale = row_of_each(counts, np.maximum(totals, 1.0) / TARGET_SUM)
    factor = np.exp(sd * generator.standard_normal(counts.shape[1]))[counts.indices]
    shown = np.minimum(np.log1p(counts.data / scale) * factor, np.log1p(TARGET_SUM))
    distorted = np.expm1(shown) * scale
    return with_values(counts, distorted.astype(np.float32))


def cut_genes(counts: sp.csr_matrix, present: Array) -> sp.csr_matrix:
    """Take away the counts of absent genes."""
    return with_values(counts, counts.data * present[counts.indices])


def views(
    counts: sp.csr_matrix, totals: Array, variability: Array, generator: np.random.Generator
) -> list[tuple[sp.csr_matrix, Array, Array]]:
    """Return held-out cells as other studies might show them: clean, thinned, cut and distorted.

    Parameters
    ----------
    counts, totals
        (n, m) counts of the ranked genes and (n,) totals.
    variability
        (m,) standardised log dispersion.
    generator
        Source of chance.

    Returns
    -------
    list of tuple
        Counts, totals and (m,) present genes of each view.
    """
    everything = np.ones(counts.shape[1], dtype=bool)
    panel = draw_panel(variability, generator)
    return [
        (counts, totals, everything),
        (*thin(counts, totals, generator), everything),
        (cut_genes(distort_genes(counts, totals, 0.4, generator), panel), totals, panel),
    ]


def laboratories(
    counts: sp.csr_matrix, totals: Array, variability: Array, generator: np.random.Generator
) -> Iterator[tuple[sp.csr_matrix, Array, Array]]:
    """Yield held-out cells as they are, and as other laboratories and panels show them.

    Genes are distorted a little or a lot, some cells are thinned, and of the ranked genes all or
    as many as of :data:`PANELS` are there. Parameters and what is yielded are those of
    :func:`views`.
    """
    m = len(variability)
    yield counts, totals, np.ones(m, dtype=bool)
    for size in PANELS:
        shown, total = counts, totals
        if generator.random() < THINNED:
            shown, total = thin(shown, total, generator)
        shown = distort_genes(shown, total, generator.uniform(*DISTORTED), generator)
        present = np.ones(m, dtype=bool)
        if size is not None and size < m:
            taste = variability * generator.uniform(-0.3, 1.5) + generator.standard_normal(m)
            present = np.zeros(m, dtype=bool)
            present[np.argsort(-taste, kind="stable")[:size]] = True
        yield cut_genes(shown, present), total, present
