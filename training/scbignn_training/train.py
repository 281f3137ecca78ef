"""From a recipe to two trained levels: the order of the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scbignn_infer.bundle import EMIteration
from scbignn_infer.errors import InputError
from scbignn_infer.results import calibrate
from scbignn_training import em, selection
from scbignn_training.augment import views
from scbignn_training.calibrate import distance_quantiles, fit_temperature, fit_threshold
from scbignn_training.cell_level import CellGraph
from scbignn_training.crossfit import CrossFit, cross_fit, settle
from scbignn_training.data import Cells, Reference, Study, join, read_study, unlabelled_cells
from scbignn_training.em import Pair
from scbignn_training.evaluate import f1_per_type, macro_f1
from scbignn_training.gene_level import GeneLevel, Panel, fit_gene_level
from scbignn_training.recipe import Recipe
from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
BANK_CELLS = 4000


@dataclass(frozen=True)
class Model:
    """A trained pair and all that its bundle records.

    Attributes
    ----------
    pair
        Both levels, of one EM iteration.
    reference
        The joined labelled cells, genes in rank order.
    history
        EM iterations with their validation scores.
    validation
        What was held out for the history.
    temperature, threshold
        Of the final probabilities.
    bank, bank_codes, novelty_quantiles
        Reference embeddings (m, d), their label codes, and quantiles of held-out distances.
    scores, scores_per_type
        Out of fold.
    n_unlabelled
        Unlabelled cells of each file.
    """

    pair: Pair
    reference: Reference
    history: list[EMIteration]
    validation: str
    temperature: float
    threshold: float
    bank: Array
    bank_codes: Array
    novelty_quantiles: Array
    scores: dict[str, float]
    scores_per_type: dict[str, float]
    n_unlabelled: list[int]


@dataclass(frozen=True)
class Log:
    """Where the progress of a training goes.

    Attributes
    ----------
    stage
        Called with one line at the start of each stage.
    iteration
        Called after each EM iteration.
    """

    stage: Callable[[str], None] = lambda line: None
    iteration: Callable[[EMIteration], None] = lambda row: None


@dataclass(frozen=True)
class Start:
    """Both levels trained on gold labels alone, and what EM goes on from.

    Attributes
    ----------
    pair
        Iteration 0.
    reference
        The labelled cells, genes in rank order.
    labelled, unlabelled
        Cells over the ranked genes.
    crossfit
        Out-of-fold graphs, blend and temperature.
    variability
        (m,) standardised log dispersion of the ranked genes.
    """

    pair: Pair
    reference: Reference
    labelled: Cells
    unlabelled: Cells | None
    crossfit: CrossFit
    variability: Array

    def iterate(self, settings: Settings, iterations: int) -> Iterator[Pair]:
        """Yield the pairs of EM, from iteration 0 on."""
        graphs = self.crossfit.graphs
        return em.iterate(self.pair, graphs, self.labelled, self.unlabelled, settings, iterations)


def train(recipe: Recipe, log: Log | None = None) -> Model:
    """Train the model of a recipe.

    Parameters
    ----------
    recipe
        Data, labels, settings.
    log
        Receives progress.

    Returns
    -------
    Model
        Ready for :func:`scbignn_training.pack.write_bundle`.

    Raises
    ------
    InputError
        A file is missing or differs from the recipe, or the data cannot be trained on.
    """
    log = log or Log()
    log.stage("reading the references")
    studies = [
        read_study(s.locate(), label_key=recipe.label_key, exclude=s.exclude)
        for s in recipe.reference
    ]
    foreign = [read_study(s.locate(), exclude=s.exclude) for s in recipe.foreign]
    reference = join(studies, merge=recipe.merge, drop=recipe.drop, min_cells=recipe.min_cells)
    return fit(reference, foreign, recipe.settings, log)


def fit(
    reference: Reference, foreign: list[Study], settings: Settings, log: Log | None = None
) -> Model:
    """Train on labelled cells, with EM on those of ``foreign`` files.

    Parameters
    ----------
    reference
        Labelled cells.
    foreign
        Unlabelled cells.
    settings
        All hyper-parameters.
    log
        Receives progress.

    Raises
    ------
    InputError
        Too few cells, or none with counts, or too few genes in common.
    """
    log = log or Log()
    if np.bincount(reference.codes).min() < settings.folds:
        raise InputError(
            f"a type with {np.bincount(reference.codes).min()} cells",
            expected=f"at least {settings.folds} of each type, for {settings.folds} folds",
            do="raise --min-cells (min_cells in a recipe)",
        )
    history: list[EMIteration] = []
    validation = "out of fold"
    if foreign and settings.em_iterations > 0:
        validation, splits = selection.splits(reference, settings.folds, settings.seed)
        log.stage(f"choosing the EM iteration; held out: {validation}")
        scores = [_split_scores(reference, foreign, *rows, settings) for rows in splits]
        history = selection.keep(scores, settings.em_tolerance, log.iteration)
    log.stage(f"training both levels on {len(reference.codes)} cells")
    start = fit_start(reference, foreign, settings)
    iterations = next((h.iteration for h in history if h.kept), 0)
    if iterations:
        log.stage(f"EM, {iterations} iterations")
    pair = list(start.iterate(settings, iterations))[-1]
    log.stage("calibrating on out-of-fold cells")
    return _calibrated(pair, start, history, validation, settings, foreign, log)


def fit_start(reference: Reference, foreign: list[Study], settings: Settings) -> Start:
    """Train both levels on gold labels."""
    reference = reference.in_rank_order(settings.ranked_genes)
    labelled = reference.cells(min(settings.ranked_genes, len(reference.symbols)))
    n_classes, m = len(reference.cell_types), len(labelled.present)
    unlabelled = unlabelled_cells(reference, foreign, m, min(settings.net_genes, m))
    x = labelled.expression
    variability = _variability(x)
    crossfit = settle(cross_fit(labelled, n_classes, variability, settings), settings)
    cell, teacher = em.fit_cells(crossfit.graphs, settings)
    gene = fit_gene_level(x, labelled.codes, n_classes, settings, settings.seed)
    gene = GeneLevel(
        gene.net, gene.statistics, gene.logistic, crossfit.blend, crossfit.temperature
    ).eval()
    return Start(Pair(gene, cell, teacher), reference, labelled, unlabelled, crossfit, variability)


def _split_scores(
    reference: Reference, foreign: list[Study], inside: Array, outside: Array, settings: Settings
) -> Iterator[selection.Score]:
    """Yield the scores of EM iterations trained without the held-out cells.

    A study is scored as it is; cells of the same studies also thinned and with genes cut.
    """
    part = reference.subset(inside)
    start = fit_start(part, foreign, settings)
    m = len(start.labelled.present)
    code = {t: i for i, t in enumerate(start.reference.cell_types)}
    unseen = reference.subset(outside)
    column = {s: i for i, s in enumerate(reference.symbols)}
    counts = unseen.counts[:, [column[s] for s in start.reference.symbols[:m]]].toarray()
    codes = np.array([code[unseen.cell_types[c]] for c in unseen.codes], np.int64)
    generator = np.random.default_rng(settings.seed)
    shown = views(counts, unseen.totals, start.variability, generator)
    if not np.isin(reference.batches[outside], reference.batches[inside]).any():
        shown = shown[:1]
    held_out = [Cells(*view, codes) for view in shown]
    for pair in start.iterate(settings, settings.em_iterations):
        yield em.validate(pair, held_out, settings)


def _variability(x: Array) -> Array:
    """Return the standardised log dispersion of each gene."""
    dispersion = np.log(np.maximum(x.var(axis=0) / (x.mean(axis=0) + 0.05), 1e-6))
    standard: Array = (dispersion - dispersion.mean()) / dispersion.std()
    return standard


@torch.no_grad()
def _calibrated(
    pair: Pair,
    start: Start,
    history: list[EMIteration],
    validation: str,
    settings: Settings,
    foreign: list[Study],
    log: Log,
) -> Model:
    """Fit temperature, threshold and the novelty scale out of fold, and score the cells there."""
    crossfit, labelled, reference = start.crossfit, start.labelled, start.reference
    logits = [start.pair.cell(g.gene_logits, g).numpy() for g in crossfit.graphs]
    codes = [g.targets.argmax(1).numpy() for g in crossfit.graphs]
    temperature = fit_temperature(np.concatenate(logits), np.concatenate(codes))
    clean = [i for i, shown in enumerate(crossfit.clean) if shown]
    truth = np.concatenate([codes[i] for i in clean])
    probabilities = calibrate(np.concatenate([logits[i] for i in clean]), temperature)
    best = probabilities.argmax(axis=1)
    if not history:
        history = [_out_of_fold(crossfit.graphs, logits, codes)]
        log.iteration(history[0])
    panel = Panel(pair.gene, labelled.present, settings.panel_genes)
    rows = _bank_rows(labelled.codes, settings.seed)
    bank, _ = panel.run(labelled.counts[rows], labelled.totals[rows])
    return Model(
        pair=pair,
        reference=reference,
        history=history,
        validation=validation,
        temperature=temperature,
        threshold=fit_threshold(probabilities, truth),
        bank=torch.nn.functional.normalize(bank).numpy(),
        bank_codes=labelled.codes[rows],
        novelty_quantiles=distance_quantiles(crossfit.distance),
        scores={
            "out_of_fold_accuracy": round(float((best == truth).mean()), 4),
            "out_of_fold_macro_f1": round(macro_f1(truth, best), 4),
        },
        scores_per_type=f1_per_type(truth, best, reference.cell_types),
        n_unlabelled=[s.counts.shape[0] for s in foreign],
    )


def _out_of_fold(graphs: list[CellGraph], logits: list[Array], codes: list[Array]) -> EMIteration:
    """Return iteration 0 with the mean scores over all views."""
    gene = [
        macro_f1(y, g.gene_logits.argmax(1).numpy()) for g, y in zip(graphs, codes, strict=True)
    ]
    cell = [macro_f1(y, o.argmax(1)) for o, y in zip(logits, codes, strict=True)]
    return EMIteration(
        iteration=0,
        gene_level_f1=float(np.mean(gene)),
        cell_level_f1=float(np.mean(cell)),
        kept=True,
        seconds=0.0,
    )


def _bank_rows(codes: Array, seed: int) -> Array:
    """Choose up to 4,000 cells for the bank: all of small types, a like number of large ones."""
    if len(codes) <= BANK_CELLS:
        return np.arange(len(codes))
    order = np.random.default_rng(seed).permutation(len(codes))
    place = selection.place_in_type(codes, order)
    return np.sort(np.argsort(place, kind="stable")[:BANK_CELLS])
