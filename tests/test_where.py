"""Conditions on columns: what they choose is what pandas chooses, and nothing else can be asked."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scbignn_infer.errors import InputError
from scbignn_infer.query.readers.columns import column_of
from scbignn_infer.query.where import LONGEST, cells_where

OBS = pd.DataFrame(
    {
        "label": ["B", "NK", "unknown", "B", None, "it's"],
        "best": ["B", "B", "NK", "B", "B", "B"],
        "n": [1, 2, 30, 4, 5, 6],
        "score": [0.5, np.nan, 0.25, 1e-3, 1.0, -2.0],
        "yes": [True, False, True, True, False, False],
        "leiden": pd.Categorical(["0", "1", "10", "2", "0", "1"]),
        "odd name": list("abcabc"),
        "percent.mt": [1.0, 2, 3, 4, 5, 6],
        "rna:leiden": list("xyxyxy"),
        "in_": list("xyxyxy"),
        "größe": [1, 2, 3, 4, 5, 6],
    }
)


def find(name: str) -> Any:
    """Return a column as readers do, or as numbers of an annotation."""
    if name == "score32":
        return OBS["score"].to_numpy(np.float32)
    return column_of(OBS, name, "cells")


def chosen(condition: str) -> list[int]:
    holds = cells_where(condition, find)
    assert holds.dtype == bool
    assert holds.shape == (len(OBS),)
    return np.flatnonzero(holds).tolist()


@pytest.mark.parametrize(
    ("condition", "cells"),
    [
        ('label == "B"', [0, 3]),
        ("label != 'B'", [1, 2, 4, 5]),
        ('label == ""', [4]),
        ('label == "it\'s"', [5]),
        ("n > 4", [2, 4, 5]),
        ("n >= 4 and n < 30", [3, 4, 5]),
        ("n == 4 or n == 5", [3, 4]),
        ("score < 0.5", [2, 3, 5]),
        ("score32 < 0.5", [2, 3, 5]),
        ("score != 1", [0, 1, 2, 3, 5]),
        ("score == -2", [5]),
        ("score > -1e-1 and score <= +.5", [0, 2, 3]),
        ("yes == True", [0, 2, 3]),
        ("yes == false", [1, 4, 5]),
        ('leiden == "1"', [1, 5]),
        ("leiden == 1", [1, 5]),
        ("leiden > 1", [2, 3]),
        ('leiden in ["0", "10"]', [0, 2, 4]),
        ("leiden in (0, 10)", [0, 2, 4]),
        ('label not in ["B", "NK"]', [2, 4, 5]),
        ('label in ["B"] and not (n > 1)', [0]),
        ('not label == "B" and n < 3', [1]),
        ("label == best", [0, 3]),
        ("n > score", [0, 2, 3, 4, 5]),
        ('`odd name` == "a"', [0, 3]),
        ("percent.mt >= 5", [4, 5]),
        ('rna:leiden == "x" and in_ == "x"', [0, 2, 4]),
        ("größe == 3", [2]),
        ("n<3 or n>5", [0, 1, 2, 5]),
        ("  (((n == 1)))  ", [0]),
    ],
)
def test_cells_are_chosen(condition: str, cells: list[int]) -> None:
    assert chosen(condition) == cells


CONDITIONS = st.recursive(
    st.sampled_from(
        [
            "n > 3",
            "n == 30",
            'label == "B"',
            'label != "NK"',
            "score <= 0.5",
            'leiden in ["0", "1"]',
        ]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map(lambda c: f"({c})"),
        inner.map(lambda c: f"not ({c})"),
    ),
    max_leaves=8,
)


@given(CONDITIONS)
def test_they_are_those_of_pandas(condition: str) -> None:
    expected = OBS.query(condition, engine="python").index.tolist()
    assert chosen(condition) == expected


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "   ",
        "label",
        "label ==",
        '== "B"',
        'label = "B"',
        'label == "B',
        'label == "B" and',
        'label == "B" label == "B"',
        '(label == "B"',
        'label == "B")',
        'label in "B"',
        'label in ["B"',
        "label in []",
        'label in ["B" "NK"]',
        "label in [best]",
        'label not "B"',
        'label < "B"',
        'label == "B" & n > 1',
        '"B" == label',
        "3 < n",
        "1 < n < 3",
        "not",
        "n == 1_000",
        "n == 3abc",
        "n == -",
        "True",
        "and == 1",
        "``",
        "n + 1 == 2",
        # what Python would run
        "__import__('os').system('id')",
        "label.__class__ == 1 or exec('1')",
        "(lambda: 1)()",
        "label[0] == 'B'",
        "@os == 1",
        "n == n()",
        "label == f'{1}'",
        'label == "a" if 1 else 2',
        "\x00 == 1",
        "n == 1\\",
        "label == 'a' 'b'",
        "n == ٣",
        "not " * 60 + "n == 1",
        "(" * 60 + "n == 1" + ")" * 60,
        "(" * 5000,
        "not " * 2400,
        "n == 1 " + " " * LONGEST,
    ],
)
def test_whatever_else_is_refused_in_one_line(condition: str) -> None:
    with pytest.raises(InputError) as error:
        cells_where(condition, find)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("label > 3", "compared with a number, and holds texts such as 'B', 'NK', 'it's'"),
        ("absent == 1", r"no obs\['absent'\]; expected one of label, best, n"),
        ("label.__class__ == 1", r"no obs\['label.__class__'\]"),
        ('label < "B"', "'<' with a text at|with a text at character 9"),
        ('label == "B" and', "the end instead of the name of a column at character 17"),
        ('label = "B"', "'=' at character 7"),
    ],
)
def test_it_is_said_what_is_wrong(condition: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cells_where(condition, find)


@given(st.text(alphabet="nab \"'`()[],<>=!0123456789.eE+-\\\n", max_size=60))
def test_any_text_is_a_condition_or_refused(condition: str) -> None:
    try:
        holds = cells_where(condition, lambda name: ["1", "x"])
    except InputError:
        return
    assert holds.shape == (2,)


@pytest.mark.parametrize(
    "condition",
    [
        "n == " + "9" * (LONGEST - 10),
        "9" * (LONGEST - 10) + "x == 1",
        "`" * LONGEST,
        '"' * (LONGEST - 1),
        "n == 1" + " and n == 1" * 900,
        "n in [" + "1," * 4900 + "1]",
    ],
)
def test_long_conditions_are_quick(condition: str) -> None:
    start = perf_counter()
    with suppress(InputError):
        cells_where(condition, find)
    assert perf_counter() - start < 2


def test_one_long_value_does_not_make_all_long() -> None:
    """As it would in an array of numpy's strings, of 4 bytes a character."""
    values = ["x" * 20_000_000, *["y"] * 100_000]
    assert cells_where('a == "y"', lambda name: values).sum() == 100_000
