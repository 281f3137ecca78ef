"""A two-dimensional map of the cells, by UMAP on the graph that labelled them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.errors import MissingExtraError
from scbignn_infer.network.neighbors import build_graph

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.network.sessions import Runtime

N_NEIGHBORS = 15
FEW = 30
"""So few cells are laid out by their first two principal components."""
MANY = 20_000
"""More cells are given fewer rounds."""


def lay_out(embedding: Array, *, runtime: Runtime, seed: int = 0) -> Array:
    """Return a place for each cell.

    Parameters
    ----------
    embedding
        (n, d) cell embedding.
    runtime, seed
        Of the graph, and of UMAP.

    Returns
    -------
    ndarray
        (n, 2), each from 0 to 1.

    Raises
    ------
    MissingExtraError
        umap-learn is not installed.
    """
    centred = embedding - embedding.mean(axis=0)
    _, _, axes = np.linalg.svd(centred[:: max(1, len(centred) // 5000)], full_matrices=False)
    start = centred @ axes[:2].T
    if start.shape[1] < 2:
        start = np.column_stack([start, np.zeros(len(start))])
    place = start if len(embedding) <= FEW else _umap(embedding, start, runtime, seed)
    low, high = np.quantile(place, [0.001, 0.999], axis=0)
    scaled: Array = ((place - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    return scaled


def _umap(embedding: Array, start: Array, runtime: Runtime, seed: int) -> Array:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError:
        raise MissingExtraError("umap", extra="report", purpose="the map of the report") from None
    graph = build_graph(embedding, N_NEIGHBORS, runtime=runtime, seed=seed)
    own, distance = np.arange(len(embedding))[:, None], 1 - graph.similarity
    near = np.column_stack([own, graph.indices]), np.column_stack([0 * distance[:, :1], distance])
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
