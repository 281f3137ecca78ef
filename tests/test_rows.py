"""Numbers that stay on disk, against the same in memory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from scbignn_infer.annotation.provenance import count_repeated
from scbignn_infer.annotation.rows import PartedRows, SpreadRows
from scbignn_infer.output import elements
from scbignn_infer.query.readers import MatrixQuery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.rows import Rows

SIZES = (5, 1, 7, 4)


@pytest.fixture
def parts() -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.random((n, 3), np.float32) for n in SIZES]


@pytest.fixture
def reads() -> list[int]:
    """Return the numbers of the parts that were read, in turn."""
    return []


@pytest.fixture
def parted(parts: list[Array], reads: list[int]) -> PartedRows:
    def read(number: int) -> Array:
        reads.append(number)
        return parts[number]

    return PartedRows(read, np.cumsum(SIZES))


@pytest.fixture(params=["all", "some"])
def both(request: Any, parts: list[Array], parted: PartedRows) -> tuple[Rows, Array]:
    """Return rows on disk, and the same in memory; of all cells or of some of them."""
    whole = np.concatenate(parts)
    if request.param == "all":
        return parted, whole
    cells = np.sort(np.random.default_rng(1).choice(40, len(whole), replace=False))
    among = np.zeros((40, 3), np.float32)
    among[cells] = whole
    return SpreadRows(parted, cells, 40), among


def test_every_slice_is_that_of_the_array(both: tuple[Rows, Array]) -> None:
    rows, whole = both
    assert (len(rows), rows.shape, rows.dtype) == (len(whole), whole.shape, whole.dtype)
    for start in range(len(whole) + 2):
        for stop in range(len(whole) + 3):
            np.testing.assert_array_equal(rows[start:stop], whole[start:stop])
            np.testing.assert_array_equal(rows.columns[1][start:stop], whole[start:stop, 1])
    np.testing.assert_array_equal(np.asarray(rows), whole)


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_they_are_written_as_an_array_is(
    both: tuple[Rows, Array], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(elements, "ROWS_AT_ONCE", at_once)
    for name, values in zip(("disk", "memory"), both, strict=True):
        with h5py.File(tmp_path / name, "w") as file:
            elements.write_element(file, "before", np.arange(5))
            elements.write_element(file, "it", values)
            elements.write_element(file, "after", "text")
    assert (tmp_path / "disk").read_bytes() == (tmp_path / "memory").read_bytes()


def test_a_part_is_read_once_when_rows_are_taken_in_order(
    parted: PartedRows, reads: list[int]
) -> None:
    for start in range(0, len(parted), 2):
        for column in parted.columns:
            column[start : start + 2]
    assert reads == [0, 1, 2, 3]


class Names(MatrixQuery):
    """Cells with names, of which some are given at a time."""

    def __init__(self, blocks: list[list[str]]) -> None:
        super().__init__(np.ones((1, 1)), ["a"])
        self._blocks = blocks

    def name_blocks(self) -> Iterator[list[str]]:
        yield from self._blocks


class Alike(str):
    """A text that has the hash of every other."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize("kind", [str, Alike])
def test_repeated_names_are_counted(kind: type[str]) -> None:
    rng = np.random.default_rng(0)
    for most in (5, 200, 10**6):
        numbers = rng.integers(0, most, 200)
        names = [kind(f"cell {i}") for i in numbers]
        expected = sum(n - 1 for n in Counter(numbers.tolist()).values())
        assert count_repeated(Names([names[:50], [], names[50:]])) == expected


def test_no_names_are_no_repeated_names() -> None:
    assert count_repeated(Names([])) == count_repeated(Names([[]])) == 0
