from __future__ import annotations

import copy

import msgspec
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import multivariate_normal
from torch import nn

from scbignn_training import gene_level as module
from scbignn_training import statistics
from scbignn_training.augment import cut_genes
from scbignn_training.blocks import dense, log_expression
from scbignn_training.checkpoint import Checkpoint
from scbignn_training.gene_level import (
    LEAST_LOG_P,
    GeneLevel,
    Panel,
    ProgramAttention,
    fit_network,
    steps_of,
)
from scbignn_training.progress import Progress
from scbignn_training.run import Run
from scbignn_training.settings import Settings

SETTINGS = Settings(
    net_genes=30,
    ranked_genes=60,
    panel_genes=40,
    n_programs=3,
    program_size=4,
    embedding_size=16,
    n_heads=2,
    factors=5,
    gene_epochs=20,
    em_epochs=2,
    batch_cells=64,
)
N_TYPES = 3


@pytest.fixture(scope="module")
def cells():
    """Return counts (200, 60) of three types, totals and codes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, N_TYPES, 200)
    rate = rng.gamma(0.5, 2.0, (N_TYPES, 60))
    counts = rng.poisson(rate[codes] * rng.uniform(0.5, 2, (200, 1))).astype(np.float32)
    return sp.csr_matrix(counts), (counts.sum(axis=1) + 500).astype(np.float32), codes


@pytest.fixture(scope="module")
def level(cells):
    """Return a gene level whose network has random weights everywhere."""
    counts, totals, codes = cells
    x = log_expression(counts, totals)
    tables = statistics.estimate(x, codes, N_TYPES, SETTINGS)
    logistic = statistics.fit_logistic(x, codes, N_TYPES, tables, SETTINGS)
    torch.manual_seed(0)
    net = ProgramAttention(30, N_TYPES, SETTINGS)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return GeneLevel(net, tables, logistic, blend=(0.3, 0.7), temperature=1.7).eval()


def naive_programs(net, x):
    """Return what each program gathers from the expressed genes of each cell, (b, i, v).

    Each gene is a token of value x_j V_j and score S_Ij + log x_j, beside a null token of score
    log .001 and value 0; softmax over the tokens that are there.
    """
    gathered = torch.zeros(len(x), net.n_programs, net.program_size)
    for cell in range(len(x)):
        expressed = [j for j in range(x.shape[1]) if x[cell, j] > 0]
        for program in range(net.n_programs):
            score = [net.score[j, program].clamp(-6, 6) + x[cell, j].log() for j in expressed]
            weight = torch.stack([*score, torch.tensor(1e-3).log()]).softmax(0)
            for j, a in zip(expressed, weight, strict=False):
                gathered[cell, program] += a * x[cell, j] * net.value[j]
    return gathered


def naive_network(net, x):
    """Return embedding and logits with PyTorch's own attention among the programs."""
    p = torch.stack(
        [net.value_norm(naive_programs(net, x)[:, i]) @ net.up[i] for i in range(net.n_programs)], 1
    )
    p = net.attention_norm(p) + net.program
    attention = nn.MultiheadAttention(net.embedding_size, net.n_heads, batch_first=True)
    attention.in_proj_weight, attention.in_proj_bias = net.query_key_value.parameters()
    attention.out_proj.weight, attention.out_proj.bias = net.attention_out.parameters()
    p = net.program_norm(p + attention(p, p, p)[0])
    h = net.linear_norm(x @ net.linear / 16) + p.mean(1)
    z = net.embedding_norm(h + net.feed_forward(h))
    return z, net.out(z) + x @ net.wide / 4


@pytest.mark.parametrize("normed", [True, False])
@torch.no_grad()
def test_the_closed_form_is_attention_between_the_expressed_genes(level, cells, normed):
    """With and without the norms of the gathered values, which take their scale away."""
    net = copy.deepcopy(level.net)
    if not normed:
        net.value_norm, net.attention_norm = nn.Identity(), nn.Identity()
    x = dense(log_expression(cells[0][:9, :30], cells[1][:9]))
    assert bool((x == 0).any(1).all())  # every cell has genes it does not express
    for found, expected in zip(net(x), naive_network(net, x), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_programs_the_linear_path_is_all_there_is(cells):
    torch.manual_seed(0)
    plain = ProgramAttention(30, N_TYPES, msgspec.structs.replace(SETTINGS, n_programs=0)).eval()
    first, second = plain.tables()
    assert first.shape == (30, 16 + N_TYPES)
    assert second.shape == (30, 0)
    x = dense(log_expression(cells[0][:9, :30], cells[1][:9]))
    h = plain.linear_norm(x @ plain.linear / 16)
    z = plain.embedding_norm(h + plain.feed_forward(h))
    found = plain(x)
    assert found[0].shape == (9, 16)
    torch.testing.assert_close(found[0], z)
    torch.testing.assert_close(found[1], plain.out(z) + x @ plain.wide / 4)


@torch.no_grad()
def test_scores_are_cut(level, cells):
    """A gene of score 60 weighs no more than one of score 6."""
    x = dense(log_expression(cells[0][:5, :30], cells[1][:5]))
    net = copy.deepcopy(level.net)
    net.score[0], net.score[1] = 60.0, -60.0
    torch.testing.assert_close(net(x)[0], naive_network(net, x)[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_cell_without_genes_is_finite(level):
    for values in level.net(torch.zeros(2, 30)):
        assert bool(values.isfinite().all())
        torch.testing.assert_close(values[0], values[1])


@pytest.fixture(scope="module", params=["all", "half", "few"])
def panel(request, level):
    """Return panels of all, of half of and of few genes."""
    present = np.ones(60, dtype=bool)
    if request.param == "half":
        present[::2] = False
    if request.param == "few":
        present = np.isin(np.arange(60), [3, 11, 19, 28, 31, 44, 57])
    return Panel(level, present, SETTINGS.panel_genes), present


def scaled(level, cells, genes):
    x = log_expression(cells[0], cells[1]).toarray()
    tables = level.statistics
    z = (x - tables["gene_mean"]) / tables["gene_scale"]
    return z.clip(-10, 10)[:, genes]


def test_the_panel_is_the_first_present_genes(panel):
    panel, present = panel
    assert panel.genes.tolist() == np.flatnonzero(present)[:40].tolist()


def discriminant(level, cells, panel):
    """Return what the discriminant says, without the bound of the blend."""
    z = panel.run(cells[0], cells[1], "impute")[0]
    return level.discriminant(z, panel.tables).log_softmax(1).numpy()


@torch.no_grad()
def test_the_discriminant_is_the_density_of_cells_of_uncertain_strength(level, cells, panel):
    """z = a mu + e is Gaussian with mean mu and covariance S + mu mu' / precision."""
    panel, _ = panel
    t, genes = level.statistics, panel.genes
    u = t["within_factors"][genes]
    noise = u @ u.T + np.diag(t["within_residual"][genes] + 0.3)
    z = scaled(level, cells, genes)
    scores, positive = [], []
    for mean, n in zip(t["class_mean"][:, genes], np.bincount(cells[2]), strict=True):
        covariance = noise + np.outer(mean, mean) / SETTINGS.strength_precision
        scores.append(multivariate_normal(mean, covariance).logpdf(z) + np.log(n))
        positive.append(z @ np.linalg.solve(noise, mean) > -SETTINGS.strength_precision)
    scores = np.stack(scores, axis=1)
    expected = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    found = discriminant(level, cells, panel)
    usual = np.all(positive, axis=0)
    assert usual.mean() > 0.5
    np.testing.assert_allclose(found[usual], expected[usual], atol=2e-3, rtol=1e-3)


def test_a_precise_strength_is_linear_discriminant_analysis(level, cells):
    t = level.statistics | {"strength_precision": np.array(1e5)}
    exact = GeneLevel(level.net, t, level.logistic, level.blend).eval()
    panel = Panel(exact, np.ones(60, dtype=bool), SETTINGS.panel_genes)
    genes = panel.genes
    u = t["within_factors"][genes]
    noise = u @ u.T + np.diag(t["within_residual"][genes] + 0.3)
    means = t["class_mean"][:, genes]
    weight = np.linalg.solve(noise, means.T)
    scores = scaled(level, cells, genes) @ weight - 0.5 * np.diag(means @ weight)
    scores += np.log(np.bincount(cells[2]))
    expected = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    found = discriminant(exact, cells, panel)
    np.testing.assert_allclose(found, expected, atol=0.05)


@torch.no_grad()
def test_a_faint_cell_keeps_its_type(level, cells):
    """Half-way to the mean of all cells a cell is still nearest in direction to its type."""
    panel = Panel(level, np.ones(60, dtype=bool), SETTINGS.panel_genes)
    t, genes = level.statistics, panel.genes
    faint = torch.tensor(0.4 * t["class_mean"][:, genes], dtype=torch.float32)
    called = level.discriminant(faint, panel.tables).argmax(1)
    assert called.tolist() == list(range(N_TYPES))


@torch.no_grad()
def test_closed_forms_fall_silent_with_cells_unlike_any(level, cells, panel):
    """The misfit is the squared Mahalanobis distance a gene; trust falls with its fourth power."""
    panel, _ = panel
    t, genes = level.statistics, panel.genes
    f = t["total_factors"][genes]
    covariance = f @ f.T + np.diag(t["total_residual"][genes])
    z, factors, _ = panel.run(cells[0], cells[1], "impute")
    far = 3 * z  # three times as far from the mean of all cells
    for seen, scores in ((z, factors), (far, 3 * factors)):
        distance = np.einsum("ni,ni->n", seen, np.linalg.solve(covariance, seen.T.numpy()).T)
        expected = np.minimum(1, (2 / (distance / len(genes))) ** 4)
        found = level.trust(seen, scores, panel.tables)[:, 0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=2e-3)
    assert float(found.mean()) < 0.1


@torch.no_grad()
def test_the_embedding_is_the_networks_beside_the_factor_scores(level, cells, panel):
    panel, _ = panel
    found = panel.run(cells[0], cells[1])[0]
    _, factors, x = panel.run(cells[0], cells[1], "impute")
    own = level.net(x)[0]
    width = own.shape[1]
    torch.testing.assert_close(found[:, :width], nn.functional.normalize(own))
    shown = nn.functional.normalize(factors[:, : SETTINGS.graph_factors])
    torch.testing.assert_close(found[:, width:], shown)


def test_absent_genes_are_imputed_by_the_conditional_gaussian_mean(level, cells, panel):
    panel, present = panel
    t = level.statistics
    f = t["total_factors"]
    covariance = f @ f.T + np.diag(t["total_residual"])
    known, absent = panel.genes, np.flatnonzero(~present[:30])
    z = scaled(level, cells, known)
    mean = z @ np.linalg.solve(covariance[np.ix_(known, known)], covariance[known])
    expected = np.maximum(mean * t["gene_scale"] + t["gene_mean"], 0)
    z_found, _, x_found = (a.numpy() for a in panel.run(cells[0], cells[1], "impute"))
    np.testing.assert_allclose(z_found, z, atol=1e-4)
    np.testing.assert_allclose(x_found[:, absent], expected[:, absent], atol=2e-3)
    x = log_expression(cells[0], cells[1]).toarray()
    there = np.flatnonzero(present[:30])
    np.testing.assert_allclose(x_found[:, there], x[:, there], atol=1e-5)


def test_with_all_genes_nothing_is_imputed(level, cells):
    panel = Panel(level, np.ones(60, dtype=bool), SETTINGS.panel_genes)
    x = panel.run(cells[0], cells[1], "impute")[2].numpy()
    expected = log_expression(cells[0][:, :30], cells[1]).toarray()
    np.testing.assert_allclose(x, expected, atol=1e-5)
    impute_out = panel.tables.impute_out
    assert not impute_out.any()


def test_imputation_beats_the_mean_on_real_cells(model, held_out, settings):
    """Half of the genes are hidden; their guess must be nearer to the truth than the mean is."""
    present = np.arange(600) % 2 == 0
    x = held_out.expression[:, :200].toarray()
    counts = cut_genes(held_out.counts, present)
    panel = Panel(model.pair.gene, present, settings.panel_genes)
    guess = panel.run(counts, held_out.totals, "impute")[2].numpy()
    mean = model.pair.gene.statistics["gene_mean"][:200]
    hidden = ~present[:200]
    error = ((guess - x)[:, hidden] ** 2).mean()
    assert error < 0.8 * ((mean - x)[:, hidden] ** 2).mean()


@torch.no_grad()
def test_the_three_heads_are_blended(level, cells, panel):
    panel, _ = panel
    embedding, net, discriminant, logistic = panel.run(cells[0], cells[1], "parts")
    torch.testing.assert_close(net.exp().sum(1), torch.ones(200))
    z, factors, _ = panel.run(cells[0], cells[1], "impute")
    trust = level.trust(z, factors, panel.tables)
    for head in (discriminant, logistic):
        assert float(head.min()) >= LEAST_LOG_P
        torch.testing.assert_close((head / trust).exp().sum(1), torch.ones(200))
    found = panel.run(cells[0], cells[1])
    expected = ((net + 0.3 * discriminant + 0.7 * logistic) / 1.7).log_softmax(1)
    torch.testing.assert_close(found[0], embedding)
    torch.testing.assert_close(found[1], expected)


def test_batches_change_nothing(level, cells):
    panel = Panel(level, np.ones(60, dtype=bool), SETTINGS.panel_genes)
    counts = sp.csr_matrix(sp.vstack([cells[0]] * 3))  # 600 cells, two batches
    totals = np.tile(cells[1], 3)
    for many, few in zip(panel.run(counts, totals), panel.run(*cells[:2]), strict=True):
        torch.testing.assert_close(many, few.repeat(3, 1))


def test_a_type_absent_from_a_fold_never_wins(model, gold, settings):
    """Neither head may name a type of which it has seen no cell."""
    from scbignn_training.gene_level import fit_gene_level

    rows = gold.codes != 2
    n_types = len(model.reference.cell_types)
    x = gold.expression
    level = fit_gene_level(x[rows], gold.codes[rows], n_types, settings, seed=0)
    panel = Panel(level, gold.present, settings.panel_genes)
    logits = panel.run(gold.counts, gold.totals)[1].numpy()
    assert np.isfinite(logits).all()
    assert 2 not in logits.argmax(axis=1)
    right = (logits.argmax(axis=1) == gold.codes)[rows]
    assert right.mean() > 0.9


@pytest.fixture(scope="module")
def data(cells):
    x = log_expression(cells[0][:, :30], cells[1])
    return x, torch.from_numpy(cells[2]), N_TYPES, SETTINGS


@pytest.fixture(scope="module")
def trained(data):
    return fit_network(*data, seed=1)


@torch.no_grad()
def test_the_network_learns(data, trained):
    assert not trained.training
    found = trained(dense(data[0]))[1].argmax(1)
    assert float((found == data[1]).float().mean()) > 0.95


def test_a_network_without_programs_learns_too(data):
    x, codes, n_types, _ = data
    net = fit_network(x, codes, n_types, msgspec.structs.replace(SETTINGS, n_programs=0), seed=1)
    with torch.no_grad():
        found = net(dense(x))[1].argmax(1)
    assert float((found == codes).float().mean()) > 0.95


def test_a_seed_fixes_the_weights(data, trained):
    again, other = fit_network(*data, seed=1), fit_network(*data, seed=2)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(trained.score, other.score)


def test_it_goes_on_from_a_network(data, trained):
    """With next to no learning rate the weights stay where they started."""
    still = msgspec.structs.replace(SETTINGS, em_learning_rate=1e-12)
    found = fit_network(*data[:3], still, seed=5, start=trained)
    assert found is not trained
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_any_number_of_epochs_can_be_trained(data, epochs):
    """A one-cycle schedule of five steps would divide by its warm-up of no length."""
    settings = msgspec.structs.replace(SETTINGS, gene_epochs=epochs, batch_cells=256)
    net = fit_network(*data[:3], settings, seed=0)
    assert all(bool(p.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize(
    ("n_cells", "again", "steps"),
    [(1, False, 20), (64, False, 20), (65, False, 40), (200, True, 8), (10**6, False, 300)],
)
def test_steps_are_epochs_over_the_cells_but_bounded(n_cells, again, steps):
    settings = msgspec.structs.replace(SETTINGS, max_steps=300)
    assert steps_of(n_cells, settings, again=again) == steps


def test_the_schedule_ends_with_the_last_step(data, monkeypatch):
    """However few steps are allowed, the rate has come down when they are over."""
    rates = []
    one_cycle = torch.optim.lr_scheduler.OneCycleLR

    class Spy(one_cycle):
        def step(self, *rest):
            rates.append(self.optimizer.param_groups[0]["lr"])
            super().step(*rest)

    monkeypatch.setattr(torch.optim.lr_scheduler, "OneCycleLR", Spy)
    settings = msgspec.structs.replace(SETTINGS, max_steps=30)
    lines = []
    run = Run(progress=Progress(lines.append, total=30)).within("fold 1 of 1")
    fit_network(*data[:3], settings, seed=0, run=run)
    rates = rates[1:]  # the scheduler steps once as it is made
    assert len(rates) == 30
    assert max(rates) == pytest.approx(settings.gene_learning_rate, rel=0.02)
    assert rates[-1] < 0.02 * max(rates)
    run.progress.stage("next")
    assert lines == ["training fold 1 of 1: 0 % of all steps", lines[-1]]
    assert lines[-1].startswith("next: 100 % of all steps")


def test_a_finished_network_is_read_and_not_trained_again(data, trained, tmp_path, monkeypatch):
    run = Run(checkpoint=Checkpoint(tmp_path, "key"), place="all cells")
    fit_network(*data, seed=1, run=run)
    monkeypatch.setattr(module, "augment_batch", None)  # a step would fail
    found = fit_network(*data, seed=1, run=run)
    assert not found.training
    for name, value in trained.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


def test_pseudo_labels_without_weight_change_nothing(data, trained):
    settings = msgspec.structs.replace(SETTINGS, pseudo_weight_gene=0.0)
    labels = [torch.eye(N_TYPES)[[c] * 200] for c in (0, 1)]
    nets = [
        fit_network(
            *data[:3], settings, seed=0, start=trained, unlabelled=dense(data[0]), pseudo=label
        )
        for label in labels
    ]
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, other)
