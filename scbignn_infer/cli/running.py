"""Run a command: errors and signals become a line and an exit code."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from scbignn_infer.errors import ScBiGNNError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer.pipeline import Progress


class Failure(click.ClickException):
    """One line on stderr and exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"error: {self.message}", err=True)


class Commands(click.Group):
    """The one place where errors and signals become a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; SIGTERM unwinds the stack, so that temporary files are removed."""
        signal.signal(signal.SIGTERM, _terminate)
        try:
            with _swallowed_signals_come_again(), _warnings_in_one_line():
                return super().invoke(ctx)
        except ScBiGNNError as error:
            raise Failure(str(error)) from None
        except MemoryError:
            raise Failure(
                "the memory ran out; expected enough for the cells' embeddings and graph; "
                "close other programs or annotate one sample at a time"
            ) from None
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(128 + signal.SIGINT) from None


AGAIN_SECONDS = 0.01
"""After which a lost signal is sent again: the callback that lost it has ended by then."""
_terminated: list[int] = []
"""Signals that were received."""


def _terminate(number: int, frame: Any) -> None:
    _terminated.append(number)
    sys.exit(128 + number)


@contextmanager
def _swallowed_signals_come_again() -> Iterator[None]:
    """Send a signal again whose exception was lost.

    A signal may come while Python is in a callback of a weak reference or in a ``__del__``. What
    these raise can only be printed.
    """
    ordinary = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is KeyboardInterrupt:
            number = signal.SIGINT
        elif lost.exc_type is SystemExit and _terminated:
            number = signal.SIGTERM
        else:
            ordinary(lost)
            return
        threading.Timer(AGAIN_SECONDS, _send, (number,)).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = ordinary


PACKAGE = str(Path(__file__).parents[1])


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print a warning of this package as one line on stderr, once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module=r"scbignn_infer\b")
        ordinary, said = warnings.showwarning, set()

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not filename.startswith(PACKAGE):
                ordinary(message, category, filename, lineno, file, line)
            elif str(message) not in said:  # Python's own "once" forgets when filters change
                said.add(str(message))
                click.echo(f"warning: {message}", err=True)

        warnings.showwarning = show
        yield


def _send(number: signal.Signals) -> None:
    """Send a signal to the main thread, which may be waiting in the system."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


def alive(progress: Progress) -> Progress:
    """Let progress end the process, where a library has swallowed what a signal raised."""

    def report(stage: str, done: int, total: int) -> None:
        end_if_terminated()
        progress(stage, done, total)

    return report


def end_if_terminated() -> None:
    """End the process if a signal said so."""
    if _terminated:
        sys.exit(128 + _terminated[0])
