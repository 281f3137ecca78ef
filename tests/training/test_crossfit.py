from __future__ import annotations

import warnings

import msgspec
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scbignn_training import crossfit
from scbignn_training.blocks import log_expression
from scbignn_training.calibrate import fit_temperature
from scbignn_training.cell_level import cells_of_graph
from scbignn_training.crossfit import (
    BLENDS,
    FoldView,
    best_blend,
    cross_fit,
    fold_levels,
    settle,
)
from scbignn_training.data import Cells
from scbignn_training.evaluate import macro_f1
from scbignn_training.gene_level import run_cells
from scbignn_training.settings import Settings


class TestCrossFitting:
    def test_no_level_sees_the_cells_that_it_labels(self, gold, settings, monkeypatch, model):
        """Each cell is labelled in three views, by the level of its fold."""
        n_types = len(model.reference.cell_types)
        x = gold.expression.toarray()
        inside, outside = [], []
        fit_gene_level, views = crossfit.fit_gene_level, crossfit.views

        def spy_fit(x, *rest, **named):
            inside.append({row.tobytes() for row in x.toarray()})
            return fit_gene_level(x, *rest, **named)

        def spy_views(counts, totals, *rest):
            seen = log_expression(counts, totals).toarray()
            outside.append({row.tobytes() for row in seen})
            return views(counts, totals, *rest)

        monkeypatch.setattr(crossfit, "fit_gene_level", spy_fit)
        monkeypatch.setattr(crossfit, "views", spy_views)
        found = cross_fit(gold, fold_levels(gold, n_types, settings), np.zeros(600), settings)
        assert len(found) == 3 * settings.folds
        for seen, unseen in zip(inside, outside, strict=True):
            assert not seen & unseen
        assert set.union(*outside) == {row.tobytes() for row in x}
        assert [view.clean for view in found] == [True, False, False] * settings.folds
        for view in found:
            assert len(view.distance) == len(view.codes)
            assert len(view.codes) == len(view.embedding)
            assert view.logits.shape == (len(view.codes), n_types)
            torch.testing.assert_close(view.logits.exp().sum(1), torch.ones(len(view.codes)))

    @staticmethod
    def view(codes, *, confidence=1.0, n_types=3, clean=True):
        """Return a view whose gene level calls the right type by ``confidence`` nats."""
        torch.manual_seed(0)
        noise = torch.randn(len(codes), n_types)
        logits = (confidence * torch.eye(n_types)[codes] + noise).log_softmax(1)
        distance = np.linspace(0, 1, len(codes))
        embedding = torch.randn(len(codes), 8)
        scaled, profile = np.zeros((len(codes), 4)), (np.zeros((n_types, 4)), np.ones(4))
        return FoldView(embedding, logits, np.array(codes), distance, clean, scaled, profile)

    def test_graphs_hold_calibrated_logits(self):
        view = self.view(np.arange(90) % 3, confidence=4.0)
        found = settle([view], Settings())
        (graph,) = found.graphs
        assert found.temperature == pytest.approx(fit_temperature(view.logits.numpy(), view.codes))
        assert found.temperature != pytest.approx(1.0, abs=0.01)
        expected = (view.logits / found.temperature).log_softmax(1)
        torch.testing.assert_close(graph.gene_logits, expected)
        assert graph.targets.argmax(1).tolist() == view.codes.tolist()
        assert graph.neighbor_indices.shape == (90, 15)

    def test_only_clean_cells_have_a_say_in_the_distances(self):
        """Each is averaged over the neighbours in its graph."""
        codes = np.arange(60) % 3
        folds = [self.view(codes, clean=shown) for shown in (True, False, True)]
        found = settle(folds, Settings())
        assert found.clean == [True, False, True]
        assert len(found.graphs) == 3
        near = found.graphs[0].neighbor_indices.numpy()
        own = folds[0].distance
        expected = [np.mean([own[i], *own[near[i]]]) for i in range(60)]
        np.testing.assert_allclose(found.distance, [*expected, *expected], rtol=1e-6)

    def test_distances_are_to_cells_that_the_level_was_trained_on(self, gold, settings, model):
        """A copy of a training cell is at no distance of it; its own fold sees no copy."""
        totals, codes = (np.concatenate([a, a]) for a in (gold.totals, gold.codes))
        counts = sp.csr_matrix(sp.vstack([gold.counts, gold.counts]))
        twice = Cells(counts, totals, gold.present, codes)
        levels = fold_levels(twice, len(model.reference.cell_types), settings)
        found = cross_fit(twice, levels, np.zeros(600), settings)
        distance = np.concatenate([v.distance for v in found if v.clean])
        n = len(gold.codes)
        assert len(distance) == 2 * n
        # About half of the cells have their copy in the other fold.
        assert 0.3 < (distance < 1e-5).mean() < 0.7

    def test_of_a_large_fold_a_sample_is_shown(self, gold, settings, model):
        """Small types stay whole."""
        n_types = len(model.reference.cell_types)
        few = msgspec.structs.replace(settings, graph_cells=60)
        found = cross_fit(gold, fold_levels(gold, n_types, few), np.zeros(600), few)
        every = cross_fit(gold, fold_levels(gold, n_types, settings), np.zeros(600), settings)
        for some, whole in zip(found, every, strict=True):
            assert 50 <= len(some.codes) <= 60 < len(whole.codes)
            assert set(some.codes) == set(whole.codes)
            assert len(some.distance) == len(some.embedding) == len(some.codes)
        clean = [i for i, view in enumerate(every) if view.clean]
        for i in clean:  # the very cells, labelled by the very level
            rows = {tuple(row) for row in every[i].logits.numpy().round(3)}
            shown = [tuple(row) in rows for row in found[i].logits.numpy().round(3)]
            assert np.mean(shown) > 0.95

    def test_with_many_types_fewer_cells_are_shown(self):
        """The probabilities on all edges of a graph are bounded."""
        settings = Settings()
        assert cells_of_graph(11, settings) == 20_000
        for n_types in (2, 50, 200, 300, 1000):
            n = cells_of_graph(n_types, settings)
            assert n * settings.n_neighbors * n_types <= 2**25
            assert n > 5 * n_types or n_types > 300

    def test_a_type_of_fewer_cells_than_folds_is_no_warning(self, gold, settings):
        few = np.concatenate(
            [np.flatnonzero(gold.codes == c)[: 1 if c == 2 else 12] for c in (1, 2, 3)]
        )
        codes = np.searchsorted([1, 2, 3], gold.codes[few])
        cells = Cells(gold.counts[few], gold.totals[few], gold.present, codes)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = cross_fit(cells, fold_levels(cells, 3, settings), np.zeros(600), settings)
        assert sum(len(v.codes) for v in found if v.clean) == len(few)


class TestBlend:
    """A fine reference chooses how much the heads count by cells that they have not seen."""

    @pytest.fixture
    def levels(self, gold, settings, model):
        return fold_levels(gold, len(model.reference.cell_types), settings)

    def test_it_is_the_best_of_all_on_unseen_cells(self, gold, settings, levels):
        chosen = best_blend(gold, levels, settings)
        scores = {}
        for blend in BLENDS:
            truth, called = [], []
            for fold in levels:
                fold.level.blend = blend
                unseen = gold.subset(fold.outside)
                called.append(run_cells(fold.level, unseen, settings)[1].argmax(1).numpy())
                truth.append(unseen.codes)
            scores[blend] = macro_f1(np.concatenate(truth), np.concatenate(called))
        assert scores[chosen] == max(scores.values())

    def test_a_head_that_is_wrong_is_not_heard(self, gold, settings, levels):
        for fold in levels:
            means = fold.level.statistics["class_mean"]
            fold.level.statistics = fold.level.statistics | {"class_mean": 3 * means[::-1]}
        assert best_blend(gold, levels, settings)[0] == 0.0

    def test_of_equal_ones_it_is_the_usual(self, gold, settings, levels, monkeypatch):
        monkeypatch.setattr(crossfit, "macro_f1", lambda truth, called: 0.5)
        assert best_blend(gold, levels, settings) == Settings().blend
