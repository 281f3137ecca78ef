"""What is said for types of another tissue goes to those of their kin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anndata as ad
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scbignn_infer import Annotator, Rules, load_model
from scbignn_infer.annotation.grouping import GONE, Grouping
from scbignn_infer.annotation.kinship import inherit, kinship
from scbignn_infer.annotation.tissues import FoundTissue
from scbignn_infer.model.bundle import ModelBundle, Node
from scbignn_infer.query.readers import AnnDataQuery

REPOSITORY = Path(__file__).resolve().parents[1]
Array = np.ndarray[Any, Any]
IDS = ["duct", "duct", "gland", "T", "NK", ""]
"""Of six classes: ducts of two tissues, glands, two lymphocytes, and one without an id."""
NODES = [
    Node(label="epithelial cell", ontology_id="epithelial", below=["duct", "gland"]),
    Node(label="lymphocyte", ontology_id="lymphocyte", below=["T", "NK"]),
    Node(label="cell", ontology_id="cell", below=["duct", "gland", "T", "NK"]),
]


def by_hand(log_p: Array, kept: Array, close: Array) -> Array:
    """Return the probabilities of the formula, one cell and class at a time."""
    found = np.zeros((len(log_p), int(kept.sum())))
    stays = np.flatnonzero(kept)
    for i, row in enumerate(np.exp(log_p.astype(np.float64))):
        p = row / row.sum()
        for j, c in enumerate(stays):
            found[i, j] = p[c] + math.fsum(
                p[k] * close[k, c] * p[c] / math.fsum(close[k, x] * p[x] for x in stays)
                for k in np.flatnonzero(~kept)
            )
    return found


@pytest.fixture(scope="module")
def human_body() -> ModelBundle:
    return load_model(REPOSITORY / "exported_models" / "human-body")


@pytest.fixture(scope="module")
def mouse_body() -> ModelBundle:
    return load_model(REPOSITORY / "exported_models" / "mouse-body")


class TestKinship:
    def test_it_counts_the_classes_below_the_narrowest_common_term(self) -> None:
        expected = [
            [2, 2, 3, 5, 5, 6],
            [2, 2, 3, 5, 5, 6],
            [3, 3, 1, 5, 5, 6],
            [5, 5, 5, 1, 2, 6],
            [5, 5, 5, 2, 1, 6],
            [6, 6, 6, 6, 6, 1],
        ]
        np.testing.assert_allclose(kinship(IDS, NODES), np.array(expected) ** -2.0, rtol=1e-6)
        np.testing.assert_allclose(kinship(IDS, NODES, 1.0), 1 / np.array(expected), rtol=1e-6)

    def test_classes_without_an_id_are_not_of_one_type(self) -> None:
        close = kinship(["", ""], [])
        np.testing.assert_array_equal(close, np.float32([[1, 0.25], [0.25, 1]]))

    def test_of_a_body_model_it_is_that_of_a_search_in_the_ontology(
        self, mouse_body: ModelBundle
    ) -> None:
        """The oracle looks for the term of fewest classes among those that hold both."""
        ids = [c.ontology_id for c in mouse_body.spec.cell_types]
        close, terms = kinship(ids, mouse_body.spec.ontology), mouse_body.spec.ontology
        size = {node.ontology_id: sum(own in node.below for own in ids) for node in terms}
        rng = np.random.default_rng(0)
        for i, j in rng.integers(len(ids), size=(500, 2)):
            held = [size[t.ontology_id] for t in terms if ids[i] in t.below and ids[j] in t.below]
            same = [ids.count(ids[i])] if ids[i] == ids[j] else []
            assert close[i, j] == pytest.approx(min([*held, *same, len(ids)]) ** -2, rel=1e-5)
        assert (close == close.T).all()


class TestInherit:
    @given(st.integers(0, 2**32 - 1), st.lists(st.booleans(), min_size=6, max_size=6))
    def test_it_is_what_the_formula_says(self, seed: int, stays: list[bool]) -> None:
        kept = np.array(stays)
        kept[seed % 6] = True
        log_p = np.random.default_rng(seed).normal(-5, 6, (20, 6)).clip(-30).astype(np.float32)
        found = np.exp(inherit(log_p, kept, kinship(IDS, NODES)))
        np.testing.assert_allclose(found, by_hand(log_p, kept, kinship(IDS, NODES)), atol=2e-6)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)

    def test_without_differences_it_is_bayes_rule(self) -> None:
        kept = np.array([True, False, True, True, False, True])
        log_p = np.random.default_rng(1).normal(-3, 3, (50, 6)).astype(np.float32)
        given_kept = np.exp(log_p[:, kept])
        given_kept /= given_kept.sum(axis=1, keepdims=True)
        found = np.exp(inherit(log_p, kept, np.ones((6, 6), np.float32)))
        np.testing.assert_allclose(found, given_kept, atol=1e-5)

    def test_a_duct_elsewhere_is_a_duct_and_no_t_cell(self) -> None:
        """Though the T cell is more probable than the ducts of the tissue that is chosen."""
        log_p = np.log(np.float32([[0.02, 0.9, 0.01, 0.05, 0.01, 0.01]]))
        kept = np.array([True, False, True, True, True, True])
        labels, group = ["duct", "gland", "T", "NK", "?"], np.array([0, -1, 1, 2, 3, 4])
        grouping = Grouping(labels, [""] * 5, group)
        dropped = grouping.narrow(log_p.copy())
        assert dropped.argmax() == 3
        kin = Grouping(labels, [""] * 5, group, kinship(IDS, NODES))
        found = kin.narrow(log_p.copy())
        assert found.argmax() == 0
        assert np.exp(found[0, 0]) > 0.5
        assert found[0, 1] < -1e29
        np.testing.assert_allclose(np.exp(found[:, kept]).sum(), 1, atol=1e-6)

    def test_a_class_that_is_ruled_out_has_nothing_to_leave(self) -> None:
        """What the cell level says of classes that went before it."""
        log_p = np.log(np.float32([[0.3, 0.2, 0.1, 0.2, 0.1, 0.1]] * 3))
        kept = np.array([True, False, True, True, True, False])
        log_p[:, ~kept] = GONE
        expected = np.exp(log_p[:, kept])
        found = np.exp(inherit(log_p, kept, kinship(IDS, NODES)))
        np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)

    def test_the_order_of_the_classes_does_not_matter(self) -> None:
        rng = np.random.default_rng(2)
        log_p, order = rng.normal(-3, 3, (50, 6)).astype(np.float32), rng.permutation(6)
        kept, close = np.array([True, True, False, True, False, False]), kinship(IDS, NODES)
        one = np.full((50, 6), -np.inf)
        one[:, kept] = inherit(log_p, kept, close)
        other = np.full((50, 6), -np.inf)
        other[:, kept[order]] = inherit(log_p[:, order], kept[order], close[np.ix_(order, order)])
        np.testing.assert_allclose(np.exp(one)[:, order], np.exp(other), atol=1e-6)


class TestBodies:
    def test_the_ready_body_models_leave_it_to_kin(
        self, human_body: ModelBundle, mouse_body: ModelBundle
    ) -> None:
        for bundle in (human_body, mouse_body):
            assert bundle.spec.elsewhere == "kin"
            assert Rules.of(bundle, tissue="pancreas").grouping.close is not None
            assert Rules.of(bundle).grouping.close is None  # all types are there

    @pytest.mark.parametrize(("elsewhere", "most"), [("dropped", 1.0), ("kin", 0.05)])
    def test_in_a_tissue_without_them_cells_of_ducts_are_no_lymphocytes(
        self, human_body: ModelBundle, elsewhere: Any, most: float
    ) -> None:
        cells = ad.read_h5ad(REPOSITORY / "tests" / "data" / "pancreas400.h5ad")
        spec = msgspec.structs.replace(human_body.spec, elsewhere=elsewhere)
        files = {name: human_body.read(name) for name in spec.files}
        bundle = ModelBundle(human_body.path, spec, files, human_body.sha256)
        annotator = Annotator(bundle, device="cpu", threads=1, tissue="prostate")
        found = annotator.annotate_query(AnnDataQuery(cells))
        blood = next(n.below for n in spec.ontology if n.label == "hematopoietic cell")
        called = np.isin(np.array(found.ontology_ids)[found.best_codes], blood)
        ducts = np.isin(cells.obs["cell_type"], ["ductal", "acinar"])
        assert most - 0.2 < called[ducts].mean() <= most
        assert called[cells.obs["cell_type"] == "macrophage"].mean() > 0.9

    def test_a_tissue_that_is_not_that_of_the_cells_is_doubted(
        self, human_body: ModelBundle
    ) -> None:
        cells = ad.read_h5ad(REPOSITORY / "tests" / "data" / "pancreas400.h5ad")
        for tissue, seems in (("prostate", ["pancreas"]), ("pancreas", []), ("fetal pancreas", [])):
            annotator = Annotator(human_body, device="cpu", threads=1, tissue=tissue)
            found = annotator.annotate_query(AnnDataQuery(cells))
            assert list(found.provenance.tissue.seems) == seems
            said = [w for w in found.warnings() if "the cells look like" in w]
            assert len(said) == len(seems)
        assert "pancreas (9" in FoundTissue("given", ["lung"], seems={"pancreas": 0.94}).doubt
