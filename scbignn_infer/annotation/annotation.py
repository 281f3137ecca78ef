"""What an annotation is: labels, probabilities, how sure, and where it came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scbignn_infer.annotation import scores
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.annotation.provenance import Provenance
from scbignn_infer.annotation.rows import Rows, SpreadRows
from scbignn_infer.query.enough import SomeCells
from scbignn_infer.settings import DEFAULT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.clusters import Clusters
    from scbignn_infer.annotation.mixtures import Mixtures
    from scbignn_infer.query.readers import Query

UNKNOWN = "unknown"
REASONS = (
    "",
    "unsure",
    "novel",
    "genes do not fit",
    "empty",
    "other species",
    "too few counts",
)
"""Why a cell is unknown; nothing for the others."""
OF_CELLS = (
    "probabilities",
    "gene_level_codes",
    "neighbor_agreement",
    "residual",
    "embedding",
    "penalties",
    "foreign",
    "excess",
)
"""What is 0 of a cell that was left out."""
SHOWN_LABELS = 5
"""That stand in the short form of an annotation."""


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
        (n_cells, n_classes) float32, calibrated, of the cell level; zero rows for empty cells. Of a
        divided sample they stay on disk, as the embedding does, and are read by slices.
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
        A cell is called unknown where its :attr:`support` is below it, or below the
        ``label_threshold`` if its label joins types.
    max_novelty
        A cell is called unknown where its novelty is above it, too.
    label_threshold
        A cell is given the deepest label whose types have this probability together, and is unknown
        if there is none. 0: labels are types.
    sets
        The share of a cell's probability that the labels of its set hold; 0: no sets.
    wider
        The labels that cells may be given: the types, then what joins several; by default types
        alone.
    joins_by_support
        Whether a label that joins types must reach the ``label_threshold`` by its support, and not
        by the probability of its types alone: in models whose novelty is that of measured cells.
    penalties
        (n_cells, 2) what novelty, and genes that do not fit, take from the confidence, in its
        :attr:`support`.
    foreign
        (n_cells,) of the empty cells, those of another species.
    left_out
        (n_cells,) of the empty cells, those that were not looked at, since they have fewer counts
        than was asked for.
    excess
        (n_cells,) support that is taken back, since an adaptation gave it to a cell beyond what it
        gives to a typical one.
    mixtures
        Which cells two labels explain better than one, if that was asked.
    graph
        (n_cells, n_cells) cosine similarity of each cell (row) and its neighbours, where the
        annotator keeps it.
    places
        (n_cells, 2) float32 places on a map of the embedding, where one was made for a report.
    clusters
        What the clusters of each column that was asked for are, by its name.
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
    (3, 15)
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
    label_threshold: float = 0.0
    sets: float = 0.0
    wider: Ontology | None = None
    joins_by_support: bool = True
    penalties: Array | None = None
    foreign: Array | None = None
    left_out: Array | None = None
    excess: Array | None = None
    mixtures: Mixtures | None = None
    graph: sp.csr_matrix | None = None
    places: Array | None = None
    clusters: Mapping[str, Clusters] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)

    def __len__(self) -> int:
        return len(self.probabilities)

    def __repr__(self) -> str:
        """Return what a person wants to see of it: how many cells, by which model, and labels."""
        model, counts = self.provenance.model, self.counts()
        most = [f"{name} {n:,}" for name, n in counts.items()][:SHOWN_LABELS]
        more = f", and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
        by = f" by {model.name} {model.version}" if model.name else ""
        return f"<Annotation of {len(self):,} cells{by}: {', '.join(most)}{more}>"

    @property
    def n_empty(self) -> int:
        """Number of cells without a count on any known gene."""
        return int((self.empty & self._looked_at).sum()) - self.provenance.n_foreign

    @property
    def _looked_at(self) -> Array:
        """(n_cells,) the cells that were not left out."""
        return np.ones(len(self), dtype=bool) if self.left_out is None else ~self.left_out

    def of_all(self, labelled: Query) -> Annotation:
        """Return the annotation of all cells of a query, where some were left out.

        Parameters
        ----------
        labelled
            The cells that it is of, or those that know which of a query they are.
        """
        if not isinstance(labelled, SomeCells):
            return self
        cells, n = labelled.cells, labelled.n_all

        def put(values: Any, fill: float = 0) -> Any:
            if values is None:
                return None
            if isinstance(values, Rows):
                return SpreadRows(values, cells, n)
            whole = np.full((n, *values.shape[1:]), fill, values.dtype)
            whole[cells] = values
            return whole

        spread = {name: put(getattr(self, name)) for name in OF_CELLS}
        graph, mixtures = self.graph, self.mixtures
        if graph is not None:
            own = graph.tocoo()
            graph = sp.csr_matrix((own.data, (cells[own.row], cells[own.col])), shape=(n, n))
        if mixtures is not None:
            mixtures = replace(
                mixtures, codes=put(mixtures.codes, -1), score=put(mixtures.score, np.nan)
            )
        clusters = {k: replace(c, codes=put(c.codes, -1)) for k, c in self.clusters.items()}
        empty, left_out = put(self.empty, True), ~np.isin(np.arange(n), cells)
        spread |= {"empty": empty, "novelty": put(self.novelty, 1), "left_out": left_out}
        spread |= {"places": put(self.places), "clusters": clusters}
        return replace(self, **spread, graph=graph, mixtures=mixtures)

    @cached_property
    def confidence(self) -> Array:
        """(n_cells,) calibrated probability of the best label, and of types that it refines."""
        return self.ontology.agreeing(self.probabilities, self._best)

    @property
    def support(self) -> Array:
        """(n_cells,) probability of the label less penalties, compared with the threshold."""
        taken = self.penalties
        if taken is None:
            taken = scores.penalties(self.novelty, self.residual)
        less: Array = self._deepest[1] - taken.sum(axis=1)
        return less if self.excess is None else less - self.excess

    @property
    def together(self) -> Array:
        """(n_cells,) probability of the label's types, compared with the label threshold."""
        return self._deepest[1]

    @property
    def reason_codes(self) -> Array:
        """(n_cells,) why cells are unknown, as positions in :data:`REASONS`; 0 of labelled ones.

        A cell is unsure if the probability of its label alone is below the threshold. Otherwise
        it is novel if it is above the novelty asked for, or if its novelty takes more of the
        confidence than its genes do.
        """
        taken = self.penalties
        if taken is None:
            taken = scores.penalties(self.novelty, self.residual)
        unsure = self._deepest[1] < self._needed
        novel = (self.novelty > self.max_novelty) | (taken[:, 0] >= taken[:, 1])
        found = np.where(unsure, 1, np.where(novel, 2, 3))
        found = np.where(self.empty, 4, np.where(self.codes < 0, found, 0))
        found = found if self.foreign is None else np.where(self.foreign, 5, found)
        return np.where(self._looked_at, found, 6)

    @property
    def unknown_reasons(self) -> Array:
        """(n_cells,) why cells are unknown; empty strings for labelled ones."""
        return np.array(REASONS, dtype=object)[self.reason_codes]

    @property
    def best_codes(self) -> Array:
        """(n_cells,) codes of the best types, without rejection; -1 for empty cells."""
        return np.where(self.empty, -1, self._best)

    @property
    def codes(self) -> Array:
        """(n_cells,) final codes, of types or of what joins them; -1 is unknown."""
        (label, together), least = self._deepest, self.confidence_threshold
        is_sure = (self.support >= least) & (self.novelty <= self.max_novelty) & ~self.empty
        if self._needed > least:
            joins = (self.ontology.size[label] > 1) & self.joins_by_support
            is_sure &= np.where(joins, self.support, together) >= self._needed
        return np.where(is_sure, label, -1)

    @property
    def _needed(self) -> float:
        """What the probability of a label must be, before penalties."""
        least = self.confidence_threshold
        return max(least, self.label_threshold) if least > 0 else least

    @cached_property
    def ontology(self) -> Ontology:
        """The labels that cells may be given."""
        return self.wider or Ontology.flat(self.cell_types, self.ontology_ids)

    @cached_property
    def _best(self) -> Array:
        return self.ontology.best(self.probabilities)

    @cached_property
    def _deepest(self) -> tuple[Array, Array]:
        """Codes of the labels, and the probabilities of their types together."""
        if not self.label_threshold:
            return self._best, self.confidence
        return self.ontology.deepest(self.probabilities, self.label_threshold)

    @property
    def labels(self) -> Array:
        """(n_cells,) final labels, ``unknown`` below the threshold and above the novelty."""
        return self._names(self.codes)

    @property
    def label_ids(self) -> Array:
        """(n_cells,) Cell Ontology ids of the final labels, or empty strings."""
        return np.array([*self.ontology.ontology_ids, ""], dtype=object)[self.codes]

    @property
    def best_labels(self) -> Array:
        """(n_cells,) labels without rejection."""
        return self._names(self.best_codes)

    @property
    def gene_level_labels(self) -> Array:
        """(n_cells,) labels of the gene level alone."""
        return self._names(np.where(self.empty, -1, self.gene_level_codes))

    def sets_of(self, share: float) -> Array:
        """Return the labels (n_cells,) that hold a share of the probability, joined by ``|``.

        An empty cell has an empty set.
        """
        return self.ontology.sets(self.probabilities, share)

    @cached_property
    def label_sets(self) -> Array:
        """(n_cells,) labels that hold the share that was asked for."""
        return self.sets_of(self.sets)

    @cached_property
    def mixture_names(self) -> Array:
        """(n_cells,) the two labels of cells that are mixtures, such as ``B + CD14 Mono``."""
        return self._mixed.names(self.ontology.labels)

    @property
    def _mixed(self) -> Mixtures:
        if self.mixtures is None:
            raise ValueError("mixtures were not asked for")
        return self.mixtures

    def mixture_counts(self) -> dict[str, int]:
        """Map each mixture to its number of cells, most frequent first."""
        names, n = np.unique(self.mixture_names[self._mixed.named].astype(str), return_counts=True)
        return {str(names[i]): int(n[i]) for i in np.argsort(-n, kind="stable")}

    def _names(self, codes: Array) -> Array:
        return np.array([*self.ontology.labels, UNKNOWN], dtype=object)[codes]

    def counts(self) -> dict[str, int]:
        """Map each final label to its number of cells, most frequent first."""
        codes, n = np.unique(self.codes, return_counts=True)
        names = [*self.ontology.labels, UNKNOWN]
        return {names[codes[i]]: int(n[i]) for i in np.argsort(-n, kind="stable")}

    def columns(self, key: str = DEFAULT_KEY) -> dict[str, Array]:
        """Return the per-cell columns as they stand in ``obs``, by name."""
        return {f"{key}_{name}": column.values(self) for name, column in self.shown.items()}

    @property
    def shown(self) -> dict[str, Column]:
        """All columns but those that were not asked for; then one for each column of clusters."""
        own = {n: c for n, c in COLUMNS.items() if c.asked is None or c.asked(self)}
        return own | {f"{BY}{key}": _of_clusters(key) for key in self.clusters}

    def matrices(self, key: str = DEFAULT_KEY) -> dict[str, Array]:
        """Return the per-cell matrices as they stand in ``obsm``, by name."""
        mapped = {} if self.places is None else {f"X_{key}_umap": self.places}
        return {f"{key}_probabilities": self.probabilities, f"X_{key}": self.embedding, **mapped}

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
        record = {**self.provenance.record(), "cell_types": self.cell_types}
        names, joins = self.ontology.labels, self.ontology.joins
        if joins:
            codes = [" ".join(map(str, np.flatnonzero(self.ontology.holds[i]))) for i in joins]
            record["joins"] = {"labels": [names[i] for i in joins], "types": codes}
        if self.clusters:
            record["clusters"] = {key: found.columns() for key, found in self.clusters.items()}
        return record

    def warnings(self) -> list[str]:
        """Return what the user should know before labels are believed."""
        said = self.provenance.warnings(
            n=int(self._looked_at.sum()),
            n_empty=self.n_empty,
            unknown=float(np.mean(self.codes[self._looked_at] < 0)),
            novelty=float(np.median(self.novelty[self._looked_at])),
        )
        return [*said, *filter(None, (c.warning(key) for key, c in self.clusters.items()))]

    def unknown_counts(self) -> dict[str, int]:
        """Map each reason why cells are unknown to its number of cells, most frequent first."""
        n = np.bincount(self.reason_codes, minlength=len(REASONS))[1:]
        order = np.argsort(-n, kind="stable")
        return {REASONS[i + 1]: int(n[i]) for i in order if n[i]}

    def summary(self) -> dict[str, Any]:
        """Return what commands and services say of all cells."""
        labels = self.counts()
        clusters = {key: list(map(asdict, found.rows)) for key, found in self.clusters.items()}
        return {
            "cells": len(self),
            **self.provenance.summary(),
            "labels": labels,
            **({"clusters": clusters} if clusters else {}),
            "unknown": labels.get(UNKNOWN, 0),
            "unknown_reasons": self.unknown_counts(),
            "empty": self.n_empty,
            **({} if self.mixtures is None else {"mixtures": self.mixture_counts()}),
            "median_confidence": self._median(self.confidence),
            "median_novelty": self._median(self.novelty),
            "warnings": self.warnings(),
        }

    def _median(self, values: Array) -> float | None:
        """Return the median of those cells that have counts; None if none has."""
        cells = ~self.empty
        return round(float(np.median(values[cells])), 4) if cells.any() else None


def joins_of(record: Mapping[str, Any], cell_types: list[str]) -> dict[str, list[str]]:
    """Map labels that join types to these, as ``uns`` of a labelled file has them."""
    joins = record.get("joins")
    if not isinstance(joins, dict):
        return {}
    pairs = zip(joins.get("labels", ()), joins.get("types", ()), strict=False)
    return {
        str(label): [cell_types[int(i)] for i in str(codes).split() if _is_code(i, cell_types)]
        for label, codes in pairs
    }


def _is_code(text: str, cell_types: list[str]) -> bool:
    return text in map(str, range(len(cell_types)))


@dataclass(frozen=True)
class Column:
    """A column of ``obs``: what gives its values, and the strings among them in their order."""

    of: Callable[[Annotation], Array]
    names: Callable[[Annotation], list[str]] | None = None
    asked: Callable[[Annotation], bool] | None = None
    """Whether it is there; by default it always is."""

    def values(self, annotation: Annotation) -> Array:
        """Return the values (n_cells,), strings or float32."""
        values = self.of(annotation)
        return values if self.names else values.astype(np.float32)


def _label_names(annotation: Annotation) -> list[str]:
    return [*annotation.ontology.labels, UNKNOWN]


def _type_names(annotation: Annotation) -> list[str]:
    return [*annotation.cell_types, UNKNOWN]


def _id_names(annotation: Annotation) -> list[str]:
    return list(dict.fromkeys([*annotation.ontology.ontology_ids, ""]))


def _set_names(annotation: Annotation) -> list[str]:
    return sorted(set(annotation.label_sets))


def _of_clusters(key: str) -> Column:
    """Return the column of the labels of clusters."""
    return Column(lambda a: a.clusters[key].cell_types, lambda a: [*_label_names(a), ""])


BY = "cell_type_by_"
"""With the name of a column of clusters, that of the labels of these."""
COLUMNS = {
    "cell_type": Column(lambda a: a.labels, _label_names),
    "cell_type_ontology_id": Column(lambda a: a.label_ids, _id_names),
    "cell_type_set": Column(lambda a: a.label_sets, _set_names, lambda a: a.sets > 0),
    "best_cell_type": Column(lambda a: a.best_labels, _type_names),
    "confidence": Column(lambda a: a.confidence),
    "gene_level_cell_type": Column(lambda a: a.gene_level_labels, _type_names),
    "neighbor_agreement": Column(lambda a: a.neighbor_agreement),
    "novelty": Column(lambda a: a.novelty),
    "support": Column(lambda a: a.support),
    "unknown_reason": Column(lambda a: a.unknown_reasons, lambda a: list(REASONS)),
    "mixture": Column(
        lambda a: a.mixture_names,
        lambda a: ["", *a.mixture_counts()],
        lambda a: a.mixtures is not None,
    ),
    "mixture_score": Column(lambda a: a._mixed.score, asked=lambda a: a.mixtures is not None),
}
"""The per-cell columns by name, without their prefix: files, tables and services have each."""
ALWAYS = {name: column for name, column in COLUMNS.items() if column.asked is None}
"""Those that no setting asks for."""
