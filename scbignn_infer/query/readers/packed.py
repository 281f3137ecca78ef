"""Packed files and those of other programs, which are named and never read."""

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

OF_OTHER_PROGRAMS = (".rda", ".rdata", ".xlsx", ".xls")
IN_R = "in R: zellkonverter::writeH5AD(as.SingleCellExperiment(object), 'cells.h5ad')"


def refuse_others(path: Path, formats: str) -> None:
    """Raise on a file of another program, or a ``.tar``: HDF5 opens one that begins with HDF5."""
    if path.suffix.lower() in OF_OTHER_PROGRAMS:
        raise InputError(
            f"{path} is a file of another program", expected=formats, do=f"convert it; {IN_R}"
        )
    if path.suffix == ".tar":
        refuse(path)


def refuse(path: Path) -> None:
    """Raise if a file is packed, with the command that unpacks it."""
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
