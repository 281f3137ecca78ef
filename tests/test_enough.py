"""Barcodes with few counts are left out: as if they were not in the file, and yet in its output."""

from __future__ import annotations

import base64
import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scbignn_infer
from scbignn_infer import Annotator, Reading
from scbignn_infer.errors import InputError
from scbignn_infer.gene_evidence import find_evidence
from scbignn_infer.query.enough import SomeCells, enough
from scbignn_infer.query.readers import AnnDataQuery, MatrixQuery, open_query

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = "human-pancreas"
DROPLETS = 300
FORMS = ["csv", "h5", "h5ad", "loom", "mtx", "old h5ad", "tsv.gz", "zarr"]


@pytest.fixture(scope="module")
def islets(request: pytest.FixtureRequest) -> ad.AnnData:
    """Return 120 cells of islets, of which every fourth is a droplet of 0 to 59 counts."""
    cells = ad.read_h5ad(request.path.parent / "data" / "pancreas400.h5ad")[:120].copy()
    counts = sp.csr_matrix(cells.X).astype(np.int64)
    rng = np.random.default_rng(0)
    for i in range(0, 120, 4):
        row = slice(counts.indptr[i], counts.indptr[i + 1])
        share = counts.data[row] / counts.data[row].sum()
        counts.data[row] = rng.multinomial(rng.integers(0, 60), share)
    counts.eliminate_zeros()
    cells.X = counts.astype(np.float32)
    return cells


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator.load(MODEL, threads=1)


@pytest.fixture(scope="module")
def alone(islets: ad.AnnData, annotator: Annotator) -> ad.AnnData:
    """Return the cells that are none of the droplets, labelled without them."""
    kept = islets[np.asarray(islets.X.sum(axis=1)).ravel() >= DROPLETS].copy()
    scbignn_infer.annotate(kept, annotator.bundle, threads=1)
    return kept


def check(found: pd.DataFrame, alone: ad.AnnData) -> None:
    """Compare the columns of all barcodes with those of the cells that were labelled alone."""
    own = found.index.isin(alone.obs_names)
    for name in (c for c in alone.obs if c.startswith("scbignn_")):
        if name.endswith(("type", "id", "reason")):
            assert found[name][own].astype(str).tolist() == alone.obs[name].tolist(), name
        else:
            np.testing.assert_allclose(found[name][own], alone.obs[name], atol=1e-5)
    rest = found[~own]
    assert len(rest) == 30
    assert set(rest["scbignn_cell_type"]) == set(rest["scbignn_best_cell_type"]) == {"unknown"}
    assert set(rest["scbignn_unknown_reason"]) == {"too few counts"}
    assert (rest["scbignn_confidence"] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_those_of_a_file_without_them(
    run: Callable[..., Any],
    write_as: Callable[[ad.AnnData, Path, str], Path],
    islets: ad.AnnData,
    alone: ad.AnnData,
    tmp_path: Path,
    form: str,
) -> None:
    if form == "zarr":
        pytest.importorskip("zarr")
    cells = ad.AnnData(islets.X, obs=islets.obs[[]], var=islets.var[[]])
    query, table = write_as(cells, tmp_path / "cells", form), tmp_path / "labels.csv"
    more = ["--min-counts", DROPLETS, "-m", MODEL, "--threads", 1, "-o", table]
    said = json.loads(run("annotate", query, *more, "--json").stdout)
    assert said["left_out"] == {"cells": 30, "min_counts": DROPLETS, "matrix": "X"}
    assert said["cells"] == 90
    assert sum(said["labels"].values()) == 90
    assert "too few counts" not in said["unknown_reasons"]
    found = pd.read_csv(table, index_col=0, keep_default_na=False)
    assert found.index.tolist() == islets.obs_names.tolist()
    check(found, alone)


def test_all_rows_stay_in_a_file_that_is_labelled_in_place(
    run: Callable[..., Any], islets: ad.AnnData, alone: ad.AnnData, tmp_path: Path
) -> None:
    path = tmp_path / "cells.h5ad"
    islets.write_h5ad(path)
    done = run(
        *("annotate", path, "--in-place", "-m", MODEL, "--threads", 1, "--write-graph"),
        *("--min-counts", DROPLETS),
    )
    assert "left out  30 barcodes with fewer than 300 counts in X" in done.stderr
    written = ad.read_h5ad(path)
    assert (written.X != islets.X).nnz == 0
    check(written.obs, alone)
    few = np.asarray(islets.X.sum(axis=1)).ravel() < DROPLETS
    assert (written.obsm["X_scbignn"][few] == 0).all()
    np.testing.assert_allclose(written.obsm["X_scbignn"][~few], alone.obsm["X_scbignn"], atol=1e-5)
    graph = written.obsp["scbignn_distances"]
    assert (graph[few].nnz, graph[:, few].nnz, graph[~few].nnz) == (0, 0, 90 * 15)
    assert written.uns["scbignn"]["left_out"]["cells"] == 30


def test_python_has_it_too(islets: ad.AnnData, alone: ad.AnnData, annotator: Annotator) -> None:
    cells = islets.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of raw matrices there is nothing to say any more
        scbignn_infer.annotate(cells, annotator.bundle, min_counts=DROPLETS, threads=1)
    check(cells.obs, alone)
    reading = Reading(min_counts=DROPLETS)
    found = annotator.annotate_matrix(islets.X, list(islets.var_names), reading=reading)
    assert found.labels.tolist() == cells.obs["scbignn_cell_type"].tolist()
    assert found.provenance.left_out is not None
    assert (found.n_empty, found.unknown_counts()["too few counts"]) == (0, 30)
    assert found.warnings() == []
    bound = annotator.bind(list(islets.var_names), reading=reading)
    assert bound.annotate(islets.X).labels.tolist() == found.labels.tolist()
    embedding = scbignn_infer.embed(islets, annotator.bundle, reading=reading, threads=1)
    np.testing.assert_array_equal(embedding, cells.obsm["X_scbignn"])
    np.testing.assert_array_equal(bound.embed(islets.X), embedding)


def test_a_cell_that_was_left_out_is_not_explained(
    islets: ad.AnnData, annotator: Annotator
) -> None:
    names, reading = list(islets.obs_names), Reading(min_counts=DROPLETS)
    (why,) = scbignn_infer.explain(islets, annotator.bundle, [names[1]], reading=reading, threads=1)
    assert why.cell == names[1]
    with pytest.raises(InputError, match=f"the cell '{names[0]}' was left out"):
        scbignn_infer.explain(islets, annotator.bundle, [names[0]], reading=reading, threads=1)


class TestCounts:
    """Whose counts they are."""

    def test_rows_come_in_order_whatever_the_blocks(self, islets: ad.AnnData) -> None:
        query = MatrixQuery(islets.X, list(islets.var_names))
        kept = enough(query, Reading(min_counts=DROPLETS))
        assert isinstance(kept, SomeCells)
        totals = np.asarray(islets.X.sum(axis=1)).ravel()
        expected = islets.X[totals >= DROPLETS]
        for size in (1, 7, 64, 5000):
            blocks = list(kept.blocks("X", size))
            assert {b.shape[0] for b in blocks[:-1]} <= {size}
            assert (sp.vstack(blocks) != expected).nnz == 0
        assert (kept.rows("X", np.array([0, 5, 89])) != expected[[0, 5, 89]]).nnz == 0
        assert kept.cell_names() == [str(i) for i in np.flatnonzero(totals >= DROPLETS)]
        assert enough(query, Reading()) is query
        assert enough(kept, Reading(min_counts=10**9)) is kept

    def test_a_cell_at_the_bound_stays(self) -> None:
        rng = np.random.default_rng(0)
        counts = rng.poisson(1.0, (40, 50))
        least = int(np.sort(counts.sum(axis=1))[20])
        kept = enough(MatrixQuery(counts, [f"G{i}" for i in range(50)]), Reading(min_counts=least))
        assert kept.n_cells == (counts.sum(axis=1) >= least).sum()

    def test_proteins_are_no_counts(self, islets: ad.AnnData, tmp_path: Path) -> None:
        cells = ad.AnnData(islets.X.copy(), obs=islets.obs[[]], var=islets.var[[]].copy())
        protein = np.zeros(cells.n_vars, dtype=bool)
        protein[:100] = True
        cells.var["feature_types"] = np.where(protein, "Antibody Capture", "Gene Expression")
        cells.X = islets.X.toarray()
        cells.X[:, protein] = 1000
        cells.write_h5ad(tmp_path / "cells.h5ad")
        genes = cells.X[:, ~protein].sum(axis=1)
        with open_query(tmp_path / "cells.h5ad") as query:
            kept = enough(query, Reading(min_counts=DROPLETS))
            assert kept.n_cells == (genes >= DROPLETS).sum()

    def test_a_layer_tells_what_a_scaled_matrix_does_not(self, islets: ad.AnnData) -> None:
        cells = islets.copy()
        cells.layers["counts"] = cells.X.copy()
        totals = np.maximum(np.asarray(cells.X.sum(axis=1)), 1)
        cells.X = sp.csr_matrix(cells.X.multiply(1e4 / totals)).log1p()
        kept = enough(AnnDataQuery(cells), Reading(min_counts=DROPLETS, matrix="X"))
        assert isinstance(kept, SomeCells)
        assert (kept.n_cells, kept.left_out.matrix) == (90, "layers:counts")
        del cells.layers["counts"]
        with pytest.raises(InputError, match=r"holds no counts: X is log1p \(.*\); expected"):
            enough(AnnDataQuery(cells), Reading(min_counts=DROPLETS))

    @pytest.mark.parametrize("base", [np.e, 2.0, 10.0])
    def test_a_logarithm_of_counts_has_them(self, islets: ad.AnnData, base: float) -> None:
        logs = islets.X.copy()
        logs.data = np.log1p(logs.data) / np.log(base)
        for least in (DROPLETS, int(islets.X.sum(axis=1)[1, 0])):
            query = MatrixQuery(islets.X, list(islets.var_names))
            same = enough(query, Reading(min_counts=least))
            kept = enough(MatrixQuery(logs, list(islets.var_names)), Reading(min_counts=least))
            assert kept.cell_names() == same.cell_names()

    @pytest.mark.parametrize("how", ["CP10k", "size factors"])
    def test_scaled_counts_are_none(self, islets: ad.AnnData, how: str) -> None:
        totals = np.maximum(np.asarray(islets.X.sum(axis=1)), 1)
        factor = 1e4 / totals if how == "CP10k" else 1 / (totals / totals.mean() + 0.3)
        query = MatrixQuery(islets.X.multiply(factor), list(islets.var_names))
        with pytest.raises(InputError, match="holds no counts: X is counts"):
            enough(query, Reading(min_counts=DROPLETS))


@pytest.mark.parametrize(
    ("least", "code", "message"),
    [
        (10**9, 1, "no barcode of .* has 1,000,000,000 counts in X; the most that one has is"),
        (0, 2, "0 is not in the range x>=1"),
        (-5, 2, "-5 is not in the range x>=1"),
        ("many", 2, "'many' is not a valid integer"),
    ],
)
def test_what_leaves_nothing_or_makes_no_sense_is_refused(
    run: Callable[..., Any],
    islets: ad.AnnData,
    tmp_path: Path,
    least: Any,
    code: int,
    message: str,
) -> None:
    path, table = tmp_path / "cells.h5ad", tmp_path / "labels.csv"
    islets.write_h5ad(path)
    done = run("annotate", path, "-m", MODEL, "-o", table, "--min-counts", least, code=code)
    assert re.search(message, done.stderr.replace("\n", " "))
    assert not table.exists()


def test_python_refuses_less_than_one(islets: ad.AnnData) -> None:
    with pytest.raises(InputError, match=r"min_counts is -5; expected a number from 1"):
        scbignn_infer.annotate(islets.copy(), MODEL, min_counts=-5, threads=1)


def test_log_normalised_files_are_one_line(
    run: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    more = ["-m", "human-pbmc", "-o", table, "--min-counts", 500]
    done = run("annotate", example, *more, code=1)
    assert "holds no counts: X is log1p-cut" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_report_and_evidence_are_of_the_others_alone(
    run: Callable[..., Any],
    islets: ad.AnnData,
    alone: ad.AnnData,
    annotator: Annotator,
    tmp_path: Path,
) -> None:
    cells, labelled, page = islets.copy(), tmp_path / "labelled.h5ad", tmp_path / "labelled.html"
    cells.obs["half"] = np.where(np.arange(120) < 60, "first", "second")
    cells.obsm["X_umap"] = np.random.default_rng(0).random((120, 2))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    more = ["-m", MODEL, "--threads", 1, "--min-counts", DROPLETS]
    run("annotate", tmp_path / "cells.h5ad", "-o", labelled, *more, "--report", tmp_path / "a.html")
    run("report", labelled, "--sample-key", "half")
    for text in (page.read_text(), (tmp_path / "a.html").read_text()):
        assert "<b>left out</b>30 barcodes with fewer than 300 counts in X" in text
        data = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
        assert data["names"] == alone.obs_names.tolist()
        counts = {c["label"]: c["n"] for c in data["kinds"]["label"]["categories"]}
        assert counts == alone.obs["scbignn_cell_type"].value_counts().to_dict()
        x = np.frombuffer(base64.b64decode(data["x"]), "<u2")
        kept = cells.obs_names.isin(alone.obs_names)
        assert np.corrcoef(x, cells.obsm["X_umap"][kept, 0])[0, 1] > 0.999
    halves = {name: f"{n} cells" for name, n in cells.obs["half"][kept].value_counts().items()}
    assert all(f"<th class=n>{name}<br>{n}</th>" in page.read_text() for name, n in halves.items())
    reading = Reading(min_counts=DROPLETS)
    found = find_evidence(annotator, AnnDataQuery(islets), reading)
    assert found == find_evidence(annotator, AnnDataQuery(alone))
    ad.read_h5ad(labelled)[~kept].copy().write_h5ad(labelled)
    told = run("report", labelled, "--overwrite", code=1).stderr
    assert "all 30 cells of" in told
    assert "were left out for their few counts" in told


def test_inspect_says_how_many(run: Callable[..., Any], islets: ad.AnnData, tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    islets.write_h5ad(path)
    done = run("inspect", path, "-m", MODEL, "--min-counts", DROPLETS)
    assert "left out  30 barcodes with fewer than 300 counts in X" in done.stdout
    said = json.loads(run("inspect", path, "-m", MODEL, "--min-counts", 300, "--json").stdout)
    assert said["cells"] == 90


def test_parts_of_a_divided_sample_leave_out_the_same(
    run: Callable[..., Any], islets: ad.AnnData, tmp_path: Path
) -> None:
    many = ad.concat([islets] * 20, index_unique="-")
    many = many[np.argsort(np.asarray(many.X.sum(axis=1)).ravel(), kind="stable")]
    many.write_h5ad(tmp_path / "many.h5ad")
    more = ["-m", MODEL, "--graph", "reference", "--threads", 1, "--min-counts", DROPLETS]
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts"
    run("annotate", tmp_path / "many.h5ad", "-o", whole, *more)
    done = run(
        *("annotate", tmp_path / "many.h5ad", "-O", parts, "--format", "csv", "--split", 1024),
        *(*more, "--json"),
    )
    (record,) = json.loads(done.stdout)["samples"]
    assert (record["cells"], record["left_out"]["cells"]) == (1800, 600)
    tables = [pd.read_csv(p, index_col=0) for p in (whole, parts / "many.csv")]
    assert (tables[0]["scbignn_unknown_reason"] == "too few counts").sum() == 600
    pd.testing.assert_frame_equal(*tables, atol=1e-5)
