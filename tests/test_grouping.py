"""Coarser labels: along the ontology, and by the user's own map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError
from scbignn_infer.model.bundle import CellType, Term
from scbignn_infer.query.readers import AnnDataQuery

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.model.bundle import ModelBundle

T = Term(label="T cell", ontology_id="CL:0000084", level=1)
LYMPHOCYTE = Term(label="lymphocyte", ontology_id="CL:0000542", level=2)
TYPES = [
    CellType(label="CD4", ontology_id="CL:0000624", lineage=[T, LYMPHOCYTE]),
    CellType(label="Mk", ontology_id="CL:0000556"),
    CellType(label="CD8", ontology_id="CL:0000625", lineage=[T, LYMPHOCYTE]),
    CellType(label="B", ontology_id="CL:0000236", lineage=[LYMPHOCYTE]),
]


@pytest.mark.parametrize(
    ("level", "labels", "ids", "group"),
    [
        (
            0,
            ["CD4", "Mk", "CD8", "B"],
            ["CL:0000624", "CL:0000556", "CL:0000625", "CL:0000236"],
            [0, 1, 2, 3],
        ),
        (1, ["T cell", "Mk", "B"], ["CL:0000084", "CL:0000556", "CL:0000236"], [0, 1, 0, 2]),
        (2, ["lymphocyte", "Mk"], ["CL:0000542", "CL:0000556"], [0, 1, 0, 0]),
        (9, ["lymphocyte", "Mk"], ["CL:0000542", "CL:0000556"], [0, 1, 0, 0]),
    ],
)
def test_levels_join_what_the_ontology_joins(
    level: int, labels: list[str], ids: list[str], group: list[int]
) -> None:
    found = Grouping.by_level(TYPES, level)
    assert (found.labels, found.ontology_ids, found.group.tolist()) == (labels, ids, group)
    chances = np.random.default_rng(0).dirichlet(np.ones(4), 50).astype(np.float32)
    summed = found.sum(chances)
    np.testing.assert_allclose(summed.sum(axis=1), 1, atol=1e-6)
    for i in range(len(labels)):
        np.testing.assert_allclose(summed[:, i], chances[:, np.array(group) == i].sum(axis=1))


def test_a_map_joins_what_it_names_and_leaves_the_rest() -> None:
    found = Grouping.by_map(TYPES, {"CD4": "T", "CD8": "T", "B": "B"})
    assert (found.labels, found.group.tolist()) == (["T", "Mk", "B"], [0, 1, 0, 2])
    assert found.ontology_ids == ["", "CL:0000556", ""]
    with pytest.raises(InputError, match=r"'NK', which is no type.*CD4, Mk, CD8, B"):
        Grouping.by_map(TYPES, {"NK": "T"})


@pytest.mark.parametrize("group", ["", " ", "unknown"])
def test_no_group_has_the_name_of_no_label(group: str) -> None:
    with pytest.raises(InputError, match=f"the map calls 'B' '{group}'.*another name in the map"):
        Grouping.by_map(TYPES, {"CD4": "T", "B": group})


def test_coarser_labels_are_sums_of_the_finer(pbmc_bundle: ModelBundle, example: Path) -> None:
    query = AnnDataQuery(ad.read_h5ad(example))
    how = {"device": "cpu", "threads": 1, "depth": "leaf"}
    fine = Annotator(pbmc_bundle, **how).annotate_query(query)
    t_cells = ["Naive CD4 T", "Memory CD4 T", "Naive CD8 T", "Memory CD8 T"]
    groups = dict.fromkeys(t_cells, "T") | {"CD14 Mono": "Mono", "CD16 Mono": "Mono"}
    coarse = Annotator(pbmc_bundle, groups=groups, **how).annotate_query(query)
    place = {label: i for i, label in enumerate(fine.cell_types)}
    together = fine.probabilities[:, [place[c] for c in t_cells]].sum(axis=1)
    of_groups = coarse.probabilities[:, coarse.cell_types.index("T")]
    np.testing.assert_allclose(of_groups, together, rtol=1e-5)
    assert set(coarse.labels) <= {*coarse.cell_types, "unknown"}
    assert (coarse.confidence >= fine.confidence - 1e-6).all()
    assert (coarse.labels == "unknown").sum() <= (fine.labels == "unknown").sum()
    mapped = [groups.get(label, label) for label in fine.best_labels]
    assert (coarse.best_labels == mapped).mean() > 0.98  # a sum may pass another type


def test_unknown_can_be_asked_for_and_done_without(pbmc_bundle: ModelBundle, example: Path) -> None:
    query = AnnDataQuery(ad.read_h5ad(example))
    none = Annotator(pbmc_bundle, device="cpu", unknown=False, depth="leaf").annotate_query(query)
    assert not (none.labels == "unknown").any()
    np.testing.assert_array_equal(none.labels, none.best_labels)
    leaf = {"device": "cpu", "depth": "leaf"}
    much = Annotator(pbmc_bundle, unknown_threshold=0.9, **leaf).annotate_query(query)
    np.testing.assert_array_equal(much.labels == "unknown", much.support < 0.9)
    assert (much.labels == "unknown")[much.confidence < 0.9].all()
    assert much.provenance.params.confidence_threshold == 0.9
    usual = Annotator(pbmc_bundle, **leaf).annotate_query(query)
    assert usual.provenance.params.max_novelty == 1
    median = float(np.median(usual.novelty))
    half = Annotator(pbmc_bundle, max_novelty=median, **leaf).annotate_query(query)
    np.testing.assert_array_equal(
        half.labels == "unknown", (usual.labels == "unknown") | (usual.novelty > median)
    )
    assert half.provenance.params.max_novelty == median
    with pytest.raises(InputError, match="max_novelty where no cell is to be unknown"):
        Annotator(pbmc_bundle, device="cpu", unknown=False, max_novelty=0.1)
