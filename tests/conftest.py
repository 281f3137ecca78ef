"""What the tests share: a model, a toy bundle, small files of cells, and the way to real data."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import msgspec
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from scipy.io import mmwrite
from threadpoolctl import threadpool_limits

from scbignn_infer.cli import main
from scbignn_infer.model import bundle as records
from scbignn_infer.model import onnx_graph
from scbignn_infer.model.bundle import read_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from scbignn_infer.model.bundle import ModelBundle

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def blas_on_one_thread() -> Iterator[None]:
    """Let no thread of BLAS wait for others: on small matrices that takes most of the time.

    numpy is loaded already, by a plugin of zarr; child processes read the variables.
    """
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            patch.setenv(name, "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def no_models_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test see, or put anything beside, the models that the user has installed."""
    with pytest.MonkeyPatch.context() as patch:
        data = tmp_path_factory.mktemp("data")
        for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(data))
        yield


@pytest.fixture(scope="session")
def pbmc_bundle() -> ModelBundle:
    """Return the shipped model of human blood."""
    return read_bundle(REPOSITORY / "exported_models" / "human-pbmc")


@pytest.fixture(scope="session")
def example() -> Path:
    """Return the shipped example: 700 human blood cells, log-normalised, 765 genes."""
    return REPOSITORY / "scbignn_infer" / "examples" / "pbmc700.h5ad"


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return a function that finds a real data set by its file name, or skips the test.

    The folder is ``$SCBIGNN_DATA``; with ``SCBIGNN_REQUIRE_DATA=1`` a missing file is a failure.
    """
    folder = Path(os.environ.get("SCBIGNN_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.is_file():
            message = f"real data {name} is not in {folder}; set SCBIGNN_DATA to its folder"
            if os.environ.get("SCBIGNN_REQUIRE_DATA") == "1":
                pytest.fail(message)
            pytest.skip(message)
        return path

    return find


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a browser; skip the test where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if (path := next(filter(None, map(shutil.which, names)), None)) is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def rscript() -> Callable[..., str]:
    """Return a function that runs lines of R; skip the test where there is no R.

    With ``SCBIGNN_REQUIRE_R=1`` that is a failure.
    """
    if shutil.which("Rscript") is None:
        (pytest.fail if os.environ.get("SCBIGNN_REQUIRE_R") == "1" else pytest.skip)("R is missing")

    def rscript(*lines: str) -> str:
        done = subprocess.run(
            ["Rscript", "-e", "; ".join(lines)], check=True, capture_output=True, text=True
        )
        return done.stdout

    return rscript


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """Return a function that runs the command line in this process.

    It must end with ``code`` (None: 0 or 1). Where that is 1, the last of ``lines`` lines on
    stderr is the error (None: of any number). No exception but ``bug`` may leave it.
    """

    def run(
        *arguments: object,
        code: int | None = 0,
        lines: int | None = 1,
        bug: type[Exception] | None = None,
    ) -> Result:
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code in ((0, 1) if code is None else (code,)), done.output
        assert isinstance(done.exception, bug or (type(None), SystemExit)), done.exc_info
        if done.exit_code == 1 and done.stderr:
            said = done.stderr.splitlines()
            assert said[-1].startswith("error: ")
            assert lines in (None, len(said)), done.stderr
        return done

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts the command line in a process, which ends with the test.

    The process runs ``first`` before, and ignores no signal, as what the shell's ``&`` starts does.
    """
    with contextlib.ExitStack() as started:

        def start(*arguments: object, first: str = "", **how: Any) -> subprocess.Popen[str]:
            program = PROCESS.format(first=textwrap.dedent(first))
            how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | how
            command = [sys.executable, "-c", program, *map(str, arguments)]
            process = started.enter_context(subprocess.Popen(command, **how))
            started.callback(process.kill)
            return process

        yield start


PROCESS = """
import runpy, signal
from scbignn_infer.cli import running
for number in running.ENDING: signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
{first}
runpy.run_module("scbignn_infer.cli", run_name="__main__")
"""


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Return a function that waits until something is true, and fails where it never gets so."""

    def until(true: Callable[[], Any]) -> None:
        for _ in range(30_000):
            if true():
                return
            time.sleep(0.01)
        pytest.fail("waited for five minutes in vain")

    return until


def proto(*fields: tuple[int, Any]) -> bytes:
    """Return a protobuf message: fields by number, of int, str, bytes or nested message."""

    def varint(value: int) -> bytes:
        value, found = value & ((1 << 64) - 1), bytearray()
        while value > 127:
            found.append(value & 127 | 128)
            value >>= 7
        return bytes([*found, value])

    message = b""
    for number, value in fields:
        if isinstance(value, int):
            message += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            message += varint(number << 3 | 2) + varint(len(data)) + data
    return message


def onnx_node(
    operator: str, inputs: str, outputs: str, *more: tuple[int, Any]
) -> tuple[int, bytes]:
    """Return a step of an ONNX graph, as a field of it; names are divided by spaces."""
    names = [(1, n) for n in inputs.split()] + [(2, n) for n in outputs.split()]
    return 1, proto(*names, (4, operator), *more)


def onnx_constant(name: str, values: Any) -> tuple[int, bytes]:
    """Return a constant of an ONNX graph, as a field of it; float32 or int64."""
    array = np.asarray(values)
    kind = onnx_graph.INT64 if array.dtype.kind == "i" else onnx_graph.FLOAT
    raw = array.astype("<i8" if kind == onnx_graph.INT64 else "<f4").tobytes()
    return 5, proto(*((1, n) for n in array.shape), (2, kind), (8, name), (9, raw))


def onnx_model(level: str, *fields: tuple[int, Any], opset: int = 18) -> bytes:
    """Return an ONNX file with the inputs and outputs of a level, and these steps and constants."""
    inputs, outputs = onnx_graph.LEVELS[level]

    def value(name: str, kind: int) -> bytes:
        return proto((1, name), (2, proto((1, proto((1, kind))))))

    ends = [(11, value(*item)) for item in inputs.items()]
    ends += [(12, value(name, onnx_graph.FLOAT)) for name in outputs]
    return proto((1, 10), (7, proto(*fields, (2, "toy"), *ends)), (8, proto((1, ""), (2, opset))))


GENE_LEVEL = (
    onnx_node("MatMul", "counts class_weight", "scores"),
    onnx_node("LogSoftmax", "scores", "gene_logits"),
    onnx_node("MatMul", "counts impute_in", "cell_embedding"),
)
CELL_LEVEL = (
    onnx_node("Gather", "layers layer", "weight"),
    onnx_node("Add", "own gene_logits", "sum"),
    onnx_node("Mul", "sum weight", "scores"),
    onnx_node("LogSoftmax", "scores", "cell_logits"),
    onnx_node("Exp", "cell_logits", "new_state"),
    onnx_constant("layers", [1.0]),
)
"""What the graphs of the toy do: the closed-form head alone, and nothing with the neighbours."""


def npz(**arrays: Any) -> bytes:
    """Return the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def toy_tables() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return statistics and reference of a toy: 2 types, 3 genes, 4 factors, 4 reference cells."""
    ones = np.ones(3)
    factors = np.random.default_rng(0).normal(0, 0.1, (3, 4))
    statistics = {
        "gene_mean": ones,
        "gene_scale": ones,
        "class_mean": np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]),
        "within_factors": factors,
        "within_residual": ones / 2,
        "total_factors": factors,
        "total_residual": ones / 2,
        "ridge": np.array(0.3),
        "strength_precision": np.array(100.0),
        "graph_factors": np.array(2),
        "cells_per_type": np.array([10, 20]),
        "gene_share": ones / 3,
    }
    reference = {
        "embedding": np.eye(4),
        "codes": np.array([0, 1, 0, 1], np.int32),
        "novelty_quantiles": np.linspace(0, 0.5, 201, dtype=np.float32),
        "residual_quantiles": np.linspace(0.1, 2, 201, dtype=np.float32),
    }
    return statistics, reference


def toy_files() -> dict[str, bytes]:
    """Return the files of a toy bundle, which runs."""
    statistics, reference = toy_tables()
    return {
        "gene_level.onnx": onnx_model("gene level", *GENE_LEVEL),
        "cell_level.onnx": onnx_model("cell level", *CELL_LEVEL),
        "statistics.npz": npz(**statistics),
        "reference.npz": npz(**reference),
    }


@pytest.fixture
def record() -> dict[str, Any]:
    """Return the builtins of a valid ``bundle.json`` of two types and three genes."""
    files = toy_files()
    spec = records.BundleSpec(
        format_version=2,
        name="toy",
        version="1.2.3",
        species="human",
        tissue="blood",
        genes=[
            records.Gene(symbol=s, ensembl_id=e)
            for s, e in (("CD3D", "ENSG1"), ("MS4A1", "ENSG2"), ("NKG7", "ENSG3"))
        ],
        cell_types=[
            records.CellType(label="B", ontology_id="CL:0000236"),
            records.CellType(label="T [naive]", ontology_id="CL:0000084"),
        ],
        preprocessing=records.Preprocessing(panel_genes=3, min_genes=2),
        gene_level=records.GeneLevelSpec(net_genes=2, embedding_size=4),
        cell_level=records.CellLevelSpec(layers=[records.CellLayer(layer=0)]),
        graph=records.GraphSpec(),
        thresholds=records.Thresholds(confidence=0.5),
        temperature=1.0,
        training=records.Training(
            datasets=[records.Dataset(file="toy.h5ad", citation="Toy 2020", n_cells=30)],
            cells_per_type={"B": 10, "T [naive]": 20},
            n_cells=30,
            validation="one of 3 folds of the cells",
            seed=0,
            em_history=[
                records.EMIteration(
                    iteration=0, gene_level_f1=0.8, cell_level_f1=0.9, kept=True, seconds=1.5
                )
            ],
            scores={"out of fold macro-F1": 0.9},
            held_out_scores={
                "toy": records.StudyScores(accuracy=0.777, macro_f1=0.666, n_cells=1234)
            },
            held_out_scores_per_type={"B": 0.555},
            confusions=[records.Confusion(truth="B", called="T [naive]", share=0.444, n=4)],
            cannot_tell=["one from the other"],
            not_read={"beyond --max-cells": 54321},
        ),
        files={
            name: records.FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for name, data in files.items()
        },
        created_with={"torch": "2.13.0"},
    )
    return msgspec.to_builtins(spec)


@pytest.fixture
def toy(tmp_path: Path, record: dict[str, Any]) -> Path:
    """Return the folder of a small bundle that can be run."""
    folder = tmp_path / "models" / "toy"
    folder.mkdir(parents=True)
    for name, data in toy_files().items():
        (folder / name).write_bytes(data)
    (folder / records.RECORD).write_text(json.dumps(record))
    return folder


@pytest.fixture
def onnx_parts() -> Any:
    """Return what ONNX files are made of, without the package ``onnx``."""
    return types.SimpleNamespace(
        proto=proto,
        node=onnx_node,
        constant=onnx_constant,
        model=onnx_model,
        gene_level=GENE_LEVEL,
        cell_level=CELL_LEVEL,
    )


def sign(folder: Path) -> None:
    """Give the record of a bundle the sizes and checksums of the files that are there."""
    path = folder / records.RECORD
    record = json.loads(path.read_bytes())
    for name in record["files"]:
        data = (folder / name).read_bytes()
        record["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    path.write_text(json.dumps(record))


@pytest.fixture
def change(toy: Path) -> Callable[..., Path]:
    """Return a function that changes the toy, with right checksums, and returns its folder.

    ``record`` changes the record in place, ``tables`` the tables of statistics and reference in
    place, ``files`` are other files by name.
    """

    def changed(
        record: Callable[[dict[str, Any]], Any] | None = None,
        tables: Callable[[dict[str, Any]], Any] | None = None,
        files: dict[str, bytes] | None = None,
    ) -> Path:
        if tables is not None:
            for name, held in zip(("statistics", "reference"), toy_tables(), strict=True):
                tables(held)
                (toy / f"{name}.npz").write_bytes(npz(**held))
        for name, data in (files or {}).items():
            (toy / name).write_bytes(data)
        sign(toy)
        if record is not None:
            content = json.loads((toy / records.RECORD).read_bytes())
            record(content)
            (toy / records.RECORD).write_text(json.dumps(content))
        return toy

    return changed


def make_counts(n_cells: int = 20, n_genes: int = 30, seed: int = 0) -> sp.csr_matrix:
    """Return sparse counts with at least one in each cell."""
    counts = np.random.default_rng(seed).poisson(0.7, (n_cells, n_genes))
    counts[:, :1] += 1
    return sp.csr_matrix(counts.astype(np.float32))


@pytest.fixture
def adata() -> ad.AnnData:
    """Return 20 cells x 30 genes of counts, with a layer of log1p(CP10k) and a raw of 40 genes."""
    counts = make_counts(20, 40)
    log1p = counts.multiply(1e4 / counts.sum(axis=1)).tocsr().log1p()
    wide = ad.AnnData(
        counts,
        obs=pd.DataFrame(
            {"truth": pd.Categorical(["B", "T", "odd", None] * 5), "n": np.arange(20)},
            index=[f"cell{i}" for i in range(20)],
        ),
        var=pd.DataFrame(
            {"ensembl": [f"acc{i}" for i in range(40)], "n": np.arange(40)},
            index=[f"GENE{i}" for i in range(40)],
        ),
    )
    adata = wide[:, :30].copy()
    adata.layers["log1p"] = log1p[:, :30].copy()
    adata.raw = wide
    return adata


@pytest.fixture
def h5ad(adata: ad.AnnData, tmp_path: Path) -> Path:
    """Return ``adata`` as a file."""
    path = tmp_path / "query.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture
def write_as() -> Callable[[ad.AnnData, Path, str], Path]:
    """Return a function that writes cells in a format, as the programs of that format do."""
    return _write_as


def _write_as(adata: ad.AnnData, stem: Path, form: str) -> Path:
    x = sp.csr_matrix(adata.X)
    cells, genes = (np.array([n.encode() for n in v]) for v in (adata.obs_names, adata.var_names))
    if form == "mtx":
        stem.mkdir()
        mmwrite(stem / "matrix.mtx", x.T)
        names = "".join(f"id{i}\t{n}\n" for i, n in enumerate(adata.var_names))
        (stem / "genes.tsv").write_text(names)
        (stem / "barcodes.tsv").write_text("".join(f"{n}\n" for n in adata.obs_names))
        return stem
    path = Path(f"{stem}.{form.rsplit(maxsplit=1)[-1]}")
    if form == "h5ad":
        adata.write_h5ad(path)
    elif form == "zarr":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_zarr(path)
    elif form in ("csv", "tsv.gz"):
        table = adata.to_df() if form == "csv" else adata.to_df().T
        table.to_csv(path, sep="," if form == "csv" else "\t")
    else:
        with h5py.File(path, "w") as file:
            _HDF5[form](file, x, cells, genes)
    return path


def _write_tenx(file: h5py.File, x: sp.csr_matrix, cells: Any, genes: Any) -> None:
    group = file.create_group("matrix")
    for part in ("data", "indices", "indptr"):
        group[part] = getattr(x, part)
    group["shape"], group["barcodes"] = np.array(x.shape[::-1]), cells
    group["features/name"], group["features/id"] = genes, genes


def _write_loom(file: h5py.File, x: sp.csr_matrix, cells: Any, genes: Any) -> None:
    file.create_dataset("matrix", data=x.toarray().T, chunks=(64, 64), compression="gzip")
    file["row_attrs/Gene"], file["col_attrs/CellID"] = genes, cells


def _write_old(file: h5py.File, x: sp.csr_matrix, cells: Any, genes: Any) -> None:
    """Write tables as records and sparse matrices without encodings, as anndata 0.6 did."""
    group = file.create_group("X")
    group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", np.array(x.shape)
    for part in ("data", "indices", "indptr"):
        group[part] = getattr(x, part)
    for name, values in (("obs", cells), ("var", genes)):
        file[name] = np.array([(v,) for v in values], dtype=[("index", values.dtype)])


_HDF5 = {"h5": _write_tenx, "loom": _write_loom, "old h5ad": _write_old}
