"""Run a command: errors and signals become a line and an exit code."""

from __future__ import annotations

import _thread
import io
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from scbignn_infer.cli.about import ARGUMENTS, command
from scbignn_infer.cli.printing import describe_error, print_json, printing, say
from scbignn_infer.errors import OutputError, ScBiGNNError, reason
from scbignn_infer.plain import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from scbignn_infer._types import Progress


class Failure(click.ClickException):
    """One line on stderr and exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print the line."""
        say(f"error: {self.message}", err=True)


class Commands(click.Group):
    """The one place where errors and signals become a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; signals that end it unwind the stack, so that temporary files go."""
        _received.clear()
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and "&" have it
                signal.signal(number, _end)
        try:
            with _swallowed_signals_come_again(), _warnings_in_one_line():
                return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(128 + signal.SIGINT) from None
        except (click.exceptions.Exit, HELP):
            raise
        except Exception as error:
            end_if_terminated()  # a library that was interrupted has called it an error
            refusal = _as_refusal(error)
            if ctx.meta[WANTS_JSON]:
                _print_refusal(refusal, error)
            if isinstance(error, click.UsageError):
                raise click.UsageError(visible(refusal.found), ctx=error.ctx) from None
            if isinstance(error, click.ClickException) or type(refusal) is UnexpectedError:
                raise
            raise Failure(str(refusal)) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether a JSON document is wanted, whether or not the command can be understood."""
        ctx.meta[WANTS_JSON], ctx.meta[ARGUMENTS] = "--json" in args, list(args)
        if isinstance(sys.stdout, io.TextIOWrapper):
            with suppress(OSError):  # of a stream that is no file any more
                sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is
        try:
            with printing() if sys.stdout else nullcontext():  # help and version come before all
                return super().parse_args(ctx, args)
        except OutputError as error:
            raise Failure(str(error)) from None


WANTS_JSON = "scbignn_infer.json"
"""Key of what a context knows of ``--json``."""
HELP = getattr(click.exceptions, "NoArgsIsHelpError", click.exceptions.Exit)
"""What click raises to show the help of a group without a command; 8.1 has no name for it."""


class UnexpectedError(ScBiGNNError):
    """An error of this program, whose traceback is shown."""


def _as_refusal(error: Exception) -> ScBiGNNError:
    """Say in the words of the package what ended a command."""
    if isinstance(error, ScBiGNNError):
        return error
    if isinstance(error, MemoryError):
        why = f" ({reason(error)})" if str(error) else ""
        return ScBiGNNError(
            f"the memory ran out{why}",
            expected="enough for the cells' embeddings and graph",
            do="close other programs or annotate one sample at a time",
        )
    if isinstance(error, click.ClickException):
        ctx = getattr(error, "ctx", None)
        path = ctx.command_path if ctx else "scbignn-infer"
        return ScBiGNNError(
            error.format_message(),
            expected="options and arguments of this command",
            do=f"see: {path} --help",
        )
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        named = f" at {os.fsdecode(name)}" if isinstance(name, str | bytes) else ""
        return ScBiGNNError(
            f"the system refused to read or write{named} ({error.strerror})",
            expected="a disk that works, with files and folders that may be used",
            do="mend that, then run the command again",
        )
    return UnexpectedError(
        f"unexpected {type(error).__name__}: {error}",
        expected="a file and a model that this version can use",
        do="report the traceback on stderr",
    )


def _print_refusal(refusal: ScBiGNNError, error: Exception) -> None:
    """Print why a command failed; where stdout is what failed, the line on stderr says so."""
    usage = isinstance(error, click.ClickException)
    kind = "UsageError" if usage else type(error).__name__
    code = error.exit_code if isinstance(error, click.ClickException) else 1
    with suppress(ScBiGNNError, OSError):
        said = describe_error(refusal, kind=kind, code=code)
        print_json({"error": said, "command": command()})


ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""Signals that end a command: Ctrl-C, the system's, and that of a terminal that was closed."""
AGAIN_SECONDS = 0.01
"""After which a lost signal is sent again: the callback that lost it has ended by then."""
_received: list[int] = []
"""Signals that were received."""
_ordinary: list[Callable[[sys.UnraisableHookArgs], object]] = []
"""What else is told of exceptions that can only be printed."""


def _end(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    while frame is not None:
        if frame.f_code is _come_again.__code__:  # whose exceptions are lost, too
            _send_soon(number)
            return
        frame = frame.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _come_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception was lost; print what else was."""
    if lost.exc_type in (KeyboardInterrupt, SystemExit) and _received:
        _send_soon(_received[-1])
    else:
        _ordinary[-1](lost)


def _send_soon(number: int) -> None:
    threading.Timer(AGAIN_SECONDS, _send, (signal.Signals(number),)).start()


@contextmanager
def _swallowed_signals_come_again() -> Iterator[None]:
    """Send a signal again whose exception was lost.

    A signal may come while Python is in a callback of a weak reference or in a ``__del__``. What
    these raise can only be printed.
    """
    _ordinary.append(sys.unraisablehook)
    sys.unraisablehook = _come_again
    try:
        yield
    finally:
        sys.unraisablehook = _ordinary.pop()


PACKAGE = str(Path(__file__).parents[1])


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print a warning of this package as one line on stderr, once.

    Those of other packages are for programmers: ``python -W`` shows them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module=r"scbignn_infer\b")
        ordinary, shown = warnings.showwarning, set()

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            ours = filename.startswith(PACKAGE)
            if ours and str(message) not in shown:  # Python's own "once" forgets, filters change
                shown.add(str(message))
                say(f"warning: {message}", err=True)
            elif not ours and sys.warnoptions:
                ordinary(message, category, filename, lineno, file, line)

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
    if _received:
        sys.exit(128 + _received[0])
