"""A two-dimensional map of the cells: one that the file has, or UMAP of the model's embedding."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.errors import InputError, MissingExtraError
from scbignn_infer.network.neighbors import build_graph

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.network.sessions import Runtime
    from scbignn_infer.query.readers import FileQuery

N_NEIGHBORS = 15
FEW = 30
"""So few cells are laid out by their first two principal components."""
MANY = 20_000
"""More cells are given fewer rounds."""
USERS = "X_umap"
"""The map that a file has of its user, by scanpy's name."""
GRID = 24
"""Squares a side, by which the place of a label's name is found."""


@dataclass(frozen=True)
class CellMap:
    """Places (n, 2) of cells, and the name under which they stand, or would stand, in ``obsm``."""

    places: Array
    basis: str
    own: bool = False
    """Whether it was made of the model's embedding."""

    @cached_property
    def scaled(self) -> Array:
        """The same from 0 to 1; a few cells that lie far out are moved to the edge."""
        low, high = np.quantile(self.places, [0.001, 0.999], axis=0)
        aside = 0.1 * (high - low)
        low = np.maximum(low - aside, self.places.min(axis=0))
        high = np.minimum(high + aside, self.places.max(axis=0))
        scaled: Array = ((self.places - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
        return scaled

    def centres(self, labels: Array) -> dict[str, tuple[float, float]]:
        """Return where most cells of each label lie, on the scaled map."""
        return {str(label): _densest(self.scaled[labels == label]) for label in set(labels)}


def own_basis(key: str) -> str:
    """Name the map that is made of the model's embedding."""
    return f"X_{key}_umap"


def map_of(
    cells: FileQuery, key: str, basis: str | None = None, *, kept: bool = False
) -> CellMap | None:
    """Return a map that the file has: the one that is named, its user's, or one that was kept.

    There is none if that of the model's embedding is to be made. One that was ``kept`` beside the
    labels is of their embedding; while cells are labelled, it would be that of earlier labels.
    """
    own = own_basis(key)
    for name in [basis] if basis else [USERS, own]:
        places = cells.obsm(name) if name != own or kept else None
        if places is not None and places.shape[1] >= 2 and np.isfinite(places[:, :2]).all():
            return CellMap(np.asarray(places[:, :2], np.float32), name, own=name == own)
    if basis in (None, own):
        return None
    raise InputError(
        f"{cells.path} has no map of two dimensions in obsm['{basis}']",
        expected=f"two numbers for each cell, or --basis {own} to make a map",
        do=f"choose one of {', '.join(cells.obsm_widths()) or 'none'}, or leave out --basis",
    )


def lay_out(embedding: Array, *, runtime: Runtime, seed: int = 0) -> Array:
    """Return a place (n, 2) float32 for each cell of an embedding (n, d)."""
    centred = embedding - embedding.mean(axis=0)
    _, _, axes = np.linalg.svd(centred[:: max(1, len(centred) // 5000)], full_matrices=False)
    start = centred @ axes[:2].T
    if start.shape[1] < 2:
        start = np.column_stack([start, np.zeros(len(start))])
    place = start if len(embedding) <= FEW else _umap(embedding, start, runtime, seed)
    return np.asarray(place, np.float32)


def _umap(embedding: Array, start: Array, runtime: Runtime, seed: int) -> Array:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError:
        raise MissingExtraError("umap", extra="report", purpose="the map of the report") from None
    graph = build_graph(embedding, N_NEIGHBORS, runtime=runtime, seed=seed)
    cell, distance = np.arange(len(embedding))[:, None], 1 - graph.similarity
    near = np.column_stack([cell, graph.indices]), np.column_stack([0 * distance[:, :1], distance])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it works on one thread, which a seed asks for
        model = UMAP(
            n_neighbors=N_NEIGHBORS + 1,
            metric="cosine",
            init=start / max(float(np.abs(start).max()), 1e-9) * 10,
            n_epochs=100 if len(embedding) > MANY else 250,
            random_state=seed,
            n_jobs=1,
            precomputed_knn=(near[0].astype(np.int32), near[1].astype(np.float32), None),
        )
        place: Array = model.fit_transform(embedding)
    return place


def _densest(places: Array) -> tuple[float, float]:
    """Return the mean of the places (n, 2), from 0 to 1, in and around the fullest square."""
    square = np.minimum((places * GRID).astype(int), GRID - 1)
    n = np.zeros((GRID + 2, GRID + 2), np.int64)
    np.add.at(n, (square[:, 0] + 1, square[:, 1] + 1), 1)
    around = sum(n[i : GRID + i, j : GRID + j] for i in range(3) for j in range(3))
    fullest = np.array(np.unravel_index(int(np.argmax(around)), (GRID, GRID)))
    near = places[(np.abs(square - fullest) <= 1).all(axis=1)]
    x, y = near.mean(axis=0)
    return float(x), float(y)
