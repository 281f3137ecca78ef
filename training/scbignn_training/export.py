"""Export both levels to ONNX and prove that onnxruntime agrees with torch."""

from __future__ import annotations

import io
import json
import logging
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from scbignn_infer.errors import BundleError
from scbignn_infer.model.bundle import FORMAT_VERSION
from scbignn_infer.network.exact import GROUP
from scbignn_infer.network.sessions import Session, choose_runtime
from scbignn_training.cell_level import CellStep
from scbignn_training.gene_level import Tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from scbignn_training.cell_level import CellGraph, CellLevel
    from scbignn_training.data import Cells
    from scbignn_training.gene_level import GeneLevel, Panel

Array = np.ndarray[Any, Any]
OPSET = 18
TOLERANCE = 1e-4
MEANING = {
    "counts": "counts of the panel's genes (cells, panel_genes); not normalised",
    "totals": "counts of each cell over all genes (cells, 1); at least 1",
    "gene_mean": "mean of log1p(counts per 10,000) in the reference (panel_genes)",
    "gene_scale": "its standard deviation (panel_genes)",
    "class_weight": "weights of the discriminant head (panel_genes, classes)",
    "class_norm": "norms of the classes in it (classes)",
    "class_prior": "natural logarithm of the training cells of each class (classes)",
    "impute_in": "from scaled expression to factor scores (panel_genes, factors)",
    "impute_out": "from factor scores to absent genes (factors, network_genes)",
    "net_present": "1 for genes of the network that are present, else 0 (network_genes)",
    "net_position": "their places in the panel (network_genes)",
    "misfit_weight": "weights of squared scaled expression in the misfit (panel_genes)",
    "misfit_inner": "weights of factor scores in the misfit (factors, factors)",
    "cell_embedding": "embedding (cells, size); without unit, compare by cosine",
    "gene_logits": "natural log-probabilities of the gene level (cells, classes)",
    "state": "probabilities of all cells (all_cells, classes)",
    "reach": "least similarity among the neighbours of each cell (all_cells)",
    "own": "natural log-probabilities of the chunk's cells so far (cells, classes)",
    "neighbor_indices": "neighbours of the chunk's cells among all (cells, neighbors)",
    "neighbor_similarity": "their cosines, largest first (cells, neighbors)",
    "layer": "which layer, from 0",
    "cell_logits": "natural log-probabilities after this layer (cells, classes)",
    "new_state": "the same as probabilities (cells, classes)",
}
"""What goes into the graphs and what comes out, with units and shapes: it is written into them."""
STEP_INPUTS = (
    "state",
    "reach",
    "own",
    "gene_logits",
    "neighbor_indices",
    "neighbor_similarity",
    "layer",
)


def export_gene_level(level: GeneLevel, panel: Panel) -> bytes:
    """Return ``gene_level.onnx``; any number of cells and of panel genes goes in."""
    k = len(panel.genes)
    cells, genes = torch.export.Dim("cells", min=1), torch.export.Dim("panel_genes", min=2)
    by_gene = {"gene_mean", "gene_scale", "class_weight", "impute_in", "misfit_weight"}
    tables = Tables._make({0: genes} if t in by_gene else {} for t in Tables._fields)
    shapes = ({0: cells, 1: genes}, {0: cells}, tables)
    example = (torch.ones(3, k), torch.full((3, 1), 1e3), panel.tables)
    names = ["counts", "totals", *Tables._fields]
    return _export(level, example, names, ["cell_embedding", "gene_logits"], shapes)


def export_cell_level(level: CellLevel, n_classes: int) -> bytes:
    """Return ``cell_level.onnx``: one layer for a chunk of cells."""
    n, b, k = (torch.export.Dim(name, min=1) for name in ("all_cells", "cells", "neighbors"))
    shapes: tuple[dict[int, Any], ...] = (
        {0: n},
        {0: n},
        {0: b},
        {0: b},
        {0: b, 1: k},
        {0: b, 1: k},
        {},
    )
    example = (
        torch.full((7, n_classes), 1 / n_classes),
        torch.zeros(7),
        torch.zeros(5, n_classes),
        torch.zeros(5, n_classes),
        torch.zeros(5, 4, dtype=torch.int64),
        torch.ones(5, 4),
        torch.tensor(0),
    )
    outputs = ["cell_logits", "new_state"]
    return _export(CellStep(level).eval(), example, list(STEP_INPUTS), outputs, shapes)


def _export(
    module: nn.Module,
    example: tuple[Tensor | Tables, ...],
    inputs: list[str],
    outputs: list[str],
    shapes: tuple[Any, ...],
) -> bytes:
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:  # names of source files are no business of the bundle
        del node.metadata_props[:]
        node.doc_string = ""
    ends = {"inputs": model.graph.input, "outputs": model.graph.output}
    for values in ends.values():
        for value in values:
            value.doc_string = MEANING[value.name]
    told = {key: json.dumps({v.name: v.doc_string for v in ends[key]}) for key in ends}
    helper.set_model_props(model, {"bundle_format": str(FORMAT_VERSION), **told})
    serialised: bytes = model.SerializeToString()
    return serialised


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress lines and its warnings about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def export_knn() -> bytes:
    """Return ``knn.onnx``: similarities of queries (n, d) with a bank (d, m), and the k largest.

    m is a multiple of the group's width. The largest of each group of columns chooses ``groups``
    groups; the k largest are then taken among the columns of those, in ascending order of column.
    """
    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    node = helper.make_node
    constants = {
        "by_group": np.array([0, -1, GROUP]),
        "flat": np.array([0, -1]),
        "last": np.array([2]),
        "width": np.array(GROUP),
        "within": np.arange(GROUP)[None, None],
    }
    graph = helper.make_graph(
        [
            node("MatMul", ["queries", "bank"], ["products"]),
            node("Reshape", ["products", "by_group"], ["grouped"]),
            node("ReduceMax", ["grouped", "last"], ["largest"], keepdims=0),
            node("TopK", ["largest", "groups"], ["maxima", "chosen"], axis=1),
            node("TopK", ["chosen", "groups"], ["ascending", "order"], axis=1, largest=0),
            node("Mul", ["ascending", "width"], ["first"]),
            node("Unsqueeze", ["first", "last"], ["firsts"]),
            node("Add", ["firsts", "within"], ["columns_of_group"]),
            node("Reshape", ["columns_of_group", "flat"], ["columns"]),
            node("GatherElements", ["products", "columns"], ["candidates"], axis=1),
            node("TopK", ["candidates", "k"], ["similarity", "place"], axis=1),
            node("GatherElements", ["columns", "place"], ["indices"], axis=1),
        ],
        "knn",
        [
            helper.make_tensor_value_info("queries", f32, ["n", "d"]),
            helper.make_tensor_value_info("bank", f32, ["d", "m"]),
            helper.make_tensor_value_info("k", i64, [1]),
            helper.make_tensor_value_info("groups", i64, [1]),
        ],
        [
            helper.make_tensor_value_info("similarity", f32, ["n", "neighbors"]),
            helper.make_tensor_value_info("indices", i64, ["n", "neighbors"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised


def check_parity(
    graphs: tuple[bytes, bytes],
    panel: Panel,
    cell: CellLevel,
    graph: CellGraph,
    cells: Cells,
) -> dict[str, float]:
    """Compare onnxruntime with torch on real cells, at sizes 1, 2, 17 and all.

    Parameters
    ----------
    graphs
        The exported gene level and cell level.
    panel, cell
        The torch modules.
    graph, cells
        The cells and their graph.

    Returns
    -------
    dict of str to float
        Largest difference of the embedding and of both levels' logits, relative where a value
        is beyond 1.

    Raises
    ------
    BundleError
        One exceeds 1e-4, or a label differs.
    """
    runtime = choose_runtime("cpu", torch.get_num_threads())
    gene_session, cell_session = (Session(g, runtime) for g in graphs)
    counts, totals = cells.counts, cells.totals
    tables = {name: table.numpy() for name, table in panel.tables._asdict().items()}
    worst = {"cell_embedding": 0.0, "gene_logits": 0.0, "cell_logits": 0.0}
    agree = True
    with torch.no_grad():
        expected = panel.run(counts, totals)
        expected_cells = cell(graph.gene_logits, graph)
    inputs = panel.inputs(counts, totals)
    for size in sorted({1, 2, 17, len(totals)} & set(range(1, len(totals) + 1))):
        rows = slice(0, size)
        chosen, total = (a[rows].numpy() for a in inputs)
        found = gene_session.run(counts=chosen, totals=total, **tables)
        own, state = graph.gene_logits.numpy(), graph.gene_logits.exp().numpy()
        for layer in range(len(cell.layers)):
            everyone = slice(0, size if layer == len(cell.layers) - 1 else len(own))
            own, state = cell_session.run(
                state=state,
                reach=graph.reach.numpy(),
                own=own[everyone],
                gene_logits=graph.gene_logits.numpy()[everyone],
                neighbor_indices=graph.neighbor_indices.numpy()[everyone].astype(np.int64),
                neighbor_similarity=graph.neighbor_similarity.numpy()[everyone],
                layer=np.array(layer),
            )
        for name, got, known in zip(worst, (*found, own), (*expected, expected_cells), strict=True):
            want = known[rows].numpy()
            # Of a log-probability of -50 the sixth digit is beyond float32.
            off = np.abs(got - want) / np.maximum(1, np.abs(want))
            worst[name] = max(worst[name], float(off.max()))
            if name != "cell_embedding":
                agree &= bool((got.argmax(1) == want.argmax(1)).all())
    if max(worst.values()) > TOLERANCE or not agree:
        raise BundleError(
            f"onnxruntime and torch differ after export ({worst}, labels agree: {agree})",
            expected=f"differences up to {TOLERANCE} and the same labels",
            do="report this with the versions of torch and onnxruntime",
        )
    return worst
