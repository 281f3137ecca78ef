from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from scbignn_training import em, statistics
from scbignn_training.augment import cut_genes
from scbignn_training.cell_level import one_hot
from scbignn_training.crossfit import cross_fit, fold_levels, settle
from scbignn_training.data import Cells
from scbignn_training.em import Pair, e_step, iterate, m_step, run_gene_level, validate
from scbignn_training.evaluate import macro_f1
from scbignn_training.gene_level import GeneLevel, Panel
from scbignn_training.objective import pseudo_labels


class Teacher(nn.Module):
    """A teacher that calls every cell by one type."""

    def __init__(self, code):
        super().__init__()
        self.code = code

    def forward(self, gene_logits, graph):
        return (8.0 * torch.eye(gene_logits.shape[1])[[self.code] * len(gene_logits)]).log_softmax(
            1
        )


@pytest.fixture(scope="module")
def pair(model):
    return model.pair


@pytest.fixture(scope="module")
def n_types(model):
    return len(model.reference.cell_types)


@pytest.fixture(scope="module")
def unlabelled(held_out):
    """Return cells without labels that lack every third gene."""
    present = np.arange(held_out.counts.shape[1]) % 3 > 0
    counts = cut_genes(held_out.counts, present)
    return Cells(counts, held_out.totals, present, np.empty(0, np.int64))


@pytest.fixture(scope="module")
def graphs(gold, n_types, settings):
    """Return out-of-fold graphs of the training cells."""
    folds = cross_fit(
        gold, fold_levels(gold, n_types, settings), np.zeros(gold.counts.shape[1]), settings
    )
    return settle(folds, settings).graphs


@pytest.fixture(scope="module")
def long(settings):
    """Return settings whose E-step moves the network."""
    return msgspec.structs.replace(settings, em_epochs=15, em_learning_rate=3e-3)


@torch.no_grad()
def cross_entropy(net, pair, cells, soft, settings):
    """Return the network's loss on pseudo-labels."""
    panel = Panel(pair.gene, cells.present, settings.panel_genes)
    x = panel.run(cells.counts, cells.totals, "impute")[2]
    return -float((soft * net(x)[1].log_softmax(1)).sum(1).mean())


def test_graphs_carry_gold_or_no_labels(pair, held_out, unlabelled, settings):
    graph = run_gene_level(pair.gene, held_out, settings)
    assert graph.targets.argmax(1).tolist() == held_out.codes.tolist()
    assert graph.targets.sum(1).tolist() == [1.0] * len(held_out.codes)
    assert not run_gene_level(pair.gene, unlabelled, settings).targets.any()
    assert graph.neighbor_indices.shape == (len(held_out.codes), 15)


class TestEStep:
    def test_the_network_moves_towards_its_teacher(self, pair, gold, unlabelled, long):
        graph = run_gene_level(pair.gene, unlabelled, long)
        with torch.no_grad():
            log_p = pair.teacher(graph.gene_logits, graph)
        soft = pseudo_labels(log_p, long.pseudo_temperature)
        before = cross_entropy(pair.gene.net, pair, unlabelled, soft, long)
        net = e_step(pair, gold, unlabelled, long, seed=0)
        assert cross_entropy(net, pair, unlabelled, soft, long) < 0.9 * before

    def test_the_weight_decides_between_gold_labels_and_a_wrong_teacher(
        self, pair, gold, unlabelled, long, n_types
    ):
        """The teacher sees nothing but endothelial cells."""
        wrong = Pair(pair.gene, pair.cell, Teacher(6))
        soft = torch.eye(n_types)[[6] * len(unlabelled.totals)]
        gold_targets = one_hot(gold.codes, n_types)
        losses = []
        for weight in (0.1, 0.5, 0.9):
            settings = msgspec.structs.replace(long, pseudo_weight_gene=weight)
            net = e_step(wrong, gold, unlabelled, settings, seed=0)
            losses.append(
                [
                    cross_entropy(net, pair, gold, gold_targets, settings),
                    cross_entropy(net, pair, unlabelled, soft, settings),
                ]
            )
        on_gold, on_pseudo = np.array(losses).T
        assert (np.diff(on_gold) > 0).all()
        assert (np.diff(on_pseudo) < 0).all()

    def test_without_weight_the_teacher_is_not_heard(self, pair, gold, unlabelled, settings):
        deaf = msgspec.structs.replace(settings, pseudo_weight_gene=0.0)
        nets = [
            e_step(Pair(pair.gene, pair.cell, Teacher(c)), gold, unlabelled, deaf, seed=0)
            for c in (0, 1)
        ]
        for one, other in zip(*(net.parameters() for net in nets), strict=True):
            assert torch.equal(one, other)

    def test_the_old_network_stays_as_it_was(self, pair, gold, unlabelled, settings):
        before = {k: v.clone() for k, v in pair.gene.net.state_dict().items()}
        net = e_step(pair, gold, unlabelled, settings, seed=0)
        assert net is not pair.gene.net
        for name, value in pair.gene.net.state_dict().items():
            assert torch.equal(value, before[name])


class TestMStep:
    def test_gold_labels_stay_gold(self, pair, gold, graphs, unlabelled, settings):
        before = [g.targets.clone() for g in graphs]
        new = m_step(pair.gene, graphs, gold, unlabelled, settings)
        for graph, targets in zip(graphs, before, strict=True):
            assert torch.equal(graph.targets, targets)
        assert new.gene.net is pair.gene.net
        assert new.cell.share == settings.cell_share
        assert new.teacher.share == 1.0
        assert new.teacher.shield.tolist() == [1.0] * len(new.teacher.shield)
        assert new.cell.shield.min() < 0.5  # types of a few cells are shielded in the output

    def test_without_confidence_statistics_are_those_of_gold_cells(
        self, pair, gold, graphs, unlabelled, settings, n_types
    ):
        doubtful = msgspec.structs.replace(settings, pseudo_confidence=1.1)
        found = m_step(pair.gene, graphs, gold, unlabelled, doubtful).gene.statistics
        expected = statistics.estimate(gold.expression, gold.codes, n_types, settings)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)

    def test_confident_cells_join_and_their_absent_genes_take_the_mean(
        self, pair, gold, graphs, unlabelled, settings
    ):
        sure = msgspec.structs.replace(settings, pseudo_confidence=0.0)
        found = m_step(pair.gene, graphs, gold, unlabelled, sure).gene.statistics
        n_gold, n_all = len(gold.codes), len(gold.codes) + len(unlabelled.totals)
        assert found["cells_per_type"].sum() == n_all
        assert (found["cells_per_type"] >= np.bincount(gold.codes)).all()
        seen, there = gold.expression.toarray(), unlabelled.present
        new = unlabelled.expression.toarray()
        mean = (seen.sum(axis=0) + new.sum(axis=0)) / n_all
        np.testing.assert_allclose(found["gene_mean"][there], mean[there], rtol=1e-3, atol=1e-4)
        kept = pair.gene.statistics["gene_mean"]
        filled = (seen.sum(axis=0) + len(new) * kept) / n_all
        assert n_gold < n_all
        np.testing.assert_allclose(found["gene_mean"][~there], filled[~there], rtol=2e-3, atol=1e-4)


@torch.no_grad()
def test_scores_are_means_over_the_views(pair, held_out, unlabelled, settings):
    cut = Cells(unlabelled.counts, unlabelled.totals, unlabelled.present, held_out.codes)
    expected, called = [], []
    for cells in (held_out, cut):
        panel = Panel(pair.gene, cells.present, settings.panel_genes)
        gene = panel.run(cells.counts, cells.totals)[1]
        graph = run_gene_level(pair.gene, cells, settings)
        cell = pair.cell(gene, graph)
        expected.append([macro_f1(cells.codes, a.argmax(1).numpy()) for a in (gene, cell)])
        called.append(cell.argmax(1).tolist())
    found = validate(pair, [held_out, cut], settings)
    scores = found.gene_level_f1, found.cell_level_f1
    assert scores == pytest.approx(tuple(np.mean(expected, axis=0)))
    assert found.called.tolist() == called[0]
    assert found.truth.tolist() == held_out.codes.tolist()


class TestSelfTraining:
    """The control in which the gene level is its own teacher."""

    @pytest.fixture(scope="class")
    @classmethod
    def alone(cls, settings):
        return msgspec.structs.replace(settings, teacher="gene")

    def test_the_teacher_says_what_the_gene_level_says(self, graphs, gold, settings, alone):
        output, teacher = em.fit_cells(graphs, alone)
        assert teacher(graphs[0].gene_logits, graphs[0]) is graphs[0].gene_logits
        expected, _ = em.fit_cells(graphs, settings)
        for name, weight in expected.state_dict().items():
            assert torch.equal(output.state_dict()[name], weight), name

    def test_the_network_learns_from_its_own_labels(self, pair, gold, unlabelled, long):
        own = Pair(pair.gene, pair.cell, em.gene_level_itself)
        graph = run_gene_level(pair.gene, unlabelled, long)
        soft = pseudo_labels(graph.gene_logits, long.pseudo_temperature)
        net = e_step(own, gold, unlabelled, long, seed=0)
        before = cross_entropy(pair.gene.net, pair, unlabelled, soft, long)
        assert cross_entropy(net, pair, unlabelled, soft, long) < before

    def test_confident_cells_are_those_that_the_gene_level_calls(
        self, pair, gold, graphs, unlabelled, alone
    ):
        sure = msgspec.structs.replace(alone, pseudo_confidence=0.0)
        found = m_step(pair.gene, graphs, gold, unlabelled, sure)
        assert found.teacher is em.gene_level_itself
        n = found.gene.statistics["cells_per_type"]
        logits = run_gene_level(pair.gene, unlabelled, sure).gene_logits
        called = np.bincount(logits.argmax(1).numpy(), minlength=len(n))
        np.testing.assert_array_equal(n, np.bincount(gold.codes) + called)


class TestWithoutPseudoLabels:
    """The control in which the network trains on and no unlabelled cell is heard."""

    @pytest.fixture(scope="class")
    @classmethod
    def deaf(cls, settings):
        return msgspec.structs.replace(
            settings, pseudo_weight_gene=0.0, pseudo_weight_cell=0.0, pseudo_confidence=1.0
        )

    def test_cell_level_and_statistics_stay_those_of_gold_labels(
        self, pair, gold, graphs, unlabelled, deaf, n_types
    ):
        found = m_step(pair.gene, graphs, gold, unlabelled, deaf)
        cell, teacher = em.fit_cells(graphs, deaf)
        for one, other in ((found.cell, cell), (found.teacher, teacher)):
            for name, weight in other.state_dict().items():
                assert torch.equal(one.state_dict()[name], weight), name
        expected = statistics.estimate(gold.expression, gold.codes, n_types, deaf)
        for name, value in expected.items():
            np.testing.assert_array_equal(found.gene.statistics[name], value, err_msg=name)

    def test_a_cell_of_certain_type_does_not_join_either(
        self, pair, gold, graphs, unlabelled, deaf, monkeypatch
    ):
        """A probability of exactly 1 is not above it."""
        certain = torch.full((1, 11), -torch.inf)
        certain[:, 3] = 0.0
        cell = pair.cell
        monkeypatch.setattr(
            em, "fit_cells", lambda *a: (cell, lambda logits, _: certain.repeat(len(logits), 1))
        )
        found = m_step(pair.gene, graphs, gold, unlabelled, deaf)
        assert found.gene.statistics["cells_per_type"].sum() == len(gold.codes)


class TestIterations:
    @pytest.fixture
    def scripted(self, monkeypatch, pair):
        """Script both steps: the pair of iteration i is told by its blend, and notes are taken."""
        notes = []

        def e_step(before, labelled, unlabelled, settings, seed, run):
            notes.append(("E", before, seed))
            return before.gene.net

        def m_step(gene, graphs, labelled, unlabelled, settings, run):
            notes.append(("M", gene, graphs))
            number = gene.blend[0] + 1
            level = GeneLevel(gene.net, gene.statistics, gene.logistic, (number, 0.0))
            return Pair(level, pair.cell, pair.teacher)

        monkeypatch.setattr(em, "e_step", e_step)
        monkeypatch.setattr(em, "m_step", m_step)
        level = GeneLevel(pair.gene.net, pair.gene.statistics, pair.gene.logistic, (0.0, 0.0))
        return Pair(level, pair.cell, pair.teacher), notes

    @pytest.mark.parametrize("n", [0, 1, 3])
    def test_each_step_goes_on_from_the_pair_before(self, scripted, unlabelled, settings, n):
        start, notes = scripted
        pairs = list(iterate(start, ["graph"], None, unlabelled, settings, iterations=n))
        assert pairs[0] is start
        assert [p.gene.blend[0] for p in pairs] == list(range(n + 1))
        assert [kind for kind, *_ in notes] == ["E", "M"] * n
        assert [before for kind, before, _ in notes if kind == "E"] == pairs[:-1]
        assert [gene.blend[0] for kind, gene, _ in notes if kind == "M"] == list(range(n))
        assert all(graphs == ["graph"] for kind, _, graphs in notes if kind == "M")
        seeds = [seed for kind, _, seed in notes if kind == "E"]
        assert len(set(seeds)) == n  # chance is new in each iteration

    def test_a_pair_is_made_when_it_is_asked_for(self, scripted, unlabelled, settings):
        start, notes = scripted
        pairs = iterate(start, [], None, unlabelled, settings, iterations=5)
        assert next(pairs) is start
        assert notes == []
        next(pairs)
        assert len(notes) == 2

    def test_without_unlabelled_cells_there_is_no_iteration(self, scripted, settings):
        start, notes = scripted
        assert list(iterate(start, [], None, None, settings, iterations=3)) == [start]
        assert notes == []

    def test_real_iterations_are_the_two_steps_in_turn(
        self, pair, gold, graphs, unlabelled, settings
    ):
        first, second = iterate(pair, graphs, gold, unlabelled, settings, iterations=1)
        assert first is pair
        net = e_step(pair, gold, unlabelled, settings, seed=settings.seed + 8)
        old = pair.gene
        gene = GeneLevel(net, old.statistics, old.logistic, old.blend, old.temperature).eval()
        expected = m_step(gene, graphs, gold, unlabelled, settings)
        for found, wanted in (
            (second.gene, expected.gene),
            (second.cell, expected.cell),
            (second.teacher, expected.teacher),
        ):
            for name, weight in wanted.state_dict().items():
                assert torch.equal(found.state_dict()[name], weight), name
        assert (second.gene.blend, second.gene.temperature) == (old.blend, old.temperature)
        weights = zip(second.gene.net.parameters(), old.net.parameters(), strict=True)
        assert all(not torch.equal(a, b) for a, b in weights)
