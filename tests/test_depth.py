"""Labels as deep as is sure, against a search through all labels of each cell."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scbignn_infer import Annotator
from scbignn_infer.annotation.annotation import Annotation, joins_of
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.annotation.provenance import Model, Provenance
from scbignn_infer.model.bundle import Node, read_bundle
from scbignn_infer.output.slots import slot_names

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = [("T", "CL:T"), ("CD4", "CL:4"), ("CD8", "CL:8"), ("B", "CL:B"), ("Mk", ""), ("DC", "CL:D")]
NODES = [
    Node(label="T cell", ontology_id="CL:T", below=["CL:T", "CL:4", "CL:8"]),
    Node(label="lymphocyte", ontology_id="CL:L", below=["CL:T", "CL:4", "CL:8", "CL:B"]),
    Node(label="presenter", ontology_id="CL:P", below=["CL:B", "CL:D"]),
    Node(label="same as lymphocyte", ontology_id="CL:S", below=["CL:T", "CL:4", "CL:8", "CL:B"]),
    Node(label="one", ontology_id="CL:1", below=["CL:B"]),
]
GROUPING = Grouping.of(NAMES)
ONTOLOGY = Ontology.above(NODES, [term for _, term in NAMES], GROUPING)
TRUE_OF = {
    "T": {"T", "CD4", "CD8"},
    "lymphocyte": {"T", "CD4", "CD8", "B"},
    "presenter": {"B", "DC"},
    **{name: {name} for name in ("CD4", "CD8", "B", "Mk", "DC")},
}


def chances(n: int, seed: int, sharpness: float = 0.5) -> Any:
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.full(6, sharpness), n).astype(np.float32)


def test_terms_join_types_and_a_type_above_others_is_its_own_term() -> None:
    types = [name for name, _ in NAMES]
    found = {
        label: {types[i] for i in np.flatnonzero(holds)}
        for label, holds in zip(ONTOLOGY.labels, ONTOLOGY.holds, strict=True)
    }
    assert found == TRUE_OF
    assert ONTOLOGY.labels[:6] == types
    assert ONTOLOGY.ontology_ids == [term for _, term in NAMES] + ["CL:P", "CL:L"]


def test_terms_follow_a_part_of_the_types() -> None:
    part = GROUPING.only(np.array([False, True, True, True, False, True]))
    found = Ontology.above(NODES, [term for _, term in NAMES], part)
    held = [(label, found.holds[i].sum()) for i, label in enumerate(found.labels)][4:]
    assert held == [("presenter", 2), ("T cell", 2), ("lymphocyte", 3)]
    coarse = Grouping.by_map([], {})  # nothing at all
    assert Ontology.above(NODES, [], coarse).labels == []


def test_types_of_one_id_stay_apart_below_their_term() -> None:
    names = [("early", "CL:E"), ("late", "CL:E"), ("B", "CL:B")]
    nodes = [Node(label="precursor", ontology_id="CL:E", below=["CL:E"])]
    found = Ontology.above(nodes, [t for _, t in names], Grouping.of(names))
    assert found.labels == ["early", "late", "B", "precursor"]
    assert found.holds[3].tolist() == [True, True, False]


@given(seed=st.integers(0, 10_000), least=st.floats(0.3, 0.99))
def test_the_deepest_label_that_is_sure(seed: int, least: float) -> None:
    p = chances(8, seed)
    codes, sums = ONTOLOGY.deepest(p, least)
    types = [name for name, _ in NAMES]
    for row, code, together in zip(p, codes, sums, strict=True):
        of = {label: sum(row[types.index(t)] for t in held) for label, held in TRUE_OF.items()}
        label = ONTOLOGY.labels[code]
        assert of[label] == pytest.approx(together, abs=1e-6)
        enough = [x for x in of if of[x] >= least + 1e-6]
        if enough:
            fewest = min(len(TRUE_OF[x]) for x in enough)
            assert len(TRUE_OF[label]) <= fewest
            assert of[label] >= least - 1e-6
        elif together < least - 1e-6:
            assert of[label] == pytest.approx(max(of.values()), abs=1e-6)


def down(row: dict[str, float], inside: set[str]) -> str:
    """Descend by hand, one cell at a time."""
    if len(inside) == 1:
        return next(iter(inside))
    sets = [held for held in TRUE_OF.values() if held < inside]
    sets += [{t} for t in inside if TRUE_OF[t] < inside or TRUE_OF[t] == {t}]
    sets += [{t} for t in inside if not TRUE_OF[t] <= inside]
    widest = [s for s in sets if not any(s < other for other in sets)]
    return down(row, max(widest, key=lambda s: sum(row[t] for t in s)))


@given(seed=st.integers(0, 10_000))
def test_the_descent_takes_the_best_branch_at_each_step(seed: int) -> None:
    p = chances(8, seed, 1.0)
    types = [name for name, _ in NAMES]
    found = replace(ONTOLOGY, descends=True).best(p)
    for row, code in zip(p, found, strict=True):
        chance = dict(zip(types, map(float, row), strict=True))
        assert types[code] == down(chance, set(types))
    assert (ONTOLOGY.best(p) == p.argmax(axis=1)).all()
    assert "T" not in {types[code] for code in found}  # CD4 and CD8 are there


def test_a_crowd_of_relatives_outweighs_a_lone_type() -> None:
    p = np.array([[0.1, 0.25, 0.2, 0.1, 0.35, 0.0]], np.float32)
    assert ONTOLOGY.labels[ONTOLOGY.best(p)[0]] == "Mk"
    assert ONTOLOGY.labels[replace(ONTOLOGY, descends=True).best(p)[0]] == "CD4"


@given(seed=st.integers(0, 10_000))
def test_what_a_type_refines_agrees_with_it(seed: int) -> None:
    """By hand: the type's own probability, and that of the types that are true of it, too."""
    p = chances(8, seed)
    types = [name for name, _ in NAMES]
    for ontology in (ONTOLOGY, replace(ONTOLOGY, descends=True)):
        codes = ontology.best(p)
        found = ontology.agreeing(p, codes)
        for row, code, share in zip(p, codes, found, strict=True):
            above = [i for i, t in enumerate(types) if types[code] in TRUE_OF[t]]
            counted = above if ontology.descends else [code]
            assert share == pytest.approx(sum(row[i] for i in counted), abs=1e-6)
        assert ontology.agreeing(p[:0], codes[:0]).shape == (0,)


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.999))
def test_sets_are_the_fewest_types_that_hold_the_share(seed: int, share: float) -> None:
    types = [name for name, _ in NAMES]
    p = chances(8, seed)
    for row, named in zip(p, ONTOLOGY.sets(p, share), strict=True):
        order, held = np.argsort(-row, kind="stable"), set[str]()
        while sum(row[types.index(t)] for t in held) < share - 1e-6:
            held.add(types[order[len(held)]])
        said = set[str]().union(*(TRUE_OF[x] for x in named.split("|")))
        assert held <= said
        assert said - held <= TRUE_OF["T"]  # of a T cell without its kinds
        assert named.split("|") == sorted(named.split("|"), key=ONTOLOGY.labels.index)


def test_sets_have_short_names_and_a_power() -> None:
    p = np.array([[0.2, 0.4, 0.3, 0.04, 0.06, 0], [0, 0.5, 0.4, 0.1, 0, 0], [0] * 6], np.float32)
    assert ONTOLOGY.sets(p, 0.9).tolist() == ["T", "CD4|CD8", ""]
    assert ONTOLOGY.sets(p, 0.95).tolist() == ["T|Mk", "CD4|CD8|B", ""]
    assert replace(ONTOLOGY, power=9.0).sets(p, 0.9).tolist() == ["CD4", "CD4", ""]


@pytest.fixture
def annotation() -> Annotation:
    """Return cells: a sure type, a sure T cell, nothing sure, strange, novel, empty."""
    probabilities = np.array(
        [
            [0.0, 0.9, 0.1, 0, 0, 0],
            [0.1, 0.5, 0.3, 0.1, 0, 0],
            [0.1, 0.2, 0.2, 0.05, 0.45, 0],
            [0.0, 0.5, 0.4, 0.1, 0, 0],
            [0.0, 0.9, 0.1, 0, 0, 0],
            [0] * 6,
        ],
        np.float32,
    )
    empty = np.array([False] * 5 + [True])
    return Annotation(
        cell_types=ONTOLOGY.labels[:6],
        ontology_ids=ONTOLOGY.ontology_ids[:6],
        probabilities=probabilities,
        gene_level_codes=np.array([1, 1, 4, 1, 1, 0]),
        neighbor_agreement=np.ones(6),
        novelty=np.array([0.1, 0.1, 0.1, 0.1, 1.0, 0.1]),
        residual=np.array([0, 0, 0, 1.8, 0, 0], np.float32),
        embedding=np.zeros((6, 2), np.float32),
        empty=empty,
        confidence_threshold=0.5,
        max_novelty=0.99,
        label_threshold=0.8,
        wider=ONTOLOGY,
        provenance=Provenance(Model("toy", "1", "ab")),
    )


def test_unknown_is_the_root(annotation: Annotation) -> None:
    assert annotation.labels.tolist() == ["CD4", "T", "unknown", "unknown", "unknown", "unknown"]
    assert annotation.label_ids.tolist() == ["CL:4", "CL:T", "", "", "", ""]
    assert annotation.best_labels.tolist() == ["CD4", "CD4", "Mk", "CD4", "CD4", "unknown"]
    np.testing.assert_allclose(annotation.confidence, [0.9, 0.5, 0.45, 0.5, 0.9, 0])
    np.testing.assert_allclose(annotation.support[:4], [0.9, 0.9, 0.55, 0.4], atol=1e-6)
    assert annotation.counts() == {"unknown": 4, "CD4": 1, "T": 1}
    milder = replace(annotation, residual=np.full(6, 0.9, np.float32))
    assert milder.labels.tolist()[:4] == ["CD4", "T", "unknown", "T"]
    stricter = replace(annotation, residual=np.full(6, 1.1, np.float32))
    assert stricter.labels.tolist()[:4] == ["CD4", "unknown", "unknown", "unknown"]
    never = replace(annotation, confidence_threshold=-2.0, max_novelty=1.0)
    assert never.labels.tolist() == ["CD4", "T", "lymphocyte", "T", "CD4", "unknown"]
    leaf = replace(annotation, label_threshold=0.0)
    assert leaf.labels.tolist() == ["CD4", "CD4", "unknown", "unknown", "unknown", "unknown"]


def test_a_set_is_a_column_if_it_is_asked_for(annotation: Annotation) -> None:
    assert "scbignn_cell_type_set" not in annotation.columns()
    asked = replace(annotation, sets=0.85)
    found = asked.columns()["scbignn_cell_type_set"].tolist()
    assert found == ["CD4", "T", "CD4|CD8|Mk", "CD4|CD8", "CD4", ""]
    assert asked.sets_of(0.85).tolist() == found
    assert "scbignn_cell_type_set" in slot_names("scbignn")["obs"]


def test_where_novelty_is_simulated_a_sum_that_is_sure_is_enough(annotation: Annotation) -> None:
    """Penalties that leave the support above the threshold hide no label that joins types."""
    strange = replace(annotation, penalties=np.full((len(annotation), 2), 0.1))
    free = replace(strange, joins_by_support=False)
    joins = strange.ontology.size[free.codes] > 1
    hidden = (strange.codes < 0) & (free.codes >= 0)
    assert (hidden <= joins).all()
    sums = annotation.ontology.deepest(annotation.probabilities, annotation.label_threshold)[1]
    enough = (sums >= annotation.label_threshold) & (free.support >= free.confidence_threshold)
    enough &= free.novelty <= free.max_novelty
    np.testing.assert_array_equal(free.codes >= 0, enough & ~annotation.empty)


def test_the_record_says_what_joins_types(annotation: Annotation) -> None:
    record = annotation.record()
    types = annotation.cell_types
    said = joins_of(record, types)
    assert {label: set(held) for label, held in said.items()} == {
        label: held for label, held in TRUE_OF.items() if len(held) > 1
    }
    assert record["params"]["label_threshold"] == 0.0  # of the provenance, which knows the rules
    assert joins_of({"cell_types": types}, types) == {}
    hostile = {"joins": {"labels": ["x", "y"], "types": ["0 99 -1 1.5 " + "9" * 5000]}}
    assert joins_of(hostile, types) == {"x": ["T"]}
    assert joins_of({"joins": "x"}, types) == {}
    flat = replace(annotation, wider=None, label_threshold=0.0)
    assert "joins" not in flat.record()


T_CELLS = ("Naive CD4 T", "Memory CD4 T")


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Return human-pbmc with what joins its types, and how sure a label must be."""
    from scbignn_training.ontology import nodes

    folder = tmp_path / "deep"
    shutil.copytree(REPOSITORY / "exported_models" / "human-pbmc", folder)
    spec = read_bundle(folder).spec
    limits = msgspec.structs.replace(spec.thresholds, label=0.75, sets=2.0)
    joined = nodes([c.ontology_id for c in spec.cell_types])
    deeper = msgspec.structs.replace(spec, ontology=joined, thresholds=limits)
    (folder / "bundle.json").write_bytes(msgspec.json.encode(deeper))
    return folder


def test_a_file_is_labelled_as_deep_as_is_sure_and_scored(
    deep: Path, example: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    cells = ad.read_h5ad(example)
    query = cells.X, list(cells.var_names)
    shipped = REPOSITORY / "exported_models" / "human-pbmc"
    fine = Annotator.load(shipped, threads=1, depth="leaf")
    before, sure = fine.annotate_matrix(*query), Annotator.load(deep, threads=1)
    found = sure.annotate_matrix(*query)
    np.testing.assert_array_equal(found.probabilities, before.probabilities)
    leaf = Annotator.load(deep, threads=1, depth="leaf").annotate_matrix(*query)
    assert leaf.labels.tolist() == before.labels.tolist()
    assert found.best_labels.tolist() == before.best_labels.tolist()
    wide = np.flatnonzero((found.labels != found.best_labels) & (found.labels != "unknown"))
    joined = "CD4-positive, alpha-beta T cell"
    assert joined in set(found.labels[wide])
    t = found.probabilities[:, [found.cell_types.index(c) for c in T_CELLS]]
    chosen = found.labels == joined
    assert (t[chosen].sum(axis=1) >= 0.75 - 1e-5).all()
    assert (t[chosen].max(axis=1) < 0.75).all()
    assert set(found.label_ids[chosen]) == {"CL:0000624"}
    stricter = Annotator.load(deep, threads=1, unknown_threshold=0.95).annotate_matrix(*query)
    assert (stricter.ontology.size[stricter.codes] >= found.ontology.size[found.codes])[
        (stricter.codes >= 0) & (found.codes >= 0)
    ].all()

    out = tmp_path / "out.h5ad"
    assert run("annotate", example, "-m", deep, "-o", out, "--sets", "0.9").exit_code == 0
    written = ad.read_h5ad(out)
    assert written.obs["scbignn_cell_type"].tolist() == found.labels.tolist()
    assert written.obs["scbignn_cell_type_set"].tolist() == found.sets_of(0.9).tolist()
    assert written.uns["scbignn"]["params"]["label_threshold"] == 0.75
    again = run("annotate", out, "-m", deep, "--in-place", "--overwrite", "--depth", "leaf")
    assert again.exit_code == 0, again.stderr
    rewritten = ad.read_h5ad(out)
    assert rewritten.obs["scbignn_cell_type"].tolist() == leaf.labels.tolist()
    assert "scbignn_cell_type_set" not in rewritten.obs
    written.obs["truth"] = found.best_labels
    written.write_h5ad(tmp_path / "truth.h5ad")
    result = run("evaluate", tmp_path / "truth.h5ad", "--truth", "truth", "--json")
    told = json.loads(result.stdout)
    n_unknown = int((found.labels == "unknown").sum())
    assert told["depths"] == {
        "right": len(found) - len(wide) - n_unknown,
        "finer": 0,
        "coarser": len(wide),
        "wrong": 0,
        "unknown": n_unknown,
        "true_share": 1.0,
    }
    assert "coarser" in run("evaluate", tmp_path / "truth.h5ad", "--truth", "truth").stdout
    shown = run("models", "show", deep).stdout
    assert "as deep as is sure to 0.75" in " ".join(shown.split())
