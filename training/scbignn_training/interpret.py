"""What the gene level looks at: genes that carry each type, and pairs attended together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scbignn_infer.model.bundle import GeneWeight, Interpretation, PairWeight
from scbignn_infer.network.panel import TARGET_SUM
from scbignn_training.program_attention import MAX_SCORE, ProgramAttention
from scbignn_training.sampling import even

if TYPE_CHECKING:
    from torch import Tensor

    from scbignn_training.data import Cells
    from scbignn_training.gene_level import GeneLevel, Panel

Array = np.ndarray[Any, Any]
CELLS, STEPS = 50, 16
"""Cells of each type that are looked at, and points on the way of the integral."""
TOP, PAIRS_AMONG = 20, 30


def interpret(
    gene: GeneLevel, panel: Panel, cells: Cells, symbols: list[str], n_types: int
) -> list[Interpretation]:
    r"""Return the genes and the pairs of genes that carry each type.

    A gene's weight is its integrated gradient (Sundararajan et al. 2017): the change of the type's
    log-probability along the straight way from the mean expression of the other types,
    :math:`\bar x`, to the cell's, as far as this gene makes it,
    :math:`(x_g - \bar x_g) \int_0^1 \partial_g \log p_c (\bar x + s (x - \bar x)) ds`, mean over
    cells of the type. A pair's weight is how much the programs attend to both genes,
    :math:`\sum_I a_{Ig} a_{Ih}` with the attention :math:`a` of the type's mean expression, among
    the genes of largest weight.

    Parameters
    ----------
    gene, panel
        The gene level, laid out for the genes of the cells.
    cells
        Labelled cells.
    symbols
        Symbols of the cells' genes.
    n_types
        Number of types.
    """
    names = [symbols[i] for i in panel.genes]
    found = []
    for code in range(n_types):
        rows = np.flatnonzero(cells.codes == code)
        rows = rows[even(np.zeros(len(rows), np.int64), CELLS, 0)] if len(rows) > CELLS else rows
        counts, totals = panel.inputs(cells.counts[rows], cells.totals[rows])
        weight = _integrated(gene, panel, counts, totals, code).numpy()
        order = np.argsort(-weight, kind="stable")
        genes = [
            GeneWeight(symbol=names[i], weight=round(float(weight[i]), 4))
            for i in order[:TOP]
            if weight[i] > 0
        ]
        mean = torch.log1p(counts * (TARGET_SUM / totals)).mean(dim=0)
        pairs = _pairs(gene, panel, mean, order[:PAIRS_AMONG], names)
        found.append(Interpretation(genes=genes, pairs=pairs))
    return found


def _integrated(gene: GeneLevel, panel: Panel, counts: Tensor, totals: Tensor, code: int) -> Tensor:
    """Return the integrated gradient of each panel gene, (k,), mean over the cells."""
    gene.eval()
    others = np.delete(gene.statistics["class_mean"][:, panel.genes], code, axis=0).mean(axis=0)
    mean, scale = (gene.statistics[k][panel.genes] for k in ("gene_mean", "gene_scale"))
    start = torch.tensor(mean + scale * others, dtype=torch.float32).clamp(min=0)
    change = torch.log1p(counts * (TARGET_SUM / totals)) - start
    slope = torch.zeros_like(change)
    for step in range(STEPS):
        x = (start + (step + 0.5) / STEPS * change).requires_grad_(True)
        _, logits = gene(torch.expm1(x) * (totals / TARGET_SUM), totals, panel.tables)
        (gradient,) = torch.autograd.grad(logits[:, code].sum(), x)
        slope += gradient / STEPS
    return (change * slope).mean(dim=0).detach()


def _pairs(
    gene: GeneLevel, panel: Panel, mean: Tensor, among: Array, names: list[str]
) -> list[PairWeight]:
    """Return the pairs of genes that the programs attend to together; none without programs."""
    net = gene.net
    if not isinstance(net, ProgramAttention) or net.n_programs == 0:
        return []
    place = np.asarray(panel.genes)
    inside = [int(i) for i in among if place[i] < net.n_genes]
    every = np.flatnonzero(place < net.n_genes)
    attention = net.score.detach().clamp(-MAX_SCORE, MAX_SCORE).exp()[place[every]]
    weighted = attention * mean[torch.from_numpy(every)][:, None]
    share = weighted / weighted.sum(dim=0, keepdim=True).clamp(min=1e-9)
    row = {int(i): r for r, i in enumerate(every)}
    own = share[[row[i] for i in inside]]
    together = torch.triu(own @ own.T, diagonal=1)
    best = together.flatten().topk(min(TOP, together.numel()))
    pairs = []
    for value, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        a, b = divmod(at, len(inside))
        if value > 0:
            symbols = sorted((names[inside[a]], names[inside[b]]))
            pairs.append(PairWeight(genes=(symbols[0], symbols[1]), weight=round(value, 6)))
    return pairs
