"""The child process that reads and labels: started, asked, ended and started again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Literal, Self

import fastapi
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from scbignn_infer._types import Document, Progress
from scbignn_infer.child import Bounds, Child, LostError, error_of
from scbignn_infer.errors import ScBiGNNError
from scbignn_infer.network.sessions import available_threads
from scbignn_infer.service.bodies import HDF5, SLOW_BYTES, SLOW_SECONDS
from scbignn_infer.service.desk import Limits
from scbignn_infer.service.refusals import RETRY_SECONDS, FailedError, RefusedError
from scbignn_infer.service.work import Question, serve
from scbignn_infer.settings import Settings

State = Literal["starting", "ready", "restarting"]
GRACE_SECONDS = 3.0
"""For work that nobody waits for to end by itself; then its process is ended."""
LOOK_SECONDS = 0.05
"""Between two looks at whether anyone still waits."""
CPU_SECONDS = 60.0
"""Processor time that a request may take beside its timeout on all threads."""
ANSWER_BYTES = 1_000_000_000
"""What an answer may have beside four times the longest body."""
logger = logging.getLogger("uvicorn.error")


class AbandonedError(Exception):
    """Ends work whose answer nobody waits for any more."""


class Worker:
    """The child process that reads bodies and labels cells, and its state.

    The parent reads no body. It holds the names and descriptions of the models. A thread asks the
    child one question at a time; that thread lives as long as the parent, since the child ends
    with the thread that has started it.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        settings: Settings,
        limits: Limits,
        *,
        target: Callable[..., None] = serve,
    ) -> None:
        self.state: State = "starting"
        self.restarts = 0
        self.cells: Counter[str] = Counter()
        """Labelled, by the name of the model."""
        self.models: list[Document] = []
        threads = settings.threads or available_threads()
        self._bounds = Bounds(
            cpu_seconds=limits.timeout * threads + CPU_SECONDS,
            file_bytes=4 * limits.max_size + ANSWER_BYTES,
        )
        self._target = target
        self._arguments = [str(model) for model in models], settings
        self._child: Child | None = None
        self._closed = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scbignn-serve")
        try:
            self._thread.submit(self._ready).result()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """Return the names of the models."""
        return [model["name"] for model in self.models]

    def submit(
        self, question: Question, abandoned: threading.Event, tell: Progress | None = None
    ) -> Future[fastapi.Response]:
        """Have a question answered after those before it; ``tell`` is called as it proceeds."""
        return self._thread.submit(self._ask, question, abandoned, tell)

    def close(self) -> None:
        """End the child."""
        self._closed.set()
        if self._child is not None:
            self._child.kill()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ready(self) -> Child:
        """Return the child, started anew if there is none."""
        if self._closed.is_set():
            raise AbandonedError
        if self._child is not None and self._child.alive:
            return self._child
        if self._child is not None:  # it has ended by itself, while nobody asked for anything
            self._child.kill()
            self.state, self.restarts = "restarting", self.restarts + 1
            logger.warning("the process that labels is started again: it was lost between requests")
        child = self._child = Child(self._target, *self._arguments, bounds=self._bounds)
        try:
            while (message := child.receive(LOOK_SECONDS)) is None:
                if self._closed.is_set():
                    raise AbandonedError
            self.models = message["models"]
        except BaseException:
            child.kill()
            self._child = None
            raise
        self.state = "ready"
        return child

    def _restart(self, why: str) -> None:
        """Start another child, while the answer to the last question is on its way."""
        if self._child is not None:
            self._child.kill()
        self._child, self.state = None, "restarting"
        if self._closed.is_set():
            return
        self.restarts += 1
        logger.warning("the process that labels is started again: %s", why)
        self._thread.submit(self._start_again)

    def _start_again(self) -> None:
        with suppress(AbandonedError):
            try:
                self._ready()
            except (ScBiGNNError, MemoryError, OSError) as error:  # the next request tries again
                logger.error("the process that labels does not start: %s", error)

    def _ask(
        self, question: Question, abandoned: threading.Event, tell: Progress | None
    ) -> fastapi.Response:
        if abandoned.is_set():
            raise AbandonedError
        try:
            child = self._ready()
        except (ScBiGNNError, MemoryError, OSError) as error:
            logger.error("the process that labels does not start: %s", error)
            raise RefusedError(
                503,
                "the process that labels does not start; the reason has been logged",
                expected="a service that is ready",
                do=f"try again in {RETRY_SECONDS} seconds",
            ) from None
        child.send(question)
        try:
            message = self._wait(child, abandoned, tell)
        except (ScBiGNNError, MemoryError) as error:
            lost = error if isinstance(error, LostError) else None
            self._restart(lost.how if lost else str(error))
            if abandoned.is_set():
                raise AbandonedError from None
            raise RefusedError(
                500,
                lost.found if lost else f"the request failed ({type(error).__name__})",
                expected="cells that the libraries can read, and enough memory",
                do="check the file, or send fewer cells; the service goes on",
            ) from None
        if message["outcome"] == "answered":
            self.cells[question.model] += int(message["cells"])
            return _response(question)
        if message["outcome"] == "refused":
            raise error_of(message)
        if message["outcome"] == "failed":
            logger.error("a request failed\n%s", message["trace"])
            raise FailedError(str(message["kind"]))
        raise AbandonedError

    def _wait(self, child: Child, abandoned: threading.Event, tell: Progress | None) -> Document:
        """Wait for the answer; a child that does not stop when nobody waits is ended."""
        end: float | None = None
        while (message := child.receive(LOOK_SECONDS)) is None or "progress" in message:
            if message is not None and tell is not None:
                with suppress(TypeError, ValueError):
                    stage, done, total = message["progress"]
                    tell(str(stage), int(done), int(total))
            if end is None and abandoned.is_set():
                child.stop()
                end = monotonic() + GRACE_SECONDS
            if end is not None and monotonic() > end:
                raise LostError("it did not stop")
        return message


class InTime:
    """An answer that its client takes in time, or not at all: until then it holds a place."""

    seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                await super().__call__(scope, receive, send)  # type: ignore[misc]


class Held(InTime, fastapi.Response):
    """An answer in memory."""


class Filed(InTime, FileResponse):
    """An answer in a file."""


def in_time(answer: Filed) -> Filed:
    """Give an answer the seconds that its length earns."""
    answer.seconds = SLOW_SECONDS + Path(answer.path).stat().st_size / SLOW_BYTES
    return answer


def _response(question: Question) -> fastapi.Response:
    """Return the answer that the child has written."""
    if question.wanted == HDF5:
        return in_time(Filed(question.answer, media_type=HDF5, filename=question.answer.name))
    answer = Held(question.answer.read_bytes(), media_type=question.wanted)
    answer.seconds = SLOW_SECONDS + len(answer.body) / SLOW_BYTES
    return answer
