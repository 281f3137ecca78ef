from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import runpy
import signal
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import h5py
import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import uvicorn

from scbignn_infer import Annotator, label_file, service
from scbignn_infer.annotation import annotation
from scbignn_infer.cli.running import ENDING
from scbignn_infer.errors import BundleError
from scbignn_infer.model import registry
from scbignn_infer.service import bodies, server, worker
from scbignn_infer.service.models import Wishes
from scbignn_infer.service.refusals import REFUSALS
from scbignn_infer.settings import Settings

MODEL = "human-pbmc"
HDF5, JSON, CSV = "application/x-hdf5", "application/json", "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
LIMITS = service.Limits(timeout=60.0, queue=16)
serve = runpy.run_path(str(Path(__file__).with_name("serving.py")))["running"]


# --- bodies --------------------------------------------------------------------------------------

ASKED = {"cell_type_set", "mixture", "mixture_score", "embedding"}
"""Lists that only a parameter asks for."""


def as_h5ad(cells):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        cells.write_h5ad(path)
        return path.read_bytes()


def as_dense(cells):
    counts = cells.X.toarray().tolist()
    names = {"genes": list(cells.var_names), "cells": list(cells.obs_names)}
    return json.dumps({**names, "counts": counts}).encode()


def as_sparse(cells, **changes):
    x = cells.X
    parts = {part: getattr(x, part).tolist() for part in ("indptr", "indices", "data")}
    names = {"genes": list(cells.var_names), "cells": list(cells.obs_names)}
    return json.dumps({**names, "counts": {**parts, "shape": x.shape, **changes}}).encode()


def as_arrow(cells):
    table = pa.Table.from_pandas(cells.to_df())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=7)
    return sink.getvalue().to_pybytes()


BODIES = {
    "h5ad": (HDF5, as_h5ad),
    "octets": ("application/octet-stream", as_h5ad),
    "dense": (JSON, as_dense),
    "sparse": ("application/json; charset=utf-8", as_sparse),
    "arrow": (ARROW, as_arrow),
}


# --- servers -------------------------------------------------------------------------------------


def running(child, limits=LIMITS, hosts=()):
    return serve(child, limits, hosts)


@pytest.fixture(scope="module")
def child():
    with service.Worker([MODEL, "human-pancreas"], Settings(threads=2), LIMITS) as child:
        yield child


@pytest.fixture(scope="module")
def client(child):
    with running(child) as client:
        yield client


class Faulty:
    """A child with the fault that a file names, and what it has told."""

    def __init__(self, folder):
        import faults

        self.folder = folder
        self.reset()
        target = functools.partial(faults.serve, folder)
        self.child = service.Worker([MODEL], Settings(threads=1), LIMITS, target=target)

    def reset(self, fault=""):
        for name in ("go", "begun"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "fault").write_text(fault)

    def go(self):
        (self.folder / "go").touch()

    @property
    def begun(self):
        path = self.folder / "begun"
        return list(map(int, path.read_text().split())) if path.exists() else []


@pytest.fixture(scope="module")
def only_faulty(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        found = Faulty(tmp_path_factory.mktemp("faulty"))
        with found.child:
            yield found
            found.go()


@pytest.fixture
def faulty(until, only_faulty):
    """Give a function that sets the fault of the child."""

    def make(fault):
        only_faulty.reset()
        until(lambda: only_faulty.child.state == "ready")
        only_faulty.reset(fault)
        only_faulty.child.restarts = 0
        return only_faulty

    yield make
    only_faulty.go()
    (only_faulty.folder / "fault").write_text("")


@pytest.fixture(autouse=True)
def temporary(until, tmp_path, monkeypatch):
    """Give the folder in which temporary files are made; at the end of a test none is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    until(lambda: not left_in(folder))


@pytest.fixture(scope="module")
def cells(example):
    return ad.read_h5ad(example)[:60].copy()


@pytest.fixture(scope="module")
def annotator():
    return Annotator.load(MODEL, threads=2)


def post(client, body, kind=HDF5, *, model=MODEL, accept="*/*", **query):
    query = {"model": model, **query}
    headers = {"content-type": kind, "accept": accept}
    return client.post("/annotate", content=body, headers=headers, params=query)


def left_in(folder):
    return list(folder.glob("scbignn-*"))


def in_hand(client):
    return client.get("/health").json()["queue_length"]


def raw(client, head, body=b""):
    """Send a request as it is written, and return all of the answer."""
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n" + body)
        connection.settimeout(20)
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode()


def error_of(response):
    """Return the one line of an error."""
    assert response.headers["content-type"] == JSON
    (line,) = response.json().values()
    assert len(line.splitlines()) == 1
    assert "Traceback" not in line
    assert tempfile.gettempdir() not in line
    return line


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", BODIES)
def test_labels_are_those_of_the_api(client, cells, annotator, form):
    kind, write = BODIES[form]
    answer = post(client, write(cells), kind).json()
    expected = annotator.annotate_matrix(cells.X, list(cells.var_names))
    columns = expected.columns("k")
    assert answer["cells"] == list(cells.obs_names)
    for name in annotation.ALWAYS:
        assert answer[name] == columns[f"k_{name}"].tolist(), name
    summary = answer["summary"]
    assert answer["model"] == expected.summary()["model"]
    assert (summary["cells"], summary["labels"]) == (60, expected.counts())
    assert summary["genes"]["n_shared"] == expected.provenance.genes.n_shared
    assert "only 26%" in summary["warnings"][0]


def test_tables_and_files_are_those_of_the_command(client, example, tmp_path):
    for suffix, accept in ((".csv", CSV), (".h5ad", HDF5)):
        target = tmp_path / f"labels{suffix}"
        label_file.label_file(example, target, Settings(model=MODEL, threads=2))
        answer = post(client, example.read_bytes(), accept=accept)
        assert answer.headers["content-type"].startswith(accept)
        if suffix == ".csv":
            assert answer.text == target.read_text()
            continue
        (tmp_path / "answer.h5ad").write_bytes(answer.content)
        mine, theirs = ad.read_h5ad(target), ad.read_h5ad(tmp_path / "answer.h5ad")
        assert mine.obs.equals(theirs.obs)
        np.testing.assert_array_equal(mine.obsm["X_scbignn"], theirs.obsm["X_scbignn"])
        assert theirs.uns["scbignn"]["model"]["name"] == MODEL
        again = post(client, answer.content, accept=HDF5)  # has slots already
        assert again.status_code == 200


def test_arrow_has_the_columns_of_the_table_and_the_embedding(client, cells, annotator):
    table = post(client, as_h5ad(cells), accept=CSV).text.splitlines()
    answer = post(client, as_arrow(cells), ARROW, accept=ARROW, embedding=True)
    assert answer.headers["content-type"] == ARROW
    found = pa.ipc.open_stream(answer.content).read_all()
    assert found.column_names == [*table[0].split(","), "embedding"]
    assert found["cell"].to_pylist() == list(cells.obs_names)
    expected = annotator.annotate_matrix(cells.X, list(cells.var_names))
    for name, values in expected.columns().items():
        assert found[name].to_pylist() == values.tolist(), name
    embedding = np.array(found["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(embedding, expected.embedding, rtol=1e-5, atol=1e-6)
    plain = pa.ipc.open_stream(post(client, as_h5ad(cells), accept=ARROW).content).read_all()
    assert plain.column_names == found.column_names[:-1]


def test_json_has_the_embedding_if_it_is_asked_for(client, cells, annotator):
    answer = post(client, as_sparse(cells), JSON, embedding=True).json()
    expected = annotator.annotate_matrix(cells.X, list(cells.var_names))
    np.testing.assert_allclose(answer["embedding"], expected.embedding, rtol=1e-5, atol=1e-6)
    assert "embedding" not in post(client, as_sparse(cells), JSON).json()
    refused = post(client, as_sparse(cells), JSON, accept=CSV, embedding=True)
    assert refused.status_code == 422
    assert "expected an answer in JSON, Arrow or HDF5" in error_of(refused)


def test_the_summary_has_medians(client, cells, annotator):
    summary = post(client, as_sparse(cells), JSON).json()["summary"]
    expected = annotator.annotate_matrix(cells.X, list(cells.var_names))
    for name in ("confidence", "novelty"):
        median = float(np.median(getattr(expected, name)))
        assert summary[f"median_{name}"] == pytest.approx(median, abs=1e-4)
    assert 0 < summary["median_distance"] <= 1


def test_cells_without_names_are_numbered(client, cells):
    body = json.loads(as_dense(cells[:3]))
    del body["cells"]
    assert post(client, json.dumps(body), JSON).json()["cells"] == ["0", "1", "2"]


def test_each_request_has_its_own_wishes(client, cells):
    body = as_sparse(cells)
    plain = post(client, body, JSON).json()
    strict = post(client, body, JSON, threshold=1).json()
    assert "adapted" not in strict["summary"]
    adapted = post(client, body, JSON, adapt=True).json()["summary"]["adapted"]
    assert adapted["refused"].startswith("the model is sure of ")
    assert set(strict["cell_type"]) == {"unknown"}
    assert strict["best_cell_type"] == plain["best_cell_type"]
    half = sorted(plain["novelty"])[len(plain["novelty"]) // 2]
    novel = post(client, body, JSON, max_novelty=half).json()
    for found, label, novelty in zip(
        novel["cell_type"], plain["cell_type"], plain["novelty"], strict=True
    ):
        assert found == (label if novelty <= half else "unknown")
    assert post(client, body, JSON).json()["cell_type"] == plain["cell_type"]
    named = post(client, body, JSON, no_unknown=True).json()
    assert "unknown" not in named["cell_type"]
    leaves = post(client, body, JSON, no_unknown=True, depth="leaf").json()
    assert leaves["cell_type"] == plain["best_cell_type"]
    coarse = post(client, body, JSON, level=2, no_unknown=True).json()
    expected = Annotator.load(MODEL, threads=2, level=2, unknown=False)
    assert coarse["cell_type"] == list(
        expected.annotate_matrix(cells.X, list(cells.var_names)).labels
    )
    assert post(client, body, JSON).json()["cell_type"] == plain["cell_type"]


def as_mudata(cells):
    """Return a MuData of the cells, and of fewer as another modality with genes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5mu"
        with h5py.File(path, "w") as file:
            file.attrs["encoding-type"] = "MuData"
            for name, part in (("one", cells), ("other", cells[:20])):
                part = ad.AnnData(part.X, obs=part.obs[[]], var=part.var[[]])
                ad.io.write_elem(file.require_group("mod"), name, part)
        return path.read_bytes()


def test_a_request_says_which_matrix_is_read(client, cells):
    cells = ad.AnnData(cells.X, obs=cells.obs[[]], var=cells.var[[]])
    cells.var["symbol"], cells.var_names = cells.var_names, [f"g{i}x" for i in range(765)]
    cells.layers["log"] = cells.X.copy()
    cells.obs["sample"] = ["a", "b"] * 30
    body = as_h5ad(cells)
    wishes = {"matrix": "layers/log", "gene_column": "symbol", "batch_key": "sample"}
    summary = post(client, body, **wishes).json()["summary"]
    assert summary["matrix"]["name"] == "layers/log"
    assert summary["genes"]["column"] == "symbol"
    assert post(client, body, matrix="X").json()["summary"]["matrix"]["name"] == "X"
    answer = post(client, body, accept=HDF5, **wishes)
    with h5py.File(io.BytesIO(answer.content)) as file:
        assert file["uns/scbignn/matrix/name"].asstr()[()] == "layers/log"


def test_a_request_names_columns_of_clusters(client, cells):
    """Each answer says what their clusters are, in its own form."""
    cells = ad.AnnData(cells.X, obs=cells.obs[[]], var=cells.var[[]])
    cells.obs["half"], cells.obs["third"] = ["a", "b"] * 30, [0, 1, 2] * 20
    body, keys = as_h5ad(cells), {"cluster_key": ["half", "third"]}
    answer = post(client, body, **keys).json()
    clusters = answer["summary"]["clusters"]
    assert [c["cluster"] for c in clusters["third"]] == ["0", "1", "2"]
    assert [c["cells"] for c in clusters["half"]] == [30, 30]
    assert "clusters" not in post(client, body).json()["summary"]
    of = {c["cluster"]: c["cell_type"] for c in clusters["half"]}
    table = pd.read_csv(io.StringIO(post(client, body, accept=CSV, **keys).text))
    assert table["scbignn_cell_type_by_half"].tolist() == [of[h] for h in cells.obs["half"]]
    written = post(client, body, accept=HDF5, **keys)
    with h5py.File(io.BytesIO(written.content)) as file:
        assert "scbignn_cell_type_by_third" in file["obs"]
        assert file["uns/scbignn/clusters/half/cells"][:].tolist() == [30, 30]


@pytest.mark.parametrize("accept", [JSON, CSV, HDF5])
def test_a_request_says_which_modality_is_read(client, cells, accept):
    answer = post(client, as_mudata(cells), accept=accept, modality="other")
    assert answer.status_code == 200, answer.text
    if accept == HDF5:
        with h5py.File(io.BytesIO(answer.content)) as file:
            names = file["obs/_index"].asstr()[:].tolist()
    elif accept == CSV:
        names = [line.split(",")[0] for line in answer.text.splitlines()[1:]]
    else:
        names = answer.json()["cells"]
    assert names == list(cells.obs_names[:20])


@pytest.mark.parametrize(
    ("form", "query", "message"),
    [
        ("h5ad", {"matrix": "layers/none"}, "no matrix 'layers/none'"),
        ("h5ad", {"gene_column": "none"}, "no gene column 'none'"),
        ("h5ad", {"batch_key": "none"}, "has no obs['none']"),
        ("h5ad", {"cluster_key": "none"}, "has no obs['none']"),
        ("sparse", {"cluster_key": "none"}, "has no obs['none']"),
        ("sparse", {"batch_key": "none"}, "has no obs['none']"),
        ("h5ad", {"min_gene_coverage": 0.9}, "a coverage of"),
        ("arrow", {"min_gene_coverage": 0.9}, "a coverage of"),
        ("mudata", {"modality": "none"}, "and no 'none'"),
        ("mudata", {}, "MuData with one, other"),
        ("h5ad", {"modality": "rna"}, "is no MuData"),
        ("dense", {"modality": "rna"}, "is no MuData"),
        ("arrow", {"modality": "rna"}, "is no MuData"),
    ],
)
def test_what_a_body_does_not_have_cannot_be_read(client, cells, form, query, message):
    kind, write = {**BODIES, "mudata": (HDF5, as_mudata)}[form]
    for accept in (JSON, HDF5) if kind == HDF5 else (JSON,):
        answer = post(client, write(cells), kind, accept=accept, **query)
        assert answer.status_code == 422, answer.text
        assert message in error_of(answer)


def test_wishes_are_in_the_manual():
    page = (Path(__file__).parents[1] / "docs" / "service.md").read_text()
    assert [name for name in Wishes.model_fields if f"`{name}" not in page] == []


def test_the_only_model_need_not_be_named(cells):
    one = service.Worker([MODEL], Settings(threads=2), LIMITS)
    with one, running(one) as client:
        headers = {"content-type": JSON}
        answer = client.post("/annotate", content=as_sparse(cells), headers=headers)
        assert answer.json()["model"]["name"] == MODEL


def test_health_models_and_description(until, client, pbmc_bundle):
    until(lambda: in_hand(client) == 0)
    health = client.get("/health").json()
    assert (health["ready"], health["worker"], health["restarts"]) == (True, "ready", 0)
    assert health["receiving"] == 0
    assert health["models"] == [MODEL, "human-pancreas"]
    model = client.get("/models").json()["models"][0]
    assert (model["name"], model["species"]) == (MODEL, "human")
    assert [c["label"] for c in model["cell_types"]] == pbmc_bundle.cell_types
    assert model["cell_types"][0]["ontology_id"].startswith("CL:")
    operation = client.get("/openapi.json").json()["paths"]["/annotate"]["post"]
    assert set(operation["requestBody"]["content"]) == set(bodies.OPENERS)
    assert {p["name"] for p in operation["parameters"]} == set(Wishes.model_fields)
    assert set(map(str, REFUSALS)) < set(operation["responses"])
    assert client.get("/docs").status_code == 404


def test_the_description_holds_for_bodies_and_answers(client, cells):
    jsonschema = pytest.importorskip("jsonschema")
    described = client.get("/openapi.json").json()
    operation = described["paths"]["/annotate"]["post"]

    def check(value, content):
        jsonschema.validate(value, {**content[JSON]["schema"], "components": components})

    components = described["components"]
    body = operation["requestBody"]["content"]
    for write in (as_dense, as_sparse):
        check(json.loads(write(cells)), body)
    for change in ({"more": 1}, {"genes": [1]}, {"counts": [["1"]]}, {"counts": {"shape": [1]}}):
        with pytest.raises(jsonschema.ValidationError):
            check({**json.loads(as_dense(cells[:2])), **change}, body)
    answer = post(client, as_sparse(cells), JSON)
    check(answer.json(), operation["responses"]["200"]["content"])
    labels = components["schemas"]["Labels"]
    assert set(answer.json()) == set(labels["required"])
    assert set(labels["properties"]) - set(labels["required"]) == ASKED
    wished = post(client, as_sparse(cells), JSON, sets=0.9, mixtures=True, embedding=True)
    check(wished.json(), operation["responses"]["200"]["content"])
    assert set(wished.json()) == set(labels["properties"])
    answer = post(client, as_sparse(cells), JSON, matrix="none")
    check(answer.json(), operation["responses"]["422"]["content"])


# --- what is refused -----------------------------------------------------------------------------


def test_mixtures_and_left_out_barcodes_are_answered(client, cells):
    counts = cells.copy()
    counts.X.data = np.rint(np.expm1(counts.X.data))  # the example has logarithms alone
    body, least = as_sparse(counts), int(np.median(np.asarray(counts.X.sum(axis=1))))
    answer = post(client, body, JSON, min_counts=least, mixtures=True).json()
    few = np.asarray(counts.X.sum(axis=1)).ravel() < least
    assert 0 < few.sum() < len(cells)
    assert [r == "too few counts" for r in answer["unknown_reason"]] == few.tolist()
    assert [s is None for s in answer["mixture_score"]] == few.tolist()
    assert len(answer["cells"]) == len(answer["mixture"]) == len(cells)
    summary = answer["summary"]
    assert summary["left_out"] == {"cells": few.sum(), "min_counts": least, "matrix": "X"}
    assert summary["cells"] == len(cells) - few.sum()
    assert sum(summary["mixtures"].values()) == sum(map(bool, answer["mixture"]))
    table = post(client, body, JSON, accept=CSV, min_counts=least).text
    assert table.count("too few counts") == few.sum()


def test_models_that_are_not_served_are_refused(client, cells, pbmc_bundle, tmp_path):
    body = as_sparse(cells)
    for name in ("mouse-pancreas", str(pbmc_bundle.path), "../human-pbmc", ""):
        answer = post(client, body, JSON, model=name)
        assert answer.status_code == 404
        assert "expected one of human-pbmc, human-pancreas" in error_of(answer)
    answer = client.post("/annotate", content=body, headers={"content-type": JSON})
    assert answer.status_code == 422
    assert "no model is named" in error_of(answer)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"threshold": 2}, "'threshold': Input should be less"),
        ({"level": -1}, "'level': Input should be greater"),
        (
            {"tissue": ["lung", "skin"]},
            "the tissue 'lung' is chosen, and human-pbmc has no tissues",
        ),
        ({"treshold": 0.5}, "'treshold': Extra inputs"),
        ({"no_unknown": True, "threshold": 0.9}, "where no cell is to be unknown"),
        ({"batch_key": "\0"}, "batch_key holds a zero byte"),
        ({"orientation": "cells-by-genes"}, "'orientation': Extra inputs"),
        ({"table": "cells"}, "'table': Extra inputs"),
        ({"min_gene_coverage": 2}, "'min_gene_coverage': Input should be less"),
        ({"allow_species_mismatch": "perhaps"}, "'allow_species_mismatch': Input should be"),
    ],
)
def test_wrong_parameters_are_refused(client, cells, query, message):
    answer = post(client, as_sparse(cells), JSON, **query)
    assert answer.status_code == 422
    assert message in error_of(answer)


def test_a_format_without_weight_is_not_accepted(client, cells):
    answer = post(client, as_sparse(cells), JSON, accept="text/csv;q=0, application/json;q=0.5")
    assert answer.headers["content-type"].startswith(JSON)
    assert post(client, as_sparse(cells), JSON, accept="text/csv; q=0.0").status_code == 406


def test_a_parameter_of_one_value_is_given_once(client, cells):
    answer = post(client, as_sparse(cells), JSON, threshold=[0.1, 0.9])
    assert answer.status_code == 422
    assert "the parameter 'threshold' is there 2 times" in error_of(answer)
    answer = post(client, as_sparse(cells), JSON, cluster_key=["a", "b"])
    assert "no obs['a']" in error_of(answer)  # which may be given again


@pytest.mark.parametrize(
    ("kind", "accept", "status"),
    [
        ("text/plain", "*/*", 415),
        ("", "*/*", 415),
        ("application/x-www-form-urlencoded", "*/*", 415),
        (JSON, "text/html", 406),
        (JSON, HDF5, 406),
        (JSON, "image/png, text/csv;q=0.5", 200),
    ],
)
def test_formats_that_there_are_not_are_refused(client, cells, kind, accept, status):
    answer = post(client, as_sparse(cells[:5]), kind, accept=accept)
    assert answer.status_code == status
    if status != 200:
        assert "expected one of application/" in error_of(answer)


def bad_json(cells):
    """Yield bodies of JSON that are none, or whose parts do not fit each other."""
    good = json.loads(as_dense(cells[:5]))
    yield b"[" * 100_000
    yield as_dense(cells)[:-100]
    yield json.dumps({"genes": good["genes"]})
    yield json.dumps({**good, "more": 1})
    yield json.dumps({**good, "genes": good["genes"][1:]})
    yield json.dumps({**good, "cells": ["one"]})
    yield json.dumps({**good, "counts": []})
    yield json.dumps({**good, "counts": [good["counts"][0], [1]]})
    yield json.dumps({**good, "counts": [[None] * 765]})
    yield json.dumps({**good, "counts": [[1e300] * 765]})
    yield json.dumps({**good, "counts": [[-1] * 765] * 5})
    yield as_sparse(cells, shape=[10**15, 765])
    yield as_sparse(cells, shape=[60, 764])
    yield as_sparse(cells, shape=[60, -765])
    yield as_sparse(cells, indices=[10**9] * cells.X.nnz)
    yield as_sparse(cells, indices=[-1] * cells.X.nnz)
    yield as_sparse(cells, indices=[10**30] * cells.X.nnz)
    yield as_sparse(cells, indptr=[0, *[cells.X.nnz] * 58, 5, cells.X.nnz])
    yield as_sparse(cells, data=["1"] * cells.X.nnz)


def bad_arrow(cells):
    yield as_arrow(cells)[:3000]
    yield as_arrow(cells)[:-3000]
    yield b"no stream"
    for columns in (
        {"a": [[1]]},
        {"cell": ["a", "b"]},
        {"CD3D": [1, None]},
        {"a": ["x"], "b": "x"},
    ):
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        yield sink.getvalue().to_pybytes()


def bad_hdf5(cells):
    body = as_h5ad(cells)
    yield body[: len(body) // 2]
    yield body[8:]
    yield b"\x89HDF\r\n\x1a\n" + bytes(1000)
    yield b"a,b\n1,2\n"
    for seed in range(5):
        damaged = bytearray(body)
        for position in np.random.default_rng(seed).integers(0, len(body), 2000):
            damaged[position] ^= 0xFF
        yield bytes(damaged)


@pytest.mark.parametrize(("kind", "bad"), [(JSON, bad_json), (ARROW, bad_arrow), (HDF5, bad_hdf5)])
def test_bodies_that_cannot_be_used_are_refused(until, client, cells, kind, bad):
    for body in (b"", *bad(cells)):
        answer = post(client, body, kind)
        assert answer.status_code == 422, body[:100]
        assert error_of(answer)
    until(lambda: in_hand(client) == 0)  # a place is free a moment after its answer


def test_other_genes_are_refused(client, cells):
    other = cells.copy()
    other.var_names = [f"other{chr(97 + i % 26)}{i}x" for i in range(765)]
    for kind, write in BODIES.values():
        answer = post(client, write(other), kind)
        assert answer.status_code == 422
        assert "share 0 of the" in error_of(answer)


@pytest.mark.parametrize("how", ["link", "storage", "virtual"])
@pytest.mark.parametrize("accept", [JSON, HDF5])
def test_hdf5_takes_in_no_other_file(client, cells, tmp_path, how, accept):
    secret, path = tmp_path / "secret", tmp_path / "cells.h5ad"
    with h5py.File(secret, "w") as file:
        file["names"] = [b"hidden"] * 60
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["obs/_index"]
        if how == "link":
            file["obs/_index"] = h5py.ExternalLink(str(secret), "/names")
        elif how == "storage":
            external = [(str(secret), 0, 360)]
            file.create_dataset("obs/_index", (60,), "S6", external=external)
        else:
            layout = h5py.VirtualLayout((60,), "S6")
            layout[:] = h5py.VirtualSource(str(secret), "names", (60,))
            file.create_virtual_dataset("obs/_index", layout)
    answer = post(client, path.read_bytes(), accept=accept)
    assert answer.status_code == 422
    assert "'obs/_index' lies in another file" in error_of(answer)


def test_a_missing_package_is_named(cells, faulty):
    with running(faulty("package").child) as client:
        answer = post(client, b"x", ARROW)
    assert answer.status_code == 501
    assert "pip install 'pyarrow>=" in error_of(answer)


def test_a_memory_limit_is_kept(cells):
    limit = Annotator.load(MODEL, threads=1).estimate(300).memory
    limited = service.Worker([MODEL], Settings(threads=1, memory_limit=limit), LIMITS)
    with limited, running(limited) as client:
        answer = post(client, as_sparse(ad.concat([cells] * 6, index_unique="-")), JSON)
        assert answer.status_code == 422
        assert "memory limit" in error_of(answer)
        assert post(client, as_sparse(cells), JSON).status_code == 200


@pytest.mark.parametrize(("fault", "kind"), [("key", "KeyError"), ("bundle", "BundleError")])
def test_an_error_of_its_own_is_logged_and_the_service_goes_on(
    until, cells, faulty, caplog, fault, kind, temporary
):
    broken = faulty(fault)
    with running(broken.child) as client:
        answer = post(client, as_sparse(cells), JSON)
        assert answer.status_code == 500
        assert f"({kind}); it has been logged" in error_of(answer)
        until(lambda: "no such thing" in caplog.text)
        broken.reset()
        assert post(client, as_sparse(cells), JSON).status_code == 200
        assert client.get("/health").json()["restarts"] == 0


def test_want_of_memory_is_one_line(cells, faulty):
    with running(faulty("memory").child) as client:
        answer = post(client, as_sparse(cells), JSON)
    assert answer.status_code == 422
    assert "needs more memory than there is" in error_of(answer)


def test_a_full_disk_is_one_line(cells, faulty):
    with running(faulty("full").child) as client:
        answer = post(client, as_h5ad(cells), accept=HDF5)
    assert answer.status_code == 507
    assert error_of(answer).startswith("cannot write cells.scbignn.h5ad (no space)")


def test_what_is_no_route_is_one_line(client):
    assert "Not Found" in error_of(client.get("/nothing"))
    answer = client.get("/annotate")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert error_of(answer)


# --- limits --------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_before_and_while_it_comes(
    until, child, cells, temporary
):
    most = 200_000
    with running(child, service.Limits(max_size=most)) as client:
        head = f"POST /annotate?model={MODEL} HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n"
        answer = raw(client, f"{head}Content-Type: {HDF5}\nContent-Length: {10**12}\n", b"few")
        assert answer.startswith("HTTP/1.1 413")
        assert "a body of more than 0.2 MB" in answer
        assert post(client, bytes(most + 1)).status_code == 413
        sent = []

        def body():
            for _ in range(100):
                sent.append(most // 4)
                yield bytes(most // 4)

        answer = post(client, body())  # in chunks, without a length
        assert answer.status_code == 413
        assert "0.2 MB" in error_of(answer)
        assert post(client, bytes(most)).status_code == 422
        assert post(client, as_sparse(cells[:5]), JSON).status_code == 200
        until(lambda: not left_in(temporary))


def test_json_has_a_limit_of_its_own(client, cells, monkeypatch):
    monkeypatch.setattr(bodies, "JSON_BYTES", 1000)
    assert post(client, as_sparse(cells), JSON).status_code == 413
    assert post(client, as_h5ad(cells)).status_code == 200


def test_one_works_few_wait_and_the_rest_are_told_to_come_again(until, cells, faulty):
    held = faulty("held")
    bodies = [as_sparse(cells[: 10 + i]) for i in range(3)]
    with running(held.child, service.Limits(queue=2)) as client, ThreadPoolExecutor(3) as pool:
        waiting = []
        for i, body in enumerate(bodies):
            waiting.append(pool.submit(post, client, body, JSON))
            until(lambda n=i: in_hand(client) == n + 1)
        full = post(client, bodies[0], JSON)
        assert full.status_code == 503
        assert int(full.headers["retry-after"]) > 0
        assert "2 requests wait already" in error_of(full)
        assert client.get("/health").json()["queue_length"] == 3  # while the first is held
        until(lambda: held.begun == [10])
        held.go()
        assert [len(w.result().json()["cells"]) for w in waiting] == [10, 11, 12]
        until(lambda: in_hand(client) == 0)
        assert post(client, bodies[0], JSON).status_code == 200


def test_work_that_takes_too_long_is_given_up(until, cells, faulty, temporary):
    held = faulty("held")
    with running(held.child, service.Limits(timeout=1)) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, client, as_sparse(cells[:10]), JSON)
        until(lambda: held.begun == [10])
        second = pool.submit(post, client, as_h5ad(cells[:11]), accept=HDF5)
        for answer in (first.result(), second.result()):
            assert answer.status_code == 504
            assert "no answer within 1 seconds" in error_of(answer)
        until(lambda: in_hand(client) == 0)
        assert held.begun in ([10], [10, 11])  # the second began if the first made room in time
        until(lambda: not left_in(temporary))
        assert held.child.restarts == 0  # it has ended at its next step


def test_what_timed_out_in_the_queue_is_never_begun(until, cells, faulty, monkeypatch, temporary):
    monkeypatch.setattr(worker, "GRACE_SECONDS", 0.5)
    stuck = faulty("hang")
    with running(stuck.child, service.Limits(timeout=0.5)) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, client, as_sparse(cells[:n]), JSON) for n in (10, 10)]
        assert [w.result().status_code for w in waiting] == [504, 504]
        until(lambda: in_hand(client) == 0)
        assert stuck.begun == [10]


def test_work_that_does_not_stop_is_ended_and_the_service_goes_on(
    until, cells, faulty, monkeypatch, temporary
):
    """As where HDF5 loops for ever and holds the interpreter's lock."""
    monkeypatch.setattr(worker, "GRACE_SECONDS", 0.3)
    stuck = faulty("hang")
    before = stuck.child._child.pid
    with running(stuck.child, service.Limits(timeout=1)) as client:
        assert post(client, as_sparse(cells[:10]), JSON).status_code == 504
        until(lambda: client.get("/health").json()["restarts"] == 1)
        until(lambda: in_hand(client) == 0)
        assert not left_in(temporary)
        health = client.get("/health").json()
        assert health["worker"] in ("restarting", "ready")
        assert health["ready"] == (health["worker"] == "ready")
    with running(stuck.child) as client:  # which has time to wait for the new one
        stuck.reset()
        assert post(client, as_sparse(cells[:10]), JSON).status_code == 200
        assert client.get("/health").json()["worker"] == "ready"
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


@pytest.mark.parametrize(("fault", "said"), [("die", "SIGKILL: it was"), ("crash", "a library cr")])
def test_a_child_that_dies_is_said_and_replaced(
    until, cells, faulty, fault, said, temporary, caplog
):
    dying = faulty(fault)
    bodies = [as_sparse(cells[:n]) for n in (10, 11)]
    with running(dying.child) as client, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda body: post(client, body, JSON), bodies))
        for answer in answers:  # the second has waited for another child
            assert answer.status_code == 500
            assert said in error_of(answer)
        until(lambda: in_hand(client) == 0)
        assert not left_in(temporary)
        assert sorted(dying.begun) == [10, 11]
        dying.reset()
        assert post(client, as_sparse(cells[:12]), JSON).status_code == 200
        assert client.get("/health").json()["restarts"] == 2
    assert "is started again" in caplog.text


def test_a_child_that_dies_while_nobody_asks_is_replaced_before_the_next_request(
    until, cells, faulty, caplog
):
    idle = faulty("")
    with running(idle.child) as client:
        os.kill(idle.child._child.pid, signal.SIGKILL)
        until(lambda: not idle.child._child.alive)
        assert post(client, as_sparse(cells[:10]), JSON).status_code == 200
        assert client.get("/health").json()["restarts"] == 1
    assert "was lost between requests" in caplog.text


def test_a_child_that_does_not_start_again_is_said(until, cells, faulty):
    broken = faulty("start")
    with running(broken.child) as client:
        os.kill(broken.child._child.pid, signal.SIGKILL)
        until(lambda: not broken.child._child.alive)
        answer = post(client, as_sparse(cells[:10]), JSON)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "does not start" in error_of(answer)
        assert client.get("/health").json()["ready"] is False
        broken.reset()
        assert post(client, as_sparse(cells[:10]), JSON).status_code == 200


def test_the_parent_reads_no_body(client, cells, monkeypatch):
    def refuse(path):
        raise AssertionError

    for kind in bodies.OPENERS:
        monkeypatch.setitem(bodies.OPENERS, kind, refuse)
    monkeypatch.setattr(h5py, "File", refuse)
    for form in ("sparse", "arrow"):
        kind, write = BODIES[form]
        assert post(client, write(cells), kind).status_code == 200


def test_a_client_that_goes_away_is_not_worked_for(until, cells, faulty):
    held = faulty("held")
    with running(held.child) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client, as_sparse(cells[:10]), JSON)
        until(lambda: held.begun == [10])
        hasty = httpx.Client(base_url=client.base_url, timeout=0.3)
        with hasty, pytest.raises(httpx.ReadTimeout):
            post(hasty, as_sparse(cells[:11]), JSON)
        until(lambda: in_hand(client) == 1)
        held.go()
        assert first.result().status_code == 200
        assert held.begun == [10]


def test_a_client_that_goes_away_ends_its_work(until, cells, faulty):
    held = faulty("held")
    with running(held.child) as client:
        hasty = httpx.Client(base_url=client.base_url, timeout=0.3)
        with hasty, pytest.raises(httpx.ReadTimeout):
            post(hasty, as_sparse(cells[:10]), JSON)
        until(lambda: in_hand(client) == 0)
        assert held.begun == [10]
        assert held.child.restarts == 0


def test_a_body_that_does_not_come_is_given_up(child):
    with running(child, service.Limits(timeout=0.5)) as client:
        head = f"POST /annotate?model={MODEL} HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n"
        answer = raw(client, f"{head}Content-Type: {HDF5}\nContent-Length: 100\n", b"slow")
        assert answer.startswith("HTTP/1.1 408")
        assert in_hand(client) == 0


def test_bodies_that_trickle_hold_no_place_in_the_queue(until, child, cells, monkeypatch):
    monkeypatch.setattr(bodies, "SLOW_SECONDS", 1.0)
    head = f"POST /annotate?model={MODEL} HTTP/1.1\nHost: localhost\nContent-Type: {HDF5}\n"
    head += "Connection: close\n"
    limits = service.Limits(queue=0, uploads=3)
    with running(child, limits) as client, contextlib.ExitStack() as stack:
        slow = []
        for _ in range(2):
            address = client.base_url.host, client.base_url.port
            slow.append(stack.enter_context(socket.create_connection(address)))
            slow[-1].sendall(f"{head}Content-Length: 1000\n\n".replace("\n", "\r\n").encode())
            slow[-1].sendall(b"few")
        until(lambda: client.get("/health").json()["receiving"] == 2)
        assert in_hand(client) == 0
        assert post(client, as_sparse(cells[:5]), JSON).status_code == 200
        for connection in slow:
            connection.settimeout(20)
            answer = b"".join(iter(lambda c=connection: c.recv(4096), b"")).decode()
            assert answer.startswith("HTTP/1.1 408")
            assert "3 bytes of the body arrived within 1 seconds" in answer
        until(lambda: client.get("/health").json()["receiving"] == 0)


def test_few_bodies_come_at_once_and_not_too_much_of_them(until, child, cells, temporary):
    head = f"POST /annotate?model={MODEL} HTTP/1.1\nHost: localhost\nContent-Type: {HDF5}\n"
    most, length = 100_000, 99_999
    with running(child, service.Limits(uploads=5, max_size=most)) as client:
        with contextlib.ExitStack() as stack:

            def begin(size):
                address = client.base_url.host, client.base_url.port
                found = stack.enter_context(socket.create_connection(address))
                text = f"{head}Content-Length: {length}\n\n".replace("\n", "\r\n").encode()
                found.sendall(text + bytes(size))
                return found

            for _ in range(4):
                begin(length - 1)
            until(lambda: client.get("/health").json()["receiving"] == 4)
            too_much = post(client, bytes(50_000))
            assert too_much.status_code == 503
            assert "the bodies that come have 0.4 MB together" in error_of(too_much)
            begin(1)
            until(lambda: client.get("/health").json()["receiving"] == 5)
            too_many = post(client, as_sparse(cells[:5]), JSON)
            assert too_many.status_code == 503
            assert int(too_many.headers["retry-after"]) > 0
            assert "5 bodies are coming already" in error_of(too_many)
        until(lambda: client.get("/health").json()["receiving"] == 0)
        assert post(client, as_sparse(cells[:5]), JSON).status_code == 200


def test_a_request_whose_head_does_not_end_is_given_up(child, cells, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with running(child) as client:
        address = client.base_url.host, client.base_url.port
        for sent in (b"", b"POST /annotate HTTP/1.1\r\nX: ", b"GET /health HTTP/1.0\r\n\r\n"):
            with socket.create_connection(address) as connection:
                connection.settimeout(20)
                connection.sendall(sent)
                answer = b"".join(iter(lambda c=connection: c.recv(4096), b""))
                assert answer.startswith(b"HTTP/1.1 200") == sent.startswith(b"GET")
        with socket.create_connection(address) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000)
            assert b" 400 " in connection.recv(4096).split(b"\r\n")[0]
        answer = post(client, as_sparse(cells), JSON)  # which takes longer than a look
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:80", 200),
        ("LOCALHOST.", 200),
        ("[::1]:8000", 200),
        ("192.0.2.7", 200),  # no name that a page could rebind
        ("lab.example.org:443", 200),
        ("evil.example.org", 421),
        ("localhost.evil.example.org", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("lab.example.org@evil.example.org", 421),
        ("", 421),
    ],
)
def test_the_host_is_one_that_is_known(child, host, status):
    with running(child, hosts=["Lab.example.org"]) as client:
        for path in ("/health", "/models", "/nothing"):
            answer = client.get(path, headers={"host": host})
            expected = 404 if status == 200 and path == "/nothing" else status
            assert answer.status_code == expected
            if status == 421:
                assert "--allow-host" in error_of(answer)


def test_a_client_without_a_host_is_no_browser(client):
    assert raw(client, "GET /health HTTP/1.0\n").startswith("HTTP/1.1 200")


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def serving(start, temporary):
    """Return a function that runs the command, and gives its process and a client."""

    @contextlib.contextmanager
    def serving(*options):
        process = start("serve", "--port", "0", *options, env=os.environ | {"TMPDIR": temporary})
        line = process.stderr.readline()
        assert line.startswith("serving "), line + process.stderr.read()
        with httpx.Client(base_url=line.split(" at ")[1].strip(), timeout=60) as client:
            yield process, client
        process.kill()
        process.communicate()

    return serving


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_it_well_after_the_request_in_hand(until, serving, example, temporary, name):
    many = ad.concat([ad.read_h5ad(example)] * 4, index_unique="-")
    with serving("-m", MODEL) as (process, client), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, client, as_sparse(many), JSON)
        with httpx.Client(base_url=client.base_url) as other:
            until(lambda: in_hand(other) == 1)
        process.send_signal(getattr(signal, name))
        assert len(answer.result().json()["cells"]) == 2800
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""
        until(lambda: not left_in(temporary))


def test_the_command_says_what_is_wrong_in_one_line(run, monkeypatch):
    def serve(*options):
        return run("serve", *options, code=1).stderr

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "choose others with --host" in serve("--port", str(taken.getsockname()[1]))
    assert "cannot listen at 192.0.2.1" in serve("--host", "192.0.2.1")
    assert "no model named 'absent'" in serve("--port", "0", "-m", "absent")
    assert "each with a name of its own" in serve("--port", "0", "-m", MODEL, "-m", MODEL)
    monkeypatch.setattr(registry, "list_models", dict)
    assert "0 models" in serve("--port", "0")
    for module in ("fastapi", "uvicorn"):
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, m=module: None if name == m else True
        )
        assert f"'{module}'" in serve()
        assert "pip install 'fastapi>=" in serve()


def test_a_broken_model_is_named_and_the_others_are_served(run, toy, monkeypatch):
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    monkeypatch.setenv(registry.MODEL_PATH_VARIABLE, str(toy.parent))
    (toy / "bundle.json").write_text("{}")
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    done = run("serve", "--port", "0", "--threads", "1")
    for number, handler in handlers.items():
        signal.signal(number, handler)
    warning, serving = done.stderr.splitlines()
    assert warning.startswith(f"warning: the model toy is passed over: {toy}: bundle.json")
    assert "human-pbmc" in serving
    assert "toy" not in serving


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)]
)
def test_another_address_than_the_loopback_is_warned_of(run, monkeypatch, host, warned):
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    handlers = {n: signal.getsignal(n) for n in ENDING}
    done = run("serve", "--port", "0", "--host", host, "-m", MODEL)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert done.stderr.startswith(f"serving {MODEL} at http://{host}:")
    assert ("no password" in done.stderr) == warned


def test_models_need_names_of_their_own():
    with pytest.raises(BundleError, match="0 models"):
        service.Worker([], Settings(), LIMITS)


# --- load ----------------------------------------------------------------------------------------


def resident(pid):
    """Return the resident memory of a process in MB; none where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    (line,) = [li for li in status.read_text().splitlines() if li.startswith("VmRSS")]
    return int(line.split()[1]) / 1000


def test_two_hundred_requests_eight_at_a_time(until, serving, example, annotator, temporary):
    whole = ad.read_h5ad(example)
    valid, rng = [], np.random.default_rng(0)
    for i, n in enumerate((20, 40, 60, 100, 150, 200, 300, 400)):
        part = whole[np.sort(rng.permutation(700)[:n])].copy()
        labels = annotator.annotate_matrix(part.X, list(part.var_names)).labels.tolist()
        valid += [(as_h5ad(part), HDF5, labels), ((as_sparse, as_dense)[i % 2](part), JSON, labels)]
    few = whole[:20].copy()
    other = few.copy()
    other.var_names = [f"other{chr(97 + i % 26)}{i}x" for i in range(765)]
    garbage = [
        (as_h5ad(few)[:-20_000], HDF5),
        (as_dense(few)[:-9], JSON),
        (as_sparse(other), JSON),
        (b"", HDF5),
        (as_sparse(few, indices=[765] * few.X.nnz), JSON),
    ]

    def send(i):
        """Send the request of a number; every third is garbage."""
        if i % 3:
            body, kind, labels = valid[(i * 7) % len(valid)]
            answer = post(client, body, kind)
            assert answer.status_code == 200, answer.text
            assert answer.json()["cell_type"] == labels
            return 200
        if i % 18 == 0:
            head = f"POST /annotate?model={MODEL} HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n"
            answer = raw(client, f"{head}Content-Type: {JSON}\nContent-Length: {10**11}\n", b"{")
            return int(answer.split()[1])
        body, kind = garbage[(i // 3) % len(garbage)]
        answer = post(client, body, kind)
        error_of(answer)
        return answer.status_code

    with serving("-m", MODEL, "--threads", "2") as (process, client):
        with ThreadPoolExecutor(8) as pool:
            warm = list(pool.map(send, range(50)))
            before = resident(process.pid)
            rest = list(pool.map(send, range(50, 200)))
            after = resident(process.pid)
        statuses = [*warm, *rest]
        assert len(statuses) == 200
        assert {s for s in statuses if s != 200} == {413, 422}
        assert statuses.count(200) == 133
        assert in_hand(client) == 0
        until(lambda: not left_in(temporary))
        if before is not None:
            assert after - before < 60
