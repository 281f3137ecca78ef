from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from scbignn_training.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"net_genes": 2000},  # more than the panel
        {"net_genes": 1500, "ranked_genes": 1000},
        {"embedding_size": 30},
        {"token_size": 30},
        {"folds": 1},
        {"max_steps": 0},
        {"graph_cells": 0},
        *({name: -1} for name in ("gene_epochs", "cell_epochs", "seed", "em_iterations")),
        *({name: 0} for name in ("batch_cells", "n_neighbors", "net_genes", "logistic_c")),
        {"dropout": 1.0},
        {"blend": (0.9, 0.9)},
        {"blend": (-0.1, 0.9)},
        {"shield": (0.9, 0.5)},
        {"ridge": float("nan")},
        {"gene_learning_rate": 1e9},
        {"pseudo_temperature": 0.0},
    ],
)
def test_contradictions_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


@pytest.mark.parametrize(
    "right",
    [
        *({"n_programs": 0}, {"em_iterations": 0}, {"seed": 0}),
        *({"ridge": 0.0}, {"ridge": 0}, {"dropout": 0}),
    ],
)
def test_what_may_be_nothing_may(right):
    assert Settings(**right)


def test_unknown_names_are_refused():
    with pytest.raises(TypeError, match="epochs"):
        Settings(epochs=3)


@pytest.mark.parametrize("wrong", [{"gene_form": "gate"}, {"cell_form": "gcn"}])
def test_unknown_forms_are_refused(wrong):
    with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
        msgspec.convert(wrong, type=Settings)


def test_the_record_is_flat_json_with_every_setting():
    settings = Settings(seed=7, blend=(0.1, 0.2))
    record = json.loads(json.dumps(settings.as_record()))
    assert set(record) == set(Settings.__struct_fields__)
    assert record["seed"] == 7
    assert record["gene_learning_rate"] == 3e-3
    assert "0.1" in record["blend"]
    assert all(isinstance(v, int | float | str) for v in record.values())


def test_every_setting_has_its_reason_in_the_docs():
    table = (REPOSITORY / "docs" / "method.md").read_text().split("## Hyper-parameters")[1]
    named = set(re.findall(r"`([a-z_]+)`", table))
    assert set(Settings.__struct_fields__) <= named
