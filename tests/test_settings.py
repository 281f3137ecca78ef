"""A setting is spelled out once: the command, Python and the service have it from there."""

from __future__ import annotations

import inspect
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

import anndata as ad
import numpy as np
import pytest

import scbignn_infer
from scbignn_infer import Annotator, Reading, Rules
from scbignn_infer.annotation.rules import NEVER_UNKNOWN
from scbignn_infer.cli import main
from scbignn_infer.errors import InputError
from scbignn_infer.settings import (
    READING,
    SETTINGS,
    Keywords,
    LabelKeywords,
    RuleKeywords,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scbignn_infer import Annotation, ModelBundle

NOT_IN_PYTHON = {"model", "orientation", "modality", "table"}
"""The model is an argument; the others are about files."""
NOT_IN_REQUESTS = {"orientation", "table", "groups"}
"""No body is a text table or a SpatialData store, and no parameter holds a map."""
NAMES = {"unknown": "no_unknown", "unknown_threshold": "threshold"}
"""Parameters of the service that have other names."""
OF_THE_SERVICE = set(get_type_hints(RuleKeywords)) | set(READING)
"""What a request may choose; the rest is chosen where the service is started."""


def test_settings_are_the_fields() -> None:
    named = {f.name: f.default for cls in (Settings, Reading) for f in fields(cls)}
    assert named.pop("reading") == Reading()
    assert {name: setting.default for name, setting in SETTINGS.items()} == named
    assert all(setting.meaning.endswith((".", ".)")) for setting in SETTINGS.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_an_option_of_annotate(name: str) -> None:
    (option,) = (p for p in main.commands["annotate"].params if p.name == name)
    setting = SETTINGS[name]
    context = main.commands["annotate"].make_context(
        "annotate", ["a.h5ad"], **main.context_settings
    )
    assert context.params[name] == (False if setting.default is True else setting.default)
    assert option.help == setting.meaning
    assert option.opts == list(setting.options)
    bounds = getattr(option.type, "min", None), getattr(option.type, "max", None)
    assert bounds == setting.within


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - NOT_IN_PYTHON))
def test_a_setting_is_a_keyword_in_python(name: str) -> None:
    setting, functions = SETTINGS[name], [scbignn_infer.annotate]
    if name in get_type_hints(LabelKeywords):
        functions += [scbignn_infer.explain, Annotator, Annotator.load]
    if name in get_type_hints(RuleKeywords):
        functions += [Rules.of]
    for function in functions:
        parameter = inspect.signature(function).parameters[name]
        assert parameter.default == setting.default
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.annotation == setting.hint == get_type_hints(Keywords)[name]
    _, found, rest = scbignn_infer.annotate.__doc__.partition(f"\n{name}\n    {setting.meaning}\n")
    assert found
    assert rest.splitlines()[0].endswith(f" = {setting.default!r}``")


def test_python_has_no_other_keywords() -> None:
    assert set(get_type_hints(Keywords)) == SETTINGS.keys() - NOT_IN_PYTHON
    plain = {"adata", "model", "copy", "overwrite"}
    parameters = inspect.signature(scbignn_infer.annotate).parameters
    assert set(parameters) - set(get_type_hints(Keywords)) == plain


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (lambda a, b: scbignn_infer.annotate(a, b, thread=1), "thread"),
        (lambda a, b: scbignn_infer.annotate(a, b, orientation="cells-by-genes"), "orientation"),
        (lambda a, b: Annotator(b, key_added="mine"), "key_added"),
        (lambda a, b: Rules.of(b, threads=1), "threads"),
    ],
)
def test_a_misspelled_keyword_is_an_error(
    pbmc_bundle: ModelBundle, call: Callable[..., Any], wrong: str
) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'"):
        call(ad.AnnData(np.ones((3, 2), np.float32)), pbmc_bundle)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"depth": "leafs"}, "depth 'leafs'; expected sure or leaf; choose one of these"),
        ({"sets": 90}, "sets is 90; expected a number from 0 to 1"),
        ({"unknown_threshold": -0.1}, "unknown_threshold is -0.1; expected a number from 0 to 1"),
        ({"max_novelty": math.nan}, "max_novelty is nan; expected a number from 0 to 1"),
        ({"memory_limit": "4GB"}, "memory_limit is '4GB'; expected a number"),
        ({"batch_cells": -5}, "batch_cells is -5; expected a number from 1"),
        ({"min_counts": 0}, "min_counts is 0; expected a number from 1"),
        ({"unknown": False, "max_novelty": 0.5}, "max_novelty where no cell is to be unknown"),
        ({"groups": ["B"]}, "groups is of type list; expected a dictionary"),
        ({"cluster_key": ["a", "b\0"]}, "cluster_key holds a zero byte"),
        ({"key_added": "a/b"}, "key_added is 'a/b'; expected text in UTF-8 that is not empty"),
        ({"key_added": ""}, "key_added is ''; expected text in UTF-8 that is not empty"),
    ],
)
def test_a_value_that_is_none_of_a_setting_is_one_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        scbignn_infer.annotate(ad.AnnData(np.ones((3, 2), np.float32)), "human-pbmc", **given)


@pytest.mark.parametrize(
    ("given", "stricter"),
    [
        ({}, []),
        ({"unknown_threshold": 0.1}, []),
        ({"unknown_threshold": 0.99, "max_novelty": 0.5}, [0.99, 0.5]),
        ({"unknown": False}, []),
    ],
)
def test_bounds_above_the_model_s_are_told(
    pbmc_bundle: ModelBundle, given: dict[str, Any], stricter: list[float]
) -> None:
    names = ["--unknown-threshold", "--max-novelty"]
    said = Rules.of(pbmc_bundle, **given).stricter(pbmc_bundle.spec.thresholds.confidence)
    assert said == [f"{name} {bound}" for name, bound in zip(names, stricter, strict=False)]


@pytest.mark.parametrize("number", [np.float32(0.5), np.int64(1), 1, 0.5])
def test_numbers_of_numpy_are_numbers(number: Any) -> None:
    assert Settings.of({"max_novelty": number}).max_novelty == number


def test_a_setting_is_a_parameter_of_the_service() -> None:
    pytest.importorskip("fastapi")
    from scbignn_infer.service.models import Wishes

    shown = Wishes.model_json_schema()["properties"]
    wished = OF_THE_SERVICE - NOT_IN_REQUESTS
    assert set(shown) - {"model", "embedding"} == {NAMES.get(name, name) for name in wished}
    for name in wished:
        setting, field = SETTINGS[name], shown[NAMES.get(name, name)]
        default = list(setting.default) if setting.default == () else setting.default
        assert field["default"] == (False if setting.default is True else default)
        assert field["description"] == setting.meaning
        number = next((part for part in field.get("anyOf", ()) if "minimum" in part), field)
        assert (number.get("minimum"), number.get("maximum")) == setting.within
    assert Wishes().settings == Settings()
    strict = Wishes(no_unknown=True, sets=0.5, matrix="X").settings
    assert strict == Settings(unknown=False, sets=0.5, reading=Reading(matrix="X"))


@pytest.fixture(scope="module")
def annotator(pbmc_bundle: ModelBundle) -> Annotator:
    return Annotator(pbmc_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def label(annotator: Annotator, example: Path) -> Callable[[dict[str, Any]], Annotation]:
    """Return a function that labels some cells with one annotator, by rules of its own."""
    cells = ad.read_h5ad(example)[:300]

    def label(given: dict[str, Any]) -> Annotation:
        rules = Rules.of(annotator.bundle, **given)
        return annotator.annotate_matrix(cells.X, list(cells.var_names), rules=rules)

    return label


class TestRules:
    """Which labels are given: in each call other ones, by one annotator."""

    def test_they_are_those_of_the_settings_by_default(
        self, annotator: Annotator, pbmc_bundle: ModelBundle
    ) -> None:
        assert annotator.rules.threshold == pbmc_bundle.spec.thresholds.confidence
        assert annotator.rules.grouping.labels == pbmc_bundle.cell_types
        other = Annotator(pbmc_bundle, device="cpu", level=1, unknown=False)
        assert other.rules.grouping.labels == Rules.of(pbmc_bundle, level=1).grouping.labels
        assert (other.rules.threshold, other.rules.max_novelty) == (NEVER_UNKNOWN, 1.0)

    def test_a_group_for_no_type_is_refused(self, pbmc_bundle: ModelBundle) -> None:
        with pytest.raises(InputError, match="'gut', which is no type"):
            Rules.of(pbmc_bundle, groups={"gut": "x"})

    def test_calls_at_the_same_time_follow_their_own(
        self, annotator: Annotator, label: Callable[[dict[str, Any]], Annotation]
    ) -> None:
        wishes: list[dict[str, Any]] = [
            {"unknown": False},
            {"unknown_threshold": 1.0},
            {"level": 2, "unknown": False},
            {"max_novelty": float(np.median(label({}).novelty)), "unknown_threshold": 0.0},
        ]
        usual = annotator.rules
        alone = [label(wish) for wish in wishes]
        assert len({tuple(found.labels) for found in alone}) == len(wishes)
        assert set(alone[1].labels) == {"unknown"}
        assert len(alone[2].cell_types) < len(alone[0].cell_types)
        with ThreadPoolExecutor(len(wishes)) as threads:
            together = list(threads.map(label, wishes * 5))
        for i, found in enumerate(together):
            expected = alone[i % len(wishes)]
            assert found.cell_types == expected.cell_types
            assert found.labels.tolist() == expected.labels.tolist()
            np.testing.assert_array_equal(found.probabilities, expected.probabilities)
            np.testing.assert_array_equal(found.neighbor_agreement, expected.neighbor_agreement)
            assert found.provenance.params == expected.provenance.params
        assert annotator.rules is usual
