"""What is odd in labels is found before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest

from scbignn_training.data import join, read_study
from scbignn_training.labels import PLACEHOLDER, found_in, placeholders
from scbignn_training.recipe import Recipe, Relabel, Source


def findings(files, *, merge=None, min_cells=5, keep=(), **more):
    drop = placeholders(files, keep)
    reference = join(files, merge=merge, drop=drop, min_cells=min_cells)
    recipe = Recipe(
        name="x", reference=[Source(file="f")], merge=merge or {}, min_cells=min_cells, **more
    )
    return found_in(files, reference, recipe)


@pytest.fixture(scope="module")
def study(parts):
    return read_study(parts["labelled"], label_key="cell_type")


def renamed(study, change):
    return replace(
        study, labels=np.array([change(i, x) for i, x in enumerate(study.labels)], object)
    )


@pytest.mark.parametrize(
    "label",
    [
        "Unknown",
        "unassigned",
        "NA",
        "nan",
        "Doublet",
        "Mono/platelet doublets",
        "low quality",
        "?",
        "Unknown_3",
        "unlabeled",
        "Ambiguous",
        "Empty droplets",
        "not applicable",
        "other",
        "",
    ],
)
def test_a_label_that_names_no_type_is_known(label):
    assert PLACEHOLDER.match(label)


@pytest.mark.parametrize(
    "label", ["NK", "naive B", "other T cell", "Null cell", "brain", "NA+ neuron"]
)
def test_a_type_is_no_placeholder(label):
    assert not PLACEHOLDER.match(label)


def test_placeholders_are_left_out_unless_they_are_kept(study):
    odd = renamed(study, lambda i, x: "doublet" if i % 7 == 0 else x)
    lost = {f.labels: f for f in findings([odd])}
    assert lost["doublet"].cells == sum(odd.labels == "doublet")
    assert "--keep-label" in lost["doublet"].do
    assert "doublet" not in {f.labels for f in findings([odd], keep=["doublet"])}


def test_the_share_that_is_left_out_is_said(study):
    rows = findings([study], min_cells=12)
    small = [x for x in np.unique(study.labels) if (study.labels == x).sum() < 12]
    n = int(np.isin(study.labels, small).sum())
    (total,) = [r for r in rows if r.what.startswith("left out in all")]
    assert total.cells == n > 0
    assert f"{n / len(study.labels):.1%}" in total.what


@pytest.mark.parametrize(
    ("one", "other"), [("beta", "Beta cells"), ("quiescent_stellate", "Quiescent stellate")]
)
def test_spellings_of_one_type_are_found_together(study, one, other):
    both = renamed(study, lambda i, x: other if x == one and i % 2 else x)
    (row,) = [r for r in findings([both]) if r.what.startswith("spelled")]
    assert row.labels == " | ".join(sorted([one, other]))
    assert not [r for r in findings([both], merge={other: one}) if r.what.startswith("spelled")]


def test_cd4_and_cd8_are_not_two_spellings(study):
    change = {"alpha": "CD4+ T", "beta": "CD8+ T", "delta": "CD4- T"}
    marked = renamed(study, lambda i, x: change.get(x, x))
    assert not [r for r in findings([marked]) if r.what.startswith("spelled")]


def test_types_of_one_study_are_named(study):
    half = np.arange(len(study.labels)) % 2 == 0
    files = [
        replace(
            study,
            counts=study.counts[rows],
            labels=study.labels[rows],
            origin=replace(study.origin, name=name),
        )
        for name, rows in (("one", half), ("two", ~half & (study.labels != "ductal")))
    ]
    rows = [r for r in findings(files) if "one study" in r.what]
    assert [(r.labels, r.what) for r in rows] == [("ductal", "in one study only (one)")]


def test_types_that_held_out_cells_do_not_tell_apart_are_found(study):
    chance = np.random.default_rng(0).random(len(study.labels))
    split = renamed(study, lambda i, x: "beta 2" if x == "beta" and chance[i] < 0.3 else x)
    mixed = [r.labels for r in findings([split]) if r.what.startswith("held-out")]
    assert "beta 2 -> beta" in mixed
    whole = [r.labels for r in findings([study]) if r.what.startswith("held-out")]
    assert not [x for x in whole if x.startswith(("alpha", "beta", "delta", "acinar", "ductal"))]


def test_check_trains_nothing(run, parts, tmp_path):
    adata = ad.read_h5ad(parts["labelled"])
    adata.obs["cell_type"] = [
        "unknown" if i % 5 == 0 else x for i, x in enumerate(adata.obs["cell_type"])
    ]
    adata.write_h5ad(tmp_path / "odd.h5ad")
    said = run("train", tmp_path / "odd.h5ad", "--label-key", "cell_type", "--check").stdout
    assert "unknown" in said
    assert "names no type, left out" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd.h5ad"]


def test_what_a_recipe_says_of_no_label_is_found(study):
    relabel = [Relabel(label="nobody", to="beta 3", genes=["INS"], studies=["f", "elsewhere"])]
    rows = findings(
        [study], merge={"Beta": "beta"}, drop=["acinarr", "alpha"], relabel=relabel, min_cells=2
    )
    said = {r.labels: r.what for r in rows}
    assert "of 'merge', and no cell" in said["Beta"]
    assert "of 'drop', and no cell" in said["acinarr"]
    assert "of 'relabel', and no cell" in said["nobody"]
    assert "of 'relabel', and no reference" in said["elsewhere"]
    assert "f" not in said
    assert "alpha" not in said  # which is there


def test_advice_is_what_helps(study):
    odd = renamed(study, lambda i, x: ["unknown", "", x, x, x][i % 5])
    rows = {r.labels: r for r in findings([odd], min_cells=2)}
    assert rows["unknown"].do == "rename it, if it is a type"  # as a type it would be refused
    assert (rows["(empty)"].what, rows["(empty)"].do) == ("no label, left out", "")
