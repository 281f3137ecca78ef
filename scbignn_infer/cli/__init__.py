"""The command line, a file a command. Heavy modules are imported inside the commands."""

from __future__ import annotations

import click

from scbignn_infer import __version__
from scbignn_infer.cli.annotate import annotate
from scbignn_infer.cli.consensus import consensus
from scbignn_infer.cli.doctor import doctor
from scbignn_infer.cli.evaluate import evaluate
from scbignn_infer.cli.example import example
from scbignn_infer.cli.explain import explain
from scbignn_infer.cli.inspect import inspect
from scbignn_infer.cli.models import models
from scbignn_infer.cli.report import report
from scbignn_infer.cli.running import Commands
from scbignn_infer.cli.serve import serve
from scbignn_infer.cli.train import train

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scbignn-infer")
def main() -> None:
    """Label the cells of single-cell RNA-seq data with a bilevel graph neural network."""


for command in (
    annotate,
    consensus,
    doctor,
    evaluate,
    example,
    explain,
    inspect,
    models,
    report,
    serve,
    train,
):
    main.add_command(command)
