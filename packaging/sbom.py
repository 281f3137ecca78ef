"""Write a bill of materials (CycloneDX 1.6): the package, its models, tables and dependencies.

    python packaging/sbom.py -o dist/scbignn_infer.cdx.json [--wheel dist/scbignn_infer-*.whl]

Dependencies are those that ``tests/locked.txt`` holds with their checksums;
what they need in turn is read from the environment. The same of both gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tomllib
import uuid
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from render import ROOT, models, version

LOCK = ROOT / "tests" / "locked.txt"
TABLES = {
    "scbignn_infer/gene_tables/human.tsv.gz": "GENCODE v48 and HGNC: CC0-1.0",
    "scbignn_infer/gene_tables/mouse.tsv.gz": "GENCODE vM37 and MGI: CC-BY-4.0",
    "scbignn_infer/model/cell_ontology.tsv.gz": "Cell Ontology 2026-03-26: CC-BY-4.0",
}
Component = dict[str, Any]


def canonical(name: str) -> str:
    """Return the name of a package as indices write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, tuple[str, list[str]]]:
    """Return version and SHA-256 sums of each locked package."""
    text = LOCK.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)(.*)$", text, re.MULTILINE)
    return {
        canonical(name): (number, re.findall(r"sha256:([0-9a-f]{64})", rest))
        for name, number, rest in found
    }


def needed(packages: dict[str, tuple[str, list[str]]]) -> list[str]:
    """Return the locked packages that the runtime needs, extras aside."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, seen = list(project["dependencies"]), set()
    while waiting:
        text = waiting.pop()
        name = canonical(re.split(r"[^\w.-]", text, maxsplit=1)[0])
        if name in packages and name not in seen and "extra ==" not in text:
            seen.add(name)
            try:
                waiting += requires(name) or []
            except PackageNotFoundError:
                continue  # of another platform
    return sorted(seen)


def sha256(path: Path) -> list[dict[str, str]]:
    """Return the checksum of a file as a component has it."""
    return [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]


def model_component(name: str) -> Component:
    """Return what is said of a model: its files, its licence and what it learned from."""
    folder = ROOT / "exported_models" / name
    record = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    data = [
        {"type": "dataset", "name": source["citation"] or source["file"]}
        for source in record["training"]["datasets"]
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{name}",
        "name": name,
        "version": record["version"],
        "description": record["description"],
        "licenses": [{"license": {"name": record.get("licence") or "BSD-3-Clause"}}],
        "hashes": sha256(folder / "bundle.json"),
        "modelCard": {
            "modelParameters": {
                "task": "cell type annotation",
                "architectureFamily": "graph neural network",
                "datasets": list({item["name"]: item for item in data}.values()),
            }
        },
        "components": [
            {
                "type": "file",
                "bom-ref": f"model:{name}/{file.name}",
                "name": file.name,
                "hashes": sha256(file),
            }
            for file in sorted(folder.iterdir())
        ],
    }


def table_component(name: str, terms: str) -> Component:
    """Return what is said of a table."""
    source, _, licence = terms.rpartition(": ")
    return {
        "type": "data",
        "bom-ref": f"table:{name}",
        "name": name,
        "description": source,
        "licenses": [{"license": {"id": licence}}],
        "hashes": sha256(ROOT / name),
    }


def package_component(name: str, number: str, sums: list[str]) -> Component:
    """Return what is said of a package, with the checksums of the files that may be installed."""
    component: Component = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{number}",
        "name": name,
        "version": number,
        "purl": f"pkg:pypi/{name}@{number}",
    }
    if sums:
        component["hashes"] = [{"alg": "SHA-256", "content": one} for one in sorted(sums)]
    return component


def document(wheel: Path | None) -> dict[str, Any]:
    """Return the bill of materials."""
    packages = locked()
    libraries = [package_component(name, *packages[name]) for name in needed(packages)]
    shipped = [model_component(name) for name in models()]
    shipped += [table_component(*table) for table in TABLES.items()]
    own = package_component("scbignn-infer", version(), [])
    own["licenses"] = [{"license": {"id": "BSD-3-Clause"}}]
    if wheel is not None:
        own["hashes"] = sha256(wheel)
    parts = [*libraries, *shipped]
    seed = json.dumps([own, parts], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        "version": 1,
        "metadata": {"component": own},
        "components": parts,
        "dependencies": [
            {"ref": own["bom-ref"], "dependsOn": sorted(part["bom-ref"] for part in parts)}
        ],
    }


def main() -> None:
    """Read the arguments and write the file."""
    parser = argparse.ArgumentParser(description="Write the bill of materials.")
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--wheel", type=Path, help="the wheel that it is of, for its checksum")
    given = parser.parse_args()
    text = json.dumps(document(given.wheel), indent=2, ensure_ascii=False) + "\n"
    given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
