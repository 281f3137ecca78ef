"""What registries get: filled in for this version, with facts of the package, and checked.

``packaging/check.sh`` builds the release and runs the tools of the registries.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from build.util import project_wheel_metadata
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from groovy_parser.parser import parse_groovy_content
from huggingface_hub import ModelCard

from scbignn_infer import __version__
from scbignn_infer.cli.annotate import annotate
from scbignn_infer.model.registry import load_model
from scbignn_infer.sharing.signatures import PUBLISHER_KEY

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = ROOT / "packaging"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
MODELS = sorted(path.name for path in (ROOT / "exported_models").iterdir())
MODULE = ROOT / "workflows" / "nextflow" / "modules" / "local" / "scbignninfer" / "annotate"
PARTS = (
    *("pyproject.toml", "README.md", "LICENSE", "scbignn_infer/__init__.py"),
    "packaging/readme.py",
)
"""What the metadata of the package are made of."""
HOME, DOCS = "https://example.org/home", "https://example.org/docs"


def call(*command: str | Path, cwd: Path = ROOT, code: int = 0, **env: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    values = os.environ | {"PATH": path} | env
    done = subprocess.run(command, cwd=cwd, env=values, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what the script writes, for a made-up owner."""
    folder = tmp_path_factory.mktemp("registries")
    (folder / "sdist.tar.gz").write_bytes(b"sdist")
    options = ["--home", HOME, "--docs", DOCS, "--contact", "somebody"]
    options += ["--sdist-url", "https://example.org/sdist.tar.gz"]
    files = ["--sdist", folder / "sdist.tar.gz", "-o", folder / "out"]
    call(sys.executable, PACKAGING / "render.py", *options, *files)
    return folder / "out"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_every_value_is_filled_in(registries: Path) -> None:
    texts = [p for p in registries.rglob("*") if p.is_file() and p.suffix != ".h5ad"]
    assert len(texts) >= 10
    for path in texts:
        assert "%%" not in path.read_text(encoding="utf-8"), path


# --- the index -----------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["", HOME])
def test_no_link_of_the_long_description_is_relative(home: str, tmp_path: Path) -> None:
    """Without a home on the web the words stay; with one, links lead to this version there."""
    for name in PARTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    project = tmp_path / "pyproject.toml"
    urls = "[project.urls]\n" + (f'Source = "{home}/"\n' if home else "")
    project.write_text(project.read_text().replace("[project.urls]\n", urls))
    text = project_wheel_metadata(tmp_path, isolated=False).get_payload()
    readme = (ROOT / "README.md").read_text()
    own = {t for t in re.findall(r"\]\(([^)]+)\)", readme) if not re.match(r"https?://|#", t)}
    shown = set(re.findall(r"\]\(([^)#][^)]*)\)", text))
    assert all(target.startswith("https://") for target in shown)
    at_home = {target for target in shown if target.startswith(HOME)}
    assert {re.sub(rf"^{HOME}/(blob|raw)/v{__version__}/", "", t) for t in at_home} == (
        own if home else set()
    )
    assert len(own) > 30
    for target in at_home:
        is_picture = target.endswith(".svg")
        assert f"{HOME}/{'raw' if is_picture else 'blob'}/v" in target
    words = re.compile(r"\W+")
    if not home:
        assert "Annotate your data" in text
        assert "![" not in text
        assert len(words.split(text)) > 0.9 * len(words.split(readme)) - 3 * len(own)


# --- conda ---------------------------------------------------------------------------------------


def recipes(registries: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the recipes of conda-forge and bioconda."""
    text = (registries / "conda" / "meta.yaml").read_text()
    pin = lambda name, max_pin: f"{name} {max_pin}"  # noqa: E731
    meta = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)
    return load(registries / "conda" / "recipe.yaml"), yaml.safe_load(
        meta.render(pin_subpackage=pin)
    )


def test_both_recipes_say_the_same(registries: Path) -> None:
    forge, bio = recipes(registries)
    assert forge["context"]["version"] == bio["package"]["version"] == __version__
    assert forge["source"] == bio["source"]
    assert forge["source"]["sha256"] == hashlib.sha256(b"sdist").hexdigest()
    assert forge["requirements"] == bio["requirements"]
    assert forge["build"]["script"] == bio["build"]["script"]
    assert forge["build"]["python"]["entry_points"] == bio["build"]["entry_points"]
    (script,) = PROJECT["scripts"].items()
    assert bio["build"]["entry_points"] == [" = ".join(script)]
    commands = bio["test"]["commands"]
    assert forge["tests"][1]["script"] == commands[1:]
    assert commands[0] == "pip check"
    assert forge["tests"][0]["python"]["pip_check"]


def test_conda_installs_what_the_package_requires(registries: Path) -> None:
    forge, _ = recipes(registries)
    given = dict(line.split(" ", 1) for line in forge["requirements"]["run"])
    wanted = {}
    for need in PROJECT["dependencies"]:
        name, bound = re.match(r"([\w-]+)(>=[\d.]+)", need).groups()
        wanted[name] = bound
    assert wanted.pop("onnxruntime-gpu") == wanted["onnxruntime"]
    assert given == wanted | {"python": PROJECT["requires-python"]}
    host = forge["requirements"]["host"]
    assert PYPROJECT["build-system"]["requires"] == [host[-1].replace(" ", "")]


def installed(folder: Path, *, script: str = "") -> Path:
    """Return an environment with the metadata of the package, and of what conda installs for it.

    ``script`` is run before the metadata are made. Nothing can be imported: pip reads metadata.
    """
    source, target = folder / "source", folder / "env"
    for name in PARTS:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    if script:
        call("bash", "-euc", script, cwd=source)
    about = project_wheel_metadata(source, isolated=False)
    venv.create(target, with_pip=False)
    (site,) = target.glob("[Ll]ib/**/site-packages")
    needs = [re.match(r"([\w-]+)>=([\d.]+)", n).groups() for n in PROJECT["dependencies"]]
    fakes = {n: f"Metadata-Version: 2.1\nName: {n}\nVersion: {v}\n" for n, v in needs}
    del fakes["onnxruntime-gpu"]
    for name, text in (fakes | {"scbignn-infer": str(about)}).items():
        number = re.search(r"^Version: (.+)$", text, re.MULTILINE)[1]
        place = site / f"{name.replace('-', '_')}-{number}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(text, encoding="utf-8")
    return target / ("Scripts" if os.name == "nt" else "bin") / "python"


def test_pip_check_passes_with_the_onnxruntime_of_conda(registries: Path, tmp_path: Path) -> None:
    forge, _ = recipes(registries)
    edit, install = forge["build"]["script"]
    assert install.startswith("python -m pip install .")
    python = installed(tmp_path / "edited", script=edit)
    assert "No broken requirements" in call(
        sys.executable, "-m", "pip", "--python", python, "check"
    )
    plain = installed(tmp_path / "plain")
    said = call(sys.executable, "-m", "pip", "--python", plain, "check", code=1)
    assert "scbignn-infer" in said
    assert "requires onnxruntime-gpu, which is not installed" in said


# --- other registries ----------------------------------------------------------------------------


def test_the_entry_of_scverse_has_what_the_registry_asks_for(registries: Path) -> None:
    entry = load(registries / "scverse" / "meta.yaml")
    asked = "name description project_home documentation_home license tags primary_category"
    assert entry.keys() >= {*asked.split(), "language", "category", "install"}
    assert entry["name"] == entry["install"]["pypi"] == PROJECT["name"]
    assert re.fullmatch(r"[\w-]+::scbignn-infer", entry["install"]["conda"])
    assert entry["license"] == PROJECT["license"]
    assert "cell-type annotation" in entry["tags"]
    assert len(set(entry["tags"])) == len(entry["tags"]) <= 10
    for address in (entry["project_home"], entry["documentation_home"]):
        assert address.startswith("https://")
    for doi in entry["publications"]:
        assert re.fullmatch(r"10\.\d{4,9}/[-._;()/:A-Za-z0-9]+", doi)
    readme = (ROOT / "README.md").read_text()
    assert f"```bash\n{entry['test_command']}\n```" in readme


def test_the_module_of_nf_core_is_ours_with_the_image_of_bioconda(registries: Path) -> None:
    folder = registries / "nf-core" / "scbignninfer" / "annotate"
    ours, theirs = (p.read_text() for p in (MODULE / "main.nf", folder / "main.nf"))
    parse_groovy_content(theirs)
    kept = [line for line in ours.splitlines() if not re.match("    (//|container )", line)]
    assert [line for line in theirs.splitlines() if line in kept] == kept
    images = re.findall(r"scbignn-infer:\S+--\w+", theirs)
    assert images == [f"scbignn-infer:{__version__}--pyhdfd78af_0"] * 2
    assert (
        f"'quay.io/biocontainers/{images[0]}'" in theirs
    )  # nf-core modules lint asks for the host
    meta, environment = load(folder / "meta.yml"), load(folder / "environment.yml")
    (tool,) = meta["tools"]
    assert tool["scbignn-infer"]["homepage"] == HOME
    assert meta | {"tools": 0} == load(MODULE / "meta.yml") | {"tools": 0}
    assert environment == {
        "channels": ["conda-forge", "bioconda"],
        "dependencies": [f"bioconda::scbignn-infer={__version__}"],
    }
    test = (folder / "tests" / "main.nf.test").read_text()
    parse_groovy_content(test)
    emitted = set(re.findall(r"emit: (\w+)", ours))
    assert set(re.findall(r"process\.out\.(\w+)", test)) == emitted
    for name in ("${moduleTestDir}/pbmc700.h5ad", "./nextflow.config"):
        assert name in test
        assert (folder / "tests" / Path(name).name).is_file()


def test_the_tool_of_galaxy_calls_annotate_as_it_is(registries: Path) -> None:
    tool = ET.parse(registries / "galaxy" / "scbignn_infer_annotate.xml").getroot()
    tokens = {t.get("name"): t.text for t in tool.iter("token")}
    assert tokens["@TOOL_VERSION@"] == __version__
    (requirement,) = tool.iter("requirement")
    assert (requirement.text, requirement.get("version")) == ("scbignn-infer", "@TOOL_VERSION@")
    options = {option for parameter in annotate.params for option in parameter.opts}
    text = tool.findtext("command")
    named = set(re.findall(r"(?<![\w-])--[\w-]+", text))
    named |= {p.get("argument") for p in tool.iter("param") if p.get("argument")}
    assert named <= options, named - options
    assert len(named) >= 7
    inputs = list(tool.find("inputs").iter("param"))
    choices = {p.get("name") or p.get("argument"): p for p in inputs}
    listed = {n: [o.get("value") for o in p.iter("option")] for n, p in choices.items()}
    assert listed["model"] == MODELS
    (depth,) = [p for p in annotate.params if p.name == "depth"]
    assert set(listed["--depth"]) == set(depth.type.choices)
    names = {name.lstrip("-").replace("-", "_") for name in choices}
    assert set(re.findall(r"\$(\w+)", re.sub(r"\\\$\{.+?\}", "", text))) - {"GALAXY_SLOTS"} == names
    for test in tool.iter("test"):
        (cells,) = [p for p in test.iter("param") if p.get("name") == "cells"]
        assert (registries / "galaxy" / "test-data" / cells.get("value")).is_file()


@pytest.mark.skipif(shutil.which("planemo") is None, reason="planemo is not installed")
def test_planemo_finds_nothing(registries: Path, tmp_path: Path) -> None:
    """What ``lint.py`` asks of Galaxy's linters, as the registry of tools asks it."""
    tool = registries / "galaxy" / "scbignn_infer_annotate.xml"
    lint = ("planemo", "lint", "--fail_level", "warn")
    assert "CHECK (TestsNoValid): 2 test(s) found" in call(*lint, tool, HOME=str(tmp_path))
    broken = tmp_path / tool.name
    broken.write_text(tool.read_text().replace("tests>", "trials>"))
    call(*lint, broken, HOME=str(tmp_path), code=1)


@pytest.mark.parametrize(("model", "code"), [("human-pbmc", 0), ("mouse-pancreas", 1)])
def test_the_tool_of_galaxy_runs(model: str, code: int, registries: Path, tmp_path: Path) -> None:
    """As Galaxy's template engine would fill in its command."""
    tool = ET.parse(registries / "galaxy" / "scbignn_infer_annotate.xml").getroot()
    cells = registries / "galaxy" / "test-data" / "pbmc700.h5ad"
    lines = tool.findtext("command").replace("\\$", "$").splitlines()
    drop = lines.index("    #if $tissue")
    kept = [line for line in lines[:drop] + lines[drop + 3 :] if "#" not in line]
    values = {"cells": cells, "model": model, "depth": "sure", "no_unknown": "", "overwrite": ""}
    text = " ".join(kept)
    for name, value in values.items():
        text = text.replace(f"${name}", str(value))
    said = call(
        "bash", "-uec", text, cwd=tmp_path, code=code, GALAXY_SLOTS="1", GALAXY_MEMORY_MB="4000"
    )
    if code:
        assert "error: " in said
        assert not (tmp_path / "labelled.h5ad").exists()
    else:
        assert json.loads((tmp_path / "summary.json").read_text())["cells"] == 700
        assert (tmp_path / "labelled.h5ad").stat().st_size > 1e5


def test_models_are_packed_with_a_card_that_the_hub_reads(tmp_path: Path) -> None:
    name = "human-lung-cancer-lines"
    call("bash", PACKAGING / "hub.sh", tmp_path, name)
    card = ModelCard.load(tmp_path / name / "README.md")
    assert card.data.license == "bsd-3-clause"
    assert card.data.library_name == PROJECT["name"]
    assert {"single-cell", "cell-type-annotation"} <= set(card.data.tags)
    packed = tmp_path / name / f"{name}.scbignn.zip"
    assert load_model(packed).sha256 == load_model(name).sha256
    assert hashlib.sha256(packed.read_bytes()).hexdigest() in card.text


def test_the_citation_names_the_software_and_the_paper(registries: Path) -> None:
    citation = load(registries / "CITATION.cff")
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper["doi"] == "10.48550/arXiv.2312.10310"
    assert [a["family-names"] for a in paper["authors"]][::5] == ["Yang", "Xiong"]


def test_the_addresses_of_the_package_exist() -> None:
    """The package has no home on the web yet, so none is named."""
    assert list(PROJECT["urls"].values()) == ["https://arxiv.org/abs/2312.10310"]


# --- supply chain --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("sbom") / "sbom.json"
    call(sys.executable, PACKAGING / "sbom.py", "-o", path)
    return path.read_text(encoding="utf-8")


def test_the_bill_of_materials_is_cyclonedx(materials: str) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(materials) is None
    broken = materials.replace('"machine-learning-model"', '"model"', 1)
    assert validator.validate_str(broken) is not None


def test_the_bill_of_materials_holds_models_and_dependencies(
    materials: str, tmp_path: Path
) -> None:
    document = json.loads(materials)
    parts = {part["name"]: part for part in document["components"]}
    assert document["metadata"]["component"]["version"] == __version__
    for name in MODELS:
        files = {file["name"]: file for file in parts[name]["components"]}
        assert parts[name]["hashes"][0]["content"] == load_model(name).sha256
        for file in (ROOT / "exported_models" / name).iterdir():
            (digest,) = files[file.name]["hashes"]
            assert digest["content"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert parts[name]["modelCard"]["modelParameters"]["datasets"]
    needs = {re.match(r"[\w-]+", n)[0] for n in PROJECT["dependencies"]}
    assert needs | {"numba", "llvmlite", "protobuf"} <= parts.keys()
    assert not {"torch", "pytest"} & parts.keys()
    assert all(parts[name]["hashes"] for name in needs)
    again = tmp_path / "again.json"
    call(sys.executable, PACKAGING / "sbom.py", "-o", again, PYTHONHASHSEED="7", TZ="Asia/Tokyo")
    assert again.read_text(encoding="utf-8") == materials


def locked(path: Path) -> dict[str, str]:
    """Return the packages of a locked environment; each has checksums."""
    text = path.read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        name, version, rest = re.fullmatch(r"([\w.-]+)==(\S+)(.*)", line).groups()
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", rest), name
        assert name not in found or found[name] != version
        found.setdefault(name, version)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_test_environment_is_locked_whole() -> None:
    found = locked(ROOT / "tests" / "locked.txt")
    groups, extras = PYPROJECT["dependency-groups"], PROJECT["optional-dependencies"]
    needs = [*PROJECT["dependencies"], *extras["training"]]
    needs += [n for g in ("test", "lint", "docs") for n in groups[g]]
    names = {canonical(re.match(r"[\w-]+", need)[0]) for need in needs}
    assert names - found.keys() == {"torch"}, "run: bash tests/versions.sh --lock"
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for name, version in pins.items():
        assert found.get(canonical(name), version) == version, "run: bash tests/versions.sh --lock"
    assert locked(PACKAGING / "tools.txt").keys() >= {"twine", "hatchling", "galaxy-tool-util"}
    for path in (ROOT / "tests" / "locked.txt", PACKAGING / "tools.txt"):
        assert not re.search(r"://|^--", path.read_text(), re.MULTILINE)


def test_the_release_is_checked_by_ci() -> None:
    assert "bash packaging/check.sh" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a copy of what is signed, with one model, and a key outside of it."""
    folder = tmp_path / "repository"
    (folder / "scbignn_infer" / "sharing").mkdir(parents=True)
    (folder / "packaging").mkdir()
    shutil.copy(PACKAGING / "sign_models.sh", folder / "packaging")
    name = "human-lung-cancer-lines"
    shutil.copytree(ROOT / "exported_models" / name, folder / "exported_models" / name)
    new = ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out")
    call(*new, tmp_path / "my.key")
    return folder


def test_the_owner_signs_the_models(repository: Path) -> None:
    pytest.importorskip("model_signing")
    script, key = repository / "packaging" / "sign_models.sh", repository.with_name("my.key")
    assert "commit scbignn_infer/sharing/publisher.pub" in call("bash", script, key)
    public = repository / "scbignn_infer" / "sharing" / "publisher.pub"
    assert "PUBLIC KEY" in public.read_text()
    (model,) = (repository / "exported_models").iterdir()
    assert (model / "model.sig").is_file()
    call("bash", script, key)  # after a change, again
    (model / "README.md").write_text("# another\n")
    call("scbignn-infer", "models", "verify", model, "--key", public, code=1)


def test_a_private_key_in_the_repository_is_refused(repository: Path) -> None:
    key = repository / "my.key"
    repository.with_name("my.key").rename(key)
    said = call("bash", repository / "packaging" / "sign_models.sh", key, code=1)
    assert "must never be committed" in said
    assert not (repository / "scbignn_infer" / "sharing" / "publisher.pub").exists()


def test_either_all_models_are_signed_or_there_is_no_key() -> None:
    signed = [name for name in MODELS if (ROOT / "exported_models" / name / "model.sig").exists()]
    assert signed == (MODELS if PUBLISHER_KEY.exists() else [])


def test_no_private_key_is_in_the_repository() -> None:
    words = "PRIVATE" + " KEY-----"
    for path in (*PACKAGING.rglob("*"), *(ROOT / "scbignn_infer").rglob("*"), *ROOT.glob("*")):
        if path.is_file() and path.stat().st_size < 1e5:
            assert words.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("digest", [f"sha256:{'5' * 64}", "latest"])
def test_the_image_is_built_on_a_digest(digest: str, tmp_path: Path) -> None:
    """A made-up docker writes down how it is called."""
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$*" >> {tmp_path}/calls\n'
        f'case "$*" in *imagetools*) echo {digest} ;; *) echo sha256:id ;; esac\n'
    )
    docker.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    good = digest.startswith("sha256:")
    said = call("bash", PACKAGING / "image.sh", "gpu", code=int(not good), PATH=path)
    calls = (tmp_path / "calls").read_text().splitlines()
    base = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if good:
        assert f"base  {base[0]}@{digest}" in said
        assert f"--build-arg BASE={base[0]}@{digest} --build-arg DEVICE=gpu" in calls[1]
    else:
        assert len(calls) == 1
        assert "no digest but 'latest'" in said
