from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scbignn_training import blocks
from scbignn_training.blocks import (
    column_mean,
    dense,
    log_expression,
    moments,
    row_of_each,
    slices,
    stored,
    with_values,
)


@pytest.fixture(params=[7, 10_000], ids=["many blocks", "one block"])
def cells(request, gold, monkeypatch):
    """Return real cells in blocks of seven, and in one."""
    monkeypatch.setattr(blocks.slices, "__defaults__", (request.param,))
    return gold


def test_slices_cover_all_rows_in_order():
    parts = list(slices(10, 4))
    assert parts == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(slices(0)) == []


def test_dense_rows_are_float32_and_aligned(gold):
    for n in (1, 3, 17):
        found = dense(gold.counts[:n].astype(np.float64))
        assert found.dtype == torch.float32
        assert found.data_ptr() % 64 == 0
        np.testing.assert_array_equal(found, gold.counts[:n].toarray())


def test_other_values_stand_at_the_same_places(gold):
    doubled = with_values(gold.counts, gold.counts.data * 2)
    np.testing.assert_array_equal(doubled.toarray(), 2 * gold.counts.toarray())
    assert doubled.indices is gold.counts.indices or np.shares_memory(
        doubled.indices, gold.counts.indices
    )


def test_each_stored_element_knows_its_row(gold):
    row = np.arange(gold.counts.shape[0])
    assert (row_of_each(gold.counts, row) == gold.counts.tocoo().row).all()
    here = stored(gold.counts, slice(3, 9))
    np.testing.assert_array_equal(gold.counts.data[here], gold.counts[3:9].data)


def test_log_expression_is_log1p_of_counts_per_ten_thousand(cells):
    counts = cells.counts.toarray().astype(np.float64)
    expected = np.log1p(1e4 * counts / cells.totals[:, None])
    found = log_expression(cells.counts, cells.totals)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5)


def test_means_and_variances_are_numpys(cells):
    x = cells.expression
    full = x.toarray().astype(np.float64)
    mean, variance = moments(x)
    np.testing.assert_allclose(mean, full.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, full.var(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(column_mean(x, np.sqrt), np.sqrt(full).mean(axis=0), rtol=1e-12)


def test_large_sums_lose_no_count():
    """2^24 + 1 is no float32."""
    rows = sp.csr_matrix(np.array([[2.0**24], [1.0]], np.float32))
    assert column_mean(rows)[0] * 2 == 2**24 + 1
