"""What is given to the functions of Python, and strings that other programs read."""

from __future__ import annotations

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scbignn_infer
from scbignn_infer.errors import InputError
from scbignn_infer.output.h5ad import Slots, write_new_h5ad
from scbignn_infer.query.readers import AnnDataQuery, open_query

NO_SLOTS = Slots({}, {}, {}, {})


class MuData:
    """A stand-in, which has the name and the modalities of mudata's."""

    def __init__(self, **mod):
        self.mod = mod


class SpatialData:
    """A stand-in, which has the name and the tables of spatialdata's."""

    def __init__(self, **tables):
        self.tables = tables


@pytest.fixture(scope="module")
def cells(example):
    """Return a part of the shipped example."""
    return ad.read_h5ad(example)[:60].copy()


def label(adata, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return scbignn_infer.annotate(adata, "human-pbmc", device="cpu", threads=1, **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cells.h5ad", r"the path 'cells.h5ad' where an AnnData is needed.*anndata.read_h5ad"),
        (MuData(prot=1, rna=2), r"a MuData of prot, rna .*mdata\['rna'\]"),
        (MuData(x=1), r"mdata\['x'\]"),
        (SpatialData(cells=1), r"sdata.tables\['cells'\]"),
        (pd.DataFrame({"CD3D": [1]}), r"DataFrame where .*anndata.AnnData\(table\)"),
        (np.ones((2, 3)), r"ndarray where .*annotate_matrix"),
        (None, "NoneType where"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_anndata_is_one_line(given, message):
    for ask in (
        lambda: scbignn_infer.annotate(given, "human-pbmc"),
        lambda: scbignn_infer.explain(given, "human-pbmc", ["a"]),
        lambda: AnnDataQuery(given),
    ):
        with pytest.raises(InputError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_real_mudata_is_told_by_its_name(cells):
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = mudata.MuData({"rna": cells})
    with pytest.raises(InputError, match=r"pass one modality: mdata\['rna'\]"):
        label(given)


def test_two_columns_of_one_name_are_one_line(cells):
    adata = cells.copy()
    twice = pd.DataFrame({"s": adata.var_names}, index=adata.var_names)
    adata.var = pd.concat([adata.var, twice, twice], axis=1)
    with pytest.raises(InputError, match=r"var has several columns called 's'.*rename or drop"):
        label(adata)


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, lambda x: x.toarray()])
def test_a_backed_x_gives_the_same_labels(cells, tmp_path, form):
    adata = cells.copy()
    label(adata)
    stored = cells.copy()
    stored.X = form(sp.csr_matrix(cells.X))
    stored.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(InputError, match=r"a copy of an AnnData that is backed.*to_memory"):
        label(backed, copy=True)
    with pytest.raises(InputError, match=r"a part of an AnnData that is backed.*to_memory"):
        label(backed[:30])
    label(backed)
    assert backed.obs["scbignn_cell_type"].equals(adata.obs["scbignn_cell_type"])
    backed.file.close()


def test_a_backed_file_without_x_is_read_from_raw(cells, tmp_path):
    adata = cells.copy()
    adata.raw = cells
    adata.X = None
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert AnnDataQuery(backed).matrices() == ["raw"]
    backed.file.close()


def test_x_is_no_layer(adata):
    assert AnnDataQuery(adata).matrices() == ["X", "layers/log1p", "raw"]


def test_counts_in_obsm_are_named(run, cells, tmp_path):
    adata = ad.AnnData(obs=cells.obs.copy(), var=cells.var.copy())
    adata.obsm["X_pca"], adata.obsm["counts"] = np.ones((60, 3)), sp.csr_matrix(cells.X)
    message = r"but obsm\['counts'\] with 765 columns.*adata.layers\['counts'\] = adata.obsm"
    with pytest.raises(InputError, match=message):
        label(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    done = run("annotate", tmp_path / "a.h5ad", "-m", "human-pbmc", code=1)
    assert "obsm['counts']" in done.output
    adata.layers["counts"] = adata.obsm["counts"]
    label(adata)
    assert adata.uns["scbignn"]["matrix"]["name"] == "layers/counts"


def test_repeated_names_are_remarked_on_and_kept(run, cells, tmp_path):
    adata = cells.copy()
    adata.obs_names = ["one", "one", *adata.obs_names[2:]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scbignn_infer.annotate(adata, "human-pbmc", device="cpu", threads=1)
    said = "cells with the name of an earlier cell: 1; all cells are kept"
    assert said in [str(w.message) for w in caught]
    adata.to_df().to_csv(tmp_path / "a.csv")
    options = ["-m", "human-pbmc", "--device", "cpu", "--threads", "1", "-o"]
    for name in ("a.h5ad", "a.tsv"):
        done = run("annotate", tmp_path / "a.csv", *options, tmp_path / name)
        assert said in " ".join(done.output.split())
    assert list(pd.read_csv(tmp_path / "a.tsv", sep="\t")["cell"]) == list(adata.obs_names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(ad.read_h5ad(tmp_path / "a.h5ad").obs_names) == list(adata.obs_names)


# --- strings -------------------------------------------------------------------------------------


def with_masked_strings():
    """Return an AnnData with strings that have a mask wherever there may be any."""

    def strings(*values):
        return pd.array(values, dtype="string")

    table = {"some": strings("a", None, "c"), "all": strings("a", "b", "c")}
    kinds = pd.Categorical(strings("a", "b", "a"))
    obs = pd.DataFrame({**table, "kind": kinds}, index=strings("p", "q", "r"))
    var = pd.DataFrame({"gene": strings("x", "y")}, index=strings("g", "h"))
    adata = ad.AnnData(np.ones((3, 2), np.float32), obs=obs, var=var)
    adata.raw = adata.copy()
    adata.obsm["table"] = pd.DataFrame(table, index=adata.obs_names)
    adata.uns["table"] = pd.DataFrame(table, index=strings("1", "2", "3"))
    adata.uns["deep"] = {"some": table["some"], "numbers": np.arange(3)}
    return adata


def encodings(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.update({name: node.attrs.get("encoding-type")}))
    return found


def check_plain(path):
    kinds = encodings(path)
    assert not [name for name, kind in kinds.items() if kind and kind.startswith("nullable-str")]
    assert {kinds["obs/_index"], kinds["var/_index"]} == {"string-array"}


def test_a_new_file_has_strings_that_every_reader_knows(tmp_path):
    adata = with_masked_strings()
    labels = pd.Categorical(pd.array(["B", "T", "B"], dtype="string"))
    (tmp_path / "a.h5ad").touch()  # as a draft is
    write_new_h5ad(adata, tmp_path / "a.h5ad", Slots({"label": labels}, {}, {}, {"k": {"t": "B"}}))
    check_plain(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert (list(again.obs_names), list(again.raw.var_names)) == (["p", "q", "r"], ["g", "h"])
    for table in (again.obs, again.obsm["table"], again.uns["table"]):
        assert list(table["some"].isna()) == [False, True, False]
        assert list(table["all"]) == ["a", "b", "c"]
    assert list(again.obs["kind"]) == ["a", "b", "a"]
    assert list(again.obs["label"]) == ["B", "T", "B"]
    assert list(again.uns["deep"]["some"].isna()) == [False, True, False]
    np.testing.assert_array_equal(again.uns["deep"]["numbers"], np.arange(3))


def test_a_store_with_nullable_strings_is_labelled_and_written(run, cells, tmp_path):
    adata = cells.copy()
    adata.obs["donor"] = pd.array(["a", None] * 30, dtype="string")
    adata.obs_names = pd.Index(adata.obs_names, dtype="string")
    with warnings.catch_warnings(), ad.settings.override(allow_write_nullable_strings=True):
        warnings.simplefilter("ignore")
        adata.write_zarr(tmp_path / "a.zarr")
    with open_query(tmp_path / "a.zarr") as query:
        assert query.cell_names() == list(cells.obs_names)
    options = ["-m", "human-pbmc", "--device", "cpu", "--threads", "1"]
    run("annotate", tmp_path / "a.zarr", *options)
    check_plain(tmp_path / "a.scbignn.h5ad")
    assert list(ad.read_h5ad(tmp_path / "a.scbignn.h5ad").obs["donor"].isna()) == [False, True] * 30


def test_slots_in_a_copy_have_plain_strings(run, example, tmp_path):
    options = ["-m", "human-pbmc", "--device", "cpu", "--threads", "1", "-o"]
    out = tmp_path / "b.h5ad"
    run("annotate", example, *options, out)
    new = encodings(out).items() - encodings(example).items()
    assert "uns/scbignn/cell_types" in dict(new)
    assert not [name for name, kind in new if kind and kind.startswith("nullable")]
