"""``models verify``: checksums, contents, a run, and signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scbignn_infer.cli.models.entries import model_entry
from scbignn_infer.cli.options import json_option
from scbignn_infer.cli.printing import as_megabytes, describe_error, print_json, say
from scbignn_infer.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer.cli.models.entries import Summary


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@click.pass_context
def verify(ctx: click.Context, names: Sequence[str], as_json: bool) -> None:
    """Check models: checksums, contents and a run.

    Reads every file of each NAME (or path with a slash), or of all models that can be found, and
    labels a few made-up cells.
    """
    from scbignn_infer.model import registry

    found = registry.list_models()
    if not names and not found:
        raise BundleError(
            "no model was found",
            expected=f"one in {', '.join(map(str, registry.model_folders()))}",
            do=f"install one, or set {registry.MODEL_PATH_VARIABLE}",
        )
    chosen = {name: registry.find_model(name) for name in names} if names else found
    entries = [model_entry(name, path, run=True) for name, path in chosen.items()]
    problems = sum(bool(e["problem"]) for e in entries)
    if as_json:
        print_json({"models": entries, **_why(problems, len(entries))})
    else:
        for e in entries:
            details = e["problem"] or f"{e['files']} files, {as_megabytes(e['size'])}"
            say(f"{'FAILED' if e['problem'] else 'ok':<6} {e['name']}: {details}")
    if problems:
        ctx.exit(1)


def _why(problems: int, n: int) -> Summary:
    """Return what the JSON document says of all models, if some are damaged."""
    if not problems:
        return {}
    error = BundleError(
        f"{problems} of {n} models cannot be used",
        expected="models whose files match their checksums",
        do="install the broken models again",
    )
    return {"error": describe_error(error)}
