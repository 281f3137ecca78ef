from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem

import scbignn_infer
from scbignn_infer.errors import InputError, OutputError
from scbignn_infer.label_file import Job
from scbignn_infer.output import atomic
from scbignn_infer.output import h5ad as writers
from scbignn_infer.output.strings import plain_strings
from scbignn_infer.output.table import make_table, write_table
from scbignn_infer.query.identity import Identity
from scbignn_infer.settings import Settings

SLOTS = {"obs": ["k_cell_type"], "obsm": ["X_k"], "uns": ["k"]}


@pytest.fixture
def values():
    """Return an annotation of 20 cells as write_h5ad takes it."""
    names = np.array(["B", "T", "unknown", "B"] * 5, dtype=object)
    return writers.Slots(
        columns={
            "k_cell_type": writers.as_column(names, ["T", "B", "NK", "unknown"]),
            "k_confidence": np.linspace(0, 1, 20, dtype=np.float32),
        },
        matrices={"X_k": np.arange(40, dtype=np.float32).reshape(20, 2)},
        pairs={},
        records={"k": {"model": {"name": "toy"}, "cell_types": ["T", "B", "NK"]}},
    )


def write_h5ad(source, target, slots, *, new=False):
    """Copy a file, add slots and put it, as label_file does."""
    seen = Identity.of(source)
    with (
        atomic.replacing(target, new=new, source=seen) as temporary,
        writers.copying(seen, temporary) as finish,
    ):
        finish(slots)


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def full_disk(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- checks before the work ----------------------------------------------------------------------


def test_slots_of_an_earlier_run_are_refused(h5ad, values, tmp_path):
    writers.check_h5ad_slots(h5ad, SLOTS, overwrite=False)
    write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    with pytest.raises(OutputError, match=r"obs\['k_cell_type'\], obsm\['X_k'\], uns\['k'\]"):
        writers.check_h5ad_slots(tmp_path / "out.h5ad", SLOTS, overwrite=False)
    writers.check_h5ad_slots(tmp_path / "out.h5ad", SLOTS, overwrite=True)


# --- h5ad ----------------------------------------------------------------------------------------


def check(result, adata, values):
    assert list(result.obs["k_cell_type"]) == list(values.columns["k_cell_type"])
    assert list(result.obs["k_cell_type"].cat.categories) == ["T", "B", "unknown"]
    np.testing.assert_array_equal(result.obs["k_confidence"], values.columns["k_confidence"])
    np.testing.assert_array_equal(result.obsm["X_k"], values.matrices["X_k"])
    assert result.uns["k"]["model"]["name"] == "toy"
    assert list(result.uns["k"]["cell_types"]) == ["T", "B", "NK"]
    assert list(result.obs.columns[:2]) == ["truth", "n"]
    pd.testing.assert_frame_equal(result.obs[["truth", "n"]], adata.obs[["truth", "n"]])
    np.testing.assert_array_equal(result.X.toarray(), adata.X.toarray())
    np.testing.assert_array_equal(result.raw.X.toarray(), adata.raw.X.toarray())


def test_a_copy_has_the_slots_and_the_input_is_untouched(h5ad, adata, values, tmp_path):
    before = h5ad.read_bytes()
    write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    check(ad.read_h5ad(tmp_path / "out.h5ad"), adata, values)
    assert h5ad.read_bytes() == before
    assert files(tmp_path) == ["out.h5ad", "query.h5ad"]


def test_a_file_is_replaced_by_its_annotated_self(h5ad, adata, values, tmp_path):
    write_h5ad(h5ad, h5ad, values)
    check(ad.read_h5ad(h5ad), adata, values)
    assert files(tmp_path) == ["query.h5ad"]


def test_slots_can_be_written_again(h5ad, adata, values, tmp_path):
    write_h5ad(h5ad, h5ad, values)
    records = {"k": {**values.records["k"], "new": 1}}
    again = dataclasses.replace(values, records=records)
    write_h5ad(h5ad, h5ad, again)
    result = ad.read_h5ad(h5ad)
    check(result, adata, values)
    assert result.uns["k"]["new"] == 1
    assert list(result.obs).count("k_cell_type") == 1


def test_an_object_gets_the_same_slots(adata, values):
    result = adata.copy()
    writers.write_adata(result, values)
    check(result, adata, values)


def test_a_failed_write_leaves_input_and_folder_as_they_were(h5ad, values, tmp_path, monkeypatch):
    before = h5ad.read_bytes()
    monkeypatch.setattr(os, "copy_file_range", full_disk, raising=False)
    for target in (h5ad, tmp_path / "out.h5ad"):
        with pytest.raises(OutputError, match="No space left"):
            write_h5ad(h5ad, target, values)
    assert h5ad.read_bytes() == before
    assert files(tmp_path) == ["query.h5ad"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files by setrlimit")
def test_a_write_that_the_system_cuts_short(h5ad, tmp_path):
    """The real thing: the system refuses to write on, while copying or within HDF5."""
    script = f"""
        import resource, sys
        from pathlib import Path
        import anndata, h5py, numpy as np
        from scbignn_infer.output import atomic
        from scbignn_infer.output import h5ad as writers
        from scbignn_infer.errors import OutputError
        from scbignn_infer.query.identity import Identity
        source, target = Path({str(h5ad)!r}), Path({str(tmp_path / "out.h5ad")!r})
        seen, whole = Identity.of(source), anndata.read_h5ad(source)
        big = np.random.default_rng(0).random((20, 20_000), np.float32)
        columns = {{f"k_{{i}}": big[:, i] for i in range(20)}}
        slots = writers.Slots(columns, {{"X_k": big}}, {{}}, {{"k": {{"a": {{"b": 1}}}}}})
        def copy(path):
            with writers.copying(seen, path) as finish:
                finish(slots)
        def anew(path):
            writers.write_new_h5ad(whole, path, slots)
        for room in {ROOMS}:
            limit = seen.size + room
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            for write in (copy, anew):
                try:
                    with atomic.replacing(target, source=seen) as temporary:
                        write(temporary)
                    print("written", flush=True)
                except OutputError as error:
                    print(error, flush=True)
    """
    before = h5ad.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(lines)) == (0, "", 2 * len(ROOMS))
    assert all("out.h5ad (File too large)" in line for line in lines)
    assert h5ad.read_bytes() == before
    assert files(tmp_path) == ["query.h5ad"]


ROOMS = (-100_000, -1000, 0, 100, 1000, 5000, 30_000, 500_000, 1_500_000)
"""Bytes more than the query that a file may have."""


def test_a_new_file_is_as_anndata_writes_it(adata, values, tmp_path):
    adata.obs["text"] = np.array(["a", "b"] * 10, dtype=object)
    expected = adata.copy()
    writers.write_adata(expected, values)
    with plain_strings(expected):
        expected.write_h5ad(tmp_path / "expected.h5ad")
    (tmp_path / "out.h5ad").touch()
    writers.write_new_h5ad(adata, tmp_path / "out.h5ad", values)
    assert parts_of(tmp_path / "out.h5ad") == parts_of(tmp_path / "expected.h5ad")


def parts_of(path):
    """Return every group and dataset of a file with its attributes and values."""
    found = {}

    def keep(name, node):
        values = None
        if isinstance(node, h5py.Dataset):
            values = node.dtype, np.asarray(node[()]).tolist()
        found[name] = values, {k: str(v) for k, v in node.attrs.items()}

    with h5py.File(path) as file:
        keep("/", file)
        file.visititems(keep)
    return found


def test_what_could_not_be_written_is_read_all_the_same(tmp_path):
    """HDF5 that read anything but its own records would end the process."""
    rng, path, stop = np.random.default_rng(0), tmp_path / "a", threading.Event()
    expected = bytearray(rng.bytes(20_000))
    path.write_bytes(expected)
    with writers._Forbearing(path, stop) as disk:
        stop.set()
        for _ in range(300):
            at, n = (int(v) for v in rng.integers(1, 15_000, 2))
            expected += bytes(max(0, at + n - len(expected)))
            expected[at : at + n] = data = rng.bytes(n)
            disk.seek(at)
            assert disk.write(data) == n
            at, n = (int(v) for v in rng.integers(1, 15_000, 2))
            found = bytearray(n)
            disk.seek(at)
            disk.readinto(found)
            assert found == (expected[at : at + n] + bytes(n))[:n]
    assert len(path.read_bytes()) == 20_000


def test_an_interrupted_write_does_not_wait_until_all_is_written(h5ad, values, tmp_path):
    """Once it is stopped, HDF5 writes into the void and closes its file."""
    stop, target = threading.Event(), tmp_path / "out.h5ad"
    shutil.copy(h5ad, target)
    stop.set()
    writers._add_slots(target, values, h5ad, stop)
    before = h5ad.read_bytes()
    assert target.read_bytes()[: len(before)] == before


def test_a_block_that_fails_ends_the_copy_and_leaves_nothing(h5ad, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "COPY_BYTES", 1)
    copied = []

    def copy_a_byte(*arguments):
        copied.append(1)
        time.sleep(0.001)
        return 1

    monkeypatch.setattr(os, "copy_file_range", copy_a_byte, raising=False)
    with (
        pytest.raises(KeyboardInterrupt),
        atomic.replacing(tmp_path / "out.h5ad") as temporary,
        writers.copying(Identity.of(h5ad), temporary),
    ):
        raise KeyboardInterrupt
    assert len(copied) < 100 < h5ad.stat().st_size
    assert files(tmp_path) == ["query.h5ad"]


@pytest.mark.parametrize("told", [False, True])
def test_the_copy_waits_until_it_may_begin(h5ad, values, tmp_path, told):
    begin = threading.Event()
    with (
        atomic.drafting(tmp_path / "out.h5ad") as draft,
        writers.copying(Identity.of(h5ad), draft.path, begin) as finish,
    ):
        time.sleep(0.05)
        assert not draft.path.stat().st_size
        if told:
            begin.set()
            limit = time.monotonic() + 60
            while draft.path.stat().st_size < h5ad.stat().st_size and time.monotonic() < limit:
                time.sleep(0.01)
            assert draft.path.read_bytes() == h5ad.read_bytes()
        finish(values)
        assert "k_cell_type" in ad.read_h5ad(draft.path).obs


def test_a_file_is_copied_once_it_was_read(tmp_path):
    """What is read and what is written do not get into each other's way."""
    query = Path(scbignn_infer.__file__).parent / "examples" / "pbmc700.h5ad"
    sizes = {}
    settings = Settings(model="human-pbmc", device="cpu", threads=1)

    def note(stage, done, total):
        drafts = [p for p in tmp_path.iterdir() if p.name.startswith(".")]
        now = max((p.stat().st_size for p in drafts), default=0)
        sizes[stage] = max(now, sizes.get(stage, 0))

    with Job(query, tmp_path / "out.h5ad", settings, progress=note) as job:
        job.run()
    assert sizes["inspect"] == sizes["gene level"] == 0
    assert "scbignn_cell_type" in ad.read_h5ad(tmp_path / "out.h5ad").obs


def test_a_block_that_never_finishes_leaves_nothing(h5ad, tmp_path):
    with (
        atomic.drafting(tmp_path / "out.h5ad") as draft,
        writers.copying(Identity.of(h5ad), draft.path),
    ):
        pass
    assert files(tmp_path) == ["query.h5ad"]


def test_a_file_that_becomes_shorter_has_changed(h5ad, values, tmp_path, monkeypatch):
    def shorten(*arguments):
        with open(h5ad, "r+b") as file:
            file.truncate(1000)
        return 0

    monkeypatch.setattr(os, "copy_file_range", shorten, raising=False)
    with pytest.raises(InputError, match=r"query\.h5ad changed"):
        write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    assert files(tmp_path) == ["query.h5ad"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, None])
def test_copies_where_the_system_cannot(h5ad, adata, values, tmp_path, monkeypatch, code):
    def refuse(*arguments):
        if code is None:
            return 0  # as some file systems of the kernel answer
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    monkeypatch.setattr(writers, "COPY_BYTES", 1000)
    write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    check(ad.read_h5ad(tmp_path / "out.h5ad"), adata, values)


def test_a_full_disk_ends_the_copy_with_one_line(h5ad, values, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "copy_file_range", full_disk, raising=False)
    with pytest.raises(OutputError, match="No space left"):
        write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    assert files(tmp_path) == ["query.h5ad"]


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_have_a_row_a_cell(tmp_path, values, suffix):
    path = tmp_path / f"out{suffix}"
    probabilities = np.tile(np.array([[0.75, 0.25]], np.float32), (20, 1))
    names = [f"cell,{i}" for i in range(20)]
    table = make_table(names, values.columns, probabilities, ["B", "T"])
    with atomic.replacing(path) as temporary:
        write_table(table, temporary, suffix)
    if suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, index_col="cell", sep="\t" if suffix == ".tsv" else ",")
    assert list(table.index) == names
    assert list(table) == ["k_cell_type", "k_confidence", "probability_B", "probability_T"]
    assert list(table["k_cell_type"]) == list(values.columns["k_cell_type"])
    np.testing.assert_allclose(table["probability_B"], 0.75)
    assert files(tmp_path) == [path.name]


def test_columns_of_strings_are_categories_in_the_models_order():
    column = writers.as_column(np.array(["T", "B", "T"], dtype=object), ["NK", "B", "T"])
    assert list(column.categories) == ["B", "T"]
    numbers = np.array([1.0, 2.0])
    assert writers.as_column(numbers, ["B"]) is numbers


# --- nothing outside the file --------------------------------------------------------------------


@pytest.fixture
def elsewhere(h5ad, tmp_path):
    """Return another file that nobody may touch, and a function that tells that nobody has."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    victim = shutil.copy(h5ad, folder / "victim.h5ad")
    (folder / "values.bin").write_bytes(b"secret--" * 20)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    yield victim
    assert before == {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def link(name):
    def make(file, victim):
        if name in file:
            del file[name]
        file[name] = h5py.ExternalLink(str(victim), name)

    return make


def by_way_of_a_soft_link(file, victim):
    file["other"] = h5py.ExternalLink(str(victim), "/")
    del file["uns"]
    file["uns"] = h5py.SoftLink("/other/uns")


def index_is_stored_elsewhere(file, victim):
    del file["obs/_index"]
    values = str(victim.with_name("values.bin"))
    file["obs"].create_dataset("_index", (20,), "S8", external=[(values, 0, 160)])


def index_is_virtual(file, victim):
    del file["obs/_index"]
    layout = h5py.VirtualLayout((20,), h5py.string_dtype())
    layout[:] = h5py.VirtualSource(str(victim), "obs/_index", (20,))
    file["obs"].create_virtual_dataset("_index", layout)


def index_is_named_by_a_path(file, victim):
    file["obs/other"] = h5py.ExternalLink(str(victim), "/obs")
    file["obs"].attrs["_index"] = "other/_index"


ELSEWHERE = {
    "obs": link("obs"),
    "obsm": link("obsm"),
    "obsp": link("obsp"),
    "uns": link("uns"),
    "an old slot": link("obsm/X_k"),
    "X": link("X"),
    "by way of a soft link": by_way_of_a_soft_link,
    "index with external storage": index_is_stored_elsewhere,
    "virtual index": index_is_virtual,
    "index by a path": index_is_named_by_a_path,
}


@pytest.mark.parametrize("make", ELSEWHERE.values(), ids=ELSEWHERE)
def test_nothing_is_written_through_a_link(h5ad, values, tmp_path, elsewhere, make):
    with h5py.File(h5ad, "r+") as file:
        make(file, elsewhere)
    says = r"is a link, or its values lie in another file"
    with pytest.raises(InputError, match=says):
        writers.check_h5ad_slots(h5ad, SLOTS, overwrite=True)
    with pytest.raises(InputError, match=says):  # whoever has come past the first check
        write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    assert files(tmp_path) == ["elsewhere", "query.h5ad"]


def test_links_within_the_file_are_no_matter(h5ad, adata, values, tmp_path):
    with h5py.File(h5ad, "r+") as file:
        file["layers/again"] = h5py.SoftLink("/X")
        file["obsm/same"] = file["obs/n"]
    write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    with h5py.File(tmp_path / "out.h5ad") as file:
        assert file["obsm/same"] == file["obs/n"]
        assert file["layers"].get("again", getlink=True).path == "/X"
        assert list(file["obsm/X_k"][1]) == [2, 3]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: f.__delitem__("obs"), "'obs' of .* is not there"),
        (lambda f: f.__delitem__("obsm") or f.create_dataset("obsm", data=1), "'obsm' of .* is no"),
        (lambda f: f["obs"].attrs.__delitem__("_index"), "'obs' of .* has no index"),
        (lambda f: f["obs"].attrs.__setitem__("_index", "/var/_index"), "'obs' of .* no index"),
    ],
)
def test_a_file_without_room_for_slots_is_one_line(h5ad, values, tmp_path, make, says):
    with h5py.File(h5ad, "r+") as file:
        make(file)
    with pytest.raises(InputError, match=says) as caught:
        write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == ["query.h5ad"]


def test_slots_that_are_missing_are_made(h5ad, values, tmp_path):
    with h5py.File(h5ad, "r+") as file:
        for name in ("obsm", "uns"):
            del file[name]
    write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    result = ad.read_h5ad(tmp_path / "out.h5ad")
    assert (list(result.obsm), list(result.uns)) == (["X_k"], ["k"])


# --- the labels are those of the cells -----------------------------------------------------------


@pytest.mark.parametrize("part", ["columns", "matrices", "pairs"])
@pytest.mark.parametrize("n", [19, 21, 1])
def test_slots_of_other_cells_are_refused(h5ad, values, tmp_path, part, n):
    wrong = dataclasses.replace(values, **{part: {"k_wrong": np.zeros((n, 2))[:, 0]}})
    says = rf"'k_wrong' has {n} rows and .*query\.h5ad holds 20 cells"
    with pytest.raises(InputError, match=says):
        write_h5ad(h5ad, tmp_path / "out.h5ad", wrong)
    assert files(tmp_path) == ["query.h5ad"]


@pytest.mark.parametrize("index", ["categorical", "nullable-string-array"])
def test_cells_are_counted_whatever_their_index_is(h5ad, values, tmp_path, index):
    names = [f"c{i}" for i in range(20)]
    with h5py.File(h5ad, "r+") as file:
        del file["obs/_index"]
        if index == "categorical":
            write_elem(file["obs"], "_index", pd.Categorical(names))
        else:
            file["obs/_index/values"] = names
            file["obs/_index/mask"] = np.zeros(20, bool)
            file["obs/_index"].attrs["encoding-type"] = index
    write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    with h5py.File(tmp_path / "out.h5ad") as file:
        assert len(file["obs/k_confidence"]) == 20
    wrong = dataclasses.replace(values, matrices={"X_k": np.zeros((19, 2))})
    with pytest.raises(InputError, match="holds 20 cells"):
        write_h5ad(h5ad, tmp_path / "other.h5ad", wrong)


def test_a_damaged_group_is_one_line(h5ad, values, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise KeyError("Unable to synchronously open object\n(bad heap)")

    monkeypatch.setattr(writers, "check_inside", refuse)
    with pytest.raises(InputError, match=r"copy of .*query\.h5ad .*open object") as caught:
        write_h5ad(h5ad, tmp_path / "out.h5ad", values)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == ["query.h5ad"]
