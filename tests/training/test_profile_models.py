"""Models of profiles, alone and with cells: from the command to labels of real cells."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import anndata as ad
import msgspec
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from click.testing import CliRunner

import scbignn_infer
from scbignn_infer.annotator import Annotator
from scbignn_infer.cli import main
from scbignn_infer.errors import InputError
from scbignn_training.cli import train as command
from scbignn_training.pack import labelled_data, write_bundle
from scbignn_training.recipe import ProfileSource, Recipe, Source
from scbignn_training.selection import splits
from scbignn_training.simulate import Simulation
from scbignn_training.train import check, read_reference, train

TYPES = ("alpha", "beta", "ductal", "acinar")


@pytest.fixture(scope="module")
def table(pancreas, tmp_path_factory):
    """Return the averages of four types in two data sets; the second lacks every fifth gene."""
    cells = ad.read_h5ad(pancreas)
    rows, about = [], []
    for half in range(2):
        for kind in TYPES:
            own = np.flatnonzero(cells.obs["cell_type"] == kind)[half::2]
            mean = np.asarray(cells.X[own].sum(axis=0)).ravel()
            mean[::5] *= 1 - half
            rows.append(mean / mean.sum() * 1e4)
            about.append((kind, f"half {half}", "CL:0000171" if kind == "alpha" else "", len(own)))
    obs = pd.DataFrame(about, columns=["cell_type", "dataset", "ontology_id", "n_cells"])
    obs.index = [f"p{i}" for i in range(8)]
    path = tmp_path_factory.mktemp("profiles") / "means.h5ad"
    ad.AnnData(np.array(rows), obs=obs, var=cells.var[[]]).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def recipe_of_profiles(table, settings):
    return Recipe(
        name="means",
        species="human",
        profiles=[ProfileSource(file=str(table))],
        simulation=Simulation(cells=40),
        settings=settings,
    )


@pytest.fixture(scope="module")
def trained(recipe_of_profiles):
    return train(recipe_of_profiles)


@pytest.fixture(scope="module")
def packed(trained, recipe_of_profiles, tmp_path_factory):
    return write_bundle(trained, recipe_of_profiles, tmp_path_factory.mktemp("models"))


def test_it_labels_real_cells(packed, pancreas):
    cells = ad.read_h5ad(pancreas)
    cells = cells[cells.obs["cell_type"].isin(TYPES)].copy()
    found = Annotator.load(packed, threads=1).annotate_matrix(
        sp.csr_matrix(cells.X), list(cells.var_names)
    )
    assert (found.best_labels == cells.obs["cell_type"].to_numpy()).mean() > 0.9


def test_the_bundle_says_what_it_learned_from(packed):
    spec = scbignn_infer.load_model(packed).spec
    assert [(d.name, d.role, d.n_cells) for d in spec.training.datasets] == [
        ("half 0", "profiles", 160),
        ("half 1", "profiles", 160),
    ]
    assert {c.label: c.ontology_id for c in spec.cell_types}["alpha"] == "CL:0000171"
    assert spec.training.settings["simulation_cells"] == 40
    assert set(spec.training.held_out_scores) == {"half 0", "half 1"}
    card = (packed / "README.md").read_text()
    assert "| cell type | Cell Ontology | simulated cells |" in card
    assert "320 simulated cells; seed" in card
    assert "training cells" not in card
    shown = CliRunner().invoke(main, ["models", "show", str(packed)]).output
    assert "simulated cells" in shown
    assert "training cells" not in shown


def test_a_test_of_a_tissue_that_no_class_has_is_refused_before_training(recipe_of_profiles):
    wrong = msgspec.structs.replace(recipe_of_profiles, tested={"moon": "nobody"})
    for begin in (read_reference, check):
        with pytest.raises(InputError, match="tests of 'moon'"):
            begin(wrong)


def test_novelty_is_of_data_sets_left_out(trained):
    """Cells of the same profiles are nearer than any of another laboratory will be."""
    assert trained.novelty_quantiles.shape == trained.residual_quantiles.shape == (201,)
    assert (np.diff(trained.novelty_quantiles) >= 0).all()
    assert trained.held_out.by_study.keys() == {0, 1}


def test_the_same_recipe_gives_the_same_bytes(packed, recipe_of_profiles, tmp_path):
    again = write_bundle(train(recipe_of_profiles), recipe_of_profiles, tmp_path)
    names = sorted(p.name for p in packed.iterdir())
    assert names == sorted(p.name for p in again.iterdir())
    for name in set(names) - {"bundle.json", "README.md"}:  # these tell the seconds that it took
        assert (again / name).read_bytes() == (packed / name).read_bytes(), name


def test_cells_and_profiles_are_joined_by_all_genes(table, pancreas, recipe_of_profiles):
    both = msgspec.structs.replace(
        recipe_of_profiles, label_key="cell_type", reference=[Source(file=str(pancreas), name="x")]
    )
    found = read_reference(both)
    assert [(o.name, o.simulated) for o in found.origins] == [
        ("x", False),
        ("half 0", True),
        ("half 1", True),
    ]
    assert len(found.symbols) == 4000
    assert found.measured[0].all()
    assert 0 < found.measured[2].mean() <= 0.8
    assert found.simulated.sum() == 320
    assert both.without("means").profiles == []
    assert [s.called for s in both.without("x").profiles] == ["means"]


@pytest.fixture
def types_of_cells(pancreas, tmp_path):
    """Return a table of types for cells: the donors are of two ages, and acinar is no row."""
    names = "library dataset cell_type label ontology_id state tissue age study use note"
    terms = {"alpha": "CL:0000171", "beta": "CL:0000169", "ductal": "CL:0002079"}
    rows = [
        (pancreas.stem, part, kind, kind, term, "", "pancreas", age, "b", use, "")
        for part, age in (("d1", "adult"), ("d2", "fetal"))
        for kind, term in terms.items()
        for use in (("yes",) if (part, kind) != ("d2", "ductal") else ("mixture",))
    ]
    path = tmp_path / "types.tsv"
    path.write_text("\n".join("\t".join(r) for r in [names.split(), *rows]) + "\n")
    return path


def test_cells_have_the_types_of_a_table_by_their_part(
    table, pancreas, recipe_of_profiles, types_of_cells, tmp_path
):
    cells = ad.read_h5ad(pancreas)
    cells.obs["donor"] = np.where(np.arange(cells.n_obs) % 2, "d1", "d2")
    path = tmp_path / pancreas.name
    cells.write_h5ad(path)
    source = Source(
        file=str(path), name="x", study="b", study_key=["donor"], types=str(types_of_cells)
    )
    both = msgspec.structs.replace(recipe_of_profiles, label_key="cell_type", reference=[source])
    found = read_reference(both)
    real = ~found.simulated
    said = cells.obs["cell_type"].astype(str) + " " + cells.obs["donor"].astype(str)
    wanted = {
        **{f"pancreas: {kind}": f"{kind} d1" for kind in ("alpha", "beta", "ductal")},
        **{f"fetal pancreas: {kind}": f"{kind} d2" for kind in ("alpha", "beta")},
    }
    assert Counter(np.array(found.cell_types)[found.codes[real]]) == {
        label: (said == old).sum() for label, old in wanted.items()
    }
    assert found.meant["fetal pancreas: beta"].ontology_id == "CL:0000169"
    assert found.ontology["pancreas: ductal"] == "CL:0002079"
    assert [o.tissues for o in found.origins[:2]] == [("fetal pancreas", "pancreas")] * 2
    assert len(np.unique(found.studies[real])) == 1, "the parts of a file are one study"
    assert [o.name for o in found.origins if not o.simulated] == ["d2", "d1"]
    alone = msgspec.structs.replace(both, profiles=[], hold_out=0)
    spec = scbignn_infer.load_model(write_bundle(train(alone), alone, tmp_path / "out")).spec
    assert spec.training.datasets[0].tissues == ["fetal pancreas", "pancreas"]
    assert {t.name for t in spec.tissues} == {"fetal pancreas", "pancreas"}
    assert not spec.training.from_profiles


def test_few_measured_types_tell_how_far_real_cells_are_and_no_more(
    pancreas, recipe_of_profiles, tmp_path
):
    """Alpha and beta cells of two donors, and the averages of all ten types."""
    cells = ad.read_h5ad(pancreas)
    cells.obs["donor"] = np.where(np.arange(cells.n_obs) % 2, "d1", "d2")
    kinds = cells.obs["cell_type"].astype(str)
    names = sorted(set(kinds))
    means = [np.asarray(cells.X[np.flatnonzero(kinds == k)].mean(axis=0)) for k in names]
    about = pd.DataFrame({"cell_type": names}, index=names)
    table = ad.AnnData(np.vstack(means), about, cells.var[[]])
    table.write_h5ad(tmp_path / "means.h5ad")
    cells[kinds.isin(["alpha", "beta"])].copy().write_h5ad(tmp_path / "cells.h5ad")
    recipe = msgspec.structs.replace(
        recipe_of_profiles,
        label_key="cell_type",
        follow_file=False,
        profiles=[ProfileSource(file=str(tmp_path / "means.h5ad"))],
        reference=[Source(file=str(tmp_path / "cells.h5ad"), name="x", study_key=["donor"])],
    )
    alone, held = (train(msgspec.structs.replace(recipe, hold_out=n)) for n in (0, 2))
    assert not held.reference.judges.any()
    assert held.validation == "each study left out in turn"
    assert held.held_out.by_study == {}, "of the few types, which may stand for others"
    for name in ("temperature", "threshold", "label_threshold", "sets", "calibration"):
        assert getattr(held, name) == getattr(alone, name), name
    np.testing.assert_array_equal(held.bank, alone.bank)
    assert (held.novelty_quantiles != alone.novelty_quantiles).any()
    assert (held.residual_quantiles != alone.residual_quantiles).any()


def test_each_table_has_the_record_of_its_own_file(table, tmp_path, monkeypatch):
    """Whatever it is called: by a path from here, or as the end of another's name."""
    monkeypatch.chdir(tmp_path)
    for name in ("mouse_atlas.h5ad", "atlas.h5ad"):
        shutil.copy(table, name)
    sources = [
        ProfileSource(file="./atlas.h5ad", citation="of the atlas"),
        ProfileSource(file="mouse_atlas.h5ad", citation="of the mouse"),
    ]
    recipe = Recipe(name="x", profiles=sources)
    reference = read_reference(recipe)
    found = {d.file: d.citation for d in labelled_data(recipe, reference)}
    assert found == {"atlas.h5ad": "of the atlas", "mouse_atlas.h5ad": "of the mouse"}


def test_cells_of_no_type_of_their_table_are_one_line(pancreas, types_of_cells):
    recipe = Recipe(
        name="x",
        label_key="cell_type",
        reference=[Source(file=str(pancreas), types=str(types_of_cells))],
    )
    with pytest.raises(InputError, match="no label that its table of types has") as caught:
        read_reference(recipe)
    assert "\n" not in str(caught.value)
    assert "alpha" in str(caught.value)


def test_many_studies_are_left_out_in_groups(recipe_of_profiles):
    reference = read_reference(recipe_of_profiles)
    assert len(splits(reference, 2, 0, most=5)[1]) == 2
    name, _ = splits(reference, 2, 0, most=0)
    assert name == "one of 2 folds of the cells"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "x"], "or --profiles"),
        (["--profiles", "none.h5ad", "--name", "x"], "no file none.h5ad"),
        (["--profiles", "TABLE", "--profile-column", "kind=a", "--name", "x"], "WHAT=NAME"),
        (["--profiles", "TABLE", "--profile-column", "type=a", "--name", "x"], "no column 'a'"),
        (["CELLS", "--profiles", "TABLE", "--name", "x"], "with --label-key"),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(table, pancreas, tmp_path, arguments, says):
    names = {"TABLE": str(table), "CELLS": str(pancreas)}
    arguments = [names.get(a, a) for a in arguments]
    result = CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code != 0
    assert says in result.output + str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: ad.AnnData(-t.X, t.obs, t.var), "negative or infinite"),
        (lambda t: t[[0, 4]].copy(), "has 1 cell types"),
        (lambda t: ad.AnnData(t.X, t.obs.assign(dataset="one"), t.var), "has 2 profiles of"),
        (lambda t: ad.AnnData(t.X * (t.obs_names != "p2")[:, None], t.obs, t.var), "without expr"),
        (lambda t: ad.AnnData(t.X, t.obs.assign(ontology_id="CL:9"), t.var), "'CL:9'"),
        (lambda t: ad.AnnData(t.X, t.obs), "no gene names"),
    ],
    ids=["negative", "one type", "twice", "zeros", "ontology", "no names"],
)
def test_a_table_of_nonsense_is_one_line_and_writes_nothing(table, tmp_path, change, says):
    change(ad.read_h5ad(table)).write_h5ad(tmp_path / "bad.h5ad")
    arguments = ["--profiles", str(tmp_path / "bad.h5ad"), "--name", "x", "--quiet"]
    result = CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code != 0
    assert says in result.output + str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_record_is_json(packed):
    assert json.loads((packed / "bundle.json").read_text())["name"] == "means"
