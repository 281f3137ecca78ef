"""The way of every output to its place: refused at the gate, or written whole beside it and put."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING

from scbignn_infer.errors import MissingExtraError, OutputError, is_want_of_memory, reason
from scbignn_infer.output.temporaries import prefix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from scbignn_infer.query.identity import Identity

NO_HARD_LINKS = (
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EMLINK,
    errno.EXDEV,
)
"""Errors that say that a file system makes no hard link, and not that the name is taken."""
MOST_NAME = 210
"""Bytes of an output's name: a system allows 255, and a temporary file has a longer one."""
IN_USE = (5, 32)
"""Errors of Windows for a file that another program holds, such as one that looks for viruses."""
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds after which a move is tried again there."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What a name may be given to beside a regular file."""


def check_output(
    path: Path,
    *,
    suffixes: Sequence[str],
    overwrite: bool,
    inputs: Sequence[Identity] = (),
    others: Sequence[Path] = (),
) -> None:
    """Refuse an output that cannot or must not be written, before any work is done.

    A link to a regular file stays one, and its file is replaced. An output is none of the inputs,
    by whatever link, and none of ``others``, which the same command writes.
    """
    if path.suffix not in suffixes:
        raise OutputError(
            f"output '{path}'",
            expected=f"a name that ends in {', '.join(suffixes)}",
            do="rename the output",
        )
    if (n := len(os.fsencode(path.name))) > MOST_NAME:
        raise OutputError(
            f"an output whose name has {n} bytes, {path.name[:20]}...",
            expected=f"at most {MOST_NAME}, since its temporary file has a longer name",
            do="choose a shorter name for the output",
        )
    with one_line(path):
        _check_place(path, inputs, others)
        if not overwrite and path.exists():
            raise exists(path)
    _refuse_without_package(path.suffix)


def _refuse_without_package(suffix: str) -> None:
    """Refuse a format whose package is not installed."""
    if suffix == ".parquet":
        try:
            import pyarrow as pa  # noqa: F401
        except ImportError:
            raise MissingExtraError("pyarrow", extra="parquet", purpose="parquet output") from None
    if suffix == ".xlsx":
        try:
            import openpyxl  # noqa: F401
        except ImportError:
            raise MissingExtraError("openpyxl", extra="excel", purpose="xlsx output") from None


def _check_place(path: Path, inputs: Sequence[Identity], others: Sequence[Path]) -> None:
    if not path.parent.is_dir():
        raise OutputError(
            f"no folder {path.parent}", expected="an existing folder", do="make it first"
        )
    _check_kind(path)
    for source in inputs:
        if source.holds(path):
            raise OutputError(
                f"the output {path} is the input {source.path}, or lies in it",
                expected="another file",
                do="choose another name for the output",
            )
    for other in others:
        both_there = path.exists() and other.exists()
        if path.resolve() == other.resolve() or (both_there and path.samefile(other)):
            raise OutputError(
                f"the outputs {other} and {path} are the same file",
                expected="a file for each",
                do="choose another name for one of them",
            )


def _check_kind(path: Path) -> None:
    """Refuse what is there and is no regular file: to replace it would be its end."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise OutputError(
                f"the output {path} is {KINDS.get(stat.S_IFMT(mode), 'no regular file')}",
                expected="a regular file or a new name",
                do="choose another name for the output",
            )


def exists(path: Path) -> OutputError:
    """Return the error of an output that is there and may not be replaced."""
    return OutputError(
        f"{path} exists", expected="a new file", do="choose another name or pass --overwrite"
    )


@dataclass(frozen=True)
class Draft:
    """A file that is written beside its place."""

    path: Path
    target: Path
    """The output, as the user named it."""
    place: Path
    """Where it goes: the file that the target leads to."""
    new: bool
    """Whether nothing may be replaced."""


@contextmanager
def drafting(target: Path, *, new: bool = False) -> Iterator[Draft]:
    """Make an empty file beside an output; it is gone when the block ends, unless it was put."""
    with one_line(target):
        place = target.resolve()
    path = place.with_name(f"{prefix(place.name)}{token_hex(8)}.tmp")
    try:  # from here on, since a signal may come as soon as the file is there
        with one_line(target):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield Draft(path, target, place, new)
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def put(drafts: Sequence[Draft], source: Identity | None = None) -> None:
    """Move a command's drafts to their places, on the disk for good and with the right mode.

    All that may stand against it is looked at first, so that none is put if one cannot be. The
    source that they were made from must be as it was.
    """
    for draft in drafts:
        with one_line(draft.target):
            _finish(draft)
    if source is not None:
        source.check()
    for draft in sorted(drafts, key=lambda draft: not draft.new):  # what may fail yet comes first
        with one_line(draft.target):
            _put(draft)


def _finish(draft: Draft) -> None:
    """Bring a draft to the disk and give it its mode; refuse if its place has been taken."""
    with open(draft.path, "r+b") as file:
        os.fsync(file.fileno())
    _check_kind(draft.place)
    there = draft.place.exists()
    if there and draft.new:
        raise exists(draft.target)
    draft.path.chmod(draft.place.stat().st_mode if there else 0o666 & ~_umask())


def _put(draft: Draft) -> None:
    if not draft.new:
        _move(draft)
        return
    try:
        os.link(draft.path, draft.place)  # which, unlike a renaming, replaces nothing
    except FileExistsError:
        raise exists(draft.target) from None
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _put_without_links(draft)
    else:
        draft.path.unlink()


def _put_without_links(draft: Draft) -> None:
    """Take the name with an empty file, which only one of two can do, and replace that."""
    try:
        os.close(os.open(draft.place, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise exists(draft.target) from None
    try:
        _move(draft)
    except BaseException:
        draft.place.unlink(missing_ok=True)
        raise


def _move(draft: Draft) -> None:
    """Let a draft take its place; on Windows, wait a moment for a program that holds either."""
    for pause in PAUSES:
        try:
            draft.path.replace(draft.place)
        except PermissionError as error:
            if not _is_in_use(error):
                raise
            time.sleep(pause)
        else:
            return
    draft.path.replace(draft.place)


def _is_in_use(error: BaseException) -> bool:
    return getattr(error, "winerror", None) in IN_USE


@contextmanager
def replacing(target: Path, *, new: bool = False, source: Identity | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``target`` that takes its place when the block succeeds.

    With ``new``, nothing is replaced. If the source of it has changed, nothing is put.
    """
    with drafting(target, new=new) as draft:
        with one_line(target):
            yield draft.path
        put([draft], source)


@contextmanager
def one_line(target: Path) -> Iterator[None]:
    """Turn what the system or a library says against writing into one OutputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises either when the disk is full
        if is_want_of_memory(error):
            raise MemoryError(f"{target}: {reason(error)}") from None
        if _is_in_use(error):
            raise OutputError(
                f"cannot write {target} ({reason(error)})",
                expected="a file that no other program has open",
                do="close that program, or choose another name with -o; nothing was left behind",
            ) from None
        raise OutputError(
            f"cannot write {target} ({reason(error)})",
            expected="a folder that can be written, with enough free space",
            do="free space or choose another place with -o; nothing was left behind",
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
