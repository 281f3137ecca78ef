"""The two passes over the cells, in blocks: the gene level, then the cell level on a graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.network.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import scipy.sparse as sp

    from scbignn_infer._types import Array, Progress
    from scbignn_infer.model.bundle import BundleSpec, CellLayer
    from scbignn_infer.network.neighbors import Graph
    from scbignn_infer.network.panel import Panel
    from scbignn_infer.network.sessions import Run, Session
    from scbignn_infer.query.readers import Query

READ_CELLS = 1024
CELL_CHUNK = 4096


@dataclass(frozen=True)
class GenePass:
    """What the gene level says of n cells.

    Attributes
    ----------
    embedding, logits
        (n, d) and (n, c) log-probabilities.
    scaled
        (n, g) what :meth:`Panel.scale` gives.
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
class GeneLevel:
    """The gene level of a model, ready for the genes of one file.

    Attributes
    ----------
    run
        The graph with the panel's tables filled in.
    panel
        The genes.
    batch_cells
        Cells that go through at once.
    sizes
        Of the embedding and of the logits.
    """

    run: Run
    panel: Panel
    batch_cells: int
    sizes: tuple[int, int]

    @classmethod
    def of(cls, spec: BundleSpec, session: Session, panel: Panel, batch_cells: int) -> GeneLevel:
        """Fill the tables of a panel into a model's session."""
        sizes = spec.gene_level.embedding_size, len(spec.cell_types)
        return cls(session.holding(**panel.tables), panel, batch_cells, sizes)

    def __call__(self, counts: Array, totals: Array) -> tuple[Array, Array]:
        """Return embedding (n, d) and logits (n, c) for counts (n, k) and totals (n, 1)."""
        step = self.batch_cells
        batches = [slice(i, i + step) for i in range(0, len(counts), step)]
        parts = [self.run(counts=counts[b], totals=np.maximum(totals[b], 1.0)) for b in batches]
        embedding, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        return embedding, logits

    def label(self, rows: sp.csr_matrix) -> tuple[Array, Array]:
        """Return embedding and logits of some rows of the file."""
        return self(*self.panel.densify(rows))


def gene_pass(
    level: GeneLevel,
    query: Query,
    matrix: str,
    *,
    workers: int,
    report: Progress,
) -> GenePass:
    """Run the gene level over all cells of a query, streamed.

    Parameters
    ----------
    level
        For the query's genes.
    query, matrix
        What is read.
    workers
        Blocks side by side.
    report
        Told of progress.
    """
    n, (d, c) = query.n_cells, level.sizes
    found = GenePass(
        embedding=np.empty((n, d), np.float32),
        logits=np.empty((n, c), np.float32),
        scaled=np.empty((n, level.panel.n_scaled), np.int8),
        empty=np.empty(n, dtype=bool),
        foreign=np.empty(n, dtype=bool),
    )
    start = 0
    blocks = query.blocks(matrix, max(READ_CELLS, level.batch_cells))
    for z, o, genes, none, other in in_order(
        partial(_label_and_scale, level), blocks, workers=workers
    ):
        rows = slice(start, start + len(z))
        found.embedding[rows], found.logits[rows] = z, o
        found.scaled[rows], found.empty[rows], found.foreign[rows] = genes, none, other
        start = rows.stop
        report("gene level", start, n)
    return found


def cell_pass(
    layers: Sequence[CellLayer],
    session: Callable[[str], Session],
    gene_logits: Array,
    graph: Graph,
    *,
    workers: int,
    report: Progress,
) -> Array:
    """Run the cell level: one layer after the other, in chunks of cells; returns logits (n, c).

    Parameters
    ----------
    layers, session
        Of the model, and what opens one of their graphs, by its file.
    gene_logits
        (n, c) what the gene level said.
    graph
        Of the same cells.
    workers, report
        As in :func:`gene_pass`.
    """
    n, own = len(gene_logits), gene_logits
    state = graph.state(np.exp(gene_logits))
    for step, layer in enumerate(layers):
        update = partial(
            _update_cells,
            run=session(layer.file).holding(
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
        state = graph.state(new)
    return own


def _label_and_scale(level: GeneLevel, block: sp.csr_matrix) -> tuple[Array, ...]:
    """Run the gene level on some rows, and keep scaled expression of the first genes."""
    panel = level.panel
    counts, totals = panel.densify(block)
    scaled = panel.scale(counts, totals)
    return *level(counts, totals), scaled, totals[:, 0] <= 0, panel.densify.mostly_foreign(block)


def _update_cells(rows: slice, *, run: Run, by_cell: dict[str, Array]) -> tuple[Array, ...]:
    """Run one layer of the cell level for a chunk of cells, which look at the state of all."""
    chunk = {name: values[rows] for name, values in by_cell.items()}
    chunk["neighbor_indices"] = chunk["neighbor_indices"].astype(np.int64)
    return run(**chunk)
