"""What the tests share: a model, a toy bundle, small files of cells, and the way to real data."""

from __future__ import annotations

import hashlib
import io
import json
import os
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
from scipy.io import mmwrite

from scbignn_infer import bundle as records
from scbignn_infer.bundle import read_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from scbignn_infer.bundle import ModelBundle

REPOSITORY = Path(__file__).resolve().parents[1]


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


def toy_files() -> dict[str, bytes]:
    """Return the files of a toy bundle: its statistics can be read, its graphs are no ONNX."""
    files = {name: f"the bytes of {name}".encode() for name in records.REQUIRED_FILES}
    buffer = io.BytesIO()
    np.savez(buffer, class_mean=np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]))
    return files | {"statistics.npz": buffer.getvalue()}


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
        gene_level=records.GeneLevel(net_genes=2, embedding_size=4),
        cell_level=records.CellLevel(layers=[records.CellLayer(layer=0)]),
        graph=records.Graph(),
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
    """Return the folder of a bundle whose record is valid and whose graphs are not ONNX."""
    folder = tmp_path / "models" / "toy"
    folder.mkdir(parents=True)
    for name, data in toy_files().items():
        (folder / name).write_bytes(data)
    (folder / records.RECORD).write_text(json.dumps(record))
    return folder


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
