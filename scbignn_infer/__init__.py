"""Cell types for single-cell RNA-seq from a bilevel graph neural network, without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scbignn_infer.adata import annotate, explain
    from scbignn_infer.bundle import ModelBundle
    from scbignn_infer.choice import Reading
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
    from scbignn_infer.pipeline import Annotator
    from scbignn_infer.readers import open_query
    from scbignn_infer.registry import list_models, load_model
    from scbignn_infer.results import Annotation

__version__ = "0.1.0"

_HOME = {
    "Annotation": "results",
    "Annotator": "pipeline",
    "BundleError": "errors",
    "CellExplanation": "explanation",
    "DeviceError": "errors",
    "GeneError": "errors",
    "InputError": "errors",
    "MissingExtraError": "errors",
    "ModelBundle": "bundle",
    "OutputError": "errors",
    "Reading": "choice",
    "ScBiGNNError": "errors",
    "annotate": "adata",
    "explain": "adata",
    "list_models": "registry",
    "load_model": "registry",
    "open_query": "readers",
}

__all__ = [
    "Annotation",
    "Annotator",
    "BundleError",
    "CellExplanation",
    "DeviceError",
    "GeneError",
    "InputError",
    "MissingExtraError",
    "ModelBundle",
    "OutputError",
    "Reading",
    "ScBiGNNError",
    "annotate",
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
