"""The models that are served, loaded and warm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from scbignn_infer import label_file
from scbignn_infer.errors import BundleError
from scbignn_infer.model import registry
from scbignn_infer.query.reading import Reading
from scbignn_infer.service.refusals import RefusedError

if TYPE_CHECKING:
    from scbignn_infer.annotator import Annotator

Document = dict[str, Any]
WARM_CELLS, WARM_GENES = 8, 500


READING = [field for field in fields(Reading) if field.name not in ("orientation", "table")]
"""Wishes on how a body is read. No body is a text table or a SpatialData store."""


class _Wishes(BaseModel):
    """Query parameters of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="Served model; the only one may be left out.")
    threshold: float | None = Field(
        None, ge=0, le=1, description="Call cells below this confidence unknown."
    )
    max_novelty: float = Field(
        1.0, ge=0, le=1, description="Call cells above this novelty unknown, too."
    )
    no_unknown: bool = Field(False, description="Give every cell with counts a label.")
    level: int = Field(0, ge=0, description="Coarser labels: steps up the Cell Ontology.")

    @property
    def reading(self) -> Reading:
        """How the body is read."""
        return Reading(**{field.name: getattr(self, field.name) for field in READING})


def _parameter(field: Any) -> tuple[Any, Any]:
    """Return a wish on reading as a query parameter; a number is a share."""
    option = f"--{field.name.replace('_', '-')}"
    bounds: Document = {"ge": 0, "le": 1} if "float" in field.type else {}
    return field.type, Field(field.default, description=f"As annotate {option}.", **bounds)


if TYPE_CHECKING:
    Wishes = _Wishes
else:
    Wishes = create_model(
        "Wishes",
        __base__=_Wishes,
        __module__=__name__,
        **{field.name: _parameter(field) for field in READING},
    )


class Models:
    """The models that are served, loaded and warm.

    Parameters
    ----------
    models
        Names or paths.
    settings
        How cells are labelled, where a request wishes nothing.

    Raises
    ------
    ScBiGNNError
        There are none, two have one name, or one cannot be loaded and run.
    """

    def __init__(self, models: Sequence[str | Path], settings: label_file.Settings) -> None:
        bundles = [registry.load_model(model) for model in models]
        self.bundles = {bundle.name: bundle for bundle in bundles}
        if not bundles or len(self.bundles) < len(bundles):
            raise BundleError(
                f"{len(models)} models with {len(self.bundles)} names are to be served",
                expected="at least one model, each with a name of its own",
                do="choose them with -m; see: scbignn-infer models list",
            )
        self._settings = settings
        self._warm = {name: settings.annotator(bundle) for name, bundle in self.bundles.items()}
        for annotator in self._warm.values():
            _warm_up(annotator)

    def annotator(self, name: str, wishes: Wishes) -> Annotator:
        """Return the annotator of a model as a request wishes it, until the next request."""
        bundle = self.bundles[name]
        wished = replace(
            self._settings,
            unknown=not wishes.no_unknown,
            unknown_threshold=wishes.threshold,
            max_novelty=wishes.max_novelty,
            level=wishes.level,
        ).annotator(bundle)
        warm = self._warm[name]
        warm.threshold, warm.max_novelty = wished.threshold, wished.max_novelty
        warm.grouping = wished.grouping
        return warm

    @property
    def on_cpu(self) -> bool:
        """Tell whether no model is on a GPU, whose driver reserves memory of its own."""
        return all(a.runtime.provider == "cpu" for a in self._warm.values())

    def describe(self) -> list[Document]:
        """Return name, version, species, tissue and types of each model."""
        return [
            {
                "name": name,
                "version": bundle.spec.version,
                "species": bundle.spec.species,
                "tissue": bundle.spec.tissue,
                "cell_types": [
                    {"label": c.label, "ontology_id": c.ontology_id} for c in bundle.spec.cell_types
                ],
            }
            for name, bundle in self.bundles.items()
        ]


def named(served: Sequence[str], name: str | None) -> str:
    """Return the name of a served model, without a name that of the only one.

    Raises
    ------
    RefusedError
        There is no such model, or no name and several models.
    """
    names = ", ".join(served)
    if name is None and len(served) == 1:
        (name,) = served
    if name is None:
        raise RefusedError(
            422,
            f"no model is named and {len(served)} are served",
            expected=f"one of {names}",
            do="choose with ?model=NAME",
        )
    if name not in served:
        raise RefusedError(
            404,
            f"no model '{name}' is served",
            expected=f"one of {names}",
            do="choose with ?model=NAME",
        )
    return name


def _warm_up(annotator: Annotator) -> None:
    """Label a few made-up cells, so that the first request finds everything loaded."""
    import anndata  # noqa: F401 - loaded here rather than in the first request

    genes = annotator.bundle.gene_symbols[:WARM_GENES]
    counts = np.random.default_rng(0).poisson(1.0, (WARM_CELLS, len(genes)))
    annotator.annotate_matrix(counts, genes)
