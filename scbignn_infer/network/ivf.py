"""Search in lists of cells that lie together, in onnxruntime: most pairs are never looked at.

Spherical k-means makes the lists. Each cell votes for the lists whose centres are nearest to it.
The cells of a list are compared with those of all lists that have a fair share of their votes. How
large a share is fair is found on the cells themselves: it is the largest at which :data:`RECALL`
of the true neighbours of a sample are seen. Where no share is, cells have more votes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.network.exact import ExactSearch, empty_columns, unit_rows
from scbignn_infer.network.parallel import in_order
from scbignn_infer.network.sessions import Runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer._types import Array

    Shares = Sequence[tuple[Array, Array]]

NAME = "ivf"
START_BYTES, CELL_BYTES = 30_000_000, 80
"""Buffers, and for a cell its votes and its place, beside its embedding and neighbours."""
LISTS, LEAST_CELLS = 3.0, 64
"""Lists for each square root of the number of cells, and the fewest cells a list, on average."""
SAMPLE_A_LIST = 20
"""Cells for each list from which the centres are computed."""
ROUNDS = 3
"""Of k-means."""
VOTES = 12
"""Lists that a cell votes for; doubled while they are too few."""
RECALL = 0.996
"""Share of the true neighbours of the sample that lie in lists that are searched."""
SAMPLE = 2000
"""Cells whose true neighbours are found."""
SECONDS_A_PRODUCT = 7e-10
"""Of one thread, for one dimension and the number of cells to the power of 1.5."""
BLOCK = 1 << 14
"""Cells that are laid out, or compared with the sample, at once."""
HELD_VALUES = 1 << 21
"""Similarities that a worker holds at once (8 MiB of float32)."""
ONE_THREAD = Runtime("cpu", 0, 1)
"""Of each list: lists are searched side by side."""


def nearest(embedding: Array, k: int, *, runtime: Runtime, seed: int) -> tuple[Array, Array]:
    """Find nearly all of the ``k`` rows most similar to each row, itself among them."""
    n, rng = len(embedding), np.random.default_rng(seed)
    runtime = Runtime("cpu", 0, runtime.threads)
    count = max(1, min(int(LISTS * n**0.5), n // LEAST_CELLS))
    centres = ExactSearch(find_centres(embedding, count, runtime, rng), runtime)
    votes = vote(embedding, centres, min(VOTES, count))
    lists = Lists.of(embedding, votes[:, 0], count)
    sample = np.sort(rng.choice(n, min(SAMPLE, n), replace=False))
    near = lists.lists_of_neighbors(unit_rows(embedding[sample]), sample, k, runtime)
    shares = lists.shares(votes)
    while not (fair := fair_share(shares, *near)) and votes.shape[1] < count:
        votes = vote(embedding, centres, min(2 * votes.shape[1], count))
        shares = lists.shares(votes)
    del votes

    def search(number: int) -> tuple[Array, Array]:
        voted, share = shares[number]
        return lists.search(number, (voted[share >= fair], voted), k)

    indices, similarity = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    found = in_order(search, range(count), workers=runtime.workers)
    for number, part in enumerate(found):
        cells = lists.cells[lists.places(number)]
        indices[cells], similarity[cells] = part
    return indices, similarity


def prepare(size: int, *, runtime: Runtime) -> None:
    """Do nothing: nothing is compiled."""


def seconds(n_cells: int, size: int) -> float:
    """Return what a thread takes for so many cells of so many dimensions."""
    return SECONDS_A_PRODUCT * float(n_cells**1.5) * size


def find_centres(embedding: Array, count: int, runtime: Runtime, rng: np.random.Generator) -> Array:
    """Return centres (count, d) of length 1, by spherical k-means on some of the cells (n, d)."""
    n = len(embedding)
    taken = np.sort(rng.choice(n, min(n, SAMPLE_A_LIST * count), replace=False))
    unit = unit_rows(embedding[taken])
    centres = unit[rng.choice(len(unit), count, replace=False)]
    for _ in range(ROUNDS):
        own = ExactSearch(centres, runtime).nearest(unit, 1)[0][:, 0]
        order = np.argsort(own, kind="stable")
        used, first = np.unique(own[order], return_index=True)
        centres[used] = unit_rows(np.add.reduceat(unit[order], first, axis=0))
    return centres


def vote(embedding: Array, centres: ExactSearch, votes: int) -> Array:
    """Return the lists (n, votes) whose centres are nearest to each cell (n, d), nearest first."""
    found = np.empty((len(embedding), votes), np.int32)
    for i in range(0, len(embedding), BLOCK):
        rows = slice(i, i + BLOCK)
        found[rows], _ = centres.nearest(unit_rows(embedding[rows]), votes)
    return found


def fair_share(shares: Shares, own: Array, near: Array) -> float:
    """Return the share of votes that lets :data:`RECALL` of a sample's neighbours be found.

    ``own`` (m,) are the lists of the sample's cells, ``near`` (m, k) those of their neighbours. It
    is 0 where too many neighbours are in lists without a vote.
    """
    seen = []
    for number, others in zip(own, near, strict=True):
        voted, share = shares[number]
        at = np.minimum(np.searchsorted(voted, others), len(voted) - 1)
        seen.append(np.where(voted[at] == others, share[at], 0.0))
    return float(np.quantile(seen, 1 - RECALL, method="lower")) if near.size else 1.0


@dataclass(frozen=True)
class Lists:
    """Cells, stored by list.

    Attributes
    ----------
    cells
        (n,) the cell at each place.
    ends
        (lists + 1,) the place where each list begins; the last is n.
    columns
        (d, n) the cells in their places, scaled to length 1.
    """

    cells: Array
    ends: Array
    columns: Array

    @classmethod
    def of(cls, embedding: Array, list_of: Array, count: int) -> Lists:
        """Store the cells of an embedding (n, d) in their lists (n,)."""
        n, size = embedding.shape
        cells = np.argsort(list_of, kind="stable").astype(np.int32)
        columns = np.empty((size, n), np.float32)
        for i in range(0, n, BLOCK):
            columns[:, i : i + BLOCK] = unit_rows(embedding[cells[i : i + BLOCK]]).T
        return cls(cells, np.searchsorted(list_of[cells], np.arange(count + 1)), columns)

    def places(self, number: int) -> slice:
        """Return where the cells of a list are."""
        return slice(int(self.ends[number]), int(self.ends[number + 1]))

    def shares(self, votes: Array) -> Shares:
        """Return the lists that the cells of each list vote for (n, v), and their shares."""
        found = []
        for start, end in pairwise(self.ends):
            voted, times = np.unique(votes[self.cells[start:end]], return_counts=True)
            found.append((voted, times / max(end - start, 1)))
        return found

    def lists_of_neighbors(
        self, unit: Array, sample: Array, k: int, runtime: Runtime
    ) -> tuple[Array, Array]:
        """Return the lists of some cells (m,), and those of their true neighbours (m, k - 1).

        ``unit`` (m, d) are the rows of the cells ``sample`` (m,).
        """
        n = len(self.cells)
        starts = range(0, n, BLOCK)

        def look(start: int) -> tuple[Array, Array]:
            part = slice(start, min(start + BLOCK, n))
            bank = ExactSearch.of_columns(self._bank([part]), ONE_THREAD, HELD_VALUES)
            near, values = bank.nearest(unit, min(k, part.stop - start))
            return near + np.int32(start), values

        found = list(in_order(look, starts, workers=runtime.workers))
        near, values = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
        best = np.argsort(-values, axis=1, kind="stable")[:, 1:k]  # the first is the cell itself
        list_of = np.repeat(np.arange(len(self.ends) - 1), np.diff(self.ends))
        place = np.empty(n, np.int32)
        place[self.cells] = np.arange(n, dtype=np.int32)
        return list_of[place[sample]], list_of[np.take_along_axis(near, best, 1)]

    def search(self, number: int, among: Sequence[Array], k: int) -> tuple[Array, Array]:
        """Return the ``k`` cells most similar to each cell of a list, and their similarities.

        They are looked for in the first of the sets of lists that has as many, or among all cells.
        """
        queries = np.ascontiguousarray(self.columns[:, self.places(number)].T)
        if not len(queries):
            return np.empty((0, k), np.int32), np.empty((0, k), np.float32)
        for lists in among:
            parts = [self.places(i) for i in lists]
            if sum(part.stop - part.start for part in parts) >= k:
                break
        else:
            parts = [slice(0, len(self.cells))]
        bank = ExactSearch.of_columns(self._bank(parts), ONE_THREAD, HELD_VALUES)
        near, values = bank.nearest(queries, k)
        return np.concatenate([self.cells[part] for part in parts])[near], values

    def _bank(self, parts: Sequence[slice]) -> Array:
        """Return the cells at some places as :class:`ExactSearch` has them."""
        m = sum(part.stop - part.start for part in parts)
        bank = empty_columns(m, len(self.columns))
        np.concatenate([self.columns[:, part] for part in parts], axis=1, out=bank[:-1, :m])
        return bank
