"""Numbers as text: the fewest digits that tell a float32 from all others, as numpy writes it.

numpy writes one number after another, which takes longer than all else that a table needs. Here all
numbers of a block go through each step at once, as far as they are what tables mostly hold: numbers
between 0.0001 and 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scbignn_infer._types import Array

MOST_WITH_EXPONENT = np.float32(1e-4)
"""As a float32 it is a little less than 0.0001, and numpy writes it as 1e-04."""
PLACES = 14
"""Decimal places that the text has room for; 13 tell every number here from its neighbours."""
POWERS = 10.0 ** np.arange(PLACES + 1)
START = np.array([f"0.{i:02d}" for i in range(100)], "S4").view(np.uint32)
FOUR = np.array([f"{i:04d}" for i in range(10_000)], "S4").view(np.uint32)
"""Texts of four characters, each as one number."""
SHOWN = np.array([b"\xff" * (2 + p) + bytes(PLACES - p) for p in range(PLACES + 1)], "S16")
"""For a number of decimal places, which characters of a text are shown."""


def texts(values: Array) -> Array:
    """Return what ``values.astype(str)`` does, for numbers (n,)."""
    if values.dtype != np.float32:
        return values.astype(str)
    usual = (values > MOST_WITH_EXPONENT) & (values < 1)
    if usual.all():
        return _written(*shortest(values))
    # By their bits, since -0.0 is another text than 0.0. Few are different: most are 0 or 1.
    bits, which = np.unique(values[~usual].view(np.int32), return_inverse=True)
    found = np.empty(len(values), "U32")
    found[~usual] = bits.view(np.float32).astype(str)[which]
    found[usual] = _written(*shortest(values[usual]))
    return found


def shortest(values: Array) -> tuple[Array, Array]:
    """Return the decimal places that usual numbers (n,) need, and the numbers rounded to these."""
    wide, enough = values.astype(np.float64), np.zeros(len(values), np.int8)
    for power in POWERS:
        enough += (np.rint(wide * power) / power).astype(np.float32) == values
    places = len(POWERS) - enough
    return places, np.rint(wide * POWERS[places]) / POWERS[places]


def _written(places: Array, rounded: Array) -> Array:
    """Return the texts of numbers (n,) below 1, with so many decimal places."""
    left = np.rint(rounded * POWERS[PLACES]).astype(np.int64)
    parts = np.empty((len(left), 4), np.uint32)
    for i in (3, 2, 1):
        above = left // len(FOUR)
        parts[:, i] = FOUR[left - above * len(FOUR)]
        left = above
    parts[:, 0] = START[left]
    parts.view(np.uint64)[:] &= SHOWN.view(np.uint64).reshape(-1, 2)[places]
    characters: Array = parts.view(np.uint8).astype(np.uint32)
    return characters.view("U16")[:, 0]
