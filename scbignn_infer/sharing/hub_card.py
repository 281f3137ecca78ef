"""A model's card as Hugging Face's hub reads it: YAML between two lines, then Markdown."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from scbignn_infer.plain import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer.model.bundle import BundleSpec

LICENCES = (
    "apache-2.0 bsd-2-clause bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 "
    "cc-by-nc-sa-4.0 gpl-3.0 mit"
)
"""Those that the hub knows, as it calls them."""
TASK = "tabular-classification"
FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
INSTALL = """
## Use

```bash
scbignn-infer models install FILE_OR_ADDRESS --sha256 {sha256}
scbignn-infer annotate cells.h5ad -m {name}
```
"""


def hub_card(spec: BundleSpec, card: str, sha256: str) -> str:
    """Return the card that lies beside a packed model.

    Parameters
    ----------
    spec
        The record of the model.
    card
        Its card in Markdown; may be empty.
    sha256
        Of the packed file.
    """
    text = FRONT.sub("", card) or f"# {spec.name} {spec.version}\n\n{visible(spec.description)}\n"
    use = INSTALL.format(sha256=sha256, name=spec.name)
    return f"---\n{''.join(_yaml(_metadata(spec), ''))}---\n\n{text.rstrip()}\n{use}"


def _metadata(spec: BundleSpec) -> dict[str, Any]:
    """Return what the hub's own fields say of a model."""
    licence = re.sub(r"[ _]+", "-", spec.licence.strip()).lower()
    known = licence in LICENCES.split()
    named = {} if known else {"license_name": spec.licence.strip() or "unstated"}
    words = [spec.species, spec.tissue, *(tissue.name for tissue in spec.tissues)]
    return {
        "license": licence if known else "other",
        **named,
        "library_name": "scbignn-infer",
        "pipeline_tag": TASK,
        "tags": [
            *("biology", "genomics", "single-cell", "scRNA-seq", "cell-type-annotation", "onnx"),
            *dict.fromkeys(filter(None, words)),
        ],
        **_results(spec),
    }


def _results(spec: BundleSpec) -> dict[str, Any]:
    """Return the scores on studies left out, as the hub lists them."""
    results = [
        {
            "task": {"type": TASK, "name": "cell types of a study left out of training"},
            "dataset": {"type": "scRNA-seq", "name": study},
            "metrics": [
                {"type": "accuracy", "value": scores.accuracy},
                {"type": "f1", "name": "macro-F1", "value": scores.macro_f1},
            ],
        }
        for study, scores in spec.training.held_out_scores.items()
    ]
    return {"model-index": [{"name": spec.name, "results": results}]} if results else {}


def _yaml(value: Any, indent: str) -> Iterator[str]:
    """Yield lines of YAML; texts are written as JSON writes them, which is YAML, too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _entry(f"{indent}{key}:", inner, indent)
    else:
        for inner in value:
            yield from _entry(f"{indent}-", inner, indent)


def _entry(start: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict | list):
        yield f"{start}\n"
        yield from _yaml(value, f"{indent}  ")
    else:
        yield f"{start} {json.dumps(value, ensure_ascii=False)}\n"
