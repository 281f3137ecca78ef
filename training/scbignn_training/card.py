"""The model card: ``README.md`` of a bundle, made from its record by ``card.md.j2``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from scbignn_infer.model.interpretation import by_absence, by_presence, signed_interpretation
from scbignn_infer.plain import visible

if TYPE_CHECKING:
    import numpy as np

    from scbignn_infer.model.bundle import BundleSpec

    Array = np.ndarray[Any, Any]


def model_card(spec: BundleSpec, class_mean: Array) -> str:
    """Return the card of a model in Markdown.

    Parameters
    ----------
    spec
        The record of the model.
    class_mean
        (n_types, n_ranked_genes) means of scaled expression: they tell which genes a type lacks.
    """
    environment = Environment(  # noqa: S701 - Markdown, not HTML
        loader=PackageLoader("scbignn_training", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["cell"] = lambda value: visible(str(value)).replace("|", "\\|")
    card = environment.get_template("card.md.j2").render(
        spec=spec,
        training=spec.training,
        signed=signed_interpretation(spec, class_mean),
        by_presence=by_presence,
        by_absence=by_absence,
    )
    return card.rstrip() + "\n"
