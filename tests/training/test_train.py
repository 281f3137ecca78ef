from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import anndata as ad
import msgspec
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from scbignn_infer.annotation.scores import calibrate
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError
from scbignn_infer.query.gene_names import GeneNames
from scbignn_training import em, selection
from scbignn_training import train as module
from scbignn_training.blocks import with_values
from scbignn_training.calibrate import fit_temperature, fit_threshold
from scbignn_training.crossfit import cross_fit, fold_levels
from scbignn_training.data import rank_genes, read_study
from scbignn_training.evaluate import Outcome, f1_per_type, macro_f1
from scbignn_training.gene_level import Panel
from scbignn_training.pack import write_bundle
from scbignn_training.recipe import Source
from scbignn_training.run import Run
from scbignn_training.train import fit, fit_start, train


@pytest.fixture(scope="module")
def start(reference, foreign, settings):
    """Return both levels before EM, trained anew on the data of the model."""
    return fit_start(reference, [foreign], settings)


def same_weights(one, other):
    """Fail unless all weights and tables of two pairs are equal."""
    for level in ("gene", "cell", "teacher"):
        a, b = getattr(one, level).state_dict(), getattr(other, level).state_dict()
        assert set(a) == set(b)
        for name, weight in a.items():
            assert torch.equal(b[name], weight), (level, name)
    for name, value in one.gene.statistics.items():
        np.testing.assert_array_equal(other.gene.statistics[name], value, err_msg=name)
    assert (one.gene.blend, one.gene.temperature) == (other.gene.blend, other.gene.temperature)


@pytest.mark.parametrize("said", ["", "mouse"])
def test_the_species_is_that_of_the_genes(model, recipe, tmp_path, monkeypatch, said):
    symbols = sorted(GeneNames.of("mouse").symbols)[5000:5600]
    counts = np.random.default_rng(0).poisson(1.0, (20, 600)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": ["a", "b"] * 10}, index=[f"c{i}" for i in range(20)])
    ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=symbols)).write_h5ad(tmp_path / "m.h5ad")
    source = Source(file=str(tmp_path / "m.h5ad"))
    mouse = msgspec.structs.replace(recipe, species=said, reference=[source], unlabelled=[])
    told = []
    monkeypatch.setattr(module, "fit", lambda *arguments, **settings: model)
    assert train(mouse, Run(say=told.append)).species == "mouse"
    assert any("mouse" in line for line in told)


class TestTheModel:
    def test_genes_are_in_the_rank_order_of_all_labelled_cells(self, model, reference):
        ranked = rank_genes(reference.counts, reference.totals, reference.codes, 600)
        assert model.reference.symbols[:600] == [reference.symbols[i] for i in ranked]
        assert sorted(model.reference.symbols) == sorted(reference.symbols)
        place = [reference.symbols.index(s) for s in model.reference.symbols]
        assert (model.reference.counts != reference.counts[:, place]).nnz == 0
        np.testing.assert_allclose(model.reference.totals, reference.totals)

    def test_it_is_the_pair_of_the_kept_iteration_on_all_cells(self, model, start, settings):
        (kept,) = [h.iteration for h in model.history if h.kept]
        assert kept > 0
        assert len(start.labelled.codes) == len(model.reference.codes)
        *_, pair = start.iterate(settings, kept)
        same_weights(model.pair, pair)

    def test_the_latest_iteration_within_the_tolerance_is_kept(self, model, settings):
        assert [h.iteration for h in model.history] == [0, 1, 2]
        (kept,) = [h for h in model.history if h.kept]
        least = max(h.cell_level_f1 for h in model.history) - settings.em_tolerance
        assert kept.cell_level_f1 >= least
        assert all(h.cell_level_f1 < least for h in model.history[kept.iteration + 1 :])
        assert model.validation == "one of 2 folds of the cells"

    def test_scores_and_trust_are_those_of_cells_out_of_fold(self, model, start, settings):
        """Gene levels of the folds label each cell once as it is; all views give the scale."""
        labelled, types = start.labelled, model.reference.cell_types
        folds = cross_fit(
            labelled, fold_levels(labelled, len(types), settings), start.variability, settings
        )
        logits = []
        for view, graph in zip(folds, start.crossfit.graphs, strict=True):
            gene = (view.logits / model.pair.gene.temperature).log_softmax(1)
            torch.testing.assert_close(gene, graph.gene_logits, atol=1e-5, rtol=1e-5)
            logits.append(start.pair.cell(gene, graph).detach().numpy())
        every = np.concatenate([v.codes for v in folds])
        temperature = fit_temperature(np.concatenate(logits), every)
        assert model.temperature == pytest.approx(temperature, rel=1e-3)
        clean = np.concatenate([x for x, v in zip(logits, folds, strict=True) if v.clean])
        truth = np.concatenate([v.codes for v in folds if v.clean])
        assert np.bincount(truth).tolist() == np.bincount(labelled.codes).tolist()
        best = clean.argmax(axis=1)
        assert model.scores == {
            "out_of_fold_accuracy": pytest.approx((best == truth).mean(), abs=1e-4),
            "out_of_fold_macro_f1": pytest.approx(macro_f1(truth, best), abs=1e-4),
        }
        assert model.scores_per_type == f1_per_type(truth, best, types)
        assert set(model.scores_per_type) == set(types)
        threshold = fit_threshold(calibrate(clean, temperature), truth)
        assert model.threshold == pytest.approx(threshold, abs=1e-3)
        assert model.scores["out_of_fold_accuracy"] > 0.85

    def test_the_bank_holds_the_training_cells(self, model, gold, settings):
        panel = Panel(model.pair.gene, gold.present, settings.panel_genes)
        embedding = panel.run(gold.counts, gold.totals)[0].numpy()
        unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
        np.testing.assert_allclose(model.bank, unit, atol=1e-5)
        assert model.bank_codes.tolist() == gold.codes.tolist()
        assert (np.diff(model.novelty_quantiles) >= 0).all()
        assert model.novelty_quantiles.shape == (201,)

    def test_trust_is_in_range(self, model):
        assert 0.1 <= model.temperature <= 10
        assert 0 < model.threshold <= 0.5

    def test_it_labels_cells_that_it_has_never_seen(self, model, held_out, settings):
        found = em.validate(model.pair, [held_out], settings)
        assert min(found.gene_level_f1, found.cell_level_f1) > 0.8


def said(codes, pair):
    """Return logits that call the right types."""
    return np.eye(len(pair.cell.shield))[codes]


class TestHeldOutCells:
    """What decides on the iteration has taught nothing that it is scored by."""

    @pytest.fixture
    def scored(self, monkeypatch):
        """Return what was scored: a pair and views of held-out cells each."""
        calls = []

        def validate(pair, held_out, settings):
            calls.append((pair, held_out))
            codes = held_out[0].codes
            return Outcome(0.5, 0.5, codes, codes, said(codes, pair))

        monkeypatch.setattr(em, "validate", validate)
        return calls

    def test_other_counts_in_them_leave_every_weight_as_it_is(
        self, reference, foreign, settings, scored
    ):
        _, ((inside, outside),) = selection.splits(reference, settings.folds, settings.seed)
        counts = reference.counts.tolil()
        rng = np.random.default_rng(0)
        for row in outside:
            counts[row] = rng.poisson(2.0, counts.shape[1])
        shuffled = replace(reference, counts=counts.tocsr())
        for cells in (reference, shuffled):
            list(module._split_outcomes(cells, [foreign], inside, outside, settings))
        n = settings.em_iterations + 1
        assert len(scored) == 2 * n
        for (one, _), (other, _) in zip(scored[:n], scored[n:], strict=True):
            same_weights(one, other)
        assert (scored[0][1][0].counts != scored[n][1][0].counts).nnz

    def test_cells_of_the_same_study_are_shown_in_three_views(
        self, reference, foreign, settings, scored
    ):
        none = msgspec.structs.replace(settings, em_iterations=0)
        _, ((inside, outside),) = selection.splits(reference, none.folds, none.seed)
        (found,) = module._split_outcomes(reference, [foreign], inside, outside, none)
        assert (found.gene_level_f1, found.cell_level_f1) == (0.5, 0.5)
        assert found.truth.tolist() == reference.codes[outside].tolist()
        ((_, views),) = scored
        clean, _, cut = views
        assert len(views) == 3
        assert clean.present.all()
        assert not cut.present.all()
        np.testing.assert_array_equal(clean.totals, reference.totals[outside])

    def test_a_study_is_shown_as_it_is_by_the_codes_and_genes_of_the_rest(
        self, reference, foreign, settings, scored
    ):
        """The second study has a type of its own, and the rest one that it lacks."""
        second = np.arange(len(reference.codes)) % 3 == 0
        keep = ~((reference.codes == 1) & ~second) & ~((reference.codes == 3) & second)
        both = replace(reference, batches=second.astype(int)).subset(np.flatnonzero(keep))
        assert both.cell_types == reference.cell_types
        none = msgspec.structs.replace(settings, em_iterations=0)
        name, found = selection.splits(both, none.folds, none.seed)
        assert name == "each study left out in turn"
        inside, outside = found[1]
        (found,) = module._split_outcomes(both, [foreign], inside, outside, none)
        ((pair, views),) = scored
        (cells,) = views
        part = both.subset(inside)
        assert both.cell_types[1] not in part.cell_types
        assert len(pair.cell.shield) == len(part.cell_types)
        labels = np.array([both.cell_types[c] for c in both.codes[outside]])
        scored_rows = outside[[np.count_nonzero(labels == t) > 1 for t in labels]]
        names = [both.cell_types[c] for c in both.codes[scored_rows]]
        assert len(names) > 0.9 * len(outside)
        assert [both.cell_types[c] for c in found.truth] == names  # in codes of the whole
        assert [part.cell_types[c] for c in cells.codes] == names
        ranked = rank_genes(part.counts, part.totals, part.codes, 600)
        assert (cells.counts != both.counts[scored_rows][:, ranked]).nnz == 0
        np.testing.assert_array_equal(cells.totals, both.totals[scored_rows])

    def test_the_history_is_the_mean_over_the_studies(
        self, reference, foreign, settings, monkeypatch
    ):
        studies = np.arange(len(reference.codes)) % 2
        script = {}

        def scores(reference, foreign, inside, outside, settings, run, *, follow_file):
            (study,) = set(reference.batches[outside])
            script[study] = set(reference.batches[inside])
            found = [(0.1, 0.9), (0.2, 0.7), (0.3, 0.2)] if study else [(0.5, 0.6)] * 3
            truth = np.array([0, 0, 0, 1]) if study else np.array([1, 1])
            called = [np.roll(truth, i) for i in (0, 1, 2)]
            logits = np.eye(len(reference.cell_types))[truth]
            rows = np.full(len(truth), study)
            return iter(
                [Outcome(*f1, truth, c, logits, rows) for f1, c in zip(found, called, strict=True)]
            )

        monkeypatch.setattr(module, "_split_outcomes", scores)
        model = fit(replace(reference, batches=studies), [foreign], settings)
        assert script == {0: {1}, 1: {0}}
        assert model.validation == "each study left out in turn"
        found = [(h.gene_level_f1, h.cell_level_f1) for h in model.history]
        np.testing.assert_allclose(found, [(0.3, 0.75), (0.35, 0.65)])  # the third is not run
        assert [h.kept for h in model.history] == [True, False]
        assert {s: x.accuracy for s, x in model.held_out.by_study.items()} == {0: 1.0, 1: 1.0}
        assert {s: x.n_cells for s, x in model.held_out.by_study.items()} == {0: 2, 1: 4}
        assert model.confusions == []  # of the kept iteration, not of those after it


class TestForeignCells:
    """Cells of no type of the reference among the unlabelled do not spoil the kept pair."""

    BOUND = 0.03

    @pytest.fixture(scope="class")
    @classmethod
    def junk(cls, foreign):
        """Return the unlabelled study, and as many cells whose genes are shuffled."""
        rng = np.random.default_rng(0)
        counts = foreign.counts.toarray()
        shuffled = rng.permuted(counts, axis=1)
        other = counts[:, rng.permutation(counts.shape[1])]  # one tissue of wrong genes
        empty = np.full(2 * len(counts), "", object)
        return replace(
            foreign, counts=sp.csr_matrix(np.concatenate([shuffled, other])), labels=empty
        )

    @pytest.fixture(scope="class")
    @classmethod
    def long(cls, settings):
        """Return settings whose E-step moves the network."""
        return msgspec.structs.replace(settings, em_epochs=15, em_learning_rate=3e-3)

    def test_the_kept_pair_labels_cells_of_the_reference_as_well_as_without(
        self, reference, foreign, junk, long, held_out, model
    ):
        spoilt = fit(reference, [foreign, junk], long)
        assert spoilt.n_unlabelled == [foreign.counts.shape[0], junk.counts.shape[0]]
        (kept,) = [h for h in spoilt.history if h.kept]
        assert kept.iteration > 0
        assert kept.cell_level_f1 >= model.history[0].cell_level_f1 - self.BOUND
        for name, score in model.scores.items():
            assert spoilt.scores[name] >= score - self.BOUND
        before = em.validate(model.pair, [held_out], long)
        after = em.validate(spoilt.pair, [held_out], long)
        assert after.gene_level_f1 >= before.gene_level_f1 - self.BOUND
        assert after.cell_level_f1 >= before.cell_level_f1 - self.BOUND

    def test_where_they_do_harm_the_pair_before_is_kept(
        self, reference, junk, long, held_out, model
    ):
        """A teacher of nothing but foreign cells, with all of the weight and a high rate."""
        settings = msgspec.structs.replace(long, pseudo_weight_gene=1.0, em_learning_rate=1e-2)
        spoilt = fit(reference, [junk], settings)
        first, *later = spoilt.history
        assert all(h.cell_level_f1 < first.cell_level_f1 - settings.em_tolerance for h in later)
        assert first.kept
        before = em.validate(model.pair, [held_out], settings)
        after = em.validate(spoilt.pair, [held_out], settings)
        assert after.cell_level_f1 >= before.cell_level_f1 - self.BOUND


def test_without_pseudo_labels_the_unlabelled_cells_change_nothing(reference, foreign, settings):
    """The control of EM: other contents and another number of them give the same model."""
    control = msgspec.structs.replace(
        settings,
        pseudo_weight_gene=0.0,
        pseudo_weight_cell=0.0,
        pseudo_confidence=1.0,
        em_tolerance=1.0,
    )
    counts = np.random.default_rng(0).poisson(1.0, (50, foreign.counts.shape[1]))
    other = replace(
        foreign, counts=sp.csr_matrix(counts, dtype=np.float32), labels=np.full(50, "", object)
    )
    one, two = (fit(reference, [cells], control) for cells in (foreign, other))
    same_weights(one.pair, two.pair)
    for a, b in zip(one.history, two.history, strict=True):
        assert (a.gene_level_f1, a.cell_level_f1) == (b.gene_level_f1, b.cell_level_f1)
    assert [h.iteration for h in one.history if h.kept] == [settings.em_iterations]
    assert one.scores == two.scores


def test_a_temperature_may_follow_the_file_alone(reference, settings, monkeypatch):
    whole, relative = module._residual, []

    def residual(*arguments, shifted):
        relative.append(shifted)
        return whole(*arguments, shifted=shifted)

    monkeypatch.setattr(module, "_residual", residual)
    found, strange = [], []
    for way in (True, "confidence", False):
        relative.clear()
        found.append(fit(reference, [], settings, follow_file=way))
        strange.append(set(relative))
    both, confidence, nothing = found
    assert strange == [{True}, {False}, {False}]
    assert confidence.certainty == both.certainty
    assert nothing.certainty is None
    for name in ("novelty_quantiles", "residual_quantiles"):
        alone = getattr(confidence, name)
        np.testing.assert_array_equal(alone, getattr(nothing, name), err_msg=name)


def test_stages_are_told_in_order(recipe, model):
    """Reading, choosing the iteration, training, EM, calibrating; and each EM iteration."""
    told, rows = [], []
    train(recipe, Run(say=told.append, iteration=rows.append))
    lines = [line for line in told if "of all steps" not in line]
    starts = ["reading", "species: human", "choosing the EM iteration", "training both levels"]
    starts += ["EM, ", "calibrating"]
    assert [line.startswith(s) for line, s in zip(lines, starts, strict=True)] == [True] * 6
    assert model.validation in lines[2]
    assert f"on {len(model.reference.codes)} cells" in lines[3]
    assert [r.iteration for r in rows] == [0, 1, 2]


def test_what_is_left_out_is_said_before_training(recipe):
    told = []

    def say(line):
        told.append(line)
        if line.startswith("WARNING: "):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(msgspec.structs.replace(recipe, min_cells=20), Run(say=say))
    share = r"WARNING: [\d,]+ cells, [\d.]+% of all, are left out: "
    assert re.match(share, told[-1])
    assert told[-1].endswith("; fewer than 20 cells, or dropped")


def test_progress_is_told_in_steps_of_all_networks(recipe, model):
    """Each stage is told once; the share grows to (almost) all of it."""
    told = []
    train(recipe, Run(say=told.append))
    lines = [line for line in told if "of all steps" in line]
    (kept,) = [h.iteration for h in model.history if h.kept]
    levels = ["cell level", "teacher"]
    first = ["fold 1 of 2", "fold 2 of 2", *levels, "all cells"]
    em_stages = [[n, *(f"{n}, {x}" for x in levels)] for n in ("EM iteration 1", "EM iteration 2")]
    expected = [f"split 1 of 1, {s}" for s in (*first, *em_stages[0], *em_stages[1])]
    expected += [*first, *(s for stages in em_stages[:kept] for s in stages)]
    assert [line.removeprefix("training ").split(":")[0] for line in lines] == expected
    shares = [int(line.split(": ")[1].split(" %")[0]) for line in lines]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 80 < shares[-1] < 100  # at the start of the last stage
    assert all("left" in line for line in lines[1:])


def test_two_references_are_one(parts, recipe, monkeypatch):
    """The same cells in two files: each is left out in turn, and the other knows them."""
    monkeypatch.setattr("scbignn_training.train.refuse_copies", lambda cells: None)
    source = recipe.reference[0]
    again = msgspec.structs.replace(source, name="again")
    twice = msgspec.structs.replace(recipe, reference=[source, again], unlabelled=[])
    rows = []
    model = train(twice, Run(iteration=rows.append))
    n = len(read_study(parts["labelled"]).labels)
    assert np.bincount(model.reference.batches).tolist() == [n, n]
    assert [r.cell_level_f1 for r in rows] == [h.cell_level_f1 for h in model.history]
    assert [(h.iteration, h.kept) for h in model.history] == [(0, True)]
    assert model.validation == "each study left out in turn"
    assert model.n_unlabelled == []
    first, second = model.held_out.by_study[0], model.held_out.by_study[1]
    assert first == second  # without EM, the twins are the same model
    assert first.accuracy > 0.9
    assert first.n_cells == len(model.reference.codes) / 2
    assert model.history[0].cell_level_f1 == pytest.approx(first.macro_f1, abs=1e-4)
    assert set(model.held_out.per_type) == set(model.reference.cell_types)


def test_one_reference_has_no_held_out_study(model):
    """What it confuses is then seen out of fold."""
    assert model.held_out.by_study == {}
    assert model.held_out.per_type == {}
    for confusion in model.confusions:
        assert confusion.share <= 1 - model.scores_per_type[confusion.truth] / 2


class Killed(Exception):  # noqa: N818
    """Stands for a kill: nothing after it is run."""


class TestResuming:
    """A run that was killed goes on where it was and ends with the very same weights."""

    @pytest.fixture
    def stages(self, monkeypatch):
        """Return the places whose weights were made; a number in ``dies`` kills at that stage."""
        made = []
        once = Run.once

        def spy(self, work, **rest):
            def watched():
                if len(made) == stages.dies:
                    raise Killed
                made.append(self.place)
                return work()

            return once(self, watched, **rest)

        monkeypatch.setattr(Run, "once", spy)
        stages = SimpleNamespace(made=made, dies=None)
        return stages

    @pytest.mark.parametrize("dies", [1, 7, 12, 16])
    def test_the_weights_are_those_of_an_unbroken_run(self, recipe, model, tmp_path, stages, dies):
        folder = tmp_path / ".tiny.checkpoint"
        stages.dies = dies
        with pytest.raises(Killed):
            train(recipe, Run(folder=folder))
        before = list(stages.made)
        assert len(before) == len(list(folder.iterdir())) == dies
        stages.dies = None
        found = train(recipe, Run(folder=folder))
        assert len(set(stages.made)) == len(stages.made)  # nothing is made twice
        assert len(stages.made) == len(list(folder.iterdir()))
        same_weights(found.pair, model.pair)
        assert found.temperature == model.temperature
        assert found.threshold == model.threshold
        assert found.scores == model.scores
        for name in ("bank", "bank_codes", "novelty_quantiles"):
            np.testing.assert_array_equal(getattr(found, name), getattr(model, name))
        same = [
            (a.gene_level_f1, a.cell_level_f1, a.kept) == (b.gene_level_f1, b.cell_level_f1, b.kept)
            for a, b in zip(found.history, model.history, strict=True)
        ]
        assert all(same)

    def test_a_damaged_stage_is_made_again(self, recipe, model, tmp_path, stages):
        folder = tmp_path / ".tiny.checkpoint"
        train(recipe, Run(folder=folder))
        n = len(stages.made)
        (damaged,) = folder.glob("fold-2-of-2-*.pt")
        damaged.write_bytes(damaged.read_bytes()[:-9])
        found = train(recipe, Run(folder=folder))
        assert stages.made[n:] == ["fold 2 of 2"]
        same_weights(found.pair, model.pair)

    def test_other_settings_go_on_from_nothing(self, recipe, tmp_path, stages):
        folder = tmp_path / ".tiny.checkpoint"
        none = msgspec.structs.replace(recipe, unlabelled=[])
        train(none, Run(folder=folder))
        n = len(stages.made)
        settings = msgspec.structs.replace(recipe.settings, seed=5)
        train(msgspec.structs.replace(none, settings=settings), Run(folder=folder))
        assert stages.made[n:] == stages.made[:n]


def test_two_hundred_types_can_be_trained(reference, settings, recipe, tmp_path):
    """Real cells, drawn anew and dealt out at random to many types."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(reference.codes), 1200)
    counts = reference.counts[rows]
    thinned = rng.binomial(counts.data.astype(int), 0.7).astype(np.float32)
    many = replace(
        reference,
        counts=with_values(counts, thinned),
        codes=np.arange(1200) % 200,
        cell_types=[f"type {i:03d}" for i in range(200)],
        batches=np.zeros(1200, int),
    )
    small = msgspec.structs.replace(settings, gene_epochs=1, cell_epochs=1)
    model = replace(fit(many, [], small), species="human")
    assert len(model.bank_codes) == 1200
    assert model.pair.gene.statistics["class_mean"].shape == (200, 600)
    path = write_bundle(model, msgspec.structs.replace(recipe, unlabelled=[]), tmp_path)
    found = Annotator.load(path, device="cpu", threads=1).annotate_matrix(
        reference.counts[:50], reference.symbols
    )
    assert found.probabilities.shape == (50, 200)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-4)


class TestLargeReferences:
    """What a large reference is cut to; here the bounds are small instead."""

    @pytest.fixture(scope="class")
    @classmethod
    def bounded(cls, settings):
        return msgspec.structs.replace(
            settings, graph_cells=50, covariance_cells=150, logistic_cells=120, max_steps=3
        )

    def test_it_trains_and_labels(self, reference, foreign, bounded, held_out):
        lines = []
        model = fit(reference, [foreign], bounded, Run(say=lines.append))
        found = em.validate(model.pair, [held_out], bounded)
        assert min(found.gene_level_f1, found.cell_level_f1) > 0.6
        assert model.pair.gene.statistics["cells_per_type"].sum() >= len(reference.codes)
        assert model.n_unlabelled == [foreign.counts.shape[0]]

    def test_graphs_are_bounded_and_keep_all_types(self, reference, foreign, bounded):
        start = fit_start(reference, [foreign], bounded)
        assert len(start.unlabelled.totals) == 50
        for graph in start.crossfit.graphs:
            assert 40 <= len(graph.gene_logits) <= 50
            assert len(graph.targets.argmax(1).unique()) == len(reference.cell_types)

    def test_held_out_cells_are_bounded(self, reference, foreign, bounded, monkeypatch):
        shown = []

        def validate(pair, cells, settings):
            shown.append(cells)
            codes = cells[0].codes
            return Outcome(0, 0, codes, codes, said(codes, pair))

        monkeypatch.setattr(em, "validate", validate)
        none = msgspec.structs.replace(bounded, em_iterations=0)
        _, ((inside, outside),) = selection.splits(reference, none.folds, none.seed)
        list(module._split_outcomes(reference, [foreign], inside, outside, none))
        ((clean, _, _),) = shown
        assert len(clean.codes) <= 50 < len(outside)


def first_cells(reference, **n_cells):
    """Return the first cells of some types."""
    code = {t: reference.cell_types.index(t) for t in n_cells}
    rows = [np.flatnonzero(reference.codes == code[t])[:n] for t, n in n_cells.items()]
    return replace(
        reference,
        counts=reference.counts[np.concatenate(rows)],
        codes=np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        cell_types=list(n_cells),
        batches=np.zeros(sum(len(r) for r in rows), int),
    )


def test_fewer_cells_of_a_type_than_folds_is_one_line(reference, settings):
    few = first_cells(reference, alpha=10, beta=4)
    five = msgspec.structs.replace(settings, folds=5)
    with pytest.raises(InputError, match="a type with 4 cells") as caught:
        fit(few, [], five)
    assert "5 folds" in str(caught.value)
    assert "--min-cells" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fit(few, [], msgspec.structs.replace(settings, folds=4)).validation == "out of fold"


@pytest.mark.parametrize("em_iterations", [0, 2])
def test_two_types_and_few_cells_can_be_trained(reference, foreign, settings, em_iterations):
    """The smallest reference that makes sense: two types of ten cells."""
    few = first_cells(reference, alpha=10, beta=10)
    settings = msgspec.structs.replace(settings, em_iterations=em_iterations)
    model = fit(few, [foreign], settings)
    assert len(model.history) <= em_iterations + 1
    assert [h.kept for h in model.history].count(True) == 1
    assert model.scores["out_of_fold_accuracy"] == 1.0
