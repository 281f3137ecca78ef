from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from scbignn_training import statistics
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
    tables = statistics.estimate(x, codes, 3, SETTINGS)
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
    tables = statistics.estimate(x, codes, 3, settings)
    assert tables["total_factors"].shape == (60, 2)
    z = scaled(x, tables)
    np.testing.assert_allclose(np.diag(model_of(tables, "total")), (z**2).mean(axis=0), atol=0.01)
    assert tables["total_residual"].min() >= 0.05 - 1e-4
    assert tables["within_residual"].min() >= 1e-3 - 1e-5


def test_means_and_scales(low_rank):
    x, codes = low_rank
    tables = statistics.estimate(x, codes, 3, SETTINGS)
    np.testing.assert_allclose(tables["gene_mean"], x.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(tables["gene_scale"], x.std(axis=0) + 0.05, rtol=1e-3)
    for code in range(3):
        expected = scaled(x[codes == code], tables).mean(axis=0)
        np.testing.assert_allclose(tables["class_mean"][code], expected, atol=5e-3)
    assert tables["cells_per_type"].tolist() == [400, 300, 100]
    assert float(tables["ridge"]) == 0.3


def test_tables_hold_what_float16_can_hold(low_rank):
    """Torch must see the very tables that the bundle ships."""
    tables = statistics.estimate(*low_rank, 3, SETTINGS)
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
    tables = statistics.estimate(x, codes, 3, SETTINGS)
    weight, bias = statistics.fit_logistic(x, codes, 3, tables, SETTINGS)
    z = scaled(x[:, :40], {k: v[:40] for k, v in tables.items() if k.startswith("gene")})
    oracle = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(z.clip(-10, 10), codes)
    found = softmax(z.clip(-10, 10) @ weight + bias, axis=1)
    np.testing.assert_allclose(found[:, types], oracle.predict_proba(z.clip(-10, 10)), atol=1e-2)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert weight.dtype == bias.dtype == np.float32
    absent = sorted({0, 1, 2} - set(types))
    assert (found[:, absent] == 0).all()
