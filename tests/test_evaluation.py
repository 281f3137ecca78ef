from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from scbignn_infer.errors import InputError
from scbignn_infer.evaluation import agreement, calibration_error, reliability, same_meaning, score

TYPES = ["B", "CD4 T", "CD8 T", "NK", "never"]
labels = st.sampled_from(TYPES[:4])


def test_scores_by_hand():
    truth = np.array(["B", "B", "NK", "NK", "CD4 T", "HSPC"], dtype=object)
    best = np.array(["B", "NK", "NK", "NK", "NK", "B"], dtype=object)
    called = np.array([True, False, True, True, False, True])
    scores = score(truth, best, called, TYPES)
    assert scores.n_cells == 5
    assert scores.left_out == {"HSPC": 1}
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert scores.unknown_share == pytest.approx(2 / 5)
    assert scores.called_accuracy == 1
    assert scores.labels == ["B", "CD4 T", "NK"]
    np.testing.assert_array_equal(scores.confusion, [[1, 0, 1], [0, 0, 1], [0, 0, 2]])
    nk = scores.per_class["NK"]
    assert (nk.precision, nk.recall, nk.n) == (pytest.approx(2 / 4), 1, 2)


@pytest.mark.filterwarnings("ignore:A single label was found")  # of scikit-learn's confusion_matrix
@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=60))
def test_scores_are_those_of_scikit_learn(pairs):
    truth, best = (np.array(side, dtype=object) for side in zip(*pairs, strict=True))
    scores = score(truth, best, np.ones(len(truth), bool), TYPES)
    present = [t for t in TYPES if t in truth]
    precision, recall, f1, n = metrics.precision_recall_fscore_support(
        truth, best, labels=present, zero_division=0
    )
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(truth, best))
    assert scores.macro_f1 == pytest.approx(f1.mean())
    assert list(scores.per_class) == present
    for i, c in enumerate(scores.per_class.values()):
        assert (c.precision, c.recall, c.f1) == pytest.approx((precision[i], recall[i], f1[i]))
        assert c.n == n[i]
    expected = metrics.confusion_matrix(truth, best, labels=scores.labels)
    np.testing.assert_array_equal(scores.confusion, expected)


def test_a_label_that_is_none_of_the_models_is_wrong_and_shown():
    truth = np.array(["B", "B"], dtype=object)
    best = np.array(["B", "unknown"], dtype=object)
    scores = score(truth, best, np.array([True, False]), TYPES)
    assert scores.accuracy == 0.5
    assert scores.labels == ["B", "unknown"]
    assert list(scores.per_class) == ["B"]


def test_types_the_truth_lacks_do_not_enter_the_macro_average():
    truth = np.array(["B", "B", "B"], dtype=object)
    best = np.array(["B", "B", "NK"], dtype=object)
    assert score(truth, best, np.ones(3, bool), TYPES).macro_f1 == pytest.approx(0.8)


def test_left_out_labels_come_most_frequent_first():
    truth = np.array(["B", "x", "", "y", "y"], dtype=object)
    scores = score(truth, truth, np.ones(5, bool), TYPES)
    assert list(scores.left_out.items()) == [("y", 2), ("", 1), ("x", 1)]
    assert scores.n_cells == 1


def test_where_all_are_unknown_there_is_no_accuracy_of_the_called():
    truth = np.array(["B"], dtype=object)
    scores = score(truth, truth, np.zeros(1, bool), TYPES)
    assert scores.called_accuracy is None
    assert scores.unknown_share == 1


def test_no_known_label_is_refused():
    truth = np.array(["b cell", "b cell"], dtype=object)
    with pytest.raises(InputError, match=r"none of the true labels \(b cell\).*--map"):
        score(truth, truth, np.ones(2, bool), TYPES)
    with pytest.raises(InputError, match="no cells"):
        score(truth[:0], truth[:0], np.ones(0, bool), TYPES)


def test_names_that_mean_the_same_are_found_by_the_ontology():
    types = ["CD14 Mono", "DC", "pDC", "Ngn3 low EP", "A549"]
    joins = ["dendritic cell"]
    found = same_meaning(
        ["CD14+ Monocytes", "a549", "Dendritic cells", "DC", "B", "1", "", "unknown", "dc"],
        types,
        joins,
    )
    assert found == {
        "CD14+ Monocytes": "CD14 Mono",
        "a549": "A549",
        "Dendritic cells": "dendritic cell",
        "dc": "DC",
    }
    assert same_meaning(["b cell"], ["B", "B cells"]) == {}  # either


def test_scores_go_through_json():
    truth = np.array(["B", "NK"], dtype=object)
    document = json.loads(json.dumps(score(truth, truth, np.ones(2, bool), TYPES).as_dict()))
    assert document["confusion"] == [[1, 0], [0, 1]]
    assert document["per_class"]["B"] == {"precision": 1, "recall": 1, "f1": 1, "n": 1}


def test_reliability_is_that_of_numpy_and_a_calibrated_labelling_has_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 200_000)
    right = rng.uniform(0, 1, 200_000) < confidence
    bins = reliability(confidence, right)
    assert len(bins) == 10
    assert sum(b.n for b in bins) == 200_000
    for i, b in enumerate(bins):
        inside = (confidence >= i / 10) & (confidence < (i + 1) / 10)
        assert b.n == inside.sum()
        assert b.accuracy == pytest.approx(right[inside].mean())
    assert calibration_error(bins) < 0.01
    sure = reliability(np.ones(1000), rng.uniform(0, 1, 1000) < 0.7)
    assert len(sure) == 1
    assert calibration_error(sure) == pytest.approx(0.3, abs=0.05)
    assert calibration_error(()) is None


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=60))
def test_agreement_is_that_of_scikit_learn(pairs):
    first, second = (np.array(side, dtype=object) for side in zip(*pairs, strict=True))
    found = agreement(first, second, most=100)
    assert found.share == pytest.approx(metrics.accuracy_score(first, second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappa = metrics.cohen_kappa_score(first, second)
    assert found.kappa == pytest.approx(1.0 if np.isnan(kappa) else kappa)
    assert sum(n for *_, n in found.pairs) == (first != second).sum()
    assert all(a != b for a, b, _ in found.pairs)


def test_cells_without_a_label_in_either_are_left_out():
    found = agreement(np.array(["B", "", "B"], object), np.array(["B", "B", ""], object))
    assert (found.n_cells, found.share) == (1, 1)
    with pytest.raises(InputError, match="no cell has a label in both"):
        agreement(np.array(["B", ""], object), np.array(["", "B"], object))


JOINS = {"T": ["CD4 T", "CD8 T"], "lymphocyte": ["CD4 T", "CD8 T", "B", "NK"], "odd": ["B", "NK"]}


def test_finer_and_coarser_labels_are_told_from_wrong_ones():
    truth = np.array(["CD4 T", "CD4 T", "T", "T", "T", "odd", "B", "B", "HSPC"], dtype=object)
    final = np.array(["T", "NK", "CD8 T", "lymphocyte", "odd", "T", "B", "no", "B"], dtype=object)
    best = np.array(["CD4 T", "NK", "CD8 T", "B", "B", "CD4 T", "B", "B", "B"], dtype=object)
    called = final != "no"
    scores = score(truth, best, called, TYPES, final=final, joins=JOINS)
    told = scores.depths
    assert (told.right, told.finer, told.coarser) == (1, 1, 2)
    assert (told.wrong, told.unknown) == (3, 1)
    assert told.true_share == pytest.approx(4 / 7)
    assert told.said == "1 right, 1 finer, 2 coarser, 3 wrong; 57.1% are true"
    assert scores.left_out == {"HSPC": 1}
    assert scores.accuracy == pytest.approx(4 / 8)  # CD4 T, CD8 T as a T, B and B
    assert scores.as_dict()["depths"]["true_share"] == told.true_share
    json.dumps(scores.as_dict())
    assert score(truth[:2], best[:2], called[:2], TYPES, joins=JOINS).depths is None


@given(st.lists(st.tuples(labels, labels, st.booleans()), min_size=1, max_size=60))
def test_without_what_joins_types_labels_are_right_or_wrong(cells):
    truth, final, called = (np.array(side, dtype=object) for side in zip(*cells, strict=True))
    scores = score(truth, final, called.astype(bool), TYPES, final=final)
    assert (scores.depths.finer, scores.depths.coarser) == (0, 0)
    assert scores.depths.true_share == scores.called_accuracy or scores.depths.true_share == (
        pytest.approx(scores.called_accuracy)
    )
    assert scores.depths.unknown == (~called.astype(bool)).sum()
