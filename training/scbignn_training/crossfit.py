"""Cross-fitting: what the gene level says of labelled cells that it has not seen."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scbignn_infer.annotation.scores import common_shift, residual, smooth
from scbignn_infer.network.panel import RESIDUAL_GENES, within_spread
from scbignn_training.augment import laboratories, views
from scbignn_training.blocks import slices
from scbignn_training.calibrate import Probe, fit_temperature
from scbignn_training.cell_level import cells_of_graph, make_graph, one_hot
from scbignn_training.data import Cells
from scbignn_training.evaluate import macro_f1
from scbignn_training.gene_level import Panel, fit_gene_level, run_cells
from scbignn_training.run import BARE
from scbignn_training.sampling import even, stratified

if TYPE_CHECKING:
    from scbignn_training.cell_level import CellGraph, CellLevel
    from scbignn_training.gene_level import GeneLevel
    from scbignn_training.run import Run
    from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
BANK_CELLS = 4000
"""Reference cells that a bundle keeps for the novelty, and a fold for its distances."""
PROBE_CELLS = 600
"""Cells of a fold that are shown as other laboratories might."""
BLENDS = tuple(product((0.5, 0.2, 0.1, 0.05, 0.0), (0.35, 1.0)))
"""Weights of the discriminant and the logistic head that a fine reference chooses from."""


@dataclass(frozen=True)
class FoldProbe:
    """Some held-out cells of one fold as another laboratory might show them, see :class:`Probe`."""

    embedding: torch.Tensor
    logits: torch.Tensor
    codes: Array
    misfit: float
    coverage: float


@dataclass(frozen=True)
class FoldView:
    """One view of the held-out cells of one fold.

    Attributes
    ----------
    embedding
        (n, d) cell embedding.
    logits
        (n, c) log-probabilities of the gene level, not calibrated.
    codes
        (n,) gold label codes.
    distance
        (n,) cosine distance to the nearest cell of a bank that the fold's gene level was trained
        on.
    clean
        Whether the cells are shown as they are.
    scaled, profile
        Of clean cells, (n, g) scaled expression of the first genes, and the fold's class means
        (c, g) and spread (g,) of these.
    probes
        Of clean cells, some of them as other laboratories might show them.
    measured
        (n,) which cells say how sure to be, see ``Reference.judges``.
    """

    embedding: torch.Tensor
    logits: torch.Tensor
    codes: Array
    distance: Array
    clean: bool
    scaled: Array
    profile: tuple[Array, Array]
    probes: list[FoldProbe] = field(default_factory=list)
    measured: Array = field(default_factory=lambda: np.empty(0, bool))


@dataclass(frozen=True)
class CrossFit:
    """What the held-out cells of all folds decide.

    Attributes
    ----------
    temperature
        Of the gene level's logits.
    graphs
        One a view, for the cell level to learn from.
    clean
        Which graphs show cells as they are.
    distance
        (n,) distance of the clean cells to the reference, averaged over graph neighbours.
    views
        The held-out cells themselves.
    """

    temperature: float
    graphs: list[CellGraph]
    clean: list[bool]
    distance: Array
    views: list[FoldView]


@dataclass(frozen=True)
class FoldLevel:
    """A gene level that has not seen the cells of one fold.

    Attributes
    ----------
    level
        The gene level.
    inside, outside
        Rows of the cells that it was trained on, and of the fold.
    """

    level: GeneLevel
    inside: Array
    outside: Array


def fold_levels(
    labelled: Cells, n_classes: int, settings: Settings, run: Run = BARE
) -> list[FoldLevel]:
    """Train a gene level for each fold of the cells, on the others."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    x = labelled.expression
    with warnings.catch_warnings():  # a type may have fewer cells than there are folds
        warnings.simplefilter("ignore", UserWarning)
        folded = list(folds.split(labelled.codes, labelled.codes))
    return [
        FoldLevel(
            fit_gene_level(
                x[inside],
                labelled.codes[inside],
                n_classes,
                settings,
                seed=settings.seed + 100 + i,
                run=run.within(f"fold {i + 1} of {settings.folds}"),
                gaps=labelled.gaps.subset(inside) if labelled.gaps else None,
            ),
            inside,
            outside,
        )
        for i, (inside, outside) in enumerate(folded)
    ]


def cross_fit(
    labelled: Cells,
    folds: list[FoldLevel],
    variability: Array,
    settings: Settings,
    *,
    measured: Array | None = None,
) -> list[FoldView]:
    """Let gene levels label cells that they have not seen, as other studies might show them.

    Of a large fold a sample of the cells is shown, small types whole. Some of those that were
    ``measured`` (n,) are also shown as other laboratories might; by default none.
    """
    generator = np.random.default_rng(settings.seed)
    found = []
    for fold in folds:
        level, inside, outside = fold.level, fold.inside, fold.outside
        known = labelled.subset(inside[even(labelled.codes[inside], BANK_CELLS, settings.seed)])
        bank = _unit(run_cells(level, known, settings)[0])
        most = cells_of_graph(level.net.n_classes, settings)
        rows = outside[stratified(labelled.codes[outside], most, settings.seed)]
        shown = labelled.subset(rows)
        real = np.zeros(len(rows), bool) if measured is None else measured[rows]
        for v, view in enumerate(views(shown.counts, shown.totals, variability, generator)):
            cells = Cells(*view, shown.codes, shown.gaps)
            embedding, logits = run_cells(level, cells, settings)
            distance = _distance(embedding, bank)
            shown_genes = _shown(level, cells, settings)
            probes = []
            if v == 0 and real.any():
                some = shown.subset(np.flatnonzero(real))
                probes = _probes(level, some, variability, settings)
            of_genes = *shown_genes, probes, real
            found.append(FoldView(embedding, logits, shown.codes, distance, v == 0, *of_genes))
    return found


def best_blend(labelled: Cells, folds: list[FoldLevel], settings: Settings) -> tuple[float, float]:
    """Return the weights of the two heads that call most of the unseen cells right.

    By macro-F1, of those in :data:`BLENDS`.
    """
    parts = [
        [p.numpy() for p in run_cells(f.level, labelled.subset(f.outside), settings, "parts")[1:]]
        for f in folds
    ]
    net, discriminant, logistic = (np.concatenate(part) for part in zip(*parts, strict=True))
    truth = labelled.codes[np.concatenate([f.outside for f in folds])]

    def score(blend: tuple[float, float]) -> float:
        said = net + blend[0] * discriminant + blend[1] * logistic
        return macro_f1(truth, said.argmax(axis=1))

    return max(BLENDS, key=score)


def _probes(
    level: GeneLevel, held_out: Cells, variability: Array, settings: Settings
) -> list[FoldProbe]:
    """Show some held-out cells to a gene level as other laboratories might."""
    generator = np.random.default_rng(settings.seed)
    some = held_out.subset(stratified(held_out.codes, PROBE_CELLS, settings.seed))
    found = []
    for view in laboratories(some.counts, some.totals, variability, generator):
        cells = Cells(*view, some.codes, some.gaps)
        known = misfit_and_coverage(level, cells, settings)
        embedding, logits = run_cells(level, cells, settings)
        found.append(FoldProbe(embedding, logits, some.codes, *known))
    return found


def misfit_and_coverage(level: GeneLevel, cells: Cells, settings: Settings) -> tuple[float, float]:
    """Return what the certainty of some cells depends on, as the runtime finds it."""
    misfit = run_cells(level, cells, settings, "misfit")[0].numpy()
    weight = level.statistics["class_mean"][:, : level.net.n_genes].var(axis=0)
    has = cells.in_common[: len(weight)]
    return float(np.median(misfit)), float(weight @ has / weight.sum())


@torch.no_grad()
def probe(probe: FoldProbe, temperature: float, cell: CellLevel, settings: Settings) -> Probe:
    """Return what a cell level makes of a fold's probe."""
    logits = (probe.logits / temperature).log_softmax(1)
    graph = make_graph(probe.embedding, logits, torch.zeros_like(logits), settings)
    said = cell(logits, graph).numpy()
    return Probe(said, probe.codes, probe.misfit, probe.coverage)


def strangeness(
    level: GeneLevel,
    known: Cells,
    cells: Cells,
    graph: CellGraph,
    *,
    called: Array,
    settings: Settings,
    shifted: bool = False,
) -> tuple[Array, Array]:
    """Return how far cells and their neighbours are from known cells and from what they are called.

    Parameters
    ----------
    level, known
        A gene level and cells that it was trained on.
    cells, graph, called
        Other cells, their graph and (n,) codes.
    settings
        Size of the panel and of the bank.
    shifted
        Whether what their types have in common is taken off.
    """
    rows = even(known.codes, BANK_CELLS, settings.seed)
    bank = _unit(run_cells(level, known.subset(rows), settings)[0])
    neighbors = graph.neighbor_indices.numpy()
    distance = smooth(_distance(graph.embedding, bank), neighbors)
    scaled, profile = _shown(level, cells, settings)
    shift = common_shift(scaled, called, profile[0]) if shifted else 0.0
    return distance, residual(scaled, neighbors, called, *profile, shift=shift)


def _shown(level: GeneLevel, cells: Cells, settings: Settings) -> tuple[Array, tuple[Array, Array]]:
    """Return scaled expression of the first genes, and the means and spread of the types there."""
    panel, tables = Panel(level, cells.in_common, settings.panel_genes), level.statistics
    first = panel.genes[:RESIDUAL_GENES]
    scaled = panel.run(cells.counts, cells.totals, "impute")[0][:, : len(first)].numpy()
    return scaled, (tables["class_mean"][:, first], within_spread(tables, first))


def _distance(embedding: torch.Tensor, bank: torch.Tensor) -> Array:
    """Return each cell's cosine distance to the nearest of the bank, block by block."""
    unit = _unit(embedding)
    nearest = [(unit[rows] @ bank.T).amax(1) for rows in slices(len(unit))]
    distance: Array = (1 - torch.cat(nearest)).numpy()
    return distance


def _unit(embedding: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embedding)


def settle(folds: list[FoldView], settings: Settings) -> CrossFit:
    """Fit the temperature of the gene level out of fold, and build the fold graphs."""
    logits = torch.cat([v.logits for v in folds]).numpy()
    temperature = fit_temperature(logits, np.concatenate([v.codes for v in folds]))
    graphs = [
        make_graph(
            v.embedding,
            (v.logits / temperature).log_softmax(1),
            one_hot(v.codes, logits.shape[1]),
            settings,
        )
        for v in folds
    ]
    distance = [
        smooth(v.distance, g.neighbor_indices.numpy())
        for v, g in zip(folds, graphs, strict=True)
        if v.clean
    ]
    return CrossFit(temperature, graphs, [v.clean for v in folds], np.concatenate(distance), folds)
