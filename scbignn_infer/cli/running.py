"""Run a command: errors and signals become a line and an exit code."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from scbignn_infer.errors import ScBiGNNError

if TYPE_CHECKING:
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


_terminated: list[int] = []
"""Signals that were received."""


def _terminate(number: int, frame: Any) -> None:
    _terminated.append(number)
    sys.exit(128 + number)


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
