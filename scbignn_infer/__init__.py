"""Cell types for single-cell RNA-seq from a bilevel graph neural network, without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.annotation.rules import Rules
    from scbignn_infer.annotator import Annotator
    from scbignn_infer.api import annotate, embed, evidence, explain
    from scbignn_infer.bound import Bound
    from scbignn_infer.common_label import consensus
    from scbignn_infer.errors import (
        BundleError,
        DeviceError,
        GeneError,
        InputError,
        MissingExtraError,
        OutputError,
        ScBiGNNError,
    )
    from scbignn_infer.explanation import CellExplanation
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.model.registry import list_models, load_model
    from scbignn_infer.query.readers import open_query
    from scbignn_infer.settings import Reading

__version__ = "0.2.0"

_HOME = {
    "Annotation": "annotation.annotation",
    "Annotator": "annotator",
    "Bound": "bound",
    "BundleError": "errors",
    "CellExplanation": "explanation",
    "DeviceError": "errors",
    "GeneError": "errors",
    "InputError": "errors",
    "MissingExtraError": "errors",
    "ModelBundle": "model.bundle",
    "OutputError": "errors",
    "Reading": "settings",
    "Rules": "annotation.rules",
    "ScBiGNNError": "errors",
    "annotate": "api",
    "consensus": "common_label",
    "embed": "api",
    "evidence": "api",
    "explain": "api",
    "list_models": "model.registry",
    "load_model": "model.registry",
    "open_query": "query.readers",
}

__all__ = [
    "Annotation",
    "Annotator",
    "Bound",
    "BundleError",
    "CellExplanation",
    "DeviceError",
    "GeneError",
    "InputError",
    "MissingExtraError",
    "ModelBundle",
    "OutputError",
    "Reading",
    "Rules",
    "ScBiGNNError",
    "annotate",
    "consensus",
    "embed",
    "evidence",
    "explain",
    "list_models",
    "load_model",
    "open_query",
]


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used, so that importing the package is quick."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted([*globals(), *__all__])
