"""Loom files, written here in their layout."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.matrices import choose_matrix, passed_over
from scbignn_infer.query.readers import open_query
from scbignn_infer.query.reading import judge_matrices

COUNTS = sp.csr_matrix(np.random.default_rng(0).poisson(0.7, (20, 30)).astype(np.float32)).toarray()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "cells.loom"
    with h5py.File(path, "w") as file:
        file.create_dataset("matrix", data=COUNTS.T, chunks=(8, 8), compression="gzip")
        file["layers/spliced"] = np.floor(COUNTS.T / 2)
        file["row_attrs/Gene"] = np.array([f"GENE{i}".encode() for i in range(30)])
        file["row_attrs/Accession"] = np.array([f"ENSG{i}".encode() for i in range(30)])
        file["row_attrs/Score"] = np.arange(30.0)
        file["col_attrs/CellID"] = np.array([f"cell{i}".encode() for i in range(20)])
        file["col_attrs/Sample"] = np.array([b"a", b"b"] * 10)
        file["col_attrs/Pca"] = np.zeros((20, 2))
        file.create_group("row_graphs"), file.create_group("col_graphs")
    return path


def test_cells_genes_layers_and_attributes(path):
    with open_query(path) as query:
        assert (query.h5ad, query.n_cells) == (False, 20)
        assert query.matrices() == ["X", "layers/spliced"]
        assert query.cell_names() == [f"cell{i}" for i in range(20)]
        assert query.obs_column("Sample") == ["a", "b"] * 10
        assert query.gene_columns("X") == {
            "index": [f"GENE{i}" for i in range(30)],
            "Accession": [f"ENSG{i}" for i in range(30)],
        }
        for matrix, expected in (("X", COUNTS), ("layers/spliced", np.floor(COUNTS / 2))):
            blocks = list(query.blocks(matrix, 7))
            np.testing.assert_array_equal(sp.vstack(blocks).toarray(), expected)
            rows = np.array([1, 4, 19])
            np.testing.assert_array_equal(query.rows(matrix, rows).toarray(), expected[rows])
        adata = query.to_adata()
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    np.testing.assert_array_equal(adata.layers["spliced"].toarray(), np.floor(COUNTS / 2))
    assert list(adata.obs["Sample"]) == ["a", "b"] * 10
    assert list(adata.var["Score"]) == list(range(30))


def test_cells_and_genes_without_names_are_numbered(path):
    with h5py.File(path, "r+") as file:
        del file["col_attrs/CellID"], file["row_attrs/Gene"], file["row_attrs/Accession"]
    with open_query(path) as query:
        assert query.cell_names()[:2] == ["0", "1"]
        assert query.gene_columns("X")["index"][:2] == ["0", "1"]


def test_a_damaged_file_is_one_line(path):
    with h5py.File(path, "r+") as file:
        del file["layers/spliced"]
        file["layers/spliced"] = np.zeros((30, 19))
    with open_query(path) as query, pytest.raises(InputError, match=r"cannot read .*30, 19"):
        query.rows("layers/spliced", np.arange(2))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(InputError, match="cannot read"):
        open_query(path)


def test_a_loom_of_velocity_is_read_from_its_matrix(tmp_path):
    """The matrix is the sum already; without it the layers would be summed."""
    x = np.random.default_rng(0).poisson(1.5, (60, 40)).astype(np.float32)
    spliced = np.floor(x * 0.6)
    with h5py.File(tmp_path / "velocity.loom", "w") as file:
        file["matrix"] = x
        file["layers/ambiguous"], file["layers/spliced"] = np.zeros_like(x), spliced
        file["layers/unspliced"] = x - spliced
        file["row_attrs/Gene"] = np.array([f"GENE{i}".encode() for i in range(60)])
        file["col_attrs/CellID"] = np.array([f"cell{i}".encode() for i in range(40)])
    with open_query(tmp_path / "velocity.loom") as query:
        verdicts = judge_matrices(query)
        assert choose_matrix(verdicts) == "X"
        whole = "layers/spliced+unspliced+ambiguous"
        assert passed_over(verdicts)[whole] == "X holds counts"
        np.testing.assert_array_equal(query.rows(whole, np.arange(3)).toarray(), x.T[:3])
        blocks = list(query.blocks(whole, 16))
        np.testing.assert_array_equal(np.vstack([b.toarray() for b in blocks]), x.T)
        layers = set(query.to_adata().layers) - {None}  # X is there, too, in anndata 0.13
        assert layers == {"ambiguous", "spliced", "unspliced"}
