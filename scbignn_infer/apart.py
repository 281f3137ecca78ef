"""Label one file in a child process, which ends when its time is over, whatever it hangs in."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from scbignn_infer.child import Bounds, Child, limit_memory
from scbignn_infer.errors import InputError
from scbignn_infer.estimate import Estimate
from scbignn_infer.label_file import Job
from scbignn_infer.network.sessions import available_threads, choose_runtime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from scbignn_infer._types import Progress
    from scbignn_infer.child import Link
    from scbignn_infer.label_file import Summary
    from scbignn_infer.settings import Settings

LOOK_SECONDS = 0.2
"""Between two looks at signals and at the clock."""
MORE_SECONDS = 60.0
"""Processor time that the child may take beside its time on all threads."""


class JobApart:
    """A :class:`~scbignn_infer.label_file.Job` that another process does, in so much time.

    Parameters
    ----------
    query, target, settings, progress, options
        As there; progress is called in this process.
    seconds
        For all of it.

    Raises
    ------
    ScBiGNNError
        As there, or the time is over, or the child was lost; nothing is left behind.
    """

    def __init__(
        self,
        query: Path,
        target: Path,
        settings: Settings,
        *,
        seconds: float,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self.query, self._seconds, self._progress = query, seconds, progress
        self._work = query, target, settings, options
        self._threads = settings.threads or available_threads()

    def __enter__(self) -> Self:
        bounds = Bounds(cpu_seconds=self._seconds * self._threads + MORE_SECONDS)
        self._end = monotonic() + self._seconds
        self._child = Child(_label, *self._work, bounds=bounds)
        try:
            self.n_cells, *expected = self._receive("expected")
            self.expected = Estimate(*expected)
        except BaseException:
            self._child.kill()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._child.kill()

    def run(self) -> Summary:
        """Label the cells, write them, and return what was read, chosen, found and written."""
        return dict(self._receive("summary"))

    def _receive(self, wanted: str) -> Any:
        """Return what the child says of something, and pass its progress on until then."""
        while True:
            left = self._end - monotonic()
            said = self._child.receive(max(0.0, min(LOOK_SECONDS, left)))
            if said is None and left <= 0:
                raise InputError(
                    f"{self.query} was not labelled within {self._seconds:g} seconds",
                    expected="a file that is read and labelled within --time-limit",
                    do="raise it, or check the file: a damaged file can hang the library",
                )
            if said is not None and wanted in said:
                return said[wanted]
            if said is not None and "progress" in said and self._progress is not None:
                self._progress(*said["progress"])


def _label(
    link: Link, query: Path, target: Path, settings: Settings, options: Mapping[str, Any]
) -> None:
    """Label, in the child."""
    limit = settings.memory_limit
    if limit is not None and choose_runtime(settings.device, settings.threads).provider == "cpu":
        limit_memory(limit)

    def tell(stage: str, done: int, total: int) -> None:
        link.step(stage, done, total)
        link.send({"progress": [stage, done, total]})

    with Job(query, target, settings, progress=tell, **options) as job:
        link.send({"expected": [job.n_cells, job.expected.seconds, job.expected.memory]})
        summary = job.run()
    link.send({"summary": summary})
