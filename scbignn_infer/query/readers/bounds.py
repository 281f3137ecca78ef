"""What may be held of a file: bounds on tables, names and texts, checked before they are read."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from functools import partial
from itertools import islice
from math import prod
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MOST_NAME = 10_000
"""Characters of the longest name of a cell or gene."""
MOST_PARTS = 250_000
"""Data sets and groups of an element that is read whole."""
MOST_MATRICES = 256
STRING_BYTES = 64
"""What a short string takes in memory."""
STRINGS_AT_ONCE = 2048
MANY_NAMES, NAMES_A_BYTE = 100_000, 16
"""Of so many names, each needs a part of a byte at least: where it lies, or the name itself."""
SMALL_TEXT, MOST_PACKED = 1 << 28, 400
"""Bytes of a text from which on it may not be packed better than so many times."""
VALUE_BYTES = 20
"""What a value of a text table takes in memory while it is read."""
SEPARATORS = (b",", b"\t", b";", b" ")
TEXT_AT_ONCE = 1 << 22
ENTRY_BYTES = 32
"""What an entry of a matrix.mtx takes in memory."""
LEAST_ENTRY = 4
"""Bytes of the shortest line of a matrix.mtx."""
HEADER_BYTES = 1 << 20
LINE_BYTES, COMMENT_LINES = 1 << 26, 1000
"""Longest line that is looked at, and lines that may stand before the sizes of a matrix.mtx."""


def memory_of_machine() -> int:
    """Return the bytes of memory there are, or more than any machine has where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return 1 << 62


def too_much(what: str, needed: int, most: int) -> InputError:
    """Return the error of what does not fit into memory."""
    return InputError(
        f"{what} needs at least {needed / 1e9:,.1f} GB of memory",
        expected=f"at most {most / 1e9:,.1f} GB",
        do="check how the file was made, raise --memory-limit, or use a machine with more memory",
    )


def refuse_many(what: str, n: int, most: int) -> None:
    """Raise if so many names cannot be held."""
    if n * STRING_BYTES > most:
        raise too_much(f"{what} ({n:,} names)", n * STRING_BYTES, most)


def weigh(node: Any, what: str, most: int, longest: int | None = None) -> None:
    """Raise if an element of an HDF5 file or Zarr store cannot be held in memory.

    All that is read with it is counted as often as it is read, hard links, too. An array of several
    names is looked at once. A group that holds itself is refused, and so are strings of more than
    ``longest`` characters; those of an index may have :data:`MOST_NAME`.
    """
    held, parts = 0, 0
    weights: dict[Any, int] = {}
    waiting: list[tuple[Any, int | None, tuple[Any, ...]]] = [(node, longest, ())]
    """Nodes, how long their strings may be, and the groups that they are in."""
    while waiting:
        node, longest, above = waiting.pop()
        parts += 1
        place = object_of(node)
        if parts > MOST_PARTS:
            raise InputError(
                f"{what} has more than {MOST_PARTS:,} parts",
                expected="fewer",
                do="write only the annotations that you need",
            )
        if place in above:
            raise InputError(
                f"{what} holds itself",
                expected="groups that hold others",
                do="write the file anew, for instance with anndata",
            )
        if hasattr(node, "shape"):
            if (place, longest) not in weights:
                weights[place, longest] = _bytes_of(node, what, most, longest)
            held += weights[place, longest]
            if held > most:
                raise too_much(what, held, most)
            continue
        attributes = dict(node.attrs)
        columns = Counter(map(str, np.ravel(attributes.get("column-order", []))))
        for key in [*node, *(columns - Counter(set(columns))).elements()]:
            child = node.get(key)
            if child is not None:  # else a link that leads nowhere
                most_chars = MOST_NAME if key == attributes.get("_index") else longest
                waiting.append((child, most_chars, (*above, place)))


def object_of(node: Any) -> Any:
    """Return what is equal for all names of one object of an HDF5 file or a Zarr store."""
    import h5py

    if isinstance(node, h5py.HLObject):
        return h5py.h5g.get_objinfo(node.id, b".").objno
    return node.path


def _bytes_of(node: Any, what: str, most: int, longest: int | None) -> int:
    """Return what an array takes in memory; strings of HDF5 are counted, in small parts."""
    import h5py

    if node.shape is None:  # an empty data set of HDF5
        return 0
    size, text = prod(map(int, node.shape)), node.dtype.kind not in "biufcMmV"
    item = max(int(getattr(node.dtype, "itemsize", 8)), STRING_BYTES if text else 0)
    if size * item > most:
        raise too_much(what, size * item, most)
    if longest is not None and item > 4 * longest and size:
        raise too_long(what, item)
    held = size * item
    if longest is not None and text and _never_written(node, size):
        raise InputError(
            f"{what} has {size:,} names, of which none were written",
            expected="a name for each cell and gene",
            do="check that the program that wrote the file came to its end",
        )
    if not (text and hasattr(node, "id") and len(node.shape) == 1):
        return held
    start, step = 0, 16
    while start < size and not h5py.check_ref_dtype(node.dtype):
        lengths = list(map(len, node[start : start + step]))
        start, step = start + step, min(2 * step, STRINGS_AT_ONCE)
        held += sum(lengths)
        if longest is not None and max(lengths) > longest:
            raise too_long(what, max(lengths))
        if held > most:
            raise too_much(what, held, most)
    return held


def _never_written(names: Any, n: int) -> bool:
    """Tell whether there is less on disk than many names that differ can be packed into."""
    if n < MANY_NAMES:
        return False
    if hasattr(names, "id"):
        return bool(names.id.get_storage_size() * NAMES_A_BYTE < n)
    return bool(names.nchunks_initialized == 0)


def too_long(what: str, length: int) -> InputError:
    """Return the error of a name that is too long to be one."""
    return InputError(
        f"{what} has a name of {length:,} characters",
        expected=f"names of at most {MOST_NAME:,}",
        do="check which column holds the names",
    )


def refuse_long_names(names: Any, what: str) -> None:
    """Raise if a name that was read is too long."""
    length = max((len(str(n)) for n in names), default=0)
    if length > MOST_NAME:
        raise too_long(what, length)


# --- texts ---------------------------------------------------------------------------------------


def unpacked(path: Path) -> IO[bytes]:
    """Open a file, or what gzip packed."""
    return cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else open(path, "rb"))


def entries(path: Path) -> int:
    """Return the entries that a ``matrix.mtx`` says it has."""
    with unpacked(path) as file:
        for line in islice(iter(partial(file.readline, LINE_BYTES), b""), COMMENT_LINES):
            if not line.startswith(b"%"):
                return max(0, int(line.split()[2]))
    return 0


def refuse_text(path: Path, most: int) -> None:
    """Raise if the bytes of a text table cannot be held, or are packed better than tables are."""
    packed, zipped = path.stat().st_size, path.suffix == ".gz"
    size = 0 if zipped else packed
    with unpacked(path) as file:
        while zipped and (data := file.read(TEXT_AT_ONCE)):
            size += len(data)
            if size > min(most, max(SMALL_TEXT, MOST_PACKED * packed)):
                raise InputError(
                    f"{path} unpacks to more than {size / 1e9:.1f} GB",
                    expected=f"at most {MOST_PACKED} times its size, and {most / 1e9:.1f} GB",
                    do="check how it was made, or unpack it first",
                )
        file.seek(0)
        values = 0
        while VALUE_BYTES * size / 2 > most and (data := file.read(TEXT_AT_ONCE)):
            values += max(map(data.count, SEPARATORS))
            if VALUE_BYTES * values > most:
                raise too_much(f"{path} ({size / 1e9:.1f} GB of text)", VALUE_BYTES * values, most)


def refuse_mtx(path: Path, most: int) -> None:
    """Raise if a ``matrix.mtx``, plain or ``.gz``, promises more than it holds or can be held.

    Its reader makes room for as many entries as its header promises.
    """
    with unpacked(path) as file:
        head = file.read(HEADER_BYTES)
    lines = [line for line in head.splitlines() if line.strip()]
    sizes = next((line.split() for line in lines if not line.startswith(b"%")), [])
    if not sizes and len(head) == HEADER_BYTES:
        raise InputError(
            f"{path} says no sizes in its first {HEADER_BYTES:,} bytes",
            expected="a whole matrix.mtx",
            do="check how it was made",
        )
    if not all(s.isdigit() for s in sizes) or len(sizes) not in {2, 3}:
        return  # what is wrong is said where it is read
    array = len(sizes) == 2
    entries = int(sizes[0]) * int(sizes[1]) if array else int(sizes[2])
    least = 2 if array else LEAST_ENTRY
    size = path.stat().st_size * (1100 if path.suffix == ".gz" else 1)
    if entries * least > size + least:  # the last line may have no end
        raise InputError(
            f"{path} promises {entries:,} values and is too small for them",
            expected="a whole matrix.mtx",
            do="check that it was copied to its end",
        )
    needed = entries * (16 if array else ENTRY_BYTES)
    if needed > most:
        raise too_much(f"{path} ({entries:,} values)", needed, most)
