"""What an annotation is: labels, probabilities, how sure, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation import scores
from scbignn_infer.annotation.provenance import Provenance
from scbignn_infer.settings import DEFAULT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp

    from scbignn_infer._types import Array

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Annotation:
    """Labels of the cells of one query.

    Attributes
    ----------
    cell_types
        The model's labels, in the order of the label codes.
    ontology_ids
        Cell Ontology id of each label, or an empty string.
    probabilities
        (n_cells, n_classes) float32, calibrated, of the cell level; zero rows for empty cells.
    gene_level_codes
        (n_cells,) label codes that the gene level alone would give.
    neighbor_agreement
        (n_cells,) weighted share of graph neighbours with the same best label.
    novelty
        (n_cells,) how unlike the reference a cell and its neighbours are, as a quantile of held-out
        reference cells: by distance to the bank in the embedding, or by the genes in which they
        differ from the type that they are called, whichever is more.
    residual
        (n_cells,) the latter, relative to what 99 % of held-out reference cells are within.
    embedding
        (n_cells, d) float32 cell embedding.
    empty
        (n_cells,) cells without a count on any known gene, or mostly of another species than the
        model's; they are unknown.
    confidence_threshold
        A cell is called unknown where its :attr:`support` is below it.
    max_novelty
        A cell is called unknown where its novelty is above it, too.
    excess
        (n_cells,) support that is taken back, since an adaptation gave it to a cell beyond what it
        gives to a typical one.
    graph
        (n_cells, n_cells) cosine similarity of each cell (row) and its neighbours, where the
        annotator keeps it.
    provenance
        Model, matrix, genes, parameters, versions and timings of the run.

    Examples
    --------
    >>> import numpy as np
    >>> from scbignn_infer import Annotator
    >>> annotator = Annotator.load("human-pbmc", threads=1)
    >>> genes = annotator.bundle.gene_symbols[:500]
    >>> counts = np.random.default_rng(0).poisson(1.0, (3, 500))
    >>> annotation = annotator.annotate_matrix(counts, genes)
    >>> annotation.probabilities.shape
    (3, 9)
    >>> annotation.provenance.matrix.state
    'counts'
    """

    cell_types: list[str]
    ontology_ids: list[str]
    probabilities: Array
    gene_level_codes: Array
    neighbor_agreement: Array
    novelty: Array
    residual: Array
    embedding: Array
    empty: Array
    confidence_threshold: float
    max_novelty: float = 1.0
    excess: Array | None = None
    graph: sp.csr_matrix | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def n_empty(self) -> int:
        """Number of cells without a count on any known gene."""
        return int(self.empty.sum()) - self.provenance.n_foreign

    @property
    def confidence(self) -> Array:
        """(n_cells,) calibrated probability of the best label."""
        best: Array = self.probabilities.max(axis=1)
        return best

    @property
    def support(self) -> Array:
        """(n_cells,) confidence, less for cells that are unlike any of the reference."""
        found = scores.support(self.confidence, self.novelty, self.residual)
        return found if self.excess is None else found - self.excess

    @property
    def best_codes(self) -> Array:
        """(n_cells,) label codes without rejection; -1 for empty cells."""
        return np.where(self.empty, -1, self.probabilities.argmax(axis=1))

    @property
    def codes(self) -> Array:
        """(n_cells,) final label codes; -1 is unknown."""
        is_sure = (self.support >= self.confidence_threshold) & (self.novelty <= self.max_novelty)
        return np.where(is_sure, self.best_codes, -1)

    @property
    def labels(self) -> Array:
        """(n_cells,) final labels, ``unknown`` below the threshold and above the novelty."""
        return self._names(self.codes)

    @property
    def label_ids(self) -> Array:
        """(n_cells,) Cell Ontology ids of the final labels, or empty strings."""
        return np.array([*self.ontology_ids, ""], dtype=object)[self.codes]

    @property
    def best_labels(self) -> Array:
        """(n_cells,) labels without rejection."""
        return self._names(self.best_codes)

    @property
    def gene_level_labels(self) -> Array:
        """(n_cells,) labels of the gene level alone."""
        return self._names(np.where(self.empty, -1, self.gene_level_codes))

    def _names(self, codes: Array) -> Array:
        return np.array([*self.cell_types, UNKNOWN], dtype=object)[codes]

    def counts(self) -> dict[str, int]:
        """Map each final label to its number of cells, most frequent first."""
        codes, n = np.unique(self.codes, return_counts=True)
        names = [*self.cell_types, UNKNOWN]
        return {names[codes[i]]: int(n[i]) for i in np.argsort(-n, kind="stable")}

    def columns(self, key: str = DEFAULT_KEY) -> dict[str, Array]:
        """Return the per-cell columns as they stand in ``obs``, by name."""
        return {f"{key}_{name}": column.values(self) for name, column in COLUMNS.items()}

    def matrices(self, key: str = DEFAULT_KEY) -> dict[str, Array]:
        """Return the per-cell matrices as they stand in ``obsm``, by name."""
        return {f"{key}_probabilities": self.probabilities, f"X_{key}": self.embedding}

    def pairs(self, key: str = DEFAULT_KEY) -> dict[str, Any]:
        """Return the graph as it stands in ``obsp``, by name; none where it is not kept.

        ``distances`` are 1 less the cosine similarity of a cell (row) and its neighbours;
        ``connectivities`` the similarities, cut at 0, of pairs of which one is a neighbour of the
        other.
        """
        if self.graph is None:
            return {}
        distances, near = self.graph.copy(), self.graph.copy()
        distances.data = np.maximum(1 - distances.data, 1e-8)  # zeros would be no entries
        near.data = np.maximum(near.data, 1e-8)
        return {f"{key}_connectivities": near.maximum(near.T), f"{key}_distances": distances}

    def record(self) -> dict[str, Any]:
        """Return what stands in ``uns``: the provenance and the names of the classes."""
        return {**self.provenance.record(), "cell_types": self.cell_types}

    def warnings(self) -> list[str]:
        """Return what the user should know before labels are believed."""
        return self.provenance.warnings(
            n=len(self),
            n_empty=self.n_empty,
            unknown=float(np.mean(self.codes < 0)),
            novelty=float(np.median(self.novelty)),
        )

    def summary(self) -> dict[str, Any]:
        """Return what commands and services say of all cells."""
        labels = self.counts()
        return {
            "cells": len(self),
            **self.provenance.summary(),
            "labels": labels,
            "unknown": labels.get(UNKNOWN, 0),
            "empty": self.n_empty,
            "warnings": self.warnings(),
        }


@dataclass(frozen=True)
class Column:
    """A column of ``obs``: what gives its values, and the strings among them in their order."""

    of: Callable[[Annotation], Array]
    names: Callable[[Annotation], list[str]] | None = None

    def values(self, annotation: Annotation) -> Array:
        """Return the values (n_cells,), strings or float32."""
        values = self.of(annotation)
        return values if self.names else values.astype(np.float32)


def _label_names(annotation: Annotation) -> list[str]:
    return [*annotation.cell_types, UNKNOWN]


def _id_names(annotation: Annotation) -> list[str]:
    return list(dict.fromkeys([*annotation.ontology_ids, ""]))


COLUMNS = {
    "cell_type": Column(lambda a: a.labels, _label_names),
    "cell_type_ontology_id": Column(lambda a: a.label_ids, _id_names),
    "best_cell_type": Column(lambda a: a.best_labels, _label_names),
    "confidence": Column(lambda a: a.confidence),
    "gene_level_cell_type": Column(lambda a: a.gene_level_labels, _label_names),
    "neighbor_agreement": Column(lambda a: a.neighbor_agreement),
    "novelty": Column(lambda a: a.novelty),
}
"""The per-cell columns by name, without their prefix: files, tables and services have each."""
