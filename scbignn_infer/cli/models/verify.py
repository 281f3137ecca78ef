"""``models verify``: checksums, contents, a run, and signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scbignn_infer.cli.models.entries import model_entry
from scbignn_infer.cli.options import FILE, json_option
from scbignn_infer.cli.printing import as_megabytes, describe_error, print_json, say
from scbignn_infer.errors import BundleError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scbignn_infer.cli.models.entries import Summary


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--key",
    type=FILE,
    help="The owner of this public key must have signed them; for shipped models by default the "
    "publisher's key, if the package has one.",
)
@json_option
@click.pass_context
def verify(ctx: click.Context, names: Sequence[str], key: Path | None, as_json: bool) -> None:
    """Check models: checksums, contents, a run and signatures.

    Reads every file of each NAME (or path with a slash), or of all models that can be found, and
    labels a few made-up cells. An installed model must be the file that was installed.
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
    entries = [_verified(name, path, key) for name, path in chosen.items()]
    problems = sum(bool(e["problem"]) for e in entries)
    if as_json:
        print_json({"models": entries, **_why(problems, len(entries))})
    else:
        for e in entries:
            details = e["problem"] or f"{e['files']} files, {as_megabytes(e['size'])}{_tail(e)}"
            say(f"{'FAILED' if e['problem'] else 'ok':<6} {e['name']}: {details}")
    if problems:
        ctx.exit(1)


def _verified(name: str, path: Path, key: Path | None) -> Summary:
    """Describe a model that was tried out, or say what is wrong with it: then it is not run."""
    from scbignn_infer.sharing.installing import changed_since

    problem, signature = changed_since(path), ""
    if not problem and key:
        problem = _not_signed(path, key)
    elif not problem and (own := _publisher_key(path)):
        try:
            problem, signature = _not_signed(path, own), "signed by the publisher"
        except MissingExtraError as error:
            signature = f"signature not checked: {error.do}"
    if problem:
        return {"name": name, "path": str(path), "version": None, "problem": problem}
    return model_entry(name, path, run=True) | ({"signature": signature} if signature else {})


def _publisher_key(path: Path) -> Path | None:
    """Return the key that signed a shipped model, if the package has it."""
    from scbignn_infer.model.registry import shipped_folders
    from scbignn_infer.sharing.signatures import PUBLISHER_KEY

    shipped = path.resolve().parent in [folder.resolve() for folder in shipped_folders()]
    return PUBLISHER_KEY if shipped and PUBLISHER_KEY.is_file() else None


def _tail(entry: Summary) -> str:
    return f", {entry['signature']}" if "signature" in entry else ""


def _not_signed(path: Path, key: Path) -> str:
    """Say why a model is not one that the owner of a public key has signed."""
    from scbignn_infer.model import registry
    from scbignn_infer.sharing.packing import contents
    from scbignn_infer.sharing.signatures import verify as verify_signature

    try:
        bundle = registry.load_model(path)
        verify_signature(path, bundle.name, contents(bundle), key)
    except BundleError as error:
        return str(error)
    return ""


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
