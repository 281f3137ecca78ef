"""Colours and patterns by which labels are told apart, also by the colour-blind."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = ("#006677", "#eeaa22", "#8822cc", "#88bbee", "#994400", "#449955", "#dd44ff")
"""Colours chosen for all readers. To normal eyes and under simulated protanopia, deuteranopia
and tritanopia, two of them are never nearer than 12 hundredths of Oklab's unit; of Okabe and Ito's
seven, two are 7.6 apart. Their contrast with white and with the dark page is at least 2."""
PLAIN, STRIPES, CROSSES, CHECKS = range(4)
"""Patterns: with each, the colours begin anew."""
UNKNOWN = "#9a9a9a"
MORE, LESS = "#0072B2", "#D55E00"
"""Of values above and below 0."""
RAMP = ((0, 34, 78), (65, 77, 107), (124, 123, 120), (188, 175, 111), (240, 186, 40))
"""Cividis in five steps, its end darker, so that it is seen on white."""


class Look(NamedTuple):
    """How a label is drawn."""

    colour: str
    pattern: int = PLAIN


def looks(labels: Sequence[str], unknown: str) -> dict[str, Look]:
    """Give each label its look; the unknown one is grey."""
    found, of = dict[str, Look](), 0
    for label in labels:
        if label == unknown:
            found[label] = Look(UNKNOWN)
            continue
        found[label] = Look(COLOURS[of % len(COLOURS)], of // len(COLOURS) % (CHECKS + 1))
        of += 1
    return found


def ramp(value: float) -> str:
    """Return the colour of a value from 0 to 1."""
    at = min(max(value, 0.0), 1.0) * (len(RAMP) - 1)
    i = min(int(at), len(RAMP) - 2)
    mixed = [round(a + (b - a) * (at - i)) for a, b in zip(RAMP[i], RAMP[i + 1], strict=True)]
    return "#" + "".join(f"{c:02x}" for c in mixed)
