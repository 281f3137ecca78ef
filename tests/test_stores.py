"""Zarr stores: nothing outside of them, no codec that runs code, and ``.zip`` as folders are."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from scbignn_infer.errors import InputError
from scbignn_infer.query import containment
from scbignn_infer.query.readers import open_query, stores

zarr = pytest.importorskip("zarr")
ZARR_3 = int(zarr.__version__.split(".")[0]) >= 3
FORMATS = [2, 3] if ZARR_3 else [2]


def write(adata, path, zarr_format=2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ZARR_3:
            with ad.settings.override(zarr_write_format=zarr_format):
                adata.write_zarr(path)
        else:
            adata.write_zarr(path)
    return path


@pytest.fixture(params=FORMATS)
def store(request, adata, tmp_path):
    """Return a store of each version."""
    return write(adata, tmp_path / "cells.zarr", request.param)


@pytest.fixture
def store_2(adata, tmp_path):
    return write(adata, tmp_path / "cells.zarr")


def edit(path, **changes):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))


def read_all(query):
    query.cell_names(), query.gene_columns("X")
    return np.vstack([b.toarray() for b in query.blocks("X", 7)])


# --- codecs --------------------------------------------------------------------------------------


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_values_are_never_unpickled(store_2, tmp_path, place):
    names = store_2 / "obs" / "_index"
    if (names / "values").is_dir():  # of anndata 0.13, a group of values and a mask
        names /= "values"
    for chunk in names.iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(pickle.dumps(Evil(tmp_path / "unpickled")))
    codec = {"id": "pickle"}
    if place == "filters":
        edit(names / ".zarray", filters=[{"id": "vlen-utf8"}, codec], compressor=None)
    else:
        edit(names / ".zarray", compressor=codec)
    with pytest.raises(InputError, match=r"_index.*zarray is packed with pickle; expected"):
        open_query(store_2)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("codec", ["msgpack2", "categorize", "astype", "my-own"])
def test_only_known_codecs_are_used(store_2, codec):
    edit(store_2 / "obs" / "n" / ".zarray", filters=[{"id": codec}])
    with pytest.raises(InputError, match=f"packed with {codec}"):
        open_query(store_2)


def test_a_fill_value_is_not_unpickled(store_2, tmp_path):
    import base64

    evil = base64.b64encode(pickle.dumps(Evil(tmp_path / "unpickled"))).decode()
    kind = {"dtype": "|O", "fill_value": evil}
    edit(store_2 / "obs" / "n" / ".zarray", filters=[{"id": "pickle"}], **kind)
    with pytest.raises(InputError, match="packed with pickle"):
        open_query(store_2)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.skipif(not ZARR_3, reason="version 3 of the format")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["numcodecs.pickle", "pickle", "my.own"])
def test_codecs_of_version_3(adata, tmp_path, name, nested):
    path = write(adata, tmp_path / "a.zarr", 3)
    codecs = [{"name": "bytes"}, {"name": name, "configuration": {}}]
    if nested:
        shard = {"chunk_shape": [1], "codecs": [{"name": "bytes"}], "index_codecs": codecs}
        codecs = [{"name": "sharding_indexed", "configuration": shard}]
    edit(path / "obs" / "n" / "zarr.json", codecs=codecs)
    with pytest.raises(InputError, match=f"packed with {name}; expected"):
        open_query(path)


@pytest.mark.skipif(not ZARR_3, reason="version 3 of the format")
def test_shards_are_read(adata, tmp_path):
    path = write(adata, tmp_path / "a.zarr", 3)
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    values = root["X/data"][:]
    del root["X/data"]
    root["X"].create_array("data", data=values, chunks=(10,), shards=(100,), filters=None)
    with open_query(path) as query:
        np.testing.assert_array_equal(read_all(query), adata.X.toarray())


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"zarr_format": 2}', "[" * 100_000])
def test_damaged_metadata_is_one_line(store_2, text):
    (store_2 / "X" / "data" / ".zarray").write_text(text)
    with pytest.raises(InputError, match="cannot read"):
        open_query(store_2)


def test_chunks_that_are_too_large(store, monkeypatch):
    monkeypatch.setattr(containment, "MOST_CHUNK", 100)
    monkeypatch.setattr(stores, "MOST_CHUNK", 100)
    with pytest.raises(InputError, match=r"has chunks of"):
        open_query(store)


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["X", "X/data", "obs/_index"])
def test_links_that_lead_out_of_the_store(store, tmp_path, what):
    (store / what).rename(tmp_path / "elsewhere")
    (store / what).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"'{what}' of .* is a link to another place"):
        open_query(store)


def test_a_chunk_that_is_a_link_out_of_the_store(store, tmp_path):
    chunk = next(p for p in sorted((store / "X" / "data").rglob("*")) if p.name == "0")
    chunk.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link to another place"):
        open_query(store)


def test_links_within_the_store_and_to_it(store, adata, tmp_path):
    (store / "X").rename(store / "values")
    (store / "X").symlink_to("values")
    (store / "uns" / "all").symlink_to("..")  # a circle
    (tmp_path / "link.zarr").symlink_to(store)
    with open_query(tmp_path / "link.zarr") as query:
        np.testing.assert_array_equal(read_all(query), adata.X.toarray())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO on this system")
def test_a_chunk_that_is_no_file(store):
    os.mkfifo(store / "X" / "data" / "9")
    with pytest.raises(InputError, match="is no plain file"):
        open_query(store)


def test_consolidated_metadata_are_not_used(store_2, adata):
    """What was looked at is what is read, whatever a summary of it says."""
    if not (store_2 / ".zmetadata").exists():  # older anndata writes none
        zarr.consolidate_metadata(str(store_2))
    whole = json.loads((store_2 / ".zmetadata").read_text())
    for name, part in whole["metadata"].items():
        if name.endswith(".zarray"):
            part |= {"shape": [1], "filters": [{"id": "pickle"}]}
    (store_2 / ".zmetadata").write_text(json.dumps(whole))
    with open_query(store_2) as query:
        np.testing.assert_array_equal(read_all(query), adata.X.toarray())
        assert query.to_adata().shape == adata.shape


# --- .zip ----------------------------------------------------------------------------------------


def pack(store, path, inside="", **how):
    with zipfile.ZipFile(path, "w", **how) as archive:
        for file in sorted(store.rglob("*")):
            if file.is_file():
                archive.write(file, inside + file.relative_to(store).as_posix())
    return path


@pytest.mark.parametrize("inside", ["", "cells.zarr/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_as_the_folder_is(store, tmp_path, inside, method):
    path = pack(store, tmp_path / "cells.zarr.zip", inside, compression=method)
    with open_query(path) as query, open_query(store) as plain:
        assert not query.h5ad
        assert query.matrices() == plain.matrices() == ["X", "layers/log1p", "raw"]
        assert query.cell_names() == plain.cell_names()
        np.testing.assert_array_equal(read_all(query), read_all(plain))
        assert query.obs_column("truth") == plain.obs_column("truth")
        whole = query.to_adata()
        np.testing.assert_array_equal(whole.X.toarray(), plain.to_adata().X.toarray())
        assert whole.raw.shape == (20, 40)
    path.unlink()  # nothing holds it


def test_a_zip_that_anndata_wrote(adata, tmp_path):
    path = tmp_path / "cells.zarr.zip"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zipped = zarr.storage.ZipStore(str(path), mode="w")  # writes some files twice
        try:
            adata.write_zarr(zipped)
        finally:
            zipped.close()
    with open_query(path) as query:
        np.testing.assert_array_equal(read_all(query), adata.X.toarray())
        assert query.to_adata().shape == adata.shape


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files cannot be told")
def test_a_closed_store_is_closed(store, tmp_path):
    def opened():
        return [
            link for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link) == str(path)
        ]

    path = pack(store, tmp_path / "cells.zarr.zip")
    with open_query(path) as query:
        assert opened()
        query.close()
    assert not opened()
    (store / "obs" / "_index").rename(tmp_path / "index")
    with pytest.raises(InputError):
        open_query(pack(store, path))
    assert not opened()


def test_a_zip_that_unpacks_to_too_much(store, tmp_path, monkeypatch):
    path = pack(store, tmp_path / "cells.zarr.zip", compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("X/data/9", bytes(4_000_000))
    with pytest.raises(InputError, match=r"'X/data/9' of .* unpacks to"):
        open_query(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_files_of_one_name(store_2, tmp_path):
    """Zarr writes some files anew; each is looked at, whichever is read."""
    path = pack(store_2, tmp_path / "cells.zarr.zip")
    name = "obs/n/.zarray"
    good = (store_2 / name).read_text()
    bad = json.dumps(json.loads(good) | {"filters": [{"id": "pickle"}]})
    for again in (bad, good):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, again)
        with pytest.raises(InputError, match="packed with pickle"):
            open_query(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip"])
def test_a_zip_that_is_none(tmp_path, content):
    (tmp_path / "a.zarr.zip").write_bytes(content)
    with pytest.raises(InputError, match="cannot read"):
        open_query(tmp_path / "a.zarr.zip")


def test_a_zip_without_a_store(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as archive:
        archive.writestr("readme", "nothing")
    with pytest.raises(InputError, match="cannot read"):
        open_query(tmp_path / "a.zarr.zip")
