"""The reference bank: distances, their quantiles, and the graph whose neighbours are the bank's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from scbignn_infer.annotator import Annotator
from scbignn_infer.network import bank as bank_module
from scbignn_infer.network.bank import ReferenceBank, novelty_quantile, same_cells
from scbignn_infer.network.sessions import Runtime
from scbignn_infer.query.readers import open_query
from scbignn_infer.settings import Reading

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.model.bundle import ModelBundle

CPU = Runtime("cpu", 0, 2)


@pytest.fixture(scope="module")
def bank(pbmc_bundle: ModelBundle) -> ReferenceBank:
    return ReferenceBank(pbmc_bundle, CPU)


@pytest.fixture(scope="module")
def cells(pbmc_bundle: ModelBundle) -> np.ndarray:
    """Return cells between those of the bank, and one that is the bank's."""
    rows = pbmc_bundle.reference["embedding"].astype(np.float32)
    return np.vstack([rows[:60] + rows[1:61], rows[7:8]])


def test_the_distance_is_that_to_the_nearest_reference_cell(
    bank: ReferenceBank, cells: np.ndarray, pbmc_bundle: ModelBundle
) -> None:
    oracle = NearestNeighbors(n_neighbors=1, metric="cosine")
    expected, _ = oracle.fit(pbmc_bundle.reference["embedding"]).kneighbors(cells)
    distance, known = bank.distance(cells)
    np.testing.assert_allclose(distance, expected[:, 0], atol=1e-5)
    assert known[-1]
    assert not known[:-1].all()
    quantiles = pbmc_bundle.reference["novelty_quantiles"]
    np.testing.assert_allclose(bank.novelty(quantiles), np.linspace(0, 1, len(quantiles)))


def test_neighbours_in_the_bank_keep_the_labels_of_the_bank(
    bank: ReferenceBank, cells: np.ndarray, pbmc_bundle: ModelBundle
) -> None:
    """Whatever the layers say of the query's cells, and whatever stands beside a cell."""
    graph, reference = bank.graph(cells), pbmc_bundle.reference
    n, c, m = len(cells), len(pbmc_bundle.cell_types), len(reference["codes"])
    k = pbmc_bundle.spec.graph.n_neighbors
    assert graph.indices.shape == (n, k)
    state = graph.state(np.full((n, c), 1 / c))
    assert state.shape == (m, c)
    np.testing.assert_array_equal(state.argmax(axis=1), reference["codes"])
    group = np.arange(c) % 2
    labels = graph.codes(np.full(n, 99), group)
    np.testing.assert_array_equal(labels, group[reference["codes"][graph.indices]])
    assert graph.within.shape == (n, 0)
    alone = bank.graph(cells[:1])
    assert not alone.alone
    np.testing.assert_array_equal(alone.indices, graph.indices[:1])
    nearest, _ = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(bank.rows).kneighbors()
    np.testing.assert_allclose(graph.reach, 1 - nearest[:, k - 1], atol=1e-5)


@pytest.mark.parametrize("kind", ["query", "reference"])
def test_a_bank_is_laid_out_once_for_all_batches_and_queries(
    pbmc_bundle: ModelBundle, example: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    made: list[int] = []

    class Counted(bank_module.ExactSearch):
        def __init__(self, bank: np.ndarray, runtime: Runtime) -> None:
            made.append(len(bank))
            super().__init__(bank, runtime)

    monkeypatch.setattr(bank_module, "ExactSearch", Counted)
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1, graph=kind)
    with open_query(example) as query:
        for _ in range(2):
            annotator.annotate_query(query, Reading(batch_key="bulk_labels"))
    assert made == [len(pbmc_bundle.reference["codes"])]


def test_residuals_are_placed_among_those_of_held_out_cells(pbmc_bundle: ModelBundle) -> None:
    quantiles = pbmc_bundle.reference["residual_quantiles"]
    relative, place = ReferenceBank(pbmc_bundle, CPU).place_residual(quantiles)
    np.testing.assert_allclose(place, np.linspace(0, 1, len(quantiles)))
    np.testing.assert_allclose(relative * np.quantile(quantiles, 0.99), quantiles, rtol=1e-3)


def test_novelty_is_the_place_among_held_out_cells() -> None:
    quantiles = np.array([0.0, 0.1, 0.4])
    found = novelty_quantile(np.array([-1, 0.05, 0.1, 0.25, 9]), quantiles)
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.75, 1])


def test_cells_of_the_bank_are_known_again_in_spite_of_its_rounding() -> None:
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((300, 96)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    kept = bank.astype(np.float16).astype(np.float32)
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    near = bank + 0.01 * rng.standard_normal(bank.shape).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    rows = rng.permutation(300)[:90]
    cells = np.concatenate([bank[rows], near[rows]] * 30)
    assert len(cells) > 4096
    assert same_cells(cells, kept, np.tile(rows, 60)).tolist() == ([True] * 90 + [False] * 90) * 30
