"""Expectation-maximisation: the two levels teach each other in turn, on unlabelled cells.

E-step: the gene level learns from gold labels and the cell level's pseudo-labels. M-step: the cell
level learns from gold labels and the gene level's pseudo-labels, and the reference statistics are
estimated once more with the confidently pseudo-labelled cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scbignn_training import statistics
from scbignn_training.cell_level import (
    CellGraph,
    fit_cell_level,
    make_graph,
    one_hot,
    shield_of,
)
from scbignn_training.evaluate import Outcome, macro_f1
from scbignn_training.gaps import Gaps
from scbignn_training.gene_level import GeneLevel, Panel, fit_network, run_cells
from scbignn_training.objective import pseudo_labels
from scbignn_training.run import BARE
from scbignn_training.statistics import complete

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_training.cell_level import (
        CellLevel,
    )
    from scbignn_training.data import Cells
    from scbignn_training.gene_level import Network
    from scbignn_training.run import Run
    from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
Teacher = Callable[[Tensor, CellGraph], Tensor]
"""Log-probabilities (n, c) for pseudo-labels, from the gene level's and the cells' graph."""


@dataclass(frozen=True)
class Pair:
    """Both levels as they work together, and the teacher of the next E-step."""

    gene: GeneLevel
    cell: CellLevel
    teacher: Teacher


def gene_level_itself(gene_logits: Tensor, graph: CellGraph) -> Tensor:
    """Teach what the gene level says, whatever the graph: self-training."""
    return gene_logits


def run_gene_level(level: GeneLevel, cells: Cells, settings: Settings) -> CellGraph:
    """Return the graph of some cells with the gene level's logits; targets are gold or zero."""
    embedding, logits = run_cells(level, cells, settings)
    gold = len(cells.codes) == len(logits)
    targets = one_hot(cells.codes, logits.shape[1]) if gold else torch.zeros_like(logits)
    return make_graph(embedding, logits, targets, settings)


def fit_cells(
    graphs: list[CellGraph],
    settings: Settings,
    unlabelled: CellGraph | None = None,
    run: Run = BARE,
) -> tuple[CellLevel, Teacher]:
    """Train the cell level of the output (shielded, shared) and the teacher (neither)."""
    shield = shield_of(graphs, settings)
    output = fit_cell_level(
        graphs,
        shield,
        settings,
        share=settings.cell_share,
        unlabelled=unlabelled,
        run=run.within("cell level"),
    )
    if settings.teacher == "gene":
        return output, gene_level_itself
    teacher = fit_cell_level(
        graphs,
        torch.ones_like(shield),
        settings,
        share=1.0,
        unlabelled=unlabelled,
        run=run.within("teacher"),
    )
    return output, teacher


@torch.no_grad()
def e_step(
    pair: Pair,
    labelled: Cells,
    unlabelled: Cells,
    settings: Settings,
    *,
    seed: int,
    run: Run = BARE,
) -> Network:
    """Train the network on from the pair's, with the teacher's pseudo-labels."""
    net = pair.gene.net
    graph = run_gene_level(pair.gene, unlabelled, settings)
    soft = pseudo_labels(pair.teacher(graph.gene_logits, graph), settings.pseudo_temperature)
    panel = Panel(pair.gene, unlabelled.present, settings.panel_genes)
    imputed = panel.run(unlabelled.counts, unlabelled.totals, "impute")[2]
    with torch.enable_grad():
        return fit_network(
            complete(labelled.expression, pair.gene.statistics, settings, labelled.gaps),
            torch.from_numpy(labelled.codes),
            graph.gene_logits.shape[1],
            settings,
            seed=seed,
            start=net,
            unlabelled=imputed,
            pseudo=soft,
            run=run,
        )


@torch.no_grad()
def m_step(
    gene: GeneLevel,
    graphs: list[CellGraph],
    labelled: Cells,
    unlabelled: Cells,
    settings: Settings,
    *,
    run: Run = BARE,
) -> Pair:
    """Train the cell level anew with the gene level's pseudo-labels; re-estimate the statistics.

    Unlabelled cells that the new teacher calls with confidence join the reference for the
    statistics; genes they lack take the reference's mean.
    """
    n_classes = graphs[0].targets.shape[1]
    graph = run_gene_level(gene, unlabelled, settings)
    soft = pseudo_labels(graph.gene_logits, settings.pseudo_temperature)
    taught = replace(graph, targets=soft)
    with torch.enable_grad():
        cell, teacher = fit_cells(graphs, settings, taught, run)
    probabilities = teacher(graph.gene_logits, graph).exp().numpy()
    sure = probabilities.max(axis=1) > settings.pseudo_confidence
    joined = unlabelled.subset(np.flatnonzero(sure)).expression
    absent = gene.statistics["gene_mean"] * ~unlabelled.present
    filled = sp.csr_matrix(np.ones((joined.shape[0], 1))) @ sp.csr_matrix(absent)
    x = sp.csr_matrix(sp.vstack([labelled.expression, joined + filled]), dtype=np.float32)
    codes = np.concatenate([labelled.codes, probabilities[sure].argmax(axis=1)])
    gaps = labelled.gaps
    if gaps is not None:  # unlabelled cells were filled: they count as a study that has all genes
        study = np.append(gaps.batches, np.full(joined.shape[0], len(gaps.measured)))
        gaps = Gaps(study, np.vstack([gaps.measured, np.ones_like(gaps.measured[:1])]))
    tables = statistics.estimate(x, codes, n_classes, settings, gaps)
    seen = complete(x, tables, settings, gaps)
    logistic = statistics.fit_logistic(seen, codes, n_classes, tables, settings)
    level = GeneLevel(gene.net, tables, logistic, gene.blend, gene.temperature).eval()
    return Pair(level, cell, teacher)


@torch.no_grad()
def validate(pair: Pair, held_out: list[Cells], settings: Settings) -> Outcome:
    """Label views of held-out cells, of which the first shows them as they are."""
    scores, called, said = [], [], []
    for cells in held_out:
        graph = run_gene_level(pair.gene, cells, settings)
        both = graph.gene_logits, pair.cell(graph.gene_logits, graph)
        best = [logits.argmax(1).numpy() for logits in both]
        scores.append([macro_f1(cells.codes, codes) for codes in best])
        called.append(best[1])
        said.append(both[1].numpy())
    gene, cell = np.mean(scores, axis=0)
    return Outcome(float(gene), float(cell), held_out[0].codes, called[0], said[0])


def iterate(
    pair: Pair,
    graphs: list[CellGraph],
    labelled: Cells,
    unlabelled: Cells | None,
    settings: Settings,
    *,
    iterations: int,
    run: Run = BARE,
) -> Iterator[Pair]:
    """Yield the pair of iteration 0, as given, then of each further one.

    Parameters
    ----------
    pair
        Both levels trained on gold labels.
    graphs
        Out-of-fold graphs for the cell level.
    labelled, unlabelled
        Training cells; without unlabelled ones iteration 0 is the only one.
    settings
        Weights and temperature.
    iterations
        How many to add to iteration 0.
    run
        Device, checkpoint and progress.
    """
    yield pair
    if unlabelled is None:
        return
    for i in range(iterations):
        part = run.within(f"EM iteration {i + 1}")
        net = e_step(pair, labelled, unlabelled, settings, seed=settings.seed + 8 + i, run=part)
        old = pair.gene
        gene = GeneLevel(net, old.statistics, old.logistic, old.blend, old.temperature).eval()
        pair = m_step(gene, graphs, labelled, unlabelled, settings, run=part)
        yield pair
