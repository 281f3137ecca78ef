"""The manifest of a folder: what was done with each sample, kept by one run at a time."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from scbignn_infer.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Record = dict[str, Any]
MANIFEST = "manifest.jsonl"
MAX_LINE = 1 << 24
"""Bytes that a line may have; one has some 2 kB."""
START = b'{"sample": "'
"""How each line begins, so that one that a kill cut short is told from another program's."""
HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""Errors that say that another process has the lock; others say that there are no locks."""
LOCKED_BYTE = (1 << 31) - 2
"""Where Windows locks the file: beyond its end, since nobody else can read that place."""
NAMED_LINES = 10


class _Line(msgspec.Struct):
    """What every line must say."""

    sample: str
    status: Literal["started", "done", "failed"]
    input: str
    output: str


class _Done(_Line):
    """What is printed of a sample that is whole."""

    cells: Annotated[int, msgspec.Meta(ge=0)]
    unknown: Annotated[int, msgspec.Meta(ge=0)]
    seconds: float
    warnings: list[str]


class Manifest:
    """The manifest of a folder while a run holds it.

    The name of the run stands in the names of its temporary files. The manifest is ``locked`` where
    the file system has locks, so that no other run is at work in the folder.
    """

    def __init__(self, path: Path, file: IO[bytes], *, unlocked: str = "") -> None:
        self.path, self._file = path, file
        self.run = f"run-{secrets.token_hex(4)}"
        self.locked = not unlocked
        self.warnings: list[str] = []
        if unlocked:
            self.warnings.append(
                f"the file system of {path.parent} has no locks ({unlocked}), so another run into "
                "this folder would not be noticed; start one run at a time"
            )

    def read(self) -> list[Record]:
        """Return the records of earlier runs, and warn of lines that are none.

        The last line may be cut short: a kill does that, and its sample is done again.
        """
        records: list[Record] = []
        damaged: list[int] = []
        end = 0
        try:
            for number, line in enumerate(_lines(self._file), 1):
                record = _parse(line)
                if record is not None:
                    records.append(record)
                elif line.endswith(b"\n") or not _is_cut_short(line):
                    damaged += [number] if line.strip() else []
                elif self.locked:
                    self._file.truncate(end)
                    break
                end = self._file.tell()
        except OSError as error:
            raise _refusal(self.path, f"cannot be read ({error.strerror})") from None
        if damaged and not records:
            raise _refusal(self.path, "is no manifest of scbignn-infer")
        if damaged:
            named = ", ".join(map(str, damaged[:NAMED_LINES]))
            more = " and others" if len(damaged) > NAMED_LINES else ""
            lines = "1 damaged line" if len(damaged) == 1 else f"{len(damaged)} damaged lines"
            self.warnings.append(
                f"{self.path} has {lines} (number {named}{more}), passed over; a sample that has "
                "lost its record is refused if its output exists, and otherwise done again"
            )
        return records

    def append(self, records: Sequence[Record]) -> None:
        """Add lines, on the disk for good."""
        if not records:
            return
        lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        file = self._file
        try:
            in_place = os.path.samestat(os.fstat(file.fileno()), self.path.lstat())
            cut_short = False
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                cut_short = file.read(1) != b"\n"
            file.write(b"\n" * cut_short + lines)
            file.flush()
            os.fsync(file.fileno())
        except FileNotFoundError:
            in_place = False
        except OSError as error:
            raise _unwritable(self.path, error) from None
        if not in_place:
            raise OutputError(
                f"{self.path} was removed or replaced while this run was at work",
                expected="the manifest in its place until the run has ended",
                do="run again: outputs without a record are refused, not replaced",
            )


@contextmanager
def hold(folder: Path) -> Iterator[Manifest]:
    """Hold the manifest of a folder for one run; if the run is killed, the system lets go of it."""
    path = folder / MANIFEST
    with _open(path) as file:
        unlocked = ""
        try:
            _lock(file.fileno())
        except OSError as error:
            if error.errno in HELD:
                raise OutputError(
                    f"another run is labelling into {folder}",
                    expected="one run at a time in a folder",
                    do="wait until it has ended, or choose another -O",
                ) from None
            unlocked = error.strerror or str(error)
        yield Manifest(path, file, unlocked=unlocked)


def _open(path: Path) -> IO[bytes]:
    """Open a manifest or make it, if it is a regular file and no link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # a link leads away, a FIFO blocks
        flags |= getattr(os, name, 0)
    try:
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise _refusal(path, f"is {_kind(path)}")
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from None
    return os.fdopen(descriptor, "r+b")


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "a link"
    return "a folder" if path.is_dir() else "no regular file"


def _lock(descriptor: int) -> None:
    """Lock a file for this process, or raise at once; the lock goes when the file is closed."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file, and a question mark for one that is too long."""
    file.seek(0)
    while line := file.readline(MAX_LINE):
        too_long = len(line) == MAX_LINE
        rest = line
        while too_long and rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE)
        yield b"?\n" if too_long else line


def _parse(line: bytes) -> Record | None:
    """Return the record of a line, or nothing if it is none."""
    try:
        record = json.loads(line.decode())
        done = isinstance(record, dict) and record.get("status") == "done"
        msgspec.convert(record, _Done if done else _Line)
    except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors
        return None
    return dict(record)


def _is_cut_short(line: bytes) -> bool:
    """Tell whether a last line may be one of ours that a kill ended; a crash leaves NUL bytes."""
    kept = line.rstrip(b"\0")
    return kept[: len(START)] == START[: len(kept)]


def _refusal(path: Path, found: str) -> OutputError:
    return OutputError(
        f"{path} {found}",
        expected="the records of earlier runs into this folder, or no such file",
        do="move it away, or choose another -O",
    )


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path} ({error.strerror})",
        expected="a folder that can be written, with free space",
        do="free space or choose another -O, then run again: whole samples are skipped",
    )
