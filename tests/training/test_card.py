from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

import scbignn_infer
from scbignn_infer.model.bundle import Confusion, StudyScores
from scbignn_training import card as cards

MODELS = Path(__file__).resolve().parents[2] / "exported_models"


@pytest.fixture
def spec(bundle):
    return scbignn_infer.load_model(bundle).spec


@pytest.fixture
def model_card(bundle):
    """Return what makes a card of a record, with the statistics of the bundle."""
    class_mean = scbignn_infer.load_model(bundle).statistics["class_mean"]
    return lambda spec: cards.model_card(spec, class_mean)


def tables(card):
    """Return the tables of a card as lists of rows of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", card, flags=re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_the_shipped_card_is_made_from_the_record(model_card, bundle, spec):
    assert (bundle / "README.md").read_text() == model_card(spec)


def test_every_type_has_a_row_with_its_cells(model_card, spec):
    types = tables(model_card(spec))[0][2:]
    expected = [(c.label, spec.training.cells_per_type[c.label]) for c in spec.cell_types]
    assert [(row[0].strip(), int(row[2])) for row in types] == expected
    scored = {row[0].strip(): row[3].strip() for row in types}
    assert scored["beta"] == str(spec.training.scores_per_type["beta"])


def test_a_type_without_a_score_has_a_dash(model_card, spec):
    training = msgspec.structs.replace(spec.training, scores_per_type={})
    types = tables(model_card(msgspec.structs.replace(spec, training=training)))[0]
    assert [row[3].strip() for row in types[2:]] == ["-"] * len(spec.cell_types)
    assert "-" not in [row[3].strip() for row in tables(model_card(spec))[0][2:]]


def test_the_kept_iteration_is_starred(model_card, spec):
    (history,) = [t[2:] for t in tables(model_card(spec)) if t[0][0].strip() == "iteration"]
    assert [row[3].strip() == "*" for row in history] == [h.kept for h in spec.training.em_history]


def test_the_data_and_the_numbers_of_cells_are_named(model_card, spec):
    card = model_card(spec)
    (data,) = [t for t in tables(card) if t[0][0].strip() == "name"]
    assert [row[1].strip() for row in data[2:]] == ["labelled.h5ad", "unlabelled.h5ad"]
    assert "Baron et al. 2016" in card
    assert f"{spec.training.n_cells} cells; seed {spec.training.seed}" in card
    assert f"held-out cells ({spec.training.validation})" in card
    assert f"the {len(spec.genes)} that at least one reference has" in card
    for value in spec.training.scores.values():
        assert str(value) in card
    assert f"confidence {spec.thresholds.confidence}" in card


def test_the_share_of_cells_that_is_left_out_is_said(model_card, spec):
    dropped = {"epsilon": 12, "unknown": 30}
    training = msgspec.structs.replace(spec.training, dropped_labels=dropped, n_cells=378)
    card = model_card(msgspec.structs.replace(spec, training=training))
    assert "Left out are 42 of 420 labelled cells (10.0 %), of 2 labels." in card


def test_what_was_not_read_is_said_with_its_share(model_card, spec):
    assert "Not read" not in model_card(spec)
    n = sum(d.n_cells for d in spec.training.datasets if d.role == "reference")
    training = msgspec.structs.replace(
        spec.training, not_read={"beyond --max-cells": 7 * n, "is_primary_data is False": n}
    )
    card = model_card(msgspec.structs.replace(spec, training=training))
    held = 9 * n + sum(training.dropped_labels.values())
    said = f"beyond --max-cells ({7 * n}), is_primary_data is False ({n})."
    assert f"The files hold {held} labelled cells. Not read were {8 * n} " in card
    assert said in card


def test_a_model_adapted_to_a_query_says_what_its_accuracy_there_is(model_card, spec):
    assert "transductive" not in model_card(spec)
    reference, unlabelled = spec.training.datasets
    query = msgspec.structs.replace(unlabelled, file="query.h5ad", role="adapted")
    training = msgspec.structs.replace(spec.training, datasets=[reference, unlabelled, query])
    card = model_card(msgspec.structs.replace(spec, training=training))
    assert "\nAdapted to query.h5ad: its accuracy on those cells is transductive.\n\n" in card


def test_a_bar_in_a_label_does_not_break_its_table(model_card, spec):
    first = msgspec.structs.replace(spec.cell_types[0], label="T|NK\nB")
    training = msgspec.structs.replace(
        spec.training, cells_per_type={**spec.training.cells_per_type, "T|NK\nB": 5}
    )
    changed = msgspec.structs.replace(
        spec, cell_types=[first, *spec.cell_types[1:]], training=training
    )
    types = tables(model_card(changed))[0]
    assert {len(row) for row in types} == {5}
    assert types[2][0].strip() == r"T\|NK\nB"


def test_what_is_not_known_is_left_out(model_card, spec):
    bare = msgspec.structs.replace(spec, tissue="", licence="", assays=[])
    card = model_card(bare)
    for name in ("tissue", "licence", "assays"):
        assert f"- {name}:" not in card
    assert "\n\n\n" not in model_card(spec)


@pytest.fixture
def studied(spec):
    """Return the record of a model with held-out studies."""
    training = msgspec.structs.replace(
        spec.training,
        held_out_scores={"one": StudyScores(accuracy=0.91, macro_f1=0.82, n_cells=73)},
        held_out_scores_per_type={"alpha": 0.4321},
        confusions=[Confusion(truth="alpha", called="beta", share=0.257, n=12)],
        cannot_tell=["naive from memory cells"],
        dropped_labels={"odd": 3},
        notes=["a twin"],
    )
    return msgspec.structs.replace(spec, training=training)


def section(card, title):
    (found,) = [part for part in card.split("\n## ") if part.startswith(f"{title}\n")]
    return found


def test_held_out_studies_have_scores_by_study_and_by_type(model_card, studied, spec):
    card = model_card(studied)
    assert "| one | 73 | 0.91 | 0.82 |" in section(card, "Held-out studies")
    held_out = {row[0].strip(): row[4].strip() for row in tables(card)[0][2:]}
    assert held_out.pop("alpha") == "0.4321"
    assert set(held_out.values()) == {"-"}
    assert "Held-out studies" not in model_card(spec)


def test_what_it_confuses_says_of_which_cells(model_card, studied, spec):
    text = section(model_card(studied), "What it confuses")
    assert "Of the cells of studies left out, it calls" in text
    assert "- 26% of alpha as beta (12 cells)" in text
    training = msgspec.structs.replace(spec.training, confusions=[])
    text = section(model_card(msgspec.structs.replace(spec, training=training)), "What it confuses")
    assert "No type takes more than 5 % of another's cells out of fold." in text


def test_what_it_cannot_tell_is_measured_and_left_out(model_card, studied, spec):
    text = section(model_card(studied), "What it cannot tell")
    assert "- naive from memory cells\n" in text
    assert "- left out: odd (3 cells)\n" in text
    for card in (model_card(studied), model_card(spec)):
        assert "Cells of any other type come out as unknown, or as the nearest" in card
    assert model_card(studied).endswith("- a twin\n")


def test_genes_that_a_type_lacks_stand_apart_from_its_markers():
    model = scbignn_infer.load_model("human-pbmc")
    made = cards.model_card(model.spec, model.statistics["class_mean"])
    (looks,) = [t[2:] for t in tables(made) if t[0][1].strip() == "present"]
    cells = {row[0].strip(): [part.strip().split(", ") for part in row[1:]] for row in looks}
    assert cells["Memory CD4 T"][0][:4] == ["IL32", "LTB", "IL7R", "S100A4"]
    assert {"TYROBP", "FCER1G", "NKG7"} <= set(cells["Memory CD4 T"][1])
    assert cells["B"][1] == ["-"]


@pytest.mark.parametrize("path", sorted(MODELS.glob("*/bundle.json")), ids=lambda p: p.parent.name)
def test_the_cards_of_the_shipped_models_are_of_today(path):
    model = scbignn_infer.load_model(path.parent)
    made = cards.model_card(model.spec, model.statistics["class_mean"])
    assert (path.parent / "README.md").read_text() == made, "run training/tables/make_cards.py"
