"""What Windows and macOS do otherwise, by fakes: neither has run these tests."""

from __future__ import annotations

import ast
import errno
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from scbignn_infer.batch import manifest
from scbignn_infer.errors import OutputError
from scbignn_infer.output import atomic

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = (
    "scbignn_infer",
    "training",
    "exported_models",
    "docs",
    "packaging",
    "tests",
    "workflows",
)


class InUseError(PermissionError):
    """What Windows raises for a file that another program has open."""

    winerror = 32


@pytest.fixture
def held(monkeypatch):
    """Return a function that lets so many moves fail, as a program does that holds the file."""

    def hold(times: int) -> list[Path]:
        tried, move = [], Path.replace

        def replace(path: Path, target: Path) -> Path:
            tried.append(path)
            if len(tried) <= times:
                raise InUseError(errno.EACCES, "The process cannot access the file")
            return move(path, target)

        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(atomic, "PAUSES", (0, 0, 0))
        return tried

    return hold


def write(target: Path) -> None:
    with atomic.replacing(target) as draft:
        draft.write_text("new")


def test_a_file_that_is_held_for_a_moment_is_replaced(held, tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")
    tried = held(3)
    write(target)
    assert target.read_text() == "new"
    assert len(tried) == 4
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_stays_open_elsewhere_is_one_line(held, tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")
    held(100)
    with pytest.raises(OutputError, match="no other program has open; close that program"):
        write(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_may_not_be_written_is_not_tried_again(monkeypatch, tmp_path):
    tried = []

    def refuse(path: Path, target: Path) -> None:
        tried.append(path)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        write(tmp_path / "a.csv")
    assert len(tried) == 1


def test_the_lock_of_windows_holds_a_folder(monkeypatch, tmp_path):
    """One byte far behind the end, so that others can read the file."""
    locked: list[tuple[int, int]] = []

    def locking(descriptor: int, mode: int, size: int) -> None:
        if locked:
            raise OSError(errno.EACCES, "Permission denied")
        locked.append((manifest.os.lseek(descriptor, 0, 1), size))

    fake = SimpleNamespace(locking=locking, LK_NBLCK=2)
    monkeypatch.setitem(__import__("sys").modules, "msvcrt", fake)
    monkeypatch.setattr(manifest, "sys", SimpleNamespace(platform="win32"))
    with manifest.hold(tmp_path):
        assert locked == [(manifest.LOCKED_BYTE, 1)]
        with (
            pytest.raises(OutputError, match="another run is labelling"),
            manifest.hold(tmp_path),
        ):
            pass


def test_texts_are_read_and_written_in_utf8() -> None:
    """And not in the encoding of the system, which on Windows is another one."""
    for file in sorted((ROOT / "scbignn_infer").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert [node.lineno for node in calls if is_text_in_any_encoding(node)] == [], file


def is_text_in_any_encoding(call: ast.Call) -> bool:
    named = {k.arg for k in call.keywords}
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        mode = next((k.value for k in call.keywords if k.arg == "mode"), None)
        mode = call.args[1] if len(call.args) > 1 else mode
        return "b" not in (ast.unparse(mode) if mode else "") and "encoding" not in named
    places = {"read_text": 0, "write_text": 1}
    place = places.get(call.func.attr) if isinstance(call.func, ast.Attribute) else None
    return place is not None and "encoding" not in named and len(call.args) <= place


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("open(p)", True),
        ("open(p, 'w', newline='')", True),
        ("open(p, 'rb')", False),
        ("open(p, encoding='utf-8')", False),
        ("p.read_text()", True),
        ("p.write_text(t, encoding='utf-8')", False),
    ],
)
def test_such_a_call_is_seen(code: str, wrong: bool) -> None:
    assert is_text_in_any_encoding(ast.parse(code, mode="eval").body) is wrong


def test_names_of_files_are_allowed_everywhere() -> None:
    """Windows knows no case, keeps some names and characters, and long paths only if told so."""
    reserved = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
    paths = [
        p for folder in SHIPPED for p in (ROOT / folder).rglob("*") if "__pycache__" not in p.parts
    ]
    names = [p.relative_to(ROOT).as_posix() for p in paths]
    assert len({name.lower() for name in names}) == len(names) > 300
    for name in names:
        assert len(name) < 160
        for part in name.split("/"):
            assert not reserved.match(part), name
            assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part), name


def test_the_names_of_a_record_are_allowed_everywhere() -> None:
    from scbignn_infer.qualification.record import stem

    made = {"made": "2026-11-26T19:30:00+00:00", "package": {"version": "0.2.0"}}
    assert json.dumps(stem(made)) == '"scbignn-infer-0.2.0-20261126T193000Z"'
