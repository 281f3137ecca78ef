from __future__ import annotations

import msgspec
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from scbignn_training import blocks, statistics
from scbignn_training.settings import Settings

SETTINGS = Settings(factors=6, net_genes=40, ranked_genes=60, panel_genes=40)


@pytest.fixture
def low_rank():
    """Return expression (800, 60) of 3 types whose variation has 4 directions, and the codes."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [400, 300, 100])
    means = rng.normal(0, 0.5, (3, 60))
    directions = rng.normal(0, 0.15, (4, 60))
    noise = 0.05 * rng.standard_normal((800, 60))
    x = 3 + means[codes] + rng.standard_normal((800, 4)) @ directions + noise
    return x.astype(np.float32), codes


def scaled(x, tables):
    return (x - tables["gene_mean"]) / tables["gene_scale"]


def model_of(tables, kind):
    """Return the covariance that a factor model stands for."""
    factors = tables[f"{kind}_factors"]
    return factors @ factors.T + np.diag(tables[f"{kind}_residual"])


def test_factor_models_reproduce_the_covariances_of_low_rank_data(low_rank):
    """Two directions between types and four within: six factors hold all but the noise."""
    x, codes = low_rank
    tables = statistics.estimate(sp.csr_matrix(x), codes, 3, SETTINGS)
    z = scaled(x, tables)
    within = z - tables["class_mean"][codes]
    between = ~np.eye(60, dtype=bool)
    for kind, values in (("total", z), ("within", within)):
        covariance = values.T @ values / 800
        found = model_of(tables, kind)
        np.testing.assert_allclose(found[between], covariance[between], atol=0.02)
        assert np.abs(covariance[between]).max() > 0.2


def test_too_few_factors_leave_the_variances_right(low_rank):
    """What the factors miss goes into the residuals: the diagonal stays exact."""
    x, codes = low_rank
    settings = msgspec.structs.replace(SETTINGS, factors=2)
    tables = statistics.estimate(sp.csr_matrix(x), codes, 3, settings)
    assert tables["total_factors"].shape == (60, 2)
    z = scaled(x, tables)
    np.testing.assert_allclose(np.diag(model_of(tables, "total")), (z**2).mean(axis=0), atol=0.01)
    assert tables["total_residual"].min() >= 0.05 - 1e-4
    assert tables["within_residual"].min() >= 1e-3 - 1e-5


def test_means_and_scales(low_rank):
    x, codes = low_rank
    tables = statistics.estimate(sp.csr_matrix(x), codes, 3, SETTINGS)
    np.testing.assert_allclose(tables["gene_mean"], x.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(tables["gene_scale"], x.std(axis=0) + 0.05, rtol=1e-3)
    for code in range(3):
        expected = scaled(x[codes == code], tables).mean(axis=0)
        np.testing.assert_allclose(tables["class_mean"][code], expected, atol=5e-3)
    assert tables["cells_per_type"].tolist() == [400, 300, 100]
    assert float(tables["ridge"]) == 0.3


def test_tables_hold_what_float16_can_hold(low_rank):
    """Torch must see the very tables that the bundle ships."""
    x, codes = low_rank
    tables = statistics.estimate(sp.csr_matrix(x), codes, 3, SETTINGS)
    for name in set(tables) - {"ridge", "strength_precision", "graph_factors", "cells_per_type"}:
        np.testing.assert_array_equal(tables[name], tables[name].astype(np.float16), err_msg=name)


def test_scaled_expression_is_cut():
    found = statistics.scale(np.array([[-99.0, 2.0, 99.0]]), np.zeros(3), np.full(3, 0.5))
    assert found.tolist() == [[-10.0, 4.0, 10.0]]


@pytest.mark.parametrize("types", [[0, 1, 2], [0, 1], [0, 2]])
def test_the_logistic_head_is_scikit_learns(low_rank, types):
    x, codes = low_rank
    rows = np.isin(codes, types)
    x, codes = x[rows], codes[rows]
    tables = statistics.estimate(sp.csr_matrix(x), codes, 3, SETTINGS)
    weight, bias = statistics.fit_logistic(sp.csr_matrix(x), codes, 3, tables, SETTINGS)
    z = scaled(x[:, :40], {k: v[:40] for k, v in tables.items() if k.startswith("gene")})
    oracle = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(z.clip(-10, 10), codes)
    found = softmax(z.clip(-10, 10) @ weight + bias, axis=1)
    np.testing.assert_allclose(found[:, types], oracle.predict_proba(z.clip(-10, 10)), atol=5e-3)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert weight.dtype == bias.dtype == np.float32
    absent = sorted({0, 1, 2} - set(types))
    assert (found[:, absent] == 0).all()


class TestRealCells:
    """Streamed over sparse rows, the tables are those of dense linear algebra."""

    @pytest.fixture(scope="class")
    @classmethod
    def x(cls, gold):
        return gold.expression

    @pytest.fixture(scope="class")
    @classmethod
    def dense(cls, gold):
        """Return the scaled expression, means and scales in double precision."""
        full = gold.expression.toarray().astype(np.float64)
        mean, sd = full.mean(axis=0), full.std(axis=0) + 0.05
        return statistics.scale(full, mean, sd), mean, sd

    def test_means_and_scales_are_exact_but_for_float16(self, x, gold, dense, settings):
        tables = statistics.estimate(x, gold.codes, 11, settings)
        z, mean, sd = dense
        classes = [z[gold.codes == c].mean(axis=0) for c in range(11)]
        for name, expected in {
            "gene_mean": mean,
            "gene_scale": sd,
            "class_mean": np.array(classes),
        }.items():
            np.testing.assert_allclose(tables[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)

    @pytest.mark.parametrize("block", [50, 10_000])
    def test_factors_are_as_good_as_those_of_a_whole_svd(
        self, x, gold, dense, settings, monkeypatch, block
    ):
        """No factors of that rank come nearer to the covariance than the first singular vectors."""
        monkeypatch.setattr(blocks.slices, "__defaults__", (block,))
        tables = statistics.estimate(x, gold.codes, 11, settings)
        z, *_ = dense
        means = np.array([z[gold.codes == c].mean(axis=0) for c in range(11)])
        for kind, values in (("total", z), ("within", z - means[gold.codes])):
            factors, covariance = tables[f"{kind}_factors"], values.T @ values / len(z)
            right = np.linalg.svd(values, full_matrices=False)[2][: settings.factors].T
            best = np.linalg.norm(covariance - right @ right.T @ covariance)
            assert best <= np.linalg.norm(factors @ factors.T - covariance) < 1.01 * best, kind
            basis = np.linalg.qr(factors)[0]
            assert np.linalg.svd(basis.T @ right[:, :2])[1].min() > 0.99, kind
            strength = np.linalg.norm(factors, axis=0)
            assert (np.diff(strength) <= 1e-3).all()  # strongest first
            left = (values**2).mean(axis=0) - (factors**2).sum(axis=1)
            floor = {"total": 0.05, "within": 1e-3}[kind]
            residual = tables[f"{kind}_residual"]
            np.testing.assert_allclose(residual, np.maximum(left, floor), rtol=1e-2, atol=1e-2)

    def test_a_sample_of_the_cells_gives_nearly_the_same_covariance(self, x, gold, dense, settings):
        n = len(gold.codes)
        some = msgspec.structs.replace(settings, covariance_cells=n * 2 // 3)
        whole, part = (statistics.estimate(x, gold.codes, 11, s) for s in (settings, some))
        for name in ("gene_mean", "gene_scale", "class_mean", "cells_per_type"):
            np.testing.assert_array_equal(part[name], whole[name])
        a, b = (t["total_factors"] @ t["total_factors"].T for t in (whole, part))
        assert 1e-3 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.25

    def test_weights_make_up_for_the_types_that_stay_whole(self, x, gold, dense, settings):
        """Cells that weigh two are as good as cells that are there twice."""
        _, mean, sd = dense
        twice = np.concatenate([np.arange(len(gold.codes)), np.flatnonzero(gold.codes == 1)])
        weights = np.where(gold.codes == 1, 2.0, 1.0)
        one = statistics.factor_models(x, gold.codes, weights / weights.sum(), (mean, sd), settings)
        other = statistics.factor_models(
            x[twice], gold.codes[twice], np.full(len(twice), 1 / len(twice)), (mean, sd), settings
        )
        for (factors, residual), (same, left) in zip(one, other, strict=True):
            np.testing.assert_allclose(factors @ factors.T, same @ same.T, atol=2e-3)
            np.testing.assert_allclose(residual, left, atol=2e-3)

    def test_fewer_cells_than_factors(self, x, gold, settings):
        """Whatever the rank of the cells, the model is finite and the variance right."""
        rows = np.concatenate([np.flatnonzero(gold.codes == c)[:3] for c in (1, 3)])
        tables = statistics.estimate(x[rows], gold.codes[rows], 11, settings)
        assert all(np.isfinite(t).all() for t in tables.values())
        full = x[rows].toarray().astype(np.float64)
        z = statistics.scale(full, full.mean(axis=0), full.std(axis=0) + 0.05)
        expected = np.maximum((z**2).mean(axis=0), 0.05)
        np.testing.assert_allclose(np.diag(model_of(tables, "total")), expected, atol=0.06)

    def test_the_logistic_head_of_a_sample_calls_like_that_of_all_cells(self, x, gold, settings):
        some = msgspec.structs.replace(settings, logistic_cells=len(gold.codes) * 2 // 3)
        tables = statistics.estimate(x, gold.codes, 11, settings)
        z = statistics.scale(
            x[:, :200].toarray(), tables["gene_mean"][:200], tables["gene_scale"][:200]
        )
        calls = []
        for s in (settings, some):
            weight, bias = statistics.fit_logistic(x, gold.codes, 11, tables, s)
            calls.append((z @ weight + bias).argmax(axis=1))
        assert (calls[0] == calls[1]).mean() > 0.95
