from __future__ import annotations

import pytest

from scbignn_training import progress as module
from scbignn_training.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_a_line_at_each_stage_and_every_ten_seconds(clock):
    lines = []
    progress = Progress(lines.append, total=200)
    progress.stage("training fold 1 of 3")
    for _ in range(100):
        clock[0] += 0.25
        progress.step()
    progress.stage("training fold 2 of 3")
    assert lines == [
        "training fold 1 of 3: 0 % of all steps",
        "training fold 1 of 3: 20 % of all steps, about 40 s left",
        "training fold 1 of 3: 40 % of all steps, about 30 s left",
        "training fold 2 of 3: 50 % of all steps, about 25 s left",
    ]


def test_a_short_reading_is_silent_and_a_long_one_says_how_long_it_takes(clock):
    lines = []
    progress = Progress(lines.append, total=10_000, unit="cells")
    progress.begin("reading atlas.h5ad")
    progress.step(4096)
    assert lines == []
    clock[0] += 20.0
    progress.step(904)
    assert lines == ["reading atlas.h5ad: 50 % of all cells, about 20 s left"]


def test_restored_steps_count_but_tell_nothing_of_the_speed(clock):
    lines = []
    progress = Progress(lines.append, total=100)
    progress.restored("a", 50)
    progress.stage("b")
    assert lines == ["a: taken from the unfinished run", "b: 50 % of all steps"]
    assert progress.seconds_left is None
    clock[0] += 3.0
    for _ in range(10):
        progress.step()
    assert progress.seconds_left == pytest.approx(12.0)


@pytest.mark.usefixtures("clock")
def test_the_total_can_be_corrected():
    lines = []
    progress = Progress(lines.append, total=1000)
    progress.restored("a", 10)
    progress.expect(30)
    progress.stage("b")
    assert lines[-1] == "b: 25 % of all steps"
    progress.restored("b", 99)
    progress.stage("a")
    assert lines[-1] == "a: 100 % of all steps"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (31.2, "31 s"),
        (89, "89 s"),
        (95, "2 min"),
        (3000, "50 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_rough(seconds, text):
    assert duration(seconds) == text
