"""The queue before the one worker: a request's place, its work, and who waits for it."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
from starlette.requests import ClientDisconnect

from scbignn_infer.service.refusals import RETRY_SECONDS, RefusedError


class AbandonedError(Exception):
    """Ends work whose answer nobody waits for any more."""


@dataclass(frozen=True)
class Limits:
    """What the service takes on.

    Attributes
    ----------
    max_size
        Longest body in bytes.
    timeout
        Seconds for a body to come, and again for waiting and work.
    queue
        Requests that may wait beside the one that is worked on.
    """

    max_size: int = 1_000_000_000
    timeout: float = 600.0
    queue: int = 32


class Desk:
    """The queue before the one worker.

    Parameters
    ----------
    limits
        How many may wait.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="scbignn-serve")
        self.taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place from before the body comes until the answer is sent.

        Raises
        ------
        RefusedError
            There is none.
        """
        if self.taken > self.limits.queue:
            raise RefusedError(
                503,
                f"{self.limits.queue} requests wait already",
                expected="a shorter queue",
                do=f"try again in {RETRY_SECONDS} seconds",
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Job:
    """The work of a request, and whether anyone still waits for it.

    Parameters
    ----------
    folder
        For its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._abandoned = threading.Event()
        self._work: Future[fastapi.Response] | None = None

    def step(self, stage: str, done: int, total: int) -> None:
        """End the work if nobody waits for it; called as it proceeds."""
        if self._abandoned.is_set():
            raise AbandonedError

    async def run(
        self, work: Callable[[], fastapi.Response], desk: Desk, request: fastapi.Request
    ) -> fastapi.Response:
        """Wait for the worker to do the work, no longer than the client and the limits allow.

        Parameters
        ----------
        work
            What the worker calls.
        desk
            Where it waits.
        request
            Whose client may go away.
        """
        self._work = desk.worker.submit(work)
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
        """Wait until the worker has nothing to do with the folder any more."""
        if self._work is not None:
            await asyncio.gather(asyncio.wrap_future(self._work), return_exceptions=True)


async def _gone(request: fastapi.Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def take_place(request: fastapi.Request) -> AsyncIterator[Job]:
    """Give a request its place and a folder; both are free again when it has been answered."""
    desk: Desk = request.app.state.desk
    with desk.place(), tempfile.TemporaryDirectory(prefix="scbignn-") as folder:
        job = Job(Path(folder))
        try:
            yield job
        finally:
            await job.ended()
