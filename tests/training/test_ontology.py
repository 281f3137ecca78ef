"""Groups of types by the Cell Ontology, against networkx on the same table."""

from __future__ import annotations

import gzip
from importlib.resources import files

import networkx as nx
import pytest

from scbignn_infer.errors import InputError
from scbignn_infer.model.cell_ontology import BY_FUNCTION
from scbignn_training.ontology import check_terms, lineages

PBMC = {
    "B": "CL:0000236",
    "CD14 Mono": "CL:0001054",
    "CD16 Mono": "CL:0002396",
    "CD4 T": "CL:0000624",
    "CD8 T": "CL:0000625",
    "DC": "CL:0000451",
    "Megakaryocyte": "CL:0000556",
    "NK": "CL:0000623",
    "pDC": "CL:0000784",
}


def test_blood_is_grouped_as_a_biologist_would() -> None:
    found = dict(zip(PBMC, lineages(list(PBMC.values())), strict=True))
    named = {label: [(t.level, t.label) for t in terms] for label, terms in found.items()}
    assert named["CD4 T"] == named["CD8 T"] == [(1, "T cell"), (2, "lymphocyte")]
    assert named["B"] == named["NK"] == [(2, "lymphocyte")]
    assert named["CD14 Mono"] == named["CD16 Mono"]
    assert named["CD14 Mono"][0] == (1, "monocyte")
    assert named["DC"][0] == named["pDC"][0] == (1, "dendritic cell")


def table() -> nx.DiGraph:
    """Return the ontology with an edge from each term to each of its ancestors."""
    graph = nx.DiGraph()
    data = files("scbignn_infer.model").joinpath("cell_ontology.tsv.gz").read_bytes()
    for line in gzip.decompress(data).decode().splitlines():
        term, label, above, _ = line.split("\t")
        graph.add_node(term, label=label)
        graph.add_edges_from((term, other) for other in above.split())
    return graph


@pytest.mark.parametrize("terms", [list(PBMC.values()), list(PBMC.values())[::-1], ["CL:0000236"]])
def test_groups_make_a_tree_of_true_ancestors(terms: list[str]) -> None:
    graph, found = table(), lineages(terms)
    members: dict[str, set[int]] = {}
    for i, lineage in enumerate(found):
        assert [t.level for t in lineage] == sorted({t.level for t in lineage})
        for group in lineage:
            assert group.ontology_id == terms[i] or graph.has_edge(terms[i], group.ontology_id)
            assert graph.nodes[group.ontology_id]["label"] == group.label
            assert group.label not in BY_FUNCTION
            members.setdefault(group.ontology_id, set()).add(i)
    for a in members.values():
        assert 1 < len(a) < len(terms)
        assert all(not a & b or a <= b or b <= a for b in members.values())


def test_types_without_a_term_are_in_no_group() -> None:
    found = lineages(["CL:0000624", "", "CL:0000625", "CL:0000556"])
    assert found[1] == []
    assert found[0][0].label == "T cell"


def test_a_term_that_there_is_not_is_refused() -> None:
    check_terms(PBMC | {"odd": ""})
    with pytest.raises(InputError, match="'CL:9999999' of 'odd'"):
        check_terms({"odd": "CL:9999999"})
