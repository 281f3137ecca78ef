from __future__ import annotations

import numpy as np
import pytest

from scbignn_training.evaluate import f1_per_type, macro_f1


def f1(truth, predicted, code):
    """F1 of one class from its counts."""
    hit = sum(t == p == code for t, p in zip(truth, predicted, strict=True))
    said, is_so = list(predicted).count(code), list(truth).count(code)
    return 2 * hit / (said + is_so)


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 3], 200)
    return truth, np.where(rng.random(200) < 0.7, truth, rng.integers(0, 5, 200))


def test_macro_f1_is_the_mean_over_the_types_of_the_truth(labels):
    """Types 2 and 4 are predicted now and then, yet no cell is one: they have no say."""
    expected = np.mean([f1(*labels, c) for c in (0, 1, 3)])
    assert macro_f1(*labels) == pytest.approx(expected)


def test_a_type_that_is_never_predicted_counts_as_zero():
    assert macro_f1(np.array([0, 0, 1]), np.array([0, 0, 0])) == pytest.approx(0.4)


def test_scores_bear_the_names_of_their_types(labels):
    found = f1_per_type(*labels, ["a", "b", "c", "d", "e"])
    assert found == {
        n: pytest.approx(f1(*labels, c), abs=5e-5) for n, c in zip("abd", (0, 1, 3), strict=True)
    }
