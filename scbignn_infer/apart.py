"""Label one file in a child process, which ends when its time is over, whatever it hangs in."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from scbignn_infer.child import Bounds, Child, limit_memory
from scbignn_infer.errors import InputError
from scbignn_infer.estimate import Estimate
from scbignn_infer.label_file import label_file
from scbignn_infer.network.sessions import available_threads, choose_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from scbignn_infer.annotator import Progress
    from scbignn_infer.child import Link
    from scbignn_infer.label_file import Summary
    from scbignn_infer.settings import Settings

LOOK_SECONDS = 0.2
"""Between two looks at signals and at the clock."""
MORE_SECONDS = 60.0
"""Processor time that the child may take beside its time on all threads."""


def label_file_apart(
    query: Path,
    target: Path,
    settings: Settings,
    *,
    seconds: float,
    progress: Progress | None = None,
    announce: Callable[[int, Estimate], None] | None = None,
    **options: Any,
) -> Summary:
    """Label the cells of a file as ``label_file`` does, in so much time.

    Parameters
    ----------
    query, target, settings, progress, announce, options
        As there; what is called is called in this process.
    seconds
        For all of it.

    Returns
    -------
    dict
        As there.

    Raises
    ------
    ScBiGNNError
        As there, or the time is over, or the child was lost; nothing is left behind.
    """
    threads = settings.threads or available_threads()
    bounds = Bounds(cpu_seconds=seconds * threads + MORE_SECONDS)
    end = monotonic() + seconds
    child = Child(_label, query, target, settings, options, bounds=bounds)
    try:
        while True:
            said = child.receive(max(0.0, min(LOOK_SECONDS, end - monotonic())))
            if said is None and monotonic() >= end:
                raise InputError(
                    f"{query} was not labelled within {seconds:g} seconds",
                    expected="a file that is read and labelled within --time-limit",
                    do="raise it, or check the file: a damaged one may hang what reads it",
                )
            if said is None:
                continue
            if "summary" in said:
                return dict(said["summary"])
            if "estimate" in said and announce is not None:
                n_cells, *expected = said["estimate"]
                announce(n_cells, Estimate(*expected))
            if "progress" in said and progress is not None:
                progress(*said["progress"])
    finally:
        child.kill()


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

    def announce(n_cells: int, expected: Estimate) -> None:
        link.send({"estimate": [n_cells, expected.seconds, expected.memory]})

    summary = label_file(query, target, settings, progress=tell, announce=announce, **options)
    link.send({"summary": summary})
