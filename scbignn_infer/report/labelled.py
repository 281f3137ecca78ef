"""The labels of a file's cells as they are shown: just given, or as annotate wrote them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.annotation import REASONS, UNKNOWN
from scbignn_infer.annotation.clusters import recorded_clusters
from scbignn_infer.annotation.provenance import Provenance
from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.query.readers import FileQuery

EMPTY, LEFT_OUT = REASONS[4], REASONS[6]


@dataclass(frozen=True)
class Labelled:
    """Cells with their labels, (n,) each, and what these are based on.

    The names are those of an :class:`~scbignn_infer.Annotation`, of which it is a part; read from a
    file, it says what stands there, also where a user has changed it.
    """

    labels: Array
    best_labels: Array
    gene_level_labels: Array
    confidence: Array
    support: Array
    novelty: Array
    unknown_reasons: Array
    ids: Mapping[str, str]
    """Cell Ontology ids, or empty strings, by label."""
    provenance: Provenance
    clusters: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)
    """What the clusters of each column are, as people read them."""

    @classmethod
    def of(cls, annotation: Annotation) -> Self:
        """Return what is shown of an annotation."""
        return cls(
            labels=annotation.labels,
            best_labels=annotation.best_labels,
            gene_level_labels=annotation.gene_level_labels,
            confidence=annotation.confidence,
            support=annotation.support.astype(np.float32),  # as it stands in a file
            novelty=annotation.novelty,
            unknown_reasons=annotation.unknown_reasons,
            ids=dict(
                zip(annotation.ontology.labels, annotation.ontology.ontology_ids, strict=True)
            ),
            provenance=annotation.provenance,
            clusters={key: found.shown for key, found in annotation.clusters.items()},
        )

    @classmethod
    def read(cls, cells: FileQuery, key: str) -> Self:
        """Return what annotate has written into a file."""
        record = cells.uns(key)
        if not isinstance(record, dict) or "cell_types" not in record:
            raise InputError(
                f"{cells.path} holds no labels of a model under the key '{key}'",
                expected=f"obs['{key}_cell_type'] and uns['{key}'] in an .h5ad or .zarr",
                do="run scbignn-infer annotate first, or pass its --key-added",
            )
        labels = _texts(cells, f"{key}_cell_type")
        ids = _texts(cells, f"{key}_cell_type_ontology_id")
        return cls(
            labels=labels,
            best_labels=_texts(cells, f"{key}_best_cell_type"),
            gene_level_labels=_texts(cells, f"{key}_gene_level_cell_type"),
            confidence=_numbers(cells, f"{key}_confidence"),
            support=_numbers(cells, f"{key}_support"),
            novelty=_numbers(cells, f"{key}_novelty"),
            unknown_reasons=_texts(cells, f"{key}_unknown_reason"),
            ids=dict(zip(labels.tolist(), ids.tolist(), strict=True)),
            provenance=Provenance.from_record(record),
            clusters=recorded_clusters(record),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, cells: Array) -> Self:
        """Return the same of some cells, by their numbers."""
        own: dict[str, Any] = {k: v[cells] for k, v in vars(self).items() if hasattr(v, "dtype")}
        return replace(self, **own)

    def counts(self) -> dict[str, int]:
        """Map each label to its number of cells, most frequent first."""
        names, n = np.unique(self.labels.astype(str), return_counts=True)
        return {str(names[i]): int(n[i]) for i in np.argsort(-n, kind="stable")}

    @property
    def order(self) -> list[str]:
        """The labels as they are listed: most frequent first, the unknown one last."""
        counts = self.counts()
        return [label for label in counts if label != UNKNOWN] + [UNKNOWN] * (UNKNOWN in counts)

    @property
    def is_unknown(self) -> Array:
        """(n,) whether cells have no label."""
        found: Array = self.labels == UNKNOWN
        return found

    def warnings(self) -> list[str]:
        """Return what the user should know before labels are believed."""
        return self.provenance.warnings(
            n=len(self),
            n_empty=int((self.unknown_reasons == EMPTY).sum()),
            unknown=float(self.is_unknown.mean()),
            novelty=float(np.median(self.novelty)),
        )


def _texts(cells: FileQuery, name: str) -> Array:
    try:
        return np.array(cells.obs_column(name), dtype=object)
    except InputError as error:
        raise InputError(
            error.found,
            expected="the columns that annotate writes",
            do="label the file again with scbignn-infer annotate",
        ) from None


def _numbers(cells: FileQuery, name: str) -> Array:
    texts = _texts(cells, name)
    try:
        return np.where(texts == "", "nan", texts).astype(np.float32)
    except ValueError:
        raise InputError(
            f"obs['{name}'] of {cells.path} holds what is no number",
            expected="the numbers that annotate writes",
            do="label the file again with scbignn-infer annotate",
        ) from None
