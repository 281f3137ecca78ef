"""A frozen model says in plain onnxruntime and in JavaScript what annotate says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import onnx
import onnxruntime
import pytest

from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import GeneError, InputError
from scbignn_infer.model.registry import load_model
from scbignn_infer.sharing.freezing import freeze, read_gene_list

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "share.md").read_text(encoding="utf-8")
JAVASCRIPT = ROOT / "tests" / "javascript"
N = 150


@pytest.fixture(scope="module")
def islets():
    return ad.read_h5ad(ROOT / "tests" / "data" / "pancreas400.h5ad")[:N]


@pytest.fixture(scope="module")
def labelled(islets):
    """Return what the model says, with columns that it knows, repeats and does not know."""
    annotator = Annotator.load("human-pancreas", device="cpu", threads=1)
    return annotator.annotate_matrix(islets.X, list(islets.var_names))


def session_of(frozen):
    return onnxruntime.InferenceSession(frozen.graph, providers=["CPUExecutionProvider"])


def run_frozen(frozen, counts, totals=None):
    counts = np.asarray(counts, np.float32)
    totals = np.zeros((len(counts), 1), np.float32) if totals is None else totals
    return session_of(frozen).run(
        ["probabilities", "embedding"], {"counts": counts, "totals": totals}
    )


def test_it_says_what_the_gene_level_says(islets, labelled):
    frozen = freeze(load_model("human-pancreas"), list(islets.var_names))
    probabilities, embedding = run_frozen(frozen, islets.X.toarray())
    types = np.array(frozen.about["cell_types"])
    assert list(types[probabilities.argmax(1)]) == list(labelled.gene_level_labels)
    np.testing.assert_allclose(embedding, labelled.embedding, atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    confident = probabilities.max(1)
    assert np.corrcoef(confident, labelled.confidence)[0, 1] > 0.3
    truth = islets.obs["cell_type"].to_numpy().astype(str)
    known = np.isin(truth, types)
    assert np.mean(types[probabilities.argmax(1)][known] == truth[known]) > 0.9


@pytest.mark.parametrize("model", ["human-body", "human-pbmc"])
def test_other_models_and_orders(example, model):
    """A body model has classes that share a type; genes come in any order, and some twice."""
    cells = ad.read_h5ad(example)[:60]
    counts = np.expm1(cells.to_df().to_numpy())
    rng = np.random.default_rng(0)
    order = rng.permutation(cells.n_vars)
    genes = [*cells.var_names[order], "NOT_A_GENE", *cells.var_names[:40], *cells.var_names[:3]]
    parts = [counts[:, order], rng.poisson(3, (60, 1)), counts[:, :40], counts[:, :3]]
    wide = np.concatenate(parts, axis=1).astype(np.float32)
    bundle = load_model(model)
    frozen = freeze(bundle, genes)
    found, embedding = run_frozen(frozen, wide)
    annotator = Annotator(bundle, device="cpu", threads=1, **TISSUE.get(model, {}))
    expected = annotator.annotate_matrix(wide, genes)
    np.testing.assert_allclose(embedding, expected.embedding, atol=1e-4)
    types = np.array(frozen.about["cell_types"])
    assert list(types) == bundle.type_names
    if model == "human-pbmc":  # of a body model, other rules choose the label
        assert list(types[found.argmax(1)]) == list(expected.gene_level_labels)


TISSUE = {"human-body": {"tissue": "any"}}


def test_totals_that_are_given_count(islets):
    """Half of the genes, with the totals of all, are as good as their share of the reference."""
    genes = list(islets.var_names)
    half = slice(0, None, 2)
    frozen = freeze(load_model("human-pancreas"), genes[half])
    counts = islets.X.toarray()
    total = counts.sum(axis=1, keepdims=True).astype(np.float32)
    known, _ = run_frozen(frozen, counts[:, half], total)
    guessed, _ = run_frozen(frozen, counts[:, half])
    doubled, _ = run_frozen(frozen, counts[:, half], 2 * total)
    assert np.mean(known.argmax(1) == guessed.argmax(1)) > 0.9
    assert np.abs(known - doubled).max() > 0.01
    own = load_model("human-pancreas").spec.genes
    assert len(own) > len(genes) / 2


def test_a_cell_does_not_depend_on_others(islets):
    frozen = freeze(load_model("human-pancreas"), list(islets.var_names))
    counts = islets.X.toarray()
    whole, _ = run_frozen(frozen, counts)
    alone, _ = run_frozen(frozen, counts[7:8])
    np.testing.assert_allclose(alone[0], whole[7], atol=1e-5)


def test_the_file_is_whole_and_tells_what_it_is(islets):
    bundle = load_model("human-pancreas")
    genes = list(islets.var_names)
    frozen = freeze(bundle, genes)
    model = onnx.load_from_string(frozen.graph)
    onnx.checker.check_model(model, full_check=True)
    session = session_of(frozen)
    assert {i.name: i.shape for i in session.get_inputs()} == {
        "counts": ["cells", len(genes)],
        "totals": ["cells", 1],
    }
    assert {o.name: o.shape for o in session.get_outputs()} == {
        "probabilities": ["cells", len(bundle.cell_types)],
        "embedding": ["cells", 96],
    }
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["genes"]) == genes
    assert json.loads(about["cell_types"]) == bundle.cell_types
    assert about["model"] == "human-pancreas"
    assert about["bundle_sha256"] == bundle.sha256
    for text, key in zip(
        [v.doc_string for v in (*model.graph.input, *model.graph.output)],
        ["counts", "totals", "probabilities", "embedding"],
        strict=True,
    ):
        told = json.loads(about["inputs"]) | json.loads(about["outputs"])
        assert text == told[key]
    assert freeze(bundle, genes).graph == frozen.graph


@pytest.fixture
def one(run, islets, tmp_path, monkeypatch):
    """Return a folder with a frozen model and counts, as the page has them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "genes.txt").write_text("\n".join(islets.var_names) + "\n")
    (tmp_path / "counts.json").write_text(json.dumps(islets.X.toarray().tolist()))
    run("models", "freeze", "human-pancreas", "--genes", "genes.txt", "-o", "one.onnx")
    return tmp_path


def block(language):
    (found,) = re.findall(rf"```{language}\n(.+?)```", PAGE, re.DOTALL)
    assert len(found.strip().splitlines()) <= 20
    return found


def labels_of(output):
    return [line.split("\t")[0] for line in output.splitlines()]


def test_the_python_of_the_page_runs(one, labelled):
    code = block("python") + "import sys; assert 'scbignn_infer' not in sys.modules\n"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=one
    )
    assert done.returncode == 0, done.stderr
    assert labels_of(done.stdout) == list(labelled.gene_level_labels)


def test_the_javascript_of_the_page_runs(one, labelled):
    node = shutil.which("node")
    if node is None or not (JAVASCRIPT / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("needs node, and: npm ci --ignore-scripts --prefix tests/javascript")
    (one / "label.mjs").write_text(block("js"))
    (one / "node_modules").symlink_to(JAVASCRIPT / "node_modules")
    done = subprocess.run([node, "label.mjs"], capture_output=True, text=True, cwd=one)
    assert done.returncode == 0, done.stderr
    assert labels_of(done.stdout) == list(labelled.gene_level_labels)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_graph_and_record(run, one, islets):
    about = json.loads((one / "one.json").read_text())
    assert about["genes"] == list(islets.var_names)
    again = ("models", "freeze", "human-pancreas", "--genes", "genes.txt", "-o", "one.onnx")
    assert "one.onnx exists" in run(*again, code=1).stderr
    (one / "one.onnx").unlink()
    assert "one.json exists" in run(*again, code=1).stderr
    assert not (one / "one.onnx").exists()
    done = json.loads(run(*again, "--overwrite", "--json").stdout)
    assert (done["n_genes"], done["cell_types"]) == (islets.n_vars, about["cell_types"])
    assert "genes" not in done
    run(*again[:-1], "genes.txt", "--overwrite", code=1)
    assert (one / "genes.txt").read_text().startswith(islets.var_names[0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\n", "it is empty"),
        (b"INS\n\nGCG\n", "line 2 is empty"),
        (b"\xff\xfe\n", "invalid start byte"),
        (b"G\n" * 200_001, "too long"),
    ],
)
def test_a_list_that_is_none_is_refused(run, tmp_path, text, why):
    (tmp_path / "genes.txt").write_bytes(text)
    with pytest.raises(InputError, match=why):
        read_gene_list(tmp_path / "genes.txt")
    command = ("models", "freeze", "human-pbmc", "-o", tmp_path / "one.onnx", "--genes")
    assert why in run(*command, tmp_path / "genes.txt", code=1).stderr
    assert "No such file" in run(*command, tmp_path / "absent", code=1).stderr
    assert not (tmp_path / "one.onnx").exists()


def test_lists_come_in_some_forms(tmp_path):
    for text in ("INS\nGCG", "INS\r\nGCG\r\n", "\ufeffINS\nGCG\n\n", "INS\tx\nGCG\ty\n"):
        (tmp_path / "genes.txt").write_text(text, encoding="utf-8")
        assert read_gene_list(tmp_path / "genes.txt") == ["INS", "GCG"]


def test_genes_that_do_not_fit_are_refused(islets):
    with pytest.raises(GeneError, match="the data share 0 of the"):
        freeze(load_model("human-pancreas"), ["a", "b"])
    with pytest.raises(GeneError, match="of mouse"):
        freeze(load_model("human-pancreas"), load_model("mouse-pancreas").gene_symbols[:3000])
    ids = [g.ensembl_id for g in load_model("human-pancreas").spec.genes[:2000]]
    assert freeze(load_model("human-pancreas"), ids).about["coverage"] > 0.9
