"""Why: known markers carry the types, and a gene's effect is what leaving it out does."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError
from scbignn_infer.explanation import explain_cells, gene_effects
from scbignn_infer.model.interpretation import by_absence, by_presence, signed_interpretation
from scbignn_infer.model.registry import load_model
from scbignn_infer.network import panel
from scbignn_infer.query.readers import AnnDataQuery
from scbignn_infer.report.labelled import Labelled
from scbignn_infer.report.markers import express

REPOSITORY = Path(__file__).resolve().parents[1]
MARKERS = {
    "human-pbmc": {
        "B": {"MS4A1", "CD79A", "CD79B"},
        "CD14 Mono": {"LYZ", "S100A8", "S100A9", "CD14"},
        "CD16 Mono": {"FCGR3A", "MS4A7"},
        "NK": {"NKG7", "GNLY"},
        "Megakaryocyte": {"PPBP", "PF4"},
        "DC": {"FCER1A", "CST3"},
        "Memory CD8 T": {"CD8A", "CD8B", "CCL5"},
    },
    "human-pancreas": {
        "beta": {"INS", "IAPP"},
        "alpha": {"GCG"},
        "delta": {"SST"},
        "gamma": {"PPY"},
        "epsilon": {"GHRL"},
        "acinar": {"PRSS2", "CELA3A", "CTRB1"},
        "ductal": {"KRT19", "KRT7", "CFTR"},
    },
    "mouse-pancreas": {
        "beta": {"Ins1", "Ins2", "Iapp"},
        "alpha": {"Gcg"},
        "delta": {"Sst"},
        "gamma": {"Ppy"},
        "ductal": {"Krt19", "Krt18", "Sox9", "Spp1"},
        "endothelial": {"Pecam1", "Plvap", "Cdh5"},
        "macrophage": {"Cd68", "C1qa", "Lyz2", "Apoe"},
        "epsilon": {"Ghrl"},
        "Ngn3 high EP": {"Neurog3"},
        "Pre-endocrine": {"Fev"},
    },
}


@pytest.mark.parametrize("model", list(MARKERS))
def test_the_genes_that_carry_a_type_are_its_markers(model: str) -> None:
    bundle = load_model(model)
    found = signed_interpretation(bundle.spec, bundle.statistics["class_mean"])
    for label, markers in MARKERS[model].items():
        genes = found[label].genes
        present, absent = by_presence(genes), by_absence(genes)
        assert genes == [*present, *absent]
        assert markers & {g.symbol for g in present[:20]}, (label, genes)
        for side in (present, absent):
            weights = [abs(g.weight) for g in side]
            assert weights == sorted(weights, reverse=True)
        kept = bundle.spec.interpretation[label]
        assert {g.symbol: abs(g.weight) for g in genes} == {g.symbol: g.weight for g in kept.genes}
        assert all(a < b for a, b in (p.genes for p in found[label].pairs))


@pytest.mark.parametrize(
    ("model", "label", "lacks"),
    [
        ("human-pbmc", "Naive CD4 T", {"CD8A", "CD8B", "KLRB1"}),
        ("human-pbmc", "Memory CD4 T", {"TYROBP", "FCER1G", "NKG7"}),
        ("human-pancreas", "beta", {"TYROBP", "SPI1"}),
        ("mouse-pancreas", "ductal", {"Neurog3"}),
    ],
)
def test_a_gene_that_a_type_lacks_has_a_minus(model: str, label: str, lacks: set[str]) -> None:
    bundle = load_model(model)
    genes = signed_interpretation(bundle.spec, bundle.statistics["class_mean"])[label].genes
    assert lacks <= {g.symbol for g in by_absence(genes)}
    assert not lacks & {g.symbol for g in by_presence(genes)}


@pytest.fixture(scope="module")
def islets() -> ad.AnnData:
    return ad.read_h5ad(REPOSITORY / "tests" / "data" / "pancreas400.h5ad")


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator.load("human-pancreas", device="cpu", threads=1)


@pytest.mark.parametrize(("label", "gene"), [("beta", "INS"), ("alpha", "GCG"), ("delta", "SST")])
def test_a_cell_is_called_for_its_hormone(
    annotator: Annotator, islets: ad.AnnData, label: str, gene: str
) -> None:
    cells = islets.obs_names[islets.obs["cell_type"] == label][:3]
    for found in explain_cells(annotator, AnnDataQuery(islets), list(cells)):
        assert found.best_label == label
        assert gene in list(found.present)[:8]
        assert found.gene_level.keys() & {label}
        assert sum(found.neighbors.values()) == 15
        assert max(found.neighbors, key=lambda k: found.neighbors[k]) == label
        assert all(effect > 0 for effect in found.present.values())


def test_an_effect_is_the_change_without_the_gene(annotator: Annotator, islets: ad.AnnData) -> None:
    query = AnnDataQuery(islets)
    choice = annotator.choose(query)
    row = query.rows(choice.matrix, np.array([7]))
    code = annotator.bundle.cell_types.index("beta")
    level, genes = annotator.pair.gene_level(choice.panel), choice.panel
    types = Grouping.by_level(annotator.bundle.spec.cell_types, 0)
    effect, counts, logits = gene_effects(level, row, code, types)
    assert len(effect) == len(counts) == len(genes.symbols)
    _, plain = level.label(row)
    np.testing.assert_allclose(logits, plain[0], atol=1e-4)
    j = int(np.argmax(np.abs(effect)))
    column = islets.var_names.get_loc(genes.symbols[j])
    changed, total = islets.X[7].toarray(), float(genes.densify(row)[1][0, 0])
    changed[0, column] = np.expm1(max(float(genes.tables["gene_mean"][j]), 0)) * total / 1e4
    moved, _ = genes.densify(sp.csr_matrix(changed))
    _, without = level(moved, np.full((1, 1), total, np.float32))
    before, after = (
        x[code] - np.log(np.exp(np.delete(x, code).astype(np.float64)).sum())
        for x in (logits, without[0])
    )
    assert effect[j] == pytest.approx(float(before - after), abs=1e-3)


def test_the_tables_of_a_file_are_solved_once(
    annotator: Annotator, islets: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For labels, for three explanations and for what is asked of the same genes later."""
    annotator = Annotator(annotator.bundle, device="cpu", threads=1)
    solved: list[int] = []
    solve = panel.panel_tables

    def counted(*arguments: Any, **sizes: Any) -> Any:
        solved.append(1)
        return solve(*arguments, **sizes)

    monkeypatch.setattr(panel, "panel_tables", counted)
    assert len(explain_cells(annotator, AnnDataQuery(islets), list(islets.obs_names[:3]))) == 3
    assert len(solved) == 1
    query = AnnDataQuery(islets)
    choice = annotator.choose(query)
    labels = annotator.annotate_query(query, choice=choice)
    express(query, choice, Labelled.of(labels), annotator.rules.grouping)
    assert len(solved) == 1


def test_cells_that_are_not_there_or_empty_are_refused(
    annotator: Annotator, islets: ad.AnnData
) -> None:
    with pytest.raises(InputError, match="has no cell 'nobody'"):
        explain_cells(annotator, AnnDataQuery(islets), ["nobody"])
    blank = islets[:40].copy()
    counts = blank.X.toarray()
    counts[3] = 0
    blank.X = counts
    with pytest.raises(InputError, match="no count on any gene"):
        explain_cells(annotator, AnnDataQuery(blank), [blank.obs_names[3]])


def test_all_cells_of_a_name_are_explained(annotator: Annotator, islets: ad.AnnData) -> None:
    twins = islets[:60].copy()
    names = [f"c{i}" for i in range(60)]
    alone = explain_cells(annotator, AnnDataQuery(named(twins, names)), ["c7", "c3", "c40"])
    names[40] = "c3"
    both = explain_cells(annotator, AnnDataQuery(named(twins, names)), ["c7", "c3"])
    assert [e.cell for e in both] == ["c7", "c3", "c3"]
    assert [replace(e, cell="") for e in both] == [replace(e, cell="") for e in alone]


def named(cells: ad.AnnData, names: list[str]) -> ad.AnnData:
    """Return cells with other names, which may repeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return ad.AnnData(cells.X, obs=pd.DataFrame(index=names), var=cells.var)


MODEL = ("models", "explain", "human-pancreas")


@pytest.fixture
def said(run: Any) -> Any:
    """Return a function that runs a command and gives what it says."""

    def said(*arguments: object, code: int = 0) -> str:
        done = run(*arguments, code=code)
        return done.stdout if code == 0 else done.stderr

    return said


def test_the_command_explains_models_and_cells(
    said: Any, islets: ad.AnnData, tmp_path: Path
) -> None:
    text = said(*MODEL)
    assert "INS" in text
    assert "alpha" in text
    one = json.loads(said(*MODEL, "--cell-type", "beta", "--json"))["types"]
    assert list(one) == ["beta"]
    assert {"genes", "pairs"} == set(one["beta"])
    weights = {g["symbol"]: g["weight"] for g in one["beta"]["genes"]}
    assert weights["INS"] > 0 > weights["TYROBP"]
    assert "by their absence" in text
    assert "TYROBP -0.07" in text
    assert "no type 'gut'" in said(*MODEL, "--cell-type", "gut", code=1)
    islets.write_h5ad(tmp_path / "q.h5ad")
    cells = ",".join(islets.obs_names[:2])
    text = said("explain", tmp_path / "q.h5ad", "--cells", cells, "-m", "human-pancreas")
    for word in ("gene level", "cell level", "neighbours", "present", islets.obs_names[1]):
        assert word in text
    found = json.loads(said("explain", tmp_path / "q.h5ad", "--cells", cells, "--json"))
    assert found["model"] == "human-pancreas"
    assert [c["cell"] for c in found["cells"]] == list(islets.obs_names[:2])
    assert "no model named" in said("models", "explain", "nothing", code=1)


def test_every_unknown_cell_misses_a_number_that_is_told(said: Any, example: Path) -> None:
    """The two numbers and their thresholds decide alone whether a cell has a label."""
    cells = ad.read_h5ad(example)
    annotator = Annotator(load_model("human-pbmc"), device="cpu", threads=1)
    query = AnnDataQuery(cells)
    found = annotator.annotate_query(query)
    unsure = np.flatnonzero(found.unknown_reasons == "unsure")
    sure = np.flatnonzero((found.codes >= 0) & ~found.empty)
    chosen = [str(cells.obs_names[i]) for i in (*unsure[:10], *sure[:10])]
    explained = explain_cells(annotator, query, chosen)
    assert sum(bool(cell.reason) for cell in explained) == min(len(unsure), 10) > 0
    for cell in explained:
        enough = cell.support >= cell.threshold and cell.together >= cell.label_threshold
        assert enough == (cell.label != "unknown") == (not cell.reason)
    shown = said("explain", example, "-m", "human-pbmc", "--cells", chosen[0])
    numbers = f"probability {explained[0].together:.3f}, threshold 0.9; unknown: unsure"
    assert numbers in " ".join(shown.split())


def test_explanations_are_drawn_and_listed(said: Any, islets: ad.AnnData, tmp_path: Path) -> None:
    said(*MODEL, "-o", tmp_path / "m.png")
    picture = matplotlib.image.imread(tmp_path / "m.png")
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 10  # not an empty page
    said(*MODEL, "-o", tmp_path / "m.csv")
    listed = pd.read_csv(tmp_path / "m.csv")
    beta = listed[listed["cell_type"] == "beta"].set_index("gene")["weight"]
    assert beta.index[0] in ("INS", "IAPP")
    assert beta["INS"] > 0 > beta["TYROBP"]
    islets.write_h5ad(tmp_path / "q.h5ad")
    cell = islets.obs_names[0]
    why = ["explain", tmp_path / "q.h5ad", "--cells", cell, "-m", "human-pancreas", "-o"]
    said(*why, tmp_path / "c.png")
    assert matplotlib.image.imread(tmp_path / "c.png").shape[0] > 200
    said(*why, tmp_path / "c.tsv")
    effects = pd.read_csv(tmp_path / "c.tsv", sep="\t")["log_odds"]
    assert effects.max() > 0 > effects.min()
    assert "c.png exists" in said(*why, tmp_path / "c.png", code=1)
    assert ".png" in said(*why, tmp_path / "c.pdf", code=1)


def test_a_picture_without_its_extra_is_one_line(
    said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "'matplotlib>=" in said(
        "models", "explain", "human-pbmc", "-o", tmp_path / "m.png", code=1
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("old", [["human-pbmc"], ["human-pbmc", "--cell-type", "NK"]])
def test_what_was_once_explain_of_a_model_is_refused(said: Any, old: list[str]) -> None:
    *_, line = said("explain", *old, code=2).splitlines()
    assert "for a model write: scbignn-infer models explain NAME" in line
