"""An annotator inside other tools: shared by threads, pickled, with sessions of the caller's."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import onnxruntime
import pytest
import scipy.sparse as sp

import scbignn_infer
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError, OutputError
from scbignn_infer.explanation import explain_cells
from scbignn_infer.label_file import label_file
from scbignn_infer.network import sessions
from scbignn_infer.query.readers import AnnDataQuery, MatrixQuery
from scbignn_infer.settings import Reading, Settings

if TYPE_CHECKING:
    from scbignn_infer.annotation.annotation import Annotation


@pytest.fixture(scope="module")
def islets() -> ad.AnnData:
    return ad.read_h5ad(Path(__file__).resolve().parent / "data" / "pancreas400.h5ad")


@pytest.fixture(scope="module")
def parts(islets: ad.AnnData) -> list[tuple[sp.csr_matrix, list[str]]]:
    """Return the cells in four samples of different sizes."""
    bounds = [0, 60, 180, 220, islets.n_obs]
    genes = list(islets.var_names)
    return [(islets.X[a:b], genes) for a, b in itertools.pairwise(bounds)]


def annotator(**settings: Any) -> Annotator:
    return Annotator.load("human-pancreas", device="cpu", threads=1, **settings)


@pytest.fixture(scope="module")
def alone(parts: list[tuple[sp.csr_matrix, list[str]]]) -> list[Annotation]:
    return [annotator().annotate_matrix(*part) for part in parts]


def equal(a: Annotation, b: Annotation) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
        for name in ("probabilities", "embedding", "novelty", "residual", "neighbor_agreement")
    )


def test_threads_share_an_annotator(
    parts: list[tuple[sp.csr_matrix, list[str]]],
    alone: list[Annotation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight at once, from the very first call on: each graph is opened once."""
    opened: list[str] = []
    plain = sessions.Session.__init__

    def counted(self: Any, graph: bytes, runtime: Any, name: str = "", make: Any = None) -> None:
        opened.append(name)
        plain(self, graph, runtime, name, make)

    monkeypatch.setattr(sessions.Session, "__init__", counted)
    shared = annotator()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: shared.annotate_matrix(*parts[i % 4]), range(24)))
    assert all(equal(found[i], alone[i % 4]) for i in range(24))
    assert sorted(filter(None, opened)) == ["cell_level.onnx", "gene_level.onnx"]


FIRST_USE = """
import sys, threading
import numpy as np
import scbignn_infer
start = threading.Barrier(6)
done = []
def work(i):
    start.wait()
    a = scbignn_infer.Annotator.load("human-pbmc", device="cpu", threads=2)
    counts = np.random.default_rng(i).poisson(1.0, (40, 400))
    done.append(len(a.annotate_matrix(counts, a.bundle.gene_symbols[:400])))
threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
assert done == [40] * 6, done
"""


@pytest.mark.parametrize("trial", range(3))
def test_the_first_use_may_come_from_many_threads_at_once(trial: int) -> None:
    """Libraries are imported and set up by six threads of a fresh process side by side."""
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()


def label(part: tuple[Annotator, sp.csr_matrix, list[str]]) -> Annotation:
    return part[0].annotate_matrix(*part[1:])


def test_an_annotator_travels_to_other_processes(
    parts: list[tuple[sp.csr_matrix, list[str]]], alone: list[Annotation]
) -> None:
    used = annotator()
    used.annotate_matrix(*parts[0])  # its sessions are open now, and stay here
    again = pickle.loads(pickle.dumps(used))
    assert equal(again.annotate_matrix(*parts[1]), alone[1])
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(label, [(used, *part) for part in parts]))
    assert all(map(equal, found, alone))


def test_sessions_may_come_from_the_caller(
    parts: list[tuple[sp.csr_matrix, list[str]]], alone: list[Annotation]
) -> None:
    asked: list[str] = []
    ready = onnxruntime.InferenceSession(
        annotator().bundle.read("gene_level.onnx"), providers=["CPUExecutionProvider"]
    )

    def make(name: str, graph: bytes) -> Any:
        asked.append(name)
        if name == "gene_level.onnx":
            return ready
        return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    found = annotator(make_session=make).annotate_matrix(*parts[3])
    assert sorted(asked) == ["cell_level.onnx", "gene_level.onnx"]
    np.testing.assert_allclose(found.probabilities, alone[3].probabilities, atol=1e-5)


@pytest.fixture(scope="module")
def whole(islets: ad.AnnData) -> Annotation:
    return annotator(graph="reference").annotate_query(AnnDataQuery(islets))


class TestTheReferenceGraph:
    """Neighbours in the reference bank: no cell's label depends on the cells beside it."""

    def test_cells_are_labelled_alike_in_any_company(
        self, islets: ad.AnnData, whole: Annotation
    ) -> None:
        genes, apart = list(islets.var_names), annotator(graph="reference")
        for rows in (slice(0, 1), slice(37, 300), slice(399, 400)):
            found = apart.annotate_matrix(islets.X[rows], genes)
            assert list(found.labels) == list(whole.labels[rows])
            np.testing.assert_allclose(found.probabilities, whole.probabilities[rows], atol=1e-6)
            np.testing.assert_allclose(found.novelty, whole.novelty[rows], atol=1e-5)

    def test_neighbours_are_those_of_the_bank(self, islets: ad.AnnData, whole: Annotation) -> None:
        reference = annotator().bundle.reference
        bank = reference["embedding"] / np.linalg.norm(
            reference["embedding"], axis=1, keepdims=True
        )
        own = whole.embedding[:50] / np.linalg.norm(whole.embedding[:50], axis=1, keepdims=True)
        nearest = np.argsort(-(own @ bank.T), axis=1, kind="stable")[:, :15]
        weight = np.maximum(np.take_along_axis(own @ bank.T, nearest, 1), 1e-6)
        same = reference["codes"][nearest] == whole.best_codes[:50, None]
        expected = (weight * same).sum(1) / weight.sum(1)
        np.testing.assert_allclose(whole.neighbor_agreement[:50], expected, atol=1e-3)
        assert whole.provenance.params.graph_builder == "reference"

    def test_labels_are_as_good(self, islets: ad.AnnData, whole: Annotation) -> None:
        truth = islets.obs["cell_type"].to_numpy().astype(str)
        known = np.isin(truth, whole.cell_types)
        assert np.mean(whole.best_labels[known] == truth[known]) > 0.95

    def test_batches_mean_nothing(self, islets: ad.AnnData, whole: Annotation) -> None:
        cells = islets.copy()
        cells.obs["sample"] = np.resize(["a", "b"], cells.n_obs)
        reading = Reading(batch_key="sample")
        found = annotator(graph="reference").annotate_query(AnnDataQuery(cells), reading)
        assert equal(found, whole)
        assert found.provenance.params.n_batches == 1

    def test_explanations_name_the_neighbours_in_the_bank(
        self, islets: ad.AnnData, whole: Annotation
    ) -> None:
        cells = [3, 77]
        names = list(islets.obs_names[cells])
        explained = explain_cells(annotator(graph="reference"), AnnDataQuery(islets), names)
        reference = annotator().bundle.reference
        bank, own = reference["embedding"], whole.embedding[cells]
        cosine = own @ bank.T / np.linalg.norm(bank, axis=1)
        for row, found in zip(cosine, explained, strict=True):
            codes = reference["codes"][np.argsort(-row, kind="stable")[:15]]
            expected = Counter(whole.cell_types[c] for c in codes)
            assert found.neighbors == expected

    def test_another_graph_is_refused(self) -> None:
        with pytest.raises(InputError, match="query or reference"):
            annotator(graph="atlas")


class TestTheWrittenGraph:
    """The cell graph as scanpy takes it."""

    def test_it_is_that_of_the_cells(self, islets: ad.AnnData, tmp_path: Path) -> None:
        islets.write_h5ad(tmp_path / "q.h5ad")
        settings = Settings(model="human-pancreas", threads=1, write_graph=True)
        label_file(tmp_path / "q.h5ad", tmp_path / "o.h5ad", settings)
        out = ad.read_h5ad(tmp_path / "o.h5ad")
        record = out.uns["scbignn_neighbors"]
        near, distances = (out.obsp[record[f"{k}_key"]] for k in ("connectivities", "distances"))
        assert (distances.getnnz(axis=1) == record["params"]["n_neighbors"]).all()
        assert abs(near - near.T).max() == 0
        unit = out.obsm["X_scbignn"] / np.linalg.norm(out.obsm["X_scbignn"], axis=1, keepdims=True)
        i, j = distances.nonzero()
        np.testing.assert_allclose(
            np.asarray(distances[i, j]).ravel(), 1 - (unit[i] * unit[j]).sum(1), atol=1e-5
        )
        nearest = np.argsort(-(unit @ unit.T - 2 * np.eye(len(unit))), axis=1)[:, 0]
        assert np.mean(near[np.arange(len(unit)), nearest] > 0) == 1

    def test_batches_make_one_graph_without_edges_between(self, islets: ad.AnnData) -> None:
        cells = islets.copy()
        cells.obs["sample"] = np.resize(["a", "b"], cells.n_obs)
        found = annotator(write_graph=True).annotate_query(
            AnnDataQuery(cells), Reading(batch_key="sample")
        )
        i, j = found.graph.nonzero()
        assert len(i) == 15 * cells.n_obs
        assert (cells.obs["sample"].to_numpy()[i] == cells.obs["sample"].to_numpy()[j]).all()

    def test_tables_and_the_reference_have_none(self, islets: ad.AnnData, tmp_path: Path) -> None:
        islets.write_h5ad(tmp_path / "q.h5ad")
        for target, graph, kind in (
            ("o.csv", "query", OutputError),
            ("o.h5ad", "reference", InputError),
        ):
            settings = Settings(model="human-pancreas", write_graph=True, graph=graph)
            with pytest.raises(kind, match="write-graph"):
                label_file(tmp_path / "q.h5ad", tmp_path / target, settings)
        assert [p.name for p in tmp_path.iterdir()] == ["q.h5ad"]

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_a_new_run_without_it_takes_the_old_one_away(
        self, islets: ad.AnnData, tmp_path: Path, *, in_memory: bool
    ) -> None:
        """It would be the graph of other labels; others' slots stay."""
        cells = islets.copy()
        cells.obsp["distances"] = sp.eye(cells.n_obs, format="csr")
        scbignn_infer.annotate(cells, "human-pancreas", threads=1, write_graph=True)
        assert set(cells.obsp) == {"distances", "scbignn_connectivities", "scbignn_distances"}
        cells.write_h5ad(tmp_path / "q.h5ad")
        settings = Settings(model="human-pancreas", threads=1)
        cells.obs = cells.obs.loc[:, ~cells.obs.columns.str.startswith("scbignn")]
        for name in ("X_scbignn", "scbignn_probabilities"):
            del cells.obsm[name]
        del cells.uns["scbignn"]  # the graph alone is reason enough
        with pytest.raises(OutputError, match="scbignn_connectivities"):
            scbignn_infer.annotate(cells, "human-pancreas", threads=1)
        if in_memory:
            scbignn_infer.annotate(cells, "human-pancreas", threads=1, overwrite=True)
        else:
            label_file(tmp_path / "q.h5ad", tmp_path / "o.h5ad", settings, overwrite=True)
            cells = ad.read_h5ad(tmp_path / "o.h5ad")
        assert set(cells.obsp) == {"distances"}
        assert "scbignn_neighbors" not in cells.uns
        assert "scbignn_cell_type" in cells.obs

    def test_without_being_asked_for_none_is_kept(self, islets: ad.AnnData) -> None:
        found = annotator().annotate_query(MatrixQuery(islets.X, list(islets.var_names)))
        assert found.graph is None
        assert found.pairs() == {}


def test_the_same_input_gives_the_same_bytes(islets: ad.AnnData, tmp_path: Path) -> None:
    islets.write_h5ad(tmp_path / "q.h5ad")
    written = []
    for _ in range(2):
        settings = Settings(model="human-pancreas", threads=1)
        label_file(tmp_path / "q.h5ad", tmp_path / "o.h5ad", settings, overwrite=True)
        written.append((tmp_path / "o.h5ad").read_bytes())
    assert written[0] == written[1]
