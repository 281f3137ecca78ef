"""Files of SeuratDisk, as it has written them (``data/r/make_h5seurat.R``), and damaged ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from scbignn_infer import open_query
from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    Edit = Callable[[h5py.File], Any]

FOLDER = Path(__file__).parent / "data" / "r"
READ_IN_R = {
    ("array", "0.2.0"),
    ("categorical", "0.2.0"),
    ("csr_matrix", "0.1.0"),
    ("dataframe", "0.2.0"),
    ("dict", "0.1.0"),
    ("numeric-scalar", "0.2.0"),
    ("string", "0.2.0"),
    ("string-array", "0.2.0"),
}
"""Encodings of h5ad that both anndataR 1.0 and the readers of zellkonverter 1.15 know. Neither has
strings with a mask, and anndata before 0.11, which zellkonverter runs, has no ``null``."""


@pytest.fixture(scope="module")
def written() -> ad.AnnData:
    """Return the cells that the files hold."""
    return ad.read_h5ad(FOLDER.parent / "pancreas400.h5ad")[::8, ::20].copy()


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Edit], Path]:
    """Return a function that changes a file within HDF5."""

    def edited(edit: Edit, name: str = "seurat4") -> Path:
        path = tmp_path / "cells.h5seurat"
        shutil.copy(FOLDER / f"{name}.h5seurat", path)
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return edited


def encodings(path: Path) -> set[tuple[str, str]]:
    """Return how the parts of an h5ad are stored."""
    found = set()

    def see(name: str, node: Any) -> None:
        if "encoding-type" in node.attrs:
            found.add((node.attrs["encoding-type"], node.attrs["encoding-version"]))
        else:  # the parts of a sparse matrix, and of values with a mask
            assert Path(name).name in {"data", "indices", "indptr", "values", "mask"}, name

    with h5py.File(path) as file:
        file.visititems(see)
    return found


@pytest.mark.parametrize(
    "options",
    [[], ["--sets", ".9", "--write-graph"], ["--adapt"]],
    ids=" ".join,
)
def test_an_h5ad_has_nothing_that_a_reader_in_r_does_not_know(run, example, tmp_path, options):
    output = tmp_path / "o.h5ad"
    run("annotate", example, "-m", "human-pbmc", "-o", output, *options)
    assert {("categorical", "0.2.0"), ("string-array", "0.2.0")} < encodings(output) <= READ_IN_R


def replaced(name: str, values: Any) -> Edit:
    """Replace a data set or a group."""

    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return edit


def test_cells_genes_matrices_and_columns_are_those_that_seuratdisk_wrote(written):
    with open_query(FOLDER / "seurat4.h5seurat") as query:
        assert query.matrices() == ["X", "layers/data"]
        assert query.notes == ["X is 'counts' of the assay RNA", "other assays are left out: ADT"]
        assert query.cell_names() == written.obs_names.tolist()
        assert query.gene_columns("X") == {"index": written.var_names.tolist()}
        rows = np.array([0, 7, 8, 50])
        found = query.rows("X", rows)
        np.testing.assert_array_equal(found.toarray(), written.X[rows].toarray())
        types = query.obs_column("cell_type")
        whole = query.to_adata()
    expected = written.obs.cell_type.astype(str).tolist()
    assert types == [expected[0], "", *expected[2:]]
    assert (whole.X != written.X).nnz == 0
    logged = np.log1p(written.X.toarray() / written.X.sum(axis=1) * 1e4)
    np.testing.assert_allclose(whole.layers["data"].toarray(), logged, rtol=1e-6)
    obs = whole.obs
    assert obs.score.tolist() == [(i + 1) / 2 for i in range(written.n_obs)]
    assert obs.donor.tolist()[:3] == ["a", "b", "a"]
    assert obs.good.tolist()[:2] == ["TRUE", "FALSE"]
    assert obs.good.isna().tolist()[:3] == [False, False, True]
    assert obs.cluster.isna().tolist()[:3] == [False, True, False]
    assert obs.cell_type.isna().tolist()[:3] == [False, True, False]


def test_a_dense_matrix_is_turned(written):
    with open_query(FOLDER / "dense.h5seurat") as query:
        assert query.matrices() == ["X"]
        assert query.notes == ["X is 'data' of the assay integrated"]
        found = np.vstack([block.toarray() for block in query.blocks("X", 20)])
    logged = np.log1p(written.X.toarray() / written.X.sum(axis=1) * 1e4)
    np.testing.assert_allclose(found, logged, rtol=1e-6)


def test_labels_are_those_of_the_h5ad(run, tmp_path, edited):
    """The matrix of a file is made that of 4,000 genes, as SeuratDisk lays it out."""
    whole = ad.read_h5ad(FOLDER.parent / "pancreas400.h5ad")[::8].copy()

    def edit(file: h5py.File) -> None:
        del file["assays/RNA/counts"], file["assays/RNA/data"], file["assays/RNA/features"]
        file["assays/RNA/features"] = np.array(whole.var_names, dtype=h5py.string_dtype())
        group = file.create_group("assays/RNA/counts")
        group.attrs["dims"] = whole.shape[::-1]
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(whole.X, part)

    whole.write_h5ad(tmp_path / "cells.h5ad")
    paths = {"h5ad": tmp_path / "cells.h5ad", "h5seurat": edited(edit)}
    for name, path in paths.items():
        run("annotate", path, "-m", "human-pancreas", "-o", tmp_path / f"{name}.csv")
    one, other = (pd.read_csv(tmp_path / f"{name}.csv", index_col=0) for name in paths)
    pd.testing.assert_frame_equal(one, other)
    assert one.scbignn_cell_type.nunique() > 3
    run("annotate", paths["h5seurat"], "-m", "human-pancreas", "-o", tmp_path / "o.h5ad")
    assert encodings(tmp_path / "o.h5ad") <= READ_IN_R
    labelled = ad.read_h5ad(tmp_path / "o.h5ad")
    assert labelled.obs.scbignn_cell_type.tolist() == one.scbignn_cell_type.tolist()
    assert labelled.obs.donor.tolist()[:3] == ["a", "b", "a"]


def test_columns_of_another_form_are_left_out(edited):
    def edit(file: h5py.File) -> None:
        columns = file["meta.data"]
        columns["matrix"] = np.ones((53, 2))
        columns["short"] = np.ones(52)
        columns.create_group("nested")["deep"] = 1
        columns["records"] = np.zeros(53, [("a", "i4"), ("b", "f8")])
        columns["nowhere"] = h5py.SoftLink("/nothing")

    with open_query(edited(edit)) as query:
        assert [*query.to_adata().obs] == ["cell_type", "score", "donor", "good", "cluster"]
    records = np.zeros(53, [("score", "f8")])
    with open_query(edited(replaced("meta.data", records))) as query:  # of an early SeuratDisk
        assert [*query.to_adata().obs] == []


WRONG: dict[str, tuple[Edit, str]] = {
    "no default assay": (lambda f: f.attrs.__delitem__("active.assay"), "default assay 'None'"),
    "another default assay": (
        lambda f: f.attrs.__setitem__("active.assay", "X"),
        "one of ADT, RNA",
    ),
    "no matrix": (
        lambda f: [f["assays/RNA"].__delitem__(name) for name in ("counts", "data")],
        r"no counts and no data.*as\(object\[\['RNA'\]\], 'Assay'\)",
    ),
    "an assay of a number": (replaced("assays/RNA", 1), "cannot read"),
    "genes of numbers": (
        replaced("assays/RNA/features", np.arange(3)),
        "53 x 200 values, for 53 cells and 3",
    ),
    "too few genes": (replaced("assays/RNA/features", np.array([b"INS"])), "53 cells and 1 genes"),
    "cells in a table": (replaced("cell.names", np.full((53, 2), b"a")), "cannot read"),
    "no cells": (replaced("cell.names", np.array([], "S1")), "zero cells"),
    "no pointers": (lambda f: f["assays/RNA/counts"].__delitem__("indptr"), "cannot read"),
    "other dims": (
        lambda f: f["assays/RNA/counts"].attrs.__setitem__("dims", [53, 200]),
        "200 x 53 values",
    ),
    "an index of no gene": (
        lambda f: f["assays/RNA/counts/indices"].__setitem__(0, 200),
        "column index of 200",
    ),
    "texts": (replaced("assays/RNA/counts/data", np.full(3670, b"a")), "of type"),
    "a link": (
        lambda f: f.__setitem__("assays/RNA/elsewhere", h5py.ExternalLink("other.h5", "/")),
        "lies in another file",
    ),
    "a group that holds itself": (
        lambda f: f.__setitem__("meta.data/again", f["meta.data"]),
        "holds itself",
    ),
    "a name of a million letters": (
        replaced("cell.names", np.array([b"a" * 1_000_000] + [b"b"] * 52)),
        "name of 1,000,000 characters",
    ),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_is_wrong_is_one_line(edited, what):
    edit, message = WRONG[what]
    path = edited(edit)

    def read() -> None:
        with open_query(path) as query:
            query.to_adata()

    with pytest.raises(InputError, match=message) as error:
        read()
    assert "\n" not in str(error.value)


def test_values_that_were_never_written_are_refused(edited):
    def edit(file: h5py.File) -> None:
        del file["cell.names"]
        file.create_dataset("cell.names", (10_000_000,), "S100", chunks=(1000,))

    with pytest.raises(InputError, match="declares 1,000,000,000 bytes"):
        open_query(edited(edit))


def test_more_than_memory_holds_is_refused():
    with pytest.raises(InputError, match="needs at least"):
        open_query(FOLDER / "seurat4.h5seurat", most_bytes=1000)
    with (
        open_query(FOLDER / "seurat4.h5seurat", most_bytes=40_000) as query,
        pytest.raises(InputError, match="needs at least"),
    ):
        query.to_adata()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_file_is_one_line(tmp_path, share):
    data = (FOLDER / "seurat4.h5seurat").read_bytes()
    path = tmp_path / "cut.h5seurat"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.h5seurat"):
        open_query(path)


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bits_are_one_line_or_nothing(tmp_path, seed):
    data = bytearray((FOLDER / "seurat4.h5seurat").read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(data), 200):
        data[place] ^= 1 << rng.integers(8)
    path = tmp_path / "flipped.h5seurat"
    path.write_bytes(data)
    said = ""
    try:
        with open_query(path) as query:
            query.to_adata()
    except InputError as error:
        said = str(error)
    assert "\n" not in said
