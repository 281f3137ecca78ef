"""From a recipe to two trained levels: the order of the steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from scbignn_infer.annotation.scores import (
    calibrate,
    common_shift,
    residual,
    temperature_by,
)
from scbignn_infer.errors import InputError
from scbignn_infer.model.bundle import EMIteration, StudyScores
from scbignn_training import em, selection
from scbignn_training.augment import VIEWS, cut_genes, views
from scbignn_training.blocks import moments
from scbignn_training.calibrate import (
    Probe,
    calibration,
    distance_quantiles,
    fit_certainty,
    fit_temperature,
    fit_threshold,
    towards,
)
from scbignn_training.cell_level import cells_of_graph, level_steps
from scbignn_training.checkpoint import key_of
from scbignn_training.chosen import MOST_CELLS, MOST_VALUES, Wanted
from scbignn_training.crossfit import (
    BANK_CELLS,
    best_blend,
    cross_fit,
    fold_levels,
    misfit_and_coverage,
    probe,
    settle,
    strangeness,
)
from scbignn_training.data import (
    Cells,
    Origin,
    count_cells,
    join,
    read_study,
    relabelled,
    tell_species,
    told,
    unlabelled_cells,
    well_known,
)
from scbignn_training.depth import fit_label_threshold, fit_sets, labels_of
from scbignn_training.em import Pair
from scbignn_training.evaluate import confusions, f1_per_type, macro_f1
from scbignn_training.gaps import Gaps
from scbignn_training.gene_level import fit_gene_level, run_cells, steps_of
from scbignn_training.labels import found_in, placeholders
from scbignn_training.overlap import refuse_copies
from scbignn_training.profiles import ontology_of, read_profiles
from scbignn_training.progress import Progress
from scbignn_training.run import BARE
from scbignn_training.sampling import even, level, stratified
from scbignn_training.simulate import simulate
from scbignn_training.sizes import LARGE, is_fine, of_twins, suited

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import scipy.sparse as sp

    from scbignn_infer.model.bundle import Calibration, Certainty, Confusion
    from scbignn_training.cell_level import CellGraph
    from scbignn_training.crossfit import CrossFit, FoldView
    from scbignn_training.data import Reference, Study
    from scbignn_training.evaluate import Outcome
    from scbignn_training.labels import Finding
    from scbignn_training.profiles import ProfileSet
    from scbignn_training.recipe import FollowFile, Recipe, Source
    from scbignn_training.run import Run
    from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
HOLD_OUT = 5
"""The most twins that are trained to score studies left out."""
STUDY_PANELS = 2000, 500
"""Genes that studies left out are cut to, to fit the certainty."""
NEVER = -1e4
"""Logit of a type that a split does not know."""


@dataclass(frozen=True)
class HeldOut:
    """Scores on studies that were left out of the training in turn.

    Attributes
    ----------
    by_study
        Scores by the position of the study in the reference.
    per_type
        F1 of each type, pooled over the studies.
    """

    by_study: dict[int, StudyScores]
    per_type: dict[str, float]


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
    label_threshold, sets
        How sure a label must be that may be coarser than a type, and the power of the share of
        sets.
    certainty, probes
        How the temperature depends on a file, and the distorted cells that it was fitted on; of
        cells that were simulated neither is asked.
    bank, bank_codes, novelty_quantiles, residual_quantiles
        Reference embeddings (m, d), their label codes, and quantiles of held-out distances and
        residuals.
    scores, scores_per_type
        Out of fold.
    held_out
        Scores on held-out studies.
    confusions
        The worst, on held-out studies, or out of fold where there is one study.
    calibration
        On the cells that the temperature was fitted on: of held-out studies where there are
        several, which tell how sure the model may be of a study that it has not seen.
    n_unlabelled
        Unlabelled cells of each file.
    device
        Where the networks were trained.
    species, tissue, assays
        Of all cells; the latter as files of the CELLxGENE schema say.
    not_read
        Labelled cells of the files that were not read, by the reason.
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
    residual_quantiles: Array
    scores: dict[str, float]
    scores_per_type: dict[str, float]
    held_out: HeldOut
    confusions: list[Confusion]
    calibration: Calibration
    certainty: Certainty | None
    probes: list[Probe]
    n_unlabelled: list[int]
    label_threshold: float = 0.0
    sets: float = 1.0
    device: str = "cpu"
    species: str = ""
    tissue: str = ""
    assays: list[str] = field(default_factory=list)
    not_read: dict[str, int] = field(default_factory=dict)


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
        Out-of-fold graphs and temperature.
    variability
        (m,) standardised log dispersion of the ranked genes.
    """

    pair: Pair
    reference: Reference
    labelled: Cells
    unlabelled: Cells | None
    crossfit: CrossFit
    variability: Array

    def iterate(self, settings: Settings, iterations: int, run: Run = BARE) -> Iterator[Pair]:
        """Yield the pairs of EM, from iteration 0 on."""
        return em.iterate(
            self.pair,
            self.crossfit.graphs,
            self.labelled,
            self.unlabelled,
            settings,
            iterations=iterations,
            run=run,
        )


def train(recipe: Recipe, run: Run = BARE) -> Model:
    """Train the model of a recipe.

    Parameters
    ----------
    recipe
        Data, labels, settings.
    run
        Device, log and where finished stages are kept.

    Returns
    -------
    Model
        Ready for :func:`scbignn_training.pack.write_bundle`.

    Raises
    ------
    InputError
        A file is missing or differs from the recipe, or the data cannot be trained on.
    """
    run.say("reading the references")
    cells, profiles = read_cells(recipe, run)
    foreign = _read_foreign(recipe, run)
    species = tell_species(recipe.species, [*cells, *foreign])
    run.say(f"species: {species}" + ", by the genes" * (not recipe.species))
    reference = _join(recipe, cells, profiles)
    if reference.left_out:
        run.say(f"WARNING: {reference.left_out}; fewer than {recipe.min_cells} cells, or dropped")
    for row in found_in(cells, reference, recipe):
        run.say(f"labels: {row.labels}: {row.what}, {row.cells:,} cells")
    tissues = dict.fromkeys(c.tissue for c in cells if c.tissue)
    assays = dict.fromkeys(a for c in cells for a in c.assays)
    not_read: Counter[str] = Counter()
    for study in cells:
        not_read.update(study.left_out)
    del cells, profiles  # a large reference is there once
    model = fit(
        reference,
        foreign,
        recipe.settings,
        run,
        hold_out=recipe.hold_out,
        follow_file=recipe.follow_file,
    )
    if recipe.label_threshold is not None:
        model = replace(model, label_threshold=recipe.label_threshold)
    return replace(
        model,
        species=species,
        tissue=", ".join(tissues),
        assays=list(assays),
        not_read=dict(not_read),
    )


def read_reference(recipe: Recipe) -> Reference:
    """Read and join the labelled cells of a recipe.

    Raises
    ------
    InputError
        A file is missing or differs from the recipe, or the files do not go together.
    """
    return _join(recipe, *read_cells(recipe))


def check(recipe: Recipe) -> list[Finding]:
    """Return what is odd in the labels of a recipe, without training; errors as in train."""
    cells, profiles = read_cells(recipe)
    tell_species(recipe.species, cells)
    return found_in(cells, _join(recipe, cells, profiles), recipe)


def read_cells(recipe: Recipe, run: Run = BARE) -> tuple[list[Study], list[ProfileSet]]:
    """Return the labelled cells of a recipe, read and simulated, and its profiles."""
    profiles = read_tables(recipe)
    cells = _read_labelled(recipe, run)
    refuse_copies(cells)
    return [*cells, *_simulated(recipe, profiles)], profiles


def _rooms(recipe: Recipe, sources: Sequence[Source]) -> tuple[int, int]:
    """Return how many cells of each file may be read, and values of them; 0 for any number."""
    if recipe.max_cells is not None and not recipe.max_cells:
        return 0, 0
    most = MOST_CELLS if recipe.max_cells is None else recipe.max_cells
    room = level([count_cells(s.locate()) for s in sources], most) if len(sources) > 1 else most
    return room, MOST_VALUES * room // most if recipe.max_cells is None else 0


def _read_foreign(recipe: Recipe, run: Run) -> list[Study]:
    rooms = _rooms(recipe, recipe.foreign)
    return [
        read_study(
            s.locate(),
            wanted=Wanted(None, s.exclude, (), 0, *rooms, recipe.settings.seed),
            progress=Progress(run.say, unit="cells"),
        )
        for s in recipe.foreign
    ]


def _read_labelled(recipe: Recipe, run: Run) -> list[Study]:
    found: list[Study] = []
    rooms = _rooms(recipe, recipe.reference)
    for source in recipe.reference:
        wanted = Wanted(
            recipe.label_key,
            source.exclude,
            source.study_key,
            recipe.max_cells_per_type,
            *rooms,
            recipe.settings.seed,
        )
        study = read_study(source.locate(), wanted=wanted, progress=Progress(run.say, unit="cells"))
        for change in recipe.relabel:
            if not change.studies or source.called in change.studies:
                study = relabelled(study, change.label, change.to, change.genes)
        types = source.meanings()
        if types is not None:
            study = told(study, types)
        if len(recipe.reference) > 1 and study.studies is not None:
            # donors of different files may bear one name
            named = [f"{source.called}: {name}" for name in study.studies]
            study = replace(study, studies=np.array(named, dtype=object))
        found += replace(
            study,
            origin=Origin(
                source.called,
                file=source.file,
                study=source.study,
                reference=source.called,
                tissues=tuple(sorted({t.place for t in study.meant})),
            ),
        ).by_study()
    return found


def read_tables(recipe: Recipe) -> list[ProfileSet]:
    """Read the profiles of a recipe: a set for each data set.

    Raises
    ------
    InputError
        A table is missing or differs from the recipe, or is none of profiles.
    """
    return [
        replace(found, citation=_cited(found, s.citations))
        for s in recipe.profiles
        for found in read_profiles(
            s.locate(),
            columns=s.columns,
            include=s.include,
            exclude=s.exclude,
            types=s.meanings(),
            may_be_empty=bool(s.leave_out),  # a twin without the only study of a table
        )
    ]


def _cited(profiles: ProfileSet, citations: Mapping[str, str]) -> str:
    studies = (t.study for t in profiles.meant)
    return next((citations[s] for s in studies if s in citations), profiles.citation)


def _simulated(recipe: Recipe, profiles: list[ProfileSet]) -> list[Study]:
    return [simulate(p, recipe.simulation, recipe.settings.seed) for p in profiles]


def _join(recipe: Recipe, cells: list[Study], profiles: list[ProfileSet]) -> Reference:
    cells = well_known(cells, recipe.gene_studies)
    drop = [*recipe.drop, *placeholders(cells, recipe.keep)]
    joined = join(cells, merge=recipe.merge, drop=drop, min_cells=recipe.min_cells)
    meant = {t.label: t for c in cells for t in c.meant}
    said = {label: term for c in cells for label, term in c.ontology.items()}
    ontology = said | ontology_of(profiles, recipe.merge, recipe.ontology)
    groups = {i: name for name, i in recipe.ontology.items() if name not in joined.cell_types}
    places = {meant[label].place for label in joined.cell_types if label in meant}
    _refuse_tests(sorted(set(recipe.tested) - places), sorted(places))
    return replace(joined, ontology=ontology, meant=meant, groups=groups)


def _refuse_tests(tissues: list[str], known: list[str]) -> None:
    """Raise an InputError if a recipe tells of tests of tissues that no class has."""
    if tissues:
        raise InputError(
            f"tests of '{tissues[0]}'",
            expected=f"a tissue of the model: {', '.join(known) or 'it has none'}",
            do="mend tested in the recipe",
        )


def fit(
    reference: Reference,
    foreign: list[Study],
    settings: Settings,
    run: Run = BARE,
    *,
    hold_out: int = HOLD_OUT,
    follow_file: FollowFile = True,
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
    run
        As in :func:`train`.
    hold_out
        The most twins that are trained to score studies left out.
    follow_file
        Whether temperature and novelty follow what is typical of a file, or the first alone.

    Raises
    ------
    InputError
        Too few cells, or none with counts, or too few genes in common.
    """
    settings = suited(settings, reference)
    if np.bincount(reference.codes).min() < settings.folds:
        raise InputError(
            f"a type with {np.bincount(reference.codes).min()} cells",
            expected=f"at least {settings.folds} of each type, for {settings.folds} folds",
            do="raise --min-cells (min_cells in a recipe)",
        )
    validation, splits = selection.splits(reference, settings.folds, settings.seed, most=hold_out)
    by_study = validation == selection.STUDIES
    has_em = bool(foreign) and settings.em_iterations > 0
    if not by_study and not has_em:
        validation, splits = "out of fold", []
    n, most = len(reference.codes), settings.em_iterations if has_em else 0
    twin = of_twins(settings, reference)
    n_classes = len(reference.cell_types)
    steps = [_steps(len(inside), n_classes, twin, most) for inside, _ in splits]
    run = run.watched(
        lambda: key_of(reference, foreign, settings, run.device, hold_out=hold_out),
        steps=sum(steps) + _steps(n, n_classes, settings, most),
    )
    history: list[EMIteration] = []
    outcomes: list[Outcome] = []
    if splits:
        purpose = "choosing the EM iteration" if has_em else "scoring"
        run.say(f"{purpose}; held out: {validation}")
        found = [
            _split_outcomes(
                reference,
                foreign,
                *rows,
                twin,
                run=run.within(f"split {i + 1} of {len(splits)}"),
                follow_file=follow_file,
            )
            for i, rows in enumerate(splits)
        ]
        if not has_em or n > LARGE:
            found = [_at_once(outcome) for outcome in found]
        history, outcomes = selection.keep(found, settings.em_tolerance, run.iteration)
    iterations = next((h.iteration for h in history if h.kept), 0)
    run.progress.expect(_steps(n, n_classes, settings, iterations))
    run.say(f"training both levels on {n} cells")
    start = fit_start(reference, foreign, settings, run)
    if iterations:
        run.say(f"EM, {iterations} iterations")
    pair = list(start.iterate(settings, iterations, run))[-1]
    run.say("calibrating on out-of-fold cells")
    model = _calibrated(
        pair,
        start,
        history,
        validation=validation,
        settings=settings,
        foreign=foreign,
        run=run,
        follow_file=follow_file,
    )
    if by_study:
        model = _with_studies(model, outcomes, follow_file=follow_file)
    return replace(model, device=run.device)


def _with_studies(model: Model, outcomes: list[Outcome], *, follow_file: FollowFile) -> Model:
    """Add the scores of held-out studies, and be as sure as they allow.

    Where all cells were simulated, out-of-fold ones are all too much like the others: threshold and
    novelty come from the studies left out, too. Where some were, measured cells alone say how sure
    to be. How far cells may be from the reference is what out-of-fold cells say, moved towards
    what those of studies left out say.
    """
    truth = np.concatenate([o.truth for o in outcomes])
    logits = np.concatenate([o.logits for o in outcomes])
    batches = np.concatenate([o.batches for o in outcomes])
    follows = follow_file is True and model.certainty is not None
    model = _with_distances(model, outcomes, follows=follows)
    origins = model.reference.origins
    drawn = np.isin(batches, [i for i, o in enumerate(origins) if o.simulated])
    both = any(o.simulated for o in origins) and not drawn.all()
    if both and not model.reference.judges.any():
        return model
    model = _with_scores(model, truth, np.concatenate([o.called for o in outcomes]), batches)
    judged = ~drawn if both else np.ones(len(truth), dtype=bool)
    temperature = fit_temperature(logits[judged], truth[judged])
    probabilities = calibrate(logits[judged], temperature)
    certainty = model.certainty
    if certainty is not None and any(o.probes for o in outcomes):
        certainty = fit_certainty([model.probes, [p for o in outcomes for p in o.probes]])
        sure = [_sure(certainty, o) if o.probes else o.logits for o in outcomes]
        probabilities = np.concatenate(sure)[judged]
    if certainty is None:
        model = replace(model, threshold=fit_threshold(probabilities, truth[judged]))
    return replace(
        _with_depth(model, probabilities, truth[judged], batches[judged]),
        temperature=temperature,
        certainty=certainty,
        calibration=calibration(probabilities, truth[judged]),
    )


def _with_scores(model: Model, truth: Array, called: Array, batches: Array) -> Model:
    """Add the scores of cells (n,) of studies left out."""
    types = model.reference.cell_types
    by_study = {}
    for study in dict.fromkeys(batches.tolist()):
        y, said = truth[batches == study], called[batches == study]
        by_study[study] = StudyScores(
            accuracy=round(float((said == y).mean()), 4),
            macro_f1=round(macro_f1(y, said), 4),
            n_cells=len(y),
        )
    return replace(
        model,
        held_out=HeldOut(by_study, f1_per_type(truth, called, types)),
        confusions=confusions(truth, called, types),
    )


def _with_distances(model: Model, outcomes: list[Outcome], *, follows: bool) -> Model:
    """Scale novelty by studies left out: alone, or beside out-of-fold cells if it follows files."""
    apart = [o for o in outcomes if len(o.distance)]
    if not apart:
        return model
    distance, off = (
        distance_quantiles(np.concatenate(parts))
        for parts in ([o.distance for o in apart], [o.residual for o in apart])
    )
    if follows:
        distance = towards(model.novelty_quantiles, distance)
        off = towards(model.residual_quantiles, off)
    return replace(model, novelty_quantiles=distance, residual_quantiles=off)


def _with_depth(model: Model, probabilities: Array, codes: Array, studies: Array) -> Model:
    """Fit how sure labels of any depth must be, and sets of them, on unseen cells of studies."""
    grouping, ontology = labels_of(model.reference)
    cells = grouping.sum(probabilities), grouping.group[codes], studies
    threshold = fit_label_threshold(ontology, *cells)
    return replace(model, label_threshold=threshold, sets=fit_sets(*cells))


def _sure(certainty: Certainty, outcome: Outcome) -> Array:
    """Return the probabilities (n, c) of held-out cells as they are."""
    as_is = outcome.probes[0]
    return calibrate(outcome.logits, temperature_by(certainty, as_is.coverage, as_is.misfit))


def _steps(n_cells: int, n_classes: int, settings: Settings, em_iterations: int) -> int:
    """Return the steps of the networks of all folds, of all cells and of EM, and of cell levels."""
    outside = n_cells // settings.folds
    inside = n_cells - outside
    first = settings.folds * steps_of(inside, settings) + steps_of(n_cells, settings)
    graphs = [min(outside, cells_of_graph(n_classes, settings))] * VIEWS * settings.folds
    levels = level_steps(graphs, n_classes, settings) * (1 + (settings.teacher == "cell"))
    again = steps_of(n_cells, settings, again=True)
    return first + levels + em_iterations * (again + levels)


def fit_start(
    reference: Reference, foreign: list[Study], settings: Settings, run: Run = BARE
) -> Start:
    """Train both levels on gold labels."""
    reference = reference.in_rank_order(settings.ranked_genes)
    labelled = reference.cells(min(settings.ranked_genes, len(reference.symbols)))
    n_classes, m = len(reference.cell_types), len(labelled.present)
    unlabelled = unlabelled_cells(reference, foreign, m, min(settings.net_genes, m))
    if unlabelled is not None:
        most = cells_of_graph(n_classes, settings)
        of_one_type = np.zeros(len(unlabelled.totals), np.int64)
        unlabelled = unlabelled.subset(stratified(of_one_type, most, settings.seed))
    x = labelled.expression
    variability = _variability(x, labelled.gaps)
    levels = fold_levels(labelled, n_classes, settings, run)
    if is_fine(reference) and len(np.unique(reference.studies)) == 1:
        settings = msgspec.structs.replace(settings, blend=best_blend(labelled, levels, settings))
        for fold in levels:
            fold.level.blend = settings.blend
    crossfit = settle(
        cross_fit(labelled, levels, variability, settings, measured=reference.judges), settings
    )
    cell, teacher = em.fit_cells(crossfit.graphs, settings, run=run)
    everything = run.within("all cells")
    gene = fit_gene_level(
        x,
        labelled.codes,
        n_classes,
        settings,
        seed=settings.seed,
        run=everything,
        gaps=labelled.gaps,
    )
    gene.temperature = crossfit.temperature
    return Start(Pair(gene, cell, teacher), reference, labelled, unlabelled, crossfit, variability)


def _at_once(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Yield outcomes of a split that is done with, and its cells, before the next one begins."""
    yield from list(outcomes)


def _split_outcomes(
    reference: Reference,
    foreign: list[Study],
    inside: Array,
    outside: Array,
    settings: Settings,
    *,
    run: Run = BARE,
    follow_file: FollowFile = True,
) -> Iterator[Outcome]:
    """Yield what EM iterations trained without the held-out cells make of them.

    A study is scored as it is; cells of the same studies also thinned and with genes cut. Many
    cells are scored by a sample, small types whole.
    """
    start = fit_start(reference.subset(inside), foreign, settings, run)
    m = len(start.labelled.present)
    code = {t: i for i, t in enumerate(start.reference.cell_types)}
    most = cells_of_graph(len(code), settings)
    unseen = reference.subset(outside[stratified(reference.codes[outside], most, settings.seed)])
    column = {s: i for i, s in enumerate(reference.symbols)}
    order = [column[s] for s in start.reference.symbols[:m]]
    counts = unseen.counts[:, order]
    gaps = None if unseen.measured is None else Gaps(unseen.batches, unseen.measured[:, order])
    codes = np.array([code[unseen.cell_types[c]] for c in unseen.codes], np.int64)
    generator = np.random.default_rng(settings.seed)
    shown = views(counts, unseen.totals, start.variability, generator)
    if not np.isin(reference.batches[outside], reference.batches[inside]).any():
        shown = shown[:1]
    held_out = [Cells(*view, codes, gaps) for view in shown]
    place = np.array([reference.cell_types.index(t) for t in start.reference.cell_types])
    for pair in start.iterate(settings, settings.em_iterations, run):
        found = em.validate(pair, held_out, settings)
        if reference.simulated.all():
            found = _with_strangeness(found, pair, start.labelled, held_out[0], settings)
        elif len(held_out) == 1 and not unseen.simulated.all():
            real = held_out[0].subset(np.flatnonzero(~unseen.simulated))
            probes = _study_probes(pair, real, settings) if follow_file else []
            found = replace(found, probes=probes)
            found = _with_strangeness(
                found, pair, start.labelled, real, settings, shifted=follow_file is True
            )
        logits = np.full((len(found.truth), len(reference.cell_types)), NEVER, np.float32)
        logits[:, place] = found.logits
        yield replace(
            found,
            truth=place[found.truth],
            called=place[found.called],
            logits=logits,
            batches=unseen.batches,
        )


@torch.no_grad()
def _study_probes(pair: Pair, cells: Cells, settings: Settings) -> list[Probe]:
    """Return what a pair says of a study's cells as they are, and cut to their variable genes."""
    _, variance = moments(cells.expression, cells.gaps)
    order = np.argsort(-variance, kind="stable")
    found = []
    for size in (len(order), *STUDY_PANELS):
        present = np.zeros(len(order), dtype=bool)
        present[order[:size]] = True
        cut = replace(cells, counts=cut_genes(cells.counts, present), present=present)
        graph = em.run_gene_level(pair.gene, cut, settings)
        said = pair.cell(graph.gene_logits, graph).numpy()
        known = misfit_and_coverage(pair.gene, cut, settings)
        found.append(Probe(said, cells.codes, *known))
    return found


@torch.no_grad()
def _with_strangeness(
    found: Outcome,
    pair: Pair,
    known: Cells,
    cells: Cells,
    settings: Settings,
    *,
    shifted: bool = False,
) -> Outcome:
    graph = em.run_gene_level(pair.gene, cells, settings)
    called = pair.cell(graph.gene_logits, graph).numpy().argmax(axis=1)
    distance, off = strangeness(
        pair.gene, known, cells, graph, called=called, settings=settings, shifted=shifted
    )
    return replace(found, distance=distance, residual=off)


def _variability(x: sp.csr_matrix, gaps: Gaps | None) -> Array:
    """Return the standardised log dispersion of each gene."""
    mean, variance = moments(x, gaps)
    dispersion = np.log(np.maximum(variance / (mean + 0.05), 1e-6))
    standard: Array = (dispersion - dispersion.mean()) / dispersion.std()
    return standard


@torch.no_grad()
def _calibrated(
    pair: Pair,
    start: Start,
    history: list[EMIteration],
    *,
    validation: str,
    settings: Settings,
    foreign: list[Study],
    run: Run,
    follow_file: FollowFile = True,
) -> Model:
    """Fit temperature, threshold and the novelty scale out of fold, and score the cells there."""
    crossfit, labelled, reference = start.crossfit, start.labelled, start.reference
    logits = [start.pair.cell(g.gene_logits, g).numpy() for g in crossfit.graphs]
    codes = [g.targets.argmax(1).numpy() for g in crossfit.graphs]
    temperature = fit_temperature(np.concatenate(logits), np.concatenate(codes))
    clean = [i for i, shown in enumerate(crossfit.clean) if shown]
    truth = np.concatenate([codes[i] for i in clean])
    every = calibrate(np.concatenate(logits), temperature)
    shown = np.arange(len(codes)) % (len(codes) // len(clean))
    views = np.repeat(shown, [len(y) for y in codes])
    probabilities = calibrate(np.concatenate([logits[i] for i in clean]), temperature)
    best = probabilities.argmax(axis=1)
    measured = np.concatenate([crossfit.views[i].measured for i in clean])
    judged = measured if measured.any() else np.ones(len(truth), dtype=bool)
    real = bool(measured.any())
    shifted = real and follow_file is True
    off = [
        _residual(crossfit.views[i], crossfit.graphs[i], logits[i].argmax(1), shifted=shifted)
        for i in clean
    ]
    probes = [
        probe(p, crossfit.temperature, start.pair.cell, settings)
        for view in crossfit.views
        for p in view.probes
    ]
    if not history:
        history = [_out_of_fold(crossfit.graphs, logits, codes)]
        run.iteration(history[0])
    rows = even(labelled.codes, BANK_CELLS, settings.seed)
    bank, _ = run_cells(pair.gene, labelled.subset(rows), settings)
    model = Model(
        pair=pair,
        reference=reference,
        history=history,
        validation=validation,
        temperature=temperature,
        threshold=fit_threshold(probabilities[judged], truth[judged]),
        bank=torch.nn.functional.normalize(bank).numpy(),
        bank_codes=labelled.codes[rows],
        novelty_quantiles=distance_quantiles(crossfit.distance[judged]),
        residual_quantiles=distance_quantiles(np.concatenate(off)[judged]),
        scores={
            "out_of_fold_accuracy": round(float((best == truth).mean()), 4),
            "out_of_fold_macro_f1": round(macro_f1(truth, best), 4),
        },
        scores_per_type=f1_per_type(truth, best, reference.cell_types),
        held_out=HeldOut({}, {}),
        confusions=confusions(truth, best, reference.cell_types),
        calibration=calibration(probabilities, truth),
        certainty=fit_certainty([probes]) if real and follow_file else None,
        probes=probes,
        n_unlabelled=[s.counts.shape[0] for s in foreign],
    )
    return _with_depth(model, every, np.concatenate(codes), views)


def _residual(view: FoldView, graph: CellGraph, called: Array, *, shifted: bool) -> Array:
    """Return the residual of a fold's cells, less what its types have in common if it is asked."""
    mean = view.profile[0]
    shift = common_shift(view.scaled, called, mean) if shifted else 0.0
    return residual(view.scaled, graph.neighbor_indices.numpy(), called, *view.profile, shift=shift)


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
