"""Write every task as one file, for methods that have an environment of their own.

Run in ``benchmarks/``, with this project's Python: ``python -m peers.export_tasks FOLDER``.
Nothing of this package is needed to read the files; ``peers.common`` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import tasks

Array = np.ndarray[Any, Any]


def flat(prefix: str, cells: tasks.Cells) -> dict[str, Array]:
    """Return cells as plain arrays."""
    counts = cells.counts
    return {
        f"{prefix}_data": counts.data,
        f"{prefix}_indices": counts.indices,
        f"{prefix}_indptr": counts.indptr,
        f"{prefix}_symbols": np.array(cells.symbols, str),
        f"{prefix}_labels": cells.labels.astype(str),
    }


def export(task: tasks.Task, path: Path, *, cuts: bool) -> None:
    """Write one task, and which genes each cut of the query keeps."""
    views = {name: query.symbols for name, query in tasks.panels(task)} if cuts else {}
    np.savez_compressed(
        path,
        name=np.array(task.name),
        **flat("reference", task.reference),
        **flat("query", task.query),
        views=np.array(list(views), str),
        view_genes=np.array([np.isin(task.query.symbols, kept) for kept in views.values()], bool),
    )


def main() -> None:
    """Write the pairs with their cuts, then the folds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for i, (reference, query) in enumerate(tasks.PAIRS):
        export(tasks.pair(reference, query), folder / f"pair_{i}.npz", cuts=True)
    for i, (study, number) in enumerate(tasks.FOLDS):
        # Sorted by name, folds come after pairs.
        export(tasks.fold(study, number), folder / f"within_{i}.npz", cuts=False)


if __name__ == "__main__":
    main()
