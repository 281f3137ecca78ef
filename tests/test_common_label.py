"""One label of several, against networkx on the same ontology."""

from __future__ import annotations

import json
from itertools import combinations

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest

from scbignn_infer import consensus
from scbignn_infer.errors import InputError
from scbignn_infer.model.cell_ontology import BY_FUNCTION, term_of, terms


@pytest.fixture(scope="module")
def graph():
    """Return the ontology with an edge from each term to each of its ancestors."""
    graph = nx.DiGraph()
    for term, entry in terms().items():
        graph.add_node(term)
        graph.add_edges_from((term, other) for other in entry.above - {term})
    return graph


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("CD4+ T cells", "CD4-positive, alpha-beta T cell"),
        ("B cells", "B cell"),
        ("naive B cell", "naive B cell"),
        ("CL:0000084", "T cell"),
        ("T-lymphocyte", "T cell"),
        ("pancreatic beta cell", "type B pancreatic cell"),
        ("NK", "natural killer cell"),
        ("Plasma cells", "plasma cell"),
    ],
)
def test_names_synonyms_ids_and_everyday_names_are_terms(name, label):
    assert terms()[term_of(name)].label == label


@pytest.mark.parametrize("name", ["", "unknown", "cluster 3", "CL:9999999", "CD4- T cell", "nan"])
def test_other_names_are_no_terms(name):
    assert term_of(name) == ""


def test_every_term_is_found_by_its_own_name():
    assert {t for t, e in terms().items() if term_of(e.label) != t} == set()


def test_the_term_is_a_lowest_common_ancestor(graph):
    chance = np.random.default_rng(0)
    known = sorted(terms())
    rows = [tuple(chance.choice(known, 3)) for _ in range(300)]
    found = consensus({f"c{i}": [row[i] for row in rows] for i in range(3)})
    for row, term in zip(rows, found.ontology_ids, strict=True):
        shared = set.intersection(*({t} | nx.descendants(graph, t) for t in row))
        shared = {t for t in shared if terms()[t].label not in BY_FUNCTION}
        if not term:
            assert not shared
        else:
            assert term in shared
            assert not [t for t in shared - {term} if graph.has_edge(t, term)], "there is a deeper"


def test_columns_may_come_in_any_order_and_cells_too():
    chance = np.random.default_rng(1)
    columns = {f"c{i}": chance.choice(sorted(terms())[:300], 100).tolist() for i in range(3)}
    found = consensus(columns)
    turned = consensus(dict(reversed(columns.items())))
    assert found.labels.tolist() == turned.labels.tolist()
    order = chance.permutation(100)
    moved = consensus({k: [v[i] for i in order] for k, v in columns.items()})
    assert moved.labels.tolist() == found.labels[order].tolist()
    np.testing.assert_array_equal(moved.agreement, found.agreement[order])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, ""])
def test_a_missing_label_has_no_say(missing):
    labels = ["B cell", missing, "NK"]
    for column in (labels, pd.Series(labels), pd.Categorical(labels)):
        found = consensus({"a": column, "b": ["B cell", "B cell", "NK cell"]})
        assert found.n_labels.tolist() == [2, 1, 2]
        assert found.unmapped == {"a": {}, "b": {}}


def test_one_above_the_other_agrees_and_gives_the_wider():
    found = consensus({"a": ["CD4 T"], "b": ["T cell"]})
    assert found.labels.tolist() == ["T cell"]
    assert found.agreement.tolist() == [1.0]
    (pair,) = found.pairs
    assert (pair.same, pair.nested, pair.different) == (0, 1, 0)


def test_two_of_three_are_enough_if_that_is_asked():
    columns = {"a": ["CD4 T"], "b": ["CD4 T"], "c": ["monocyte"]}
    assert consensus(columns, at_least=2).labels.tolist() == ["CD4-positive, alpha-beta T cell"]
    assert consensus(columns).labels.tolist() != ["CD4-positive, alpha-beta T cell"]
    assert consensus(columns).agreement.tolist() == [pytest.approx(1 / 3)]


def test_labels_without_a_term_have_no_say_and_are_named():
    found = consensus({"a": ["B", "cluster 1", "cluster 1", "unknown"], "b": ["B", "NK", "", ""]})
    assert found.labels.tolist() == ["B cell", "natural killer cell", "unknown", "unknown"]
    assert found.unmapped == {"a": {"cluster 1": 2}, "b": {}}
    assert found.n_labels.tolist() == [2, 1, 0, 0]
    assert np.isnan(found.agreement[1:]).all()


def test_the_user_says_what_labels_mean():
    found = consensus({"a": ["c1"], "b": ["B"]}, names={"c1": "CL:0000788"})
    assert (found.labels.tolist(), found.unmapped["a"]) == (["B cell"], {})


@pytest.mark.parametrize(
    ("columns", "how", "says"),
    [
        ({"a": ["B"]}, {}, "two or more"),
        ({"a": ["B"], "b": ["B", "B"]}, {}, "'b' of 2 cells"),
        ({"a": ["B"], "b": ["B"]}, {"at_least": 3}, "--at-least"),
        ({"a": ["B"], "b": ["B"]}, {"names": {"x": "no such"}}, "'no such'"),
    ],
)
def test_bad_input_is_one_line(columns, how, says):
    with pytest.raises(InputError, match=says) as error:
        consensus(columns, **how)
    assert "\n" not in str(error.value)


class TestCommand:
    @pytest.fixture
    def file(self, tmp_path):
        obs = pd.DataFrame(
            {"one": ["CD4 T", "B", "x"], "two": ["CD8 T", "B cells", "NK"]}, index=["a", "=b", "c"]
        )
        path = tmp_path / "cells.h5ad"
        ad.AnnData(np.ones((3, 2), np.float32), obs=obs).write_h5ad(path)
        return path

    def test_tables_and_a_file(self, run, file, tmp_path):
        done = run("consensus", file, "--keys", "one,two", "-o", tmp_path / "c.csv")
        assert "alpha-beta T cell" in done.stdout
        assert "'x' (1)" in done.stderr
        table = pd.read_csv(tmp_path / "c.csv", index_col=0)
        assert table.index.tolist() == ["a", "=b", "c"]
        assert table["consensus"].tolist() == [
            "alpha-beta T cell",
            "B cell",
            "natural killer cell",
        ]
        assert table["agreement"].tolist()[:2] == [0, 1]
        assert run("consensus", file, "--keys", "one,two", "-o", tmp_path / "c.csv", code=1)

    def test_json(self, run, file):
        told = json.loads(run("consensus", file, "--keys", "one, two", "--json").stdout)
        assert told["pairs"][0]["n_cells"] == 2
        assert told["unmapped"] == {"one": {"x": 1}, "two": {}}
        assert sum(told["labels"].values()) == 3

    @pytest.mark.parametrize("keys", ["one", "one,none", "one,one"])
    def test_wrong_columns_are_one_line(self, run, file, keys, tmp_path):
        run("consensus", file, "--keys", keys, "-o", tmp_path / "c.csv", code=1)
        assert not (tmp_path / "c.csv").exists()


def test_pairs_are_all_pairs():
    found = consensus({k: ["B"] for k in "abcd"})
    assert [(p.first, p.second) for p in found.pairs] == list(combinations("abcd", 2))
