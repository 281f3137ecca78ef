"""Genes that some studies did not measure: statistics are as if those studies were not asked."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_training import statistics
from scbignn_training.blocks import moments
from scbignn_training.data import rank_genes
from scbignn_training.gaps import Gaps, gene_shares
from scbignn_training.settings import Settings

N, M, CUT = 300, 40, 25
SETTINGS = Settings(factors=4, net_genes=M, panel_genes=M, ranked_genes=M)


@pytest.fixture(scope="module")
def cells():
    """Return counts, codes and gaps: two studies, of which the second lacks genes from CUT on."""
    rng = np.random.default_rng(0)
    codes = np.arange(N) % 3
    program = np.exp(0.8 * rng.standard_normal((N, 1)) * rng.standard_normal(M))
    counts = rng.poisson(rng.gamma(1, 3, (3, M))[codes] * program).astype(np.float32)
    batches = (np.arange(N) >= N // 2).astype(int)
    counts[batches == 1, CUT:] = 0
    measured = np.ones((2, M), bool)
    measured[1, CUT:] = False
    return counts, codes, Gaps(batches, measured)


def log(counts):
    return sp.csr_matrix(np.log1p(counts))


def test_moments_are_of_the_cells_that_were_measured(cells):
    counts, _, gaps = cells
    mean, variance = moments(log(counts), gaps)
    x = np.log1p(counts)
    x[N // 2 :, CUT:] = np.nan
    np.testing.assert_allclose(mean, np.nanmean(x, axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, np.nanvar(x, axis=0), rtol=1e-5)


def test_means_of_types_are_of_the_cells_that_were_measured(cells):
    counts, codes, gaps = cells
    tables = statistics.estimate(log(counts), codes, 3, SETTINGS, gaps)
    x = np.log1p(counts)
    x[N // 2 :, CUT:] = np.nan
    z = (x - tables["gene_mean"]) / tables["gene_scale"]
    for c in range(3):
        expected = np.nanmean(z[codes == c], axis=0)
        np.testing.assert_allclose(tables["class_mean"][c], expected, atol=0.01)
        rest = (z[codes == c] - expected) ** 2
        own = (tables["within_factors"] ** 2).sum(1) + tables["within_residual"]
        assert own.shape == rest.shape[1:]
    within = np.mean([np.nanvar(z[codes == c], axis=0) for c in range(3)], axis=0)
    found = (tables["within_factors"] ** 2).sum(1) + tables["within_residual"]
    np.testing.assert_allclose(found, within, rtol=0.05, atol=0.02)


def test_gaps_of_no_gene_change_nothing(cells):
    counts, codes, gaps = cells
    whole = Gaps(gaps.batches, np.ones_like(gaps.measured))
    x = log(counts)
    one, other = (statistics.estimate(x, codes, 3, SETTINGS, g) for g in (None, whole))
    for name, table in one.items():
        np.testing.assert_allclose(other[name], table, rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_type_that_was_never_measured_has_what_its_other_genes_tell(cells):
    """Type 2 is known of the study without the last genes only."""
    counts, codes, gaps = cells
    rows = np.flatnonzero((codes < 2) | (gaps.batches == 1))
    tables = statistics.estimate(log(counts)[rows], codes[rows], 3, SETTINGS, gaps.subset(rows))
    assert np.isfinite(tables["class_mean"]).all()
    assert np.abs(tables["class_mean"][2, CUT:]).max() < np.abs(tables["class_mean"][2]).max()


def test_absent_genes_are_imputed_and_others_stay(cells):
    counts, codes, gaps = cells
    x = log(counts)
    tables = statistics.estimate(x, codes, 3, SETTINGS, gaps)
    found = statistics.complete(x, tables, SETTINGS, gaps).toarray()
    measured = gaps.of(slice(None))
    np.testing.assert_array_equal(found[measured], x.toarray()[measured])
    assert (found[~measured] > 0).mean() > 0.9
    assert statistics.complete(x, tables, SETTINGS, None).shape == x.shape


def test_ranks_ignore_cells_that_were_not_measured():
    """A gene is no marker of a type because the other types' study lacks it."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(5.0, (80, 30)).astype(np.float32)
    codes = np.repeat([0, 1], 40)
    counts[40:, :10] = 0
    counts[:40, 20] += 20
    measured = np.ones((2, 30), bool)
    measured[1, :10] = False
    gaps = Gaps(codes, measured)
    totals = np.full(80, 200.0)
    found = rank_genes(sp.csr_matrix(counts), totals, codes, 2, gaps)  # the best of each type
    assert 20 in found
    assert min(found) >= 10
    assert rank_genes(sp.csr_matrix(counts), totals, codes, 1)[0] < 10


def test_shares_are_those_of_whole_studies():
    rng = np.random.default_rng(2)
    share = rng.dirichlet(np.ones(50))
    measured = np.ones((3, 50), bool)
    measured[1, 30:] = measured[2, :20] = False
    sums = share * np.array([[1e5], [3e5], [2e4]]) * measured
    np.testing.assert_allclose(gene_shares(sums, measured), share, rtol=1e-6)


def test_patterns_cover_each_cell_once(cells):
    _, _, gaps = cells
    found = list(gaps.patterns())
    assert sorted(np.concatenate([rows for rows, _ in found])) == list(range(N))
    for rows, measured in found:
        np.testing.assert_array_equal(gaps.of(rows), np.tile(measured, (len(rows), 1)))
