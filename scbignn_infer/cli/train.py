"""``train``: hand over to the training package, where its extra is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scbignn_infer.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

TRAINING_MODULES = ("torch", "torch_geometric", "sklearn", "onnx", "onnxscript", "jinja2")


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def train(ctx: click.Context, arguments: Sequence[str]) -> None:
    """Train a model.

    Needs the extra 'training'.
    """
    from importlib.util import find_spec

    for module in TRAINING_MODULES:
        if find_spec(module) is None:
            raise MissingExtraError(module, extra="training", purpose="training")
    from scbignn_training.cli import train as command

    code = command.main(
        args=list(arguments), prog_name="scbignn-infer train", standalone_mode=False
    )
    if isinstance(code, int):
        ctx.exit(code)
