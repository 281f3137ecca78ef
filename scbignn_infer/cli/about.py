"""What a JSON document says of the run itself: the command, and what its result rests on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from scbignn_infer.settings import Settings

ARGUMENTS = "scbignn_infer.arguments"
"""Key of the words of a command in its context."""


def command() -> str:
    """Return the command that runs, as a shell takes it."""
    return shlex.join(["scbignn-infer", *click.get_current_context().meta.get(ARGUMENTS, ())])


def provenance(query: Path, settings: Settings, summary: dict[str, Any]) -> dict[str, Any]:
    """Return what labels rest on, the same on every machine: files by name, no folder, no host.

    ``settings`` are those that can change a label.
    """
    import platform

    from scbignn_infer.annotation.provenance import versions
    from scbignn_infer.settings import SAME_LABELS

    model = {key: summary["model"][key] for key in ("name", "version", "sha256")}
    chosen = {k: v for k, v in settings.as_dict().items() if k not in (*SAME_LABELS, "model")}
    return {
        "program": "scbignn-infer",
        "python": platform.python_version(),
        "versions": versions(),
        "input": {"name": query.name, "bytes": _size(query)},
        "output": {"name": Path(summary["output"]).name},
        "model": model,
        "settings": chosen,
    }


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files of a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
