"""Blocks side by side: order, bounds and errors."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from scbignn_infer.network.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    second = threading.Event()

    def slow_at_first(item: int) -> int:
        if item == 1:
            second.set()
        if item == 0 and workers > 1:
            assert second.wait(60)
        return item * item

    assert list(in_order(slow_at_first, range(20), workers=workers)) == [i * i for i in range(20)]


@pytest.mark.parametrize("workers", [1, 3])
def test_few_items_are_drawn_ahead(workers: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        while drawn < 100:
            drawn += 1
            yield drawn

    for taken, _ in enumerate(in_order(str, items(), workers=workers), 1):
        assert drawn - taken <= workers


def test_workers_work_at_once_and_one_works_alone() -> None:
    meeting = threading.Barrier(2, timeout=10)
    assert len(list(in_order(lambda item: meeting.wait(), range(4), workers=2))) == 4
    names = set(in_order(lambda item: threading.current_thread().name, range(3), workers=1))
    assert names == {threading.current_thread().name}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_at_its_place_and_ends_the_work(workers: int) -> None:
    done: list[int] = []

    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        done.append(item)
        return item

    results = in_order(fail_at_three, range(1000), workers=workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(done) < 10
