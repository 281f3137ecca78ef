"""The gate for outputs, and the way of a file to its place."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from scbignn_infer.errors import InputError, MissingExtraError, OutputError
from scbignn_infer.output import atomic
from scbignn_infer.output.table import TABLE_SUFFIXES
from scbignn_infer.query.identity import Identity


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def full_disk(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- whole or not at all -------------------------------------------------------------------------


def test_a_block_that_succeeds_makes_the_file(tmp_path):
    with atomic.replacing(tmp_path / "a.csv") as temporary:
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
        with atomic.replacing(target) as temporary:
            temporary.write_text("half")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert files(tmp_path) == ["a.csv"]
    assert target.read_text() == "old"


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)

    def write():
        with atomic.replacing(tmp_path / "a.csv") as temporary:
            temporary.write_text("half")

    with pytest.raises(OutputError, match=r"a\.csv \(No space left on device\).*free space"):
        write()
    assert files(tmp_path) == []


def test_a_failure_of_hdf5_is_one_line(tmp_path):
    def write():
        with atomic.replacing(tmp_path / "a.h5ad"):
            raise RuntimeError("Unable to flush file\nmore")

    with pytest.raises(OutputError, match="Unable to flush file") as caught:
        write()
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []


def test_a_folder_that_vanished(tmp_path):
    with pytest.raises(OutputError), atomic.replacing(tmp_path / "absent" / "a.csv"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="permissions and links of POSIX")
def test_mode_and_link_of_a_replaced_file_stay(tmp_path):
    target, link = tmp_path / "real.csv", tmp_path / "link.csv"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    with atomic.replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_new_file_has_the_mode_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic.replacing(tmp_path / "a.csv"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o640


# --- checks before the work ----------------------------------------------------------------------


def check_output(path, *, overwrite=False, **rules):
    atomic.check_output(path, suffixes=(".h5ad", *TABLE_SUFFIXES), overwrite=overwrite, **rules)


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
    with pytest.raises(MissingExtraError, match=r"pip install .pyarrow"):
        check_output(tmp_path / "a.parquet", overwrite=False)


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("by_link", [False, True])
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a socket"])
def test_what_is_no_regular_file_is_refused(tmp_path, kind, by_link):
    path = place = tmp_path / "a.csv"
    if by_link:
        place = tmp_path / "place"
        path.symlink_to(place)
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a folder":
        place.mkdir()
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.relpath(place))
        listener.close()
    with pytest.raises(OutputError, match=rf"a\.csv is {kind}.*regular file"):
        check_output(path, overwrite=True)
    with pytest.raises(OutputError, match=kind), atomic.replacing(path):  # it came meanwhile
        pass
    assert not place.is_file()
    assert path.is_symlink() == by_link
    assert [n for n in files(tmp_path) if n.endswith(".tmp")] == []


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
@pytest.mark.parametrize("way", ["name", "hard link", "symbolic link", "folder"])
def test_an_input_is_no_output(tmp_path, way):
    source, path = tmp_path / "q.csv", tmp_path / "a.csv"
    source.write_text("cells")
    if way == "name":
        path = source
    elif way == "hard link":
        path.hardlink_to(source)
    elif way == "symbolic link":
        path.symlink_to(source)
    else:
        (tmp_path / "link").symlink_to(tmp_path)
        path = tmp_path / "link" / "q.csv"
    with pytest.raises(OutputError, match=r"is the input .*q\.csv.*another name"):
        check_output(path, overwrite=True, inputs=[Identity.of(source)])
    check_output(tmp_path / "b.csv", inputs=[Identity.of(source)])


def test_no_output_goes_into_a_store_that_is_read(tmp_path):
    store = tmp_path / "q.zarr"
    (store / "obs").mkdir(parents=True)
    with pytest.raises(OutputError, match="or lies in it"):
        check_output(store / "obs" / "a.csv", inputs=[Identity.of(store)])


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
@pytest.mark.parametrize("there", [False, True])
def test_two_outputs_are_two_files(tmp_path, there):
    if there:
        (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    with pytest.raises(OutputError, match=r"a\.csv and .*b\.csv are the same file"):
        check_output(tmp_path / "b.csv", overwrite=True, others=[tmp_path / "a.csv"])
    check_output(tmp_path / "c.csv", others=[tmp_path / "a.csv"])


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_circle_of_links_is_one_line(tmp_path):
    (tmp_path / "a.csv").symlink_to(tmp_path / "a.csv")
    with pytest.raises(OutputError, match="cannot write"):
        check_output(tmp_path / "a.csv", overwrite=True)


# --- nothing that came meanwhile is lost ---------------------------------------------------------


def no_links(*arguments, **keywords):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["links", "no links", "no links, seen late"])
def system(request, monkeypatch):
    """Let the file system make hard links or none; the last look may come too early, too."""
    if request.param != "links":
        monkeypatch.setattr(os, "link", no_links)
    if request.param.endswith("late"):
        monkeypatch.setattr(Path, "exists", lambda path: False)


@pytest.mark.usefixtures("system")
def test_what_came_meanwhile_is_not_replaced(tmp_path):
    def write():
        with atomic.replacing(tmp_path / "a.csv", new=True) as temporary:
            temporary.write_text("second")
            with atomic.replacing(tmp_path / "a.csv", new=True) as other:
                other.write_text("first")

    with pytest.raises(OutputError, match=r"a\.csv exists.*--overwrite"):
        write()
    assert files(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "first"


@pytest.mark.usefixtures("system")
def test_a_new_file_has_its_content_and_no_other_name(tmp_path):
    with atomic.replacing(tmp_path / "a.csv", new=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.csv").read_text() == "new"
    assert (tmp_path / "a.csv").stat().st_nlink == 1
    assert files(tmp_path) == ["a.csv"]


def test_where_nothing_can_be_linked_or_moved_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(Path, "replace", full_disk)

    def write():
        with atomic.replacing(tmp_path / "a.csv", new=True) as temporary:
            temporary.write_text("new")

    with pytest.raises(OutputError, match="No space left"):
        write()
    assert files(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_link_that_came_meanwhile_leads_nowhere(tmp_path):
    """Only what the name led to at the start is written."""
    (tmp_path / "precious").write_text("mine")
    with atomic.replacing(tmp_path / "a.csv") as temporary:
        temporary.write_text("new")
        (tmp_path / "a.csv").symlink_to(tmp_path / "precious")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "a.csv").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_link_to_nothing_yet_stays_one(tmp_path):
    (tmp_path / "a.csv").symlink_to("b.csv")
    with atomic.replacing(tmp_path / "a.csv", new=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.csv").is_symlink()
    assert (tmp_path / "b.csv").read_text() == "new"


def test_a_source_that_changed_gives_no_output(tmp_path):
    (tmp_path / "q.csv").write_text("cells")
    (tmp_path / "a.csv").write_text("old")

    def write():
        source = Identity.of(tmp_path / "q.csv")
        with atomic.replacing(tmp_path / "a.csv", source=source) as temporary:
            temporary.write_text("new")
            (tmp_path / "q.csv").write_text("others")

    with pytest.raises(InputError, match=r"q\.csv changed while"):
        write()
    assert files(tmp_path) == ["a.csv", "q.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_of_two_outputs_none_is_put_where_one_cannot_be(tmp_path):
    with (
        atomic.drafting(tmp_path / "a.csv", new=True) as a,
        atomic.drafting(tmp_path / "b.html", new=True) as b,
    ):
        (tmp_path / "b.html").write_text("another's")
        with pytest.raises(OutputError, match=r"b\.html exists"):
            atomic.put([a, b])
    assert files(tmp_path) == ["b.html"]


# --- why it failed -------------------------------------------------------------------------------

HDF5_SAYS = (
    "Can't synchronously write data (file write failed: time = Thu Nov 26 10:03:22 2026\n"
    ", filename = 'b.h5', file descriptor = 4, errno = 28, error message = 'No space left on "
    "device', buf = 0x55d8f01bcc10, total write size = 702048)"
)


@pytest.mark.parametrize("error", [OSError(28, HDF5_SAYS), RuntimeError(HDF5_SAYS)])
def test_a_full_disk_within_hdf5_is_one_plain_line(tmp_path, error):
    with (
        pytest.raises(OutputError, match=r"a\.h5ad \(No space left on device\);") as caught,
        atomic.replacing(tmp_path / "a.h5ad"),
    ):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        OSError("Can't synchronously read data (memory allocation failed for raw data chunk)"),
        RuntimeError("Unable to allocate 7.28 TiB for an array with shape (1000000, 1000000)"),
    ],
)
def test_want_of_memory_is_no_fault_of_the_disk(tmp_path, error):
    with pytest.raises(MemoryError, match=r"a\.h5ad"), atomic.replacing(tmp_path / "a.h5ad"):
        raise error
    assert files(tmp_path) == []
