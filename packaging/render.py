"""Write the files that registries ask for, with this release's version and its owner's addresses.

    python packaging/render.py --home URL --docs URL --contact NAME \
        --sdist-url URL --sdist dist/scbignn_infer-*.tar.gz -o build/registries

Templates have names in percent signs, such as ``%%VERSION%%``, where a value belongs. The module of
nf-core is that of ``workflows/nextflow``, with the package and the image of bioconda.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EXAMPLE = ROOT / "scbignn_infer" / "examples" / "pbmc700.h5ad"
MODULE = ROOT / "workflows" / "nextflow" / "modules" / "local" / "scbignninfer" / "annotate"
TESTS = MODULE / "tests" if (MODULE / "tests").is_dir() else HERE / "nf-core"
BUILD = "pyhdfd78af_0"
"""How bioconda names the first build of a package for any Python."""
SCHEMA = (
    "---\n# yaml-language-server: $schema=https://raw.githubusercontent.com/nf-core/modules/master/"
    "modules/{}-schema.json\n"
)
"""How a YAML file of a module of nf-core begins."""
TOKEN = re.compile(r"%%([A-Z0-9_]+)%%")
FILES = (
    "CITATION.cff",
    "conda/meta.yaml",
    "conda/recipe.yaml",
    "galaxy/.shed.yml",
    "galaxy/scbignn_infer_annotate.xml",
    "scverse/meta.yaml",
)


def version() -> str:
    """Return the version of the package."""
    text = (ROOT / "scbignn_infer" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise LookupError("scbignn_infer/__init__.py has no version")
    return found[1]


def run_requirements() -> list[str]:
    """Return what conda installs beside the package: its requirements, with plain onnxruntime."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [need.partition(";")[0] for need in project["dependencies"]]
    kept = [need for need in needs if not need.startswith("onnxruntime-gpu")]
    return [need.replace(">=", " >=") for need in kept]


def models() -> list[str]:
    """Return the names of the shipped models."""
    return sorted(path.parent.name for path in (ROOT / "exported_models").glob("*/bundle.json"))


def fill(text: str, values: dict[str, str | list[str]]) -> str:
    """Fill a template; where a list belongs, its line is repeated for each value."""
    lines = []
    for line in text.splitlines():
        found = TOKEN.search(line)
        value = values[found[1]] if found else ""
        if found and isinstance(value, list):
            quoted = f'"{found[0]}"' if f'"{found[0]}"' in line else found[0]
            lines += [line.replace(quoted, one) for one in value]
        else:
            lines.append(TOKEN.sub(lambda token: str(values[token[1]]), line))
    return "\n".join(lines) + "\n"


def write_module(folder: Path, home: str) -> None:
    """Write the module of nf-core and its test."""
    (folder / "tests").mkdir(parents=True)
    image = f"scbignn-infer:{version()}--{BUILD}"
    main = (MODULE / "main.nf").read_text(encoding="utf-8")
    local = re.search(r'^(?:    // .*\n)*    container ".*"$', main, re.MULTILINE)
    if local is None:
        raise LookupError(f"{MODULE / 'main.nf'} has no line for a container")
    engine = (
        "workflow.containerEngine in ['singularity', 'apptainer'] "
        "&& !task.ext.singularity_pull_docker_container"
    )
    container = (
        f'    container "${{ {engine} ?\n'
        f"        'https://depot.galaxyproject.org/singularity/{image}' :\n"
        f"        'quay.io/biocontainers/{image}' }}\""
    )
    (folder / "main.nf").write_text(main.replace(local[0], container), encoding="utf-8")
    meta = (MODULE / "meta.yml").read_text(encoding="utf-8")
    doi = re.search(r"^( +)doi: .*\n", meta, re.MULTILINE)
    if doi is None:
        raise LookupError(f"{MODULE / 'meta.yml'} has no line for a DOI")
    meta = meta.replace(doi[0], f'{doi[1]}homepage: "{home}"\n{doi[0]}')
    (folder / "meta.yml").write_text(SCHEMA.format("meta") + meta, encoding="utf-8")
    environment = (
        SCHEMA.format("environment") + "channels:\n  - conda-forge\n  - bioconda\n"
        f"dependencies:\n  - bioconda::scbignn-infer={version()}\n"
    )
    (folder / "environment.yml").write_text(environment, encoding="utf-8")
    for file in sorted(TESTS.iterdir()):
        text = file.read_text(encoding="utf-8").replace("modules_local", "modules_nfcore")
        text = re.sub(r'"[^"]+/pbmc700\.h5ad"', '"${moduleTestDir}/pbmc700.h5ad"', text)
        (folder / "tests" / file.name).write_text(text, encoding="utf-8")
    shutil.copy(EXAMPLE, folder / "tests")


def render(values: dict[str, str | list[str]], output: Path) -> None:
    """Write all files into a folder, which must not be there."""
    output.mkdir(parents=True)
    for name in FILES:
        target = output / name
        target.parent.mkdir(exist_ok=True)
        text = (HERE / name).read_text(encoding="utf-8")
        target.write_text(fill(text, values), encoding="utf-8")
    (output / "galaxy" / "test-data").mkdir()
    shutil.copy(EXAMPLE, output / "galaxy" / "test-data")
    write_module(output / "nf-core" / "scbignninfer" / "annotate", str(values["HOME"]))


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(description="Write the files that registries ask for.")
    parser.add_argument("--home", required=True, help="address of the source")
    parser.add_argument("--docs", required=True, help="address of the documentation")
    parser.add_argument("--contact", required=True, help="name of the owner at the registries")
    parser.add_argument("--sdist-url", required=True, help="address of the released sdist")
    parser.add_argument("--sdist", required=True, type=Path, help="the sdist, for its checksum")
    parser.add_argument("-o", "--output", required=True, type=Path, help="a new folder")
    given = parser.parse_args()
    values: dict[str, str | list[str]] = {
        "VERSION": version(),
        "HOME": given.home,
        "DOCS": given.docs,
        "CONTACT": given.contact,
        "SDIST_URL": given.sdist_url,
        "SDIST_SHA256": hashlib.sha256(given.sdist.read_bytes()).hexdigest(),
        "RUN": run_requirements(),
        "MODELS": [f'<option value="{name}">{name}</option>' for name in models()],
    }
    render(values, given.output)


if __name__ == "__main__":
    main()
