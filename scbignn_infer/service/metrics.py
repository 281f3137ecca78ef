"""What the service has done, counted, and written as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from scbignn_infer import __version__

TEXT = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Upper bounds of the classes by which the time of requests is counted."""
METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")
"""Others are counted together, since each name that a client thinks of would be a line."""
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
Values = Mapping[tuple[str, ...], float]


@dataclass
class Times:
    """How many requests took how long."""

    classes: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0


class Metrics:
    """Counts of requests, of their bytes and of their seconds."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, ...]] = Counter()
        self._bytes: Counter[tuple[str, ...]] = Counter()
        self._times: dict[str, Times] = {}

    def count(
        self, route: str, method: str, status: int, *, seconds: float, received: int, sent: int
    ) -> None:
        """Count a request that has been answered; ``route`` is one of few."""
        known = method if method in METHODS else "other"
        self._requests[route, known, str(status)] += 1
        self._bytes[route, "received"] += received
        self._bytes[route, "sent"] += sent
        times = self._times.setdefault(route, Times())
        times.classes[bisect_left(SECONDS, seconds)] += 1
        times.total += seconds

    def text(
        self, gauges: Mapping[str, tuple[str, float]], *, cells: Mapping[str, int], restarts: int
    ) -> str:
        """Return all of it, with labelled cells by model and new starts of the child.

        ``gauges`` are numbers of this moment, by name, with their meaning.
        """
        lines = [
            *_family("info", "gauge", "The version.", ("version",), {(__version__,): 1}),
            *_family(
                "requests_total",
                "counter",
                "Requests that were answered.",
                ("route", "method", "status"),
                self._requests,
            ),
            *_family(
                "body_bytes_total",
                "counter",
                "Bytes of bodies.",
                ("route", "direction"),
                self._bytes,
            ),
            *self._histogram(),
            *_family(
                "cells_total",
                "counter",
                "Cells that were labelled.",
                ("model",),
                {(model,): n for model, n in cells.items()},
            ),
            *_family("worker_restarts_total", "counter", "New starts of the process that labels."),
            _line("worker_restarts_total", restarts),
        ]
        for name, (meaning, value) in gauges.items():
            lines += [*_family(name, "gauge", meaning), _line(name, value)]
        return "".join(f"{line}\n" for line in lines)

    def _histogram(self) -> Iterator[str]:
        name = "request_duration_seconds"
        yield from _family(name, "histogram", "From a request's head to the end of its answer.")
        for route, times in self._times.items():
            below = 0
            for bound, n in zip((*SECONDS, "+Inf"), times.classes, strict=True):
                below += n
                yield _line(f"{name}_bucket", below, route=route, le=str(bound))
            yield _line(f"{name}_sum", times.total, route=route)
            yield _line(f"{name}_count", below, route=route)


def _family(
    name: str, kind: str, meaning: str, labels: tuple[str, ...] = (), values: Values | None = None
) -> Iterator[str]:
    """Yield the head of a family of metrics, and its values by their labels."""
    yield f"# HELP scbignn_{name} {meaning}"
    yield f"# TYPE scbignn_{name} {kind}"
    for said, value in (values or {}).items():
        yield _line(name, value, **dict(zip(labels, said, strict=True)))


def _line(name: str, value: float, **labels: str) -> str:
    said = ",".join(f'{key}="{text.translate(ESCAPES)}"' for key, text in labels.items())
    return f"scbignn_{name}{f'{{{said}}}' if said else ''} {value:.17g}"
