from __future__ import annotations

import msgspec
import pytest

from scbignn_training import sizes
from scbignn_training.settings import Settings
from scbignn_training.sizes import of_twins, suited


@pytest.fixture
def large(reference, monkeypatch):
    """Return a reference that counts as large."""
    monkeypatch.setattr(sizes, "LARGE", len(reference.codes) - 1)
    return reference


def test_a_reference_of_usual_size_changes_nothing(reference, settings):
    assert suited(settings, reference) == settings
    assert of_twins(settings, reference) == settings


def test_a_large_one_has_smaller_graphs_and_its_twins_fewer_steps(large):
    settings = Settings()
    model, twin = suited(settings, large), of_twins(suited(settings, large), large)
    changed = {
        name for name in Settings.__struct_fields__ if getattr(twin, name) != getattr(model, name)
    }
    assert model == msgspec.structs.replace(settings, graph_cells=6000)
    assert changed == {"max_steps", "covariance_cells", "logistic_cells", "graph_cells"}


def test_bounds_that_are_lower_stay(large):
    low = msgspec.structs.replace(Settings(), max_steps=7, graph_cells=50)
    assert suited(low, large) == low
    assert of_twins(low, large).max_steps == 7
