from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from scbignn_training import sizes
from scbignn_training.data import Origin
from scbignn_training.gene_level import steps_of
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
    assert changed == {"max_steps", "covariance_cells", "logistic_cells", "graph_cells", "folds"}


def test_bounds_that_are_lower_stay(large):
    low = msgspec.structs.replace(Settings(), max_steps=7, graph_cells=50)
    assert suited(low, large) == low
    assert of_twins(low, large).max_steps == 7


def of_types(reference, n_types, cells, *, simulated=False):
    """Return a reference in which so many types have so many cells each."""
    codes = np.arange(n_types * cells) % n_types
    counts = reference.counts[np.arange(len(codes)) % reference.counts.shape[0]]
    return replace(
        reference,
        counts=counts,
        codes=codes,
        cell_types=[f"type {i:03d}" for i in range(n_types)],
        batches=np.zeros(len(codes), int),
        origins=(Origin("one", simulated=simulated),),
    )


def test_many_types_of_few_cells_are_seen_for_longer(reference):
    fine = of_types(reference, 39, 20)
    usual = Settings()
    longer = suited(usual, fine)
    assert steps_of(len(fine.codes), usual) == 60
    assert 600 <= steps_of(len(fine.codes), longer) < 610
    assert longer == msgspec.structs.replace(usual, gene_epochs=longer.gene_epochs)
    patient = msgspec.structs.replace(usual, gene_epochs=1000)
    assert suited(patient, fine) == patient


@pytest.mark.parametrize(
    ("n_types", "cells", "simulated"),
    [(19, 20, False), (39, 100, False), (39, 20, True)],
    ids=["few types", "many cells", "from profiles"],
)
def test_no_other_reference_is_fine(reference, n_types, cells, simulated):
    usual = Settings()
    assert suited(usual, of_types(reference, n_types, cells, simulated=simulated)) == usual
