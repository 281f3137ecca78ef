"""Strings of an AnnData in the form that every program reads.

pandas has strings with a mask (``string``, ``str``). anndata writes them as nullable arrays, which
anndata before 0.11 and anndataR cannot read, or refuses to write them. Arrays of objects and
categoricals are written as they always were.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad
    import pandas as pd


@contextmanager
def plain_strings(adata: ad.AnnData) -> Iterator[None]:
    """Make the strings of an AnnData plain ones, and let anndata write them so within the block."""
    import anndata as ad

    # Tables in obsm and varm are put back last: their index must be that of obs or var.
    beside = [(slot, key) for slot in (adata.obsm, adata.varm, adata.uns) for key in list(slot)]
    plain = [(slot, key, _plain(slot.pop(key))) for slot, key in beside]
    for table in (adata.obs, adata.var, *([] if adata.raw is None else [adata.raw.var])):
        _make_plain(table)
    for slot, key, value in plain:
        slot[key] = value
    with ad.settings.override(allow_write_nullable_strings=False):
        yield


def _plain(value: Any) -> Any:
    """Return a value of uns or obsm with plain strings; what has none is returned as it is."""
    import pandas as pd

    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, pd.DataFrame):
        copy = value.copy()
        _make_plain(copy)
        return copy
    if isinstance(getattr(value, "dtype", None), pd.StringDtype):
        return _plain_array(value)
    return value


def _make_plain(table: pd.DataFrame) -> None:
    """Make the index an array of objects, and the columns of strings what anndata can write."""
    import pandas as pd

    name = table.index.name
    table.index = pd.Index([str(v) for v in table.index], dtype=object, name=name)
    for column in table.columns[[isinstance(kind, pd.StringDtype) for kind in table.dtypes]]:
        table[column] = _plain_array(table[column])
    for column in table.columns[[_of_masked(kind) for kind in table.dtypes]]:
        kept = table[column].cat
        table[column] = kept.rename_categories(list(kept.categories))


def _of_masked(kind: Any) -> bool:
    """Tell whether a type is that of categories of strings with a mask."""
    import pandas as pd

    categories = kind.categories if isinstance(kind, pd.CategoricalDtype) else None
    return categories is not None and isinstance(categories.dtype, pd.StringDtype)


def _plain_array(values: Any) -> Any:
    """Return strings as an array of objects, or as a categorical where some are missing."""
    import pandas as pd

    plain = pd.Series(values).astype(object)
    missing = plain.isna()
    return pd.Categorical(plain.where(~missing, None)) if missing.any() else plain.to_numpy()
