from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_training.data import Origin, Reference
from scbignn_training.evaluate import Outcome
from scbignn_training.selection import keep, splits


def make(codes, batches):
    """Return a reference whose cells have no counts."""
    types = [f"T{i}" for i in range(max(codes) + 1)]
    return Reference(
        sp.csr_matrix((len(codes), 5), dtype=np.float32),
        [f"G{i}" for i in range(5)],
        [""] * 5,
        np.array(codes),
        types,
        np.array(batches),
        {},
        {},
    )


class TestStudies:
    CODES = (*[0, 1, 2] * 10, *[0, 1] * 10, *[1, 2, 3] * 10)
    BATCHES = np.repeat([0, 1, 2], [30, 20, 30])

    def test_each_is_left_out_in_turn(self):
        reference = make(self.CODES, self.BATCHES)
        name, found = splits(reference, 3, 0)
        assert name == "each study left out in turn"
        assert len(found) == 3
        for study, (inside, outside) in enumerate(found):
            assert inside.tolist() == np.flatnonzero(study != self.BATCHES).tolist()
            assert set(self.BATCHES[outside]) == {study}

    def test_cells_of_types_unknown_to_the_rest_are_not_scored(self):
        """T3 is in the last study alone."""
        reference = make(self.CODES, self.BATCHES)
        _, found = splits(reference, 3, 0)
        assert [len(outside) for _, outside in found] == [30, 20, 20]
        assert set(reference.codes[found[2][1]]) == {1, 2}
        assert 3 in reference.codes[found[0][0]]  # elsewhere it is trained on

    def test_one_cell_elsewhere_does_not_make_a_type_known(self):
        codes = [*self.CODES, 3]
        reference = make(codes, [*self.BATCHES, 0])
        assert 3 not in reference.codes[splits(reference, 3, 0)[1][2][1]]
        reference = make([*codes, 3], [*self.BATCHES, 0, 1])
        assert 3 in reference.codes[splits(reference, 3, 0)[1][2][1]]

    def test_every_scored_type_is_one_that_the_rest_is_trained_on(self):
        reference = make(self.CODES, self.BATCHES)
        for inside, outside in splits(reference, 3, 0)[1]:
            part = reference.subset(inside)
            assert set(reference.subset(outside).cell_types) <= set(part.cell_types)

    def test_a_study_that_shares_no_type_is_not_left_out(self):
        codes = [*[0, 1] * 10, *[0, 1] * 10, *[2, 3] * 10]
        reference = make(codes, np.repeat([0, 1, 2], 20))
        name, found = splits(reference, 3, 0)
        assert name == "each study left out in turn"
        assert [set(reference.batches[outside]) for _, outside in found] == [{0}, {1}]

    @pytest.mark.parametrize(
        ("first", "second"),
        [((0, 1), (2, 3)), ((0,), (1,))],
        ids=["none in common", "one type each"],
    )
    def test_where_no_study_can_be_left_out_cells_are(self, first, second):
        codes = [*first * 30, *second * 30]
        batches = [*[0] * 30 * len(first), *[1] * 30 * len(second)]
        reference = make(codes, batches)
        name, found = splits(reference, 3, 0)
        assert name == "one of 3 folds of the cells"
        assert len(found) == 1

    def test_a_study_that_leaves_one_type_behind_is_not_left_out(self):
        reference = make([*[0] * 30, *[0, 1] * 30], np.repeat([0, 1], [30, 60]))
        _, ((inside, outside),) = splits(reference, 3, 0)
        assert (set(reference.batches[inside]), set(reference.batches[outside])) == ({1}, {0})


class TestRealAndSimulated:
    """Four files: real, real, of the first study's profiles, of other profiles."""

    BATCHES = np.repeat([0, 1, 2, 3], 20)

    def reference(self, *, first="one"):
        made = make([0, 1] * 40, self.BATCHES)
        studies = ("one", "two", first, "three")
        names = ("a", "b", "p", "q")
        origins = [
            Origin(name, simulated=name in "pq", study=study)
            for name, study in zip(names, studies, strict=True)
        ]
        return replace(made, origins=tuple(origins))

    def test_only_real_cells_are_scored(self):
        name, found = splits(self.reference(), 3, 0)
        assert name == "each study left out in turn"
        assert [set(self.BATCHES[outside]) for _, outside in found] == [{0}, {1}]

    @pytest.mark.parametrize(("first", "kept"), [("one", {1, 3}), ("four", {1, 2, 3})])
    def test_a_study_is_left_out_with_its_profiles(self, first, kept):
        _, ((inside, _), (other, _)) = splits(self.reference(first=first), 3, 0)
        assert set(self.BATCHES[inside]) == kept
        assert set(self.BATCHES[other]) == {0, 2, 3}

    def test_profiles_are_left_out_where_fewer_than_two_studies_are_real(self):
        reference = self.reference()
        part = reference.subset(np.flatnonzero(self.BATCHES != 1))
        _, found = splits(part, 3, 0)
        assert [set(part.batches[outside]) for _, outside in found] == [{0, 2}, {3}]

    @pytest.mark.parametrize(("measured", "types", "judge"), [(2, 4, True), (2, 5, False)])
    def test_measured_cells_judge_if_half_of_the_types_have_some(self, measured, types, judge):
        """Of two files the first is measured, and has only some of the types."""
        codes = [*range(measured), *range(types)] * 3
        batches = [*[0] * measured, *[1] * types] * 3
        origins = (Origin("cells"), Origin("profiles", simulated=True))
        reference = replace(make(codes, batches), origins=origins)
        real = np.array(batches) == 0
        assert reference.judges.tolist() == (real if judge else np.zeros_like(real)).tolist()


class TestOneStudy:
    CODES = np.repeat([0, 1, 2, 3], [99, 37, 5, 3])

    @pytest.mark.parametrize("folds", [2, 3, 5])
    def test_one_fold_of_each_type_is_held_out(self, folds):
        reference = make(self.CODES, [0] * 144)
        name, ((inside, outside),) = splits(reference, folds, 0)
        assert name == f"one of {folds} folds of the cells"
        assert sorted([*inside, *outside]) == list(range(144))
        held = Counter({c: n // folds for c, n in enumerate([99, 37, 5, 3])})
        assert Counter(self.CODES[outside].tolist()) == +held

    def test_a_seed_fixes_it(self):
        reference = make(self.CODES, [0] * 144)
        one, same, other = (splits(reference, 3, seed)[1][0][1] for seed in (3, 3, 4))
        assert one.tolist() == same.tolist()
        assert one.tolist() != other.tolist()


def outcome(f1, code=0):
    """Return what stands for held-out cells; the gene level is always a tenth of the pair."""
    return Outcome(f1 / 10, f1, np.array([code]), np.array([code]), np.zeros((1, 2)))


class TestKeeping:
    @staticmethod
    def run(*splits, tolerance=0.01):
        """Keep one of scripted iterations; what is kept are its outcomes."""
        rows = []
        outcomes = [[outcome(f1, i) for i, f1 in enumerate(split)] for split in splits]
        history, found = keep([iter(o) for o in outcomes], tolerance, rows.append)
        (kept,) = [h.iteration for h in history if h.kept]
        assert found == [split[kept] for split in outcomes]
        assert [r.iteration for r in rows] == [h.iteration for h in history]
        assert not any(r.kept for r in rows)  # it is not known before the end
        assert [h.kept for h in history].count(True) == 1
        return history

    @pytest.mark.parametrize(
        ("scores", "kept"),
        [
            ((0.5, 0.9, 0.7), 1),
            ((0.5, 0.7, 0.9), 2),
            ((0.7, 0.7, 0.7), 2),  # of equals the last
            ((0.0, 0.0, 0.0), 2),
            ((0.9, 0.895, 0.885), 1),  # the last is beyond the tolerance
            ((0.89, 0.9, 0.885), 1),
            ((0.5,), 0),
        ],
    )
    def test_the_latest_within_the_tolerance_is_kept(self, scores, kept):
        history = self.run(scores)
        assert [h.kept for h in history] == [i == kept for i in range(len(scores))]
        assert [h.cell_level_f1 for h in history] == pytest.approx(scores)
        assert [h.gene_level_f1 for h in history] == pytest.approx(np.array(scores) / 10)

    def test_without_tolerance_the_best_is_kept(self):
        assert [h.kept for h in self.run((0.8, 0.9, 0.899), tolerance=0.0)] == [False, True, False]

    def test_a_wide_tolerance_keeps_the_last(self):
        assert self.run((0.9, 0.8, 0.7), tolerance=0.5)[2].kept

    def test_the_mean_over_the_splits_decides(self):
        """The first split alone would keep the last iteration, the second the first."""
        history = self.run((0.5, 0.8, 0.9), (0.9, 0.8, 0.3))
        assert [h.cell_level_f1 for h in history] == pytest.approx([0.7, 0.8, 0.6])
        assert history[1].kept

    def test_a_worse_iteration_is_the_last_that_is_run(self):
        """By more than the tolerance: what might come after it is not worth its time."""
        history = self.run((0.9, 0.895, 0.88, 0.95, 0.95))
        assert [h.cell_level_f1 for h in history] == [0.9, 0.895, 0.88]
        assert [h.kept for h in history] == [False, True, False]

    def test_splits_go_on_iteration_by_iteration(self):
        order = []

        def scores(name):
            for i in range(3):
                order.append((i, name))
                yield outcome(0.5)

        keep([scores("a"), scores("b")], 0.0, lambda row: order.append((row.iteration, "row")))
        assert order == [(i, name) for i in range(3) for name in ("a", "b", "row")]

    def test_seconds_are_those_of_the_iteration(self, monkeypatch):
        clock = iter([0.0, 1.5, 1.5, 4.0, 4.0])
        monkeypatch.setattr("time.perf_counter", lambda: next(clock))
        assert [h.seconds for h in self.run((0.1, 0.2))] == [1.5, 2.5]
