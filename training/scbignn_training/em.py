"""Expectation-maximisation: the two levels teach each other in turn, on unlabelled cells.

E-step: the gene level learns from gold labels and the cell level's pseudo-labels. M-step: the cell
level learns from gold labels and the gene level's pseudo-labels, and the reference statistics are
estimated once more with the confidently pseudo-labelled cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from scbignn_infer.bundle import EMIteration
from scbignn_training import statistics
from scbignn_training.cell_level import (
    CellGraph,
    CellLevel,
    fit_cell_level,
    make_graph,
    shield_of,
)
from scbignn_training.data import log_expression
from scbignn_training.evaluate import macro_f1
from scbignn_training.gene_level import GeneLevel, Panel, ProgramAttention, fit_network
from scbignn_training.objective import pseudo_labels
from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Cells:
    """Cells over the ranked genes.

    Attributes
    ----------
    counts, totals
        (n, m) and (n,) float32; absent genes count 0.
    present
        (m,) which ranked genes these cells have.
    codes
        (n,) label codes; empty for unlabelled cells.
    """

    counts: Array
    totals: Array
    present: Array
    codes: Array


@dataclass(frozen=True)
class Pair:
    """Both levels as they work together, and the teacher of the next E-step."""

    gene: GeneLevel
    cell: CellLevel
    teacher: CellLevel


def run_gene_level(level: GeneLevel, cells: Cells, settings: Settings) -> CellGraph:
    """Return the graph of some cells with the gene level's logits; targets are gold or zero."""
    panel = Panel(level, cells.present, settings.panel_genes)
    embedding, logits = panel.run(cells.counts, cells.totals)
    gold = len(cells.codes) == len(logits)
    targets = one_hot(cells.codes, logits.shape[1]) if gold else torch.zeros_like(logits)
    return make_graph(embedding, logits, targets, settings)


def one_hot(codes: Array, n_classes: int) -> torch.Tensor:
    """Return (n, c) float targets."""
    return F.one_hot(torch.from_numpy(codes), n_classes).float()


def fit_cells(
    graphs: list[CellGraph],
    cells_per_type: Array,
    settings: Settings,
    unlabelled: CellGraph | None = None,
) -> tuple[CellLevel, CellLevel]:
    """Train the cell level of the output (shielded, shared) and the teacher (neither)."""
    shield = shield_of(cells_per_type, settings)
    output = fit_cell_level(
        graphs, shield, settings, share=settings.cell_share, unlabelled=unlabelled
    )
    teacher = fit_cell_level(
        graphs, torch.ones_like(shield), settings, share=1.0, unlabelled=unlabelled
    )
    return output, teacher


@torch.no_grad()
def e_step(
    pair: Pair, labelled: Cells, unlabelled: Cells, settings: Settings, seed: int
) -> ProgramAttention:
    """Train the network on from the pair's, with the teacher's pseudo-labels."""
    net = pair.gene.net
    graph = run_gene_level(pair.gene, unlabelled, settings)
    soft = pseudo_labels(pair.teacher(graph.gene_logits, graph), settings.pseudo_temperature)
    panel = Panel(pair.gene, unlabelled.present, settings.panel_genes)
    imputed = panel.run(unlabelled.counts, unlabelled.totals, "impute")[1]
    x = log_expression(labelled.counts[:, : net.score.shape[0]], labelled.totals)
    with torch.enable_grad():
        return fit_network(
            torch.from_numpy(x),
            torch.from_numpy(labelled.codes),
            graph.gene_logits.shape[1],
            settings,
            seed=seed,
            start=net,
            unlabelled=imputed,
            pseudo=soft,
        )


@torch.no_grad()
def m_step(
    gene: GeneLevel,
    graphs: list[CellGraph],
    labelled: Cells,
    unlabelled: Cells,
    settings: Settings,
) -> Pair:
    """Train the cell level anew with the gene level's pseudo-labels; re-estimate the statistics.

    Unlabelled cells that the new teacher calls with confidence join the reference for the
    statistics; genes they lack take the reference's mean.
    """
    n_classes = graphs[0].targets.shape[1]
    graph = run_gene_level(gene, unlabelled, settings)
    soft = pseudo_labels(graph.gene_logits, settings.pseudo_temperature)
    taught = CellGraph(
        graph.embedding,
        graph.gene_logits,
        graph.neighbor_indices,
        graph.neighbor_similarity,
        soft,
    )
    cells_per_type = np.bincount(labelled.codes, minlength=n_classes)
    with torch.enable_grad():
        cell, teacher = fit_cells(graphs, cells_per_type, settings, taught)
    probabilities = teacher(graph.gene_logits, graph).exp().numpy()
    sure = probabilities.max(axis=1) > settings.pseudo_confidence
    joined = log_expression(unlabelled.counts[sure], unlabelled.totals[sure])
    joined[:, ~unlabelled.present] = gene.statistics["gene_mean"][~unlabelled.present]
    x = np.concatenate([log_expression(labelled.counts, labelled.totals), joined])
    codes = np.concatenate([labelled.codes, probabilities[sure].argmax(axis=1)])
    tables = statistics.estimate(x, codes, n_classes, settings)
    logistic = statistics.fit_logistic(x, codes, n_classes, tables, settings)
    level = GeneLevel(gene.net, tables, logistic, gene.blend, gene.temperature).eval()
    return Pair(level, cell, teacher)


@torch.no_grad()
def validate(pair: Pair, held_out: list[Cells], settings: Settings) -> tuple[float, float]:
    """Return macro-F1 of the gene level and of the pair, mean over views of held-out cells."""
    scores = []
    for cells in held_out:
        graph = run_gene_level(pair.gene, cells, settings)
        cell_logits = pair.cell(graph.gene_logits, graph)
        scores.append(
            [
                macro_f1(cells.codes, logits.argmax(1).numpy())
                for logits in (graph.gene_logits, cell_logits)
            ]
        )
    gene, cell = np.mean(scores, axis=0)
    return float(gene), float(cell)


def run_em(
    pair: Pair,
    graphs: list[CellGraph],
    labelled: Cells,
    unlabelled: Cells | None,
    held_out: list[Cells],
    settings: Settings,
    report: Callable[[EMIteration], None],
) -> tuple[Pair, list[EMIteration]]:
    """Alternate E- and M-steps and keep the pair that labels held-out cells best.

    Parameters
    ----------
    pair
        Both levels trained on gold labels: iteration 0.
    graphs
        Out-of-fold graphs for the cell level.
    labelled, unlabelled
        Training cells; without unlabelled ones there is nothing to teach and iteration 0 stays.
    held_out
        Views of the validation cells.
    settings
        Iterations, weights and temperature.
    report
        Called after each iteration.

    Returns
    -------
    pair, history
        The two levels of one iteration, never of two; and all iterations with their scores.
    """
    kept, best, history = pair, -1.0, list[EMIteration]()
    iterations = settings.em_iterations if unlabelled is not None else 0
    for i in range(iterations + 1):
        start = time.perf_counter()
        if i > 0 and unlabelled is not None:
            net = e_step(pair, labelled, unlabelled, settings, settings.seed + 7 + i)
            old = pair.gene
            logistic = (old.logistic_weight.numpy(), old.logistic_bias.numpy())
            gene = GeneLevel(net, old.statistics, logistic, old.blend, old.temperature).eval()
            pair = m_step(gene, graphs, labelled, unlabelled, settings)
        gene_f1, cell_f1 = validate(pair, held_out, settings)
        better = cell_f1 > best
        if better:
            kept, best = pair, cell_f1
        row = EMIteration(
            iteration=i,
            gene_level_f1=gene_f1,
            cell_level_f1=cell_f1,
            kept=better,
            seconds=round(time.perf_counter() - start, 2),
        )
        history = [_not_kept(h) if better else h for h in history] + [row]
        report(row)
    return kept, history


def _not_kept(row: EMIteration) -> EMIteration:
    return EMIteration(
        iteration=row.iteration,
        gene_level_f1=row.gene_level_f1,
        cell_level_f1=row.cell_level_f1,
        kept=False,
        seconds=row.seconds,
    )
