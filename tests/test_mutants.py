"""Some of the mutated inputs that ``mutants.py`` makes; docs/benchmark_tables.md has them all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

GENERATOR = Path(__file__).resolve().parent / "mutants.py"
EACH = 20


def test_mutated_inputs_end_in_labels_or_in_one_line(tmp_path: Path) -> None:
    kinds = ("h5ad", "zarr", "npz", "onnx", "json", "zip", "text", "http")
    out = tmp_path / "mutants.json"
    command = [sys.executable, GENERATOR, "--inputs", str(EACH * len(kinds)), "--workers", "1"]
    command += ["--seed", "2026", "--out", out]
    done = subprocess.run(command, check=False)
    found = json.loads(out.read_text())
    assert found["faults"] == []
    assert done.returncode == 0
    assert {kind: row["inputs"] for kind, row in found["kinds"].items()} == dict.fromkeys(
        kinds, EACH
    )
    labelled = sum(row["labelled"] for row in found["kinds"].values())
    assert 0 < labelled < EACH * len(kinds)  # some survive their change, and some do not
