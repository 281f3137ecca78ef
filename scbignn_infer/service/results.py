"""Results that are kept for a while under the name that a client has given them, and progress."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import fastapi

from scbignn_infer._types import Document
from scbignn_infer.service.bodies import CSV, HDF5
from scbignn_infer.service.desk import Limits
from scbignn_infer.service.refusals import RefusedError

State = Literal["receiving", "waiting", "working", "done"]
Name = Annotated[str, fastapi.Path(pattern=r"^[A-Za-z0-9_-]{22,64}$")]
"""Of results, as their client makes it up: at random, since who knows it may read them."""
File = Literal["report", "table", "h5ad"]
KEEP_SECONDS = 1800.0
MOST_KEPT = 16
"""Results that are kept at once, of four times the longest body together; the oldest go first."""
KEPT_BODIES = 4
SUFFIXES: dict[str, str] = {"report": ".html", "table": ".csv", "h5ad": ".h5ad"}
TYPES = {"report": "text/html; charset=utf-8", "table": CSV, "h5ad": HDF5}
ALONE = (
    "sandbox allow-scripts allow-downloads allow-popups; default-src 'none'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "frame-ancestors 'self'"
)
"""What a report may do: run its own scripts, as a page of no site. It can ask nothing of anyone."""


@dataclass
class Result:
    """What is known of a request, and its files when it is done."""

    state: State = "receiving"
    stage: str = ""
    done: int = 0
    total: int = 0
    summary: Document = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    end: asyncio.TimerHandle | None = None

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.files.values())

    def tell(self, stage: str, done: int, total: int) -> None:
        """Note how far the work is, without a stage that it waits; called from any thread."""
        self.stage, self.done, self.total = stage, done, total
        self.state = "working" if stage else "waiting"

    def as_document(self) -> Document:
        """Return what a client is told."""
        if self.state != "done":
            told = {"stage": self.stage, "done": self.done, "total": self.total}
            return {"state": self.state, **(told if self.stage else {})}
        seconds = round(self.end.when() - asyncio.get_running_loop().time()) if self.end else 0
        left = {"files": list(self.files), "seconds_left": max(seconds, 0)}
        return {"state": self.state, **left, "summary": self.summary}


class Results:
    """What is kept, and what is in the making, by name."""

    def __init__(self, limits: Limits) -> None:
        self._most_bytes = KEPT_BODIES * limits.max_size
        self._held: dict[str, Result] = {}

    def __len__(self) -> int:
        return len(self._held)

    @contextmanager
    def begin(self, name: str) -> Iterator[Result]:
        """Give a new result, which is forgotten if it does not get done."""
        if name in self._held:
            raise RefusedError(
                409,
                "results are kept under this name already",
                expected="a new name",
                do="make up another at random, or delete those",
            )
        result = self._held[name] = Result()
        try:
            yield result
        except BaseException:
            self.forget(name)
            raise

    def keep(self, name: str, answer: Path, summary: Document) -> None:
        """Take the files beside an answer, and keep them; the oldest results make room."""
        result = self._held[name]
        result.folder = Path(tempfile.mkdtemp(prefix="scbignn-kept-"))
        for kind, suffix in SUFFIXES.items():
            if (made := answer.with_suffix(suffix)).exists():
                result.files[kind] = made.replace(result.folder / made.name)
        result.summary, result.state = summary, "done"
        loop = asyncio.get_running_loop()
        result.end = loop.call_later(KEEP_SECONDS, self.forget, name)
        done = [other for other, held in self._held.items() if held.state == "done"]
        done.sort(key=lambda other: other == name)  # this one last, the others by their age
        sizes = {other: self._held[other].size for other in done}
        while len(done) > MOST_KEPT or (len(done) > 1 and sum(sizes.values()) > self._most_bytes):
            oldest = done.pop(0)
            del sizes[oldest]
            self.forget(oldest)

    def find(self, name: str) -> Result:
        """Return results, or refuse."""
        if name not in self._held:
            raise RefusedError(
                404,
                "no results of this name",
                expected=f"those of the last {KEEP_SECONDS / 60:g} minutes",
                do="send the cells again",
            )
        return self._held[name]

    def file(self, name: str, kind: File) -> Path:
        """Return a file of results, or refuse."""
        result = self.find(name)
        if kind not in result.files:
            raise RefusedError(
                404,
                f"these results have no {kind}",
                expected=f"one of {', '.join(result.files) or 'none yet'}",
                do="wait until they are done, or send the cells again and ask for it",
            )
        return result.files[kind]

    def forget(self, name: str) -> None:
        """Remove results."""
        result = self._held.pop(name, None)
        if result is None:
            return
        if result.end is not None:
            result.end.cancel()
        if result.folder is not None:
            shutil.rmtree(result.folder, ignore_errors=True)

    def close(self) -> None:
        """Remove all."""
        for name in list(self._held):
            self.forget(name)
