"""Files that lead elsewhere, never end, or promise more than they hold: refused before reading."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query import containment, reading
from scbignn_infer.query.readers import bounds, open_query, stored
from scbignn_infer.query.readers.stored import RowStored, Stretches

ELSEWHERE = "lies in another file"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    with h5py.File(path, "w") as file:
        file["names"] = [b"hidden"] * 20
        file.create_group("group")
    return path


def loom(path):
    with h5py.File(path, "w") as file:
        file["matrix"] = np.ones((30, 20))
        file["row_attrs/Gene"] = [b"g%d" % i for i in range(30)]
        file["col_attrs/CellID"] = [b"c%d" % i for i in range(20)]


def tenx(path):
    counts = sp.random(20, 30, 0.3, "csr", random_state=0)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(counts, part)
        group["shape"] = [30, 20]
        group["barcodes"] = [b"c%d" % i for i in range(20)]
        for part in ("id", "name", "feature_type", "genome"):
            group[f"features/{part}"] = [b"g%d" % i for i in range(30)]


NAMES = {"h5ad": "obs/_index", "loom": "col_attrs/CellID", "tenx": "matrix/barcodes"}


@pytest.fixture(params=NAMES)
def made(request, tmp_path, h5ad):
    """Return a file of each kind and where its cells' names are."""
    path = h5ad
    if request.param != "h5ad":
        path = tmp_path / f"cells.{request.param}"
        {"loom": loom, "tenx": tenx}[request.param](path)
    return path, NAMES[request.param]


# --- nothing but the file ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["link", "storage", "virtual"])
def test_names_from_another_file(made, secret, how):
    path, names = made
    with h5py.File(path, "r+") as file:
        attributes = dict(file[names].attrs)
        del file[names]
        if how == "link":
            file[names] = h5py.ExternalLink(str(secret), "/names")
        elif how == "storage":
            file.create_dataset(names, (20,), "S6", external=[(str(secret), 0, 120)])
        else:
            layout = h5py.VirtualLayout((20,), "S6")
            layout[:] = h5py.VirtualSource(str(secret), "names", (20,))
            file.create_virtual_dataset(names, layout)
        if how != "link":
            file[names].attrs.update(attributes)
    with pytest.raises(InputError, match=f"'{names}' {ELSEWHERE}"):
        open_query(path)


@pytest.mark.parametrize("group", ["obs", "obsm", "uns", "uns/deep/within"])
def test_groups_from_another_file_are_not_opened(h5ad, tmp_path, group):
    with h5py.File(h5ad, "r+") as file:
        if group in file:
            del file[group]
        file[group] = h5py.ExternalLink(str(tmp_path / "absent"), "/group")
    with pytest.raises(InputError, match=f"'{group}' {ELSEWHERE}"):
        open_query(h5ad)


def test_soft_links_cannot_lead_through_another_file(h5ad, secret):
    with h5py.File(h5ad, "r+") as file:
        file["uns/door"] = h5py.ExternalLink(str(secret), "/")
        del file["obs/_index"]
        file["obs/_index"] = h5py.SoftLink("/uns/door/names")
    with pytest.raises(InputError, match=f"'uns/door' {ELSEWHERE}"):
        open_query(h5ad)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("region", [False, True])
def test_an_object_without_a_name_that_an_attribute_refers_to(h5ad, secret, region, many):
    with h5py.File(h5ad, "r+") as file:
        group = file.create_group("hidden")
        group["itself"] = group  # so that it lives on without a name
        data = group.create_dataset("d", (20,), "S6", external=[(str(secret), 0, 120)])
        reference = data.regionref[:] if region else data.ref
        kind = h5py.regionref_dtype if region else h5py.ref_dtype
        del file["hidden"]
        value = np.array([file.ref, reference] if many else reference, dtype=kind)
        if region and many:
            value = np.array([reference, reference], dtype=kind)
        file["obs/_index"].attrs.create("categories", value, dtype=kind)
    with pytest.raises(InputError, match=rf"'obs/_index \(by reference\)' {ELSEWHERE}"):
        open_query(h5ad)


def test_categories_of_anndata_0_7_are_read(h5ad):
    with h5py.File(h5ad, "r+") as file:
        obs = file["obs"]
        obs.attrs["encoding-version"] = "0.1.0"
        obs.attrs["column-order"] = ["group"]
        for name in set(obs) - {"_index"}:
            del obs[name]
        obs["__categories/group"] = ["B", "T"]
        obs["group"] = np.arange(20, dtype="i1") % 2
        obs["group"].attrs["categories"] = obs["__categories/group"].ref
    with open_query(h5ad) as query:
        assert query.obs_column("group") == ["B", "T"] * 10


def test_a_file_may_be_closed_twice(made):
    query = open_query(made[0])
    query.close()
    query.close()


def test_references_that_lead_nowhere_do_no_harm(h5ad):
    with h5py.File(h5ad, "r+") as file:
        file["uns/gone"] = [1]
        file["obs"].attrs["old"] = file["uns/gone"].ref
        file["obs"].attrs.create("null", np.empty(2, h5py.ref_dtype), dtype=h5py.ref_dtype)
        del file["uns/gone"]
    with open_query(h5ad) as query:
        assert len(query.cell_names()) == 20


# --- what never ends -----------------------------------------------------------------------------


def test_groups_in_themselves_are_looked_at_once(h5ad):
    with h5py.File(h5ad, "r+") as file:
        file["uns/all"] = file["/"]
        file["uns/one"] = file["uns/two"] = file["uns"]
    with open_query(h5ad) as query:
        assert len(query.cell_names()) == 20
        with pytest.raises(InputError, match="holds itself"):
            query.uns("one")
        with pytest.raises(InputError, match="holds itself"):
            query.to_adata()


def test_a_column_that_is_named_again_and_again_is_counted_each_time(h5ad, monkeypatch):
    monkeypatch.setattr(bounds, "MOST_PARTS", 1000)
    with h5py.File(h5ad, "r+") as file:
        file["obs"].attrs["column-order"] = ["n"] * 2000
    with open_query(h5ad) as query, pytest.raises(InputError, match="more than 1,000 parts"):
        query.obs_column("n")


def test_too_many_objects(h5ad, monkeypatch):
    monkeypatch.setattr(containment, "MOST_LINKS", 100)
    with h5py.File(h5ad, "r+") as file:
        for i in range(100):
            file[f"uns/{i}"] = file["obs"]
    with pytest.raises(InputError, match="more than 100 objects"):
        open_query(h5ad)


def break_heap(path):
    """Take the size of the free space from the last heap of strings, as one changed byte did."""
    data = bytearray(path.read_bytes())
    heap = data.rfind(b"GCOL")
    place = heap + 16
    while index := int.from_bytes(data[place : place + 2], "little"):
        assert index < 5000
        place += 16 + (int.from_bytes(data[place + 8 : place + 16], "little") + 7) // 8 * 8
    assert any(data[place + 8 : place + 16])
    data[place + 8 : place + 16] = bytes(8)
    path.write_bytes(data)


@pytest.mark.parametrize("at_once", [64, 1 << 24])
def test_a_heap_that_never_ends_is_not_opened(h5ad, monkeypatch, at_once):
    monkeypatch.setattr(containment, "AT_ONCE", at_once)
    containment.refuse_endless_heaps(h5ad)
    monkeypatch.undo()
    break_heap(h5ad)
    with pytest.raises(InputError, match="its heap of strings has no end"):
        open_query(h5ad)


def test_an_endless_heap_is_found_wherever_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(containment, "AT_ONCE", 64)
    heap = b"GCOL\x01\x00\x00\x00" + (32).to_bytes(8, "little") + bytes(16)
    for place in range(150):
        path = tmp_path / f"{place}.h5ad"
        path.write_bytes(b"GCO" * 50 + heap[:7])
        containment.refuse_endless_heaps(path)
        path.write_bytes((b"GCO" * 50)[:place] + heap + bytes(place % 5))
        with pytest.raises(InputError, match="its heap of strings has no end"):
            containment.refuse_endless_heaps(path)


def test_looking_for_heaps_ends(h5ad):
    """Each of these claims to be a heap of 16 MB."""
    with open(h5ad, "ab") as file:
        file.write((b"GCOL\x01\x00\x00\x00" + (1 << 24).to_bytes(8, "little")) * 100_000)
    with pytest.raises(InputError, match="its heap of strings has no end"):
        open_query(h5ad)


# --- no more than it is --------------------------------------------------------------------------


def replaced(file, name, shape, dtype, **how):
    """Make a data set anew, without values."""
    attributes = dict(file[name].attrs)
    del file[name]
    data = file.create_dataset(name, shape, dtype, **how)
    data.attrs.update(attributes)
    return data


def test_one_chunk_that_is_too_large(h5ad, monkeypatch):
    monkeypatch.setattr(containment, "MOST_CHUNK", 1 << 20)
    with h5py.File(h5ad, "r+") as file:
        values = file["X/data"][:]
        how = {"maxshape": (None,), "chunks": (1 << 18,), "compression": "gzip"}
        replaced(file, "X/data", values.shape, "f4", **how)[:] = values
    with open_query(h5ad):
        pass
    with h5py.File(h5ad, "r+") as file:
        how["chunks"] = ((1 << 18) + 1,)
        replaced(file, "X/data", values.shape, "f4", **how)[:] = values
    with pytest.raises(InputError, match=r"'X/data' of .* has chunks of"):
        open_query(h5ad)


@pytest.mark.parametrize("name", ["obs/_index", "var/_index", "X/indptr"])
def test_values_that_were_never_written(h5ad, name):
    text = name.endswith("_index")
    with h5py.File(h5ad, "r+") as file:
        kind = h5py.string_dtype() if text else "i8"
        replaced(file, name, (10**9,), kind, chunks=(1 << 16,), compression="gzip")
    with pytest.raises(InputError, match=f"'{name}' of .* declares .* cannot hold them"):
        open_query(h5ad)


def test_names_that_are_all_zeros(h5ad):
    n = 2_000_000
    with h5py.File(h5ad, "r+") as file:
        data = replaced(
            file, "obs/_index", (n,), h5py.string_dtype(), chunks=(n,), compression="gzip"
        )
        data[:1] = ["a"]
    with open_query(h5ad) as query, pytest.raises(InputError, match="none were written"):
        query.cell_names()


def test_honest_zeros_pass(tmp_path):
    zeros = ad.AnnData(np.zeros((3000, 1000), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zeros.write_h5ad(tmp_path / "a.h5ad", compression="gzip", compression_opts=9)
    assert (tmp_path / "a.h5ad").stat().st_size < 200_000
    with open_query(tmp_path / "a.h5ad") as query:
        assert sum(b.shape[0] for b in query.blocks("X", 1000)) == 3000


def test_what_is_packed_twice(h5ad):
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((10,))
    made.set_deflate(9)
    made.set_deflate(9)
    with h5py.File(h5ad, "r+") as file:
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file["uns"].id, b"twice", h5py.h5t.NATIVE_INT8, space, made)
    with pytest.raises(InputError, match="packed more than once"):
        open_query(h5ad)


@pytest.mark.parametrize("kind", ["variable", "fixed"])
@pytest.mark.parametrize("name", ["obs/_index", "var/_index"])
def test_names_of_a_million_characters(h5ad, name, kind):
    with h5py.File(h5ad, "r+") as file:
        n = len(file[name])
        long = np.array([b"A" * 1_000_000, *[b"c%d" % i for i in range(n - 1)]])
        if kind == "variable":
            replaced(file, name, (n,), h5py.string_dtype())[:] = long.astype(object)
        else:
            how = {"chunks": (1,), "compression": "gzip"}
            replaced(file, name, (n,), long.dtype, **how)[:] = long
    with open_query(h5ad) as query, pytest.raises(InputError, match=r"name of .* characters"):
        query.cell_names() if "obs" in name else query.gene_columns("X")


def test_one_long_string_that_all_columns_share(h5ad):
    """A string that is stored once and read for each cell takes memory each time."""
    with h5py.File(h5ad, "r+") as file:
        file["obs/long"] = np.array([b"A" * 200_000] * 20, dtype=h5py.string_dtype())
        file["obs"].attrs["column-order"] = ["long", "copy"]
        file["obs/copy"] = file["obs/long"]
    with open_query(h5ad, most_bytes=9_000_000) as query:
        assert len(query.obs_column("copy")) == 20
    with (
        open_query(h5ad, most_bytes=7_000_000) as query,
        pytest.raises(InputError, match=r"'obs' .* needs at least 0\.0 GB of memory"),
    ):
        query.obs_column("copy")


def test_more_cells_than_memory_holds(made):
    path, _ = made
    with pytest.raises(InputError, match="of memory; expected at most"):
        open_query(path, most_bytes=1000)


def test_the_format_before_0_7_is_weighed(tmp_path):
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["X"] = np.ones((20, 300))
        file["obs"] = np.array([(b"c%d" % i,) for i in range(20)], dtype=[("index", "S20")])
        file["var"] = np.array([(b"g%d" % i,) for i in range(300)], dtype=[("index", "S20")])
    assert open_query(tmp_path / "a.h5ad").n_cells == 20
    with pytest.raises(InputError, match="of memory"):
        open_query(tmp_path / "a.h5ad", most_bytes=40_000)


def test_layers_that_are_one_object_are_judged_once(h5ad, monkeypatch):
    with h5py.File(h5ad, "r+") as file:
        for i in range(300):
            file[f"layers/l{i}"] = file["X"]
            group = file.create_group(f"layers/m{i}")  # groups of their own with the same parts
            group.attrs.update(file["X"].attrs)
            for part in ("data", "indices", "indptr"):
                group[part] = file["X"][part]
    judged = []
    judge = reading.judge
    monkeypatch.setattr(reading, "judge", lambda rows: judged.append(rows.shape) or judge(rows))
    with open_query(h5ad) as query:
        verdicts = reading.judge_matrices(query)
    assert len(verdicts) == 603
    assert len(judged) == 3  # X, layers/log1p and raw
    assert verdicts["layers/l7"] == verdicts["layers/m7"] == verdicts["X"]


def test_too_many_matrices_that_differ(h5ad, monkeypatch):
    monkeypatch.setattr(bounds, "MOST_MATRICES", 2)
    monkeypatch.setattr("scbignn_infer.query.readers.anndata_files.MOST_MATRICES", 2)
    with open_query(h5ad) as query, pytest.raises(InputError, match="3 matrices; expected at most"):
        query.matrices()


# --- sparse matrices -----------------------------------------------------------------------------


class Chunks:
    """A data set that counts how often a chunk of it is unpacked."""

    def __init__(self, values, chunk):
        self.values, self.chunks, self.dtype = values, (chunk,), values.dtype
        self.shape, self.unpacked = values.shape, 0

    def __getitem__(self, part):
        start, stop, _ = part.indices(len(self.values))
        self.unpacked += -(-stop // self.chunks[0]) - start // self.chunks[0]
        return self.values[part]


def test_large_chunks_are_unpacked_at_most_twice(monkeypatch):
    monkeypatch.setattr(stored, "SMALL_CHUNK", 100)
    matrix = sp.random(500, 40, 0.3, "csr", np.float32, random_state=0)
    parts = {p: Chunks(getattr(matrix, p), 700) for p in ("data", "indices", "indptr")}
    rows = RowStored(parts, matrix.shape)
    for size in (1, 7, 500):
        parts["data"].unpacked = 0
        found = [rows[i : i + size] for i in range(0, 500, size)]
        assert (sp.vstack(found) != matrix).nnz == 0
        assert parts["data"].unpacked <= 2 * -(-matrix.nnz // 700)
    some = np.array([0, 3, 4, 5, 99, 100, 499])
    assert (rows[some] != matrix[some]).nnz == 0


def test_what_is_read_may_be_changed(monkeypatch):
    monkeypatch.setattr(stored, "SMALL_CHUNK", 100)
    values = Stretches(Chunks(np.arange(1000.0), 500))
    values[0:10][:] = -1
    np.testing.assert_array_equal(values[0:10], np.arange(10))


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("index", [-1, 1000])
def test_an_index_that_is_not_there_is_named(adata, tmp_path, form, index):
    del adata.raw
    adata.X = form(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][5] = index
    kind, n = ("column", 30) if form is sp.csr_matrix else ("row", 20)
    with (
        open_query(tmp_path / "a.h5ad") as query,
        pytest.raises(InputError, match=f"a {kind} index of {index}, with {n} {kind}s"),
    ):
        list(query.blocks("X", 7))


def test_a_row_with_far_more_values_than_columns(h5ad):
    with h5py.File(h5ad, "r+") as file:
        for part in ("data", "indices"):
            kind = file["X"][part].dtype
            replaced(file, f"X/{part}", (20_000,), kind, compression="gzip")[:] = 0
        ends = file["X/indptr"][:]
        ends[5:] = 20_000
        file["X/indptr"][:] = ends
    with open_query(h5ad) as query, pytest.raises(InputError, match="values in a row or column"):
        next(query.blocks("X", 5))


# --- texts ---------------------------------------------------------------------------------------


def write_table(path, n=200):
    table = pd.DataFrame(
        np.random.default_rng(0).poisson(0.5, (n, 3)), columns=["CD3D", "LYZ", "NKG7"]
    )
    table.index = [f"cell{i}" for i in range(n)]
    table.to_csv(path)


@pytest.mark.filterwarnings("ignore")  # names that are not unique
def test_a_table_that_unpacks_to_too_much(tmp_path, monkeypatch):
    known = {"CD3D", "LYZ", "NKG7"}
    write_table(tmp_path / "a.csv.gz")
    assert open_query(tmp_path / "a.csv.gz", known_genes=known).n_cells == 200
    with gzip.open(tmp_path / "b.csv.gz", "wb", 9) as file:
        file.write(b"cell,CD3D,LYZ,NKG7\n" + b"c,0,0,0\n" * 1_000_000)
    assert open_query(tmp_path / "b.csv.gz", known_genes=known).n_cells == 1_000_000
    monkeypatch.setattr(bounds, "SMALL_TEXT", 1 << 20)
    assert open_query(tmp_path / "a.csv.gz", known_genes=known).n_cells == 200
    with pytest.raises(InputError, match="unpacks to more than"):
        open_query(tmp_path / "b.csv.gz", known_genes=known)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_table_that_memory_does_not_hold(tmp_path, name):
    write_table(tmp_path / name)
    with open_query(tmp_path / name, orientation="cells-by-genes", most_bytes=13_000):
        pass
    with pytest.raises(InputError, match=r"of memory|unpacks to more"):
        open_query(tmp_path / name, orientation="cells-by-genes", most_bytes=3_000)


@pytest.mark.parametrize("name", ["matrix.mtx", "matrix.mtx.gz"])
@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b"coordinate integer general\n3 2 900000000000", "promises 900,000,000,000 values"),
        (b"array integer general\n4000000 4000000", "promises 16,000,000,000,000 values"),
        (b"coordinate integer general\n%" + b"x" * 2_000_000, "says no sizes"),
    ],
)
def test_a_matrix_that_promises_too_much(tmp_path, name, header, error):
    (tmp_path / "features.tsv").write_text("a\nb\nc\n")
    (tmp_path / "barcodes.tsv").write_text("x\ny\n")
    text = b"%%MatrixMarket matrix " + header + b"\n1 1 1\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    with pytest.raises(InputError, match=error):
        open_query(tmp_path)


def test_a_matrix_that_memory_does_not_hold(tmp_path):
    (tmp_path / "features.tsv").write_text("a\nb\nc\n")
    (tmp_path / "barcodes.tsv").write_text("x\ny\n")
    text = "%%MatrixMarket matrix coordinate pattern general\n3 2 3\n1 1\n2 1\n3 2"
    (tmp_path / "matrix.mtx").write_text(text)
    assert open_query(tmp_path).n_cells == 2
    with pytest.raises(InputError, match="of memory"):
        open_query(tmp_path, most_bytes=90)


@pytest.mark.parametrize(("inner", "key"), [("obs", "again"), ("obs/more/deep", "more")])
def test_a_group_that_holds_itself_is_refused_at_once(h5ad, inner, key):
    with h5py.File(h5ad, "r+") as file:
        file.require_group(inner)
        file[f"{inner}/again"] = file["obs"]
    with open_query(h5ad) as query:
        with pytest.raises(InputError, match=r"'obs' .* holds itself"):
            query.obs_column(key)
        assert len(query.obs_column("n")) == 20  # a column is read without the others


HOLD = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); input()"


def test_a_file_that_another_program_writes_is_named(h5ad):
    """As a notebook does that has it open; once it is closed it is read."""
    command = [sys.executable, "-c", HOLD, h5ad]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    locking = os.environ | {"HDF5_USE_FILE_LOCKING": "TRUE"}
    with subprocess.Popen(command, env=locking, **pipes) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(InputError, match="is open in another program"):
            open_query(h5ad)
        other.communicate("\n")
    open_query(h5ad).close()
