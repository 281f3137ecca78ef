"""Objects of R, as R itself has written them."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from scbignn_infer import open_query
from scbignn_infer.errors import InputError, MissingExtraError
from scbignn_infer.query.readers.rds import count_values

FOLDER = Path(__file__).parent / "data" / "r"
READ = {
    "dgCMatrix": ["X"],
    "dense": ["X"],
    "sce": ["X", "layers/logcounts"],
    "seurat4": ["X", "layers/data"],
    "seurat5": ["X", "layers/data"],
    "seurat5_split": ["X"],
}


@pytest.fixture(scope="module")
def written() -> ad.AnnData:
    """Return the cells that the files hold."""
    return ad.read_h5ad(FOLDER.parent / "pancreas400.h5ad")[::8, ::20].copy()


@pytest.fixture(scope="module")
def anew(written, rscript, tmp_path_factory) -> Path:
    """Return a folder where R has just written the files again."""
    del rscript
    folder = tmp_path_factory.mktemp("r")
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(written.X.T))
    sides = {"genes": written.var_names, "cells": written.obs_names, "types": written.obs.cell_type}
    for name, values in sides.items():
        (folder / f"{name}.txt").write_text("\n".join(values) + "\n")
    subprocess.run(["Rscript", FOLDER / "make.R", folder], check=True, capture_output=True)
    return folder


def check(path: Path, written: ad.AnnData, matrices: list[str]) -> None:
    with open_query(path) as query:
        assert query.matrices() == matrices
        found = query.to_adata()
    assert (found.X != written.X).nnz == 0
    assert found.obs_names.tolist() == written.obs_names.tolist()
    assert found.var_names.tolist() == written.var_names.tolist()
    if "cell_type" in found.obs:
        assert found.obs.cell_type.tolist() == written.obs.cell_type.tolist()


@pytest.mark.parametrize("name", READ)
def test_cells_genes_and_columns_are_those_that_r_wrote(written, name):
    check(FOLDER / f"{name}.rds", written, READ[name])


@pytest.mark.parametrize("name", [*READ, "dgCMatrix_plain"])
def test_and_those_that_r_writes_now(anew, written, name):
    check(anew / f"{name}.rds", written, READ.get(name, ["X"]))


def test_the_default_assay_is_told_and_others_are_named(written):
    with open_query(FOLDER / "seurat4.rds") as query:
        assert query.notes == ["X is 'counts' of the assay RNA", "other assays are left out: ADT"]
        data = query.to_adata().layers["data"]
        scores = np.array(query.obs_column("score"), float)
    expected = written.X.toarray() / written.X.sum(axis=1) * 1e4
    np.testing.assert_allclose(data.toarray(), np.log1p(expected), rtol=1e-5)
    assert scores.tolist() == [(i + 1) / 2 for i in range(written.n_obs)]


@pytest.mark.parametrize("name", ["dense", "dgCMatrix"])
def test_nothing_is_noted_of_a_plain_matrix(name):
    with open_query(FOLDER / f"{name}.rds") as query:
        assert query.notes == []


def test_labels_of_r_are_those_of_the_h5ad(run, rscript, tmp_path):
    whole = ad.read_h5ad(FOLDER.parent / "pancreas400.h5ad")[::8].copy()
    whole.write_h5ad(tmp_path / "cells.h5ad")
    scipy.io.mmwrite(tmp_path / "matrix.mtx", sp.coo_matrix(whole.X.T))
    (tmp_path / "g").write_text("\n".join(whole.var_names) + "\n")
    (tmp_path / "c").write_text("\n".join(whole.obs_names) + "\n")
    rscript(
        "suppressMessages(library(Matrix))",
        f"m <- as(as(readMM('{tmp_path}/matrix.mtx'), 'CsparseMatrix'), 'generalMatrix')",
        f"dimnames(m) <- list(readLines('{tmp_path}/g'), readLines('{tmp_path}/c'))",
        f"saveRDS(m, '{tmp_path}/cells.rds')",
    )
    for end in ("h5ad", "rds"):
        output = tmp_path / f"{end}.csv"
        run("annotate", tmp_path / f"cells.{end}", "-m", "human-pancreas", "-o", output)
    one, other = (pd.read_csv(tmp_path / f"{end}.csv", index_col=0) for end in ("h5ad", "rds"))
    pd.testing.assert_frame_equal(one, other)


def test_a_table_goes_back_into_r(anew, rscript, tmp_path):
    """The lines of the documentation, run by R."""
    with open_query(anew / "seurat4.rds") as query:
        names = query.cell_names()
    table = pd.DataFrame({"scbignn_cell_type": [f"type {i}" for i in range(len(names))]}, names)
    table[::-1].to_csv(tmp_path / "labels.csv", index_label="cell")
    read = f"labels <- read.csv('{tmp_path}/labels.csv', row.names = 'cell')"
    said = rscript(
        "suppressMessages(library(SeuratObject))",
        f"object <- readRDS('{anew}/seurat4.rds')",
        read,
        "object <- AddMetaData(object, labels)",
        "cat(unname(object$scbignn_cell_type), sep = ';')",
    )
    assert said.split(";") == table["scbignn_cell_type"].tolist()
    said = rscript(
        "suppressMessages(library(SingleCellExperiment))",
        f"sce <- readRDS('{anew}/sce.rds')",
        read,
        "colData(sce) <- cbind(colData(sce), labels[colnames(sce), , drop = FALSE])",
        "cat(sce$scbignn_cell_type, sep = ';')",
    )
    assert said.split(";") == table["scbignn_cell_type"].tolist()


def test_xz_is_named():
    with pytest.raises(InputError, match=r"packed with xz.*saveRDS"):
        open_query(FOLDER / "dgCMatrix_xz.rds")


@pytest.mark.parametrize("line", ["data.frame(a = 1:3)", "1:3", "list(1, 'a')", "sum"])
def test_other_objects_are_named(rscript, tmp_path, line):
    path = tmp_path / "other.rds"
    rscript(f"saveRDS({line}, '{path}')")
    with pytest.raises(InputError, match="expected a Seurat object") as error:
        open_query(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"something", gzip.compress(b"something", mtime=0), b"X\n"]
)
def test_what_is_no_rds_is_one_line(tmp_path, content):
    path = tmp_path / "a.rds"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        open_query(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_file_is_one_line(tmp_path, share):
    data = (FOLDER / "seurat4.rds").read_bytes()
    path = tmp_path / "cut.rds"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.rds"):
        open_query(path)


def test_a_file_that_unpacks_to_more_than_may_be_held_is_refused(tmp_path):
    path = tmp_path / "bomb.rds"
    path.write_bytes(gzip.compress(b"X\n" + bytes(50_000_000)))
    with pytest.raises(InputError, match="unpacked, needs at least"):
        open_query(path, most_bytes=10_000_000)


def test_the_size_is_guessed_before_it_is_read(written):
    n = count_values(FOLDER / "dgCMatrix.rds")
    assert written.X.nnz < n < 2 * written.X.nnz


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "rds2py.rdsutils", None)
    with pytest.raises(MissingExtraError, match="the extra 'r'"):
        open_query(FOLDER / "dense.rds")
