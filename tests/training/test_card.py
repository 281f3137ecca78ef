from __future__ import annotations

import re

import msgspec
import pytest

import scbignn_infer
from scbignn_training.card import model_card


@pytest.fixture
def spec(bundle):
    return scbignn_infer.load_model(bundle).spec


def tables(card):
    """Return the tables of a card as lists of rows of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", card, flags=re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_the_shipped_card_is_made_from_the_record(bundle, spec):
    assert (bundle / "README.md").read_text() == model_card(spec)


def test_every_type_has_a_row_with_its_cells(spec):
    types = tables(model_card(spec))[0][2:]
    expected = [(c.label, spec.training.cells_per_type[c.label]) for c in spec.cell_types]
    assert [(row[0].strip(), int(row[2])) for row in types] == expected
    scored = {row[0].strip(): row[3].strip() for row in types}
    assert scored["beta"] == str(spec.training.scores_per_type["beta"])


def test_a_type_without_a_score_has_a_dash(spec):
    training = msgspec.structs.replace(spec.training, scores_per_type={})
    types = tables(model_card(msgspec.structs.replace(spec, training=training)))[0]
    assert [row[3].strip() for row in types[2:]] == ["-"] * len(spec.cell_types)
    assert "-" not in [row[3].strip() for row in tables(model_card(spec))[0][2:]]


def test_the_kept_iteration_is_starred(spec):
    history = tables(model_card(spec))[2][2:]
    assert [row[3].strip() == "*" for row in history] == [h.kept for h in spec.training.em_history]


def test_the_data_and_the_numbers_of_cells_are_named(spec):
    card = model_card(spec)
    (data,) = [t for t in tables(card) if t[0][0].strip() == "file"]
    assert [row[0].strip() for row in data[2:]] == ["labelled.h5ad", "unlabelled.h5ad"]
    assert "Baron et al. 2016" in card
    assert f"{spec.training.n_cells} cells; seed {spec.training.seed}" in card
    assert f"held-out cells ({spec.training.validation})" in card
    assert f"the {len(spec.genes)} that every reference has" in card
    for value in spec.training.scores.values():
        assert str(value) in card
    assert f"confidence {spec.thresholds.confidence}" in card


def test_a_model_adapted_to_a_query_says_what_its_accuracy_there_is(spec):
    assert "transductive" not in model_card(spec)
    reference, unlabelled = spec.training.datasets
    query = msgspec.structs.replace(unlabelled, file="query.h5ad", role="adapted")
    training = msgspec.structs.replace(spec.training, datasets=[reference, unlabelled, query])
    card = model_card(msgspec.structs.replace(spec, training=training))
    assert "\nAdapted to query.h5ad: its accuracy on those cells is transductive.\n\n" in card


def test_a_bar_in_a_label_does_not_break_its_table(spec):
    first = msgspec.structs.replace(spec.cell_types[0], label="T|NK")
    training = msgspec.structs.replace(
        spec.training, cells_per_type={**spec.training.cells_per_type, "T|NK": 5}
    )
    changed = msgspec.structs.replace(
        spec, cell_types=[first, *spec.cell_types[1:]], training=training
    )
    types = tables(model_card(changed))[0]
    assert {len(row) for row in types} == {4}
    assert types[2][0].strip() == r"T\|NK"


def test_what_is_not_known_is_left_out(spec):
    bare = msgspec.structs.replace(spec, tissue="", licence="", assays=[])
    card = model_card(bare)
    for name in ("tissue", "licence", "assays"):
        assert f"- {name}:" not in card
    assert "\n\n\n" not in model_card(spec)
