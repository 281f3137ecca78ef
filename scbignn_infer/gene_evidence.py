"""What the cells of a label, or of a cluster, show against all others, beside what a model reads.

The statistic is one of single genes, worked out of sums over one pass through the file: the mean
log1p of counts per 10,000 of the group's cells less that of the others, in standard deviations
within the two. It describes these cells; it proves nothing, since the labels come from the same
genes. All genes of the file are looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.annotation.clusters import label_clusters
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.errors import InputError
from scbignn_infer.model.interpretation import signed_interpretation
from scbignn_infer.query.enough import enough
from scbignn_infer.query.expressed import FileGenes, Shown
from scbignn_infer.query.gene_names import SPECIES, GeneNames
from scbignn_infer.query.where import cells_where
from scbignn_infer.settings import AS_FOUND

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.annotation.provenance import Provenance
    from scbignn_infer.annotator import Annotator
    from scbignn_infer.model.bundle import Interpretation, ModelBundle
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.settings import Reading

TOP = 10
"""Genes of each kind that are kept."""
KNOWN = 5
"""The heaviest genes of a label are its known markers."""
MOST_GROUPS = 500
LEAST_SHARE = 0.1
"""Of a group's cells that must have a gene which they are said to show."""


@dataclass(frozen=True)
class GeneEvidence:
    """How the cells of a group have one gene, and all others.

    Attributes
    ----------
    gene
        Its symbol.
    share
        Share of the group's cells that have a count of it.
    share_of_rest
        Share of all others; ``None`` if there are no others.
    difference
        Mean log1p of counts per 10,000 of the group's cells less that of the others, in standard
        deviations within them.
    weight
        What the model gives to it, as ``models explain`` shows; 0 for a gene that it does not
        look at for this label.
    """

    gene: str
    share: float
    share_of_rest: float | None
    difference: float
    weight: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What speaks for the label of a group of cells, in the cells and in the model.

    Attributes
    ----------
    group
        The label, the cluster, or the condition by which the cells were chosen.
    cells
        Number of its cells.
    label
        What they are: the label of most of them; of unknown ones the most frequent best label.
    labels, best_labels, reasons
        How many of its cells have each label and each best label, and why cells are unknown.
    confidence
        Mean confidence.
    shown
        Genes that its cells show most against all others of the file, with the largest difference
        first; of all genes of the file, whether the model knows them or not.
    looked_at
        Genes whose presence speaks for the label in the model, and that the file has, the heaviest
        first.
    lacks
        Genes whose absence speaks for it, likewise; their weights are below 0.
    absent
        Of the label's known markers, its five heaviest genes, those of which the file has no count;
        a label that joins types has no known markers.
    unseen
        Of these markers, those in the file that its cells have no more of than the others.
    key
        The column of ``obs`` of which the group is a cluster; empty for labels.

    Examples
    --------
    See :func:`scbignn_infer.evidence`, which makes them.
    """

    group: str
    cells: int
    label: str
    labels: dict[str, int]
    best_labels: dict[str, int]
    reasons: dict[str, int]
    confidence: float
    shown: list[GeneEvidence]
    looked_at: list[GeneEvidence]
    lacks: list[GeneEvidence]
    absent: list[str]
    unseen: list[str]
    key: str = ""

    @property
    def missing(self) -> str:
        """Which known markers of the label are missing, in words; empty if none is."""
        parts = [
            f"{', '.join(self.absent)} absent from the file" if self.absent else "",
            f"{', '.join(self.unseen)} no higher in these cells than in others"
            if self.unseen
            else "",
        ]
        said = "; ".join(filter(None, parts))
        return f"{self.label}: {said}" if said else ""


@dataclass(frozen=True)
class Groups:
    """Groups of cells; ``codes`` (n_cells,) are places among their ``names``, -1 for none."""

    names: list[str]
    codes: Array
    key: str = ""
    """The column that has them, of clusters."""

    @classmethod
    def by_label(cls, called: Called) -> Groups:
        """Make a group of the cells of each label, the most frequent first, unknown ones last."""
        names = sorted(called.counts(), key=lambda name: name == UNKNOWN)
        place = {name: i for i, name in enumerate(names)}
        return cls(names, np.array([place[label] for label in called.labels]))

    def only(self, inside: Array) -> Groups:
        """Return the groups among some cells (n_cells,), without empty ones."""
        kept, codes = np.unique(self.codes[inside], return_inverse=True)
        kept, codes = kept[kept >= 0], codes - (kept < 0).sum()
        found = np.full(len(self.codes), -1)
        found[inside] = codes
        return Groups([self.names[i] for i in kept], found, self.key)


def find_evidence(
    annotator: Annotator,
    query: Query,
    reading: Reading = AS_FOUND,
    *,
    where: str | None = None,
) -> list[Evidence]:
    """Label a query, and say what the cells of each label, cluster or choice show.

    Parameters
    ----------
    annotator, query, reading
        What labels, which cells, and how they are read. If ``reading`` names columns of clusters,
        the groups are their clusters; otherwise the labels.
    where
        A condition; see :func:`~scbignn_infer.query.where.cells_where`. The cells for which it
        holds are one group, or the clusters among them are. It may name columns of ``obs``, and
        those that ``annotate`` writes: these are of this labelling.

    Raises
    ------
    InputError
        No cell is chosen, the condition cannot be understood, there are too many clusters, or as in
        annotating.
    """
    query = enough(query, reading)
    choice = annotator.choose(query, reading)
    annotation = annotator.annotate_query(query, reading, choice=choice)
    found = list[Evidence]()
    for groups in _groups_of(annotation, query, where):
        if len(groups.names) > MOST_GROUPS:
            raise InputError(
                f"obs['{groups.key}'] has {len(groups.names):,} clusters to explain",
                expected=f"at most {MOST_GROUPS}",
                do="choose cells with --where, or another column",
            )
        grouping = annotator.rules.on(annotation.provenance.tissue).grouping
        found += evidence_of(query, choice, annotation, grouping, groups)[0]
    return found


def _groups_of(annotation: Annotation, query: Query, where: str | None) -> list[Groups]:
    """Return the groups, for each way of grouping."""
    found = [
        Groups([row.cluster for row in c.rows], c.codes, key)
        for key, c in annotation.clusters.items()
    ]
    if where is None:
        return found or [Groups.by_label(annotation)]
    own = annotation.columns()
    inside = cells_where(where, lambda n: own[n] if n in own else query.obs_column(n))
    if not inside.any():
        raise InputError(
            f"no cell of {query.name} is one for which {where}",
            expected="a condition that holds for some cells",
            do="mend the condition (--where)",
        )
    one = Groups([where], np.zeros(len(annotation), np.int64))
    return [groups.only(inside) for groups in found or [one]]


class Called(Protocol):
    """The labels of cells, as an annotation has them."""

    @property
    def labels(self) -> Array:
        """(n_cells,) final labels."""

    @property
    def best_labels(self) -> Array:
        """(n_cells,) labels without rejection."""

    @property
    def unknown_reasons(self) -> Array:
        """(n_cells,) why cells are unknown."""

    @property
    def confidence(self) -> Array:
        """(n_cells,) probability of the best label."""

    @property
    def provenance(self) -> Provenance:
        """What the labels are based on."""

    def counts(self) -> dict[str, int]:
        """Map each label to its number of cells, most frequent first."""


def evidence_of(
    query: Query, choice: Choice, called: Called, grouping: Grouping, groups: Groups
) -> tuple[list[Evidence], Shown]:
    """Say what the cells of some groups show, and how they express the genes of the file."""
    n, names, ontology = len(groups.names), groups.names, Ontology.of(choice.bundle.spec, grouping)
    codes = np.where(groups.codes < 0, n, groups.codes)
    shown = Shown.of(query, choice, FileGenes.of(query, choice), codes, n + 1)
    weights = label_weights(choice.bundle, ontology, grouping, called.provenance.tissue.chosen)
    known = {gene for own in weights.values() for gene in own}
    of_genes = _Genes(shown, _in_file(choice, shown, known))
    best, labels, reasons = called.best_labels, called.labels, called.unknown_reasons
    of_cells = np.array([*names, ""], object)[groups.codes].tolist()
    within = label_clusters(labels, called.confidence, ontology, of_cells)
    rows = {row.cluster: row for row in within.rows}
    found = list[Evidence]()
    for i, name in enumerate(names):
        cells = groups.codes == i
        own, most = _counted(labels[cells]), _counted(best[cells])
        label = rows[name].cell_type if len(own) > 1 else next(iter(own))
        if label == UNKNOWN:
            label = next((other for other in most if other != UNKNOWN), UNKNOWN)
        found.append(
            Evidence(
                group=name,
                key=groups.key,
                cells=int(cells.sum()),
                label=label,
                labels=own,
                best_labels=most,
                reasons=_counted([reason for reason in reasons[cells] if reason]),
                confidence=rows[name].confidence,
                **of_genes.of(i, weights.get(label, {}), one_type=label in grouping.labels),
            )
        )
    return found, shown


@dataclass(frozen=True)
class _Genes:
    """The genes of a file, as groups of cells show them and labels rest on them."""

    shown: Shown
    in_file: set[str]

    def of(self, group: int, weights: Mapping[str, float], *, one_type: bool) -> dict[str, Any]:
        """Return the fields of a group's evidence that are about genes.

        What joins types has no known markers: each type has its own.
        """
        difference, share_of_rest = self.shown.against_rest(group)
        share, alone = self.shown.of_group(group)[2], self.shown.is_all(group)
        symbols, place = self.shown.symbols, self.shown.place

        def gene(i: int) -> GeneEvidence:
            return GeneEvidence(
                symbols[i],
                round(float(share[i]), 4),
                None if alone else round(float(share_of_rest[i]), 4),
                0.0 if alone else round(float(difference[i]), 3),
                round(weights.get(symbols[i], 0.0), 4),
            )

        stands_out = (difference > 0) & (share >= LEAST_SHARE) & (not alone)
        first = np.argsort(np.where(stands_out, -difference, np.inf), kind="stable")[:TOP]
        heaviest = sorted(weights, key=lambda symbol: -abs(weights[symbol]))
        known = [symbol for symbol in heaviest if weights[symbol] > 0][: KNOWN * one_type]
        read = [gene(place[symbol]) for symbol in heaviest if symbol in place]
        lower = {g.gene for g in read if (g.share == 0 if alone else g.difference <= 0)}
        absent = [symbol for symbol in known if symbol not in self.in_file]
        return {
            "shown": [gene(i) for i in first if stands_out[i]],
            "looked_at": [g for g in read if g.weight > 0][:TOP],
            "lacks": [g for g in read if g.weight < 0][:TOP],
            "absent": absent,
            "unseen": [g for g in known if g in lower and g not in absent],
        }


def _in_file(choice: Choice, shown: Shown, symbols: Iterable[str]) -> set[str]:
    """Return those symbols of which the file has a count, by whatever name."""
    bundle = choice.bundle
    there = {bundle.gene_symbols[i] for i in np.flatnonzero(choice.genes.present)}
    counted = shown.sums[2].any(axis=0)
    there -= {s for s, some in zip(shown.symbols, counted, strict=True) if not some}
    away = set(symbols) - there
    if away and bundle.spec.species in SPECIES:
        gene = GeneNames.of(bundle.spec.species).gene
        genes = {gene.get(symbol) for symbol in there}
        there |= {symbol for symbol in away if gene.get(symbol, symbol) in genes}
    return there


def label_weights(
    bundle: ModelBundle, ontology: Ontology, grouping: Grouping, tissues: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the genes that carry each label, with their weights; those of absence are below 0.

    ``tissues`` are those of which a type's class is preferred. Weights of a label that joins types
    are the means of its types' weights, of the genes that carry at least half of them. A type's are
    its own, also if its term is above that of another type, as dendritic cells are above pDC.
    """
    spec = bundle.spec
    carriers = signed_interpretation(spec, bundle.statistics["class_mean"])
    preferred = sorted(enumerate(spec.cell_types), key=lambda c: c[1].tissue not in tissues)
    classes: list[dict[str, str]] = [{} for _ in grouping.labels]
    for code, cell_type in preferred:
        if grouping.group[code] >= 0 and cell_type.label in carriers:
            classes[grouping.group[code]].setdefault(cell_type.called, cell_type.label)
    types = [_mean([_weights(carriers[c]) for c in own.values()]) for own in classes]
    joins = [
        _mean([types[i] for i in np.flatnonzero(held)]) for held in ontology.holds[len(types) :]
    ]
    return dict(zip(ontology.labels, [*types, *joins], strict=True))


def _weights(carriers: Interpretation) -> dict[str, float]:
    return {gene.symbol: gene.weight for gene in carriers.genes}


def _mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of weights of the genes that at least half of the parts have."""
    n = Counter(gene for part in parts for gene in part)
    return {
        gene: sum(part.get(gene, 0.0) for part in parts) / len(parts)
        for gene, m in n.items()
        if 2 * m >= len(parts)
    }


def _counted(values: Sequence[str] | Array) -> dict[str, int]:
    """Count strings, the most frequent first."""
    return {str(value): n for value, n in Counter(values).most_common()}
