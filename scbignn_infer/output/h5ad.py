"""What is written of an annotation: slots in a copy of the h5ad, or a table."""

from __future__ import annotations

import errno
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scbignn_infer.errors import InputError, OutputError, reason
from scbignn_infer.output.elements import Categories, write_element
from scbignn_infer.output.strings import plain_strings
from scbignn_infer.query.identity import changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import anndata as ad
    import h5py

    from scbignn_infer._types import Array
    from scbignn_infer.query.identity import Identity

SLOT_GROUPS = ("obs", "obsm", "obsp", "uns")
COPY_BYTES = 1 << 24
"""Bytes that are copied at once, between two looks at whether to stop."""
PAGE_BYTES = 1 << 12
KEPT_BYTES = 1 << 20
"""HDF5's records of its own are shorter; what is longer are values, which it reads no more."""
NOT_WITHIN_THE_SYSTEM = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
)
"""Errors that say that two files cannot be copied without passing through the process."""


@dataclass(frozen=True)
class Slots:
    """What an annotation adds to ``obs``, ``obsm``, ``obsp`` and ``uns`` of an AnnData, by name."""

    columns: Mapping[str, Any]
    matrices: Mapping[str, Array]
    pairs: Mapping[str, Any]
    records: Mapping[str, Any]
    stale: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What is taken away if it is there, by slot: a graph would be that of earlier labels."""
    stale_start: str = ""
    """How columns of obs begin that are taken away, too, unless they are written."""

    def gone(self, slot: str, names: Iterable[str]) -> list[str]:
        """Return those of the names in a slot that are taken away."""
        stale = set(self.stale.get(slot, ()))
        if slot == "obs" and self.stale_start:
            stale |= {n for n in names if str(n).startswith(self.stale_start)} - self.columns.keys()
        return [name for name in names if name in stale]


def existing_slots(slots: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """List the wanted slots that exist already, such as ``obs['scbignn_cell_type']``."""
    return [f"{s}['{k}']" for s, keys in wanted.items() for k in keys if k in slots.get(s, ())]


def refuse_existing(taken: Sequence[str], *, overwrite: bool) -> None:
    """Raise if slots would be overwritten without leave."""
    if taken and not overwrite:
        raise OutputError(
            f"{', '.join(taken[:3])}{' and more' if len(taken) > 3 else ''} exist already",
            expected="no slots of an earlier run",
            do="pass --overwrite (overwrite=True) or another --key-added (key_added=...)",
        )


def check_h5ad_slots(source: Path, wanted: Mapping[str, Sequence[str]], *, overwrite: bool) -> None:
    """Refuse slots that the source file has already, before any work is done."""
    import h5py

    with h5py.File(source, "r") as file:
        check_inside(file, source)
        slots = {s: set(file[s]) if s in file else set() for s in wanted}
    refuse_existing(existing_slots(slots, wanted), overwrite=overwrite)


def check_inside(file: h5py.File, path: Path) -> None:
    """Refuse an h5ad file whose parts lie in other files: nothing there is read or written.

    The kind of each link is looked at and none is followed that may lead elsewhere.
    """
    import h5py

    for name in SLOT_GROUPS:
        link = file.get(name, getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise _elsewhere(path, name)
        if name == "obs" and link is None:
            raise _no_slots(path, name, "is not there")
        if link is not None and not isinstance(file[name], h5py.Group):
            raise _no_slots(path, name, "is no group")
    for group in (file, *(file[name] for name in SLOT_GROUPS if name in file)):
        for name in group:
            link = group.get(name, getlink=True)
            item = group[name] if isinstance(link, h5py.HardLink) else None
            stored = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
            if isinstance(link, h5py.ExternalLink) or stored:
                raise _elsewhere(path, f"{group.name}/{name}".lstrip("/"))


def _elsewhere(path: Path, name: str) -> InputError:
    return InputError(
        f"'{name}' of {path} is a link, or its values lie in another file",
        expected="a file that holds all of its data",
        do="write it anew as one file, for instance with anndata",
    )


def _no_slots(path: Path, name: str, what: str) -> InputError:
    return InputError(
        f"'{name}' of {path} {what}", expected="an AnnData file", do="write it anew with anndata"
    )


def as_column(values: Array, categories: Sequence[str]) -> Any:
    """Return strings with those of the categories that they are, numbers as they are."""
    return Categories.of(values, categories) if values.dtype == object else values


@contextmanager
def copying(
    source: Identity, target: Path, begin: threading.Event | None = None
) -> Iterator[Callable[[Slots], None]]:
    """Copy an h5ad file while the block works; X is never rewritten.

    What the block gets is called once: it waits for the copy and adds the slots. The file that was
    opened is copied, and none that has taken its path. The copy waits for ``begin``, if that is
    given, or until the slots are there: whoever reads the file is not held up by the writing.
    """
    if begin is None:
        begin = threading.Event()
        begin.set()
    with source.opened() as old, _writer() as (pool, stop), _released(begin, stop):
        copied = pool.submit(_copy, old, source.path, target, stop, begin)

        def finish(slots: Slots) -> None:
            begin.set()
            copied.result()
            try:
                pool.submit(_add_slots, target, slots, source.path, stop).result()
            except (KeyError, TypeError, ValueError) as error:  # h5py's, of damaged groups
                raise InputError(
                    f"cannot add labels to a copy of {source.path} ({reason(error)})",
                    expected="a whole .h5ad file",
                    do="write it anew, for instance with anndata",
                ) from None

        yield finish


@contextmanager
def _released(begin: threading.Event, stop: threading.Event) -> Iterator[None]:
    """Let nothing wait for ``begin`` once the block has ended, and stop it."""
    try:
        yield
    finally:
        stop.set()
        begin.set()


@contextmanager
def _writer() -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    """Give a thread that writes, and what stops it when the block ends.

    Signals are met by the main thread alone: HDF5 does not survive an exception while it writes.
    """
    stop, pool = threading.Event(), ThreadPoolExecutor(1, thread_name_prefix="scbignn-write")
    try:  # from here on, since a signal may come while the thread starts
        yield pool, stop
    finally:
        stop.set()
        pool.shutdown()


def _copy(
    old: FileIO, source: Path, target: Path, stop: threading.Event, begin: threading.Event
) -> None:
    """Copy the bytes of an open file after ``begin``, and no further once ``stop`` is set."""
    begin.wait()
    with open(target, "wb", buffering=0) as new:
        left, within_the_system = os.fstat(old.fileno()).st_size, hasattr(os, "copy_file_range")
        while left > 0 and not stop.is_set():
            if within_the_system:
                try:
                    n = os.copy_file_range(old.fileno(), new.fileno(), min(left, COPY_BYTES))
                except OSError as error:
                    if error.errno not in NOT_WITHIN_THE_SYSTEM:
                        raise
                    n = 0
                left, within_the_system = left - n, n > 0
                continue
            data = old.read(min(left, COPY_BYTES))
            if not data:
                raise changed(source)
            left -= len(data)
            while data:
                data = data[new.write(data) :]


class _Forbearing(FileIO):
    """A file under HDF5 that keeps the first failure to itself and writes nothing more.

    HDF5 that is told of a failure cannot close its file any more; it says so in many lines, and
    ends the process. So it is told of none, and reads its own records from memory; the failure is
    raised once the file is closed. Once ``stop`` is set, nothing more is written either.
    """

    def __init__(self, path: Path, stop: threading.Event) -> None:
        super().__init__(path, "r+")
        self.failure: OSError | None = None
        self._stop = stop
        self._pages: dict[int, bytearray] = {}

    def write(self, data: Any) -> int:
        """Write all, or keep why not, and what HDF5 may want to read again."""
        at, left = self.tell(), memoryview(data)
        try:
            while left and not self._stop.is_set() and self.failure is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.failure = error
        if len(left) <= KEPT_BYTES:
            self._keep(at + len(data) - len(left), left)
        self.seek(at + len(data))
        return len(data)

    def _keep(self, at: int, data: memoryview) -> None:
        while data:
            number, start = divmod(at, PAGE_BYTES)
            if number not in self._pages:
                page = bytearray(PAGE_BYTES)
                self.seek(number * PAGE_BYTES)
                self.readinto(page)
                self._pages[number] = page
            part = data[: PAGE_BYTES - start]
            self._pages[number][start : start + len(part)] = part
            at, data = at + len(part), data[len(part) :]

    def readinto(self, buffer: Any) -> int:
        """Read what was written, whether it came to the disk or not."""
        view, at = memoryview(buffer).cast("B"), self.tell()
        done = 0
        while part := super().readinto(view[done:]):
            done += part
        view[done:] = bytes(len(view) - done)
        if self._pages:
            for number in range(at // PAGE_BYTES, (at + len(view) - 1) // PAGE_BYTES + 1):
                if number in self._pages:
                    start = number * PAGE_BYTES
                    first, last = max(at, start), min(at + len(view), start + PAGE_BYTES)
                    view[first - at : last - at] = self._pages[number][first - start : last - start]
        self.seek(at + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Give the file its size, or keep why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
        return size or 0


@contextmanager
def _hdf5(path: Path, mode: Literal["r+", "w"], stop: threading.Event) -> Iterator[h5py.File]:
    """Open an HDF5 file to be written, whose block fails if a write does."""
    import h5py

    with _Forbearing(path, stop) as disk:
        try:
            with h5py.File(disk, mode) as file:
                yield file
        finally:
            if disk.failure is not None:
                raise disk.failure from None


def _add_slots(path: Path, slots: Slots, source: Path, stop: threading.Event) -> None:
    with _hdf5(path, "r+", stop) as file:
        check_inside(file, source)
        obs = file["obs"]
        check_lengths(_count_cells(obs, source), slots, source)
        for group in slots.stale:
            for name in slots.gone(group, list(file.get(group, ()))):
                _remove(file, group, name)
        for name, values in slots.columns.items():
            _remove(file, "obs", name)
            write_element(obs, name, values)
        listed = [str(c) for c in obs.attrs.get("column-order", ())]
        gone = set(slots.gone("obs", listed))
        order = [name for name in listed if name not in gone]
        order += [c for c in slots.columns if c not in order]
        obs.attrs["column-order"] = np.array(order, dtype=object)
        others = {"obsm": slots.matrices, "obsp": slots.pairs, "uns": slots.records}
        for group, values in others.items():
            if values and group not in file:
                write_element(file, group, {})
            for name, value in values.items():
                _remove(file, group, name)
                write_element(file[group], name, value)


def _remove(file: h5py.File, group: str, name: str) -> None:
    """Take a slot away without following it, should it be a link."""
    if group in file and file[group].get(name, getlink=True) is not None:
        del file[group][name]


def _count_cells(obs: h5py.Group, source: Path) -> int:
    """Return the length of the index, from its shape alone."""
    name = str(obs.attrs.get("_index"))
    if name not in set(obs):
        raise _no_slots(source, "obs", "has no index")
    node = obs[name]
    if not hasattr(node, "shape"):  # categories or strings with missing ones, in a group
        node = node["codes" if "codes" in node else "values"]
    return int(node.shape[0])


def check_lengths(n_cells: int, slots: Slots, source: Path) -> None:
    """Refuse slots with more or fewer rows than the file has cells."""
    for values in (slots.columns, slots.matrices, slots.pairs):
        for name, value in values.items():
            rows = int(np.shape(value)[0])
            if rows != n_cells:
                raise InputError(
                    f"'{name}' has {rows:,} rows and {source} holds {n_cells:,} cells",
                    expected="a value for each cell",
                    do="check whether another program changed the file, then run again",
                )


def write_adata(adata: ad.AnnData, slots: Slots) -> None:
    """Add the slots of an annotation to an AnnData in memory."""
    for slot in slots.stale:
        held = getattr(adata, slot)
        for name in slots.gone(slot, list(held)):
            del held[name]
    for name, values in slots.columns.items():
        adata.obs[name] = values.as_pandas() if isinstance(values, Categories) else values
    for name, values in slots.matrices.items():
        adata.obsm[name] = np.asarray(values)
    for name, values in slots.pairs.items():
        adata.obsp[name] = values
    adata.uns.update(slots.records)


def write_new_h5ad(adata: ad.AnnData, path: Path, slots: Slots) -> None:
    """Write an AnnData that was read from another format, with the slots of an annotation."""
    with _writer() as (pool, stop):
        pool.submit(_write_whole, adata, path, slots, stop).result()


def _write_whole(adata: ad.AnnData, path: Path, slots: Slots, stop: threading.Event) -> None:
    from anndata.io import write_elem

    with warnings.catch_warnings(), _hdf5(path, "w", stop) as file:
        warnings.simplefilter("ignore")  # of names that are not unique, which are kept
        write_adata(adata, slots)
        with plain_strings(adata):
            adata.strings_to_categoricals()
            write_elem(file, "/", adata)
        if adata.raw is None:
            file.pop("raw", None)
