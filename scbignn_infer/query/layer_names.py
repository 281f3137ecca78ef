"""What the names of layers mean: counts, a part of the counts, or values made of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYERS = "layers/"
"""How the name of a matrix begins that is a layer."""
SPLITS = (("spliced", "unspliced", "ambiguous"), ("mature", "nascent", "ambiguous"))
"""Layers that together hold the counts; the first two must be there."""
COUNTS = re.compile(r"^(?:X|raw|layers/(?:raw[_.]?)?(?:counts?|umis?|matrix))$", re.IGNORECASE)
"""Matrices that hold the counts if they hold counts at all."""
PART = re.compile(r"^layers/(?:unspliced|nascent|ambiguous|intron(?:ic|s)?)$", re.IGNORECASE)
MADE = re.compile(
    r"^layers/(?:M[su]|fit_.*|.*(?:velocity|imput|magic|smooth|denois|scvi|alra|binar).*)$",
    re.IGNORECASE,
)
"""Layers of RNA velocity, imputation and the like."""


def sum_of_layers(matrices: Sequence[str]) -> str | None:
    """Name the sum of the layers into which counts were split, if there are such layers."""
    for split in SPLITS:
        parts = [name for name in split if LAYERS + name in matrices]
        if parts[:2] == list(split[:2]):
            return LAYERS + "+".join(parts)
    return None


def summands(matrix: str, matrices: Sequence[str]) -> list[str]:
    """Return the matrices whose sum a name means, or the name alone."""
    parts = [LAYERS + part for part in matrix.removeprefix(LAYERS).split("+")]
    is_sum = matrix.startswith(LAYERS) and len(parts) > 1 and matrix not in matrices
    return parts if is_sum and all(part in matrices for part in parts) else [matrix]


def is_split(matrix: str) -> bool:
    """Tell whether a layer is the largest of those into which counts were split."""
    return matrix in {LAYERS + split[0] for split in SPLITS}


def why_never(matrix: str) -> str:
    """Say why a matrix of this name is not taken by itself, or nothing."""
    name = matrix.removeprefix(LAYERS)
    if PART.match(matrix):
        return f"'{name}' holds a part of the counts"
    if MADE.match(matrix):
        return f"the name '{name}' means values that were computed from counts"
    return ""
