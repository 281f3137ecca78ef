"""Zip archives that may be hostile: bounded before they are listed and while they unpack."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scbignn_infer.errors import Flaw, need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_LISTING = 1 << 16
"""Bytes of an archive's list of members: some hundred of them, of which a bundle has five."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those of which Python unpacks no more than it is asked for."""
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
)
"""What Python raises for a damaged or encrypted archive."""


class _Listed:
    """Refuses to read a long list of members; goes before a class of files."""

    opened = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as the file does; while the archive is being opened, no more than a short list."""
        if not self.opened and size is not None and size > MAX_LISTING:
            raise zipfile.BadZipFile("its list of members is too long")
        data: bytes = super().read(size)  # type: ignore[misc]
        return data


class _Disk(_Listed, io.BufferedReader):
    """A file on disk."""


class _Memory(_Listed, io.BytesIO):
    """Bytes in memory."""


@contextmanager
def open_archive(source: Path | bytes) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, by path or bytes, if its list of members is bounded; a Flaw if not."""
    try:
        file = _Memory(source) if isinstance(source, bytes) else _Disk(io.FileIO(source))
    except OSError as error:
        raise Flaw(f"not a readable .zip ({one_line(error)})", "a whole .zip") from None
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except UNREADABLE as error:
            raise Flaw(f"not a readable .zip ({one_line(error)})", "a whole .zip") from None
        file.opened = True
        with archive:
            yield archive


def check_member(member: zipfile.ZipInfo) -> None:
    """Refuse a member that is encrypted, or packed in a way that cannot be bounded."""
    need(
        not member.flag_bits & 1 and member.compress_type in METHODS,
        f"the file {_last(member)} has a password or is packed in a rare way",
        "members without a password, stored or deflated",
    )


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """Return the bytes of a member, one beyond ``most`` where it has more; no more are unpacked."""
    check_member(member)
    try:
        with archive.open(member) as file:
            return file.read(most + 1)
    except UNREADABLE as error:
        raise Flaw(
            f"the file {_last(member)} cannot be unpacked ({one_line(error)})", "a whole .zip"
        ) from None


def _last(member: zipfile.ZipInfo) -> str:
    """Return the last name of a member, escaped."""
    return ascii(member.filename.rpartition("/")[2][:100])[1:-1]


def one_line(error: BaseException) -> str:
    """Return the first line of a message, without what a terminal would obey; or its class."""
    lines = str(error).splitlines()
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in (lines or [""])[0][:300])
    return line or type(error).__name__
