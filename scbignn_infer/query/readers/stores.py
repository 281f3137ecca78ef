"""Zarr stores of AnnData, folders and ``.zip``: looked through before Zarr opens anything."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.errors import InputError, MissingExtraError
from scbignn_infer.query.containment import MOST_CHUNK, too_large_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scbignn_infer._types import Document

ROOTS = (".zgroup", ".zattrs", "zarr.json")
"""Files at the root of a store."""
ARRAYS = (".zarray", "zarr.json")
"""Files that say how an array is packed."""
MOST_METADATA = 1 << 26
"""Bytes of such a file."""
MOST_RATIO = 1100
"""Times that an entry of a ``.zip`` may be larger than it is packed: its packing does no better."""
CODECS = {
    *("blosc", "zlib", "gzip", "bz2", "lzma", "zstd", "lz4"),
    *("shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "packbits"),
    *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
    *("vlen-utf8", "vlen-bytes", "json2"),
}
"""Codecs that turn bytes into values and do nothing else; ``pickle`` runs what it is given."""
CODECS_3 = {*CODECS, "bytes", "endian", "transpose", "sharding_indexed"}
"""Those of version 3, also as ``numcodecs.NAME``."""


def is_store(path: Path) -> bool:
    """Tell whether a path is a folder with a Zarr store, or a ``.zip`` of one by its name."""
    if path.is_dir():
        return any((path / name).exists() for name in ROOTS)
    return path.name.lower().endswith(".zarr.zip")


def open_store(path: Path) -> Any:
    """Open a Zarr store for reading, if all of it lies in it and its codecs only unpack.

    It is a folder, or a ``.zip`` with the store at its root or in its only folder. Metadata of
    version 2 and 3 are read from each array itself, and consolidated ones are not used: what was
    looked at is what is read. Closing the ``store`` of the root that is returned closes the file.
    """
    try:
        import zarr
        from zarr.storage import ZipStore
    except ImportError:
        raise MissingExtraError("zarr", extra="zarr", purpose="reading Zarr stores") from None
    how: Document = {"mode": "r"}
    if int(zarr.__version__.split(".")[0]) >= 3:
        how["use_consolidated"] = False
    zipped = not path.is_dir()
    for name, text in _zipped(path) if zipped else _in_folder(path):
        _refuse_packing(name, text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not zipped:
            return zarr.open_group(str(path), **how)
        store = ZipStore(str(path), mode="r")
        try:
            return zarr.open_group(store, path=_root(path), **how)
        except BaseException:
            store.close()
            raise


def _in_folder(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files about arrays; raise if a link leads out of the store."""
    inside = os.path.realpath(root)
    waiting = [str(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if os.path.commonpath([inside, target]) != inside:
                        raise _elsewhere(os.path.relpath(entry.path, root), root)
                elif entry.is_dir():
                    waiting.append(entry.path)
                elif not entry.is_file():
                    raise InputError(
                        f"'{os.path.relpath(entry.path, root)}' of {root} is no plain file",
                        expected="a Zarr store of files and folders",
                        do="write it anew",
                    )
                if entry.name.lower() in ARRAYS and entry.is_file():
                    with open(entry.path, "rb") as file:
                        yield entry.path, file.read(MOST_METADATA + 1)


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files about arrays of a ``.zip``; raise if it unpacks to more than it can."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():  # those that were written anew, too
            if entry.file_size > max(MOST_RATIO * entry.compress_size, 1 << 20):
                raise InputError(
                    f"'{entry.filename}' of {path} unpacks to {entry.file_size / 1e9:.1f} GB",
                    expected=f"at most {MOST_RATIO} times what it is packed",
                    do="pack the store anew",
                )
            if entry.filename.rsplit("/", 1)[-1].lower() in ARRAYS:
                with archive.open(entry) as file:
                    yield f"{path}/{entry.filename}", file.read(MOST_METADATA + 1)


def _root(path: Path) -> str:
    """Return the only folder of a ``.zip``, if the store is in it and not at the root."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    at_root = any(name in ROOTS for name in names)
    return "" if at_root or len(tops) != 1 else tops.pop()


def _elsewhere(what: str, root: Path) -> InputError:
    return InputError(
        f"'{what}' of {root} is a link to another place",
        expected="a store that holds all of its data",
        do="copy what it leads to into the store",
    )


def _refuse_packing(name: str, text: bytes) -> None:
    """Raise if an array is packed by a codec that may do more than unpack, or in huge chunks."""
    if len(text) > MOST_METADATA:
        raise ValueError(f"{name} has more than {MOST_METADATA:,} bytes")
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"{name} is no object of JSON")
    if document.get("zarr_format") == 3:
        if document.get("node_type") == "array":
            _refuse_version_3(name, document)
        return
    packed = [*(document.get("filters") or ()), document.get("compressor")]
    used = {_called(codec, "id") for codec in packed if codec is not None}
    _refuse_codecs(name, used - CODECS)
    _refuse_chunk(name, document["chunks"], document["dtype"])


def _refuse_version_3(name: str, document: Document) -> None:
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    waiting, used = list(document["codecs"]), set()
    while waiting:
        codec = waiting.pop()
        used.add(_called(codec, "name"))
        settings = codec.get("configuration") or {} if isinstance(codec, dict) else {}
        waiting += [*(settings.get("codecs") or ()), *(settings.get("index_codecs") or ())]
        chunk = settings.get("chunk_shape", chunk)  # a shard is read by its chunks
    _refuse_codecs(name, {u for u in used if u.removeprefix("numcodecs.") not in CODECS_3})
    if document.get("storage_transformers"):
        _refuse_codecs(name, {"a storage transformer"})
    _refuse_chunk(name, chunk, document["data_type"])


def _called(codec: Any, key: str) -> str:
    return str(codec[key] if isinstance(codec, dict) else codec)


def _refuse_codecs(name: str, others: set[str]) -> None:
    if others:
        raise InputError(
            f"{name} is packed with {', '.join(sorted(others))}",
            expected="codecs that only unpack values, such as blosc, zstd, gzip and vlen-utf8",
            do="write the store anew, for instance with anndata",
        )


def _refuse_chunk(name: str, chunk: Any, kind: Any) -> None:
    try:
        item = max(np.dtype(kind).itemsize, 1)
    except (TypeError, ValueError):
        item = 16  # strings, whose bytes are not known before
    size = item * prod(int(n) for n in chunk)
    if size > MOST_CHUNK:
        raise too_large_chunk("an array", name, size)
