"""What the peers share: reading tasks, scoring, writing rows. Needs no part of this package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from sklearn.metrics import accuracy_score, f1_score

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Cells:
    """Cells by genes: counts, symbols of the genes, labels of the cells."""

    counts: sp.csr_matrix
    symbols: Array
    labels: Array


@dataclass(frozen=True)
class Task:
    """One reference, one query, and the genes that each cut of the query keeps."""

    name: str
    reference: Cells
    query: Cells
    views: dict[str, Array]


def read_tasks(folder: Path) -> Iterator[Task]:
    """Yield what ``export_tasks`` wrote."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            parts = []
            for prefix in ("reference", "query"):
                data, indices, indptr, symbols, labels = (
                    file[f"{prefix}_{part}"]
                    for part in ("data", "indices", "indptr", "symbols", "labels")
                )
                counts = sp.csr_matrix((data, indices, indptr), (len(labels), len(symbols)))
                parts.append(Cells(counts, symbols, labels))
            views = dict(zip(file["views"].tolist(), file["view_genes"], strict=True))
            yield Task(str(file["name"]), *parts, views)


class Rows:
    """A JSON list in the form of ``accuracy.py``, rewritten at each row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def add(
        self, task: Task, view: str, method: str, found: Array, seed: int = 0, **more: Any
    ) -> None:
        """Score labels. Those that no cell of the truth has are wrong, and no type of their own."""
        truth = task.query.labels
        f1 = f1_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0)
        row = {
            "task": task.name,
            "view": view,
            "method": method,
            "seed": seed,
            "accuracy": round(float(accuracy_score(truth, found)), 5),
            "macro_f1": round(float(f1), 5),
            **more,
        }
        print(row, flush=True)
        self.rows.append(row)
        self.path.write_text(json.dumps(self.rows, indent=0))
