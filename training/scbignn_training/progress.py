"""How far a training is, and how long the rest will take: counted in steps or in cells."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_SECONDS = 10.0


class Progress:
    """Tells where a training stands: a line at each stage, and one every ten seconds in it.

    Parameters
    ----------
    report
        Receives the lines.
    total
        Steps of all stages together; may be corrected on the way.
    unit
        What the steps are called.
    """

    def __init__(
        self,
        report: Callable[[str], None] = lambda line: None,
        total: int = 0,
        unit: str = "steps",
    ) -> None:
        self.total, self.unit = total, unit
        self._report = report
        self._done = self._restored = 0
        self._start: float | None = None
        self._told = time.perf_counter()
        self._stage = ""

    def stage(self, name: str) -> None:
        """Begin a stage and tell it; the first starts the clock."""
        self.begin(name)
        self._tell()

    def begin(self, name: str) -> None:
        """Begin a stage that is told only when it has lasted for ten seconds."""
        self._start = self._start or time.perf_counter()
        self._stage = name

    def expect(self, steps: int) -> None:
        """Correct the total: so many steps are still to be done."""
        self.total = self._done + steps

    def step(self, n: int = 1) -> None:
        """Count one step, or several."""
        self._done += n
        if time.perf_counter() - self._told >= EVERY_SECONDS:
            self._tell()

    def restored(self, name: str, steps: int) -> None:
        """Count the steps of a stage of an earlier run; they say nothing about the speed."""
        self._report(f"{name}: taken from the unfinished run")
        self._done += steps
        self._restored += steps

    @property
    def seconds_left(self) -> float | None:
        """What the remaining steps take at the speed so far; unknown before the first."""
        own = self._done - self._restored
        if own == 0 or self._start is None:
            return None
        elapsed = time.perf_counter() - self._start
        return max(self.total - self._done, 0) * elapsed / own

    def _tell(self) -> None:
        self._told = time.perf_counter()
        share = min(100, 100 * self._done // max(self.total, 1))
        left = self.seconds_left
        rest = "" if left is None else f", about {duration(left)} left"
        self._report(f"{self._stage}: {share} % of all {self.unit}{rest}")


def duration(seconds: float) -> str:
    """Return a rough duration: 31 s, 4 min or 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
