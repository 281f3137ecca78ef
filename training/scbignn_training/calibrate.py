"""Fit what turns logits into trust: temperature, threshold, novelty scale. On held-out cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from scbignn_infer.annotation.scores import TEMPERATURES, certainty_terms
from scbignn_infer.evaluation import calibration_error, reliability
from scbignn_infer.model.bundle import Calibration, Certainty, ReliabilityBin

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, Any]
STIFFNESS = 0.02
"""Penalty on the squared slopes of the temperature's logarithm, in units of the log loss."""

LEFT_OUT_SHARE = 0.25
"""How far the scale of novelty moves towards studies left out, see :func:`towards`."""


@dataclass(frozen=True)
class Probe:
    """What a pair says of labelled cells that it has not seen, as some file might show them.

    Attributes
    ----------
    logits, codes
        (n, c) of the pair, not calibrated, and (n,) label codes.
    misfit, coverage
        Of the typical cell, and of the genes that are there.
    """

    logits: Array
    codes: Array
    misfit: float
    coverage: float


def fit_temperature(logits: Array, codes: Array) -> float:
    """Return the temperature in [0.1, 10] that minimises the log loss (Guo et al. 2017).

    Parameters
    ----------
    logits, codes
        (n, c) of held-out cells and their (n,) label codes.
    """

    def loss(log_t: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1)
        return -float(scaled[np.arange(len(codes)), codes].mean())

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def fit_certainty(groups: Sequence[Sequence[Probe]]) -> Certainty:
    """Return how the temperature depends on misfit and coverage, by the log loss.

    Parameters
    ----------
    groups
        Files of one kind, such as studies left out or distorted cells. Each kind counts as much as
        any other, and so does each file in its kind.
    """
    probes = [(p, 1 / len(g)) for g in groups for p in g if len(p.codes)]
    terms = [np.r_[1.0, certainty_terms(p.coverage, p.misfit)] for p, _ in probes]
    total = sum(weight for _, weight in probes)
    low, high = np.log(TEMPERATURES)

    def loss(w: Array) -> tuple[float, Array]:
        value, slope = STIFFNESS * float(w[1:] @ w[1:]), 2 * STIFFNESS * np.r_[0.0, w[1:]]
        for (probe, weight), x in zip(probes, terms, strict=True):
            log_t = float(np.clip(w @ x, low, high))
            z = probe.logits.astype(np.float64) / np.exp(log_t)
            log_p, rows = log_softmax(z, axis=1), np.arange(len(probe.codes))
            own, mean = z[rows, probe.codes], (np.exp(log_p) * np.maximum(z, -1e4)).sum(axis=1)
            value -= weight / total * float(log_p[rows, probe.codes].mean())
            slope += weight / total * float((own - mean).mean()) * x
        return value, slope

    found = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=[(-3, 3)] * 3).x
    constant, misfit, coverage = (round(float(w), 4) for w in found)
    return Certainty(constant=constant, misfit=misfit, coverage=coverage)


def calibration(probabilities: Array, codes: Array) -> Calibration:
    """Return how far confidence is what it says, for a bundle's record.

    Parameters
    ----------
    probabilities, codes
        (n, c) of held-out cells and their (n,) label codes.
    """
    bins = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == codes)
    return Calibration(
        error=round(calibration_error(bins) or 0.0, 4),
        bins=[
            ReliabilityBin(
                confidence=round(b.confidence, 4), accuracy=round(b.accuracy, 4), n_cells=b.n
            )
            for b in bins
        ],
    )


def fit_threshold(probabilities: Array, codes: Array) -> float:
    """Return the confidence that 98 % of rightly labelled held-out cells exceed, at most 0.5."""
    confidence, best = probabilities.max(axis=1), probabilities.argmax(axis=1)
    right = confidence[best == codes]
    return float(min(0.5, np.quantile(right, 0.02))) if len(right) else 0.5


def distance_quantiles(distance: Array) -> Array:
    """Return 201 evenly spaced quantiles of held-out cells' distances to the bank."""
    return np.quantile(distance, np.linspace(0, 1, 201)).astype(np.float32)


def towards(own: Array, left_out: Array) -> Array:
    """Return quantiles of out-of-fold cells, moved towards those of studies left out, too.

    Both are pooled, each counting as much as the other, and the quantiles move a part of the way
    there: cells of other laboratories are let in, and those of other tissues hardly.
    """
    both = distance_quantiles(np.concatenate([own, left_out]))
    moved: Array = own + np.float32(LEFT_OUT_SHARE) * (both - own)
    return moved
