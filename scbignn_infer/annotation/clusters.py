"""What each cluster of a query is: the label of most of its cells, and whether others disagree."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.errors import InputError
from scbignn_infer.settings import names_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.annotation.ontology import Ontology
    from scbignn_infer.query.readers import Query

MIXED = 0.25
"""If so large a share of a cluster's labelled cells contradicts its label, it is mixed. In studies
that models had not seen, 0.2 flagged more pure clusters, and 0.3 fewer mixed ones."""
FEW_CELLS = 5
"""If a cluster has fewer cells on average, the column is hardly one of clusters."""
BLOCK = 4096
"""Clusters at once."""


@dataclass(frozen=True)
class ClusterLabel:
    """What one cluster is.

    Attributes
    ----------
    cluster
        Its name, as in the column.
    cells
        Number of its cells.
    cell_type
        The label of the fewest types that more than half of its cells have, or are below; the most
        frequent one where there is none.
    share
        Share of its cells that have this label, or one below it.
    runner_up
        The most frequent label of the other cells; empty if there are none.
    runner_up_share
        Its share of all cells of the cluster.
    mixed
        Whether the labels of at least a quarter of its labelled cells contradict the cluster's:
        they are neither it, nor above or below it. Nothing contradicts unknown.
    confidence
        Mean confidence of its cells.
    """

    cluster: str
    cells: int
    cell_type: str
    share: float
    runner_up: str
    runner_up_share: float
    mixed: bool
    confidence: float


TITLES = tuple(field.name for field in fields(ClusterLabel))


@dataclass(frozen=True)
class Clusters:
    """The clusters of one column of ``obs``.

    Attributes
    ----------
    codes
        (n_cells,) place of each cell's cluster; -1 for cells without one.
    rows
        What each cluster is, in the natural order of their names.
    """

    codes: Array
    rows: list[ClusterLabel]

    @property
    def cell_types(self) -> Array:
        """(n_cells,) label of each cell's cluster; empty for cells without one."""
        return np.array([*(row.cell_type for row in self.rows), ""], dtype=object)[self.codes]

    def columns(self) -> dict[str, Array]:
        """Return the table as columns by name."""
        values = [list(asdict(row).values()) for row in self.rows]
        return {t: np.array(v) for t, v in zip(TITLES, zip(*values, strict=True), strict=True)}

    @property
    def shown(self) -> list[tuple[str | float | None, ...]]:
        """The rows as people read them: nothing where there is no runner-up, "mixed" or nothing."""
        return [
            (
                *(row.cluster, row.cells, row.cell_type, row.share, row.runner_up),
                row.runner_up_share or None,
                "mixed" if row.mixed else "",
                row.confidence,
            )
            for row in self.rows
        ]

    def warning(self, key: str) -> str:
        """Say that the column is hardly one of clusters, or nothing."""
        n, most = len(self.codes), len(self.rows)
        if n >= most * FEW_CELLS:
            return ""
        return f"obs['{key}'] has {most:,} values in {n:,} cells: is it a column of clusters?"


def read_clusters(query: Query, keys: str | Sequence[str]) -> dict[str, list[str]]:
    """Return the clusters of the cells in each of some columns of ``obs``.

    An InputError says that there is no such column, or that it holds nothing.
    """
    columns = {}
    for key in names_in(keys):
        values = columns[key] = query.obs_column(key)
        if "/" in key:
            raise InputError(
                f"the column '{key}' of clusters",
                expected="a name without a slash, since labels are written under it",
                do="rename the column",
            )
        if not any(values):
            raise InputError(
                f"obs['{key}'] of {query.name} holds nothing but missing values",
                expected="the cluster of each cell",
                do="choose another column with --cluster-key (cluster_key)",
            )
    return columns


def with_clusters(annotation: Annotation, columns: Mapping[str, Sequence[str]]) -> Annotation:
    """Return an annotation that also says what the clusters of some columns are."""
    if not columns:
        return annotation
    labels, confidence, ontology = annotation.labels, annotation.confidence, annotation.ontology
    found = {k: label_clusters(labels, confidence, ontology, v) for k, v in columns.items()}
    return replace(annotation, clusters=found)


def recorded_clusters(record: Mapping[str, Any]) -> dict[str, list[tuple[str | float, ...]]]:
    """Return the rows of clusters as people read them, as ``uns`` of a labelled file has them."""
    tables = record.get("clusters")
    found = {}
    for key, columns in tables.items() if isinstance(tables, dict) else ():
        if isinstance(columns, dict) and columns.keys() >= set(TITLES):
            *said, mixed, sure = (np.asarray(columns[title]).tolist() for title in TITLES)
            words = ["mixed" if m else "" for m in mixed]
            found[str(key)] = list(zip(*said, words, sure, strict=False))
    return found


def label_clusters(
    labels: Array, confidence: Array, ontology: Ontology, values: Sequence[str]
) -> Clusters:
    """Say what each cluster is, by labels and confidence (n_cells,) of its cells.

    ``values`` are the clusters of the cells. A label that the ontology lacks counts as unknown.
    """
    names, codes = factorize(values)
    called, inside = [*ontology.labels, UNKNOWN], codes >= 0
    unknown, place = len(ontology.labels), {label: i for i, label in enumerate(called)}
    cells = np.bincount(codes[inside], minlength=len(names))
    means = np.bincount(codes[inside], confidence[inside], len(names)) / cells
    order = np.argsort(codes[inside], kind="stable")
    sorted_codes = codes[inside][order]
    sorted_labels = np.array([place.get(label, unknown) for label in labels[inside][order]])
    rule, rows = _Rule.of(ontology), list[ClusterLabel]()
    for i in range(0, len(names), BLOCK):
        first, last = np.searchsorted(sorted_codes, [i, i + BLOCK])
        n = min(BLOCK, len(names) - i)
        pair = (sorted_codes[first:last] - i) * (unknown + 1) + sorted_labels[first:last]
        counts = np.bincount(pair, minlength=n * (unknown + 1)).reshape(n, unknown + 1)
        best, share, second, second_share, mixed = rule(counts)
        rows += [
            ClusterLabel(
                names[i + j],
                int(cells[i + j]),
                called[best[j]],
                round(float(share[j]), 4),
                called[second[j]] if second_share[j] > 0 else "",
                round(float(second_share[j]), 4),
                bool(mixed[j]),
                round(float(means[i + j]), 4),
            )
            for j in range(n)
        ]
    return Clusters(codes, rows)


def factorize(values: Sequence[str]) -> tuple[list[str], Array]:
    """Return the names of clusters in their natural order, and each cell's; -1 for no name."""
    names = sorted(set(values) - {""}, key=lambda name: (_natural(name), name))
    place = {name: i for i, name in enumerate(names)} | {"": -1}
    return names, np.fromiter(map(place.__getitem__, values), np.int64, len(values))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return what sorts 2 before 10."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(p), "") if i % 2 else (1, 0, p) for i, p in enumerate(parts) if p]


@dataclass(frozen=True)
class _Rule:
    """How counts of labels decide what a cluster is; the last label is unknown."""

    within: Array
    """(n_labels, n_labels) which labels (columns) are another (row), or below it."""
    contradicts: Array
    fewer: Array
    """(n_labels,) more for labels of fewer types."""

    @classmethod
    def of(cls, ontology: Ontology) -> _Rule:
        holds = ontology.holds.astype(np.float32)
        n = len(holds)
        within = np.eye(n + 1, dtype=bool)
        within[:n, :n] = (1 - holds) @ holds.T == 0
        contradicts = ~(within | within.T)
        contradicts[:, n] = contradicts[n] = False
        size = np.append(ontology.size, 1)
        return cls(within, contradicts, ontology.n_types + 1.0 - size)

    def __call__(self, counts: Array) -> tuple[Array, ...]:
        """Return label, share, runner-up, its share, and whether clusters (rows) are mixed."""
        cells, each = counts.sum(axis=1), np.arange(len(counts))
        held = counts @ self.within.T
        enough = 2 * held > cells[:, None]
        score = np.where(enough, 2 * self.fewer + held / cells[:, None], 0.0)
        score = np.where(enough.any(axis=1)[:, None], score, counts)
        best = score.argmax(axis=1)
        others = np.where(self.within[best], 0, counts)
        second = others.argmax(axis=1)
        against = (counts * self.contradicts[best]).sum(axis=1)
        labelled = np.maximum(counts[:, :-1].sum(axis=1), 1)
        shares = held[each, best] / cells, others[each, second] / cells
        return best, shares[0], second, shares[1], against >= MIXED * labelled
