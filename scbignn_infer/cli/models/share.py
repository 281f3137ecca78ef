"""``models pack``, ``sign``, ``install``, ``remove`` and ``freeze``."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from scbignn_infer.cli.options import FILE, json_option, overwrite_option
from scbignn_infer.cli.printing import as_megabytes, print_json, say
from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.cli.models.entries import Summary

SHA256 = re.compile(r"[0-9a-fA-F]{64}")
folder_option = click.option(
    "--folder", type=FILE, help="Folder of models, in place of the user's own."
)


@click.command()
@click.argument("name")
@click.option(
    "-o", "--output", type=FILE, required=True, metavar="FILE.scbignn.zip", help="The packed model."
)
@click.option("--card", type=FILE, help="Write the card for Hugging Face's hub, too: README.md.")
@overwrite_option
@json_option
def pack(name: str, output: Path, card: Path | None, overwrite: bool, as_json: bool) -> None:
    """Pack a model into one file for others.

    NAME is that of a model, or a path with a slash, such as ./mine. The same model gives the same
    bytes.
    """
    import hashlib

    from scbignn_infer.model import registry
    from scbignn_infer.output.atomic import check_output, drafting, put
    from scbignn_infer.sharing.hub_card import hub_card
    from scbignn_infer.sharing.packing import CARD, contents, write_packed

    if not output.name.endswith(registry.PACKED):
        raise click.UsageError(f"-o {output}: the name must end in {registry.PACKED}")
    check_output(output, suffixes=(".zip",), overwrite=overwrite)
    if card is not None:
        check_output(card, suffixes=(".md",), overwrite=overwrite, others=[output])
    bundle = registry.load_model(name)
    with drafting(output, new=not overwrite) as packed:
        write_packed(bundle, packed.path)
        data = packed.path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if card is None:
            put([packed])
        else:
            with drafting(card, new=not overwrite) as written:
                text = contents(bundle).get(CARD, b"").decode(errors="replace")
                written.path.write_text(hub_card(bundle.spec, text, sha256), encoding="utf-8")
                put([packed, written])
    if as_json:
        print_json({"path": str(output), "size": len(data), "sha256": sha256})
    else:
        say(f"{output}: {bundle.name} {bundle.spec.version}, {as_megabytes(len(data))}")
        say(f"SHA-256 {sha256}")


@click.command()
@click.argument("name")
@click.option("--key", type=FILE, required=True, help="The private key, in PEM form.")
@overwrite_option
def sign(name: str, key: Path, overwrite: bool) -> None:
    """Sign a model with a private key.

    NAME is that of a model, or a path with a slash, such as ./mine. The signature is written into
    its folder, and packed with it. A password of the key is asked for.
    """
    from scbignn_infer.model import registry
    from scbignn_infer.sharing import signatures

    bundle = registry.load_model(name)
    if "/" not in name and bundle.path.parent in registry.shipped_folders():
        raise InputError(
            f"{name} comes with the package",
            expected="a model of your own, or the path of one, such as ./exported_models/mine",
            do="sign a copy of its folder, if you want to give it to others",
        )

    def ask() -> str:
        return str(click.prompt(f"Password of {key}", hide_input=True, err=True))

    say(f"signed: {signatures.sign(bundle, key, ask, overwrite=overwrite)}")


@click.command()
@click.argument("source", metavar="FILE|ADDRESS")
@click.option("--sha256", metavar="HEX", help="Refuse a file with another checksum.")
@click.option("--key", type=FILE, help="Refuse a model that this public key's owner did not sign.")
@folder_option
@overwrite_option
@json_option
def install(
    source: str,
    sha256: str | None,
    key: Path | None,
    folder: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Install a packed model.

    From a file, from an address that begins with https://, or from a repository on Hugging Face's
    hub, hf://owner/name. No other command fetches anything. Nothing of the model is run.
    """
    from scbignn_infer.model import registry
    from scbignn_infer.sharing import installing

    if sha256 is not None and not SHA256.fullmatch(sha256):
        raise click.UsageError(f"--sha256 {sha256}: a SHA-256 has 64 digits from 0 to f")
    done = installing.install(source, folder=folder, sha256=sha256, key=key, overwrite=overwrite)
    spec, origin = done.bundle.spec, done.origin
    if as_json:
        entry: Summary = {"name": spec.name, "version": spec.version, "path": str(done.path)}
        more = {"bundle_sha256": origin.bundle_sha256, "signed_with": origin.signed_with}
        source, pinned = origin.source, origin.sha256
        print_json(entry | {"new": done.new, "source": source, "sha256": pinned, **more})
        return
    say(f"{'installed' if done.new else 'already there'}: {spec.name} {spec.version}, {done.path}")
    say(f"SHA-256 {origin.sha256}")
    if key is not None:
        say(f"signed with the key that belongs to {key}")
    elif sha256 is None:
        say("that is what came; elsewhere, pass it with --sha256 to get the same file")
    if done.path.parent.resolve() not in [p.resolve() for p in registry.model_folders()]:
        say(f"to find it by its name, add {done.path.parent} to ${registry.MODEL_PATH_VARIABLE}")


@click.command()
@click.argument("name")
@folder_option
def remove(name: str, folder: Path | None) -> None:
    """Remove an installed model."""
    from scbignn_infer.sharing import installing

    say(f"removed: {installing.remove(name, folder)}")


@click.command()
@click.argument("name")
@click.option("--genes", type=FILE, required=True, help="The genes of the counts, one a line.")
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE.onnx", help="The graph.")
@overwrite_option
@json_option
def freeze(name: str, genes: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Write the gene level as one ONNX file.

    It labels cells of one list of genes, in any program that runs ONNX. NAME is that of a model,
    or a path with a slash, such as ./mine. A JSON file beside it, FILE.json, names inputs, outputs,
    genes and types.
    """
    from scbignn_infer.model import registry
    from scbignn_infer.output.atomic import check_output, drafting, put
    from scbignn_infer.query.identity import Identity
    from scbignn_infer.sharing import freezing

    about = output.with_suffix(".json")
    names = freezing.read_gene_list(genes)
    inputs = [Identity.of(genes)]
    check_output(output, suffixes=(".onnx",), overwrite=overwrite, inputs=inputs)
    check_output(about, suffixes=(".json",), overwrite=overwrite, inputs=inputs)
    frozen = freezing.freeze(registry.load_model(name), names)
    with drafting(output, new=not overwrite) as graph, drafting(about, new=not overwrite) as text:
        graph.path.write_bytes(frozen.graph)
        text.path.write_text(json.dumps(frozen.about, indent=1), encoding="utf-8")
        put([graph, text])
    told = {k: v for k, v in frozen.about.items() if k != "genes"}
    if as_json:
        print_json({"path": str(output), **told, "n_genes": len(names)})
    else:
        say(f"{output}: {len(names):,} genes, of which the model reads {told['coverage']:.0%}")
        say(f"{len(told['cell_types'])} cell types; inputs and outputs: {about}")
