"""Tables of .h5ad files read without anndata, which says what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import read_elem, write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scbignn_infer.query.readers import open_query, plain_tables
from scbignn_infer.query.readers.columns import column_of, string_columns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N = 6
REAL = (
    "brain_darmanis_2015",
    "cellbench_sc_mixology",
    "mouse_tabula_muris_facs_organs",
    "pancreas_enge_2017",
    "pbmc3k_seurat",
    "pbmc_6studies_sccomp",
    "pbmc_kang_ifnb",
)
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=5)
NUMBERS = ("f4", "f8", "i1", "i8", "u2", "?")


def some_of_three(values: list[str | None]) -> pd.Categorical:
    return pd.Categorical(values, categories=list("abc"))


def columns() -> st.SearchStrategy[Any]:
    texts = st.lists(TEXT, min_size=N, max_size=N)
    plain = texts.map(lambda v: np.array(v, dtype=object))
    numbers = st.sampled_from(NUMBERS).flatmap(lambda kind: arrays(kind, N))
    missing = st.lists(st.none() | st.sampled_from("abc"), min_size=N, max_size=N)
    return plain | texts.map(pd.Categorical) | missing.map(some_of_three) | numbers


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b c", "é", "x"]), columns(), max_size=3))
def test_a_table_is_as_anndata_reads_it(found: dict[str, Any]) -> None:
    table = pd.DataFrame(found, index=[f"g{i}" for i in range(N)])
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        write_elem(file, "var", table)
        expected = read_elem(file["var"])
        assert plain_tables.is_plain(file["var"])
        assert plain_tables.index_of(file["var"]) == list(expected.index)
        assert plain_tables.text_columns(file["var"]) == string_columns(expected)
        for name in found:
            column = plain_tables.column(file["var"], name)
            assert column == column_of(expected, name, "it")


@pytest.mark.parametrize("name", REAL)
def test_tables_of_studies_are_as_anndata_reads_them(
    name: str, real_data: Callable[[str], Path]
) -> None:
    with h5py.File(real_data(f"{name}.h5ad")) as file:
        for table in ("obs", "var", "raw/var"):
            if table not in file:
                continue
            expected = read_elem(file[table])
            assert plain_tables.text_columns(file[table]) == string_columns(expected)
            for column in expected:
                found = plain_tables.column(file[table], column)
                assert found == column_of(expected, column, name)


ODD: dict[str, Callable[[Any], object]] = {
    "an older encoding": lambda t: t.attrs.__setitem__("encoding-version", "0.1.0"),
    "no order": lambda t: t.attrs.__delitem__("column-order"),
    "an order of numbers": lambda t: t.attrs.__setitem__("column-order", np.arange(2)),
    "a column that is not there": lambda t: t.attrs.__setitem__("column-order", ["kind", "gone"]),
    "a column named twice": lambda t: t.attrs.__setitem__("column-order", ["kind", "kind"]),
    "no index": lambda t: t.attrs.__delitem__("_index"),
}
ODD_COLUMNS: dict[str, Callable[[Any], object]] = {
    "codes beyond the categories": lambda t: t["kind/codes"].__setitem__(0, 5),
    "codes below -1": lambda t: t["kind/codes"].__setitem__(0, -2),
    "no codes": lambda t: t["kind"].__delitem__("codes"),
    "another length": lambda t: write_elem(t, "n", np.arange(N + 1)),
    "categories of numbers": lambda t: write_elem(t, "kind", pd.Categorical([1, 2] * 3)),
    "strings with a mask": lambda t: t["kind"].attrs.__setitem__("encoding-type", "nullable"),
    "strings of one length": lambda t: (
        t.__delitem__("n"),
        t.create_dataset("n", data=np.array([b"a"] * N)),
    ),
}


@pytest.fixture
def table(tmp_path: Path) -> Any:
    frame = pd.DataFrame({"kind": pd.Categorical(list("aabbab")), "n": np.arange(N)})
    frame.index = pd.Index([f"g{i}" for i in range(N)])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_elem(file, "var", frame)
        yield file["var"]


@pytest.mark.parametrize("odd", sorted(ODD))
def test_an_odd_table_is_left_to_anndata(table: Any, odd: str) -> None:
    ODD[odd](table)
    assert not plain_tables.is_plain(table)


@pytest.mark.parametrize("odd", sorted(ODD_COLUMNS))
def test_an_odd_column_is_left_to_anndata(table: Any, odd: str) -> None:
    ODD_COLUMNS[odd](table)
    assert plain_tables.text_columns(table) is None


def test_what_is_not_plain_is_read_all_the_same(tmp_path: Path) -> None:
    """Strings with a mask, which pandas 3 has, come by way of anndata."""
    cells = ad.AnnData(np.ones((2, 3), np.float32))
    cells.write_h5ad(tmp_path / "a.h5ad")
    with (
        ad.settings.override(allow_write_nullable_strings=True),
        h5py.File(tmp_path / "a.h5ad", "r+") as file,
    ):
        for table, names in (("var", ["a", None, "c"]), ("obs", ["x", None])):
            write_elem(file[table], "name", pd.array(names, dtype="string"))
            file[table].attrs["column-order"] = ["name"]
    with open_query(tmp_path / "a.h5ad") as query:
        assert query.gene_columns("X") == {"index": ["0", "1", "2"], "name": ["a", "<NA>", "c"]}
        assert query.obs_column("name") == ["x", ""]
        assert query.cell_names() == ["0", "1"]
