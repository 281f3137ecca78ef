"""From a recipe to two trained levels: the order of the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scbignn_infer.bundle import EMIteration
from scbignn_infer.errors import InputError
from scbignn_infer.expression import Densifier
from scbignn_infer.genes import match_genes
from scbignn_infer.results import smooth
from scbignn_training import statistics
from scbignn_training.augment import views
from scbignn_training.calibrate import distance_quantiles, fit_temperature, fit_threshold
from scbignn_training.cell_level import CellGraph, make_graph
from scbignn_training.data import Cells as FileCells
from scbignn_training.data import (
    Reference,
    join,
    log_expression,
    rank_genes,
    read_cells,
    split,
)
from scbignn_training.em import Cells, Pair, fit_cells, one_hot, run_em, run_gene_level
from scbignn_training.evaluate import f1_per_type, macro_f1
from scbignn_training.gene_level import GeneLevel, Panel, fit_network
from scbignn_training.recipe import Recipe
from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
BANK_CELLS = 4000
MIN_UNLABELLED_GENES = 50


@dataclass(frozen=True)
class Model:
    """A trained pair and all that its bundle records.

    Attributes
    ----------
    pair
        Both levels.
    reference
        The joined labelled cells, genes in rank order.
    train, validation
        Row numbers of the reference.
    history
        EM iterations.
    temperature, threshold
        Of the final probabilities.
    bank, bank_codes, novelty_quantiles
        Reference embeddings (m, d), their label codes, and quantiles of held-out distances.
    scores, scores_per_type
        On held-out cells.
    n_unlabelled
        Unlabelled cells of each file.
    """

    pair: Pair
    reference: Reference
    train: Array
    validation: Array
    history: list[EMIteration]
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
    files = [
        read_cells(s.locate(), label_key=recipe.label_key, exclude=s.exclude)
        for s in recipe.reference
    ]
    foreign = [read_cells(s.locate(), exclude=s.exclude) for s in recipe.unlabelled]
    reference = join(files, merge=recipe.merge, drop=recipe.drop, min_cells=recipe.min_cells)
    return fit(reference, foreign, recipe.settings, log)


def fit(
    reference: Reference, foreign: list[FileCells], settings: Settings, log: Log | None = None
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
    n_classes = len(reference.cell_types)
    train_rows, validation_rows = split(reference.codes, settings.validation_share, settings.seed)
    if len(validation_rows) == 0:
        raise InputError(
            f"{len(reference.codes)} cells of {n_classes} types are too few to hold any out",
            expected="a type with at least 10 cells",
            do="give more cells, or raise validation_share in a recipe",
        )
    reference = _in_rank_order(reference, train_rows, settings)
    m = min(settings.ranked_genes, len(reference.symbols))
    everything = np.ones(m, dtype=bool)
    counts, totals = reference.counts[:, :m].toarray(), reference.totals
    labelled = Cells(
        counts[train_rows], totals[train_rows], everything, reference.codes[train_rows]
    )
    x = log_expression(labelled.counts, labelled.totals)
    variability = _variability(x)
    generator = np.random.default_rng(settings.seed)
    held_out = [
        Cells(*view, reference.codes[validation_rows])
        for view in views(counts[validation_rows], totals[validation_rows], variability, generator)
    ]

    log.stage(f"cross-fitting {settings.folds} gene levels on {len(train_rows)} cells")
    folds = cross_fit(labelled, n_classes, variability, settings)
    blend, temperature, graphs = blend_folds(folds, settings)
    log.stage("training the gene level and the cell level")
    cells_per_type = np.bincount(labelled.codes, minlength=n_classes)
    cell, teacher = fit_cells(graphs, cells_per_type, settings)
    gene = fit_gene_level(x, labelled.codes, n_classes, settings, settings.seed)
    gene = GeneLevel(gene.net, gene.statistics, _logistic(gene), blend, temperature).eval()

    unlabelled = _unlabelled(reference, foreign, m, settings)
    log.stage(
        f"EM on {len(unlabelled.counts)} unlabelled cells"
        if unlabelled
        else "no unlabelled cells: EM ends after its first M-step"
    )
    start = Pair(gene, cell, teacher)
    pair, history = run_em(start, graphs, labelled, unlabelled, held_out, settings, log.iteration)
    log.stage("calibrating on held-out cells")
    return _calibrated(
        pair,
        reference,
        train_rows,
        validation_rows,
        labelled,
        held_out,
        history,
        settings,
        [f.counts.shape[0] for f in foreign],
    )


def fit_gene_level(
    x: Array, codes: Array, n_classes: int, settings: Settings, seed: int
) -> GeneLevel:
    """Fit network, statistics and logistic head on labelled expression (n, ranked genes)."""
    net_genes = min(settings.net_genes, x.shape[1])
    tables = statistics.estimate(x, codes, n_classes, settings)
    logistic = statistics.fit_logistic(x, codes, n_classes, tables, settings)
    inputs = torch.from_numpy(np.ascontiguousarray(x[:, :net_genes]))
    net = fit_network(inputs, torch.from_numpy(codes), n_classes, settings, seed=seed)
    return GeneLevel(net, tables, logistic).eval()


@dataclass(frozen=True)
class FoldView:
    """One view of the held-out cells of one fold: embedding, log-probabilities of each head."""

    embedding: torch.Tensor
    parts: tuple[torch.Tensor, ...]
    codes: Array


def cross_fit(
    labelled: Cells, n_classes: int, variability: Array, settings: Settings
) -> list[FoldView]:
    """Let gene levels label cells that they have not seen, as other studies might show them."""
    from sklearn.model_selection import StratifiedKFold

    generator = np.random.default_rng(settings.seed)
    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    x = log_expression(labelled.counts, labelled.totals)
    found = []
    for i, (inside, outside) in enumerate(folds.split(x, labelled.codes)):
        level = fit_gene_level(
            x[inside], labelled.codes[inside], n_classes, settings, settings.seed + 100 + i
        )
        codes = labelled.codes[outside]
        for counts, totals, present in views(
            labelled.counts[outside], labelled.totals[outside], variability, generator
        ):
            panel = Panel(level, present, settings.panel_genes)
            embedding, *parts = panel.run(counts, totals, "parts")
            found.append(FoldView(embedding, tuple(parts), codes))
    return found


def blend_folds(
    folds: list[FoldView], settings: Settings
) -> tuple[tuple[float, float], float, list[CellGraph]]:
    """Choose blend and temperature of the gene level out of fold, and build the fold graphs.

    Returns
    -------
    blend, temperature, graphs
        The first blend within .002 of the best mean macro-F1; the temperature of the blended
        logits; and the graphs that the cell level learns from.
    """

    def blended(view: FoldView, blend: tuple[float, float]) -> torch.Tensor:
        net, linear, logistic = view.parts
        return net + blend[0] * linear + blend[1] * logistic

    score = {
        b: np.mean([macro_f1(v.codes, blended(v, b).argmax(1).numpy()) for v in folds])
        for b in settings.blends
    }
    chosen = next(b for b in settings.blends if score[b] >= max(score.values()) - 0.002)
    logits = torch.cat([blended(v, chosen) for v in folds]).numpy()
    temperature = fit_temperature(logits, np.concatenate([v.codes for v in folds]))
    graphs = [
        make_graph(
            v.embedding,
            (blended(v, chosen) / temperature).log_softmax(1),
            one_hot(v.codes, logits.shape[1]),
            settings,
        )
        for v in folds
    ]
    return chosen, temperature, graphs


def _in_rank_order(reference: Reference, rows: Array, settings: Settings) -> Reference:
    """Put the ranked genes first; the others follow, for the totals."""
    n = min(settings.ranked_genes, len(reference.symbols))
    ranked = rank_genes(reference.counts[rows], reference.totals[rows], reference.codes[rows], n)
    order = np.concatenate([ranked, np.setdiff1d(np.arange(len(reference.symbols)), ranked)])
    return replace(
        reference,
        counts=reference.counts[:, order].tocsr(),
        symbols=[reference.symbols[i] for i in order],
        ensembl_ids=[reference.ensembl_ids[i] for i in order],
    )


def _variability(x: Array) -> Array:
    """Return the standardised log dispersion of each gene."""
    dispersion = np.log(np.maximum(x.var(axis=0) / (x.mean(axis=0) + 0.05), 1e-6))
    standard: Array = (dispersion - dispersion.mean()) / dispersion.std()
    return standard


def _logistic(level: GeneLevel) -> tuple[Array, Array]:
    return level.logistic_weight.numpy(), level.logistic_bias.numpy()


def _unlabelled(
    reference: Reference, foreign: list[FileCells], m: int, settings: Settings
) -> Cells | None:
    """Bring unlabelled files to the ranked genes, as the runtime would."""
    if not foreign:
        return None
    parts = []
    present = np.ones(m, dtype=bool)
    for cells in foreign:
        match = match_genes(
            {"symbol": cells.symbols, "ensembl_id": cells.ensembl_ids},
            reference.symbols,
            reference.ensembl_ids,
            net_genes=min(settings.net_genes, m),
            min_genes=MIN_UNLABELLED_GENES,
        )
        densify = Densifier.make(
            match.reference_index, reference.gene_share, np.arange(m), "counts"
        )
        parts.append(densify(cells.counts))
        present &= match.present[:m]
    counts = np.concatenate([c for c, _ in parts]) * present
    totals = np.concatenate([t for _, t in parts])[:, 0]
    seen = totals > 0
    if not seen.any():
        raise InputError(
            "no unlabelled cell has a count on a gene of the reference",
            expected="at least one",
            do="give other --unlabelled files, or exclude fewer of their cells",
        )
    return Cells(counts[seen], totals[seen], present, np.empty(0, np.int64))


@torch.no_grad()
def _calibrated(
    pair: Pair,
    reference: Reference,
    train_rows: Array,
    validation_rows: Array,
    labelled: Cells,
    held_out: list[Cells],
    history: list[EMIteration],
    settings: Settings,
    n_unlabelled: list[int],
) -> Model:
    """Fit temperature, threshold and the novelty scale, and score the held-out cells."""
    graphs = [run_gene_level(pair.gene, cells, settings) for cells in held_out]
    logits = [pair.cell(g.gene_logits, g).numpy() for g in graphs]
    codes = held_out[0].codes
    temperature = fit_temperature(np.concatenate(logits), np.tile(codes, len(logits)))
    clean = torch.from_numpy(logits[0] / temperature).softmax(1).numpy()
    panel = Panel(pair.gene, labelled.present, settings.panel_genes)
    bank, _ = panel.run(labelled.counts, labelled.totals)
    rows = _bank_rows(labelled.codes, settings.seed)
    bank = torch.nn.functional.normalize(bank[rows])
    similarity = torch.nn.functional.normalize(graphs[0].embedding) @ bank.T
    distance = smooth((1 - similarity.amax(1)).numpy(), graphs[0].neighbor_indices.numpy())
    best = clean.argmax(axis=1)
    return Model(
        pair=pair,
        reference=reference,
        train=train_rows,
        validation=validation_rows,
        history=history,
        temperature=temperature,
        threshold=fit_threshold(clean, codes),
        bank=bank.numpy(),
        bank_codes=labelled.codes[rows],
        novelty_quantiles=distance_quantiles(distance),
        scores={
            "validation_accuracy": round(float((best == codes).mean()), 4),
            "validation_macro_f1": round(macro_f1(codes, best), 4),
        },
        scores_per_type=f1_per_type(codes, best, reference.cell_types),
        n_unlabelled=n_unlabelled,
    )


def _bank_rows(codes: Array, seed: int) -> Array:
    """Choose up to 4,000 cells for the bank: all of small types, a like number of large ones."""
    if len(codes) <= BANK_CELLS:
        return np.arange(len(codes))
    order = np.random.default_rng(seed).permutation(len(codes))
    place = np.empty(len(codes), np.int64)  # the how-manieth of its type each cell is
    for code in np.unique(codes):
        of_type = order[codes[order] == code]
        place[of_type] = np.arange(len(of_type))
    return np.sort(np.argsort(place, kind="stable")[:BANK_CELLS])
