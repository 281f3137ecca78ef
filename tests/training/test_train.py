from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scbignn_infer.errors import GeneError, InputError
from scbignn_training import train as module
from scbignn_training.data import Cells as FileCells
from scbignn_training.data import join, log_expression, rank_genes, read_cells, split
from scbignn_training.evaluate import macro_f1
from scbignn_training.gene_level import Panel
from scbignn_training.settings import Settings
from scbignn_training.train import (
    FoldView,
    Log,
    blend_folds,
    cross_fit,
    fit,
    train,
)


@pytest.fixture(scope="module")
def reference(parts):
    return join([read_cells(parts["labelled"], label_key="cell_type")], min_cells=8)


class TestTheModel:
    def test_genes_are_in_the_rank_order_of_the_training_cells(self, model, reference, settings):
        rows, _ = split(reference.codes, settings.validation_share, settings.seed)
        ranked = rank_genes(
            reference.counts[rows], reference.totals[rows], reference.codes[rows], 600
        )
        assert model.reference.symbols[:600] == [reference.symbols[i] for i in ranked]
        assert sorted(model.reference.symbols) == sorted(reference.symbols)
        place = [reference.symbols.index(s) for s in model.reference.symbols]
        assert (model.reference.counts != reference.counts[:, place]).nnz == 0
        np.testing.assert_allclose(model.reference.totals, reference.totals)

    def test_cells_are_held_out_of_each_type(self, model, reference):
        assert sorted([*model.train, *model.validation]) == list(range(len(reference.codes)))
        held = np.bincount(reference.codes[model.validation])
        np.testing.assert_allclose(held, np.bincount(reference.codes) * 0.1, atol=0.5)

    @torch.no_grad()
    def test_scores_are_those_of_the_held_out_cells(self, model, held_out, settings):
        graph = module.run_gene_level(model.pair.gene, held_out, settings)
        best = model.pair.cell(graph.gene_logits, graph).argmax(1).numpy()
        assert model.scores == {
            "validation_accuracy": pytest.approx((best == held_out.codes).mean(), abs=1e-4),
            "validation_macro_f1": pytest.approx(macro_f1(held_out.codes, best), abs=1e-4),
        }
        assert model.scores["validation_accuracy"] > 0.85
        assert set(model.scores_per_type) == set(model.reference.cell_types)

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


def test_validation_cells_teach_nothing(reference, settings, model):
    """Other counts in the held-out cells must leave every weight as it is."""
    rng = np.random.default_rng(0)
    counts = reference.counts.tolil()
    for row in model.validation:
        counts[row] = rng.poisson(2.0, counts.shape[1])
    shuffled = replace(reference, counts=counts.tocsr())
    first, second = (fit(r, [], settings).pair for r in (reference, shuffled))
    for name, value in first.gene.statistics.items():
        np.testing.assert_array_equal(second.gene.statistics[name], value, err_msg=name)
    for one, other in ((first.gene, second.gene), (first.cell, second.cell)):
        for name, weight in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], weight), name
    assert first.gene.blend == second.gene.blend
    assert first.gene.temperature == second.gene.temperature


class TestUnlabelled:
    """Unlabelled files are brought to the ranked genes as the runtime would do it."""

    M = 600

    def bring(self, reference, files, settings):
        return module._unlabelled(reference, files, self.M, settings)

    @staticmethod
    def file(reference, columns, seed=0, extra=0):
        """Return a file of some genes of the reference, shuffled, and of ``extra`` others."""
        rng = np.random.default_rng(seed)
        counts = rng.poisson(1.0, (20, len(columns) + extra)).astype(np.float32)
        names = [reference.symbols[i] for i in columns] + [f"OTHER{i}" for i in range(extra)]
        order = rng.permutation(len(names))
        return FileCells(
            Path("other.h5ad"),
            sp.csr_matrix(counts[:, order]),
            [names[i] for i in order],
            [""] * len(names),
            np.full(20, "", object),
        ), counts

    def test_none_given(self, model, settings):
        assert self.bring(model.reference, [], settings) is None

    def test_absent_genes_are_masked_and_totals_scaled(self, model, settings):
        reference = model.reference
        columns = np.flatnonzero(np.arange(len(reference.symbols)) % 3 > 0)
        file, counts = self.file(reference, columns, extra=50)
        found = self.bring(reference, [file], settings)
        expected = np.zeros((20, len(reference.symbols)), np.float32)
        expected[:, columns] = counts[:, : len(columns)]
        np.testing.assert_array_equal(found.counts, expected[:, : self.M])
        np.testing.assert_array_equal(found.present, np.arange(self.M) % 3 > 0)
        share = reference.gene_share[columns].sum()
        np.testing.assert_allclose(found.totals, expected.sum(axis=1) / share, rtol=1e-5)
        assert len(found.codes) == 0

    def test_of_two_files_only_their_common_genes_are_present(self, model, settings):
        reference = model.reference
        every = np.arange(len(reference.symbols))
        one, _ = self.file(reference, every[every % 3 > 0], seed=1)
        two, _ = self.file(reference, every[every % 5 > 0], seed=2)
        found = self.bring(reference, [one, two], settings)
        present = (every % 3 > 0) & (every % 5 > 0)
        np.testing.assert_array_equal(found.present, present[: self.M])
        assert not found.counts[:, ~found.present].any()
        assert len(found.counts) == 40

    def test_empty_cells_are_left_out(self, model, settings):
        file, _ = self.file(model.reference, np.arange(4000))
        counts = file.counts.toarray()
        counts[[3, 7]] = 0
        found = self.bring(model.reference, [replace(file, counts=sp.csr_matrix(counts))], settings)
        assert len(found.counts) == 18
        assert found.totals.min() > 0

    def test_no_cell_with_counts_is_one_line(self, model, settings):
        file, _ = self.file(model.reference, np.arange(4000))
        with pytest.raises(InputError, match="no unlabelled cell") as caught:
            self.bring(model.reference, [replace(file, counts=sp.csr_matrix((20, 4000)))], settings)
        assert "\n" not in str(caught.value)

    def test_foreign_genes_are_one_line(self, model, settings):
        file, _ = self.file(model.reference, [], extra=700)
        with pytest.raises(GeneError) as caught:
            self.bring(model.reference, [file], settings)
        assert "\n" not in str(caught.value)


class TestCrossFitting:
    def test_no_level_sees_the_cells_that_it_labels(self, gold, settings, monkeypatch, model):
        """Each cell is labelled in three views, by the level of its fold."""
        n_types = len(model.reference.cell_types)
        x = log_expression(gold.counts, gold.totals)
        inside, outside = [], []
        fit_gene_level, views = module.fit_gene_level, module.views

        def spy_fit(x, *rest):
            inside.append({row.tobytes() for row in x})
            return fit_gene_level(x, *rest)

        def spy_views(counts, totals, *rest):
            outside.append({row.tobytes() for row in log_expression(counts, totals)})
            return views(counts, totals, *rest)

        monkeypatch.setattr(module, "fit_gene_level", spy_fit)
        monkeypatch.setattr(module, "views", spy_views)
        found = cross_fit(gold, n_types, np.zeros(600), settings)
        assert len(found) == 3 * settings.folds
        for seen, unseen in zip(inside, outside, strict=True):
            assert not seen & unseen
        assert set.union(*outside) == {row.tobytes() for row in x}
        for view in found:
            assert len(view.codes) == len(view.embedding)
            for part in view.parts:
                assert part.shape == (len(view.codes), n_types)
                torch.testing.assert_close(part.exp().sum(1), torch.ones(len(part)))

    @staticmethod
    def view(codes, *confidence, n_types=3):
        """Return a view in which each head calls the right type by ``confidence`` nats."""
        torch.manual_seed(0)
        truth = torch.eye(n_types)[codes]
        noise = torch.randn(len(codes), n_types)
        parts = [(c * truth + noise).log_softmax(1) for c in confidence]
        return FoldView(torch.randn(len(codes), 8), tuple(parts), np.array(codes))

    def test_the_better_head_gets_its_weight(self):
        settings = Settings(blends=((0.0, 0.0), (0.0, 2.0), (2.0, 0.0)))
        codes = np.arange(300) % 3
        for confidence, best in (((0, 0, 9), (0.0, 2.0)), ((0, 9, 0), (2.0, 0.0))):
            assert blend_folds([self.view(codes, *confidence)], settings)[0] == best

    def test_of_equal_blends_the_first_is_taken(self):
        codes = np.arange(300) % 3
        blend, _, _ = blend_folds([self.view(codes, 9, 9, 9)], Settings())
        assert blend == Settings().blends[0]

    def test_graphs_hold_calibrated_blends(self):
        settings = Settings(blends=((0.3, 0.6),))
        view = self.view(np.arange(90) % 3, 1.0, 2.0, 1.5)
        blend, temperature, (graph,) = blend_folds([view], settings)
        net, linear, logistic = view.parts
        expected = ((net + 0.3 * linear + 0.6 * logistic) / temperature).log_softmax(1)
        assert blend == (0.3, 0.6)
        torch.testing.assert_close(graph.gene_logits, expected)
        assert graph.targets.argmax(1).tolist() == view.codes.tolist()
        assert graph.neighbor_indices.shape == (90, 15)


class TestTheBank:
    def test_up_to_its_size_it_takes_every_cell(self):
        assert module._bank_rows(np.zeros(4000, int), 0).tolist() == list(range(4000))

    def test_beyond_it_small_types_stay_whole(self):
        codes = np.repeat([0, 1, 2], [9000, 5000, 300])
        rows = module._bank_rows(codes, 0)
        assert len(set(rows.tolist())) == 4000
        assert (np.diff(rows) > 0).all()
        assert np.bincount(codes[rows]).tolist() == [1850, 1850, 300]
        assert module._bank_rows(codes, 1).tolist() != rows.tolist()


def test_stages_are_told_in_order(recipe, monkeypatch):
    """Reading, cross-fitting, training, EM, calibrating; and each EM iteration."""
    lines, rows = [], []
    train(recipe, Log(lines.append, rows.append))
    starts = ["reading", "cross-fitting 2", "training", "EM on", "calibrating"]
    assert [line.startswith(s) for line, s in zip(lines, starts, strict=True)] == [True] * 5
    assert [r.iteration for r in rows] == [0, 1, 2]


def test_two_references_are_one(parts, recipe):
    """The same cells in two files: both are read, and the batches say which is which."""
    source = recipe.reference[0]
    twice = msgspec.structs.replace(recipe, reference=[source, source], unlabelled=[])
    model = train(twice)
    n = len(read_cells(parts["labelled"]).labels)
    assert np.bincount(model.reference.batches).tolist() == [n, n]
    assert [h.iteration for h in model.history] == [0]
    assert model.n_unlabelled == []


def test_too_few_cells_to_hold_any_out_is_one_line(reference, settings):
    rows = np.flatnonzero(np.isin(reference.codes, [0, 1]))
    keep = np.concatenate([rows[reference.codes[rows] == c][:4] for c in (0, 1)])
    few = replace(
        reference,
        counts=reference.counts[keep],
        codes=reference.codes[keep],
        cell_types=reference.cell_types[:2],
    )
    with pytest.raises(InputError, match="too few to hold any out") as caught:
        fit(few, [], settings)
    assert "\n" not in str(caught.value)


def test_two_types_and_few_cells_can_be_trained(reference, settings):
    """The smallest reference that makes sense: two types of ten cells."""
    keep = np.concatenate([np.flatnonzero(reference.codes == c)[:10] for c in (2, 3)])
    few = replace(
        reference,
        counts=reference.counts[keep],
        codes=np.repeat([0, 1], 10),
        cell_types=["alpha", "beta"],
    )
    model = fit(few, [], settings)
    assert len(model.validation) == 2
    assert model.scores["validation_accuracy"] == 1.0
