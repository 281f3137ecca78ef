"""What an HDF5 file must be before anything in it is read: one file, as large as it says.

Readers follow links, paths in attributes and object references. All objects that these can lead to
are looked at once, as they are opened, and none of their values is read.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py

    from scbignn_infer._types import Array

MOST_CHUNK = 1 << 30
"""Bytes of the largest chunk: to read one value, all of its chunk is unpacked."""
MOST_LINKS = 250_000
"""Names of objects in a file that are looked at."""
SMALL = 1 << 20
"""Bytes of values that may be declared and never written."""
MOST_TIMES = 1 << 20
"""Bytes of values for each stored byte: the best packing of honest values is far below."""
SCANNED = 1 << 30
"""Bytes of a file that are searched for heaps."""
AT_ONCE = 1 << 19
"""Bytes that are searched at once, so few that they stay in a CPU's cache."""
MOST_HEAP = 1 << 24
"""Bytes of a heap that are looked at."""
HEAP = re.compile(rb"GCOL\x01\x00\x00\x00")
"""The eight bytes with which a heap begins."""


def hdf5_version() -> str:
    """Return the version of the HDF5 library, or nothing where h5py is not installed."""
    try:
        import h5py
    except ImportError:
        return ""
    return str(h5py.version.hdf5_version)


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file that :func:`refuse_uncontained` allows; an OSError says it is damaged."""
    import h5py

    file = h5py.File(path, "r")
    try:
        refuse_uncontained(file)
    except BaseException:
        file.close()
        raise
    return file


def refuse_uncontained(file: h5py.File) -> None:
    """Raise if an open file is not one file, or is not as large as it says.

    Every object that a link or an object reference leads to is opened and checked once, so that
    cycles end. A soft link is a path of such links and is not followed.
    """
    import h5py

    waiting: list[tuple[str, Any, bytes]] = [("", h5py.h5g.open(file.id, b"/"), b".")]
    """Where an object is, another one, and the name in that of the first."""
    seen, links = set(), 0
    while waiting:
        where, parent, name = waiting.pop()
        node = h5py.h5o.open(parent, name)
        address = h5py.h5g.get_objinfo(node, b".").objno
        if address in seen:
            continue
        seen.add(address)
        if isinstance(node, h5py.h5d.DatasetID):
            _refuse_dataset(file, where, node)
        waiting += ((f"{where} (by reference)", to, b".") for to in _referred(node))
        if not isinstance(node, h5py.h5g.GroupID):
            continue
        entries: list[tuple[bytes, int]] = []
        node.links.iterate(lambda key, info, into=entries: into.append((key, info.type)), info=True)
        links += len(entries)
        if links > MOST_LINKS:
            raise InputError(
                f"{file.filename} holds more than {MOST_LINKS:,} objects",
                expected="fewer",
                do="write only the annotations that you need",
            )
        for key, kind in entries:
            path = f"{where}/{key.decode(errors='replace')}".lstrip("/")
            if kind == h5py.h5l.TYPE_HARD:
                waiting.append((path, node, key))
            elif kind != h5py.h5l.TYPE_SOFT:
                raise _elsewhere(file, path)


def _referred(node: Any) -> Iterator[Any]:
    """Yield the objects that attributes refer to; categories of anndata 0.7 are such."""
    import h5py

    names: list[bytes] = []
    h5py.h5a.iterate(node, lambda name, *_: names.append(name))
    for name in names:
        attribute = h5py.h5a.open(node, name)
        if not isinstance(attribute.get_type(), h5py.h5t.TypeReferenceID):
            continue
        values = np.empty(attribute.shape, attribute.dtype)
        attribute.read(values)
        for reference in values.ravel():
            with suppress(KeyError, RuntimeError, ValueError):  # it leads to nothing
                target = h5py.h5r.dereference(reference, node)
                if target is not None:
                    yield target


def _refuse_dataset(file: h5py.File, where: str, dataset: Any) -> None:
    """Raise if values lie elsewhere, were never written or are too large to be unpacked."""
    import h5py

    made, item = dataset.get_create_plist(), dataset.get_type().get_size()
    layout = made.get_layout()
    if made.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise _elsewhere(file, where)
    declared = item * dataset.get_space().get_simple_extent_npoints()
    stored, file_size = dataset.get_storage_size(), file.id.get_filesize()
    if declared > max(SMALL, MOST_TIMES * stored) or stored > max(file_size, SMALL):
        raise InputError(
            f"'{_short(where)}' of {file.filename} declares {declared:,} bytes, and its file "
            f"of {file_size:,} bytes cannot hold them",
            expected="values that were all written",
            do="check that the program that wrote the file came to its end",
        )
    chunk = item * prod(made.get_chunk()) if layout == h5py.h5d.CHUNKED else item
    if chunk > MOST_CHUNK:
        raise too_large_chunk(_short(where), file.filename, chunk)
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if len(set(filters)) < len(filters):
        raise InputError(
            f"'{_short(where)}' of {file.filename} is packed more than once by one filter",
            expected="each filter at most once",
            do="write the file anew with one compression",
        )


def too_large_chunk(where: str, name: str, size: int) -> InputError:
    """Return the error of a chunk that is too large to be unpacked."""
    return InputError(
        f"'{where}' of {name} has chunks of {size / 1e9:.1f} GB",
        expected=f"chunks of at most {MOST_CHUNK / 1e9:.1f} GB",
        do="write the file anew with smaller chunks",
    )


def _elsewhere(file: h5py.File, where: str) -> InputError:
    return InputError(
        f"'{_short(where)}' lies in another file than {file.filename}",
        expected="a file that holds all of its data",
        do="write it anew as one file",
    )


def _short(where: str) -> str:
    """Return a name from a file in one line that fits a message."""
    return "".join(c if c.isprintable() else "?" for c in where[:200])


def refuse_endless_heaps(path: Path) -> None:
    """Raise if free space in a heap of strings has no size: HDF5 would step over it for ever.

    It does so while it holds the interpreter's lock, so that nothing can stop it from within.
    """
    left = path.stat().st_size + MOST_HEAP
    with open(path, "rb") as file:
        for place in _heaps(path):
            heap = _heap(file, place)
            left -= len(heap)
            if left < 0 or _is_endless(heap):  # heaps do not overlap
                raise InputError(
                    f"{path} is damaged: its heap of strings has no end",
                    expected="a whole HDF5 file",
                    do="copy the file again, or write it anew",
                )


def _heaps(path: Path) -> Iterator[int]:
    """Yield the places in a file where a heap seems to begin."""
    buffer, start, kept = np.empty(AT_ONCE, np.uint8), 0, 0
    with open(path, "rb", buffering=0) as file:
        while start < SCANNED and (n := file.readinto(buffer[kept:].data)):
            data = buffer[: kept + n]
            if _may_hold(data, b"GCOL"):  # in half of the time of the regular expression
                yield from (start - kept + mark.start() for mark in HEAP.finditer(data.data))
            start, kept = start + n, min(7, len(data))
            buffer[:kept] = data[-kept:]


def _may_hold(data: Array, four: bytes) -> bool:
    """Tell whether four bytes occur in others (n,), wherever they begin."""
    word = np.frombuffer(four, np.uint32)
    ends = [(i, i + (len(data) - i) // 4 * 4) for i in range(4)]
    return any((data[i:end].view(np.uint32) == word).any() for i, end in ends if end > i)


def _heap(file: BinaryIO, at: int) -> bytes:
    """Return the heap at a place of a file, as far as it is looked at."""
    file.seek(at)
    size = int.from_bytes(file.read(16)[8:], "little")
    file.seek(at)
    return file.read(max(16, min(size, MOST_HEAP)))


def _is_endless(heap: bytes) -> bool:
    """Tell whether a heap has free space without a size."""
    if bytes(16) not in heap:
        return False
    step = 16
    while step + 16 <= len(heap):
        index, length = struct.unpack_from("<H6xQ", heap, step)
        if index == 0:
            return bool(length == 0)
        step += 16 + (length + 7) // 8 * 8
    return False
