"""What an annotation adds to an .h5ad file, written as anndata writes it, without importing it.

anndata takes longer to be imported than a small file to be labelled. The encoding is public
(https://anndata.readthedocs.io/en/stable/fileformat-prose.html), and :data:`WRITERS` has the few
kinds that annotations have; a test compares each with what anndata writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scbignn_infer.annotation.rows import Rows, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import h5py
    import pandas as pd

    from scbignn_infer._types import Array

ROWS_AT_ONCE = 4096
"""Of numbers that stay on disk."""
CODE_TYPES = (np.int8, np.int16, np.int32, np.int64)


@dataclass(frozen=True)
class Categories:
    """Strings of which many are alike: ``codes`` (n,) are places in ``categories``, -1 for none."""

    codes: Array
    categories: list[str]

    @classmethod
    def of(cls, values: Array, categories: Sequence[str]) -> Categories:
        """Take those categories, in their order, that some of the strings (n,) are."""
        present = set(values)
        kept = [c for c in categories if c in present]
        code = {c: i for i, c in enumerate(kept)}
        kind = next(kind for kind in CODE_TYPES if len(kept) < np.iinfo(kind).max)
        return cls(np.array([code.get(v, -1) for v in values], kind), kept)

    @property
    def shape(self) -> tuple[int]:
        """Number of strings."""
        return (len(self.codes),)

    def __iter__(self) -> Iterator[str]:
        return iter(np.array([*self.categories, ""], dtype=object)[self.codes])

    def as_pandas(self) -> pd.Categorical:
        """Return them as pandas has them."""
        import pandas as pd

        kind = None if self.categories else object  # pandas infers the kind of texts it has
        return pd.Categorical.from_codes(
            self.codes, categories=pd.Index(self.categories, dtype=kind)
        )


def write_element(group: h5py.Group, name: str, value: Any) -> None:
    """Write a value of an annotation into a group."""
    value = np.array(value) if isinstance(value, list) else value
    write, encoding = next((w, e) for kind, w, e in WRITERS if _is_a(value, kind))
    write(group, name, value)
    group[name].attrs["encoding-type"], group[name].attrs["encoding-version"] = encoding


def _is_a(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a type, or an array of one of numpy's kinds."""
    if isinstance(kind, str):
        return isinstance(value, np.ndarray) and value.dtype.kind in kind
    return isinstance(value, kind)


def _write_text(group: h5py.Group, name: str, value: str) -> None:
    import h5py

    group.create_dataset(name, data=np.array(value, dtype=h5py.string_dtype()))


def _write_number(group: h5py.Group, name: str, value: float) -> None:
    group.create_dataset(name, data=np.array(value))


def _write_nothing(group: h5py.Group, name: str, value: None) -> None:
    import h5py

    group.create_dataset(name, data=h5py.Empty("f"))


def _write_numbers(group: h5py.Group, name: str, values: Array) -> None:
    group.create_dataset(name, data=values)


def _write_slices(group: h5py.Group, name: str, values: Rows) -> None:
    dataset = group.create_dataset(name, values.shape, values.dtype)
    for rows in slices(len(values), ROWS_AT_ONCE):
        dataset[rows] = values[rows]


def _write_texts(group: h5py.Group, name: str, values: Array) -> None:
    import h5py

    kind = h5py.string_dtype()
    group.create_dataset(name, data=values.astype(kind), dtype=kind)


def _write_mapping(group: h5py.Group, name: str, values: Mapping[str, Any]) -> None:
    inner = group.require_group(name)
    for key, value in values.items():
        write_element(inner, key, value)


def _write_categories(group: h5py.Group, name: str, values: Categories) -> None:
    inner = group.require_group(name)
    inner.attrs["ordered"] = False
    write_element(inner, "codes", values.codes)
    write_element(inner, "categories", np.array(values.categories, dtype=object))


def _write_rows(group: h5py.Group, name: str, values: sp.csr_matrix) -> None:
    inner = group.require_group(name)
    inner.attrs["shape"] = values.shape
    for part in ("data", "indices", "indptr"):
        inner.create_dataset(part, data=getattr(values, part), maxshape=(None,))


WRITERS: tuple[tuple[Any, Callable[..., None], tuple[str, str]], ...] = (
    (str, _write_text, ("string", "0.2.0")),
    (bool | int | float | np.number | np.bool_, _write_number, ("numeric-scalar", "0.2.0")),
    (type(None), _write_nothing, ("null", "0.1.0")),
    ("biuf", _write_numbers, ("array", "0.2.0")),
    (Rows, _write_slices, ("array", "0.2.0")),
    ("UO", _write_texts, ("string-array", "0.2.0")),
    (Mapping, _write_mapping, ("dict", "0.1.0")),
    (Categories, _write_categories, ("categorical", "0.2.0")),
    (sp.csr_matrix, _write_rows, ("csr_matrix", "0.1.0")),
)
"""Kinds of values, or of numpy's arrays; what writes them, and the encoding and its version."""
