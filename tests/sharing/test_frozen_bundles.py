"""Bundles of each released format version stay readable and keep their labels."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from scbignn_infer.model.bundle import FORMAT_VERSION, read_bundle

HERE = Path(__file__).resolve().parents[1] / "bundles"
VERSIONS = sorted(int(path.stem.removeprefix("format-")) for path in HERE.glob("format-*.npz"))
CHECKSUMS = {2: "93d0ecdc5db7e1ad98289a2861545fb338cdf1fef21b7a51c7eaad5cb8911cae"}
"""Of the packed bundles: whoever makes one anew breaks the promise that old ones stay readable."""


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("bundles_make", HERE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packed(version):
    return HERE / f"format-{version}.scbignn.zip"


def test_each_version_is_there_and_none_was_made_anew():
    found = {v: hashlib.sha256(packed(v).read_bytes()).hexdigest() for v in VERSIONS}
    assert found == CHECKSUMS
    assert max(VERSIONS) == FORMAT_VERSION, "freeze a bundle: python tests/bundles/make.py"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_bundle_is_read(version):
    bundle = read_bundle(packed(version))
    about = json.loads((HERE / f"format-{version}.json").read_text())
    assert bundle.spec.format_version == version
    assert bundle.sha256 == about["bundle_sha256"]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_bundle_gives_its_labels(maker, version):
    found = maker.run(packed(version))
    with np.load(HERE / f"format-{version}.npz", allow_pickle=False) as stored:
        for name in maker.LABELS:
            np.testing.assert_array_equal(found[name], stored[name])
        for name in maker.ARRAYS:
            np.testing.assert_allclose(found[name], stored[name], atol=1e-4)
        assert len(np.unique(stored["best_labels"])) > 4  # a model that tells types apart


def test_a_frozen_bundle_is_not_made_anew(maker):
    with pytest.raises(SystemExit, match="is frozen"):
        maker.main()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_bundle_is_installed_packed_and_frozen(run, home, tmp_path, version):
    run("models", "install", packed(version))
    run("models", "pack", f"frozen-{version}", "-o", tmp_path / "again.scbignn.zip")
    assert (tmp_path / "again.scbignn.zip").read_bytes() == packed(version).read_bytes()
    genes = read_bundle(packed(version)).gene_symbols
    (tmp_path / "genes.txt").write_text("\n".join(genes))
    command = ("models", "freeze", f"frozen-{version}", "--genes", tmp_path / "genes.txt")
    run(*command, "-o", tmp_path / "one.onnx")
