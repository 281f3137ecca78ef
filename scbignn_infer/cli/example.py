"""``example``: copy the data that come with the package."""

from __future__ import annotations

from pathlib import Path

import click

from scbignn_infer.cli.options import FILE, overwrite_option
from scbignn_infer.cli.printing import say


@click.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=FILE,
    default=Path(),
    help="Folder to copy it into; by default this one.",
)
@overwrite_option
def example(folder: Path, overwrite: bool) -> None:
    """Copy the example data.

    They come with the package: 700 human blood cells.
    """
    from importlib.resources import files

    from scbignn_infer.output import atomic

    target = folder / "pbmc700.h5ad"
    atomic.check_output(target, suffixes=(".h5ad",), overwrite=overwrite)
    with atomic.replacing(target, new=not overwrite) as temporary:
        source = files("scbignn_infer").joinpath("examples", target.name)
        temporary.write_bytes(source.read_bytes())
    say(f"wrote {target}; label its cells with:")
    say("")
    say(f"  scbignn-infer annotate {target}")
