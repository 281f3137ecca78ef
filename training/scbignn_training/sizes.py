"""Settings that follow the size of a reference, where it is far from the usual one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from scbignn_training.data import Reference
    from scbignn_training.settings import Settings

LARGE = 100_000
"""Cells of a reference above which graphs to train on are smaller, and twins are shorter."""
LARGE_GRAPH = 6000
SHORT = {
    "max_steps": 1000,
    "covariance_cells": 20_000,
    "logistic_cells": 6000,
    "graph_cells": 4000,
    "folds": 2,
}
"""Bounds of the twins that score studies left out of a large reference."""
FINE_TYPES, FINE_CELLS = 20, 100
"""A reference with so many types, of which most have fewer measured cells than this, is fine."""
FINE_STEPS = 600
"""Steps of a network on all cells of a fine reference, at least: its epochs are short."""


def suited(settings: Settings, reference: Reference) -> Settings:
    """Return the settings that a model of a reference is trained with."""
    if len(reference.codes) > LARGE:
        return _within(settings, {"graph_cells": LARGE_GRAPH})
    if is_fine(reference):
        steps = -(-len(reference.codes) // settings.batch_cells)
        epochs = max(settings.gene_epochs, -(-FINE_STEPS // steps))
        return msgspec.structs.replace(settings, gene_epochs=epochs)
    return settings


def is_fine(reference: Reference) -> bool:
    """Tell whether a reference has many types of few measured cells each."""
    cells = np.bincount(reference.codes[~reference.simulated])
    cells = cells[cells > 0]
    return len(cells) >= FINE_TYPES and bool(np.median(cells) < FINE_CELLS)


def of_twins(settings: Settings, reference: Reference) -> Settings:
    """Return the settings of twins that score studies left out of a reference."""
    return _within(settings, SHORT) if len(reference.codes) > LARGE else settings


def _within(settings: Settings, most: dict[str, int]) -> Settings:
    return msgspec.structs.replace(
        settings, **{name: min(n, getattr(settings, name)) for name, n in most.items()}
    )
