"""What labelling will take in time and memory, said before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from scbignn_infer.neighbors import EXACT_MAX_CELLS
from scbignn_infer.results import RESIDUAL_GENES

START_SECONDS, START_BYTES = 2.0, 300_000_000
"""Of a process that labels one cell."""
THREAD_BYTES = 50_000_000
"""What a worker of the gene level or of exact search holds at once."""
SECONDS_A_CELL = 6e-5
"""Of one thread, for reading, gene level, cell level and scores."""
SECONDS_A_PRODUCT = 4e-11
"""Of one thread, for one dimension of one pair of cells in exact search."""
SECONDS_A_DESCENT = 1.5e-4
"""Of one thread, for one cell in pynndescent."""
COMPILE_SECONDS = 50.0
DESCENT_BYTES = 600
"""What pynndescent holds for a cell beside its embedding and neighbours."""
BYTES_A_SECOND = 5e8
"""That are copied to the output."""


@dataclass(frozen=True)
class Estimate:
    """Roughly what labelling takes, from measurements on two cores of a server of 2023.

    Attributes
    ----------
    seconds
        Wall time.
    memory
        Peak of the process in bytes.
    """

    seconds: float
    memory: int


def estimate(
    n_cells: int,
    *,
    embedding_size: int,
    n_classes: int,
    n_neighbors: int,
    threads: int,
    output_bytes: int = 0,
) -> Estimate:
    """Estimate time and memory from the sizes of what is held; a GPU only makes it quicker.

    Parameters
    ----------
    n_cells
        Cells of the query.
    embedding_size, n_classes, n_neighbors
        Of the model.
    threads
        CPU threads.
    output_bytes
        Size of the file that will be copied.
    """
    exact = n_cells <= EXACT_MAX_CELLS
    graph = (
        SECONDS_A_PRODUCT * n_cells**2 * embedding_size
        if exact
        else SECONDS_A_DESCENT * n_cells + COMPILE_SECONDS
    )
    seconds = (SECONDS_A_CELL * n_cells + graph) / threads
    # float32: the embedding and its unit rows; logits and states of the cell level and
    # probabilities; indices and similarities of the graph while its own are dropped; a byte for
    # each of some genes. pynndescent holds heaps and candidates.
    held = 8 * embedding_size + 24 * n_classes + 60 * n_neighbors + RESIDUAL_GENES
    held += 0 if exact else DESCENT_BYTES
    return Estimate(
        START_SECONDS + seconds + output_bytes / BYTES_A_SECOND,
        START_BYTES + THREAD_BYTES * threads + held * n_cells,
    )
