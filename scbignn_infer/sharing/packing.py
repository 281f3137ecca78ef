"""A packed model: a .zip of the files of a bundle and of nothing else, the same bytes each time."""

from __future__ import annotations

import stat
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from scbignn_infer.errors import BundleError, Flaw, need
from scbignn_infer.model.archives import check_member, open_archive, unpack
from scbignn_infer.model.bundle import RECORD, of_bundle, read_regular
from scbignn_infer.model.validate import MAX_FILE_BYTES, PLAIN_NAME, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scbignn_infer.model.bundle import ModelBundle

CARD, SIGNATURE = "README.md", "model.sig"
BESIDE = (CARD, SIGNATURE)
"""Files that a bundle may have and that its record does not list."""
MAX_BESIDE_BYTES = 1 << 20
MAX_PACKED_BYTES = 1 << 29
"""Of a packed model, and of all that is in it; that of the largest shipped model has 14 MB."""
MAX_REST_BYTES = 1 << 25
"""Of the record and what lies beside it."""
LONG_AGO = (1980, 1, 1, 0, 0, 0)
FROM_UNIX = 3


def write_packed(bundle: ModelBundle, path: Path) -> None:
    """Write a bundle, with card and signature if it has them, as a packed model.

    The bytes depend on those of the files alone: members are sorted and not compressed, since
    versions of zlib compress differently, and dates are left out.
    """
    check_name(bundle.name)
    size = sum(file.size for file in bundle.spec.files.values())
    if size > MAX_PACKED_BYTES - MAX_REST_BYTES:
        raise BundleError(
            f"the model {bundle.name} has {size:,} bytes",
            expected=f"up to {MAX_PACKED_BYTES - MAX_REST_BYTES:,}, since more is not installed",
            do="train it with fewer types or genes",
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(contents(bundle).items()):
            member = zipfile.ZipInfo(f"{bundle.name}/{name}", LONG_AGO)
            member.create_system, member.external_attr = FROM_UNIX, (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, data)


def contents(bundle: ModelBundle) -> dict[str, bytes]:
    """Return the files of a bundle by name, with those beside it."""
    files = {name: bundle.read(name) for name in (RECORD, *bundle.spec.files)}
    if bundle.path.is_dir():
        with of_bundle(bundle.path):
            return files | _beside(bundle.path)
    found = members(bundle.path)
    check_contents(bundle, found)
    return files | {name: found[name] for name in BESIDE if name in found}


def _beside(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in BESIDE:
        if (folder / name).exists():
            found[name] = read_regular(folder / name, MAX_BESIDE_BYTES)
            _check_beside(name, found[name])
    return found


def _check_beside(name: str, data: bytes) -> None:
    need(len(data) <= MAX_BESIDE_BYTES, f"{name} is larger than 1 MiB", "a shorter file")


def members(path: Path) -> dict[str, bytes]:
    """Return the files of a .zip by name, if it can be a packed model.

    They lie at its top or in one folder. No name is a path that leads elsewhere, none comes twice,
    and all together are bounded.
    """
    with of_bundle(path), open_archive(path) as archive:
        listed = [m for m in archive.infolist() if not _is_folder(m)]
        folders = {PurePosixPath(member.filename).parent for member in listed}
        need(
            len(folders) <= 1,
            f"the .zip holds {len(folders)} folders",
            "one model: its files at the top or in one folder",
        )
        left, found = MAX_PACKED_BYTES, dict[str, bytes]()
        for member in listed:
            name = member.filename.rpartition("/")[2]
            need(
                name.lower() not in {n.lower() for n in found},
                f"the .zip holds the file {name!a} twice",
                "each file once",
            )
            found[name] = unpack(archive, member, min(MAX_FILE_BYTES, left))
            left -= len(found[name])
            need(
                left >= 0, "the .zip unpacks to more than 512 MiB", "a packed model, which is small"
            )
        return found


def _is_folder(member: zipfile.ZipInfo) -> bool:
    """Tell whether a member is a folder; refuse what is neither a folder nor a file."""
    path = member.filename.removesuffix("/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    plain = all(PLAIN_NAME.fullmatch(part) for part in path.split("/", 1))
    need(
        plain and "\0" not in member.orig_filename,
        f"the .zip holds the file {member.orig_filename[:100]!a}",
        "plain names at its top or in one folder",
    )
    need(
        kind in (0, stat.S_IFREG, stat.S_IFDIR),
        f"the .zip holds {path!a}, which is a link or a device",
        "regular files",
    )
    check_member(member)
    return member.is_dir()


def check_contents(bundle: ModelBundle, found: Mapping[str, bytes]) -> None:
    """Refuse a packed model that holds more than the files of its bundle."""
    with of_bundle(bundle.path):
        known = {RECORD, *bundle.spec.files, *BESIDE}
        other = next(iter(sorted(set(found) - known)), None)
        if other is not None:
            raise Flaw(
                f"the .zip holds {other!a}, which is no file of the model",
                "what 'scbignn-infer models pack' writes",
            )
        for name in set(found) & set(BESIDE):
            _check_beside(name, found[name])
