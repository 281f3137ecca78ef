"""How many cells of each label there are, in each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.output.table import write_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from scbignn_infer._types import Array

ALL = "all cells"
"""The sample of cells that are of one."""
TITLES = ("sample", "cell_type", "cell_type_ontology_id", "cells", "share")


@dataclass(frozen=True)
class Composition:
    """Cells (n_samples, n_labels) of each sample and label."""

    samples: list[str]
    labels: list[str]
    cells: Array

    @classmethod
    def of(cls, labels: Array, order: Sequence[str], samples: Sequence[str] | None = None) -> Self:
        """Count labels (n,), in an order; samples in that in which they come."""
        names, code = [ALL], np.zeros(len(labels), np.int64)
        if samples is not None:
            place = {name: i for i, name in enumerate(dict.fromkeys(samples))}
            names, code = list(place), np.array([place[name] for name in samples])
        column = {label: i for i, label in enumerate(order)}
        codes = np.array([column[label] for label in labels])
        size = len(names), len(order)
        flat = np.bincount(code * size[1] + codes, minlength=size[0] * size[1])
        return cls(names, list(order), flat.reshape(size))

    @property
    def totals(self) -> Array:
        """(n_samples,) cells of each sample."""
        total: Array = self.cells.sum(axis=1)
        return total

    @property
    def shares(self) -> Array:
        """(n_samples, n_labels) shares of each sample."""
        share: Array = self.cells / np.maximum(self.totals, 1)[:, None]
        return share

    def write(self, path: Path, ids: Mapping[str, str]) -> list[str]:
        """Write a row a sample and label as text, with commas; return warnings."""
        rows = (
            (sample, label, ids.get(label, ""), int(self.cells[i, j]), f"{self.shares[i, j]:.6g}")
            for i, sample in enumerate(self.samples)
            for j, label in enumerate(self.labels)
        )
        return write_rows(path, ".csv", TITLES, rows)
