"""Write ``scbignn_infer/model/shipped.py``: the checksums of the shipped models.

Run ``python training/tables/make_shipped.py`` after a model was trained or its record changed. Each
model is checked whole and runs on made-up cells before its checksum is written.
"""

from __future__ import annotations

from pathlib import Path

from scbignn_infer.annotator import Annotator
from scbignn_infer.model.bundle import read_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
OUTPUT = REPOSITORY / "scbignn_infer" / "model" / "shipped.py"
TEXT = '''"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {{
{lines}
    }}
)
'''


def main() -> None:
    """Check all models and write the file."""
    lines = []
    for folder in sorted((REPOSITORY / "exported_models").iterdir()):
        bundle = read_bundle(folder, known=frozenset())
        Annotator(bundle, device="cpu", threads=1)
        lines += [f"        # {bundle.name}", f'        "{bundle.sha256}",']
    OUTPUT.write_text(TEXT.format(lines="\n".join(lines)))


if __name__ == "__main__":
    main()
