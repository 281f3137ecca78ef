"""The kNN graph, against scikit-learn's brute force."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from scbignn_infer.network import neighbors
from scbignn_infer.network.neighbors import build_graph
from scbignn_infer.network.sessions import Runtime

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
    monkeypatch.setattr(neighbors, "BLOCK_VALUES", block_values)
    z = points(300)
    indices, similarity, builder = build_graph(z, 15, runtime=CPU)
    expected, expected_similarity = oracle(z, 15)
    assert builder == "exact"
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(similarity, expected_similarity, atol=1e-5)


def test_a_cell_is_never_its_own_neighbour_even_among_copies() -> None:
    z = np.repeat(points(4), 40, axis=0)
    indices, similarity, _ = build_graph(z, 5, runtime=CPU)
    assert not (indices == np.arange(len(z))[:, None]).any()
    np.testing.assert_allclose(similarity, 1, atol=1e-5)


@pytest.mark.parametrize("n", [31, 32, 33, 64, 1000])
@pytest.mark.parametrize("threads", [1, 3])
def test_groups_of_columns_hide_no_neighbour_whatever_the_sign(n: int, threads: int) -> None:
    rng = np.random.default_rng(n)
    unit = neighbors.unit_rows(rng.normal(size=(n, 3)))
    opposite = neighbors.unit_rows(-unit[:1] + 0.01 * rng.normal(size=(n, 3)))
    search = neighbors.ExactSearch(Runtime("cpu", 0, threads))
    for bank in (unit, opposite):
        indices, similarity = search.search(unit, bank, 5)
        expected = np.argsort(-(unit @ bank.T), axis=1)[:, :5]
        np.testing.assert_allclose(
            similarity, np.take_along_axis(unit @ bank.T, expected, axis=1), atol=1e-6
        )
        np.testing.assert_allclose(
            np.einsum("nd,nkd->nk", unit, bank[indices]), similarity, atol=1e-6
        )


def test_equal_similarities_come_in_the_order_of_the_bank() -> None:
    bank = np.tile(np.eye(4, dtype=np.float32), (50, 1))
    indices, _ = neighbors.ExactSearch(CPU).search(bank[:4], bank, 40)
    np.testing.assert_array_equal(indices, np.arange(4)[:, None] + 4 * np.arange(40))


@pytest.mark.parametrize("n", [1, 2, 10, 16])
def test_few_cells_cut_the_number_of_neighbours(n: int) -> None:
    indices, similarity, _ = build_graph(points(n), 15, runtime=CPU)
    assert indices.shape == similarity.shape == (n, max(1, min(15, n - 1)))
    assert indices.min() >= 0
    assert indices.max() < n


def test_scale_of_the_embedding_changes_nothing() -> None:
    z = points(100)
    a, s, _ = build_graph(z, 7, runtime=CPU)
    scale = np.random.default_rng(1).uniform(0.1, 10, (100, 1)).astype(np.float32)
    b, t, _ = build_graph(z * scale, 7, runtime=CPU)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(s, t, atol=1e-5)


def test_zero_embedding_makes_a_finite_graph() -> None:
    z = points(20)
    z[3] = 0
    _, similarity, _ = build_graph(z, 5, runtime=CPU)
    assert np.isfinite(similarity).all()


@pytest.mark.filterwarnings("ignore")  # numba and pynndescent warn of their own matters
def test_pynndescent_above_the_crossover_recalls_and_repeats() -> None:
    z = points(1500)
    graphs = [build_graph(z, 15, runtime=CPU, seed=3, exact_max_cells=1000) for _ in range(2)]
    (indices, similarity, builder), (again, _, _) = graphs
    expected, _ = oracle(z, 15)
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(indices, expected, strict=True)])
    assert builder == "pynndescent"
    assert recall > 0.95
    assert not (indices == np.arange(len(z))[:, None]).any()
    np.testing.assert_array_equal(indices, again)
    unit = neighbors.unit_rows(z)
    np.testing.assert_allclose(similarity, np.einsum("nd,nkd->nk", unit, unit[indices]), atol=1e-5)


def test_unfilled_places_are_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfilled:
        def __init__(self, data: np.ndarray, **settings: object) -> None:
            index, _ = oracle(data, 5)
            self.neighbor_graph = np.column_stack([np.arange(len(data)), index]), None
            self.neighbor_graph[0][7, 3:] = -1

    import pynndescent

    monkeypatch.setattr(pynndescent, "NNDescent", Unfilled)
    z = points(200)
    indices, _, _ = build_graph(z, 5, runtime=CPU, exact_max_cells=10)
    np.testing.assert_array_equal(indices[7], oracle(z, 5)[0][7])


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
    neighbors.compile_ahead(1000, 16, runtime=CPU, exact_max_cells=1000)
    assert not asked
    neighbors.compile_ahead(1001, 16, runtime=CPU, exact_max_cells=1000)
    for thread in threading.enumerate():
        if thread.name == "scbignn-compile":
            thread.join()
    assert asked == [(neighbors.COMPILE_BYTES // 64, 16)]


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
        for arguments in [{"runtime": CPU, "exact_max_cells": 10}] * 3
    ]
    for thread in threads:
        thread.start()
    neighbors.compile_ahead(50, 16, runtime=CPU, exact_max_cells=10)
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
    indices, similarity, builder = build_graph(
        z, 5, runtime=Runtime("cpu", 0, 3), seed=11, exact_max_cells=199
    )
    assert builder == "pynndescent"
    assert asked.pop("data").dtype == np.float32
    assert asked == {
        "metric": "cosine",
        "n_neighbors": 9,  # 1.5 times 5 and the cell itself
        "n_trees": neighbors.TREES,
        "max_candidates": neighbors.CANDIDATES,
        "random_state": 11,
        "n_jobs": 3,
    }
    near, cosine = oracle(z, 5)
    np.testing.assert_array_equal(indices, near)
    np.testing.assert_allclose(similarity, cosine, atol=1e-6)


@pytest.mark.parametrize("values", [1, 100, 1 << 20])
def test_similarity_is_that_of_scipy_in_chunks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK_VALUES", values)
    z = points(23)
    z[4] = 0
    indices = np.random.default_rng(0).integers(0, 23, (23, 3))
    found = neighbors._similarity(z, indices)
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
