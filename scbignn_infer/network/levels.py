"""The two passes over the cells, in blocks: the gene level, then the cell level on a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.network.panel import LIMIT, RESIDUAL_GENES, TARGET_SUM
from scbignn_infer.network.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import scipy.sparse as sp

    from scbignn_infer.model.bundle import CellLayer
    from scbignn_infer.network.panel import Densifier
    from scbignn_infer.network.sessions import Run, Session
    from scbignn_infer.query.readers import Query

Array = np.ndarray[Any, Any]
Report = Callable[[str, int, int], None]
READ_CELLS = 1024
CELL_CHUNK = 4096
SCALED_STEPS = 12.0
"""Steps of one standard deviation in which scaled expression is kept, so that a byte holds all of
it, up to ``LIMIT``."""


@dataclass(frozen=True)
class GenePass:
    """What the gene level says of n cells.

    Attributes
    ----------
    embedding, logits
        (n, d) and (n, c) log-probabilities.
    scaled
        (n, g) scaled expression of the best-ranked present genes, in :data:`SCALED_STEPS`.
    empty
        (n,) cells without a count on any known gene, or mostly of another species.
    foreign
        (n,) the latter, in a file of two species.
    """

    embedding: Array
    logits: Array
    scaled: Array
    empty: Array
    foreign: Array


@dataclass(frozen=True)
class Graph:
    """The neighbours of n cells, among themselves or in the reference bank.

    Attributes
    ----------
    indices, similarity
        (n, k) int64 and float32, most similar first.
    builder
        What found them: ``exact``, ``pynndescent`` or ``reference``.
    reach
        (m,) similarity of the farthest neighbour of each cell that may be one.
    state
        (m, c) probabilities of these cells where they are the bank's, which stay; ``None`` where
        they are the query's, which the layers change.
    """

    indices: Array
    similarity: Array
    builder: str
    reach: Array
    state: Array | None = None


def gene_pass(
    query: Query,
    matrix: str,
    run: Run,
    densify: Densifier,
    tables: Mapping[str, Array],
    *,
    sizes: tuple[int, int],
    batch_cells: int,
    workers: int,
    report: Report,
) -> GenePass:
    """Run the gene level over all cells of a query, streamed.

    Parameters
    ----------
    query, matrix
        What is read.
    run
        The gene level with its tables filled in.
    densify, tables
        What turns rows into its counts, and mean and scale of its genes.
    sizes
        Of the embedding and of the logits.
    batch_cells, workers
        Cells that go through at once, and blocks side by side.
    report
        Told of progress.
    """
    n, (d, c) = query.n_cells, sizes
    kept = min(RESIDUAL_GENES, densify.panel_size)
    found = GenePass(
        embedding=np.empty((n, d), np.float32),
        logits=np.empty((n, c), np.float32),
        scaled=np.empty((n, kept), np.int8),
        empty=np.empty(n, dtype=bool),
        foreign=np.empty(n, dtype=bool),
    )
    label = partial(
        _label_and_scale,
        run=run,
        densify=densify,
        batch_cells=batch_cells,
        mean=tables["gene_mean"][:kept],
        scale=tables["gene_scale"][:kept],
    )
    start = 0
    blocks = query.blocks(matrix, max(READ_CELLS, batch_cells))
    for z, o, genes, none, other in in_order(label, blocks, workers=workers):
        rows = slice(start, start + len(z))
        found.embedding[rows], found.logits[rows] = z, o
        found.scaled[rows], found.empty[rows], found.foreign[rows] = genes, none, other
        start = rows.stop
        report("gene level", start, n)
    return found


def cell_pass(
    layers: Sequence[CellLayer],
    sessions: Mapping[str, Session],
    gene_logits: Array,
    graph: Graph,
    *,
    workers: int,
    report: Report,
) -> Array:
    """Run the cell level: one layer after the other, in chunks of cells; returns logits (n, c).

    Parameters
    ----------
    layers, sessions
        Of the model, and their graphs by file.
    gene_logits
        (n, c) what the gene level said.
    graph
        Of the same cells.
    workers, report
        As in :func:`gene_pass`.
    """
    n, own = len(gene_logits), gene_logits
    state = np.exp(gene_logits) if graph.state is None else graph.state
    for step, layer in enumerate(layers):
        update = partial(
            _update_cells,
            run=sessions[layer.file].holding(
                state=state, reach=graph.reach, layer=np.array(layer.layer, np.int64)
            ),
            by_cell={
                "own": own,
                "gene_logits": gene_logits,
                "neighbor_indices": graph.indices,
                "neighbor_similarity": graph.similarity,
            },
        )
        own, new = np.empty_like(own), np.empty_like(own)
        chunks = [slice(i, min(i + CELL_CHUNK, n)) for i in range(0, n, CELL_CHUNK)]
        updated = in_order(update, chunks, workers=workers)
        for rows, values in zip(chunks, updated, strict=True):
            own[rows], new[rows] = values
            report("cell level", step * n + rows.stop, len(layers) * n)
        if graph.state is None:
            state = new
    return own


def label_cells(
    block: sp.csr_matrix, *, run: Run, densify: Densifier, batch_cells: int
) -> tuple[Array, Array]:
    """Run the gene level on some rows of a file: embedding and gene logits."""
    counts, totals = densify(block)
    return _run_batches(counts, totals, run, batch_cells)


def _run_batches(counts: Array, totals: Array, run: Run, batch_cells: int) -> tuple[Array, Array]:
    batches = [slice(i, i + batch_cells) for i in range(0, len(counts), batch_cells)]
    parts = [run(counts=counts[b], totals=np.maximum(totals[b], 1.0)) for b in batches]
    embedding, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
    return embedding, logits


def _label_and_scale(
    block: sp.csr_matrix,
    *,
    run: Run,
    densify: Densifier,
    batch_cells: int,
    mean: Array,
    scale: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Run the gene level on some rows, and keep scaled expression of the first genes."""
    counts, totals = densify(block)
    embedding, logits = _run_batches(counts, totals, run, batch_cells)
    first = np.log1p(counts[:, : len(mean)] * (TARGET_SUM / np.maximum(totals, 1.0)))
    scaled = np.clip((first - mean) / scale, -LIMIT, LIMIT)
    kept = np.rint(scaled * SCALED_STEPS).astype(np.int8)
    return embedding, logits, kept, totals[:, 0] <= 0, densify.mostly_foreign(block)


def _update_cells(rows: slice, *, run: Run, by_cell: dict[str, Array]) -> tuple[Array, ...]:
    """Run one layer of the cell level for a chunk of cells, which look at the state of all."""
    return run(**{name: values[rows] for name, values in by_cell.items()})
