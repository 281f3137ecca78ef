"""Make ``scbignn_training/cell_ontology.tsv.gz``: id, label and ancestors of each cell type.

Run: ``python training/tables/make_ontology.py FOLDER`` (needs ``zstandard``) where FOLDER holds the
wheel that ``pip download --no-deps -d FOLDER cellxgene-ontology-guide==1.11.1`` gets, with the Cell
Ontology of 2026-03-26 (CC BY 4.0). Deprecated terms are left out.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import zstandard

OUTPUT = Path(__file__).resolve().parents[1] / "scbignn_training" / "cell_ontology.tsv.gz"
MEMBER = "cellxgene_ontology_guide/data/CL-ontology-v2026-03-26.json.zst"


def main() -> None:
    """Write the table, the same bytes from the same wheel."""
    (wheel,) = Path(sys.argv[1]).glob("cellxgene_ontology_guide-*.whl")
    packed = zipfile.ZipFile(wheel).read(MEMBER)
    terms = json.load(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)))
    rows = [
        "\t".join((term, entry["label"], " ".join(sorted(entry["ancestors"]))))
        for term, entry in sorted(terms.items())
        if not entry["deprecated"]
    ]
    OUTPUT.write_bytes(gzip.compress("".join(f"{row}\n" for row in rows).encode(), mtime=0))
    print(f"{OUTPUT.name}: {len(rows):,} terms, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
