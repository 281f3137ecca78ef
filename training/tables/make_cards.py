"""Write the cards of the shipped models anew: after a change of ``card.md.j2``.

Run ``python training/tables/make_cards.py``. What the recipes say of tests on tissues and of types
that a model cannot tell is taken into the records, too; the rest and the weights stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from scbignn_infer import load_model
from scbignn_training.card import model_card
from scbignn_training.recipe import read_recipe

if TYPE_CHECKING:
    from scbignn_infer.model.bundle import BundleSpec

REPOSITORY = Path(__file__).resolve().parents[2]


def with_words(spec: BundleSpec) -> BundleSpec:
    """Return the record of a model with its recipe's lines on tests and limits."""
    recipe = read_recipe(REPOSITORY / "training" / "recipes" / f"{spec.name}.toml")
    tissues = [
        msgspec.structs.replace(tissue, tested=recipe.tested.get(tissue.name, ""))
        for tissue in spec.tissues
    ]
    training = msgspec.structs.replace(spec.training, cannot_tell=recipe.cannot_tell)
    return msgspec.structs.replace(spec, tissues=tissues, training=training)


if __name__ == "__main__":
    for record in sorted((REPOSITORY / "exported_models").glob("*/bundle.json")):
        model = load_model(record.parent)
        spec = with_words(model.spec)
        if spec != model.spec:
            record.write_bytes(msgspec.json.encode(spec))
        card = model_card(spec, model.statistics["class_mean"])
        (record.parent / "README.md").write_text(card, encoding="utf-8")
