"""Tables of mean expression: a row a cell type, a set a study that measured them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import scipy.sparse as sp

from scbignn_infer.errors import InputError, reason
from scbignn_infer.query.gene_names import NO_NAME, all_names
from scbignn_infer.query.matrices import judge
from scbignn_training.ontology import check_terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from scbignn_training.profile_types import ProfileType

Array = np.ndarray[Any, Any]
FORMATS = "a table of mean expression: .h5ad, .csv, .tsv or .parquet, types x genes"
NAMES = {
    "type": ("cell_type", "celltype", "type", "label", "cluster"),
    "dataset": ("dataset", "data_set", "study"),
    "tissue": ("tissue", "organ"),
    "ontology": ("ontology_id", "cell_type_ontology_term_id", "cell_ontology_id", "cl_id"),
    "cells": ("n_cells", "cells", "cell_count"),
    "citation": ("citation",),
}
"""Columns that describe a profile, and the names by which they are found."""
FLAT, FLAT_GENES = 3.0, 100
"""The largest mean is over 3.6 times the 100th of a profile, and under 2.9 times if both are means
of logarithms (a quarter of the profiles of each of 50 data sets)."""
LOG_TOTAL = 5000.0
"""expm1 of the mean log1p(CP10k) of cells sums to 4,000 to 6,200."""
MOST_LOG = 7.0
"""Hardly a mean of log1p(CP10k) is larger: a tenth of the counts."""
ENOUGH_NAMES = 0.2
"""Share of the names of a table's side above which they are genes."""
NO_GENE = re.compile(
    r"(n|nb|num|number|total|sum|mean|median|pct|percent|share|fraction|log1p)[_. ]"
    r"|n(Count|Feature)_"
    r"|.*[_. ](counts?|cells?|donors?|umis?|genes?|score|fraction|percent)$",
    re.IGNORECASE,
)
"""Names of columns of numbers that say something of the cells, such as n_donors or total_umi."""


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names of the columns that describe a profile; empty ones are found by :data:`NAMES`."""

    type: str = ""
    dataset: str = ""
    tissue: str = ""
    ontology: str = ""
    cells: str = ""
    citation: str = ""


@dataclass(frozen=True)
class ProfileSet:
    """Mean expression of the cell types of one data set.

    Attributes
    ----------
    path
        The table.
    name
        The data set.
    means
        (t, g) float64 over the genes that the data set measured; rows sum to 1.
    symbols
        (g,) unique gene symbols.
    labels
        (t,) types as published.
    tissues, ontology_ids
        (t,) as published; empty strings where the table does not say.
    n_cells
        (t,) cells that each mean is of; 0 where the table does not say.
    citation
        Of the data set.
    published
        (t,) names as published, where a table of types gives others as labels; else none.
    meant
        (t,) what a table of types says of each; empty without one.
    """

    path: Path
    name: str
    means: Array
    symbols: list[str]
    labels: Array
    tissues: Array
    ontology_ids: Array
    n_cells: Array
    citation: str = ""
    published: Array | None = None
    meant: tuple[ProfileType, ...] = ()

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Name and tissue of each profile, which together are unique in a data set."""
        names = self.labels if self.published is None else self.published
        return [(str(n), str(t)) for n, t in zip(names, self.tissues, strict=True)]


def read_profiles(
    path: str | Path,
    *,
    columns: Columns | None = None,
    include: Mapping[str, Sequence[str]] | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    types: Mapping[tuple[str, str], ProfileType] | None = None,
    may_be_empty: bool = False,
) -> list[ProfileSet]:
    """Read a table of profiles: a set for each data set, with the genes that it measured.

    The values are means of counts, of counts scaled to any total, or of logarithms of these, which
    are found and undone as for a query, for each data set by itself. A gene that is 0 or NaN in all
    profiles of a data set was not measured there.

    Parameters
    ----------
    path
        An ``.h5ad`` file, or a table of text or Parquet with types or genes as rows.
    columns
        Names of the columns with type, data set, tissue, ontology id and number of cells.
    include, exclude
        Patterns by column; only rows that match one in each column of ``include`` are read, and
        none that matches one of ``exclude``.
    types
        What the names of each data set mean, by data set and name; profiles that it has not are
        left out.
    may_be_empty
        Whether no set is an answer if ``types`` has none of the names.

    Raises
    ------
    InputError
        It is no table of profiles: no gene names, negative or infinite values, a row of zeros,
        fewer than two types, one type twice, an unknown ontology id, or a column that is no known
        gene and outweighs all genes.
    """
    path = Path(path)
    values, genes, about = _read(path)
    name = _Named(path, about, columns or Columns())
    keep = np.ones(len(about), dtype=bool)
    for column, patterns in (include or {}).items():
        keep &= _matches(name.column(column), patterns)
    for column, patterns in (exclude or {}).items():
        keep &= ~_matches(name.column(column), patterns)
    if types is not None:
        named = zip(name.datasets, name.get("type"), strict=True)
        keep &= np.array([(str(d), str(x)) in types for d, x in named], dtype=bool)
        if may_be_empty and not keep.any():
            return []
    values, about = values[keep], about[keep]
    name = _Named(path, about, columns or Columns())
    labels, datasets = name.get("type"), name.datasets
    tissues, terms = name.get("tissue"), name.get("ontology")
    cells, citations = _whole(path, name.get("cells")), name.get("citation")
    _check(path, values, labels, datasets, tissues)
    check_terms({str(x): str(t) for x, t in zip(labels, terms, strict=True)})
    found = []
    for dataset in dict.fromkeys(datasets.tolist()):
        rows = np.flatnonzero(datasets == dataset)
        called = path.stem if dataset == path.stem else f"{path.stem}/{dataset}"
        means, symbols = _means(called, values[rows], genes)
        about_rows = labels[rows], tissues[rows], terms[rows], cells[rows]
        citation = next((str(c) for c in citations[rows] if c), "")
        profiles = ProfileSet(path, dataset, means, symbols, *about_rows, citation)
        found.append(profiles if types is None else _renamed(profiles, types))
    return found


def _renamed(profiles: ProfileSet, types: Mapping[tuple[str, str], ProfileType]) -> ProfileSet:
    """Return profiles with the labels, ids and tissues of a table of types."""
    meant = tuple(types[profiles.name, str(x)] for x in profiles.labels)
    return replace(
        profiles,
        labels=np.array([t.label for t in meant], object),
        tissues=np.array([t.place for t in meant], object),
        ontology_ids=np.array([t.ontology_id for t in meant], object),
        published=profiles.labels,
        meant=meant,
    )


class _Named:
    """The columns beside the values, by what they say."""

    def __init__(self, path: Path, about: pd.DataFrame, columns: Columns) -> None:
        self.path, self.about, self.columns = path, about, columns

    def column(self, name: str) -> Array:
        if name not in self.about:
            raise InputError(
                f"{self.path} has no column '{name}'",
                expected=f"one of {', '.join(map(str, self.about.columns)) or 'no columns'}",
                do="choose with --profile-column (columns in a recipe)",
            )
        column = self.about[name].astype(object)
        return column.where(column.notna(), "").astype(str).to_numpy(object)

    def get(self, what: str) -> Array:
        """Return a column as text; of the types the index if there is none, else empty strings."""
        wanted = getattr(self.columns, what)
        if wanted:
            return self.column(wanted)
        lower = {str(c).lower(): str(c) for c in self.about.columns}
        for name in NAMES[what]:
            if name in lower:
                return self.column(lower[name])
        if what == "type":
            return self.about.index.astype(str).to_numpy(object)
        return np.full(len(self.about), "", object)

    @property
    def datasets(self) -> Array:
        """The data set of each profile: the name of the table where it does not say."""
        given = self.get("dataset")
        return np.where(given == "", self.path.stem, given).astype(object)


def _matches(values: Array, patterns: Sequence[str]) -> Array:
    return np.array([any(fnmatch(v, p) for p in patterns) for v in values], dtype=bool)


def _read(path: Path) -> tuple[Array, list[str], pd.DataFrame]:
    """Return (t, g) values, the genes, and the columns that are no genes."""
    try:
        if path.suffix == ".h5ad":
            import anndata as ad

            table = ad.read_h5ad(path)
            values = table.to_df().to_numpy(np.float64)
            return _named(path, values, table.var_names.astype(str), table.obs)
        return _frame(path, _read_frame(path))
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - each format has errors of its own
        raise InputError(
            f"cannot read {path} ({reason(error) if isinstance(error, OSError) else error})",
            expected=FORMATS,
            do="check the file",
        ) from None


def _read_frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if ".csv" in path.suffixes or ".tsv" in path.suffixes or path.suffix == ".txt":
        return pd.read_csv(path, sep="," if ".csv" in path.suffixes else "\t", index_col=0)
    raise InputError(f"{path} ends in '{path.suffix}'", expected=FORMATS, do="check the file")


def _frame(path: Path, frame: pd.DataFrame) -> tuple[Array, list[str], pd.DataFrame]:
    """Tell genes from other columns in a table; genes may be its rows."""
    known = all_names()
    frame.columns = frame.columns.astype(str)
    if frame.index.name is not None and str(frame.index.name).lower() in sum(NAMES.values(), ()):
        frame.insert(0, str(frame.index.name), frame.index)
    as_rows, as_columns = (sum(str(n) in known for n in s) for s in (frame.index, frame.columns))
    if as_rows > max(ENOUGH_NAMES * len(frame), as_columns):
        frame = frame.T
        frame.index = frame.index.astype(str)
        frame.columns = frame.columns.astype(str)
    listed = set(sum(NAMES.values(), ()))
    about = np.array(
        [
            c not in known
            and (kind.kind not in "fiu" or c.lower() in listed or bool(NO_GENE.match(c)))
            for c, kind in zip(frame.columns, frame.dtypes, strict=True)  # names may repeat
        ],
        dtype=bool,
    )
    genes = frame.loc[:, ~about]
    return _named(path, genes.to_numpy(np.float64), genes.columns, frame.loc[:, about])


def _named(
    path: Path, values: Array, genes: Any, about: pd.DataFrame
) -> tuple[Array, list[str], pd.DataFrame]:
    """Refuse a table without names of genes."""
    names = [str(g) for g in genes]
    if not names or np.mean([bool(NO_NAME.match(n)) for n in names]) > 0.5:
        raise InputError(
            f"{path} has no gene names ({', '.join(names[:3]) or 'no columns of numbers'})",
            expected=FORMATS,
            do="name the genes in var_names, or in the first row or column of a table",
        )
    _refuse_heavy(path, values, names)
    return values, names, about


def _refuse_heavy(path: Path, values: Array, names: list[str]) -> None:
    """Refuse a column that outweighs all genes and is no known one, where most others are."""
    known = all_names()
    is_known = np.array([name in known for name in names])
    if is_known.mean() <= 0.5 or not np.isfinite(values).any():
        return
    finite = np.where(np.isfinite(values), values, 0.0)
    share = np.median(finite / np.maximum(finite.sum(axis=1, keepdims=True), 1e-300), axis=0)
    heavy = int(np.argmax(np.where(is_known, 0.0, share)))
    if not is_known[heavy] and share[heavy] > 0.5:
        raise InputError(
            f"the column '{names[heavy]}' of {path} is {share[heavy]:.0%} of the typical profile",
            expected="means of genes, and no column of numbers that is none",
            do="leave the column out",
        )


def _whole(path: Path, cells: Array) -> Array:
    try:
        return np.array([int(float(c)) if c else 0 for c in cells], np.int64)
    except ValueError:
        raise InputError(
            f"{path} has numbers of cells that are no numbers",
            expected="whole numbers",
            do="choose another column with --profile-column (columns in a recipe)",
        ) from None


def _check(path: Path, values: Array, labels: Array, datasets: Array, tissues: Array) -> None:
    """Refuse a table that is none of profiles."""
    if len(set(labels)) < 2:
        raise InputError(
            f"{path} has {len(set(labels))} cell types",
            expected="profiles of two or more",
            do="give a table with more types, or choose the column of the types",
        )
    keys = list(zip(labels, datasets, tissues, strict=True))
    twice = next((k for k in keys if keys.count(k) > 1), None)
    if twice is not None:
        raise InputError(
            f"{path} has {keys.count(twice)} profiles of '{' / '.join(filter(None, twice))}'",
            expected="one for each type, data set and tissue",
            do="rename or average them, or choose the columns of data set and tissue",
        )
    if np.isinf(values).any() or np.nanmin(values, initial=0.0) < 0:
        raise InputError(
            f"{path} holds negative or infinite values (down to {np.nanmin(values):.3g})",
            expected="means of counts, CPM, CP10k or nTPM, or of their logarithms",
            do="give means that were not centred or scaled",
        )
    empty = np.flatnonzero(~(np.nan_to_num(values) > 0).any(axis=1))
    if len(empty):
        raise InputError(
            f"{path} has {len(empty)} rows without expression, such as '{labels[empty[0]]}'",
            expected="a mean above 0 in each row",
            do="leave these rows out",
        )


def _means(called: str, values: Array, genes: list[str]) -> tuple[Array, list[str]]:
    """Return (t, g) means that sum to 1 over the measured genes, and these."""
    values = np.nan_to_num(values)
    measured = np.flatnonzero((values > 0).any(axis=0))
    values = values[:, measured]
    verdict = judge(sp.csr_matrix(values))
    if not verdict.usable and verdict.state != "constant":
        raise InputError(
            f"the profiles of {called} are {verdict.state} ({verdict.reason})",
            expected="means of counts, CPM, CP10k or nTPM, or of their logarithms",
            do="give such means, or leave the data set out",
        )
    if verdict.state.startswith("log1p"):
        values = np.expm1(values * np.log(verdict.base))
    elif _is_flat(values):
        values = np.stack([_of_lost_scale(row) for row in values])
    names = np.array([genes[i] for i in measured])
    symbols, inverse = np.unique(names, return_inverse=True)
    summed = np.zeros((len(values), len(symbols)))
    np.add.at(summed.T, inverse, values.T)
    return summed / summed.sum(axis=1, keepdims=True), symbols.tolist()


def _is_flat(values: Array) -> bool:
    """Tell whether means are of logarithms, which were then scaled to some total."""
    if values.shape[1] < 10 * FLAT_GENES:
        return False
    top = -np.partition(-values, FLAT_GENES, axis=1)[:, : FLAT_GENES + 1]
    steep = top.max(axis=1) / np.maximum(top.min(axis=1), 1e-12)
    return bool(np.quantile(steep, 0.25) < FLAT)


def _of_lost_scale(row: Array) -> Array:
    """Undo log1p(CP10k) of a mean that was scaled: the scale is that of a usual total."""
    low, high = 1e-6 * row.max(), 1e6 * row.max()
    while high > low * (1 + 1e-9):
        scale = np.sqrt(low * high)
        with np.errstate(over="ignore"):
            low, high = (scale, high) if np.expm1(row / scale).sum() > LOG_TOTAL else (low, scale)
    linear: Array = np.expm1(row / max(high, row.max() / MOST_LOG))
    return linear


def ontology_of(
    sets: Sequence[ProfileSet], merge: Mapping[str, str], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the Cell Ontology id of each label, after merging; those given go first.

    Raises
    ------
    InputError
        A label has two ids.
    """
    found = dict(given or {})
    for label, term in (
        (merge.get(str(x), str(x)), str(t))
        for s in sets
        for x, t in zip(s.labels, s.ontology_ids, strict=True)
    ):
        if label in (given or {}):
            continue
        if term and found.setdefault(label, term) != term:
            raise InputError(
                f"two ontology ids of '{label}', {found[label]} and {term}",
                expected="one for each type",
                do="mend the table, or merge the types in a recipe",
            )
    return found
