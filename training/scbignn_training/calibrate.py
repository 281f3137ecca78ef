"""Fit what turns logits into trust: temperature, threshold, novelty scale. On held-out cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from scbignn_infer.evaluation import calibration_error, reliability
from scbignn_infer.model.bundle import Calibration, ReliabilityBin

Array = np.ndarray[Any, Any]


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
