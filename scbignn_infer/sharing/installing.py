"""Models in the user's folder: installed from a file or an address, whole or not at all; removed.

An installed model is the packed file itself: it has the checksum that its author publishes, and a
file takes its place in one step. A small JSON file beside it tells where it came from.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from scbignn_infer.errors import BundleError, OutputError, reason
from scbignn_infer.model import registry
from scbignn_infer.model.bundle import read_bundle
from scbignn_infer.model.registry import PACKED
from scbignn_infer.model.validate import check_name
from scbignn_infer.output.atomic import Draft, drafting, exists, put
from scbignn_infer.sharing.download import download, plain_address, too_large
from scbignn_infer.sharing.hub import SCHEME, find_on_hub
from scbignn_infer.sharing.packing import MAX_PACKED_BYTES, check_contents, members

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer.model.bundle import ModelBundle

CHUNK = 1 << 20
COMING = ".install."
"""How the name of a file begins that is not whole yet."""
OLD_SECONDS = 86_400
NOTHING = "nothing was installed"


class Origin(msgspec.Struct, frozen=True):
    """Where an installed model came from: what stands in the JSON file beside it."""

    source: str
    sha256: str
    """Of the packed file."""
    bundle_sha256: str
    signed_with: str = ""
    """SHA-256 of the public key that its signature was checked with; empty if with none."""


@dataclass(frozen=True)
class Installed:
    """A model that is there now."""

    bundle: ModelBundle
    path: Path
    origin: Origin
    new: bool
    """Whether it was not there before."""


ORIGIN = msgspec.json.Decoder(Origin)


def install(
    source: str,
    *,
    folder: Path | None = None,
    sha256: str | None = None,
    key: Path | None = None,
    overwrite: bool = False,
) -> Installed:
    """Put a packed model into a folder of models.

    Nothing of it is run. It is read and checked as far as that needs no run; what is wrong is a
    BundleError, and then nothing is installed.

    Parameters
    ----------
    source
        A file, an https address, or ``hf://owner/name``.
    folder
        By default the user's own.
    sha256
        That the packed file must have.
    key
        File of the public key that it must be signed with.
    overwrite
        Replace an installed model of that name.
    """
    folder = _writable(folder)
    with _new_file(folder) as draft:
        pinned, found = _fetch(source, draft)
        if sha256 is not None and found != sha256.lower():
            raise BundleError(
                f"{pinned} has the SHA-256 {found}",
                expected=sha256.lower(),
                do=f"do not use this file; get the right one or ask its author; {NOTHING}",
            )
        with _speaking_of(pinned, draft):
            files = members(draft)
            signed_with = _check_signature(pinned, draft, files, key) if key else ""
            bundle = read_bundle(draft)
            check_contents(bundle, files)
            _, _ = bundle.statistics, bundle.reference
        check_name(bundle.name)
        target = folder / f"{bundle.name}{PACKED}"
        origin = Origin(pinned, found, bundle.sha256, signed_with)
        _check_clash(bundle.name, target)
        if target.is_file() and _sha256(target) == found:
            known = _origin(target)
            if known is None or (signed_with and known.signed_with != signed_with):
                with drafting(_note(target)) as note:
                    note.path.write_bytes(_as_note(origin))
                    put([note])
            return Installed(bundle, target, origin, new=False)
        if os.path.lexists(target) and not overwrite:
            raise exists(target)
        with drafting(_note(target)) as note:
            note.path.write_bytes(_as_note(origin))
            put([note, Draft(draft, target, target, new=not overwrite)])
    return Installed(bundle, target, origin, new=True)


def _as_note(origin: Origin) -> bytes:
    return msgspec.json.format(msgspec.json.encode(origin), indent=2)


def _check_signature(source: str, draft: Path, files: dict[str, bytes], key: Path) -> str:
    """Verify the signature of files that nobody has looked into yet; returns the key's checksum."""
    from scbignn_infer.sharing.signatures import verify

    verify(source, draft.name, files, key)
    return _sha256(key)


def _writable(folder: Path | None) -> Path:
    """Return the folder of models, made if it was not there."""
    folder = folder or registry.user_folder()
    if folder is None:
        raise OutputError(
            "this user has no home folder",
            expected="a place for models",
            do="choose a folder with --folder, and add it to $SCBIGNN_MODEL_PATH",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from None
    return folder


def _not_written(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write into {folder} ({reason(error)})",
        expected="a folder that can be written, with enough free space",
        do=f"choose another with --folder; {NOTHING}",
    )


@contextmanager
def _new_file(folder: Path) -> Iterator[Path]:
    """Make an empty file for what comes, hidden from the list of models; it goes in the end.

    Those of commands that were killed more than a day ago go, too.
    """
    for old in folder.glob(f"{COMING}*{PACKED}"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > OLD_SECONDS:
                old.unlink()
    try:
        number, name = tempfile.mkstemp(dir=folder, prefix=COMING, suffix=PACKED)
    except OSError as error:
        raise _not_written(folder, error) from None
    os.close(number)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)


def _fetch(source: str, draft: Path) -> tuple[str, str]:
    """Write a packed model into a file; returns where it came from and its SHA-256."""
    token, pinned, url = None, source, source
    if source.startswith(SCHEME):
        url, token, pinned = find_on_hub(source)
    elif "://" in source:
        pinned = plain_address(source)
    else:
        pinned = str(Path(source).absolute())
    far = "://" in source
    chunks = download(url, MAX_PACKED_BYTES, token=token) if far else _chunks(Path(source))
    digest = hashlib.sha256()
    try:
        with open(draft, "wb") as file:
            for chunk in chunks:  # whose own errors are none of the system's any more
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:
        raise _not_written(draft.parent, error) from None
    return pinned, digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a regular file of a bounded size."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise BundleError(
                f"{path} is a folder",
                expected=f"a packed model, *{PACKED}",
                do=f"pack it: scbignn-infer models pack {path} -o FILE{PACKED}",
            )
        if not stat.S_ISREG(mode):
            raise BundleError(
                f"{path} is no regular file", expected="a packed model", do="check the path"
            )
        done = 0
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                done += len(chunk)
                if done > MAX_PACKED_BYTES:
                    raise too_large(path, done, MAX_PACKED_BYTES)
                yield chunk
    except OSError as error:
        raise BundleError(
            f"cannot read {path} ({reason(error)})",
            expected="a packed model, an https address, or hf://owner/name",
            do="check the path",
        ) from None


@contextmanager
def _speaking_of(source: str, draft: Path) -> Iterator[None]:
    """Let errors name where a model came from, not the file that it is in meanwhile."""
    try:
        yield
    except BundleError as error:
        raise BundleError(
            error.found.replace(str(draft), source),
            expected=error.expected,
            do=f"{error.do}; {NOTHING}",
        ) from None


def _check_clash(name: str, target: Path) -> None:
    """Refuse a name that another model has, in whatever case: one would hide the other."""
    for other, path in registry.list_models().items():
        if other.lower() == name.lower() and not _same(path, target):
            raise BundleError(
                f"there is a model {other} at {path}",
                expected="a model of another name",
                do=f"keep the packed file and name it by its path, or train it with another "
                f"--name; {NOTHING}",
            )


def _same(path: Path, other: Path) -> bool:
    return path == other or (path.exists() and other.exists() and path.samefile(other))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(target: Path) -> Path:
    """Return the JSON file of an installed model."""
    return target.with_name(target.name.removesuffix(PACKED) + ".json")


def _origin(target: Path) -> Origin | None:
    """Return where an installed model came from; None if that is not known."""
    try:
        return ORIGIN.decode(_note(target).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def changed_since(path: Path) -> str:
    """Say what is wrong with an installed model's file, compared with what was installed."""
    note = _note(path)
    if not path.name.endswith(PACKED) or not note.is_file():
        return ""
    origin = _origin(path)
    if origin is None:
        return f"{note} cannot be read; it tells what was installed"
    if _sha256(path) == origin.sha256:
        return ""
    return f"{path}: not the file that was installed from {origin.source}"


def remove(name: str, folder: Path | None = None) -> Path:
    """Delete an installed model; returns its path.

    Parameters
    ----------
    name
        Of the model.
    folder
        That it was installed into; by default the user's own.
    """
    folder = folder or registry.user_folder()
    inside = sorted(folder.glob(f"*{PACKED}")) if folder is not None and folder.is_dir() else []
    paths = {p.name.removesuffix(PACKED): p for p in inside if not p.name.startswith(".")}
    if name not in paths:
        known = registry.list_models().get(name)
        raise BundleError(
            f"the model {ascii(name)[1:-1]} at {known} was not installed"
            if known
            else f"no model {ascii(name)[1:-1]} was installed",
            expected=f"an installed model: {', '.join(paths) or 'there is none'}",
            do="'remove' deletes nothing but what 'install' has put into its folder",
        )
    try:
        paths[name].unlink()
        _note(paths[name]).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot delete {paths[name]} ({reason(error)})",
            expected="a folder that can be written",
            do="mend that, then run the command again",
        ) from None
    return paths[name]
