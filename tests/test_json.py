"""What ``annotate --json`` and ``--estimate`` say, as pipelines keep it."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.annotator import Annotator
from scbignn_infer.batch.manifest import MANIFEST
from scbignn_infer.label_file import label_file
from scbignn_infer.network.pair import Pair
from scbignn_infer.network.sessions import choose_runtime
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.model.bundle import ModelBundle

PBMC = ("-m", "human-pbmc", "--threads", "1")


@pytest.fixture(scope="module")
def cells(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 150 cells, the last without counts."""
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    some = ad.read_h5ad(example)[:150].copy()
    some.X = sp.vstack([some.X[:149], sp.csr_matrix((1, some.n_vars))], format="csr")
    del some.raw
    some.write_h5ad(path)
    return path


def document(run: Any, *words: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("annotate", *words, "--json", code=code).stdout)
    return found


def time(text: str) -> datetime:
    """Return a time, which must be one of UTC in ISO 8601."""
    found = datetime.fromisoformat(text)
    assert found.utcoffset() == timedelta(0)
    return found


def test_medians_are_those_of_the_cells_with_counts(
    run: Any, cells: Path, tmp_path: Path, pbmc_bundle: ModelBundle
) -> None:
    found = document(run, cells, *PBMC, "-o", tmp_path / "o.h5ad")
    labelled = ad.read_h5ad(tmp_path / "o.h5ad")[:149]
    assert found["empty"] == 1
    for name in ("confidence", "novelty"):
        expected = np.median(labelled.obs[f"scbignn_{name}"])
        assert found[f"median_{name}"] == pytest.approx(expected, abs=1e-4)
    pair = Pair(pbmc_bundle, choose_runtime("cpu", 1))
    distance, _ = pair.bank.distance(labelled.obsm["X_scbignn"])
    expected = np.median(pair.bank.novelty(distance))
    assert found["median_distance"] == pytest.approx(expected, abs=1e-3)
    assert "reference_distance" in found
    assert found["reference_distance"] is None  # no model was searched for
    assert "median_distance" not in labelled.uns["scbignn"]  # which stays as it was


def test_a_chosen_model_has_a_distance_too(run: Any, cells: Path, tmp_path: Path) -> None:
    found = document(run, cells, "--threads", "1", "-o", tmp_path / "o.csv")
    near = found["reference_distance"]["human-pbmc"]
    assert found["median_distance"] == pytest.approx(near, abs=0.05)


def test_without_counts_there_is_no_median(pbmc_bundle: ModelBundle) -> None:
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1)
    counts = np.random.default_rng(0).poisson(1.0, (3, 400))
    found = annotator.annotate_matrix(counts, pbmc_bundle.gene_symbols[:400])
    assert found.summary()["median_confidence"] > 0
    none = replace(found, empty=np.ones(3, dtype=bool)).summary()
    assert none["median_confidence"] is none["median_novelty"] is None


def test_it_says_when_and_by_which_command(run: Any, cells: Path, tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    output = tmp_path / "with space.csv"
    found = document(run, cells, *PBMC, "-o", output)
    assert before <= time(found["started"]) <= time(found["finished"]) <= datetime.now(UTC)
    words = f"scbignn-infer annotate {cells} -m human-pbmc --threads 1 -o '{output}' --json"
    assert found["command"] == words


def test_the_provenance_is_the_same_on_every_machine(
    run: Any, cells: Path, tmp_path: Path, pbmc_bundle: ModelBundle
) -> None:
    found = []
    for folder, model, threads in (("one", "human-pbmc", 1), ("two", pbmc_bundle.path, 2)):
        place = tmp_path / folder
        place.mkdir()
        shutil.copy(cells, place / "q.h5ad")
        options = ("-m", model, "--threads", threads, "--max-novelty", "0.9")
        found.append(document(run, place / "q.h5ad", *options)["provenance"])
    assert found[0] == found[1]
    assert found[0]["input"] == {"name": "q.h5ad", "bytes": cells.stat().st_size}
    assert found[0]["output"] == {"name": "q.scbignn.h5ad"}
    assert found[0]["model"]["sha256"] == pbmc_bundle.sha256
    assert found[0]["settings"]["max_novelty"] == 0.9
    assert found[0]["versions"]["scbignn_infer"]
    text = json.dumps(found)
    for word in (
        str(tmp_path),
        str(pbmc_bundle.path),
        socket.gethostname(),
        f"/{getpass.getuser()}/",
    ):
        assert word not in text


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (["absent.h5ad", *PBMC], "InputError", 1),
        (["absent.h5ad", "-m", "absent"], "InputError", 1),
        (["absent.h5ad", "--threads", "0"], "UsageError", 2),
        (["--no-such-option"], "UsageError", 2),
    ],
)
def test_an_error_says_its_kind_and_the_command(
    run: Any, words: list[str], kind: str, code: int
) -> None:
    found = document(run, *words, code=code)
    assert (found["error"]["kind"], found["error"]["exit_code"]) == (kind, code)
    assert found["command"] == f"scbignn-infer annotate {' '.join(words)} --json"


def test_the_manifest_has_times(run: Any, cells: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.h5ad").write_bytes(b"broken")
    folder = tmp_path / "o"
    words = [cells, tmp_path / "broken.h5ad", *PBMC, "-O", folder]
    found = document(run, *words, code=3)
    assert time(found["started"]) <= time(found["finished"])
    assert found["error"]["exit_code"] == 3
    assert found["command"].startswith("scbignn-infer annotate ")
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    for line in lines:
        keys = {"started": {"started"}, "failed": {"finished"}, "done": {"started", "finished"}}
        times = keys[line["status"]]
        assert times == {"started", "finished"} & set(line)
        assert all(time(line[key]) for key in times)
    (done,) = [line for line in lines if line["status"] == "done"]
    assert 0 <= done["median_novelty"] <= 1
    again = document(run, *words, code=3)["samples"][0]
    assert again == done | {"status": "skipped"}  # of its time


# --- estimates -----------------------------------------------------------------------------------


def test_an_estimate_writes_nothing_and_is_that_of_the_labelling(
    run: Any, cells: Path, tmp_path: Path
) -> None:
    query = tmp_path / "q.h5ad"
    shutil.copy(cells, query)
    found = document(run, query, *PBMC, "--estimate")
    assert (found["cells"], found["model"]["name"], found["threads"]) == (150, "human-pbmc", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["q.h5ad"]
    least = found["memory_bytes"]
    refused = document(run, query, *PBMC, "--memory-limit", least - 1000, code=1)
    assert "needs about" in refused["error"]["found"]
    summary = label_file(
        query,
        tmp_path / "o.h5ad",
        Settings(model="human-pbmc", threads=1, memory_limit=least + 1000),
    )
    assert summary["cells"] == 150


def test_an_estimate_is_one_line(run: Any, cells: Path, tmp_path: Path) -> None:
    (line,) = run("annotate", cells, "--estimate", "--threads", "2").stdout.splitlines()
    assert line.startswith(f"{cells}: 150 cells would take about ")
    assert line.endswith(" GB of memory with human-pbmc on 2 threads")
    assert run("annotate", cells, *PBMC, "--estimate", "-q").stdout == ""


def test_an_estimate_grows_with_what_is_wished(run: Any, cells: Path) -> None:
    plain, report, adapted = (
        document(run, cells, *PBMC, "--estimate", *more)["memory_bytes"]
        for more in ((), ("--report", "r.html"), ("--adapt",))
    )
    assert plain < report
    assert plain < adapted


def test_an_estimate_is_refused_as_the_labelling_would_be(
    run: Any, cells: Path, tmp_path: Path
) -> None:
    assert "no file" in run("annotate", tmp_path / "none.h5ad", "--estimate", code=1).stderr
    limit = ("--memory-limit", "1MB")
    assert (
        "at most the 0.0 GB" in run("annotate", cells, *PBMC, *limit, "--estimate", code=1).stderr
    )
    folder = ("-O", tmp_path / "o", "--estimate")
    assert "--estimate: not with -O" in run("annotate", cells, *PBMC, *folder, code=2).stderr
