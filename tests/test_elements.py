"""What is written without anndata, against what anndata writes."""

from __future__ import annotations

import csv
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import read_elem, write_elem

from scbignn_infer.output import decimals
from scbignn_infer.output.elements import Categories, write_element
from scbignn_infer.output.table import Table

VALUES: dict[str, Any] = {
    "a text": "Zürich",
    "no text": "",
    "a number": 3,
    "a float": 0.25,
    "a flag": True,
    "numpy's number": np.float32(0.1),
    "nothing": None,
    "float32": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
    "integers": [1, 2, 3],
    "floats": [0.5],
    "texts": ["a", "", "é"],
    "an empty list": [],
    "an empty record": {},
    "a record": {"model": {"name": "m", "n": 1}, "types": ["x", "y"], "none": None, "s": [0.1]},
    "rows": sp.random_array((5, 5), density=0.4, rng=0, dtype=np.float32),
}


def parts(group: Any) -> dict[str, Any]:
    """Return every group and dataset with its attributes, form and values."""
    found: dict[str, Any] = {}

    def keep(name: str, node: Any) -> None:
        form = None
        if isinstance(node, h5py.Dataset):
            values = None if node.shape is None else np.asarray(node[()]).tolist()
            form = node.dtype, node.shape, node.maxshape, node.compression, values
        attributes = {k: (type(v), np.asarray(v).dtype, str(v)) for k, v in node.attrs.items()}
        found[name] = form, attributes

    group.visititems(keep)
    return found


def both(ours: Any, theirs: Any) -> tuple[Any, Any]:
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        write_element(file.create_group("ours"), "it", ours)
        write_elem(file.create_group("theirs"), "it", theirs)
        read_elem(file["ours/it"])
        return parts(file["ours"]), parts(file["theirs"])


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_value_is_written_as_anndata_writes_it(name: str) -> None:
    value = VALUES[name]
    value = sp.csr_matrix(value) if sp.issparse(value) else value
    ours, theirs = both(value, value)
    assert ours == theirs


@pytest.mark.parametrize("n", [1, 3, 126, 127, 40_000])
def test_categories_are_written_as_anndata_writes_them(n: int) -> None:
    names = [f"type {i}" for i in range(n)]
    values = np.array([*names[::-1], names[0]], dtype=object)
    ours = Categories.of(values, ["not there", *names])
    theirs = pd.Categorical(values, categories=names)
    assert list(ours) == list(theirs) == list(ours.as_pandas())
    assert ours.codes.dtype == theirs.codes.dtype
    written, expected = both(ours, theirs)
    assert written == expected


def test_text_is_written_as_pandas_writes_it(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    n = 9000  # more rows than are written at once
    words = np.array(
        ["T cell", 'say "B"', "a,b", "", "tab\there", "line\nbreak", "é"], dtype=object
    )
    columns = {
        "label": Categories.of(rng.choice(words, n), list(words)),
        "text": rng.choice(words, n),
        "confidence": rng.random(n, np.float32),
        "tiny": np.where(rng.random(n) < 0.1, np.nan, rng.random(n) * 1e-9).astype(np.float32),
        "n": rng.integers(0, 9, n),
        "double": rng.standard_normal(n),
    }
    table = Table([f"cell {i}" for i in range(n)], columns)
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        with open(tmp_path / name, "w", encoding="utf-8", newline="") as file:
            table.write_text(file, separator)
        expected = table.as_pandas().to_csv(sep=separator)
        assert (tmp_path / name).read_bytes().decode() == expected


def test_numbers_are_written_as_numpy_writes_them() -> None:
    """All 110 million between 0.0001 and 1 were compared once; here are some, and odd ones."""
    rng = np.random.default_rng(0)
    ends = np.array([1e-4, 1e-3, 0.01, 0.1, 0.125, 0.25, 0.5, 1.0], np.float32)
    near = (ends.view(np.int32)[:, None] + np.arange(-500, 500, dtype=np.int32)).ravel()
    between = rng.integers(*ends[[0, -1]].view(np.int32), 100_000, dtype=np.int32)
    any_bits = rng.integers(-(2**31), 2**31, 20_000).astype(np.int32)
    few_digits = np.round(rng.random(20_000), 3).astype(np.float32)
    odd = np.array([0, -0.0, -0.5, np.nan, np.inf, -np.inf, 1e16, 1e-45], np.float32)
    numbers = [near.view(np.float32), between.view(np.float32), few_digits]
    for values in (*numbers, odd, any_bits.view(np.float32), np.concatenate([odd, *numbers])):
        assert decimals.texts(values).tolist() == values.astype(str).tolist()
    for values in (odd[:0], np.arange(3), np.array([0.1, 1e-5])):
        assert decimals.texts(values).tolist() == values.astype(str).tolist()


@pytest.mark.parametrize("mark", ["", ",", "\t", '"', "\n", "\r"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_row_reads_back_whatever_is_in_a_name(tmp_path: Any, separator: str, mark: str) -> None:
    names = [f"cell {i}" for i in range(5_000)]  # more than are written at once
    names[4_500] = f"{mark}a{mark}b"
    columns = {"p": np.linspace(0, 1, 5_000, dtype=np.float32)}
    path = tmp_path / "a"
    with open(path, "w", encoding="utf-8", newline="") as file:
        Table(names, columns).write_text(file, separator)
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter=separator)
    assert header == ["cell", "p"]
    assert [row[0] for row in rows] == names
    assert [np.float32(row[1]) for row in rows] == columns["p"].tolist()
