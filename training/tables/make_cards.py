"""Write the cards of the shipped models anew: after a change of ``card.md.j2``.

Run ``python training/tables/make_cards.py``; the records and weights stay as they are.
"""

from __future__ import annotations

from pathlib import Path

from scbignn_infer import load_model
from scbignn_training.card import model_card

MODELS = Path(__file__).resolve().parents[2] / "exported_models"

if __name__ == "__main__":
    for record in sorted(MODELS.glob("*/bundle.json")):
        model = load_model(record.parent)
        card = model_card(model.spec, model.statistics["class_mean"])
        (record.parent / "README.md").write_text(card, encoding="utf-8")
