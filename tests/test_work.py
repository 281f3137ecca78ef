"""How much is read, run and held: counts that grow when the work does, whatever the machine."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer import nearest_model
from scbignn_infer.annotator import Annotator
from scbignn_infer.network import levels
from scbignn_infer.network.sessions import Session
from scbignn_infer.query import reading
from scbignn_infer.query.matrices import SAMPLE_ROWS
from scbignn_infer.query.readers import MatrixQuery, open_query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scbignn_infer.model.bundle import ModelBundle


@pytest.fixture(scope="module")
def blood(example: Path) -> ad.AnnData:
    """Return the example as counts-like whole numbers."""
    cells = ad.read_h5ad(example)
    cells.X = sp.csr_matrix(np.round(np.expm1(cells.X.toarray())).astype(np.float32))
    del cells.raw
    return cells


def many(blood: ad.AnnData, n: int) -> ad.AnnData:
    rows = np.random.default_rng(0).integers(0, blood.n_obs, n)
    return ad.AnnData(blood.X[rows], var=blood.var[[]])


class Reads:
    """Counts the values that are read from the data sets of a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: dict[str, int] = {}
        read = h5py.Dataset.__getitem__

        def counting(dataset: h5py.Dataset, key: Any, *rest: Any, **named: Any) -> Any:
            found = read(dataset, key, *rest, **named)
            name = str(dataset.name)
            self.values[name] = self.values.get(name, 0) + int(np.size(found))
            return found

        monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_a_matrix_is_read_once_and_its_sample_once_more(
    blood: ad.AnnData,
    pbmc_bundle: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    cells, path = many(blood, 3000), tmp_path / "q.h5ad"
    cells.X = {"csr": cells.X, "csc": cells.X.tocsc(), "dense": cells.X.toarray()}[form]
    cells.layers["other"] = cells.X.copy()
    cells.write_h5ad(path)
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1)
    with open_query(path) as query:
        reads = Reads(monkeypatch)
        annotator.annotate_query(query)
    stored = int(np.prod(cells.shape)) if form == "dense" else cells.X.nnz
    name = "/X" if form == "dense" else "/X/data"
    # Rows of CSC are only found by reading all; it fits, so that the sample is of what was read.
    # Of CSR, what lies between two sampled rows is read with them, if it is little.
    sample = {"csc": 0.0, "csr": 1.0, "dense": 0.05 + SAMPLE_ROWS / 3000}[form]
    most = 1.0 + sample
    assert stored <= reads.values[name] <= most * stored
    other = reads.values[name.replace("/X", "/layers/other")]
    assert other <= (sample or 1.0) * stored


def test_choosing_a_model_judges_the_matrices_once(
    blood: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.h5ad"
    many(blood, 3000).write_h5ad(path)
    with open_query(path) as query:
        reads, judged = Reads(monkeypatch), []
        judge = reading.judge
        monkeypatch.setattr(reading, "judge", lambda rows: judged.append(rows) or judge(rows))
        bundle, choice, *_ = nearest_model.choose_model(query, device="cpu", threads=1)
        annotation = Annotator(bundle, device="cpu", threads=1).annotate_query(query, choice=choice)
    assert bundle.name == "human-pbmc"
    assert len(judged) == 1
    # By the judge, by the candidates and for the labels; what lies between sampled rows is little.
    assert reads.values["/X/data"] <= 3 * 3000 * blood.X.nnz / 700 + 1
    assert len(annotation) == 3000


def test_each_cell_passes_each_graph_once(
    blood: ad.AnnData, pbmc_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []
    run = Session.run

    def counting(session: Session, **arrays: Any) -> Any:
        first = next(n for n in ("counts", "own", "queries") if n in arrays)
        ran.append((first, len(arrays[first])))
        return run(session, **arrays)

    monkeypatch.setattr(Session, "run", counting)
    cells = many(blood, 5000)
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1)
    annotator.annotate_matrix(cells.X, list(cells.var_names))
    layers = len(pbmc_bundle.spec.cell_level.layers)
    cells_of = {name: [n for first, n in ran if first == name] for name in dict(ran)}
    assert sum(cells_of["counts"]) == 5000
    assert len(cells_of["counts"]) == sum(-(-n // 256) for n in [1024] * 4 + [904])
    assert sum(cells_of["own"]) == 5000 * layers
    assert len(cells_of["own"]) == -(-5000 // levels.CELL_CHUNK) * layers
    assert sum(cells_of["queries"]) == 2 * 5000  # among themselves, and in the reference bank


class Streamed(MatrixQuery):
    """Many cells whose rows are made as they are asked for, so that only results are held."""

    def __init__(self, blood: ad.AnnData, n: int) -> None:
        super().__init__(blood.X, list(blood.var_names))
        self.n_cells = n

    def rows(self, matrix: str, indices: Any) -> sp.csr_matrix:
        return self._matrix[np.asarray(indices) % self._matrix.shape[0]]

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        for i in range(0, self.n_cells, size):
            yield self.rows(matrix, np.arange(i, min(i + size, self.n_cells)))


def test_memory_grows_by_what_is_kept_of_a_cell(
    blood: ad.AnnData, pbmc_bundle: ModelBundle
) -> None:
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1)
    annotator.annotate_query(Streamed(blood, 2000))  # load what is loaded once
    peaks = {}
    for n in (4000, 12_000):
        tracemalloc.start()
        annotator.annotate_query(Streamed(blood, n))
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    spec = pbmc_bundle.spec
    embedding, classes = spec.gene_level.embedding_size, len(spec.cell_types)
    bound = 12 * embedding + 24 * classes + 60 * spec.graph.n_neighbors + 128
    assert (peaks[12_000] - peaks[4000]) / 8000 < bound
