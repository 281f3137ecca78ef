"""How deep labels may be: fitted on cells whose type is known."""

from __future__ import annotations

import gzip
from importlib.resources import files

import networkx as nx
import numpy as np
import pytest

from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.model.cell_ontology import BY_FUNCTION
from scbignn_training.depth import BARS, fit_label_threshold, fit_sets
from scbignn_training.ontology import nodes

NAMES = [("CD4", "CL:0000624"), ("CD8", "CL:0000625"), ("B", "CL:0000236"), ("Mk", "CL:0000556")]
TERMS = [term for _, term in NAMES]
ONTOLOGY = Ontology.above(nodes(TERMS), TERMS, Grouping.of(NAMES))


def ancestors() -> nx.DiGraph:
    graph = nx.DiGraph()
    data = files("scbignn_infer.model").joinpath("cell_ontology.tsv.gz").read_bytes()
    for line in gzip.decompress(data).decode().splitlines():
        term, label, above, _ = line.split("\t")
        graph.add_node(term, label=label)
        graph.add_edges_from((term, other) for other in above.split())
    return graph


def test_terms_join_types_as_the_ontology_does() -> None:
    graph = ancestors()
    terms = [*TERMS, "CL:0000623", "CL:0001054", "CL:0002396", "CL:0000451", "CL:0000784", ""]
    found = {node.label: node for node in nodes(terms)}
    assert list(found)[-2:] == ["lymphocyte", "mononuclear phagocyte"]
    assert {"T cell", "monocyte", "myeloid cell"} < set(found)
    assert found["dendritic cell"].ontology_id == "CL:0000451"  # a type's own id
    for label, node in found.items():
        assert graph.nodes[node.ontology_id]["label"] == label
        below = [t for t in terms if t == node.ontology_id or graph.has_edge(t, node.ontology_id)]
        assert node.below == sorted(below)
        assert len(below) > 1
        assert label not in BY_FUNCTION
        assert not label.endswith("secreting cell")


def test_nothing_joins_types_without_ids_or_all_types() -> None:
    assert nodes(["", "", "CL:0000236"]) == []
    assert nodes(["CL:0000624", "CL:0000625"]) == []  # a label of all says nothing
    assert [n.label for n in nodes(["CL:0002351", "CL:0002351", "CL:0000236"])] == [
        "progenitor cell of endocrine pancreas"
    ]


def cells(confidence: float, right: float, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return CD4 or CD8 T cells of one confidence and of another accuracy."""
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 2, n)
    best = np.where(generator.random(n) < right, codes, 1 - codes)
    p = np.zeros((n, 4), np.float32)
    p[np.arange(n), best], p[np.arange(n), 1 - best] = confidence, 1 - confidence
    return p, codes


@pytest.mark.parametrize("confidence", [0.57, 0.66, 0.73])
def test_labels_that_are_often_wrong_are_made_coarser(confidence: float) -> None:
    p, codes = cells(confidence, 0.6)
    one = np.zeros(len(codes))
    bar = fit_label_threshold(ONTOLOGY, p, codes, one)
    assert bar == min(b for b in BARS if b > confidence)
    labels, _ = ONTOLOGY.deepest(p, bar)
    assert {ONTOLOGY.labels[i] for i in labels} == {"T cell"}
    p, codes = cells(confidence, 0.99)
    assert fit_label_threshold(ONTOLOGY, p, codes, one) == BARS[0]  # sure enough as they are


def test_each_study_counts_alike() -> None:
    (good, a), (bad, b) = cells(0.6, 1.0, 3000), cells(0.6, 0.3, 100)
    p, codes = np.concatenate([good, bad]), np.concatenate([a, b])
    studies = np.repeat([0, 1], [len(a), len(b)])
    assert fit_label_threshold(ONTOLOGY, p, codes, np.zeros(len(p))) == BARS[0]
    assert fit_label_threshold(ONTOLOGY, p, codes, studies) > 0.6


def test_without_an_ontology_labels_are_types() -> None:
    flat = Ontology.flat(["a", "b"], ["", ""])
    assert fit_label_threshold(flat, np.full((2, 2), 0.5), np.zeros(2, int), np.zeros(2)) == 0


def test_sets_cover_each_study() -> None:
    generator = np.random.default_rng(1)
    p = generator.dirichlet(np.full(4, 0.7), 3000).astype(np.float32)
    codes = np.array([generator.choice(4, p=row / row.sum()) for row in p.astype(float)])
    studies = np.repeat([0, 1, 2], 1000)
    power = fit_sets(p, codes, studies)  # of right probabilities, sets hold more than they must
    assert 1 < power <= 2
    flat = Ontology.flat(list("abcd"), [""] * 4)
    wide = Ontology(flat.labels, flat.ontology_ids, flat.holds, power=power)
    inside = [flat.labels[c] in s.split("|") for c, s in zip(codes, wide.sets(p, 0.9), strict=True)]
    shares = np.reshape(inside, (3, 1000)).mean(axis=1)
    assert shares.min() >= 0.87
    assert fit_sets(p[:, ::-1], codes, studies) == 1  # nothing helps
