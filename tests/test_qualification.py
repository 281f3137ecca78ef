"""``doctor --qualify`` passes here, notices what differs, and leaves a record to be checked."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import runpy
import shutil
from importlib.metadata import PathDistribution
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from scbignn_infer.qualification import cases, record, sheet

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted(p.name for p in (ROOT / "exported_models").iterdir())


@pytest.fixture(scope="module")
def filed(run, tmp_path_factory):
    """Return the folder of a record of this machine, and what the command printed."""
    folder = tmp_path_factory.mktemp("filed")
    done = run("doctor", "--qualify", "-o", folder, "--device", "cpu", "--threads", 2)
    return folder, done.stdout


def read(folder: Path) -> dict:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def test_every_shipped_model_has_a_golden_case_and_passes(filed):
    outcomes = read(filed[0])["record"]["cases"]
    assert [case["model"] for case in outcomes] == SHIPPED
    for case in outcomes:
        assert case["passed"], case
        assert set(case["labels"].values()) == {0}
        assert {"scbignn_cell_type", "scbignn_best_cell_type"} <= case["labels"].keys()
        assert {"scbignn_probabilities", "X_scbignn", "scbignn_confidence"} <= case["scores"].keys()
        assert case["cells"] >= 20
        assert case["seconds"]["label"] > 0
        bundle = (ROOT / "exported_models" / case["model"] / "bundle.json").read_bytes()
        assert case["sha256"] == hashlib.sha256(bundle).hexdigest()


def test_the_record_says_what_ran_where(filed):
    folder, printed = filed
    document = read(folder)
    content = document["record"]
    assert content["passed"]
    assert content["asked"] == {"device": "cpu", "threads": 2}
    assert content["packages"]["numpy"] == np.__version__
    assert content["machine"]["python"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", content["made"])
    assert f"passed; SHA-256 of the record: {document['sha256']}" in printed
    assert sorted(p.suffix for p in folder.iterdir()) == [".html", ".json"]
    (page,) = folder.glob("*.html")
    text = page.read_text()
    assert document["sha256"] in text
    assert all(case["case_sha256"] in text for case in content["cases"])
    assert "<script" not in text
    assert "://" not in text


def test_the_program_of_the_docs_checks_a_record(filed, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "qualification.md").read_text()
    (program,) = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    (path,) = filed[0].glob("*.json")
    shutil.copy(path, tmp_path / "record.json")
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    changed = path.read_text().replace('"passed": true', '"passed": false', 1)
    (tmp_path / "record.json").write_text(changed)
    with pytest.raises(AssertionError):
        exec(program, {})


@pytest.fixture
def altered(tmp_path):
    """Return a function that changes the golden case of human-pbmc in a copy."""

    def change(edit) -> Path:
        adata = ad.read_h5ad(cases.golden_cases()["human-pbmc"])
        edit(adata)
        path = tmp_path / "human-pbmc.h5ad"
        adata.write_h5ad(path)
        return path

    return change


def relabel(adata: ad.AnnData) -> None:
    column = adata.obs["scbignn_cell_type"]
    adata.obs["scbignn_cell_type"] = column.where(np.arange(len(column)) != 3, column.iloc[0])
    assert (adata.obs["scbignn_cell_type"] != column).sum() == 1


def shift(name: str, by: float):
    def edit(adata: ad.AnnData) -> None:
        adata.obsm[name] = adata.obsm[name] + np.float32(by)

    return edit


def lose(adata: ad.AnnData) -> None:
    adata.obs["scbignn_gone"] = np.zeros(adata.n_obs)


def blank(adata: ad.AnnData) -> None:
    adata.obs["scbignn_novelty"] = np.nan


@pytest.mark.parametrize(
    ("edit", "column"),
    [
        (relabel, "scbignn_cell_type"),
        (shift("X_scbignn", 2e-4), "X_scbignn"),
        (lose, "scbignn_gone"),
        (blank, "scbignn_novelty"),
    ],
    ids=["a label", "an embedding", "a column", "no number"],
)
def test_what_differs_is_noticed(edit, column, altered):
    outcome = cases.run_case("human-pbmc", altered(edit), device="cpu", threads=1)
    assert not outcome.passed
    assert outcome.problem == ""
    different = {name for name, n in outcome.labels.items() if n}
    different |= {name for name, worst in outcome.scores.items() if worst > cases.TOLERANCE}
    assert different == {column}
    assert outcome.labels["scbignn_cell_type"] == (1 if edit is relabel else 0)


def test_rounding_is_no_difference(altered):
    path = altered(shift("X_scbignn", 5e-5))
    outcome = cases.run_case("human-pbmc", path, device="cpu", threads=1)
    assert outcome.passed
    assert 4e-5 < outcome.scores["X_scbignn"] < 6e-5


def test_another_model_of_that_name_fails(toy, change, monkeypatch):
    change(record=lambda r: r.update(name="human-pbmc"))
    toy.rename(toy.with_name("human-pbmc"))
    monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(toy.parent))
    path = cases.golden_cases()["human-pbmc"]
    outcome = cases.run_case("human-pbmc", path, device="cpu", threads=1)
    assert not outcome.passed
    assert "is not the released one" in outcome.problem


def test_a_failure_is_recorded_and_ends_with_code_1(run, altered, tmp_path, monkeypatch):
    path, folder = altered(relabel), tmp_path / "filed"
    folder.mkdir()
    monkeypatch.setattr(record, "golden_cases", lambda: {"human-pbmc": path})
    done = run("doctor", "--qualify", "-o", folder, "--json", code=1)
    document = json.loads(done.stdout)
    assert document.pop("error")["found"].startswith("this installation does not do")
    assert document == read(folder)
    assert not document["record"]["passed"]
    assert document["sha256"] == record.checksum(document["record"])
    assert 'class="failed">failed' in next(folder.glob("*.html")).read_text()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("-o", "."), 2, "-o: of use only with --qualify"),
        (("--device", "cpu"), 2, "--device: of use only with --qualify"),
        (("--qualify", "-o", "absent/folder"), 1, "no folder absent/folder"),
    ],
)
def test_wrong_use_is_one_line(run, options, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("doctor", *options, code=code, lines=None)
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_altered_and_missing_files_of_the_package_are_named(tmp_path):
    package, about = tmp_path / "scbignn_infer", tmp_path / "scbignn_infer-1.dist-info"
    package.mkdir()
    about.mkdir()
    lines = []
    for name in ("whole.py", "altered.py", "missing.py"):
        data = name.encode()
        (package / name).write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"scbignn_infer/{name},sha256={digest},{len(data)}\n")
    (about / "RECORD").write_text("".join(lines))
    installed = PathDistribution(about)
    assert record.compare_files(installed) == {"compared": 3, "altered": []}
    (package / "altered.py").write_text("other")
    (package / "missing.py").unlink()
    found = record.compare_files(installed)
    assert found["altered"] == ["scbignn_infer/altered.py", "scbignn_infer/missing.py"]


def test_the_page_shows_texts_as_they_are(filed):
    content = read(filed[0])["record"]
    content["machine"]["name"] = "<b>&lab"
    assert "&lt;b&gt;&amp;lab" in sheet.page(content)


def test_the_table_of_requirements_is_that_of_the_tests():
    made = runpy.run_path(str(ROOT / "docs" / "make_qualification.py"))
    text = (ROOT / "docs" / "qualification.md").read_text()
    assert made["page"]() == text, "run: python docs/make_qualification.py"
    gone = made["Requirement"]("A test is there.", {"test_golden.py": "nothing_is_stored"})
    with pytest.raises(LookupError, match="nothing_is_stored"):
        made["row"](1, gone)


def test_every_risk_has_its_requirements_and_every_requirement_a_risk():
    text = (ROOT / "docs" / "qualification.md").read_text()
    requirements = re.findall(r"^\| (R\d+) \|", text, re.MULTILINE)
    (risks,) = re.findall(r"## Risks\n(.+?)\n## ", text, re.DOTALL)
    rows = [line.split("|")[4] for line in risks.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 8
    named = [re.findall(r"R\d+", row) for row in rows]
    assert all(named)
    assert {name for row in named for name in row} == set(requirements)
