"""Make ``cell_ontology.tsv.gz`` and ``cell_names.tsv`` of ``scbignn_infer/model``.

The former has id, label, ancestors and synonyms of each type, the latter everyday names and ids:
those of ``everyday_names.tsv``, then those that ``profile_types.tsv`` gives one id only.

Run: ``python training/tables/make_ontology.py FOLDER`` (needs ``zstandard``) where FOLDER holds the
wheel that ``pip download --no-deps -d FOLDER cellxgene-ontology-guide==1.11.1`` gets, with the Cell
Ontology of 2026-03-26 (CC BY 4.0). Deprecated terms are left out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import zstandard

ROOT = Path(__file__).resolve().parents[2]
MODEL, TABLES = ROOT / "scbignn_infer" / "model", Path(__file__).parent
OUTPUT = MODEL / "cell_ontology.tsv.gz"
MEMBER = "cellxgene_ontology_guide/data/CL-ontology-v2026-03-26.json.zst"


def main() -> None:
    """Write the table, the same bytes from the same wheel."""
    (wheel,) = Path(sys.argv[1]).glob("cellxgene_ontology_guide-*.whl")
    packed = zipfile.ZipFile(wheel).read(MEMBER)
    terms = json.load(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)))
    rows = [
        "\t".join(
            (
                term,
                entry["label"],
                " ".join(sorted(entry["ancestors"])),
                "|".join(sorted(entry.get("synonyms") or [])),
            )
        )
        for term, entry in sorted(terms.items())
        if not entry["deprecated"]
    ]
    OUTPUT.write_bytes(gzip.compress("".join(f"{row}\n" for row in rows).encode(), mtime=0))
    (MODEL / "cell_names.tsv").write_text(everyday({row[:10] for row in rows}), encoding="utf-8")
    print(f"{OUTPUT.name}: {len(rows):,} terms, {OUTPUT.stat().st_size:,} bytes")


def everyday(known: set[str]) -> str:
    """Return a line for each everyday name: the name and its id."""
    lines = (TABLES / "everyday_names.tsv").read_text("utf-8").splitlines()
    names = dict(line.split("\t") for line in lines)
    several: dict[str, set[str]] = {}
    with (TABLES / "profile_types.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["ontology_id"] and not row["state"]:
                several.setdefault(row["label"], set()).add(row["ontology_id"])
    for name, ids in sorted(several.items()):
        if len(ids) == 1:
            names.setdefault(name, *ids)
    wrong = {name: term for name, term in names.items() if term not in known}
    if wrong:
        raise SystemExit(f"no such terms: {wrong}")
    return "".join(f"{name}\t{term}\n" for name, term in names.items())


if __name__ == "__main__":
    main()
