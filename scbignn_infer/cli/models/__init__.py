"""``models``: look at models, check them, and share them."""

from __future__ import annotations

import click

from scbignn_infer.cli.explain import explain_model
from scbignn_infer.cli.models.share import freeze, install, pack, remove, sign
from scbignn_infer.cli.models.show import list_, show
from scbignn_infer.cli.models.verify import verify

__all__ = ["models"]


@click.group()
def models() -> None:
    """List, show, explain, verify, share or install models."""


for command in (
    *(list_, show, explain_model, verify),
    *(install, remove, pack, sign, freeze),
):
    models.add_command(command)
