from __future__ import annotations

import dataclasses
import errno
import os
import stat
import subprocess
import sys
import textwrap
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scbignn_infer import outputs, writers
from scbignn_infer.errors import InputError, MissingExtraError, OutputError
from scbignn_infer.identity import Identity

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
    with outputs.replacing(target, new=new, source=seen) as temporary:
        with writers.copying(seen, temporary) as finish:
            finish(slots)


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def full_disk(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- whole or not at all -------------------------------------------------------------------------


def test_a_block_that_succeeds_makes_the_file(tmp_path):
    with outputs.replacing(tmp_path / "a.csv") as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert not (tmp_path / "a.csv").exists()
    assert files(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "new"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupted_block_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    target = tmp_path / "a.csv"
    target.write_text("old")

    def write():
        with outputs.replacing(target) as temporary:
            temporary.write_text("half")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert files(tmp_path) == ["a.csv"]
    assert target.read_text() == "old"


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)

    def write():
        with outputs.replacing(tmp_path / "a.csv") as temporary:
            temporary.write_text("half")

    with pytest.raises(OutputError, match=r"a\.csv \(No space left on device\).*free space"):
        write()
    assert files(tmp_path) == []


def test_a_failure_of_hdf5_is_one_line(tmp_path):
    def write():
        with outputs.replacing(tmp_path / "a.h5ad"):
            raise RuntimeError("Unable to flush file\nmore")

    with pytest.raises(OutputError, match="Unable to flush file") as caught:
        write()
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []


def test_a_folder_that_vanished(tmp_path):
    with pytest.raises(OutputError), outputs.replacing(tmp_path / "absent" / "a.csv"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="permissions and links of POSIX")
def test_mode_and_link_of_a_replaced_file_stay(tmp_path):
    target, link = tmp_path / "real.csv", tmp_path / "link.csv"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    with outputs.replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_new_file_has_the_mode_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with outputs.replacing(tmp_path / "a.csv"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o640


# --- checks before the work ----------------------------------------------------------------------


def check_output(path, *, overwrite=False, **rules):
    outputs.check_output(path, suffixes=writers.SUFFIXES, overwrite=overwrite, **rules)


def test_an_existing_output_is_refused(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(OutputError, match=r"a\.csv exists.*--overwrite"):
        check_output(tmp_path / "a.csv", overwrite=False)
    check_output(tmp_path / "a.csv", overwrite=True)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.h5", "a.csv.gz"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(OutputError, match=r"\.h5ad, \.csv, \.tsv, \.parquet"):
        check_output(tmp_path / name, overwrite=True)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match="no folder"):
        check_output(tmp_path / "absent" / "a.csv", overwrite=False)


def test_parquet_without_pyarrow_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"scbignn-infer\[parquet\]"):
        check_output(tmp_path / "a.parquet", overwrite=False)


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
    monkeypatch.setattr(writers, "_copy", full_disk)
    for target in (h5ad, tmp_path / "out.h5ad"):
        with pytest.raises(OutputError, match="No space left"):
            write_h5ad(h5ad, target, values)
    assert h5ad.read_bytes() == before
    assert files(tmp_path) == ["query.h5ad"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files by setrlimit")
@pytest.mark.parametrize("room", [-1000, 1000, 30_000])
def test_a_write_that_the_system_cuts_short(h5ad, tmp_path, room):
    """The real thing: the system refuses to write on, while copying or within HDF5."""
    before = h5ad.read_bytes()
    script = f"""
        import resource
        from pathlib import Path
        import anndata, h5py, numpy as np
        from scbignn_infer import outputs, writers
        from scbignn_infer.errors import OutputError
        from scbignn_infer.identity import Identity
        resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + room}, resource.RLIM_INFINITY))
        big = np.random.default_rng(0).random((20, 20_000), np.float32)
        seen = Identity.of(Path({str(h5ad)!r}))
        try:
            with outputs.replacing(Path({str(tmp_path / "out.h5ad")!r}), source=seen) as temporary:
                with writers.copying(seen, temporary) as finish:
                    finish(writers.Slots({{}}, {{"X_k": big}}, {{}}, {{}}))
        except OutputError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("cannot write"), done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert h5ad.read_bytes() == before
    assert files(tmp_path) == ["query.h5ad"]


def test_a_block_that_fails_ends_the_copy_and_leaves_nothing(h5ad, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "COPY_BYTES", 1)
    monkeypatch.setattr(os, "copy_file_range", lambda *arguments: time.sleep(0.01) or 1)
    start = time.perf_counter()
    with (
        pytest.raises(KeyboardInterrupt),
        outputs.replacing(tmp_path / "out.h5ad") as temporary,
        writers.copying(Identity.of(h5ad), temporary),
    ):
        raise KeyboardInterrupt
    assert time.perf_counter() - start < 5 < h5ad.stat().st_size * 0.01
    assert files(tmp_path) == ["query.h5ad"]


def test_a_block_that_never_finishes_leaves_nothing(h5ad, tmp_path):
    with (
        outputs.drafting(tmp_path / "out.h5ad") as draft,
        writers.copying(Identity.of(h5ad), draft.path),
    ):
        pass
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
    table = writers.make_table(names, values.columns, probabilities, ["B", "T"])
    with outputs.replacing(path) as temporary:
        writers.write_table(table, temporary, suffix)
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
