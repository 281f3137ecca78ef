from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.matrices import Verdict, choose_matrix, judge, sample_rows


@pytest.fixture
def counts():
    values = np.random.default_rng(1).poisson(0.8, (50, 200)).astype(np.float32)
    values[:, 0] += 1
    return sp.csr_matrix(values)


def cp10k(counts):
    return sp.csr_matrix(counts.multiply(1e4 / counts.sum(axis=1))).log1p()


def test_whole_numbers_are_counts(counts):
    assert judge(counts).state == "counts"
    assert judge(counts.astype(np.int64)).state == "counts"


def test_corrected_counts_that_are_not_whole_are_counts(counts):
    verdict = judge(counts * 17.3)
    assert verdict.state == "counts"
    assert "non-integer" in verdict.reason


def test_log1p_of_the_whole_library(counts):
    verdict = judge(cp10k(counts))
    assert verdict.state == "log1p"
    assert "10000" in verdict.reason


def test_log1p_cut_to_some_genes_afterwards(counts):
    assert judge(cp10k(counts)[:, 1:60]).state == "log1p-cut"


def test_scaled_values_are_not_usable(counts):
    dense = counts.toarray()
    verdict = judge(sp.csr_matrix(dense - dense.mean(axis=0)))
    assert verdict.state == "scaled"
    assert not verdict.usable


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_seen(counts, bad):
    counts.data[-1] = bad
    verdict = judge(counts)
    assert (verdict.state, verdict.usable) == ("non-finite", False)
    assert verdict.reason.startswith("1 ")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5, 5)])
def test_nothing_is_empty(shape):
    assert judge(sp.csr_matrix(shape, dtype=np.float32)).state == "empty"


def test_log_values_of_another_scale_are_unknown(counts):
    noise = np.random.default_rng(0).uniform(0.5, 11, counts.shape)
    assert judge(sp.csr_matrix(noise)).state == "unknown"


def test_rows_are_sampled_across_the_whole_in_order():
    rows = sample_rows(100_000)
    assert len(rows) == 512
    assert (rows[0], rows[-1]) == (0, 99_999)
    assert (np.diff(rows) > 0).all()
    assert np.diff(rows).max() <= 197
    np.testing.assert_array_equal(sample_rows(3), [0, 1, 2])
    assert len(sample_rows(0)) == 0


def test_counts_are_chosen_before_log1p_before_a_cut():
    log1p, cut, counts = (Verdict(s, "") for s in ("log1p", "log1p-cut", "counts"))
    assert choose_matrix({"X": log1p, "raw": counts}) == "raw"
    assert choose_matrix({"X": cut, "raw": log1p}) == "raw"
    assert choose_matrix({"X": log1p, "raw": log1p}) == "X"


def test_the_users_choice_is_taken_or_refused():
    verdicts = {"X": Verdict("log1p", ""), "raw": Verdict("counts", ""), "z": Verdict("scaled", "")}
    assert choose_matrix(verdicts, "X") == "X"
    with pytest.raises(InputError, match=r"no matrix 'Y'.*X, raw"):
        choose_matrix(verdicts, "Y")
    with pytest.raises(InputError, match="z is scaled"):
        choose_matrix(verdicts, "z")


def test_no_usable_matrix_is_refused_with_each_reason():
    verdicts = {"X": Verdict("scaled", "negative"), "raw": Verdict("non-finite", "3 NaN")}
    with pytest.raises(InputError, match=r"X is scaled \(negative\); raw is non-finite \(3 NaN\)"):
        choose_matrix(verdicts)
    with pytest.raises(InputError, match="no usable matrix"):
        choose_matrix({})


def test_real_counts_and_what_is_made_of_them(real_data):
    counts = ad.read_h5ad(real_data("pbmc3k_seurat.h5ad")).X[:300]
    assert judge(counts).state == "counts"
    normalised = cp10k(counts)
    assert judge(normalised).state == "log1p"
    variable = np.argsort(-normalised.toarray().var(axis=0))[:2000]
    assert judge(normalised[:, variable]).state == "log1p-cut"


def test_the_example_is_a_cut_of_log1p(example):
    adata = ad.read_h5ad(example)
    matrix = adata.X if adata.raw is None else adata.raw.X
    assert judge(sp.csr_matrix(matrix)).state == "log1p-cut"
