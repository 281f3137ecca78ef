"""Stored outputs of the shipped example, made by ``golden/make.py``: labels exact, scores 1e-4."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_make", HERE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["pbmc700", "pancreas400"])
def test_outputs_are_those_stored(maker: ModuleType, name: str) -> None:
    found = maker.run(name)
    with np.load(HERE / f"{name}.npz", allow_pickle=False) as stored:
        assert str(stored["model_sha256"]) == str(found["model_sha256"]), "run golden/make.py"
        for column in ("labels", "best_labels", "gene_level_labels"):
            np.testing.assert_array_equal(found[column], stored[column])
        for column in ("probabilities", "neighbor_agreement", "novelty", "embedding"):
            np.testing.assert_allclose(found[column], stored[column], atol=1e-4)
