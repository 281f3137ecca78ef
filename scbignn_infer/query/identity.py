"""Which file was opened, and whether a path still names it, as it was, when the work is done."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scbignn_infer.errors import InputError, ScBiGNNError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO
    from pathlib import Path

Stamp = tuple[int, int, int, int]
"""Device, inode, size and time of the last change (ns)."""


@dataclass(frozen=True)
class Identity:
    """The files that an input, named ``path``, consists of, as they were before they were read."""

    path: Path
    stamps: dict[Path, Stamp | None]
    """Tell each file from every other and from its own later states."""

    @classmethod
    def of(cls, path: Path, files: Iterable[Path] | None = None) -> Identity:
        """Take the identity of an input, which is the file at ``path`` or consists of ``files``."""
        return cls(path, {file: _stamp(file) for file in ([path] if files is None else files)})

    @property
    def size(self) -> int:
        """Bytes of the files together."""
        return sum(stamp[2] for stamp in self.stamps.values() if stamp is not None)

    def check(self) -> None:
        """Raise if any of the files was changed, replaced, moved or deleted."""
        for file, stamp in self.stamps.items():
            if _stamp(file) != stamp:
                raise changed(file)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Say that the files changed, where that is why the block failed."""
        try:
            yield
        except ScBiGNNError:
            self.check()
            raise

    def check_descriptor(self, descriptor: int) -> None:
        """Raise if an open file is none of the files, as they were."""
        if _as_stamp(os.fstat(descriptor)) not in self.stamps.values():
            raise changed(self.path)

    def resembles(self, other: Identity) -> bool:
        """Tell whether another machine, which numbers devices in its own way, saw the same."""
        mine, others = (
            {file: stamp and stamp[2:] for file, stamp in seen.stamps.items()}
            for seen in (self, other)
        )
        return mine == others

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """Give the file, open for reading, if it is the only one and its path still leads to it."""
        self.check()  # a pipe that has taken the path would be waited for
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open(self.path, "rb", buffering=0))
            except OSError:
                raise changed(self.path) from None
            self.check_descriptor(file.fileno())
            yield file

    def holds(self, path: Path) -> bool:
        """Tell whether a path leads to one of the files, by any link, or into a folder."""
        files = {stamp[:2] for stamp in self.stamps.values() if stamp is not None}
        places = (_stamp(place) for place in (path, *path.resolve().parents))
        return any(stamp[:2] in files for stamp in places if stamp is not None)


def changed(path: Path) -> InputError:
    """Return the error of an input that is no longer what was read."""
    return InputError(
        f"{path} changed while it was labelled",
        expected="the same file from the first read to the last write",
        do="wait until the other program has finished, then run again; nothing was written",
    )


def _stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file or folder, ``None`` where there is none."""
    try:
        return _as_stamp(path.stat())
    except OSError:
        return None


def _as_stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
