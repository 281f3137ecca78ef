"""``annotate_matrix`` runs with eight other packages, where no more can be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from packaging.requirements import Requirement

import scbignn_infer
from scbignn_infer import Annotator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scbignn_infer.model.bundle import ModelBundle

ASKED = ("msgspec", "numpy", "onnxruntime", "scipy", "threadpoolctl")
"""What the page on embedding installs beside the package."""
OF_OLD = {"coloredlogs", "humanfriendly", "mpmath", "sympy"}
"""What onnxruntime brought, too, in earlier versions."""
PAGE = (Path(__file__).parents[1] / "docs" / "embedding.md").read_text()
CODE = """
import json, sys
sys.path.append(sys.argv[1])
import numpy as np
from pathlib import Path
from scbignn_infer import Annotator, Rules
annotator = Annotator.load(Path(sys.argv[2]), device="cpu", threads=1)
genes = annotator.bundle.gene_symbols[:400]
counts = np.random.default_rng(0).poisson(1.0, (30, 400))
annotation = annotator.annotate_matrix(counts, genes)
rules = Rules.of(annotator.bundle, depth="leaf")
leaves = annotator.bind(genes).annotate(counts, rules=rules)
summary = annotation.summary()
loaded = sorted({m.split(".")[0] for m in sys.modules} - sys.stdlib_module_names)
print(json.dumps([list(annotation.labels), list(leaves.labels), summary["cells"], loaded]))
"""


def installed(name: str) -> metadata.Distribution:
    """Return a package; the CPU's and the GPU's onnxruntime stand for each other."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return metadata.distribution(f"{name}-gpu")


def with_needs(names: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Return packages and what they require, extras aside."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        distribution = installed(waiting.pop())
        name = distribution.metadata["Name"].lower()
        if name not in found:
            found[name] = distribution
            needs = [Requirement(text) for text in distribution.requires or ()]
            waiting += [
                n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})
            ]
    return found


@pytest.fixture(scope="module")
def lean() -> dict[str, metadata.Distribution]:
    return with_needs(ASKED)


def site(folder: Path, packages: Iterable[metadata.Distribution]) -> Path:
    """Return a folder from which these packages and this one can be imported, and no other."""
    (folder / "scbignn_infer").symlink_to(Path(scbignn_infer.__file__).parent)
    for package in packages:
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            (folder / top).symlink_to(Path(str(package.locate_file(top))))
    return folder


def test_the_packages_are_eight(lean: dict[str, metadata.Distribution]) -> None:
    assert len(lean.keys() - OF_OLD) == 8, sorted(lean)


def test_annotate_matrix_runs_with_them_alone(
    tmp_path: Path, lean: dict[str, metadata.Distribution], pbmc_bundle: ModelBundle
) -> None:
    only = site(tmp_path, lean.values())
    command = [sys.executable, "-I", "-S", "-c", CODE, str(only), str(pbmc_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels, leaves, n_cells, loaded = json.loads(done.stdout)
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1)
    counts = np.random.default_rng(0).poisson(1.0, (30, 400))
    expected = annotator.annotate_matrix(counts, pbmc_bundle.gene_symbols[:400])
    assert labels == list(expected.labels)
    assert (len(leaves), n_cells) == (30, 30)
    assert not {"anndata", "pandas", "h5py", "click", "rich", "pynndescent"} & set(loaded)


@pytest.mark.parametrize("missing", ["msgspec", "threadpoolctl"])
def test_each_of_them_is_needed(
    tmp_path: Path,
    lean: dict[str, metadata.Distribution],
    pbmc_bundle: ModelBundle,
    missing: str,
) -> None:
    """Or the folder would not hide what is not in it."""
    others = [package for name, package in lean.items() if name != missing]
    only = site(tmp_path, others)
    command = [sys.executable, "-I", "-S", "-c", CODE, str(only), str(pbmc_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"No module named '{missing}" in done.stderr


def test_the_page_says_how_to_install_them() -> None:
    lines = re.findall(r"^pip install (?!--no-deps)([\w ]+)$", PAGE, re.MULTILINE)
    assert sorted(lines[0].split()) == sorted(ASKED)
    assert "pip install --no-deps ." in PAGE
