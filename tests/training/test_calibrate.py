from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from scbignn_infer.annotation.scores import temperature_by
from scbignn_infer.network.bank import novelty_quantile
from scbignn_training.calibrate import (
    Probe,
    calibration,
    distance_quantiles,
    fit_certainty,
    fit_temperature,
    fit_threshold,
    towards,
)


@pytest.fixture
def calibrated():
    """Return logits (20000, 5) whose softmax is the truth, and labels drawn from it."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((20_000, 5))
    drawn = softmax(logits, axis=1).cumsum(axis=1) > rng.random((20_000, 1))
    return logits, drawn.argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found(calibrated, temperature):
    logits, codes = calibrated
    found = fit_temperature((temperature * logits).astype(np.float32), codes)
    assert found == pytest.approx(temperature, rel=0.04)


def test_no_other_temperature_has_a_smaller_loss(calibrated):
    logits, codes = calibrated[0][:300], calibrated[1][:300]

    def loss(temperature):
        return -log_softmax(logits / temperature, axis=1)[np.arange(300), codes].mean()

    found = fit_temperature(logits, codes)
    assert loss(found) <= min(loss(t) for t in np.geomspace(0.1, 10, 400)) + 1e-6


@pytest.mark.parametrize(("codes", "end"), [([0] * 50, 0.1), ([1] * 50, 10.0)])
def test_the_temperature_stays_in_its_range(codes, end):
    """Logits that are never or always wrong would ask for 0 or infinity."""
    logits = np.tile([3.0, 0.0], (50, 1))
    assert fit_temperature(logits, np.array(codes)) == pytest.approx(end, rel=1e-3)


def test_two_of_a_hundred_right_cells_fall_below_the_threshold():
    confidence = np.linspace(0.3, 1.0, 1000)
    probabilities = np.column_stack([confidence, np.zeros((1000, 5))])
    codes = np.zeros(1000, int)
    threshold = fit_threshold(probabilities, codes)
    assert 0.3 < threshold < 0.5
    assert (confidence < threshold).sum() == 20
    wrong = np.concatenate([codes, np.ones(1000, int)])  # wrongly labelled cells have no say
    assert fit_threshold(np.tile(probabilities, (2, 1)), wrong) == threshold


def test_the_threshold_is_at_most_one_half():
    assert fit_threshold(np.tile([0.9, 0.1], (30, 1)), np.zeros(30, int)) == 0.5
    assert fit_threshold(np.tile([0.9, 0.1], (30, 1)), np.ones(30, int)) == 0.5  # none is right


def test_distances_are_placed_among_their_quantiles():
    distance = np.random.default_rng(0).gamma(2.0, 0.1, 5000)
    quantiles = distance_quantiles(distance)
    assert quantiles.shape == (201,)
    assert quantiles.dtype == np.float32
    assert (np.diff(quantiles) >= 0).all()
    placed = novelty_quantile(distance, quantiles)
    exact = distance.argsort().argsort() / 4999
    np.testing.assert_allclose(placed, exact, atol=0.005)


def test_calibration_is_recorded_and_a_wrong_temperature_shows(calibrated):
    logits, codes = calibrated
    true = calibration(softmax(logits, axis=1), codes)
    assert true.error < 0.02
    assert sum(b.n_cells for b in true.bins) == len(codes)
    assert calibration(softmax(4 * logits, axis=1), codes).error > 0.1


def test_certainty_follows_misfit_and_coverage(calibrated):
    """Each file's logits are multiplied by what its misfit and coverage ask for."""
    logits, codes = calibrated[0][:3000], calibrated[1][:3000]
    files = [(m, v) for m in (1.0, 1.5, 2.5, 4.0) for v in (1.0, 0.4, 0.1)]
    truth = {f: np.exp(0.3 - 0.5 * np.log(f[0]) - 0.2 * np.log(f[1])) for f in files}
    probes = [Probe(truth[f] * logits, codes, *f) for f in files]
    found = fit_certainty([probes])
    for (misfit, coverage), temperature in truth.items():
        assert temperature_by(found, coverage, misfit) == pytest.approx(temperature, rel=0.15)


def test_kinds_of_files_count_alike_however_many_there_are(calibrated):
    logits, codes = calibrated[0][:3000], calibrated[1][:3000]
    few, many = (Probe(t * logits, codes, 1.0, 1.0) for t in (2.0, 1.0))
    found = fit_certainty([[few], [many] * 20])
    assert 1.2 < temperature_by(found, 1.0, 1.0) < 1.7
    assert temperature_by(found, 1.0, 0.5) == temperature_by(found, 1.0, 1.0)  # not fitted there


def test_the_temperature_of_easy_files_has_a_floor(calibrated):
    logits = 50 * np.eye(5)[np.arange(500) % 5]
    found = fit_certainty([[Probe(logits, np.arange(500) % 5, 1.0, 1.0)]])
    assert temperature_by(found, 1.0, 1.0) >= 0.2


def test_a_scale_moves_a_part_of_the_way_towards_studies_left_out():
    own, far = np.linspace(0, 1, 201, dtype=np.float32), np.linspace(2, 3, 201, dtype=np.float32)
    moved, both = towards(own, far), np.quantile(np.r_[own, far], np.linspace(0, 1, 201))
    assert (own <= moved).all()
    assert (moved <= both + 1e-6).all()
    assert moved[180] == pytest.approx(0.75 * own[180] + 0.25 * both[180], abs=1e-5)
    np.testing.assert_allclose(towards(own, own), own, atol=0.01)
