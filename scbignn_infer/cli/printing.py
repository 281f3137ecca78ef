"""What commands print: tables, pairs, JSON, progress."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from scbignn_infer.pipeline import Progress

WIDTH_OF_PIPES = 160


@contextmanager
def show_progress(*, hidden: bool) -> Iterator[Progress]:
    """Show a bar for each stage where stderr is a terminal."""
    if hidden or not sys.stderr.isatty():
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


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2))


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is, and wide where it is piped."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if terminal else WIDTH_OF_PIPES,
    )


def print_pairs(console: Console, pairs: Mapping[str, str]) -> None:
    """Print a line for each pair that has a value."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        if value:
            console.print(f"{name:<{width}}  {value}", soft_wrap=True)


def make_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a plain table; columns of numbers stand at the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, title in enumerate(titles):
        cells = [row[i] for row in rows if row[i]]
        numbers = all(re.fullmatch(r"[\d,.]+%?", cell) for cell in cells)
        table.add_column(title, justify="right" if cells and numbers else "left")
    for row in rows:
        table.add_row(*row)
    return table


def as_score(value: float | None) -> str:
    """Return three digits, or nothing for nothing."""
    return "" if value is None else f"{value:.3f}"


def as_megabytes(size: int) -> str:
    """Return a size in MB."""
    return f"{size / 1e6:.1f} MB"
