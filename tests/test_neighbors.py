"""The kNN graph, against scikit-learn's brute force."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from scbignn_infer.estimate import estimate
from scbignn_infer.network import descent, exact, neighbors
from scbignn_infer.network.neighbors import build_graph, search_for
from scbignn_infer.network.sessions import Runtime

if TYPE_CHECKING:
    from scbignn_infer.estimate import Estimate

CPU = Runtime("cpu", 0, 1)


def points(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, 16))
    return (centres[rng.integers(0, 10, n)] + 0.4 * rng.normal(size=(n, 16))).astype(np.float32)


def oracle(z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distance, index = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(z).kneighbors(z)
    return index[:, 1:], 1 - distance[:, 1:]


@pytest.mark.parametrize("block_values", [1 << 24, 700])
def test_exact_search_finds_the_true_neighbours(
    monkeypatch: pytest.MonkeyPatch, block_values: int
) -> None:
    monkeypatch.setattr(exact, "BLOCK_VALUES", block_values)
    z = points(300)
    graph = build_graph(z, 15, runtime=CPU)
    expected, expected_similarity = oracle(z, 15)
    assert graph.builder == "exact"
    assert graph.indices.dtype == np.int32
    np.testing.assert_array_equal(graph.indices, expected)
    np.testing.assert_allclose(graph.similarity, expected_similarity, atol=1e-5)
    np.testing.assert_array_equal(graph.reach, graph.similarity[:, -1])


def test_a_cell_is_never_its_own_neighbour_even_among_copies() -> None:
    z = np.repeat(points(4), 40, axis=0)
    graph = build_graph(z, 5, runtime=CPU)
    assert not (graph.indices == np.arange(len(z))[:, None]).any()
    np.testing.assert_allclose(graph.similarity, 1, atol=1e-5)


@pytest.mark.parametrize("n", [31, 32, 33, 64, 1000])
@pytest.mark.parametrize("threads", [1, 3])
def test_groups_of_columns_hide_no_neighbour_whatever_the_sign(n: int, threads: int) -> None:
    rng = np.random.default_rng(n)
    unit = exact.unit_rows(rng.normal(size=(n, 3)))
    opposite = exact.unit_rows(-unit[:1] + 0.01 * rng.normal(size=(n, 3)))
    for bank in (unit, opposite):
        search = exact.ExactSearch(bank, Runtime("cpu", 0, threads))
        indices, similarity = search.nearest(unit, 5)
        expected = np.argsort(-(unit @ bank.T), axis=1)[:, :5]
        np.testing.assert_allclose(
            similarity, np.take_along_axis(unit @ bank.T, expected, axis=1), atol=1e-6
        )
        np.testing.assert_allclose(
            np.einsum("nd,nkd->nk", unit, bank[indices]), similarity, atol=1e-6
        )


def test_equal_similarities_come_in_the_order_of_the_bank() -> None:
    bank = np.tile(np.eye(4, dtype=np.float32), (50, 1))
    indices, _ = exact.ExactSearch(bank, CPU).nearest(bank[:4], 40)
    np.testing.assert_array_equal(indices, np.arange(4)[:, None] + 4 * np.arange(40))


@pytest.mark.parametrize("n", [1, 2, 10, 16])
def test_few_cells_cut_the_number_of_neighbours(n: int) -> None:
    graph = build_graph(points(n), 15, runtime=CPU)
    assert graph.indices.shape == graph.similarity.shape == (n, max(1, min(15, n - 1)))
    assert graph.indices.min() >= 0
    assert graph.indices.max() < n
    assert graph.alone == (n == 1)


def test_scale_of_the_embedding_changes_nothing() -> None:
    z = points(100)
    a = build_graph(z, 7, runtime=CPU)
    scale = np.random.default_rng(1).uniform(0.1, 10, (100, 1)).astype(np.float32)
    b = build_graph(z * scale, 7, runtime=CPU)
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_allclose(a.similarity, b.similarity, atol=1e-5)


def test_zero_embedding_makes_a_finite_graph() -> None:
    z = points(20)
    z[3] = 0
    assert np.isfinite(build_graph(z, 5, runtime=CPU).similarity).all()


@pytest.mark.filterwarnings("ignore")  # numba and pynndescent warn of their own matters
def test_pynndescent_above_the_crossover_recalls_and_repeats() -> None:
    z = points(1500)
    graph, again = (build_graph(z, 15, runtime=CPU, seed=3, search=descent) for _ in range(2))
    indices = graph.indices
    expected, _ = oracle(z, 15)
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(indices, expected, strict=True)])
    assert graph.builder == "pynndescent"
    assert recall > 0.95
    assert not (indices == np.arange(len(z))[:, None]).any()
    np.testing.assert_array_equal(indices, again.indices)
    unit = exact.unit_rows(z)
    cosine = np.einsum("nd,nkd->nk", unit, unit[indices])
    np.testing.assert_allclose(graph.similarity, cosine, atol=1e-5)


def test_unfilled_places_are_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfilled:
        def __init__(self, data: np.ndarray, **settings: object) -> None:
            index, _ = oracle(data, 5)
            self.neighbor_graph = np.column_stack([np.arange(len(data)), index]), None
            self.neighbor_graph[0][7, 3:] = -1

    import pynndescent

    monkeypatch.setattr(pynndescent, "NNDescent", Unfilled)
    z = points(200)
    graph = build_graph(z, 5, runtime=CPU, search=descent)
    np.testing.assert_array_equal(graph.indices[7], oracle(z, 5)[0][7])


def test_exact_search_imports_no_numba() -> None:
    code = (
        "import sys, numpy as np\n"
        "from scbignn_infer.network.neighbors import build_graph\n"
        "from scbignn_infer.network.sessions import Runtime\n"
        "build_graph(np.eye(30, dtype='f4'), 5, runtime=Runtime('cpu', 0, 1))\n"
        "assert not {'numba', 'pynndescent', 'sklearn', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_what_needs_pynndescent_compiles_it_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynndescent

    asked: list[tuple[int, ...]] = []

    class Noted:
        neighbor_graph = np.zeros((1, 17), np.int64), None

        def __init__(self, data: np.ndarray, **settings: object) -> None:
            asked.append(data.shape)

    monkeypatch.setattr(pynndescent, "NNDescent", Noted)
    for name in ("exact", "ivf"):
        search_for(10**6, name).prepare(16, runtime=CPU)
    assert not asked
    search_for(10**6, "pynndescent").prepare(16, runtime=CPU)
    for thread in threading.enumerate():
        if thread.name == "scbignn-compile":
            thread.join()
    assert asked == [(descent.COMPILE_BYTES // 64, 16)]


@pytest.mark.filterwarnings("ignore")
def test_numba_has_one_caller_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynndescent

    inside, most = [], []

    class Slow:
        def __init__(self, data: np.ndarray, **settings: object) -> None:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()
            self.neighbor_graph = np.tile(np.arange(17), (len(data), 1)), None

    monkeypatch.setattr(pynndescent, "NNDescent", Slow)
    threads = [
        threading.Thread(target=build_graph, args=(points(50), 15), kwargs=arguments)
        for arguments in [{"runtime": CPU, "search": descent}] * 3
    ]
    for thread in threads:
        thread.start()
    descent.prepare(16, runtime=CPU)
    for thread in [*threads, *(t for t in threading.enumerate() if t.name == "scbignn-compile")]:
        thread.join()
    assert most == [1] * 4


def test_pynndescent_is_asked_for_more_than_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """More neighbours, more candidates and fewer trees than by default, and the user's seed."""
    asked: dict[str, object] = {}

    class Recorded:
        def __init__(self, data: np.ndarray, **settings: object) -> None:
            asked.update(settings, data=data)
            index, _ = oracle(data, int(settings["n_neighbors"]) - 1)
            self.neighbor_graph = np.column_stack([np.arange(len(data)), index]), None

    import pynndescent

    monkeypatch.setattr(pynndescent, "NNDescent", Recorded)
    z = points(200)
    graph = build_graph(z, 5, runtime=Runtime("cpu", 0, 3), seed=11, search=descent)
    assert graph.builder == "pynndescent"
    assert asked.pop("data").dtype == np.float32
    assert asked == {
        "metric": "cosine",
        "n_neighbors": 9,  # 1.5 times 5 and the cell itself
        "n_trees": descent.TREES,
        "max_candidates": descent.CANDIDATES,
        "random_state": 11,
        "n_jobs": 3,
    }
    near, cosine = oracle(z, 5)
    np.testing.assert_array_equal(graph.indices, near)
    np.testing.assert_allclose(graph.similarity, cosine, atol=1e-6)


@pytest.mark.parametrize("values", [1, 100, 1 << 20])
def test_similarity_is_that_of_scipy_in_chunks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    monkeypatch.setattr(descent, "BLOCK_VALUES", values)
    z = points(23)
    z[4] = 0
    indices = np.random.default_rng(0).integers(0, 23, (23, 3))
    found = descent._similarity(z, indices)
    with np.errstate(invalid="ignore"):
        expected = 1 - cdist(z, z, "cosine")
    expected = np.nan_to_num(np.take_along_axis(expected, indices, 1))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_cell_that_is_not_listed_loses_the_farthest() -> None:
    indices = np.array([[0, 1, 2], [2, 0, 1], [0, 1, 3]])
    similarity = np.array([[1.0, 0.9, 0.8], [0.7, 0.6, 1.0], [0.5, 0.4, 0.3]], np.float32)
    kept, values = neighbors._without_self(indices, similarity)
    assert kept.tolist() == [[1, 2], [2, 0], [0, 1]]
    assert (
        values.round(1).tolist()
        == np.float32([[0.9, 0.8], [0.7, 0.6], [0.5, 0.4]]).round(1).tolist()
    )


def test_another_search_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """It builds the graph, is named in it, and weighs in the estimate."""

    class Brute:
        NAME, START_BYTES, CELL_BYTES = "brute", 7_000_000, 11

        def nearest(
            self, embedding: np.ndarray, k: int, *, runtime: Runtime, seed: int
        ) -> tuple[np.ndarray, np.ndarray]:
            index, similarity = oracle(embedding, k - 1)
            own = np.arange(len(embedding))[:, None]
            return np.hstack([own, index]), np.hstack([own * 0 + 1, similarity])

        def prepare(self, size: int, *, runtime: Runtime) -> None:
            raise AssertionError

        def seconds(self, n_cells: int, size: int) -> float:
            return 1000.0

    def expected() -> Estimate:
        return estimate(40, embedding_size=16, n_classes=3, n_neighbors=5, threads=2)

    plain, before = build_graph(points(40), 5, runtime=CPU), expected()
    monkeypatch.setattr(neighbors, "SEARCHES", ((40, Brute()), *neighbors.SEARCHES))
    graph = build_graph(points(40), 5, runtime=CPU)
    assert graph.builder == "brute"
    np.testing.assert_array_equal(graph.indices, plain.indices)
    assert expected().memory == before.memory + 7_000_000 + 11 * 40
    assert expected().seconds == pytest.approx(before.seconds + 500, abs=0.01)
    assert build_graph(points(41), 5, runtime=CPU).builder == "exact"
