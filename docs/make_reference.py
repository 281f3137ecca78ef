"""Write cli_reference.md from the commands: ``python docs/make_reference.py``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scbignn_infer.cli import main
from scbignn_training.cli import train

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).with_name("cli_reference.md")
HEAD = """# Options of each command

<!-- python docs/make_reference.py writes this page. -->

`scbignn-infer COMMAND --help` prints the same. [Commands](commands.md) says what each command does.
"""


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield the name of each command, such as ``models list``, and the command."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", train if name == "train" else command


def section(name: str, command: click.Command) -> str:
    """Return the usage, the help and the options of a command."""
    rows = []
    own = main.context_settings  # a command keeps the first names of its help that it is asked for
    context = click.Context(command, info_name=f"scbignn-infer {name}", **own)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    lines = [
        "",
        f"## {name}",
        "",
        "```text",
        usage,
        "```",
        "",
        inspect.cleandoc(command.help or ""),
    ]
    for option in command.params:
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            flag, said = (" ".join(part.replace("|", r"\|").split()) for part in record)
            rows.append(f"| `{flag}` | {said} |")
    if rows:
        lines += ["", "| option | meaning |", "|---|---|", *rows]
    return "\n".join([*lines, ""])


def reference() -> str:
    """Return the page."""
    return HEAD + "".join(section(*named) for named in commands(main))


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
