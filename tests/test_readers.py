from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import dask.array
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError, MissingExtraError, OutputError
from scbignn_infer.query.readers import AnnDataQuery, MatrixQuery, anndata_files, open_query
from scbignn_infer.query.readers.columns import string_columns
from scbignn_infer.query.readers.files import one_line


def all_rows(query, matrix="X", size=7):
    return sp.vstack(list(query.blocks(matrix, size))).toarray()


@pytest.fixture
def damaged(h5ad):
    """Return the file, open for writing, to be damaged by the test."""
    with h5py.File(h5ad, "r+") as file:
        yield file


# --- whole files ---------------------------------------------------------------------------------


def test_names_matrices_and_genes_of_a_file(h5ad, adata):
    with open_query(h5ad) as query:
        assert query.n_cells == 20
        assert query.cell_names() == list(adata.obs_names)
        assert query.matrices() == ["X", "layers/log1p", "raw"]
        assert query.gene_columns("X") == {
            "index": list(adata.var_names),
            "ensembl": list(adata.var["ensembl"]),
        }
        assert len(query.gene_columns("raw")["index"]) == 40


@pytest.mark.parametrize("matrix", ["X", "layers/log1p", "raw"])
def test_blocks_and_rows_are_those_of_the_matrix(h5ad, adata, matrix):
    expected = {"X": adata.X, "layers/log1p": adata.layers["log1p"], "raw": adata.raw.X}[matrix]
    with open_query(h5ad) as query:
        np.testing.assert_array_equal(all_rows(query, matrix), expected.toarray())
        picked = query.rows(matrix, np.array([1, 4, 19]))
        np.testing.assert_array_equal(picked.toarray(), expected.toarray()[[1, 4, 19]])


@pytest.mark.parametrize("size", [1, 6, 20, 1000])
def test_the_size_of_a_block_changes_nothing(h5ad, adata, size):
    with open_query(h5ad) as query:
        assert {block.shape[0] for block in query.blocks("X", size)} <= {size, 20 % size, 20}
        np.testing.assert_array_equal(all_rows(query, size=size), adata.X.toarray())


@pytest.mark.parametrize(
    "form", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, lambda x: x.toarray()]
)
def test_csr_csc_and_dense_agree(adata, tmp_path, form):
    values = adata.X.toarray()
    del adata.raw
    adata.X = form(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    rows = np.array([0, 3, 11])
    with open_query(tmp_path / "a.h5ad") as query:
        np.testing.assert_array_equal(all_rows(query), values)
        np.testing.assert_array_equal(query.rows("X", rows).toarray(), values[rows])
    memory = AnnDataQuery(adata)
    np.testing.assert_array_equal(all_rows(memory), values)
    np.testing.assert_array_equal(memory.rows("X", rows).toarray(), values[rows])


def test_a_file_without_x_offers_its_layers(adata, tmp_path):
    del adata.raw
    adata.X = None
    adata.write_h5ad(tmp_path / "a.h5ad")
    with open_query(tmp_path / "a.h5ad") as query:
        assert query.matrices() == ["layers/log1p"]
    assert AnnDataQuery(adata).matrices() == ["layers/log1p"]


def test_an_object_offers_what_its_file_offers(adata, h5ad):
    memory = AnnDataQuery(adata)
    with open_query(h5ad) as query:
        assert memory.matrices() == query.matrices()
        assert memory.cell_names() == query.cell_names()
        for matrix in query.matrices():
            assert memory.gene_columns(matrix) == query.gene_columns(matrix)
            np.testing.assert_array_equal(all_rows(memory, matrix), all_rows(query, matrix))


def test_elements_without_encoding_are_read_without_a_warning(damaged, h5ad, adata):
    for name in ("obs/_index", "var/ensembl"):  # as they were before strings had a mask
        values = damaged[name]["values"][:] if "values" in damaged[name] else damaged[name][:]
        del damaged[name]
        damaged[name] = values
    damaged["obs/n"].attrs.clear()
    damaged.close()
    with open_query(h5ad) as query:
        assert query.cell_names() == list(adata.obs_names)
        assert query.gene_columns("X")["ensembl"] == list(adata.var["ensembl"])


def test_uns_is_read_by_key(adata, tmp_path):
    adata.uns["scbignn"] = {"cell_types": ["B", "T"]}
    adata.write_h5ad(tmp_path / "a.h5ad")
    with open_query(tmp_path / "a.h5ad") as query:
        assert list(query.uns("scbignn")["cell_types"]) == ["B", "T"]
        assert query.uns("other") is None


def test_nullable_and_string_columns_are_read(adata, tmp_path):
    del adata.raw
    adata.var["symbol"] = pd.array([f"S{i}" for i in range(29)] + [None], dtype="string")
    adata.var["count"] = pd.array([None, *range(29)], dtype="Int64")
    adata.var["flag"] = pd.array([None, *[True] * 29], dtype="boolean")
    adata.obs["sample"] = pd.array(["a", None] * 10, dtype="string")
    adata.obs["number"] = pd.array([1, None] * 10, dtype="Int64")
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(tmp_path / "a.h5ad")
    with open_query(tmp_path / "a.h5ad") as query:
        columns = query.gene_columns("X")
        assert set(columns) == {"index", "ensembl", "symbol"}
        assert columns["symbol"][:2] == ["S0", "S1"]
        assert query.obs_column("sample") == ["a", ""] * 10
        assert query.obs_column("number") == ["1", ""] * 10


def test_real_file_is_streamed_whole(real_data):
    with open_query(real_data("pbmc3k_seurat.h5ad")) as query:
        assert query.matrices() == ["X"]
        shapes = [block.shape for block in query.blocks("X", 1000)]
    assert shapes == [(1000, 13714), (1000, 13714), (638, 13714)]


# --- bad files -----------------------------------------------------------------------------------


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no file"):
        open_query(tmp_path / "absent.h5ad")


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"is a folder without matrix\.mtx"):
        open_query(tmp_path)


@pytest.mark.parametrize("name", ["a.rda", "b.RData", "c.xlsx"])
def test_a_file_of_another_program_says_how_to_convert_it(tmp_path, name):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(InputError, match=r"of another program.*writeH5AD"):
        open_query(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"cell,CD3D\na,1\n", b"PX\x03\x04" + bytes(100)])
def test_a_file_that_is_not_hdf5(tmp_path, content):
    path = tmp_path / "a.h5ad"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"is not an HDF5 file \\({len(content)} bytes"):
        open_query(path)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(h5ad, share):
    data = h5ad.read_bytes()
    h5ad.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError) as caught, open_query(h5ad) as query:
        list(query.blocks("X", 5))
    assert str(h5ad) in caught.value.found
    assert "\n" not in str(caught.value)


def test_hdf5_that_is_no_anndata(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["matrix"] = np.ones(3)
    with pytest.raises(InputError, match="has no 'obs'"):
        open_query(path)


def write_0_6(adata, path):
    """Write a file as anndata 0.6 did: tables as records, sparse groups without encodings."""

    def records(index):
        return np.array([(name.encode(),) for name in index], dtype=[("index", "S20")])

    with h5py.File(path, "w") as file:
        for name, matrix in (("X", adata.X), ("raw.X", adata.raw.X)):
            group = file.create_group(name)
            group.attrs["h5sparse_format"] = "csr"
            group.attrs["h5sparse_shape"] = np.array(matrix.shape)
            for part in ("data", "indices", "indptr"):
                group[part] = getattr(matrix, part)
        file["obs"] = records(adata.obs_names)
        file["var"] = records(adata.var_names)
        file["raw.var"] = records(adata.raw.var_names)


def test_the_format_before_0_7(adata, tmp_path):
    write_0_6(adata, tmp_path / "a.h5ad")
    with open_query(tmp_path / "a.h5ad") as query:
        assert not query.h5ad
        assert query.matrices() == ["X", "raw"]
        assert query.cell_names() == list(adata.obs_names)
        np.testing.assert_array_equal(all_rows(query), adata.X.toarray())
        np.testing.assert_array_equal(all_rows(query, "raw"), adata.raw.X.toarray())
        assert query.to_adata().shape == adata.shape


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, lambda x: x.toarray()])
def test_zarr_stores_are_read_as_files_are(adata, h5ad, tmp_path, zarr_format, form):
    adata.X = form(adata.X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ad.settings.override(zarr_write_format=zarr_format):
            adata.write_zarr(tmp_path / "a.zarr")
    with open_query(tmp_path / "a.zarr") as query, open_query(h5ad) as plain:
        assert not query.h5ad
        assert query.n_cells == 20
        assert query.matrices() == plain.matrices()
        assert query.cell_names() == plain.cell_names()
        assert query.obs_column("truth") == plain.obs_column("truth")
        rows = np.array([0, 5, 19])
        for matrix in query.matrices():
            assert query.gene_columns(matrix) == plain.gene_columns(matrix)
            np.testing.assert_array_equal(all_rows(query, matrix), all_rows(plain, matrix))
            np.testing.assert_array_equal(
                query.rows(matrix, rows).toarray(), plain.rows(matrix, rows).toarray()
            )
        assert query.to_adata().shape == adata.shape


def test_a_damaged_zarr_store_is_one_line(adata, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr" / "X" / "indptr")
    with open_query(tmp_path / "a.zarr") as query, pytest.raises(InputError, match="Zarr store"):
        next(query.blocks("X", 5))


def test_zarr_that_is_not_installed_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zgroup").write_text("{}")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*'zarr"):
        open_query(tmp_path / "a.zarr")


def test_a_column_of_obs_as_strings(h5ad, adata):
    expected = ["B", "T", "odd", ""] * 5
    with open_query(h5ad) as query:
        assert query.obs_column("truth") == expected
        with pytest.raises(InputError, match=r"no obs\['absent'\]; expected one of truth, n"):
            query.obs_column("absent")
    assert AnnDataQuery(adata).obs_column("truth") == expected
    with pytest.raises(InputError, match="expected annotated cells"):
        MatrixQuery(adata.X, list(adata.var_names)).obs_column("truth")


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # anndata 0.12 of an empty one
def test_zero_cells(adata, tmp_path):
    adata[:0].copy().write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="holds zero cells"):
        open_query(tmp_path / "a.h5ad")


@pytest.mark.filterwarnings("ignore:Transforming to str index")
def test_zero_genes(adata, tmp_path):
    del adata.raw
    adata[:, :0].copy().write_h5ad(tmp_path / "a.h5ad")
    with open_query(tmp_path / "a.h5ad") as query, pytest.raises(InputError, match="zero genes"):
        query.gene_columns("X")


def test_a_matrix_with_fewer_rows_than_cells(damaged, h5ad):
    damaged["X"].attrs["shape"] = (19, 30)
    damaged.close()
    with (
        open_query(h5ad) as query,
        pytest.raises(InputError, match=r"shape \(19, 30\).*\(20, 30\)"),
    ):
        query.rows("X", np.arange(3))


def test_a_matrix_with_more_genes_than_names(damaged, h5ad):
    damaged["X"].attrs["shape"] = (20, 31)
    damaged.close()
    with open_query(h5ad) as query, pytest.raises(InputError, match=r"shape \(20, 31\)"):
        next(query.blocks("X", 3))


def test_a_sparse_matrix_without_its_values(damaged, h5ad):
    del damaged["X/data"]
    damaged.close()
    with open_query(h5ad) as query, pytest.raises(InputError, match="cannot read"):
        next(query.blocks("X", 3))


def test_cells_are_counted_without_reading_their_annotations(h5ad, monkeypatch):
    monkeypatch.setattr(anndata_files, "read_element", lambda node: pytest.fail(node.name))
    with open_query(h5ad) as query:
        assert query.n_cells == 20


def test_obs_that_is_no_table(damaged, h5ad):
    damaged["obs"].attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    damaged.close()
    with pytest.raises(InputError, match=r"'obs' of .* is no table"):
        open_query(h5ad)


# --- in memory -----------------------------------------------------------------------------------


def test_a_matrix_needs_one_name_a_column():
    with pytest.raises(InputError, match="3 columns and 2 gene names"):
        MatrixQuery(np.ones((2, 3)), ["a", "b"])


@pytest.mark.parametrize("bad", [np.ones(3), "text", None])
def test_a_matrix_has_two_dimensions(bad):
    with pytest.raises(InputError, match="two-dimensional"):
        MatrixQuery(bad, ["a"])


@pytest.mark.parametrize("kind", [object, "U3", np.complex64])
@pytest.mark.parametrize(
    "read",
    [
        lambda dense, var: MatrixQuery(dense, list(var.index)),
        lambda dense, var: AnnDataQuery(ad.AnnData(dense, var=var)),
    ],
    ids=["matrix", "adata"],
)
def test_what_is_no_real_number_is_one_line(adata, kind, read):
    dense = adata.X.toarray().astype(kind)
    with pytest.raises(InputError, match="expected real numbers"):
        all_rows(read(dense, adata.var))


def test_numbers_of_half_precision_are_numbers(adata):
    dense = adata.X.toarray().astype(np.float16)
    for query in (MatrixQuery(dense, list(adata.var_names)), AnnDataQuery(ad.AnnData(dense))):
        np.testing.assert_array_equal(all_rows(query), dense)


def test_matrices_in_memory_agree(adata):
    genes = list(adata.var_names)
    dense = adata.X.toarray()
    for matrix in (adata.X, dense, sp.csc_matrix(dense), sp.coo_matrix(dense)):
        query = MatrixQuery(matrix, genes)
        assert query.gene_columns("X") == {"index": genes}
        np.testing.assert_array_equal(all_rows(query), dense)


def test_string_columns_leave_out_numbers():
    table = pd.DataFrame(
        {
            "object": ["a", "b"],
            "category": pd.Categorical(["c", "d"]),
            "string": pd.array(["e", "f"], dtype="string"),
            "number": [1.0, 2.0],
            "flag": [True, False],
        },
        index=["g", "h"],
    )
    assert string_columns(table) == {
        "index": ["g", "h"],
        "object": ["a", "b"],
        "category": ["c", "d"],
        "string": ["e", "f"],
    }


@pytest.mark.parametrize("sparse", [True, False])
def test_matrices_of_dask_are_computed_once_a_chunk(sparse: bool) -> None:
    held = np.random.default_rng(0).poisson(0.5, (50, 7)).astype(np.float32)
    computed: list[int] = []

    def count(chunk: np.ndarray) -> Any:
        computed.append(len(chunk))
        return sp.csr_matrix(chunk) if sparse else chunk

    lazy = dask.array.from_array(held, chunks=(20, 7)).map_blocks(count, meta=np.empty((0, 0)))
    query = MatrixQuery(lazy, list("abcdefg"))
    blocks = list(query.blocks("X", 8))
    assert [b.shape[0] for b in blocks] == [8, 8, 4, 8, 8, 4, 8, 2]
    np.testing.assert_array_equal(sp.vstack(blocks).toarray(), held)
    assert computed == [20, 20, 10]
    some = np.array([3, 21, 49])
    np.testing.assert_array_equal(query.rows("X", some).toarray(), held[some])
    adata = AnnDataQuery(ad.AnnData(lazy))
    np.testing.assert_array_equal(sp.vstack(list(adata.blocks("X", 9))).toarray(), held)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (OSError("(memory allocation failed for raw data chunk)"), MemoryError, r"a\.h5ad: "),
        (OSError("read failed: time = Thu\n, filename = 'a'"), InputError, r"\(read failed: time"),
        (InputError("a", expected="b", do="c"), InputError, "^a; expected b; c$"),
        (OutputError("a", expected="b", do="c"), OutputError, "^a; expected b; c$"),
    ],
)
def test_what_libraries_raise_is_one_line_of_ours(error, kind, says):
    with pytest.raises(kind, match=says) as caught, one_line(Path("a.h5ad"), "file"):
        raise error
    assert "\n" not in str(caught.value)
