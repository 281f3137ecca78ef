"""What is said beforehand, against what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scbignn_infer.errors import InputError
from scbignn_infer.estimate import estimate
from scbignn_infer.neighbors import EXACT_MAX_CELLS
from scbignn_infer.pipeline import Annotator
from scbignn_infer.readers import open_query

if TYPE_CHECKING:
    from scbignn_infer.bundle import ModelBundle

MEASURED = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "speed.json"
MODEL = {"embedding_size": 96, "n_classes": 9, "n_neighbors": 15}
BYTES_A_CELL = 6600


def test_estimates_are_within_a_factor_of_two_of_the_benchmark() -> None:
    rows = [r for r in json.loads(MEASURED.read_text()) if r["method"] == "scBiGNN"]
    assert len(rows) >= 4
    for row in rows:
        n = row["cells"]
        expected = estimate(n, **MODEL, threads=2, output_bytes=BYTES_A_CELL * n)
        assert 0.5 < expected.seconds / row["seconds"] < 2, row
        assert 0.66 < expected.memory / (row["peak_mb"] * 1e6) < 1.5, row


def test_more_cells_take_more_and_more_threads_less_time() -> None:
    sizes = [1, 1000, 50_000, EXACT_MAX_CELLS, EXACT_MAX_CELLS * 20]
    found = [estimate(n, **MODEL, threads=2) for n in sizes]
    assert [e.memory for e in found] == sorted(e.memory for e in found)
    assert [e.seconds for e in found] == sorted(e.seconds for e in found)
    assert estimate(50_000, **MODEL, threads=8).seconds < found[2].seconds


def test_a_query_beyond_the_memory_limit_is_refused_before_it_is_read(
    pbmc_bundle: ModelBundle, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1, memory_limit=100_000_000)
    with open_query(example) as query:
        monkeypatch.setattr(query, "rows", None)
        with pytest.raises(InputError, match=r"700 cells .* needs about 0\.4 GB.*at most the 0\.1"):
            annotator.annotate_query(query)
    enough = Annotator(pbmc_bundle, device="cpu", threads=1, memory_limit=1_000_000_000)
    with open_query(example) as query:
        assert len(enough.annotate_query(query)) == 700
