"""Why cells were called what they were: genes present and missing, neighbours, both levels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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


def explain_cells(
    annotator: Annotator, query: Query, cells: Sequence[str], reading: Reading = AS_FOUND
) -> list[CellExplanation]:
    """Label a query and explain some of its cells.

    Parameters
    ----------
    annotator, query, reading
        As in :meth:`~scbignn_infer.annotator.Annotator.annotate_query`.
    cells
        Names of the cells.

    Raises
    ------
    InputError
        There is no such cell, or one without counts, or as in annotating.
    """
    names = query.cell_names()
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    unknown = [cell for cell in cells if cell not in place]
    if unknown:
        raise InputError(
            f"{query.name} has no cell '{unknown[0]}'",
            expected=f"names such as {', '.join(names[:3])}",
            do="choose with --cells",
        )
    choice = annotator.choose(query, reading)
    found, panel = annotator.labelled(query, reading, choice=choice)
    near = _neighbor_codes(annotator, query, reading, found)
    level = annotator.gene_level(panel)
    labels, final = found.best_labels, found.labels
    explained = []
    for cell in cells:
        i = place[cell]
        if found.empty[i]:
            raise InputError(
                f"the cell '{cell}' has no count on any gene of the model",
                expected="cells with counts",
                do="choose others with --cells",
            )
        row = query.rows(choice.matrix, np.array([i]))
        members = np.flatnonzero(annotator.rules.grouping.group == found.best_codes[i])
        _, said = level.label(row)
        code = int(members[said[0, members].argmax()])
        effect, counts, logits = gene_effects(level, row, code)
        has, symbols = counts > 0, choice.panel.symbols
        explained.append(
            CellExplanation(
                cell=cell,
                label=str(final[i]),
                best_label=str(labels[i]),
                confidence=float(found.confidence[i]),
                novelty=float(found.novelty[i]),
                neighbor_agreement=float(found.neighbor_agreement[i]),
                gene_level=_most_probable(np.exp(logits), annotator.bundle.cell_types),
                cell_level=_most_probable(found.probabilities[i], found.cell_types),
                neighbors=dict(Counter(found.cell_types[j] for j in near[i]).most_common()),
                present=_top(np.where(has, effect, 0.0), symbols),
                missing=_top(np.where(has, 0.0, -effect), symbols),
            )
        )
    return explained


def gene_effects(level: GeneLevel, row: sp.csr_matrix, code: int) -> tuple[Array, Array, Array]:
    """Tell what each gene does to a cell's log-odds of a type, at the gene level.

    Parameters
    ----------
    level
        For the file's genes.
    row
        (1, n_file_genes) of the chosen matrix.
    code
        Label code of the type.

    Returns
    -------
    effect, counts, logits
        (k,) log-odds less those with the reference's mean expression of the gene in the cell's
        place, (k,) counts, both of the panel's genes; and the (c,) gene logits.
    """
    counts, totals = level.panel.densify(row)
    total = max(float(totals[0, 0]), 1.0)
    mean = np.expm1(np.maximum(level.panel.tables["gene_mean"], 0)) * (total / TARGET_SUM)
    k = counts.shape[1]
    variants = np.repeat(counts, k + 1, axis=0)
    variants[np.arange(k), np.arange(k)] = mean
    _, logits = level(variants, np.full((k + 1, 1), total, np.float32))
    odds = _log_odds(logits, code)
    return odds[-1] - odds[:k], counts[0], logits[-1]


def _log_odds(logits: Array, code: int) -> Array:
    """Return log p / (1 - p) of a type, which does not stand still where a cell is sure."""
    others = np.delete(logits, code, axis=1).astype(np.float64)
    most = others.max(axis=1)
    odds: Array = logits[:, code] - most - np.log(np.exp(others - most[:, None]).sum(axis=1))
    return odds


def _neighbor_codes(
    annotator: Annotator, query: Query, reading: Reading, found: Annotation
) -> dict[int, Array]:
    """Return the labels of each cell's neighbours in the graph that labelled it."""
    near: dict[int, Array] = {}
    for cells in with_counts(batches_of(query, reading.batch_key), found.empty):
        rows = np.arange(len(found))[cells]
        graph = annotator.neighbors(found.embedding[rows])
        codes = graph.codes(found.best_codes[rows], annotator.rules.grouping.group)
        near |= dict(zip(rows.tolist(), codes, strict=True))
    return near


def _most_probable(probabilities: Array, labels: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-probabilities, kind="stable")[:3]
    return {labels[i]: round(float(probabilities[i]), 4) for i in order}


def _top(effect: Array, symbols: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-effect, kind="stable")[:TOP]
    return {symbols[i]: round(float(effect[i]), 3) for i in order if effect[i] > 1e-3}
