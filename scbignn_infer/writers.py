"""Write results: into a copy of the h5ad, or as a table. Whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.errors import MissingExtraError, OutputError
from scbignn_infer.strings import plain_strings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import anndata as ad
    import pandas as pd

Array = np.ndarray[Any, Any]
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
SUFFIXES = (".h5ad", *TABLE_SUFFIXES)
COPY_BYTES = 1 << 24
"""Bytes that are copied at once, between two looks at whether to stop."""
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
    """What an annotation adds to an AnnData.

    Attributes
    ----------
    columns, matrices, pairs, records
        What goes to ``obs``, ``obsm``, ``obsp`` and ``uns``, by name.
    stale
        What is taken away if it is there, by slot: a graph would be that of earlier labels.
    """

    columns: Mapping[str, Any]
    matrices: Mapping[str, Array]
    pairs: Mapping[str, Any]
    records: Mapping[str, Any]
    stale: Mapping[str, Sequence[str]] = field(default_factory=dict)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target`` that takes its place when the block succeeds.

    Raises
    ------
    OutputError
        The disk is full, the folder cannot be written, and the like; nothing is left behind.
    """
    with _beside(target) as temporary, _one_line(target):
        yield temporary
        _put(temporary, target)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Make an empty temporary file beside ``target``; it is gone when the block ends."""
    with _one_line(target):
        target = target.resolve()
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)


@contextmanager
def _one_line(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises either when the disk is full
        reason = getattr(error, "strerror", None) or (str(error) or repr(error)).splitlines()[0]
        raise OutputError(
            f"cannot write {target} ({reason})",
            expected="a folder that can be written, with enough free space",
            do="free space or choose another place with -o; nothing was left behind",
        ) from None


def _put(temporary: Path, target: Path) -> None:
    """Move a finished file to its place, on the disk for good and with the right mode."""
    with open(temporary, "r+b") as file:
        os.fsync(file.fileno())
    temporary.chmod(target.stat().st_mode if target.exists() else 0o666 & ~_umask())
    temporary.replace(target.resolve())  # through a link, so that the link stays one


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises
    ------
    OutputError
        An unknown suffix, a missing folder, or a file that exists and may not be overwritten.
    """
    if target.suffix not in SUFFIXES:
        raise OutputError(
            f"output '{target.name}'",
            expected=f"a name that ends in {', '.join(SUFFIXES)}",
            do="rename the output",
        )
    if not target.parent.is_dir():
        raise OutputError(
            f"no folder {target.parent}", expected="an existing folder", do="make it first"
        )
    if target.exists() and not overwrite:
        raise OutputError(
            f"{target} exists", expected="a new file", do="choose another -o or pass --overwrite"
        )
    if target.suffix == ".parquet":
        try:
            import pyarrow as pa  # noqa: F401
        except ImportError:
            raise MissingExtraError("pyarrow", extra="parquet", purpose="parquet output") from None


def check_page(page: Path, *, overwrite: bool, suffixes: Sequence[str] = (".html",)) -> None:
    """Refuse a page or picture that cannot be written, before any work is done.

    Raises
    ------
    OutputError
        Another suffix, a missing folder, or a file that exists and may not be overwritten.
    """
    if page.suffix not in suffixes:
        raise OutputError(
            f"the page '{page.name}'",
            expected=f"a name that ends in {', '.join(suffixes)}",
            do="rename it",
        )
    if not page.parent.is_dir():
        raise OutputError(
            f"no folder {page.parent}", expected="an existing folder", do="make it first"
        )
    if page.exists() and not overwrite:
        raise OutputError(
            f"{page} exists", expected="a new file", do="choose another or pass --overwrite"
        )


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
        slots = {s: set(file[s]) if s in file else set() for s in wanted}
    refuse_existing(existing_slots(slots, wanted), overwrite=overwrite)


def as_column(values: Array, categories: Sequence[str]) -> Any:
    """Return strings as a categorical with unused categories dropped, numbers as they are."""
    import pandas as pd

    if values.dtype != object:
        return values
    present = set(values)
    return pd.Categorical(values, categories=[c for c in categories if c in present])


@contextmanager
def copying(source: Path, target: Path) -> Iterator[Callable[[Slots], None]]:
    """Copy an h5ad file while the block works; X is never rewritten.

    Parameters
    ----------
    source, target
        The query file and the output; they may be the same, which is then replaced as a whole.

    Returns
    -------
    callable
        Called once, it waits for the copy, adds the slots and puts it in its place. A block that
        ends without this leaves nothing behind.

    Raises
    ------
    OutputError
        The output cannot be written; nothing is left behind.
    """
    with _beside(target) as temporary:
        stop, pool = threading.Event(), ThreadPoolExecutor(1, thread_name_prefix="scbignn-copy")
        try:  # from here on, since a signal may come while the thread starts
            copied = pool.submit(_copy, source, temporary, stop)

            def finish(slots: Slots) -> None:
                with _one_line(target):
                    copied.result()
                    _add_slots(temporary, slots)
                    _put(temporary, target)

            yield finish
        finally:
            stop.set()
            pool.shutdown()


def _copy(source: Path, target: Path, stop: threading.Event) -> None:
    """Copy the bytes of a file, and no further once ``stop`` is set."""
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
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
                raise OSError(f"{source} became shorter while it was copied")
            left -= len(data)
            while data:
                data = data[new.write(data) :]


def write_h5ad(source: Path, target: Path, slots: Slots) -> None:
    """Copy ``source`` and add the slots of an annotation, all at once; see :func:`copying`."""
    with copying(source, target) as finish:
        finish(slots)


def _add_slots(path: Path, slots: Slots) -> None:
    import h5py
    from anndata.io import write_elem

    with h5py.File(path, "r+") as file:
        for group, names in slots.stale.items():
            for name in names:
                if f"{group}/{name}" in file:
                    del file[group][name]
        obs = file["obs"]
        for name, values in slots.columns.items():
            write_elem(obs, name, values)
        order = [str(c) for c in obs.attrs.get("column-order", ())]
        order += [c for c in slots.columns if c not in order]
        obs.attrs["column-order"] = np.array(order, dtype=object)
        others = {"obsm": slots.matrices, "obsp": slots.pairs, "uns": slots.records}
        for group, values in others.items():
            if values and group not in file:
                write_elem(file, group, {})
            for name, value in values.items():
                write_elem(file[group], name, value)


def write_adata(adata: ad.AnnData, slots: Slots) -> None:
    """Add the slots of an annotation to an AnnData in memory."""
    for slot, names in slots.stale.items():
        for name in names:
            getattr(adata, slot).pop(name, None)
    for name, values in slots.columns.items():
        adata.obs[name] = values
    for name, values in slots.matrices.items():
        adata.obsm[name] = values
    for name, values in slots.pairs.items():
        adata.obsp[name] = values
    adata.uns.update(slots.records)


def write_new_h5ad(adata: ad.AnnData, target: Path, slots: Slots) -> None:
    """Write an AnnData that was read from another format, with the slots of an annotation.

    Raises
    ------
    OutputError
        The output cannot be written; nothing is left behind.
    """
    with replacing(target) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are not unique, which are kept
        write_adata(adata, slots)
        with plain_strings(adata):
            adata.write_h5ad(temporary)


def write_table(
    target: Path,
    cell_names: Sequence[str],
    *,
    columns: Mapping[str, Any],
    probabilities: Array,
    cell_types: Sequence[str],
) -> None:
    """Write one row a cell: the columns, then the probability of each type.

    Raises
    ------
    OutputError
        The output cannot be written; nothing is left behind.
    """
    table = make_table(cell_names, columns, probabilities, cell_types)
    with replacing(target) as temporary:
        if target.suffix == ".parquet":
            table.to_parquet(temporary)
        else:
            table.to_csv(temporary, sep="\t" if target.suffix == ".tsv" else ",")


def make_table(
    cell_names: Sequence[str],
    columns: Mapping[str, Any],
    probabilities: Array,
    cell_types: Sequence[str],
) -> pd.DataFrame:
    """Return the table that :func:`write_table` writes."""
    import pandas as pd

    table = pd.DataFrame(dict(columns), index=pd.Index(cell_names, name="cell"))
    chances = pd.DataFrame(
        probabilities, columns=[f"probability_{c}" for c in cell_types], index=table.index
    )
    return pd.concat([table, chances], axis=1)
