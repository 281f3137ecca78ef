"""Sums of logarithms, against scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scbignn_infer.annotation.chances import logsumexp, softmax

LOGS = arrays(
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.integers(1, 5), st.integers(1, 7)),
    elements=st.integers(-(2**15), 2**9).map(lambda n: n / 16),
)


@given(LOGS)
def test_they_are_what_scipy_says(values: Any) -> None:
    assert softmax(values).tobytes() == scipy.special.softmax(values, axis=1).tobytes()
    summed = logsumexp(values)
    assert summed.dtype == values.dtype
    exact = scipy.special.logsumexp(values.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(summed, exact, rtol=4 * np.finfo(values.dtype).eps, atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_largest_may_be_there_more_than_once(n: int) -> None:
    row = np.array([[0.0] * n + [-1e30, -800.0]])
    assert logsumexp(row) == pytest.approx(np.log(n), abs=1e-12)
