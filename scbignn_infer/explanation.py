"""Why cells were called what they were: genes present and missing, neighbours, both levels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.annotation.chances import logsumexp
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.errors import InputError
from scbignn_infer.network.neighbors import with_counts
from scbignn_infer.network.panel import TARGET_SUM
from scbignn_infer.query.reading import batches_of
from scbignn_infer.settings import AS_FOUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.annotator import Annotator
    from scbignn_infer.network.levels import GeneLevel
    from scbignn_infer.query.readers import Query
    from scbignn_infer.settings import Reading

TOP = 10


@dataclass(frozen=True)
class CellExplanation:
    """Why one cell was called what it was.

    Attributes
    ----------
    cell
        Name of the cell.
    label
        What it was called.
    best_label
        What it would be called without rejection.
    confidence
        Calibrated probability of the best label.
    novelty
        How unlike the reference it is, as in :class:`~scbignn_infer.Annotation`.
    neighbor_agreement
        Weighted share of its neighbours with the same best label.
    gene_level
        The most probable types of the gene level alone.
    cell_level
        The most probable types with the neighbours.
    neighbors
        How many of its graph neighbours have each best label.
    present
        Genes that speak for the best label because the cell has more of them than the reference's
        mean: by how much the log-odds of the label at the gene level would fall with the mean.
    missing
        Genes that speak against it because the cell lacks them, likewise.
    support, threshold
        The probability of the label less what novelty and residual take from it, and what it is
        compared with.
    together, label_threshold
        The probability of the label's types together, and what it is compared with where labels are
        as deep as is sure; else 0.
    reason
        Why it is unknown, or nothing.

    Examples
    --------
    See :func:`scbignn_infer.explain`, which makes them.
    """

    cell: str
    label: str
    best_label: str
    confidence: float
    novelty: float
    neighbor_agreement: float
    gene_level: dict[str, float]
    cell_level: dict[str, float]
    neighbors: dict[str, int]
    present: dict[str, float]
    missing: dict[str, float]
    support: float = 0.0
    threshold: float = 0.0
    together: float = 0.0
    label_threshold: float = 0.0
    reason: str = ""


def explain_cells(
    annotator: Annotator, query: Query, cells: Sequence[str], reading: Reading = AS_FOUND
) -> list[CellExplanation]:
    """Label a query and explain some of its cells, by their names; all that bear one of them.

    An InputError says that a cell does not exist or has no counts, or comes from annotating.
    """
    names = query.cell_names()
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name, []).append(i)
    unknown = [cell for cell in cells if cell not in places]
    if unknown:
        raise InputError(
            f"{query.name} has no cell '{unknown[0]}'",
            expected=f"names such as {', '.join(names[:3])}",
            do="choose with --cells",
        )
    choice = annotator.choose(query, reading)
    annotation, panel = annotator.labelled(query, reading, choice=choice)
    grouping = annotator.rules.on(annotation.provenance.tissue).grouping
    types = Grouping.by_level(annotator.bundle.spec.cell_types, 0).only(grouping.kept)
    near = _neighbor_codes(annotator, query, reading, annotation, grouping)
    level = annotator.pair.gene_level(panel)
    labels, final = annotation.best_labels, annotation.labels
    support, reasons = annotation.support, annotation.unknown_reasons
    explained = []
    for i in (i for name in cells for i in places[name]):
        cell = names[i]
        if annotation.empty[i]:
            few = reasons[i] == "too few counts"
            raise InputError(
                f"the cell '{cell}' "
                + ("was left out" if few else "has no count on any gene of the model"),
                expected="cells with counts",
                do="choose others with --cells",
            )
        row = query.rows(choice.matrix, np.array([i]))
        members = np.flatnonzero(grouping.group == annotation.best_codes[i])
        _, type_logits = level.label(row)
        code = int(members[type_logits[0, members].argmax()])
        effect, counts, logits = gene_effects(level, row, code, types)
        has, symbols = counts > 0, choice.panel.symbols
        explained.append(
            CellExplanation(
                cell=cell,
                label=str(final[i]),
                best_label=str(labels[i]),
                confidence=float(annotation.confidence[i]),
                novelty=float(annotation.novelty[i]),
                support=float(support[i]),
                threshold=annotation.confidence_threshold,
                together=float(annotation.together[i]),
                label_threshold=annotation.label_threshold,
                reason=str(reasons[i]),
                neighbor_agreement=float(annotation.neighbor_agreement[i]),
                gene_level=_most_probable(types.sum(np.exp(logits[None]))[0], types.labels),
                cell_level=_most_probable(annotation.probabilities[i], annotation.cell_types),
                neighbors=dict(Counter(annotation.cell_types[j] for j in near[i]).most_common()),
                present=_top(np.where(has, effect, 0.0), symbols),
                missing=_top(np.where(has, 0.0, -effect), symbols),
            )
        )
    return explained


def gene_effects(
    level: GeneLevel, row: sp.csr_matrix, code: int, types: Grouping
) -> tuple[Array, Array, Array]:
    """Tell what each gene does to a cell's log-odds of a type, at the gene level.

    ``row`` (1, n_file_genes) is of the chosen matrix, ``code`` that of the type or of one of its
    classes, ``types`` are those that the cell may be of. For the k genes of the panel, the effects
    are the log-odds less those with the reference's mean expression of the gene in the cell's
    place, and counts are the cell's; then come its gene logits (c,).
    """
    counts, totals = level.panel.densify(row)
    total = max(float(totals[0, 0]), 1.0)
    mean = np.expm1(np.maximum(level.panel.tables["gene_mean"], 0)) * (total / TARGET_SUM)
    k = counts.shape[1]
    variants = np.repeat(counts, k + 1, axis=0)
    variants[np.arange(k), np.arange(k)] = mean
    _, logits = level(variants, np.full((k + 1, 1), total, np.float32))
    logits = types.narrow(logits)
    odds = _log_odds(logits, types.group == types.group[code])
    return odds[-1] - odds[:k], counts[0], logits[-1]


def _log_odds(logits: Array, own: Array) -> Array:
    """Return log p / (1 - p) of some classes, which does not stand still where a cell is sure."""
    mine, others = (logits[:, side].astype(np.float64) for side in (own, ~own))
    odds: Array = (logsumexp(mine) - logsumexp(others))[:, 0]
    return odds


def _neighbor_codes(
    annotator: Annotator, query: Query, reading: Reading, annotation: Annotation, grouping: Grouping
) -> dict[int, Array]:
    """Return the labels of each cell's neighbours in the graph that labelled it."""
    near: dict[int, Array] = {}
    bank = annotator.pair.bank_of(grouping.kept)
    for cells in with_counts(batches_of(query, reading.batch_key), annotation.empty):
        rows = np.arange(len(annotation))[cells]
        graph = annotator.pair.neighbors(annotation.embedding[rows], bank)
        codes = graph.codes(annotation.best_codes[rows], grouping.group)
        near |= dict(zip(rows.tolist(), codes, strict=True))
    return near


def _most_probable(probabilities: Array, labels: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-probabilities, kind="stable")[:3]
    return {labels[i]: round(float(probabilities[i]), 4) for i in order}


def _top(effect: Array, symbols: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-effect, kind="stable")[:TOP]
    return {symbols[i]: round(float(effect[i]), 3) for i in order if effect[i] > 1e-3}
