"""Sums of probabilities that are given as logarithms.

scipy has both functions; importing ``scipy.special`` takes a tenth of what labelling a small file
does, and before scipy 1.15 its results were less exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scbignn_infer._types import Array


def softmax(values: Array) -> Array:
    """Return exp(values) (n, m) scaled so that each row sums to 1."""
    scaled: Array = np.exp(values - values.max(axis=1, keepdims=True))
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def logsumexp(values: Array) -> Array:
    """Return log(sum(exp(values))) (n, 1) of each row of finite values (n, m)."""
    largest = values.max(axis=1, keepdims=True)
    is_largest = values == largest
    others = np.exp(values - largest)
    others[is_largest] = 0
    n = is_largest.sum(axis=1, keepdims=True, dtype=values.dtype)
    total: Array = np.log1p(others.sum(axis=1, keepdims=True) / n) + np.log(n) + largest
    return total
