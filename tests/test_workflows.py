"""Snakemake runs the shipped rule, and so does Nextflow where it is installed.

Where it is not, the Nextflow module is parsed and its scripts run in bash.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import anndata as ad
import pytest
import yaml
from groovy_parser.parser import parse_groovy_content
from lark.exceptions import ParseError

from scbignn_infer import __version__

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
SNAKEMAKE, NEXTFLOW = WORKFLOWS / "snakemake", WORKFLOWS / "nextflow"
MODULE = NEXTFLOW / "modules" / "local" / "scbignninfer" / "annotate"
NAME = f"{MODULE.parent.name}_{MODULE.name}"
MAIN = (MODULE / "main.nf").read_text()
NEXTFLOW_FILES = sorted(
    str(file.relative_to(NEXTFLOW))
    for pattern in ("*.nf", "*.config", "*.nf.test")
    for file in NEXTFLOW.rglob(pattern)
)
FILES = {"first": "first.h5ad", "second": "second donor.csv"}
SHELL = ("bash", "-euo", "pipefail")
VALUES = {
    "query": "first.h5ad",
    "prefix": "first.scbignn",
    "args": "--model human-pbmc",
    "memory": "--memory-limit 4096MB",
    "task.cpus": "2",
    "task.process": "SCBIGNNINFER_ANNOTATE",
}
"""What Nextflow would put into the scripts of the module."""


def execute(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that finds ``scbignn-infer`` and keeps its cache in the folder it runs in."""
    env = {k: v for k, v in os.environ.items() if k != "SCBIGNN_MODEL_PATH"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["XDG_CACHE_HOME"] = str(cwd / "cache")
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def snakemake(*options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return execute(sys.executable, "-m", "snakemake", "--cores", "2", *options, cwd=cwd)


def labels(path: Path) -> dict[str, str]:
    return ad.read_h5ad(path).obs["scbignn_cell_type"].to_dict()


@pytest.fixture(scope="module")
def samples(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two samples of 200 cells, the second a table."""
    folder = tmp_path_factory.mktemp("samples")
    adata = ad.read_h5ad(example)
    adata[:200].write_h5ad(folder / FILES["first"])
    adata[200:400].to_df().to_csv(folder / FILES["second"])
    return folder


@pytest.fixture(scope="module")
def serial(run: Any, samples: Path) -> dict[str, dict[str, str]]:
    """Return the labels that ``annotate`` gives to each sample on one thread."""
    for name, file in FILES.items():
        command = ["annotate", samples / file, "-o", samples / f"{name}.out.h5ad", "--threads", 1]
        run(*command, "--model", "human-pbmc")
    return {name: labels(samples / f"{name}.out.h5ad") for name in FILES}


# --- Snakemake -----------------------------------------------------------------------------------


def workflow(folder: Path, samples: Path, files: dict[str, str]) -> Path:
    """Copy the shipped workflow into a folder, with a table of other samples."""
    shutil.copytree(SNAKEMAKE, folder, dirs_exist_ok=True)
    rows = [f"{name}\t{samples / file}\n" for name, file in files.items()]
    (folder / "samples.tsv").write_text("sample\tfile\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def labelled(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the workflow after it has labelled both samples."""
    folder = workflow(tmp_path_factory.mktemp("workflow"), samples, FILES)
    done = snakemake(cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", FILES)
def test_snakemake_labels_as_annotate_does(
    name: str, labelled: Path, serial: dict[str, dict[str, str]]
) -> None:
    assert labels(labelled / "labelled" / f"{name}.h5ad") == serial[name]
    record = json.loads((labelled / "labelled" / f"{name}.json").read_text())
    config = yaml.safe_load((SNAKEMAKE / "config.yaml").read_text())
    assert record["cells"] == 200
    assert record["model"]["name"] == config["model"]
    assert record["params"]["threads"] == config["threads"]
    log = (labelled / "logs" / "scbignn_infer" / f"{name}.log").read_text()
    assert log.splitlines() == [f"warning: {w}" for w in record["warnings"]]


def test_a_second_run_does_nothing(labelled: Path) -> None:
    done = snakemake(cwd=labelled)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_broken_sample_fails_with_a_line_in_its_log(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.h5ad").write_bytes((samples / FILES["first"]).read_bytes()[:1000])
    files = {"broken": str(tmp_path / "broken.h5ad"), "first": FILES["first"]}
    folder = workflow(tmp_path / "workflow", samples, files)
    done = snakemake("--keep-going", cwd=folder)
    assert done.returncode != 0
    (line,) = (folder / "logs" / "scbignn_infer" / "broken.log").read_text().splitlines()
    assert line.startswith("error: ")
    assert "broken.h5ad" in line
    assert sorted(p.name for p in (folder / "labelled").iterdir()) == ["first.h5ad", "first.json"]


def test_the_rule_can_be_included(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(f'include: "{SNAKEMAKE / "scbignn_infer.smk"}"\n')
    (tmp_path / "queries").mkdir()
    shutil.copy(samples / FILES["first"], tmp_path / "queries")
    options = ("--config", "model=human-pbmc", "--dry-run", "--printshellcmds")
    done = snakemake("labelled/first.h5ad", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scbignn-infer annotate queries/first.h5ad" in done.stdout + done.stderr
    assert "--threads 2 --memory-limit 4000MB" in done.stdout + done.stderr


# --- Nextflow ------------------------------------------------------------------------------------


def section(label: str) -> str:
    """Return what stands in the process under a label such as ``input:``."""
    (found,) = re.findall(
        rf"^    {label}:\n(.*?)(?=^    \w+:\n|^}}$)", MAIN, re.MULTILINE | re.DOTALL
    )
    return found


def script(label: str) -> str:
    """Return the script under a label as bash gets it."""
    (text,) = re.findall(r'"""\n(.*?)"""', section(label), re.DOTALL)
    filled = re.sub(r"(?<!\\)\$\{([\w.]+)\}", lambda found: VALUES[found[1]], text)
    assert not re.search(r"(?<!\\)\$", filled)
    return textwrap.dedent(re.sub(r"\\(.)", r"\1", filled, flags=re.DOTALL))


def lines(label: str) -> list[str]:
    return [line for line in section(label).splitlines() if line.strip()]


def keys(parts: list[dict[str, object]]) -> list[str]:
    return [key for part in parts for key in part]


def names(channel: str) -> list[str]:
    """Return the variables, texts, patterns and commands of a line under input or output."""
    found = re.findall(r"""(?:val|path|eval)\((?:(\w+)|"([^"]+)"|'([^']+)')\)""", channel)
    return ["".join(parts) for parts in found]


def emitted(line: str) -> str:
    return re.findall(r"emit: (\w+)", line)[0]


@pytest.mark.parametrize("file", NEXTFLOW_FILES)
def test_nextflow_files_are_groovy(file: str) -> None:
    parse_groovy_content((NEXTFLOW / file).read_text())


@pytest.mark.parametrize(("whole", "broken"), [('"*.h5ad")', '"*.h5ad"'), ('"""', '""')])
def test_a_broken_module_is_no_groovy(whole: str, broken: str) -> None:
    with pytest.raises(ParseError):
        parse_groovy_content(MAIN.replace(whole, broken, 1))


def test_module_has_the_manners_of_nf_core() -> None:
    assert MAIN.startswith(f"process {NAME.upper()} {{\n")
    for directive in ('tag "${meta.id}"', "label 'process_medium'", "conda ", "container "):
        assert f"\n    {directive}" in MAIN
    assert section("when").strip() == "task.ext.when == null || task.ext.when"
    for label in ("script", "stub"):
        assert 'def prefix = task.ext.prefix ?: "${meta.id}"' in section(label)
        assert 'if ("${query}" == "${prefix}.h5ad")' in section(label)
    assert "task.ext.args ?: ''" in section("script")


def test_module_and_its_description_agree() -> None:
    meta = yaml.safe_load((MODULE / "meta.yml").read_text())
    assert meta["name"] == NAME
    inputs = [names(line) for line in lines("input")]
    outputs = {emitted(line): names(line) for line in lines("output")}
    assert [keys(parts) for parts in meta["input"]] == inputs
    assert {name: keys(parts) for name, (parts,) in meta["output"].items()} == outputs
    topics = {
        re.findall(r"topic: (\w+)", li)[0]: names(li) for li in lines("output") if "topic" in li
    }
    assert {name: keys(parts) for name, (parts,) in meta["topics"].items()} == topics


def test_module_asks_for_this_version() -> None:
    assert f'container "scbignn-infer:{__version__}"' in MAIN
    environment = yaml.safe_load((MODULE / "environment.yml").read_text())
    assert {"pip": [f"scbignn-infer=={__version__}"]} in environment["dependencies"]
    rule = yaml.safe_load((SNAKEMAKE / "environment.yaml").read_text())
    assert rule["dependencies"] == environment["dependencies"]
    expected = (MODULE / "tests" / "main.nf.test").read_text()
    assert set(re.findall(r"'(\d+\.\d+\.\d+)'", expected)) == {__version__}


def test_the_image_is_built_under_the_name_that_the_module_gives() -> None:
    (name,) = re.findall(r'^    container "(.+)"$', MAIN, re.MULTILINE)
    page = (WORKFLOWS.parent / "docs" / "docker.md").read_text()
    built = re.findall(r"docker build -t (\S+)", page)
    assert name in built
    ran = re.findall(r"docker run[^`]*? (scbignn-infer:\S+) (\S+)", page)
    assert {image for image, _ in ran} == set(built)
    assert {program for _, program in ran} == {"scbignn-infer"}  # the image has no entry point


@pytest.mark.parametrize("label", ["script", "stub"])
def test_scripts_of_the_module_run(
    label: str, samples: Path, serial: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    shutil.copy(samples / VALUES["query"], tmp_path)
    (tmp_path / "command.sh").write_text(script(label))
    assert execute("bash", "-n", "command.sh", cwd=tmp_path).returncode == 0
    done = execute(*SHELL, "command.sh", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    h5ad, record = (tmp_path / f"{VALUES['prefix']}.{kind}" for kind in ("h5ad", "json"))
    if label == "script":
        assert labels(h5ad) == serial["first"]
        assert json.loads(record.read_text())["cells"] == 200
    else:
        assert h5ad.stat().st_size == 0
        assert json.loads(record.read_text()) == {}


def test_the_expression_of_the_version_gives_it(tmp_path: Path) -> None:
    (expression,) = [names(line)[2] for line in lines("output") if "topic" in line]
    assert execute("bash", "-euo", "pipefail", "-c", expression, cwd=tmp_path).stdout.strip() == (
        __version__
    )


def test_script_of_the_module_fails_on_a_broken_query(tmp_path: Path) -> None:
    (tmp_path / VALUES["query"]).write_bytes(b"broken")
    done = execute(*SHELL, "-c", script("script"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not list(tmp_path.glob("*.scbignn.h5ad"))
    document = json.loads((tmp_path / f"{VALUES['prefix']}.json").read_text())
    assert document["error"]["message"] == done.stderr.removeprefix("error: ").strip()


# --- with Nextflow itself ------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("nextflow") is None, reason="Nextflow is not installed")
@pytest.mark.parametrize("how", [(), ("-stub-run",)], ids=["run", "stub"])
def test_nextflow_runs_the_example(how: tuple[str, ...], example: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(NEXTFLOW, folder)
    shutil.copy(example, folder / "pbmc700.h5ad")
    done = execute("nextflow", "run", "main.nf", "-ansi-log", "false", *how, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    made = folder / "labelled"
    assert sorted(file.name for file in made.iterdir()) == [
        "pbmc700.scbignn.h5ad",
        "pbmc700.scbignn.json",
    ]
    record = json.loads((made / "pbmc700.scbignn.json").read_text())
    assert record == {} if how else record["cells"] == 700


@pytest.mark.skipif(shutil.which("nf-test") is None, reason="nf-test is not installed")
def test_nf_test_passes() -> None:
    done = execute("nf-test", "test", cwd=NEXTFLOW)
    assert done.returncode == 0, done.stdout + done.stderr
