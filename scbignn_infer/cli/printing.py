"""What commands print: tables, pairs, JSON, progress."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

import click

from scbignn_infer.errors import OutputError
from scbignn_infer.plain import encodable, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from scbignn_infer._types import Progress
    from scbignn_infer.errors import ScBiGNNError

WIDTH_OF_PIPES = 160


@contextmanager
def show_progress(*, hidden: bool) -> Iterator[Progress]:
    """Show a bar for each stage where stderr is a terminal."""
    if hidden or not _is_terminal(sys.stderr):
        yield lambda stage, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=make_console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def say(text: str, *, err: bool = False) -> None:
    """Print a line of text."""
    with printing(err=err):
        click.echo(visible(text), err=err)


def print_warnings(warnings: Sequence[str]) -> None:
    """Print warnings on stderr, as they stand beside a JSON document."""
    for warning in warnings:
        say(f"warning: {warning}", err=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    with printing():
        click.echo(json.dumps(_encodable(document), indent=2))


def _encodable(value: Any) -> Any:
    """Return a part of a document without stray bytes, which few readers of JSON would take."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {_encodable(k): _encodable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(v) for v in value]
    return value


def describe_error(error: ScBiGNNError, *, kind: str = "", code: int = 1) -> dict[str, Any]:
    """Return what a JSON document says of an error, under the key ``error``."""
    return {
        "found": error.found,
        "expected": error.expected,
        "do": error.do,
        "message": str(error),
        "kind": kind or type(error).__name__,
        "exit_code": code,
    }


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is, and wide where it is piped."""
    from rich.console import Console

    class Plain(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            texts = (visible(o) if isinstance(o, str) else o for o in objects)
            with printing(err=stderr):
                super().print(*texts, **options)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return Plain(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if _is_terminal(sys.stderr if stderr else sys.stdout) else WIDTH_OF_PIPES,
    )


def _is_terminal(stream: IO[str] | None) -> bool:
    """Tell whether a stream is a terminal; one that was closed from the start is ``None``."""
    return stream is not None and stream.isatty()


@contextmanager
def printing(*, err: bool = False) -> Iterator[None]:
    """Say in one line that stdout takes nothing; of stderr nobody could be told."""
    stream = sys.stderr if err else sys.stdout
    try:
        if stream is None and not err:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield
    except OSError as error:
        _give_up(stream)
        if not err and error.errno == errno.EPIPE:  # as of "| head": other programs say nothing
            raise click.exceptions.Exit(1) from None
        if not err:
            raise OutputError(
                f"cannot write to the standard output ({error.strerror})",
                expected="a file, pipe or terminal that takes it",
                do="free space or send it elsewhere; files that were written stay",
            ) from None


def _give_up(stream: IO[str] | None) -> None:
    """Let a stream lead nowhere, so that what it holds back cannot fail again at the end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def print_pairs(console: Console, pairs: Mapping[str, str]) -> None:
    """Print a line for each pair that has a value."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        if value:
            console.print(f"{name:<{width}}  {value}", soft_wrap=True)


def print_drawn(report: Path | None, figures: Path | None) -> None:
    """Say where the report and the figures are."""
    drawn = {"report": report, "figures": figures}
    print_pairs(make_console(stderr=True), {k: str(v) for k, v in drawn.items() if v is not None})


def make_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a plain table; columns of numbers stand at the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, title in enumerate(titles):
        cells = [row[i] for row in rows if row[i]]
        numbers = all(re.fullmatch(r"[\d,.]+%?", cell) for cell in cells)
        table.add_column(visible(title), justify="right" if cells and numbers else "left")
    for row in rows:
        table.add_row(*map(visible, row))
    return table


def as_score(value: float | None) -> str:
    """Return three digits, or nothing for nothing."""
    return "" if value is None else f"{value:.3f}"


def as_megabytes(size: int) -> str:
    """Return a size in MB."""
    return f"{size / 1e6:.1f} MB"
