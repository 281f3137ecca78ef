"""The wheel, in an environment of its own without PyTorch, labels the shipped example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TEMPLATES = REPOSITORY / "scbignn_infer" / "report" / "templates"
MODELS = ("human-pbmc", "human-pancreas", "mouse-pancreas", "human-lung-cancer-lines")
FORBIDDEN = ("torch", "sklearn", "scanpy", "numba")
PROGRAM = f"""
import json, sys
sys.argv = ["scbignn-infer", "annotate", "pbmc700.h5ad", "--json", "--device", "cpu"]
from scbignn_infer.cli import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
loaded = [m for m in {FORBIDDEN!r} if m in sys.modules]
assert not loaded, loaded
"""


def call(*command: str | Path, cwd: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SCBIGNN_MODEL_PATH")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python: Path, *arguments: str | Path) -> str:
    """Run pip on the environment of another Python, which has none."""
    return call(sys.executable, "-m", "pip", "--python", python, *arguments, cwd=python.parent)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--outdir", folder, REPOSITORY, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_what_it_should_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {
        "scbignn_infer",
        "scbignn_training",
    }
    for model in MODELS:
        assert f"scbignn_infer/exported_models/{model}/bundle.json" in names
    templates = [f"report/templates/{file.name}" for file in TEMPLATES.iterdir()]
    page = [f"service/page/page.{suffix}" for suffix in ("css", "html", "js")]
    for name in ("py.typed", "knn.onnx", "examples/pbmc700.h5ad", *templates, *page):
        assert f"scbignn_infer/{name}" in names
    assert "scbignn_training/card.md.j2" in names
    assert not [n for n in names if n.endswith((".pyc", ".pkl", ".pickle"))]
    assert wheel.stat().st_size < 60e6


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip(python, "install", "--quiet", "--no-compile", wheel)
    return python


def test_clean_environment_annotates_the_example(python: Path, tmp_path: Path) -> None:
    command = python.with_name("scbignn-infer")
    call(command, "example", cwd=tmp_path)
    summary = json.loads(call(python, "-c", PROGRAM, cwd=tmp_path))
    assert summary["cells"] == 700
    assert summary["model"]["name"] == "human-pbmc"
    assert (tmp_path / summary["output"]).is_file()
    installed = pip(python, "list", "--format", "freeze")
    assert not {n.split("==")[0].lower() for n in installed.split()} & {"torch", "scanpy", "onnx"}


def test_clean_environment_is_qualified(python: Path, tmp_path: Path) -> None:
    done = call(python.with_name("scbignn-infer"), "doctor", "--qualify", "--json", cwd=tmp_path)
    record = json.loads(done)["record"]
    assert record["passed"]
    assert len(record["cases"]) == 6
    assert record["package"]["files"]["compared"] > 150
    assert record["package"]["files"]["altered"] == []


def test_training_without_its_extra_says_what_to_install(python: Path, tmp_path: Path) -> None:
    command = python.with_name("scbignn-infer")
    done = subprocess.run(
        [command, "train", "x.h5ad", "--label-key", "k", "--name", "n"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "pip install 'jinja2>" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
