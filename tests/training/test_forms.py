"""Both forms of both levels: trained, exported, written, and run as they were trained."""

from __future__ import annotations

import copy

import anndata as ad
import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import scbignn_infer
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import BundleError
from scbignn_infer.model import onnx_graph
from scbignn_infer.sharing.freezing import freeze
from scbignn_training.augment import cut_genes
from scbignn_training.cell_level import FORMS as CELL_FORMS
from scbignn_training.data import Cells
from scbignn_training.em import run_gene_level
from scbignn_training.export import check_parity
from scbignn_training.gene_level import FORMS as GENE_FORMS
from scbignn_training.gene_level import Panel
from scbignn_training.pack import write_bundle
from scbignn_training.train import train

PAIRS = [(gene, cell) for gene in GENE_FORMS for cell in CELL_FORMS]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def trained(request, recipe, tmp_path_factory):
    """Return a model of two forms with one EM iteration, its settings and its bundle."""
    gene, cell = request.param
    settings = msgspec.structs.replace(
        recipe.settings, gene_form=gene, cell_form=cell, em_iterations=1, tokens=48
    )
    recipe = msgspec.structs.replace(recipe, settings=settings)
    torch.set_num_threads(1)
    model = train(recipe)
    return model, settings, write_bundle(model, recipe, tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def query(parts):
    return ad.read_h5ad(parts["query"])


@pytest.fixture(scope="module")
def annotator(trained):
    return Annotator.load(trained[2], device="cpu", threads=1)


@pytest.fixture(scope="module")
def annotation(annotator, query):
    return annotator.annotate_matrix(query.X, query.var_names)


def test_the_record_names_the_forms(trained):
    model, settings, bundle = trained
    spec = scbignn_infer.load_model(bundle).spec
    assert (spec.gene_level.form, spec.cell_level.form) == (settings.gene_form, settings.cell_form)
    assert type(model.pair.gene.net) is GENE_FORMS[settings.gene_form]
    for level in (model.pair.cell, model.pair.teacher):
        assert {type(layer) for layer in level.layers} == {CELL_FORMS[settings.cell_form]}


def test_the_graphs_hold_only_what_the_runtime_expects_of_this_exporter(trained, monkeypatch):
    """With no allowance for what another version of PyTorch may write."""
    monkeypatch.setattr(onnx_graph, "ALIKE", frozenset())
    for level in ("gene", "cell"):
        data = (trained[2] / f"{level}_level.onnx").read_bytes()
        onnx_graph.check_graph(data, f"{level} level")
        assert len(onnx.load_from_string(data).graph.node) < onnx_graph.MAX_NODES / 4


@pytest.fixture(params=["all genes", "half of the genes"])
def arguments(request, trained, held_out):
    """Return what the parity check takes: the shipped graphs, and torch's on cells never seen."""
    model, settings, bundle = trained
    present = np.ones(600, dtype=bool)
    if request.param == "half of the genes":
        present[1::2] = False
    cells = Cells(cut_genes(held_out.counts, present), held_out.totals, present, held_out.codes)
    graphs = ((bundle / f"{name}_level.onnx").read_bytes() for name in ("gene", "cell"))
    panel = Panel(model.pair.gene, present, settings.panel_genes)
    graph = run_gene_level(model.pair.gene, cells, settings)
    return [tuple(graphs), panel, model.pair.cell, graph, cells]


def test_the_exported_graphs_agree_with_torch(arguments):
    """At 1, 2, 17 and all cells."""
    assert max(check_parity(*arguments).values()) < 1e-4


@pytest.mark.parametrize("level", ["gene", "cell"])
def test_other_weights_are_found_out(arguments, level):
    other = copy.deepcopy(arguments[1].level.net if level == "gene" else arguments[2])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05
    if level == "gene":
        arguments[1] = copy.copy(arguments[1])
        arguments[1].level = type(arguments[1].level)(
            other,
            arguments[1].level.statistics,
            arguments[1].level.logistic,
            arguments[1].level.blend,
        )
    else:
        arguments[2] = other
    with pytest.raises(BundleError, match="differ after export"):
        check_parity(*arguments)


def test_cells_never_seen_get_the_labels_of_the_torch_pair(trained, annotation, query, torch_says):
    model, settings, _ = trained
    graph, logits = torch_says(model, query, settings)
    expected = np.array(model.reference.cell_types)[logits.argmax(axis=1)]
    assert annotation.best_labels.tolist() == expected.tolist()
    np.testing.assert_allclose(annotation.embedding, graph.embedding, atol=1e-3)
    gene_level = graph.gene_logits.numpy().argmax(axis=1)
    assert annotation.gene_level_codes.tolist() == gene_level.tolist()


def test_a_frozen_graph_says_what_the_gene_level_says(trained, annotation, query):
    frozen = freeze(scbignn_infer.load_model(trained[2]), list(query.var_names))
    session = onnxruntime.InferenceSession(frozen.graph, providers=["CPUExecutionProvider"])
    counts = np.asarray(query.X.toarray(), np.float32)
    totals = np.zeros((len(counts), 1), np.float32)
    found, embedding = session.run(None, {"counts": counts, "totals": totals})
    assert found.argmax(axis=1).tolist() == annotation.gene_level_codes.tolist()
    np.testing.assert_allclose(embedding, annotation.embedding, atol=1e-4)


def test_they_are_mostly_right(annotation, query):
    truth = query.obs["cell_type"].astype(str).to_numpy()
    assert (annotation.best_labels == truth).mean() > 0.9


def test_reordering_the_cells_reorders_the_labels(annotator, annotation, query):
    order = np.random.default_rng(0).permutation(query.n_obs)
    found = annotator.annotate_matrix(query.X[order], query.var_names)
    assert found.best_labels.tolist() == annotation.best_labels[order].tolist()
    np.testing.assert_allclose(
        found.probabilities, annotation.probabilities[order], atol=1e-4, rtol=1e-3
    )
