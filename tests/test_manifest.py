"""The manifest of a folder: one run at a time, and lines that are no records."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from scbignn_infer.batch import manifest
from scbignn_infer.batch.manifest import MANIFEST, hold
from scbignn_infer.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

DONE: dict[str, Any] = {
    "sample": "a",
    "status": "done",
    "input": "a",
    "output": "b",
    "cells": 3,
    "unknown": 0,
    "seconds": 1,
    "warnings": [],
}
GOOD = json.dumps(DONE).encode() + b"\n"


def changed(**values: Any) -> bytes:
    return json.dumps(DONE | values).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"\0" * 40,
        b"\xff\xfe",
        b"[" * 100_000,
        b"[1]",
        b'{"sample": "a", "stat',
        changed(sample=5),
        changed(status="perfect"),
        changed(output=None),
        changed(cells="3"),
        changed(unknown=-1),
        changed(warnings="none"),
        changed(seconds=[]),
    ],
)
def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, line: bytes) -> None:
    text = GOOD + line + b"\n" + GOOD
    (tmp_path / MANIFEST).write_bytes(text)
    with hold(tmp_path) as book:
        assert book.read() == [DONE, DONE]
        (warning,) = book.warnings
        assert "1 damaged line (number 2)" in warning
    assert (tmp_path / MANIFEST).read_bytes() == text


def test_a_line_that_is_too_long_is_damaged_and_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "MAX_LINE", 1000)
    for text in (GOOD + changed(output="x" * 5000) + b"\n" + GOOD, GOOD + changed(x="x" * 5000)):
        (tmp_path / MANIFEST).write_bytes(text)
        with hold(tmp_path) as book:
            assert book.read() == [DONE] * text.count(GOOD)
            assert "number 2" in book.warnings[0]
        assert (tmp_path / MANIFEST).read_bytes() == text


@pytest.mark.parametrize("tail", [b"{", GOOD[:20], GOOD[:-2], b"\0" * 9, GOOD[:15] + b"\0" * 9])
def test_a_last_line_that_a_kill_cut_short_goes_without_a_word(tmp_path: Path, tail: bytes) -> None:
    for before in (b"", GOOD):
        (tmp_path / MANIFEST).write_bytes(before + tail)
        with hold(tmp_path) as book:
            assert len(book.read()) == len(before) // len(GOOD)
            book.append([DONE])
        with hold(tmp_path) as book:
            assert book.read() == [DONE] * (1 + len(before) // len(GOOD))
            assert book.warnings == []


def test_without_a_lock_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    (tmp_path / MANIFEST).write_bytes(GOOD + GOOD[:30])
    with hold(tmp_path) as book:
        assert "Operation not supported" in book.warnings[0]
        assert book.read() == [DONE]
        book.append([DONE])
    assert (tmp_path / MANIFEST).read_bytes() == GOOD + GOOD[:30] + b"\n" + GOOD


def test_the_last_line_may_lack_its_end(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(GOOD[:-1])
    with hold(tmp_path) as book:
        assert book.read() == [DONE]
        book.append([DONE])
        assert book.read() == [DONE, DONE]
        assert book.warnings == []


@pytest.mark.parametrize("text", [b'{"files": []}\n', b"hello", b"a\nb\n", b'{"sample": 1}'])
def test_the_file_of_another_program_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(text)
    with hold(tmp_path) as book, pytest.raises(OutputError, match="is no manifest of scbignn"):
        book.read()
    assert (tmp_path / MANIFEST).read_bytes() == text


def test_it_is_a_regular_file_and_no_link(tmp_path: Path) -> None:
    path, other = tmp_path / MANIFEST, tmp_path / "other"
    other.write_bytes(GOOD)

    def refused(kind: str) -> None:
        with pytest.raises(OutputError, match=f"is {kind}; .*choose another -O"), hold(tmp_path):
            pass

    path.symlink_to(other)
    refused("a link")
    path.unlink()
    path.symlink_to(tmp_path / "absent")
    refused("a link")
    path.unlink()
    path.mkdir()
    refused("a folder")
    path.rmdir()
    os.mkfifo(path)
    refused("no regular file")
    assert other.read_bytes() == GOOD
    assert not (tmp_path / "absent").exists()


def test_two_hold_two_folders_and_one_holds_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with hold(tmp_path / "a") as first, hold(tmp_path / "b") as second:
        assert first.run != second.run
        with pytest.raises(OutputError, match="another run"), hold(tmp_path / "a"):
            pass
    with hold(tmp_path / "a") as again:
        assert again.run != first.run


def test_a_manifest_that_goes_meanwhile_is_not_written_into_the_void(tmp_path: Path) -> None:
    for put_back in (False, True):
        with hold(tmp_path) as book:
            (tmp_path / MANIFEST).unlink()
            if put_back:
                (tmp_path / MANIFEST).write_bytes(b"")
            with pytest.raises(OutputError, match="removed or replaced"):
                book.append([DONE])


def test_names_that_are_no_text_come_back_as_they_are(tmp_path: Path) -> None:
    record = DONE | {"output": os.fsdecode(b"caf\xe9.h5ad")}
    with hold(tmp_path) as book:
        book.append([record])
        assert book.read() == [record]
