"""What labelling will take in time and memory, said before it begins."""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scbignn_infer.errors import InputError
from scbignn_infer.network.neighbors import AUTO, search_for
from scbignn_infer.network.panel import STRENGTH_GENES
from scbignn_infer.query.readers import values_held

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.query.readers import Query

START_SECONDS, START_BYTES = 0.8, 200_000_000
"""Of a process that labels one cell."""
CLASS_BYTES = 1_600_000
"""Of a model's tables and graphs, for each of its types."""
THREAD_BYTES = 50_000_000
"""What a worker of the gene level or of a search holds at once."""
SECONDS_A_CELL = 6e-5
"""Of one thread, for reading, gene level, cell level and scores."""
REPORT_START_BYTES, REPORT_BYTES = 400_000_000, 1000
"""What the report's map holds at once, where the search for neighbours does not, and for a cell."""
REPORT_START_SECONDS, REPORT_SECONDS = 14.0, 5e-4
"""What the map takes, most of it for umap to be compiled, and for a cell."""
ROUNDS = 3
"""How often an adaptation to the cells labels them."""
VALUE_BYTES = 24
"""What reading a text table takes for a value, and a ``matrix.mtx`` for an entry."""
JOINED_BYTES, JOINED_SECONDS, PARTS_HELD = 150, 1e-5, 5
"""What joining parts holds of each cell and takes for it, and how often a part is held at most: as
it is read and as it is copied."""
ENTRY_BYTES = 16
"""What a stored value of a matrix takes while an AnnData is made of a file."""
BYTES_A_SECOND = 5e8
"""That are copied to the output."""


@dataclass(frozen=True)
class Estimate:
    """Roughly what labelling takes, from measurements on two cores of a server of 2023."""

    seconds: float
    """Wall time."""
    memory: int
    """Peak of the process in bytes."""


def estimate(
    n_cells: int,
    *,
    embedding_size: int,
    n_classes: int,
    n_neighbors: int,
    threads: int,
    neighbors: str = AUTO,
    output_bytes: int = 0,
    held_bytes: int = 0,
    report: bool = False,
    adapt: bool = False,
) -> Estimate:
    """Estimate time and memory from the sizes of what is held; a GPU only makes it quicker.

    ``output_bytes`` are of the file that will be copied; ``held_bytes`` are what of the file is in
    memory, since its format is read whole. With ``adapt`` the cells are labelled three times.
    """
    search, rounds = search_for(n_cells, neighbors), ROUNDS if adapt else 1
    a_round = SECONDS_A_CELL * n_cells + search.seconds(n_cells, embedding_size)
    seconds = rounds * a_round / threads
    # The embedding, and half of it while it is searched; logits, states of the cell level and
    # probabilities; indices and similarities of the graph; a byte for each of some genes.
    held = 6 * embedding_size + 20 * n_classes + 9 * n_neighbors + STRENGTH_GENES
    if adapt:  # embedding, logits, probabilities and genes of the rounds before stay
        held += (ROUNDS - 1) * (4 * embedding_size + 8 * n_classes + STRENGTH_GENES)
    memory = START_BYTES + rounds * THREAD_BYTES * threads + held * n_cells + held_bytes
    memory += search.START_BYTES + search.CELL_BYTES * n_cells + CLASS_BYTES * n_classes
    if report:
        memory += max(0, REPORT_START_BYTES - search.START_BYTES) + REPORT_BYTES * n_cells
        seconds += REPORT_START_SECONDS + REPORT_SECONDS * n_cells
    return Estimate(START_SECONDS + seconds + output_bytes / BYTES_A_SECOND, memory)


def estimate_join(n_cells: int, part_cells: int, row_bytes: int) -> Estimate:
    """Estimate what joining parts takes, of which one is held, with little of all other cells.

    ``row_bytes`` are what of a cell is held of a part alone.
    """
    memory = START_BYTES + JOINED_BYTES * n_cells + PARTS_HELD * row_bytes * part_cells
    return Estimate(START_SECONDS + JOINED_SECONDS * n_cells, memory)


def bytes_to_read(path: Path) -> int:
    """Return the bytes that reading a text table or a ``matrix.mtx`` takes, by a file's beginning.

    They are 0 for formats that are read a part at a time, and for what cannot be read.
    """
    with suppress(OSError, EOFError, ValueError, IndexError, zlib.error):
        values = values_held(path)
        return 0 if values is None else START_BYTES + VALUE_BYTES * values
    return 0


def refuse_too_large(query: Query, needed: Estimate, limit: int | None) -> None:
    """Refuse a query whose labelling is estimated to need more memory than the user allows."""
    refuse_beyond(limit, needed.memory, f"labelling the {query.n_cells:,} cells of {query.name}")


def refuse_beyond(limit: int | None, needed: int, what: str) -> None:
    """Refuse work that needs more memory than the user allows."""
    if limit is not None and needed > limit:
        raise InputError(
            f"{what} needs about {needed / 1e9:.1f} GB of memory",
            expected=f"at most the {limit / 1e9:.1f} GB of the memory limit",
            do="raise --memory-limit (memory_limit), or label one sample at a time",
        )
