"""The lowest versions that may be installed: as said, without known faults, and those tested."""

from __future__ import annotations

import os
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from scbignn_infer.doctor import HDF5, KNOWN_BAD

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(line.split("==") for line in (ROOT / "tests" / "oldest.txt").read_text().split())
(LINE,) = re.findall(
    r"^extras=\((.+)\)$", (ROOT / "tests" / "versions.sh").read_text(), re.MULTILINE
)
EXTRAS = re.findall(r"--extra (\w+)", LINE)


def bounds(*extras: str) -> dict[str, str]:
    """Return the lowest version of each package, of the core and some extras, on Linux x86_64."""
    texts = [
        *PROJECT["dependencies"],
        *(n for e in extras for n in PROJECT["optional-dependencies"][e]),
    ]
    found = {}
    for text in texts:
        name, lowest, marker = re.fullmatch(
            r"([\w-]+)(?:\[.+\])?>=([\d.]+)(?:; (.+))?", text
        ).groups()
        if not marker or marker.startswith("(sys_platform == 'linux'"):
            found[name.replace("_", "-")] = lowest
    return found


def plain(text: str) -> list[str]:
    """Return the parts of a version without the zeros at its end, which mean nothing."""
    return re.sub(r"(\.0)+$", "", text).split(".")


@pytest.mark.parametrize(("name", "lowest"), sorted(bounds(*EXTRAS).items()))
def test_the_oldest_environment_has_the_lowest_version(name: str, lowest: str) -> None:
    assert plain(PINNED[name]) == plain(lowest), "run: bash tests/versions.sh --pin"


@pytest.mark.parametrize("name", sorted(KNOWN_BAD.keys() - {HDF5}))
def test_no_version_with_a_known_fault_may_be_installed(name: str) -> None:
    lowest = bounds("zarr", "training", "cuda")
    if name == "onnxruntime":  # for other platforms than this one
        (text,) = [n for n in PROJECT["dependencies"] if n.startswith("onnxruntime>")]
        lowest |= {name: text.partition(";")[0].partition(">=")[2]}
    mended = [int(part) for part in plain(KNOWN_BAD[name][0])]
    assert [int(part) for part in plain(lowest[name])] >= mended


@pytest.mark.skipif(
    os.environ.get("SCBIGNN_VERSIONS") != "oldest", reason="not the oldest versions"
)
def test_these_tests_run_with_the_lowest_versions() -> None:
    found = {name: version(name) for name in bounds(*EXTRAS)}
    assert found == {name: PINNED[name] for name in found}
