"""The models that are served, loaded and warm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from scbignn_infer import label_file
from scbignn_infer._types import Document
from scbignn_infer.errors import BundleError
from scbignn_infer.model import registry
from scbignn_infer.service.refusals import RefusedError
from scbignn_infer.settings import READING, SETTINGS, RuleKeywords, Setting, Settings

if TYPE_CHECKING:
    from scbignn_infer.annotator import Annotator

WARM_CELLS, WARM_GENES = 8, 500
LONGEST_NAME = 1000
"""Characters of a file's name that a client may send."""


NAMES = {"unknown": "no_unknown", "unknown_threshold": "threshold"}
"""Parameters that have other names than the settings."""
NOT_HERE = {"groups", "orientation", "table"}
"""No parameter holds a map, and no body is a text table or a SpatialData store."""
WISHES = {
    NAMES.get(name, name): setting
    for name, setting in SETTINGS.items()
    if name in {*get_type_hints(RuleKeywords), *READING} - NOT_HERE
}
"""What a request may choose: which labels are given, and how its body is read."""
SEVERAL = {name for name, setting in WISHES.items() if get_origin(setting.kind) is Sequence}
"""Parameters that may be given again."""


class _Wishes(BaseModel):
    """Query parameters of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="Served model; the only one may be left out.")

    @property
    def settings(self) -> Settings:
        """How the body is read and labelled."""
        wished = {setting.name: getattr(self, name) for name, setting in WISHES.items()}
        return Settings.of(wished | {"unknown": not wished["unknown"]})


def _parameter(setting: Setting) -> tuple[Any, Any]:
    """Return a setting as a query parameter; a flag that is on is one that turns it off."""
    default = False if setting.default is True else setting.default
    least, most = setting.within
    return setting.hint, Field(default, description=setting.meaning, ge=least, le=most)


class _Labelled(_Wishes):
    """Of a request whose answer has the labels."""

    embedding: bool = Field(
        default=False, description="Also send the cells' embedding, in JSON or Arrow."
    )


class _Kept(_Wishes):
    """Of a request whose results are kept for a while."""

    report: bool = Field(default=True, description="Also make an HTML report.")
    file_name: str = Field(
        "", max_length=LONGEST_NAME, description="What the report calls the file."
    )


def _with_settings(name: str, base: type[_Wishes]) -> Any:
    """Return the parameters of a kind of request, those of the settings included."""
    fields: dict[str, Any] = {name: _parameter(setting) for name, setting in WISHES.items()}
    return create_model(name, __base__=base, __module__=__name__, **fields)


if TYPE_CHECKING:
    Wishes = _Labelled
    KeptWishes = _Kept
else:
    Wishes = _with_settings("Wishes", _Labelled)
    KeptWishes = _with_settings("KeptWishes", _Kept)


class Models:
    """The models that are served, loaded and warm; each has a name of its own."""

    def __init__(self, models: Sequence[str | Path], settings: Settings) -> None:
        bundles = [registry.load_model(model) for model in models]
        self.bundles = {bundle.name: bundle for bundle in bundles}
        if not bundles or len(self.bundles) < len(bundles):
            raise BundleError(
                f"{len(models)} models with {len(self.bundles)} names are to be served",
                expected="at least one model, each with a name of its own",
                do="choose them with -m; see: scbignn-infer models list",
            )
        self.warm = {n: label_file.make_annotator(settings, b) for n, b in self.bundles.items()}
        for annotator in self.warm.values():
            _warm_up(annotator)

    @property
    def on_cpu(self) -> bool:
        """Tell whether no model is on a GPU, whose driver reserves memory of its own."""
        return all(a.runtime.provider == "cpu" for a in self.warm.values())

    def describe(self) -> list[Document]:
        """Return name, version, species, tissue and types of each model."""
        return [
            {
                "name": name,
                "version": bundle.spec.version,
                "species": bundle.spec.species,
                "tissue": bundle.spec.tissue,
                "cell_types": [
                    {"label": label, "ontology_id": term}
                    for label, term in {
                        c.called: c.ontology_id for c in bundle.spec.cell_types
                    }.items()
                ],
                **({"tissues": names} if (names := [t.name for t in bundle.spec.tissues]) else {}),
            }
            for name, bundle in self.bundles.items()
        ]


def named(served: Sequence[str], name: str | None) -> str:
    """Return the name of a served model, without a name that of the only one, or refuse."""
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
