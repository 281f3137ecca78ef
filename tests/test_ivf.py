"""Search in lists of similar cells, against scikit-learn's brute force."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import scbignn_infer
from scbignn_infer.errors import InputError
from scbignn_infer.label_file import Job
from scbignn_infer.network import exact, ivf, neighbors
from scbignn_infer.network.exact import unit_rows
from scbignn_infer.network.neighbors import build_graph, search_for
from scbignn_infer.network.sessions import Runtime
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from scbignn_infer.network.neighbors import Graph

CPU = Runtime("cpu", 0, 1)
EXAMPLE = Path(scbignn_infer.__file__).parent / "examples" / "pbmc700.h5ad"
N = 4000


def clusters(n: int = N) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 32))
    return (centres[rng.integers(0, 20, n)] + rng.normal(size=(n, 32))).astype(np.float32)


def curved(n: int = N) -> np.ndarray:
    """Points of a bent surface of four dimensions, of which no part is a cluster."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(-1, 1, (n, 4)) @ (2 * rng.normal(size=(4, 32)))
    return np.cos(angles + rng.uniform(0, 6, 32)).astype(np.float32)


def copies(n: int = N) -> np.ndarray:
    """Points of which half are one and the same."""
    z = clusters(n)
    z[::2] = z[0]
    return z


def graph_of(z: np.ndarray, threads: int = 1, name: str = "ivf", seed: int = 0) -> Graph:
    runtime = Runtime("cpu", 0, threads)
    return build_graph(z, 15, runtime=runtime, seed=seed, search=search_for(len(z), name))


def recall(graph: Graph, z: np.ndarray) -> float:
    """Return the share of neighbours that are as near as the farthest of the true ones."""
    k = graph.indices.shape[1]
    near, _ = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(z).kneighbors(z)
    return float(np.mean(1 - graph.similarity <= near[:, -1:] + 1e-5))


@pytest.mark.parametrize("points", [clusters, copies, curved])
@pytest.mark.parametrize("seed", [0, 7])
def test_nearly_all_true_neighbours_are_found(points: Any, seed: int) -> None:
    z = points()
    graph = graph_of(z, seed=seed)
    assert graph.builder == "ivf"
    assert recall(graph, z) > 0.99
    assert graph.indices.dtype == np.int32
    assert not (graph.indices == np.arange(len(z))[:, None]).any()
    assert (np.diff(graph.similarity, axis=1) <= 0).all()
    unit = unit_rows(z)
    cosine = np.einsum("nd,nkd->nk", unit, unit[graph.indices])
    np.testing.assert_allclose(graph.similarity, cosine, atol=1e-5)


@pytest.mark.parametrize("name", ["exact", "ivf"])
@pytest.mark.parametrize("points", [clusters, copies, curved])
def test_the_number_of_threads_changes_no_bit(name: str, points: Any) -> None:
    found = [graph_of(points(), threads, name) for threads in (1, 2, 4)]
    assert len({g.indices.tobytes() + g.similarity.tobytes() for g in found}) == 1


@pytest.mark.parametrize("name", ["exact", "ivf"])
def test_threads_change_no_byte_of_a_table(name: str, tmp_path: Path) -> None:
    """From the file to the labels, with several lists of cells."""
    tables = set()
    for threads in (1, 2, 4):
        settings = Settings(model="human-pbmc", device="cpu", threads=threads, neighbors=name)
        with Job(EXAMPLE, tmp_path / f"{threads}.csv", settings) as job:
            job.run()
        assert job.annotation.provenance.params.graph_builder == name
        tables.add((tmp_path / f"{threads}.csv").read_bytes())
    assert len(tables) == 1


def test_most_pairs_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work grows with n to the power of 1.5 where exact search takes n squared."""
    pairs = 0

    class Counted(exact.ExactSearch):
        def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            nonlocal pairs
            pairs += len(queries) * self.width
            return super().nearest(queries, k)

    monkeypatch.setattr(ivf, "ExactSearch", Counted)
    graph_of(clusters(16_000))
    sample = ivf.SAMPLE * 16_000
    assert pairs - sample < 0.35 * 16_000**2


def lists_of(z: np.ndarray) -> tuple[np.ndarray, ivf.Lists]:
    """Return the votes of cells, and their lists."""
    centres = ivf.find_centres(z, 60, CPU, np.random.default_rng(0))
    votes = ivf.vote(z, exact.ExactSearch(centres, CPU), 8)
    return votes, ivf.Lists.of(z, votes[:, 0], 60)


def test_the_share_of_votes_finds_what_it_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine in ten true neighbours of the sample are in lists that are searched, hardly more."""
    z, sample = curved(), np.arange(0, N, 2)
    votes, lists = lists_of(z)
    list_of, shares = votes[:, 0], lists.shares(votes)
    monkeypatch.setattr(ivf, "RECALL", 0.9)
    near_lists = lists.lists_of_neighbors(unit_rows(z[sample]), sample, 16, CPU)
    np.testing.assert_array_equal(near_lists[0], list_of[sample])
    fair = ivf.fair_share(shares, *near_lists)
    near = NearestNeighbors(n_neighbors=16, metric="cosine").fit(z).kneighbors(z[sample])[1][:, 1:]
    searched = [set(voted[share >= fair]) for voted, share in shares]
    seen = np.mean(
        [
            [list_of[j] in searched[list_of[i]] for j in row]
            for i, row in zip(sample, near, strict=True)
        ]
    )
    assert 0.9 <= seen < 0.93


def test_each_cell_is_in_one_list_with_its_own_values() -> None:
    z = clusters()
    votes, lists = lists_of(z)
    assert sorted(lists.cells) == list(range(N))
    np.testing.assert_array_equal(lists.columns.T, unit_rows(z)[lists.cells])
    for number, (voted, share) in enumerate(lists.shares(votes)):
        assert set(votes[lists.cells[lists.places(number)], 0]) <= {number}
        if len(lists.cells[lists.places(number)]):
            assert share[voted == number] == 1


def test_a_cell_far_from_all_others_finds_as_many() -> None:
    z = clusters(2000)
    z[:3] = 0
    z[[0, 1, 2], [0, 1, 2]] = -100
    graph = graph_of(z)
    assert all(len(set(row)) == 15 for row in graph.indices)
    assert recall(graph, z) > 0.99


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_cells_that_are_all_the_same_are_neighbours(value: float) -> None:
    graph = graph_of(np.full((300, 8), value, np.float32))
    assert not (graph.indices == np.arange(300)[:, None]).any()
    assert all(len(set(row)) == 15 for row in graph.indices)
    np.testing.assert_allclose(graph.similarity, value, atol=1e-6)


@pytest.mark.parametrize("name", sorted(s.NAME for _, s in neighbors.SEARCHES))
@pytest.mark.parametrize("n", [1, 2, 16, 40, 700])
@pytest.mark.filterwarnings("ignore")  # numba and pynndescent warn of their own matters
def test_each_search_does_at_any_size(name: str, n: int) -> None:
    z = clusters(n)
    graph = graph_of(z, name=name)
    assert graph.indices.shape == (n, max(1, min(15, n - 1)))
    assert graph.builder == name
    assert n == 1 or recall(graph, z) > 0.97


def test_memory_is_within_what_the_estimate_says() -> None:
    """The cells once more, the neighbours, and what each cell and each worker take."""
    z = clusters(30_000)
    tracemalloc.start()
    try:
        found = ivf.nearest(z, 16, runtime=CPU, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = z.nbytes + sum(part.nbytes for part in found)
    assert peak < held + ivf.CELL_BYTES * len(z) + ivf.START_BYTES


def test_names_of_searches_are_those_of_the_setting() -> None:
    from typing import get_args

    from scbignn_infer.settings import SearchName

    names = [search.NAME for _, search in neighbors.SEARCHES]
    assert list(get_args(SearchName)) == [neighbors.AUTO, *names]
    assert [search_for(n).NAME for n in (1, 20_000, 20_001, 10**9)] == ["exact"] * 2 + ["ivf"] * 2
    with pytest.raises(InputError, match="neighbors 'faiss'; expected auto or exact or ivf"):
        search_for(10, "faiss")
