"""Classes that are chosen at load: the oracle are heads that lack the other columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from scbignn_infer import open_query
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotator import Annotator
from scbignn_infer.network.levels import GeneLevel
from scbignn_infer.network.sessions import Session

if TYPE_CHECKING:
    from scbignn_infer import ModelBundle

REPOSITORY = Path(__file__).resolve().parents[2]


def without(graph: bytes, gone: np.ndarray[Any, Any]) -> bytes:
    """Take columns out of all three heads, before each is normalised and bounded."""
    model = onnx.load_from_string(graph)
    mask = np.where(gone, -1e30, 0).astype(np.float32)[None]
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    nodes = []
    for node in model.graph.node:
        if node.op_type == "LogSoftmax":
            masked = f"{node.input[0]} without"
            nodes.append(helper.make_node("Add", [node.input[0], "mask"], [masked]))
            node.input[0] = masked
        nodes.append(node)
    assert len(nodes) == len(model.graph.node) + 4, "three heads, and what they add up to"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    whole: bytes = model.SerializeToString()
    return whole


@pytest.mark.parametrize(
    "keep", [("Naive CD4 T", "Memory CD4 T", "Memory CD8 T", "NK"), ("CD14 Mono", "DC", "B")]
)
def test_to_narrow_the_output_is_to_cut_the_heads(
    pbmc_bundle: ModelBundle, example: Path, keep: tuple[str, ...]
) -> None:
    """For cells of types that stay; of others a head may rule out all, and it is bounded at -30."""
    bundle = pbmc_bundle
    annotator = Annotator(bundle, device="cpu", threads=1)
    kept = np.isin(bundle.cell_types, keep)
    grouping = Grouping.by_level(bundle.spec.cell_types, 0).only(kept)
    with open_query(example) as query:
        choice = annotator.choose(query)
        rows = query.rows(choice.matrix, np.arange(query.n_cells))
    file = bundle.spec.gene_level.file
    cut = Session(without(bundle.read(file), ~kept), annotator.runtime, file)
    level = annotator.pair.gene_level(choice.panel)
    _, whole = level.label(rows)
    _, expected = GeneLevel.of(bundle.spec, cut, choice.panel, 256).label(rows)
    narrow = grouping.narrow(whole.copy())[:, kept]
    difference = np.abs(np.exp(narrow) - np.exp(expected[:, kept])).max(axis=1)
    likely = np.exp(whole[:, kept]).sum(axis=1) > 0.5
    assert likely.mean() > 0.2
    assert (difference < 1e-4)[likely].mean() > 0.95
    same = narrow.argmax(axis=1) == expected[:, kept].argmax(axis=1)
    assert same[likely].all()
