"""Labels belong to the file that was read: whatever takes its place gets none."""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from scbignn_infer import label_file, open_query
from scbignn_infer.batch import samples
from scbignn_infer.batch import split as parts
from scbignn_infer.errors import InputError, OutputError
from scbignn_infer.query import readers
from scbignn_infer.query.identity import Identity
from scbignn_infer.report import layout, views
from scbignn_infer.settings import Settings

SETTINGS = Settings(model="human-pbmc", threads=1, device="cpu")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# --- what tells files apart ----------------------------------------------------------------------


def longer(path):
    path.write_bytes(path.read_bytes() + b" ")


def as_long_in_place(path):
    with open(path, "r+b") as file:
        file.write(b"X")
    later(path)


def later(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replaced_by_its_like(path):
    """As ``cp -p`` and a renaming do: size and time are the same."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def removed(path):
    path.unlink()


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change",
    [longer, as_long_in_place, later, replaced_by_its_like, removed],
    ids=lambda f: f.__name__,
)
def test_a_change_is_seen(tmp_path, change):
    path = tmp_path / "q.csv"
    path.write_text("cells")
    seen = Identity.of(path)
    seen.check()
    change(path)
    with pytest.raises(InputError, match=r"q\.csv changed while it was labelled") as caught:
        seen.check()
    assert "\n" not in str(caught.value)


def test_reading_and_another_link_are_no_change(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("cells")
    seen = Identity.of(path)
    path.read_text()
    path.chmod(0o600)
    (tmp_path / "b.csv").hardlink_to(path)
    seen.check()
    with seen.opened() as file:
        assert file.read() == b"cells"
    assert seen.size == 5


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("change", [longer, replaced_by_its_like, removed, a_pipe])
def test_only_the_same_file_is_opened_again(tmp_path, change):
    path = tmp_path / "q.csv"
    path.write_text("cells")
    seen = Identity.of(path)
    change(path)
    with pytest.raises(InputError, match="changed while"), seen.opened():
        pass


def test_another_machine_sees_the_same_by_sizes_and_times(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("cells")
    seen = Identity.of(path)
    elsewhere = Identity(path, {path: (99, 99, *seen.stamps[path][2:])})
    assert seen.resembles(elsewhere)
    longer(path)
    assert not seen.resembles(Identity.of(path))


# --- whose identity is taken ---------------------------------------------------------------------


def write_folder(adata, folder):
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", adata.X.T)
    pd.DataFrame({0: adata.var_names, 1: adata.var_names}).to_csv(
        folder / "features.tsv", sep="\t", header=False, index=False
    )
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))


def write_store(adata, path):
    pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the next version's format
        adata.write_zarr(path)


@pytest.mark.parametrize("changed", ["matrix.mtx", "features.tsv", "barcodes.tsv"])
@pytest.mark.parametrize("named", ["folder", "matrix"])
def test_each_file_of_a_matrix_folder_matters_and_others_do_not(adata, tmp_path, changed, named):
    folder = tmp_path / "cells"
    write_folder(adata, folder)
    path = folder if named == "folder" else folder / "matrix.mtx"
    with open_query(path) as cells:
        (folder / "matrix.scbignn.h5ad").write_text("an output")
        cells.identity.check()
        later(folder / changed)
        with pytest.raises(InputError, match=changed):
            cells.identity.check()


def test_a_chunk_of_a_store_that_is_replaced_or_added_is_seen(adata, tmp_path):
    write_store(adata, tmp_path / "q.zarr")
    with open_query(tmp_path / "q.zarr") as cells:
        chunks = [p for p in cells.identity.stamps if "data" in p.parts and p.is_file()]
        for chunk in chunks[:1]:
            replaced_by_its_like(chunk)
        with pytest.raises(InputError, match=r"q\.zarr.* changed"):
            cells.identity.check()


def test_of_a_large_store_a_bounded_number_is_kept(adata, tmp_path, monkeypatch):
    write_store(adata, tmp_path / "q.zarr")
    monkeypatch.setattr(readers.formats, "MOST_FILES", 7)
    with open_query(tmp_path / "q.zarr") as cells:
        assert len(cells.identity.stamps) == 7
        assert tmp_path / "q.zarr" in cells.identity.stamps


@pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")
def test_a_file_that_is_swapped_as_it_is_opened_is_refused(h5ad, tmp_path, monkeypatch):
    other = shutil.copy(h5ad, tmp_path / "other.h5ad")
    plain, opened = h5py.File, []

    def swapped(path, *arguments, **keywords):
        opened.append(
            plain(other, *arguments, **keywords)
        )  # and back again: the path tells nothing
        return opened[-1]

    monkeypatch.setattr(h5py, "File", swapped)
    with pytest.raises(InputError, match=r"query\.h5ad changed"):
        open_query(h5ad)
    assert not any(opened)  # closed again


# --- no label lands on other cells ---------------------------------------------------------------


@pytest.fixture
def query(example, tmp_path):
    folder = tmp_path / "cells"
    folder.mkdir()
    return shutil.copy(example, folder / "q.h5ad")


@pytest.fixture
def others(example, tmp_path):
    """Return a file with the same cells in another order."""
    path = tmp_path / "others.h5ad"
    ad.read_h5ad(example)[::-1].copy().write_h5ad(path)
    return path


STAGES = ("start", "labelled", "write")


@pytest.fixture(scope="module")
def found(example, pbmc_bundle):
    """Return an annotator and the annotation of the example."""
    annotator = label_file.make_annotator(SETTINGS, pbmc_bundle)
    with open_query(example) as cells:
        return annotator, annotator.annotate_query(cells)


@pytest.fixture
def label(found):
    """Return a function that labels a file and calls ``swap`` at a stage of the work."""

    def label(query, target, swap, stage, **options):
        def at(reached):
            if reached == stage:
                swap()

        with label_file.Job(
            query,
            target,
            SETTINGS,
            progress=lambda name, done, total: at(name) if not done else None,
            annotator=found[0],
            **options,
        ) as job:
            at("start")
            job.annotation = found[1]
            at("labelled")
            return job.write()

    return label


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("suffix", ["h5ad", "csv"])
def test_labels_of_a_file_that_was_swapped_are_not_written(label, query, others, suffix, stage):
    swap = lambda: shutil.copy(others, query.with_name("new")).replace(query)  # noqa: E731
    with pytest.raises(InputError, match=r"q\.h5ad changed while it was labelled"):
        label(query, query.with_name(f"out.{suffix}"), swap, stage)
    assert names(query.parent) == ["q.h5ad"]
    assert query.read_bytes() == others.read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_what_another_program_saves_meanwhile_stays(label, query, stage):
    def save():
        with h5py.File(query.with_name("new"), "w") as file, h5py.File(query) as old:
            for name in old:
                old.copy(name, file)
            file["obs/precious"] = np.arange(700)
        query.with_name("new").replace(query)

    with pytest.raises(InputError, match=r"q\.h5ad changed"):
        label(query, query, save, stage)
    assert names(query.parent) == ["q.h5ad"]
    with h5py.File(query) as file:
        assert "precious" in file["obs"]
        assert not [name for name in file["obs"] if name.startswith("scbignn")]


@pytest.mark.parametrize("suffix", ["h5ad", "csv"])
def test_labels_and_report_come_both_or_not_at_all(label, query, others, suffix, monkeypatch):
    pytest.importorskip("umap")

    def write(self, drafts, findings):
        drafts[0].path.write_text("page")
        return drafts, []

    monkeypatch.setattr(views.Views, "write", write)
    monkeypatch.setattr(layout, "lay_out", lambda z, **how: np.zeros((len(z), 2), np.float32))
    target, report = query.with_name(f"o.{suffix}"), views.Views(query.with_name("r.html"))
    swap = lambda: shutil.copy(others, query.with_name("new")).replace(query)  # noqa: E731
    with pytest.raises(InputError, match="changed"):
        label(query, target, swap, "write", views=report)
    assert names(query.parent) == ["q.h5ad"]
    with pytest.raises(OutputError, match=r"r\.html exists"):
        label(query, target, lambda: report.page.write_text("mine"), "write", views=report)
    assert report.page.read_text() == "mine"
    report.page.unlink()
    label(query, target, lambda: None, "write", views=report)
    assert names(query.parent) == [target.name, "q.h5ad", "r.html"]


def test_a_file_that_is_written_anew_while_it_is_read_is_not_called_damaged(label, query):
    with pytest.raises(InputError, match=r"q\.h5ad changed"):
        label(query, query.with_name("o.csv"), lambda: query.write_bytes(b""), "start")
    assert names(query.parent) == ["q.h5ad"]


def test_of_two_runs_with_one_output_the_second_fails(label, query):
    target = query.with_name("out.csv")
    with pytest.raises(OutputError, match=r"out\.csv exists"):
        label(query, target, lambda: label(query, target, lambda: None, "write"), "labelled")
    assert names(query.parent) == ["out.csv", "q.h5ad"]
    assert len(pd.read_csv(target)) == 700


def test_an_undisturbed_file_is_labelled_in_place_and_beside_it(label, query):
    label(query, query.with_name("out.h5ad"), lambda: None, "write")
    label(query, query, lambda: None, "write")
    assert names(query.parent) == ["out.h5ad", "q.h5ad"]
    assert query.read_bytes() == query.with_name("out.h5ad").read_bytes()


def test_the_input_by_a_hard_link_is_no_output(label, query):
    target = query.with_name("same.h5ad")
    target.hardlink_to(query)
    with pytest.raises(OutputError, match="is the input"):
        label(query, target, lambda: None, "start", overwrite=True)
    page = query.with_name("r.html")
    page.hardlink_to(query)
    with pytest.raises(OutputError, match=r"r\.html is the input"):
        label(
            query,
            query.with_name("out.csv"),
            lambda: None,
            "start",
            overwrite=True,
            views=views.Views(page),
        )


def test_labels_of_fewer_cells_are_refused(query):
    for suffix in ("h5ad", "csv"):
        with label_file.Job(query, query.with_name(f"o.{suffix}"), SETTINGS) as job:
            rows = readers.RowRange(job.cells, 0, 600)
            job.annotation = job.annotator.annotate_query(rows, choice=job.choice)
            with pytest.raises(InputError, match=r"600 rows and .* holds 700 cells"):
                job.write()
    assert names(query.parent) == ["q.h5ad"]


def test_parts_of_another_file_are_not_joined(query, tmp_path):
    settings = dataclasses.replace(SETTINGS, graph="reference")
    sample = samples.Sample("q", query, tmp_path / "q.csv")
    task = samples.Task(sample, settings, split=300)
    cells = ad.read_h5ad(query)
    ad.AnnData(sp.vstack([cells.X] * 3, "csr"), var=cells.var).write_h5ad(query)
    planned = parts.plan(task)
    assert len(planned) > 1
    assert parts.label_part(planned[0]) == ""
    later(Path(query))
    assert "changed while" in parts.label_part(planned[1])
    record = parts.join(task, planned[:1], [""])
    assert record["status"] == "failed"
    assert "changed while" in record["error"]
    assert not (tmp_path / "q.csv").exists()
