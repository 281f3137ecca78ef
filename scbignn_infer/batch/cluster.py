"""Run tasks one after another, in local processes or on a cluster of dask.distributed."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scbignn_infer.batch.samples import failed, label_sample, parts_folder, with_threads
from scbignn_infer.batch.split import join, label_part, plan
from scbignn_infer.child import Child, LostError
from scbignn_infer.errors import InputError, MissingExtraError
from scbignn_infer.network.sessions import available_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future

    from distributed import Client

    from scbignn_infer.batch.samples import Record, Sample, Task
    from scbignn_infer.batch.split import Part
    from scbignn_infer.child import Link

CONNECT_SECONDS = 30
TRIES = 3
"""Workers that a task may lose."""


def run(
    tasks: Sequence[Task],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    time_limit: float | None = None,
) -> Generator[Record, None, None]:
    """Label samples and yield their records as they are finished.

    One worker is this process; more are processes, among which threads are divided. On a running
    dask scheduler, such as ``tls://10.0.0.1:8786``, a task takes one thread, unless its settings
    say more. A process that takes longer than the time limit, in seconds, for a sample or part of
    one is ended, and the sample has failed; a scheduler has no such limit.
    """
    if scheduler is not None and time_limit is not None:
        raise InputError(
            "a limit on time for the workers of a scheduler",
            expected="--time-limit with local processes",
            do="leave out --time-limit or --scheduler",
        )
    workers = min(workers, len(tasks))
    share = 1 if scheduler else available_threads() // max(workers, 1)
    tasks = [replace(t, settings=with_threads(t.settings, share)) for t in tasks]
    if scheduler is not None:
        with _connect(scheduler) as client:
            yield from _gather(client, tasks)
    elif workers > 1 or time_limit is not None:
        yield from _side_by_side(tasks, max(workers, 1), time_limit)
    else:
        yield from map(_here, tasks)


def _here(task: Task) -> Record:
    """Label a sample in this process, in parts if it is to be divided."""
    parts = plan(task)
    if not parts:
        return label_sample(task)
    try:
        return join(task, parts, list(map(label_part, parts)))
    finally:
        shutil.rmtree(parts_folder(task), ignore_errors=True)


def work(link: Link) -> None:
    """Do what the parent asks for, in a local worker."""
    for function, arguments in link:
        link.send({"result": function(*arguments)})


class TimeOverError(Exception):
    """A task has taken too long."""


class _Workers(ThreadPoolExecutor):
    """Local processes: each has a thread that asks it, through pipes that nobody else can reach."""

    def __init__(self, n: int, seconds: float | None) -> None:
        super().__init__(n, thread_name_prefix="scbignn-worker")
        self._seconds = seconds
        self._own = threading.local()
        self._children: set[Child] = set()
        self._closed = threading.Event()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have the thread's process do something; another process does it if that one is lost.

        A LostError says that all that tried it were lost, a TimeOverError that it took too long.
        """
        tries = 0
        while True:
            child = self._child()
            child.send((function, arguments))
            try:
                answer = child.receive(self._seconds)
            except LostError:
                self._drop(child)
                tries += 1
                if tries == TRIES or self._closed.is_set():
                    raise
                continue
            if answer is None:
                self._drop(child)
                raise TimeOverError
            return answer["result"]

    def _child(self) -> Child:
        child: Child | None = getattr(self._own, "child", None)
        if child is None:
            child = self._own.child = Child(work)
            self._children.add(child)
            if self._closed.is_set():
                self._drop(child)
                raise LostError("it is not wanted any more")
        return child

    def _drop(self, child: Child) -> None:
        child.kill()
        self._children.discard(child)
        self._own.child = None

    def end(self) -> None:
        """End all, whatever they are doing."""
        self._closed.set()
        self.shutdown(wait=False, cancel_futures=True)
        for child in list(self._children):
            child.kill()
        self.shutdown()


def _side_by_side(tasks: Sequence[Task], n: int, seconds: float | None) -> Iterator[Record]:
    """Label samples on local processes."""
    pool = _Workers(n, seconds)
    divided: list[Task] = []
    try:
        futures: dict[Future[Record], Task] = {}
        for task in tasks:
            parts = plan(task)
            if parts:
                divided.append(task)
                results = [pool.submit(pool.ask, label_part, part) for part in parts]
                future = pool.submit(_join, pool, task, parts, results)
            else:
                future = pool.submit(pool.ask, label_sample, task)
            futures[future] = task
        for future in as_completed(futures):
            sample = futures[future].sample
            try:
                yield future.result()
            except LostError as error:
                yield _lost(sample, error.how)
            except TimeOverError:
                yield failed(
                    sample,
                    f"it was not done within {seconds:g} seconds (--time-limit); raise the limit, "
                    "or check the file",
                )
    finally:
        pool.end()
        for task in divided:
            shutil.rmtree(parts_folder(task), ignore_errors=True)


def _join(pool: _Workers, task: Task, parts: list[Part], results: Sequence[Future[str]]) -> Record:
    """Join parts that were begun before this, so that no thread waits for what is not begun."""
    record: Record = pool.ask(join, task, parts, [result.result() for result in results])
    return record


def _lost(sample: Sample, how: str) -> Record:
    return failed(
        sample,
        f"its worker was lost each time ({how}), perhaps for want of memory; use fewer workers or "
        "pass --memory-limit",
    )


def _submit(client: Client, task: Task) -> Any:
    """Hand a sample to the workers, in parts if it is to be divided."""
    parts = plan(task)
    if not parts:
        return client.submit(label_sample, task, pure=False)
    return client.submit(join, task, parts, client.map(label_part, parts, pure=False), pure=False)


def _gather(client: Client, tasks: Sequence[Task]) -> Iterator[Record]:
    from distributed import as_completed as as_finished

    sample_of: dict[Any, Sample] = {}
    futures = []
    for task in tasks:
        futures.append(_submit(client, task))
        sample_of[futures[-1].key] = task.sample
    for future in as_finished(futures):
        error = future.exception()
        if error is None:
            yield future.result()
        else:  # a task catches its own errors, so its worker died, again and again
            yield _lost(sample_of[future.key], type(error).__name__)
        future.release()


@contextmanager
def _connect(scheduler: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError:
        raise MissingExtraError(
            "distributed", extra="distributed", purpose="labelling on a dask scheduler"
        ) from None
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no dask scheduler answers at {scheduler} ({str(error).splitlines()[0]})",
            expected="the address of a running one, such as tls://10.0.0.1:8786",
            do="check --scheduler",
        ) from None
    with client:
        yield client
