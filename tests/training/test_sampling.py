from __future__ import annotations

import numpy as np
import pytest

from scbignn_training.sampling import (
    even,
    level,
    place_in_type,
    quotas,
    sample_weights,
    spread,
    stratified,
)

CODES = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4], [9000, 3000, 300, 20]))


def test_places_count_each_type_in_the_order_given():
    codes = np.array([1, 0, 1, 1, 0])
    assert place_in_type(codes, np.arange(5)).tolist() == [0, 0, 1, 2, 1]
    assert place_in_type(codes, np.array([3, 4, 2, 1, 0])).tolist() == [2, 1, 1, 0, 0]


class TestStratified:
    def test_up_to_its_size_it_takes_every_cell(self):
        assert stratified(CODES, len(CODES), 0).tolist() == list(range(len(CODES)))

    def test_beyond_it_small_types_stay_whole_and_large_ones_keep_their_ratio(self):
        rows = stratified(CODES, 2000, 0)
        assert (np.diff(rows) > 0).all()
        kept = np.bincount(CODES[rows])
        assert 1990 <= kept.sum() <= 2000
        assert kept[4] == 20
        assert kept[2] == 125  # its quarter of a quarter
        assert kept[0] / kept[1] == pytest.approx(3, abs=0.01)

    @pytest.mark.parametrize("size", [1, 4, 10])
    def test_no_type_is_lost(self, size):
        assert len(np.unique(CODES[stratified(CODES, size, 0)])) == 4

    def test_a_seed_fixes_it(self):
        one, same, other = (stratified(CODES, 500, s).tolist() for s in (1, 1, 2))
        assert one == same
        assert one != other

    def test_weights_give_every_type_its_cells_back(self):
        rows = stratified(CODES, 2000, 0)
        weights = sample_weights(CODES, rows)
        assert weights.mean() == pytest.approx(1)
        share = np.bincount(CODES[rows], weights) / weights.sum()
        np.testing.assert_allclose(share, np.bincount(CODES) / len(CODES))

    def test_all_cells_weigh_one(self):
        np.testing.assert_array_equal(sample_weights(CODES, np.arange(len(CODES))), 1.0)


class TestEven:
    def test_up_to_its_size_it_takes_every_cell(self):
        assert even(np.zeros(4000, int), 4000, 0).tolist() == list(range(4000))

    def test_beyond_it_small_types_stay_whole(self):
        codes = np.repeat([0, 1, 2], [9000, 5000, 300])
        rows = even(codes, 4000, 0)
        assert len(set(rows.tolist())) == 4000
        assert (np.diff(rows) > 0).all()
        assert np.bincount(codes[rows]).tolist() == [1850, 1850, 300]
        assert even(codes, 4000, 1).tolist() != rows.tolist()


class TestLevel:
    @pytest.mark.parametrize(
        ("cells", "size", "found"),
        [
            ([10, 10], 30, 30),
            ([10, 90], 60, 50),
            ([90, 10], 60, 50),
            ([90, 80, 70], 60, 20),
            ([5, 100, 100], 105, 50),
        ],
    )
    def test_small_parts_leave_their_room_to_the_others(self, cells, size, found):
        assert level(cells, size) == found
        assert sum(min(n, found) for n in cells) <= size


class TestSpread:
    def test_each_type_may_have_its_own_most(self):
        studies = np.arange(len(CODES)) % 3
        most = quotas(np.bincount(CODES), 2000)
        rows = spread(CODES, studies, most, 0)
        assert np.bincount(CODES[rows]).tolist() == most.tolist()
        for code in np.unique(CODES):
            n = np.bincount(studies[rows][CODES[rows] == code], minlength=3)
            assert n.max() - n.min() <= 1 or most[code] == (code == CODES).sum()

    def test_one_most_is_that_of_each(self):
        studies = np.zeros(len(CODES), int)
        each = np.minimum(np.bincount(CODES), 50)
        assert spread(CODES, studies, 50, 1).tolist() == spread(CODES, studies, each, 1).tolist()
