"""Packed files, which are named and never unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

PACKERS = (
    (0, b"\x1f\x8b", "gzip", "gunzip --keep"),
    (0, b"BZh", "bzip2", "bunzip2 --keep"),
    (0, b"\xfd7zXZ\x00", "xz", "unxz --keep"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x"),
    (0, b"PK\x03\x04", "zip", "unzip"),
    (257, b"ustar", "tar", "tar -xf"),
)
"""Where a packed file says what it is, who packs it so, and what unpacks it."""
ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def refuse(path: Path) -> None:
    """Raise if a file is packed, with the command that unpacks it.

    Raises
    ------
    InputError
        It is.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    for place, mark, packer, command in PACKERS:
        if start[place : place + len(mark)] == mark:
            unpack = "tar -xf" if path.name.endswith(ARCHIVES) else command
            raise InputError(
                f"{path} is packed with {packer}",
                expected="an unpacked file or folder",
                do=f"unpack it first ({unpack} '{path.name}') and give what comes out",
            )
