"""Bodies that come and the queue before the one worker: a request's place, and who waits."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi
from starlette.requests import ClientDisconnect

from scbignn_infer.service.refusals import RETRY_SECONDS, RefusedError

if TYPE_CHECKING:
    from scbignn_infer._types import Progress
    from scbignn_infer.service.work import Question
    from scbignn_infer.service.worker import Worker

COMING_BODIES = 4
"""Bodies of the longest kind that may come at once, all together."""


@dataclass(frozen=True)
class Limits:
    """What the service takes on."""

    max_size: int = 1_000_000_000
    """Longest body in bytes."""
    timeout: float = 600.0
    """Seconds for a body to come, and again for waiting and work."""
    queue: int = 32
    """Requests that may wait beside the one that is worked on."""
    uploads: int = 32
    """Bodies that may come at once."""


class Desk:
    """Bodies that come, and the queue before the one worker.

    A body takes no place in the queue while it comes, so that slow ones do not hold it.
    """

    def __init__(self, limits: Limits, worker: Worker) -> None:
        self.limits, self.worker = limits, worker
        self.taken = 0
        self.coming = 0
        self.coming_bytes = 0

    @contextmanager
    def upload(self) -> Iterator[Upload]:
        """Let a body come, unless too many come or the queue is full."""
        self._refuse_if_full()
        if self.coming >= self.limits.uploads:
            raise _try_again(f"{self.limits.uploads} bodies are coming already")
        self.coming += 1
        upload = Upload(self)
        try:
            yield upload
        finally:
            self.coming -= 1
            self.coming_bytes -= upload.size

    def _refuse_if_full(self) -> None:
        if self.taken > self.limits.queue:
            raise _try_again(f"{self.limits.queue} requests wait already")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue, if one is free, while a whole body waits for its answer."""
        self._refuse_if_full()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


def _try_again(found: str) -> RefusedError:
    return RefusedError(
        503, found, expected="a shorter queue", do=f"try again in {RETRY_SECONDS} seconds"
    )


class Upload:
    """A body that is coming, and how much of it has come."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self.size, self.seconds = desk, 0, desk.limits.timeout

    def add(self, size: int) -> None:
        """Count a part that has come; all that come may be too large together."""
        self.size += size
        self._desk.coming_bytes += size
        most = COMING_BODIES * self._desk.limits.max_size
        if self._desk.coming_bytes > most:
            raise _try_again(f"the bodies that come have {most / 1e6:g} MB together")


class Job:
    """The work of a request, and whether anyone still waits for it."""

    def __init__(self, folder: Path, desk: Desk) -> None:
        self.folder, self.desk = folder, desk
        self._place = ExitStack()
        self._abandoned = threading.Event()
        self._work: Future[fastapi.Response] | None = None

    async def run(
        self, question: Question, request: fastapi.Request, tell: Progress | None = None
    ) -> fastapi.Response:
        """Wait for the worker to answer, no longer than the client and the limits allow.

        ``tell`` is called in another thread as the work proceeds.
        """
        desk = self.desk
        self._place.enter_context(desk.place())
        self._work = desk.worker.submit(question, self._abandoned, tell)
        answer, gone = asyncio.wrap_future(self._work), asyncio.ensure_future(_gone(request))
        first: set[asyncio.Future[Any]] = {answer, gone}
        seconds = desk.limits.timeout
        try:
            done, _ = await asyncio.wait(
                first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if answer in done:
                return answer.result()
            if gone in done:
                raise ClientDisconnect
            raise RefusedError(
                504,
                f"no answer within {seconds:g} seconds",
                expected="a shorter queue or fewer cells",
                do="send fewer cells, or try again later",
            )
        finally:
            self._abandoned.set()
            gone.cancel()
            answer.cancel()  # takes work that has not begun out of the queue

    async def ended(self) -> None:
        """Wait until the worker has nothing to do with the folder any more; leave the queue."""
        with self._place:
            if self._work is not None:
                await asyncio.gather(asyncio.wrap_future(self._work), return_exceptions=True)


async def _gone(request: fastapi.Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def take_folder(request: fastapi.Request) -> AsyncIterator[Job]:
    """Give a request a folder; it is gone when the request has been answered."""
    with tempfile.TemporaryDirectory(prefix="scbignn-") as folder:
        job = Job(Path(folder), request.app.state.desk)
        try:
            yield job
        finally:
            await job.ended()
