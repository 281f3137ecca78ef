from __future__ import annotations

import numpy as np
import pytest

from scbignn_training.evaluate import confusions, f1_per_type, macro_f1


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


class TestConfusions:
    @staticmethod
    def find(cells, cell_types="abc"):
        """Return what is found among cells given as ``{"truth called": number}``."""
        pairs = np.array([p.split() for p, n in cells.items() for _ in range(n)])
        truth, called = (np.array([cell_types.index(x) for x in column]) for column in pairs.T)
        found = confusions(truth, called, list(cell_types))
        return [(f"{c.truth} {c.called}", c.share, c.n) for c in found]

    def test_the_worst_stand_first(self):
        cells = {"a a": 80, "a b": 20, "b b": 5, "b a": 5, "c c": 70, "c a": 9, "c b": 21}
        assert self.find(cells) == [
            ("b a", 0.5, 5),
            ("c b", 0.21, 21),
            ("a b", 0.2, 20),
            ("c a", 0.09, 9),
        ]

    def test_few_cells_and_small_shares_are_none(self):
        """Two cells say little; of 100 cells 5 are not above 5 %, 6 are."""
        cells = {"a b": 2, "a a": 2, "b b": 95, "b a": 5, "c c": 94, "c a": 6}
        assert self.find(cells) == [("c a", 0.06, 6)]

    def test_there_are_at_most_twenty(self):
        names = "abcdefg"
        cells = {f"{x} {y}": 10 + i for i, x in enumerate(names) for y in names}
        assert len(self.find(cells, names)) == 20
