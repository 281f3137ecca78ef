"""Scores of held-out cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import f1_score

Array = np.ndarray[Any, Any]


def macro_f1(truth: Array, predicted: Array) -> float:
    """Mean F1 over the types that occur in the truth."""
    return float(
        f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    )


def f1_per_type(truth: Array, predicted: Array, cell_types: list[str]) -> dict[str, float]:
    """F1 of each type that occurs in the truth."""
    present = np.unique(truth)
    scores = f1_score(truth, predicted, labels=present, average=None, zero_division=0)
    return {cell_types[c]: round(float(s), 4) for c, s in zip(present, scores, strict=True)}
