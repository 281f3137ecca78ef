"""Run tasks one after another, in local processes or on a cluster of dask.distributed."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scbignn_infer.errors import InputError, MissingExtraError
from scbignn_infer.parts import join, label_part, plan
from scbignn_infer.samples import failed, label_sample, with_threads
from scbignn_infer.sessions import available_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distributed import Client

    from scbignn_infer.samples import Record, Sample, Task

CONNECT_SECONDS = 30


def run(
    tasks: Sequence[Task], *, workers: int = 1, scheduler: str | None = None
) -> Iterator[Record]:
    """Label samples and yield their records as they are finished.

    Parameters
    ----------
    tasks
        One a sample.
    workers
        Local processes; with one, all is done in this one. Threads are divided among them.
    scheduler
        Address of a running dask scheduler instead, such as ``tcp://10.0.0.1:8786``. A task then
        takes one thread, unless its settings say more.

    Raises
    ------
    MissingExtraError
        dask.distributed is needed and not installed.
    InputError
        The scheduler does not answer.
    """
    workers = min(workers, len(tasks))
    share = 1 if scheduler else available_threads() // max(workers, 1)
    tasks = [replace(t, settings=with_threads(t.settings, share)) for t in tasks]
    if workers <= 1 and scheduler is None:
        yield from map(_here, tasks)
        return
    with _connect(workers, scheduler) as client:
        yield from _gather(client, tasks)


def _here(task: Task) -> Record:
    """Label a sample in this process, in parts if it is to be divided."""
    parts = plan(task)
    return join(task, parts, list(map(label_part, parts))) if parts else label_sample(task)


def _submit(client: Client, task: Task) -> Any:
    """Hand a sample to the workers, in parts if it is to be divided."""
    parts = plan(task)
    if not parts:
        return client.submit(label_sample, task, pure=False)
    return client.submit(join, task, parts, client.map(label_part, parts, pure=False), pure=False)


def _gather(client: Client, tasks: Sequence[Task]) -> Iterator[Record]:
    from distributed import as_completed

    sample_of: dict[Any, Sample] = {}
    futures = []
    for task in tasks:
        futures.append(_submit(client, task))
        sample_of[futures[-1].key] = task.sample
    for future in as_completed(futures):
        error = future.exception()
        if error is None:
            yield future.result()
        else:  # a task catches its own errors, so its worker died, again and again
            yield failed(
                sample_of[future.key],
                f"its worker was lost each time ({type(error).__name__}), perhaps for want of "
                "memory; use fewer workers or pass --memory-limit",
            )
        future.release()


@contextmanager
def _connect(workers: int, scheduler: str | None) -> Iterator[Client]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingExtraError(
            "distributed", extra="distributed", purpose="labelling on several workers"
        ) from None
    with ExitStack() as stack:
        if scheduler is None:
            cluster: Any = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            )
            yield stack.enter_context(Client(cluster))
            return
        try:
            client = stack.enter_context(Client(scheduler, timeout=CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise InputError(
                f"no dask scheduler answers at {scheduler} ({str(error).splitlines()[0]})",
                expected="the address of a running one, such as tcp://10.0.0.1:8786",
                do="check --scheduler",
            ) from None
        yield client
