"""The names of temporary files: a run over many samples can tell its own and those of dead runs."""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_RUN = "run-00000000"
LEFTOVER = re.compile(r"\..+\.(run-[0-9a-f]{8})\.([^.]+\.tmp|parts)", re.DOTALL)
"""Names of what a killed run leaves: a temporary file, or the parts of a divided sample."""
_run: ContextVar[str] = ContextVar("run", default="")


@contextmanager
def temporaries_of(run: str) -> Iterator[None]:
    """Let temporary files that this block makes carry the name of a run, ``.NAME.RUN.*.tmp``."""
    before = _run.set(f"{run}.")
    try:
        yield
    finally:
        _run.reset(before)


def prefix(name: str) -> str:
    """Return how the name of a temporary file beside an output begins."""
    return f".{name}.{_run.get()}"
