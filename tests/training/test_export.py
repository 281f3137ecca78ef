from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import scbignn_infer
from scbignn_infer.errors import BundleError
from scbignn_infer.model import onnx_graph
from scbignn_infer.network.exact import GROUP, unit_rows
from scbignn_infer.network.panel import LIMIT
from scbignn_infer.network.sessions import Session, choose_runtime
from scbignn_training import export
from scbignn_training.augment import cut_genes
from scbignn_training.cell_level import CellLevel
from scbignn_training.data import Cells
from scbignn_training.em import run_gene_level
from scbignn_training.export import check_parity, export_cell_level, export_gene_level, export_knn
from scbignn_training.gene_level import Panel, Tables, fit_gene_level

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = (1, 2, 17, None)
CPU = choose_runtime("cpu", 1)


@pytest.fixture(scope="module")
def graphs(bundle):
    """Return the two exported graphs as they were shipped."""
    return tuple((bundle / f"{name}_level.onnx").read_bytes() for name in ("gene", "cell"))


@pytest.fixture(scope="module", params=["all genes", "half of the genes"])
def cells(request, gold):
    """Return real cells; half of the genes are another panel than the one that was exported."""
    present = np.ones(600, dtype=bool)
    if request.param == "half of the genes":
        present[1::2] = False
    return Cells(cut_genes(gold.counts, present), gold.totals, present, gold.codes)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_gene_level_agrees_with_torch(graphs, model, settings, cells, size):
    panel = Panel(model.pair.gene, cells.present, settings.panel_genes)
    assert len(panel.genes) == 300
    counts, totals = panel.inputs(cells.counts[:size], cells.totals[:size])
    tables = {name: table.numpy() for name, table in panel.tables._asdict().items()}
    session = Session(graphs[0], CPU)
    embedding, logits = session.run(counts=counts.numpy(), totals=totals.numpy(), **tables)
    expected = panel.run(cells.counts[:size], cells.totals[:size])
    close(embedding, expected[0])
    close(logits, expected[1])
    np.testing.assert_array_equal(logits.argmax(1), expected[1].argmax(1))


def test_a_panel_of_few_genes_fits_too(graphs, model, settings, gold):
    """A file may have fewer genes than the panel takes."""
    present = np.arange(600) % 10 == 0
    panel = Panel(model.pair.gene, present, settings.panel_genes)
    assert len(panel.genes) == 60
    counts, totals = panel.inputs(gold.counts, gold.totals)
    tables = {name: table.numpy() for name, table in panel.tables._asdict().items()}
    found = Session(graphs[0], CPU).run(counts=counts.numpy(), totals=totals.numpy(), **tables)
    for got, want in zip(found, panel.run(gold.counts, gold.totals), strict=True):
        close(got, want)


def test_a_gene_level_without_programs_agrees_with_torch(model, settings, gold):
    plain = msgspec.structs.replace(settings, n_programs=0)
    n_types = len(model.reference.cell_types)
    level = fit_gene_level(gold.expression, gold.codes, n_types, plain, seed=0)
    panel = Panel(level, gold.present, settings.panel_genes)
    exported = export_gene_level(level, panel)
    sizes = [d for a in onnx.load_from_string(exported).graph.initializer for d in a.dims]
    assert 0 not in sizes
    counts, totals = panel.inputs(gold.counts, gold.totals)
    tables = {name: table.numpy() for name, table in panel.tables._asdict().items()}
    found = Session(exported, CPU).run(counts=counts.numpy(), totals=totals.numpy(), **tables)
    for got, want in zip(found, panel.run(gold.counts, gold.totals), strict=True):
        close(got, want)


@pytest.mark.parametrize("n_neighbors", [1, 4, 15])
@pytest.mark.parametrize("size", SIZES)
def test_the_cell_level_agrees_with_torch(graphs, model, settings, gold, size, n_neighbors):
    """Whole samples of one cell and more, over graphs of any number of neighbours."""
    some = Cells(gold.counts[:size], gold.totals[:size], gold.present, gold.codes[:size])
    graph = run_gene_level(model.pair.gene, some, settings)
    indices = graph.neighbor_indices[:, :n_neighbors].contiguous()
    similarity = graph.neighbor_similarity[:, :n_neighbors].contiguous()
    graph = type(graph)(graph.embedding, graph.gene_logits, indices, similarity, graph.targets)
    with torch.no_grad():
        expected = model.pair.cell(graph.gene_logits, graph).numpy()
    session, gene_logits = Session(graphs[1], CPU), graph.gene_logits.numpy()
    own, state = gene_logits, np.exp(gene_logits)
    for layer in range(settings.cell_layers):
        parts = [
            session.run(
                state=state,
                reach=graph.reach.numpy(),
                own=own[i : i + 100],
                gene_logits=gene_logits[i : i + 100],
                neighbor_indices=indices[i : i + 100].numpy(),
                neighbor_similarity=similarity[i : i + 100].numpy(),
                layer=np.array(layer),
            )
            for i in range(0, len(own), 100)
        ]
        own, state = (np.concatenate(part) for part in zip(*parts, strict=True))
    close(own, expected)
    np.testing.assert_array_equal(own.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(state, np.exp(expected), atol=1e-4)


class Reversed:
    """A cell level that calls the least likely type."""

    layers = (None, None)

    def __call__(self, gene_logits, graph):
        return gene_logits.neg()


class TestParityCheck:
    @pytest.fixture
    def arguments(self, graphs, model, settings, held_out):
        panel = Panel(model.pair.gene, held_out.present, settings.panel_genes)
        graph = run_gene_level(model.pair.gene, held_out, settings)
        return [graphs, panel, model.pair.cell, graph, held_out]

    def test_equal_graphs_pass(self, arguments):
        worst = check_parity(*arguments)
        assert set(worst) == {"cell_embedding", "gene_logits", "cell_logits"}
        assert max(worst.values()) < 1e-4

    def test_another_cell_level_is_found_out(self, arguments, model, settings):
        torch.manual_seed(0)
        other = CellLevel(model.pair.cell.shield, settings, share=0.9)
        arguments[2] = other.eval()
        with pytest.raises(BundleError, match="differ after export") as caught:
            check_parity(*arguments)
        assert "\n" not in str(caught.value)

    def test_another_gene_level_is_found_out(self, arguments, settings, model):
        level = model.pair.gene
        temperature, level.temperature = level.temperature, level.temperature * 1.01
        try:
            with pytest.raises(BundleError, match="differ after export"):
                check_parity(*arguments)
        finally:
            level.temperature = temperature

    def test_labels_must_be_the_same(self, arguments, monkeypatch):
        """However small the difference of the logits is."""
        monkeypatch.setattr(export, "TOLERANCE", 1e9)
        arguments[2] = Reversed()
        with pytest.raises(BundleError, match="labels agree: False"):
            check_parity(*arguments)


def test_graphs_are_plain_onnx_that_name_no_source_files(graphs):
    for data in graphs:
        model = onnx.load_from_string(data)
        assert {(i.domain, i.version) for i in model.opset_import} == {("", 18)}
        assert not model.functions
        del model.graph.initializer[:]  # numbers may look like anything
        text = str(model)
        assert "Softmax" in text
        assert ".py" not in text
        assert "site-packages" not in text


def test_an_export_is_silent_and_leaves_the_logger_alone(model, capfd):
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    export_cell_level(model.pair.cell, len(model.reference.cell_types))
    with pytest.raises(ZeroDivisionError), export._quiet():
        _ = 1 / 0
    assert logger.level == level
    assert capfd.readouterr() == ("", "")


def structure(data):
    """Return nodes, inputs and outputs of an ONNX graph."""
    model = onnx.load_from_string(data)
    nodes = [
        (n.op_type, list(n.input), list(n.output), [(a.name, a.i) for a in n.attribute])
        for n in model.graph.node
    ]
    ends = [
        [(v.name, v.type.tensor_type.elem_type, len(v.type.tensor_type.shape.dim)) for v in values]
        for values in (model.graph.input, model.graph.output)
    ]
    return nodes, ends, [(i.domain, i.version) for i in model.opset_import], model.ir_version


def test_the_shipped_search_is_the_exported_one():
    shipped = Path(scbignn_infer.__file__).parent / "knn.onnx"
    assert structure(shipped.read_bytes()) == structure(export_knn())


def test_the_search_finds_the_nearest_neighbours():
    rng = np.random.default_rng(0)
    bank, queries = rng.standard_normal((64, 9)), rng.standard_normal((30, 9))
    unit = [unit_rows(a) for a in (bank, queries)]
    oracle = NearestNeighbors(n_neighbors=6, metric="cosine").fit(bank)
    distance, indices = oracle.kneighbors(queries)
    columns = np.zeros((9, 2 * GROUP), np.float32)
    columns[:, :64] = unit[0].T
    similarity, found = Session(export_knn(), CPU).run(
        queries=unit[1], bank=columns, k=np.array([6]), groups=np.array([2])
    )
    np.testing.assert_array_equal(found, indices)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)


def test_the_runtime_knows_the_inputs_and_outputs_of_both_levels() -> None:
    inputs, outputs = zip(*onnx_graph.LEVELS.values(), strict=True)
    assert set(inputs[0]) == {"counts", "totals", *Tables._fields}
    assert set(inputs[1]) == set(export.STEP_INPUTS)
    assert outputs == (("cell_embedding", "gene_logits"), ("cell_logits", "new_state"))


@pytest.mark.parametrize("model", ["human-pbmc", "mouse-pancreas"])
def test_shipped_networks_cut_scaled_expression_where_the_runtime_does(model):
    graph = onnx.load(REPOSITORY / "exported_models" / model / "gene_level.onnx").graph
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    bounds = [n.input[1:] for n in graph.node if n.op_type == "Clip"]
    cuts = [(float(values[a]), float(values[b])) for a, b in filter(lambda b: len(b) == 2, bounds)]
    assert cuts
    assert set(cuts) == {(-LIMIT, LIMIT)}
