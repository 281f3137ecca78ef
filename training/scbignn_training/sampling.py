"""Seeded samples of labelled cells in which small types stay whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, Any]


def place_in_type(codes: Array, order: Array) -> Array:
    """Return the how-manieth of its type each cell is, counted in some order."""
    grouped = order[np.argsort(codes[order], kind="stable")]
    first = np.cumsum(np.bincount(codes)) - np.bincount(codes)
    place = np.empty(len(codes), np.int64)
    place[grouped] = np.arange(len(codes)) - first[codes[grouped]]
    return place


def stratified(codes: Array, size: int, seed: int) -> Array:
    """Choose up to ``size`` cells: small types whole, of the others a like share.

    Parameters
    ----------
    codes
        (n,) label codes.
    size
        The most to choose. A quarter of it is kept for types that a like share would leave with
        few cells.
    seed
        Of the choice.

    Returns
    -------
    ndarray
        Ascending row numbers; all of them if there are no more than ``size``.
    """
    if len(codes) <= size:
        return np.arange(len(codes))
    wanted = quotas(np.bincount(codes), size)
    order = np.random.default_rng(seed).permutation(len(codes))
    return np.flatnonzero(place_in_type(codes, order) < wanted[codes])


def quotas(cells: Array, size: int) -> Array:
    """Return how many of the cells (c,) of each type a sample as in :func:`stratified` takes."""
    if cells.sum() <= size:
        return cells
    least = np.minimum(cells, max(1, size // (4 * int(np.count_nonzero(cells)))))
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        share = (low + high) / 2
        fits = np.maximum(least, (share * cells).astype(np.int64)).sum() <= size
        low, high = (share, high) if fits else (low, share)
    return np.maximum(least, (low * cells).astype(np.int64))


def level(cells: Sequence[int], size: int) -> int:
    """Return the most that each of some parts may have, so that all have ``size`` at most.

    Parts that have fewer leave their room to the others.
    """
    left = size
    for i, n in enumerate(sorted(cells)):
        share = left // (len(cells) - i)
        if n > share:
            return share
        left -= n
    return size


def spread(codes: Array, studies: Array, most: int | Array, seed: int) -> Array:
    """Choose cells of each type (n,), as even over the studies (n,) as they allow.

    Parameters
    ----------
    codes, studies
        Of each cell.
    most
        Of each type, or (c,) of each by its code.
    seed
        Of the choice.

    Returns
    -------
    ndarray
        Ascending row numbers.
    """
    order = np.random.default_rng(seed).permutation(len(codes))
    _, both = np.unique(np.stack([codes, studies]), axis=1, return_inverse=True)
    turn = place_in_type(both.ravel(), order)
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes))
    by_turn = np.lexsort((place, turn))
    limit = most[codes] if isinstance(most, np.ndarray) else most
    return np.flatnonzero(place_in_type(codes, by_turn) < limit)


def even(codes: Array, size: int, seed: int) -> Array:
    """Choose up to ``size`` cells, ascending: all of small types, a like number of large ones."""
    if len(codes) <= size:
        return np.arange(len(codes))
    order = np.random.default_rng(seed).permutation(len(codes))
    return np.sort(np.argsort(place_in_type(codes, order), kind="stable")[:size])


def sample_weights(codes: Array, rows: Array) -> Array:
    """Return what each chosen cell stands for: cells of its type over those chosen; mean 1."""
    chosen = codes[rows]
    share = np.bincount(codes) / np.maximum(np.bincount(chosen, minlength=codes.max() + 1), 1)
    weights: Array = share[chosen] * len(rows) / len(codes)
    return weights
