from __future__ import annotations

import msgspec
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scbignn_training.augment import (
    augment_batch,
    cut_genes,
    distort_genes,
    draw_panel,
    thin,
    views,
)
from scbignn_training.settings import Settings

CLEAN = Settings(
    lost_panel_chance=0.0, gene_dropout=0.0, cell_scale_noise=0.0, gene_factor_noise=0.0, mixup=1e-3
)
"""No corruption; Beta(.001, .001) is 0 or 1, so that mixup only reorders cells."""


def augment(x, targets=None, seed=0, **strengths):
    torch.manual_seed(seed)
    settings = msgspec.structs.replace(CLEAN, **strengths)
    targets = torch.eye(len(x)) if targets is None else targets
    return augment_batch(x, targets, settings, np.random.default_rng(seed))


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(20.0, (300, 80)).astype(np.float32)


@pytest.fixture
def sparse(counts):
    return sp.csr_matrix(counts)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_mixes_cells_and_targets_alike(seed):
    """With the targets as expression, both must come out the same."""
    one_hot = torch.eye(40)
    mixed, targets = augment(one_hot, one_hot, seed, mixup=0.4)
    torch.testing.assert_close(mixed, targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(40))
    torch.testing.assert_close(targets.sum(0), torch.ones(40))  # each cell is used once more
    assert int((targets > 0).sum(1).max()) == 2


def test_without_corruption_every_cell_stays_what_it_is():
    x = torch.rand(30, 50)
    mixed, targets = augment(x)
    torch.testing.assert_close(mixed, x[targets.argmax(1)])


def test_genes_drop_out_cell_by_cell():
    mixed, _ = augment(torch.ones(400, 200), gene_dropout=0.3)
    lost = mixed == 0
    assert float(lost.float().mean()) == pytest.approx(0.3, abs=0.01)
    assert 0 < float(lost.float().mean(0).std()) < 0.05  # no gene is lost in all cells


def test_a_lost_panel_is_lost_in_the_whole_batch():
    shares = []
    for seed in range(60):
        mixed, _ = augment(torch.ones(5, 300), seed=seed, lost_panel_chance=1.0)
        lost = mixed == 0
        assert torch.equal(lost.all(0), lost.any(0))
        shares.append(float(lost[0].float().mean()))
    assert max(shares) < 0.8
    assert np.mean(shares) == pytest.approx(0.35, abs=0.06)  # half of the largest share


def test_half_of_the_batches_lose_a_panel():
    hit = [
        bool((augment(torch.ones(2, 300), seed=s, lost_panel_chance=0.5)[0] == 0).any())
        for s in range(100)
    ]
    assert 30 < sum(hit) < 70


def test_gene_factors_are_shared_by_the_batch_and_scales_by_the_genes():
    genes, _ = augment(torch.ones(20, 500), gene_factor_noise=0.2)
    torch.testing.assert_close(genes, genes[:1].expand(20, -1))
    assert float(genes[0].log().std()) == pytest.approx(0.2, rel=0.1)
    cells, _ = augment(torch.ones(500, 20), cell_scale_noise=0.1)
    torch.testing.assert_close(cells, cells[:, :1].expand(-1, 20))
    assert float(cells[:, 0].std()) == pytest.approx(0.1, rel=0.15)


def test_expression_never_turns_negative():
    mixed, _ = augment(torch.rand(200, 20), cell_scale_noise=2.0)
    assert float(mixed.min()) == 0.0


def test_thinning_takes_whole_counts_away(counts, sparse):
    totals = counts.sum(axis=1) * 2  # half of the library is on other genes
    thinned, new = thin(sparse, totals, np.random.default_rng(1))
    np.testing.assert_array_equal(sparse.toarray(), counts)
    thinned = thinned.toarray()
    assert (thinned <= counts).all()
    np.testing.assert_array_equal(thinned, np.round(thinned))
    rate = new / totals
    assert 0.15 <= rate.min() < 0.2
    assert 0.45 < rate.max() <= 0.5
    np.testing.assert_allclose(thinned.sum(axis=1) / counts.sum(axis=1), rate, atol=0.06)


def test_panels_keep_a_part_of_the_genes_and_rather_the_variable_ones():
    rng = np.random.default_rng(0)
    variability = rng.standard_normal(1000)
    panels = np.array([draw_panel(variability, rng) for _ in range(200)])
    sizes = panels.mean(axis=1)
    assert 0.04 < sizes.min() < 0.1
    assert 0.5 < sizes.max() <= 0.6
    chance = panels[:, 100:].mean(axis=0)
    assert np.corrcoef(chance, variability[100:])[0, 1] > 0.7
    assert panels[:, :20].mean() < 0.8 * panels[:, 100:].mean()  # the best-ranked go missing


def test_distortion_is_one_factor_a_gene_on_the_log_scale(counts):
    totals = counts.sum(axis=1)
    counts[:, 3] = 0
    sparse = sp.csr_matrix(counts)
    distorted = distort_genes(sparse, totals, 0.4, np.random.default_rng(2)).toarray()
    scale = totals[:, None] / 1e4
    seen = (counts > 0) & (distorted / scale < 0.999e4)  # a gene is at most all that is counted
    ratio = np.where(seen, np.log1p(distorted / scale), np.nan)
    ratio = np.divide(
        ratio, np.log1p(counts / scale), where=seen, out=np.full(counts.shape, np.nan)
    )
    assert not distorted[:, 3].any()
    factors = np.delete(ratio, 3, axis=1)
    factors = factors[:, ~np.isnan(factors).all(axis=0)]
    spread = np.nanmax(factors, axis=0) - np.nanmin(factors, axis=0)
    assert spread.max() < 1e-3
    assert np.log(np.nanmean(factors, axis=0)).std() == pytest.approx(0.4, rel=0.3)
    same = distort_genes(sparse, totals, 0.0, np.random.default_rng(2)).toarray()
    np.testing.assert_allclose(same, counts, rtol=1e-4, atol=1e-4)


def test_cutting_takes_the_counts_of_absent_genes(counts, sparse):
    present = np.arange(80) % 3 > 0
    np.testing.assert_array_equal(cut_genes(sparse, present).toarray(), counts * present)
    np.testing.assert_array_equal(sparse.toarray(), counts)


def test_three_views_clean_thinned_and_cut(counts, sparse):
    totals = counts.sum(axis=1)
    clean, thinned, cut = views(sparse, totals, np.zeros(80), np.random.default_rng(3))
    assert clean[0] is sparse
    assert clean[1] is totals
    assert clean[2].all()
    assert thinned[2].all()
    assert thinned[0].sum() < 0.5 * counts.sum()
    present = cut[2]
    assert 0 < present.sum() < 80
    assert not cut[0].toarray()[:, ~present].any()
    assert cut[0].toarray()[:, present].any(axis=0).all()
    np.testing.assert_array_equal(cut[1], totals)


def test_a_seed_fixes_the_views(counts, sparse):
    first, second = (
        views(sparse, counts.sum(axis=1), np.zeros(80), np.random.default_rng(5)) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert (one[0] != other[0]).nnz == 0
        for a, b in zip(one[1:], other[1:], strict=True):
            np.testing.assert_array_equal(a, b)
