"""Packages, size and import time of this package beside CellTypist, popV and scvi-tools.

Run: ``python benchmarks/footprint.py --out benchmarks/results/footprint.json``. pip resolves each
tool for the Python that runs this, from the index alone: settings of the machine's pip are left
out. What comes without gigabytes of CUDA is installed, each into an environment of its own, and
measured there; of the rest only what pip would download is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

from start_up import seconds

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")
} | {"PIP_CONFIG_FILE": os.devnull}
READY = (
    "import anndata, scbignn_infer.network.sessions; scbignn_infer.Annotator; "
    "scbignn_infer.network.sessions.import_onnxruntime()"
)
"""All that labelling a file imports, which ``import scbignn_infer`` puts off."""


@dataclass(frozen=True)
class Tool:
    """What is compared.

    Attributes
    ----------
    name
        As the table names it.
    package
        The distribution whose version is told.
    steps
        Arguments of each ``pip install`` that it takes.
    imports
        Statements to time: the import of the package, and of all that labelling needs. Without
        them the tool is resolved and not installed.
    """

    name: str
    package: str
    steps: tuple[tuple[str, ...], ...]
    imports: tuple[str, str] | None = None


def tools(wheel: Path) -> list[Tool]:
    """Return what is compared, this package by its wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = [need for need in project["dependencies"] if not need.startswith("onnxruntime")]
    own, ours = "scbignn-infer", ("import scbignn_infer", READY)
    plain = ((*others, "onnxruntime"), ("--no-deps", str(wheel)))
    return [
        Tool(own, own, ((str(wheel),),), ours),
        Tool(f"{own}, plain onnxruntime", own, plain, ours),
        Tool(f"{own}[cuda]", own, ((f"{wheel}[cuda]",),)),
        Tool("CellTypist", "celltypist", (("celltypist",),), ("import celltypist",) * 2),
        Tool("scvi-tools", "scvi-tools", (("scvi-tools",),)),
        Tool("popV", "popv", (("popv",),)),
    ]


def pip(python: Path, *arguments: str) -> str:
    """Run pip and return what it prints."""
    command = [str(python), "-m", "pip", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip {' '.join(arguments)} failed: {done.stderr}")
    return done.stdout


def environment(folder: Path) -> Path:
    """Make a virtual environment with today's pip and return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip(python, "install", "--quiet", "--upgrade", "pip")
    return python


def resolve(python: Path, tool: Tool) -> list[dict[str, Any]]:
    """Return pip's report on each package that the tool would install; metadata are downloaded."""
    options = ("--dry-run", "--quiet", "--ignore-installed", "--report", "-")
    reports = (json.loads(pip(python, "install", *options, *step)) for step in tool.steps)
    return [package for report in reports for package in report["install"]]


def download_bytes(url: str) -> int:
    """Return the size of a file in the index or on disk."""
    if urlsplit(url).scheme == "file":
        return Path(url2pathname(urlsplit(url).path)).stat().st_size
    with urlopen(Request(url, method="HEAD"), timeout=60) as answer:
        return int(answer.headers["Content-Length"])


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def installed(tool: Tool, folder: Path) -> dict[str, float]:
    """Install the tool into a new environment; return its size, byte code too, and import times."""
    assert tool.imports
    python = environment(folder)
    before = folder_bytes(folder)
    for step in tool.steps:
        pip(python, "install", "--quiet", *step)
    size = folder_bytes(folder) - before
    own, all_ = (seconds(str(python), "-c", statement) for statement in tool.imports)
    return {"installed_mb": round(size / 1e6, 1), "import_seconds": own, "ready_seconds": all_}


def measure(tool: Tool, resolver: Path, folder: Path) -> dict[str, Any]:
    """Return the row of one tool."""
    packages = resolve(resolver, tool)
    urls = [package["download_info"]["url"] for package in packages]
    with ThreadPoolExecutor(8) as pool:
        size = sum(pool.map(download_bytes, urls))
    versions = {p["metadata"]["name"].lower(): p["metadata"]["version"] for p in packages}
    return {
        "tool": tool.name,
        "version": versions[tool.package],
        "packages": len(packages),
        "download_mb": round(size / 1e6, 1),
        "without_wheel": sorted(Path(url).name for url in urls if not url.endswith(".whl")),
        "torch": versions.get("torch"),
        **(installed(tool, folder) if tool.imports else {}),
    }


def main() -> None:
    """Measure each tool and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resolver = environment(folder / "resolver")
        pip(resolver, "wheel", "--quiet", "--no-deps", "--wheel-dir", name, str(ROOT))
        (wheel,) = folder.glob("*.whl")
        rows = []
        for i, tool in enumerate(tools(wheel)):
            rows.append(measure(tool, resolver, folder / str(i)))
            print(json.dumps(rows[-1]), file=sys.stderr)
    report = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "tools": rows,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
