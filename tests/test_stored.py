"""Rows of column-stored matrices, against scipy, within a bound of memory."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.query.readers import stored as columns
from scbignn_infer.query.readers.stored import ColumnStored, RowStored

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def matrix() -> sp.csc_matrix:
    rng = np.random.default_rng(0)
    values = rng.poisson(0.4, (57, 31)).astype(np.float32)
    values[:, 4] = 0  # an empty column
    values[9] = 0  # an empty row
    return sp.csc_matrix(values)


def on_disk(path: Path, matrix: sp.csc_matrix) -> ColumnStored:
    group = h5py.File(path, "w").create_group("X")
    for name in ("data", "indices", "indptr"):
        group[name] = getattr(matrix, name)
    return ColumnStored(group, matrix.shape)


@pytest.mark.parametrize("read", [1, 40, 1 << 20])
@pytest.mark.parametrize("held", [1, 100, 1 << 20])
def test_rows_are_those_of_scipy(
    matrix: sp.csc_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: int, held: int
) -> None:
    monkeypatch.setattr(columns, "READ_VALUES", read)
    monkeypatch.setattr(columns, "HELD_VALUES", held)
    rows = on_disk(tmp_path / "a.h5", matrix)
    dense = matrix.toarray()
    for size in (1, 10, 57, 100):
        found = [rows[i : i + size] for i in range(0, 57, size)]
        np.testing.assert_array_equal(sp.vstack(found).toarray(), dense)
    some = np.array([0, 9, 30, 56])
    np.testing.assert_array_equal(rows[some].toarray(), dense[some])


def test_passes_are_as_few_as_memory_allows(
    matrix: sp.csc_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "HELD_VALUES", matrix.nnz // 3 + 40)
    rows = on_disk(tmp_path / "a.h5", matrix)
    read = ColumnStored._read
    passes = []
    monkeypatch.setattr(
        ColumnStored, "_read", lambda self, rows: passes.append(len(rows)) or read(self, rows)
    )
    for i in range(0, 57, 4):
        rows[i : i + 4]
    assert len(passes) == 3
    assert sum(passes) == 57


def test_one_pass_serves_samples_and_slices_where_all_rows_fit(
    matrix: sp.csc_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = on_disk(tmp_path / "a.h5", matrix)
    read = ColumnStored._read
    passes = []
    monkeypatch.setattr(
        ColumnStored, "_read", lambda self, rows: passes.append(len(rows)) or read(self, rows)
    )
    some = np.array([3, 50])
    for _ in range(2):
        np.testing.assert_array_equal(rows[some].toarray(), matrix.toarray()[some])
        np.testing.assert_array_equal(rows[10:20].toarray(), matrix.toarray()[10:20])
    assert passes == [57]


@pytest.mark.parametrize("wrong", [-1, 57])
def test_rows_that_are_not_there_are_refused(
    matrix: sp.csc_matrix, tmp_path: Path, wrong: int
) -> None:
    rows = on_disk(tmp_path / "a.h5", matrix)
    rows._indices._values[5] = wrong
    with pytest.raises(ValueError, match=f"a row index of {wrong}, with 57 rows"):
        rows[:10]


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "READ_VALUES", 1 << 14)
    monkeypatch.setattr(columns, "HELD_VALUES", 1 << 16)
    matrix = sp.random(20_000, 100, density=0.5, format="csc", dtype=np.float32, random_state=0)
    rows = on_disk(tmp_path / "a.h5", matrix)
    tracemalloc.start()
    for i in range(0, 20_000, 1000):
        rows[i : i + 1000]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * (1 << 16) < matrix.nnz * 8


@pytest.mark.parametrize("chunk", [None, 50])
@pytest.mark.parametrize("gap", [0, 20, 1 << 12])
@pytest.mark.parametrize("read", [30, 1 << 20])
def test_sampled_rows_are_read_together_where_little_lies_between(
    matrix: sp.csc_matrix,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int | None,
    gap: int,
    read: int,
) -> None:
    monkeypatch.setattr(columns, "GAP_VALUES", gap)
    monkeypatch.setattr(columns, "READ_VALUES", read)
    rows = matrix.tocsr()
    group = h5py.File(tmp_path / "a.h5", "w").create_group("X")
    for name in ("data", "indices", "indptr"):
        group.create_dataset(name, data=getattr(rows, name), chunks=chunk and (chunk,))
    stored = RowStored(group, rows.shape)
    for wanted in ([0, 1, 2, 9, 30, 31, 56], [5], [], [0, 56], list(range(57))):
        some = np.array(wanted, np.int64)
        np.testing.assert_array_equal(stored[some].toarray(), rows[some].toarray())
        for run in stored._runs(some):
            ends = rows.indptr[run + 1]
            between = rows.indptr[run[1:]] - ends[:-1]
            assert between.max(initial=0) <= max(gap, chunk or 1)
            most = read + np.diff(rows.indptr).max()
            assert len(run) == 1 or ends[-1] - rows.indptr[run[0]] <= most
