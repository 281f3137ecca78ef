"""What ``models list`` and ``models verify`` say of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scbignn_infer.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

Summary = dict[str, Any]


def model_entry(name: str, path: Path, *, run: bool = False) -> Summary:
    """Describe a model, or say what is wrong with it; with ``run``, label a few cells first."""
    from scbignn_infer.model import bundle as bundles
    from scbignn_infer.model import registry

    entry: Summary = {"name": name, "path": str(path), "version": None, "problem": ""}
    try:
        bundle = bundles.read_bundle(path, known=()) if run else registry.load_model(path)
        if run:
            from scbignn_infer.annotator import Annotator

            Annotator(bundle, device="cpu", threads=1)
    except BundleError as error:
        return entry | {"problem": str(error)}
    spec = bundle.spec
    return entry | {
        "version": spec.version,
        "species": spec.species,
        "tissue": spec.tissue,
        **({"tissues": [t.name for t in spec.tissues]} if spec.tissues else {}),
        "cell_types": bundle.type_names,
        "files": len(spec.files),
        "size": sum(f.size for f in spec.files.values()),
        "sha256": bundle.sha256,
    }
