"""What an annotation says, against the formulas written out cell by cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import softmax

from scbignn_infer.annotation import scores
from scbignn_infer.annotation.annotation import Annotation
from scbignn_infer.annotation.provenance import Model, Provenance
from scbignn_infer.annotator import Annotator
from scbignn_infer.network.neighbors import Graph, build_graph
from scbignn_infer.network.panel import (
    LIMIT,
    RESIDUAL_GENES,
    SCALED_STEPS,
    TARGET_SUM,
    within_spread,
)
from scbignn_infer.network.sessions import Runtime
from scbignn_infer.query.readers import open_query

REPOSITORY = Path(__file__).resolve().parents[1]

TYPES = ["B", "NK", "T"]


@pytest.fixture
def annotation() -> Annotation:
    """Return five cells: sure, unsure, strange by genes, novel, empty."""
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.0, 0.2, 0.8], [0.0, 0.55, 0.45], [0.0, 0.0, 0.0]],
        np.float32,
    )
    return Annotation(
        cell_types=TYPES,
        ontology_ids=["CL:1", "", "CL:3"],
        probabilities=probabilities,
        gene_level_codes=np.array([0, 1, 1, 1, 0]),
        neighbor_agreement=np.array([1.0, 0.5, 0.25, 0.0, 0.0]),
        novelty=np.array([0.1, 0.5, 0.9, 1.0, 1.0]),
        residual=np.array([0.8, 0.5, 1.5, 0.7, 0.0], np.float32),
        embedding=np.zeros((5, 2), np.float32),
        empty=np.array([False, False, False, False, True]),
        confidence_threshold=0.5,
        provenance=Provenance(Model("toy", "1", "ab"), seconds={"graph": 1.0}),
    )


def test_labels_follow_from_confidence_and_what_is_strange(annotation: Annotation) -> None:
    np.testing.assert_allclose(annotation.confidence, [0.9, 0.4, 0.8, 0.55, 0])
    expected = [
        0.9 - 0.1 * 0.1**20,
        0.4 - 0.1 * 0.5**20,
        0.8 - 0.1 * 0.9**20 - 0.5 * 0.7,
        0.55 - 0.1,
        -0.1,
    ]
    np.testing.assert_allclose(annotation.support, expected, rtol=1e-6)
    assert annotation.best_codes.tolist() == [0, 1, 2, 1, -1]
    assert annotation.codes.tolist() == [0, -1, -1, -1, -1]
    assert annotation.labels.tolist() == ["B", "unknown", "unknown", "unknown", "unknown"]
    assert annotation.best_labels.tolist() == ["B", "NK", "T", "NK", "unknown"]
    assert annotation.gene_level_labels.tolist() == ["B", "NK", "NK", "NK", "unknown"]
    assert annotation.counts() == {"unknown": 4, "B": 1}
    assert list(annotation.counts()) == ["unknown", "B"]
    assert len(annotation) == 5


def test_cells_above_the_novelty_asked_for_are_unknown_too(annotation: Annotation) -> None:
    lax = replace(annotation, confidence_threshold=-np.inf)
    assert lax.codes.tolist() == [0, 1, 2, 1, -1]
    assert replace(lax, max_novelty=0.9).codes.tolist() == [0, 1, 2, -1, -1]  # at it is not above
    strict = replace(lax, max_novelty=0.4)
    assert strict.codes.tolist() == [0, -1, -1, -1, -1]
    assert strict.best_codes.tolist() == lax.best_codes.tolist()
    both = replace(annotation, max_novelty=0.05)
    assert both.codes.tolist() == [-1] * 5


def test_it_is_said_why_a_cell_is_unknown(annotation: Annotation) -> None:
    expected = ["", "unsure", "genes do not fit", "novel", "empty"]
    assert annotation.unknown_reasons.tolist() == expected
    assert annotation.unknown_counts() == dict.fromkeys(expected[1:], 1)
    foreign = replace(annotation, foreign=np.array([False] * 4 + [True]))
    assert foreign.unknown_reasons.tolist() == [*expected[:-1], "other species"]
    lax = replace(annotation, confidence_threshold=-2.0)
    assert lax.unknown_reasons.tolist() == [""] * 4 + ["empty"]
    strict = replace(lax, max_novelty=0.4)
    assert strict.unknown_reasons.tolist() == ["", "novel", "novel", "novel", "empty"]


def test_its_short_form_says_what_is_there(
    annotation: Annotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repr(annotation) == "<Annotation of 5 cells by toy 1: unknown 4, B 1>"
    monkeypatch.setattr(Annotation, "counts", lambda self: {f"type {i}": 9 for i in range(7)})
    assert repr(annotation).endswith("type 3 9, type 4 9, and 2 more>")


def test_penalties_that_were_measured_take_the_place_of_the_old_rule(
    annotation: Annotation,
) -> None:
    penalties = np.array([[0.5, 0.1], [0.0, 0.0], [0.0, 0.1], [0.0, 0.2], [0.0, 0.0]])
    found = replace(annotation, penalties=penalties)
    np.testing.assert_allclose(found.support, [0.3, 0.4, 0.7, 0.35, 0], rtol=1e-6)
    assert found.unknown_reasons.tolist() == ["novel", "unsure", "", "genes do not fit", "empty"]


def test_a_cell_at_the_threshold_keeps_its_label() -> None:
    at = scores.support(np.float64([0.5]), np.float64([0.0]), np.float64([0.8]))
    assert at.tolist() == [0.5]


@pytest.mark.parametrize(
    ("residual", "less"), [(0.0, 0), (0.8, 0), (1.2, 0.2), (1.8, 0.5), (9, 0.5)]
)
def test_the_residual_counts_between_two_bounds(residual: float, less: float) -> None:
    found = scores.support(np.ones(1), np.zeros(1), np.array([residual]))
    np.testing.assert_allclose(found, 1 - less)


def test_columns_and_matrices_have_the_promised_names(annotation: Annotation) -> None:
    columns = annotation.columns("key")
    assert list(columns) == [
        "key_cell_type",
        "key_cell_type_ontology_id",
        "key_best_cell_type",
        "key_confidence",
        "key_gene_level_cell_type",
        "key_neighbor_agreement",
        "key_novelty",
        "key_support",
        "key_unknown_reason",
    ]
    assert columns["key_cell_type"].tolist() == annotation.labels.tolist()
    assert columns["key_cell_type_ontology_id"].tolist() == ["CL:1", "", "", "", ""]
    assert columns["key_best_cell_type"].tolist() == annotation.best_labels.tolist()
    assert columns["key_gene_level_cell_type"].tolist() == annotation.gene_level_labels.tolist()
    for name in ("confidence", "neighbor_agreement", "novelty"):
        assert columns[f"key_{name}"].dtype == np.float32
        np.testing.assert_allclose(columns[f"key_{name}"], getattr(annotation, name), rtol=1e-6)
    assert all(name.startswith("scbignn_") for name in annotation.columns())
    matrices = annotation.matrices("key")
    assert list(matrices) == ["key_probabilities", "X_key"]
    assert matrices["key_probabilities"] is annotation.probabilities
    assert matrices["X_key"] is annotation.embedding
    assert list(annotation.matrices()) == ["scbignn_probabilities", "X_scbignn"]
    record = annotation.record()
    assert (record["model"]["name"], record["cell_types"]) == ("toy", TYPES)
    assert "seconds" not in record


def test_the_graph_is_given_as_distances_and_as_what_both_sides_share(
    annotation: Annotation,
) -> None:
    similarity = np.zeros((5, 5), np.float32)
    similarity[0, 1], similarity[1, 2], similarity[2, 1], similarity[3, 0] = 0.9, 0.5, 0.5, -0.2
    similarity[4, 3] = 1.0
    own = Annotation(**{**annotation.__dict__, "graph": sp.csr_matrix(similarity)})
    pairs = own.pairs("key")
    assert list(pairs) == ["key_connectivities", "key_distances"]
    near, far = pairs["key_connectivities"].toarray(), pairs["key_distances"].toarray()
    np.testing.assert_allclose(
        [near[0, 1], near[1, 0], near[1, 2], near[2, 1], near[3, 4]], [0.9, 0.9, 0.5, 0.5, 1]
    )
    assert 0 < near[3, 0] == near[0, 3] < 1e-6  # an edge stays one
    np.testing.assert_allclose([far[0, 1], far[3, 0]], [0.1, 1.2], rtol=1e-6)
    assert 0 < far[4, 3] < 1e-6
    assert far[1, 0] == 0
    assert pairs["key_distances"].nnz == 5
    assert own.graph.toarray()[3, 0] == np.float32(-0.2)  # is left as it was
    assert list(own.pairs()) == ["scbignn_connectivities", "scbignn_distances"]
    assert annotation.pairs() == {}


def test_temperature_divides_the_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    found = scores.calibrate(logits, 2.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(logits / 2, axis=1), rtol=1e-5)


def test_the_residual_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    scaled = rng.integers(-90, 90, (5000, 12)).astype(np.int8)
    indices = rng.integers(0, 5000, (5000, 4))
    codes = rng.integers(0, 3, 5000)
    mean, spread = rng.normal(size=(3, 12)), rng.uniform(0.5, 2, 12)
    found = scores.residual(scaled, indices, codes, mean, spread)
    assert found.dtype == np.float32
    for i in (0, 17, 4095, 4096, 4999):
        smoothed = np.vstack([scaled[i], scaled[indices[i]]]).astype(float).mean(axis=0)
        off = np.sort(np.abs(smoothed - mean[codes[i]]) / spread)[-10:]
        assert found[i] == pytest.approx(off.mean(), rel=1e-5)
    few = scores.residual(scaled[:, :3], indices, codes, mean[:, :3], spread[:3])
    smoothed = np.vstack([scaled[0], scaled[indices[0]]]).astype(float).mean(axis=0)[:3]
    assert few[0] == pytest.approx(
        float((np.abs(smoothed - mean[codes[0], :3]) / spread[:3]).mean())
    )


@pytest.mark.parametrize("laboratory", [0.0, 40.0])
def test_what_all_types_share_is_the_laboratorys(laboratory: float) -> None:
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 30, (4, 12))
    codes = np.repeat([0, 1, 2, 3], [50, 50, 50, 10])
    shift = laboratory * rng.normal(size=12)
    scaled = mean[codes] + shift + rng.normal(0, 2, (160, 12))
    scaled[codes == 2] += rng.normal(0, 200, 12)  # a type that the model does not know
    found = scores.common_shift(scaled, codes, mean)
    np.testing.assert_allclose(found, shift, atol=2)
    few = scores.common_shift(scaled[codes < 2], codes[codes < 2], mean)
    assert (few == 0).all(), "two types may both be new"


def test_a_typical_value_is_that_of_types_not_of_cells() -> None:
    codes = np.repeat([0, 1, 2, 3], [1000, 30, 30, 5])
    values = np.array([9.0, 1, 2, 50])[codes]
    assert scores.typical(values, codes) == 2  # of 9, 1 and 2: the last type is too small
    assert scores.typical(values[-5:], codes[-5:]) == 50


def test_the_spread_within_types_has_noise_added() -> None:
    statistics = {
        "within_factors": np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]),
        "within_residual": np.array([0.0, 4.0, 0.0]),
    }
    found = within_spread(statistics, np.array([0, 1, 2]))
    np.testing.assert_allclose(found, [5.3, 2.3, 1.3])
    np.testing.assert_allclose(within_spread(statistics, np.array([2])), [1.3])


def test_agreement_is_the_weighted_share() -> None:
    codes, group = np.array([0, 1, 2]), np.arange(3)
    near = np.array([[0, 1, 0], [0, 0, 2], [2, 2, 2]])
    weights = np.array([[1.0, 1.0, 2.0], [0.5, -1.0, 0.5], [1, 1, 1]], np.float32)
    graph = Graph(near, weights, "exact", weights[:, -1])
    np.testing.assert_allclose(scores.agreement(codes, graph, group), [0.75, 0, 1])
    far = Graph(near[:2, :2], np.full((2, 2), -1.0), "exact", np.full(2, -1.0))
    np.testing.assert_allclose(scores.agreement(codes[:2], far, group), [0.5, 0])  # all count alike
    lone = build_graph(np.ones((1, 4)), 15, runtime=Runtime("cpu", 0, 1))
    assert np.isnan(scores.agreement(codes[:1], lone, group)).tolist() == [True]


def test_values_are_averaged_with_those_of_neighbours() -> None:
    values, indices = np.array([0.0, 3.0, 6.0]), np.array([[1, 2], [0, 0], [2, 1]])
    np.testing.assert_allclose(scores.smooth(values, indices), [3, 1, 5])
    np.testing.assert_array_equal(scores.smooth(values, indices[:, :0]), values)


def test_the_residual_is_on_the_scale_on_which_its_quantiles_were_learned() -> None:
    """Training compares exact values, cut at ``LIMIT``; a byte holds them in small steps."""
    assert np.iinfo(np.int8).max >= LIMIT * SCALED_STEPS
    annotator = Annotator.load("human-pancreas", device="cpu", threads=1)
    with open_query(REPOSITORY / "tests" / "data" / "pancreas400.h5ad") as query:
        choice = annotator.choose(query)
        found = annotator.annotate_query(query, choice=choice)
        counts, totals = choice.panel.densify(next(query.blocks(choice.matrix, len(found))))
    statistics, bank = annotator.bundle.statistics, annotator.bundle.reference
    ranked = np.flatnonzero(choice.genes.present[: len(statistics["gene_mean"])])
    first = ranked[:RESIDUAL_GENES]
    mean, sd = statistics["gene_mean"][first], statistics["gene_scale"][first]
    exact = np.clip((np.log1p(counts[:, : len(first)] * TARGET_SUM / totals) - mean) / sd, -10, 10)
    assert (exact > 9).any(), "no value that another limit would cut"
    profile = statistics["class_mean"][:, first]
    shift = scores.common_shift(exact, found.best_codes, profile)
    expected = scores.residual(
        exact,
        annotator.pair.neighbors(found.embedding).indices,
        found.best_codes,
        profile,
        within_spread(statistics, first),
        shift=shift,
    )
    usual = np.quantile(bank["residual_quantiles"], 0.5)
    expected = expected / np.clip(scores.typical(expected, found.best_codes) / usual, 1, 3)
    np.testing.assert_allclose(
        found.residual, expected / np.quantile(bank["residual_quantiles"], 0.99), atol=0.01
    )
