"""Strength: how much of the profile of its type a cell shows, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import msgspec
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.annotation import scores
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.annotator import Annotator
from scbignn_infer.labelling import Labelling
from scbignn_infer.model.bundle import ModelBundle
from scbignn_infer.model.registry import load_model
from scbignn_infer.network.panel import RESIDUAL_GENES, SCALED_STEPS, STRENGTH_GENES, Panel
from scbignn_infer.query.gene_fit import model_genes
from scbignn_infer.query.gene_match import match_genes

if TYPE_CHECKING:
    from scbignn_infer import Annotation
    from scbignn_infer._types import Array
    from scbignn_infer.annotation.adapt import Round

REPOSITORY = Path(__file__).parents[1]
ISLETS = REPOSITORY / "tests" / "data" / "pancreas400.h5ad"


def test_strength_is_the_share_that_least_squares_give() -> None:
    """Cells that are made of a share of their profile, and noise that a covariance allows."""
    rng = np.random.default_rng(0)
    mean, codes = 3 * rng.normal(size=(3, 40)), rng.integers(0, 3, 60)
    factors, share = rng.normal(size=(40, 2)), rng.uniform(0.3, 1.2, 60)
    sigma = factors @ factors.T + np.diag(rng.uniform(0.5, 2, 40))
    cells = share[:, None] * mean[codes] + rng.multivariate_normal(np.zeros(40), 0.1 * sigma, 60)
    alone = np.arange(60)[:, None]  # each is its own neighbour
    weight = np.linalg.solve(sigma, mean.T)
    norm = np.einsum("ck,kc->c", mean, weight)
    found = scores.strength(cells + 2.0, alone, codes, weight, norm, shift=np.full(40, 2.0))
    for i, c in enumerate(codes):
        root = np.linalg.cholesky(np.linalg.inv(sigma)).T
        exact = np.linalg.lstsq((root @ mean[c])[:, None], root @ cells[i], rcond=None)[0][0]
        assert found[i] == pytest.approx(exact, rel=1e-4)
    assert np.abs(found - share).max() < 0.15


def test_neighbours_are_averaged() -> None:
    cells, near = np.array([[1.0], [3.0], [8.0]]), np.array([[1], [2], [0]])
    found = scores.strength(cells, near, np.zeros(3, int), np.ones((1, 1)), np.ones(1))
    np.testing.assert_allclose(found, [2.0, 5.5, 4.5])


def test_a_type_of_one_cell_has_no_neighbour_of_its_own() -> None:
    cells, near = np.array([[1.0], [3.0], [8.0]]), np.array([[1, 2], [2, 0], [1, 0]])
    codes, weight = np.array([0, 1, 1]), np.ones((1, 2))
    found = scores.strength(cells, near, codes, weight, np.ones(2))
    np.testing.assert_allclose(found, [1.0, 5.5, 5.5])  # a pair has the nearest


def test_a_cell_loses_by_being_weaker_than_others_of_its_file() -> None:
    codes = np.repeat([0, 1, 2], 30)
    usual = np.ones(90)
    assert (scores.weakness(usual, codes, 0.8) == 0).all()
    some = usual.copy()
    some[[0, 31]] = 0.4, 0.81
    np.testing.assert_allclose(scores.weakness(some, codes, 0.8)[[0, 31]], [np.log(2), 0])
    np.testing.assert_allclose(scores.weakness(0.7 * some, codes, 0.8)[[0, 31]], [np.log(2), 0])
    foreign = scores.weakness(0.2 * usual, codes, 0.8)  # all are weak, and no laboratory does that
    np.testing.assert_allclose(foreign, np.log(0.4 / 0.2))
    np.testing.assert_allclose(scores.weakness(1.4 * some, codes, 0.8)[31], 0)  # nor is more asked
    assert np.isfinite(scores.weakness(-usual, codes, 0.8)).all()


@pytest.fixture(scope="module")
def body() -> Annotator:
    return Annotator(load_model("human-body"), device="cpu", threads=1, write_graph=True)


def annotate(annotator: Annotator, tissue: str | tuple[()]) -> Annotation:
    cells = ad.read_h5ad(ISLETS)
    rules = Rules.of(annotator.bundle, tissue=tissue)
    return annotator.annotate_matrix(cells.X, cells.var_names.tolist(), rules=rules)


def test_islets_are_no_cells_of_blood(body: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that a model is told to be blood, few keep a label; in their tissue, nearly all."""
    right, wrong = (annotate(body, tissue) for tissue in ("pancreas", "blood"))
    assert np.mean(right.codes >= 0) > 0.95
    monkeypatch.setattr(scores, "weakness", lambda strengths, codes, below: 0.0)
    before = annotate(body, "blood")
    assert np.mean(wrong.codes >= 0) < np.mean(before.codes >= 0) - 0.15
    assert set(np.flatnonzero(wrong.codes >= 0)) <= set(np.flatnonzero(before.codes >= 0))
    fit = [a.unknown_counts().get("genes do not fit", 0) for a in (before, wrong)]
    assert fit[1] > fit[0] + 50


def test_what_is_taken_is_that_of_the_dense_covariance(
    body: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    whole, own = Labelling.round, scores.strength

    def round_(self: Labelling, panel: Panel, rules: Rules) -> Round:
        seen["panel"] = panel
        return whole(self, panel, rules)

    def strength(scaled: Array, near: Array, codes: Array, *tables: Array, shift: Array) -> Array:
        seen["near"], seen["codes"], seen["shift"] = near, codes, shift / SCALED_STEPS
        seen["found"] = own(scaled, near, codes, *tables, shift=shift)
        return seen["found"]

    monkeypatch.setattr(Labelling, "round", round_)
    monkeypatch.setattr(scores, "strength", strength)
    found = annotate(body, "blood")
    panel, codes, near = seen["panel"], seen["codes"], seen["near"]
    first, tables = panel.genes[:STRENGTH_GENES], panel.statistics
    rows = sp.csr_matrix(ad.read_h5ad(ISLETS).X)
    z = panel.standardize(*panel.densify(rows))[:, :STRENGTH_GENES].astype(np.float64)
    own = np.minimum(near.shape[1], np.bincount(codes)[codes] - 1)
    means = [z[[i, *near[i, : own[i]]]].mean(axis=0) for i in range(len(z))]
    smooth = np.array(means) - seen["shift"]
    assert 0 < np.mean(own < near.shape[1]) < 0.5
    factors = tables["within_factors"][first].astype(np.float64)
    sigma = factors @ factors.T + np.diag(tables["within_residual"][first] + tables["ridge"])
    mean = tables["class_mean"][codes][:, first].astype(np.float64)
    solved = np.linalg.solve(sigma, mean.T).T
    exact = (smooth * solved).sum(axis=1) / (mean * solved).sum(axis=1)
    assert np.corrcoef(exact, seen["found"])[0, 1] > 0.9999
    assert np.abs(exact - seen["found"]).max() < 0.03  # scaled expression is kept in steps
    bar = 0.8 * np.clip(scores.typical(exact, codes), 0.5, 1)
    taken = found.penalties[:, 1] - scores.penalties(found.novelty, found.residual)[:, 1]
    clear = exact > 0.1  # the logarithm of less is steep
    weak = np.log(np.maximum(bar / exact[clear], 1))
    np.testing.assert_allclose(taken[clear], weak, atol=0.1)
    assert (weak > 0.2).sum() > 50


def test_a_strong_cell_is_excused_and_a_weak_one_is_not() -> None:
    codes, strengths = np.repeat([0, 1, 2], 30), np.ones(90)
    strengths[:4] = 0.5, np.exp(0.1), np.exp(0.15), 3.0
    np.testing.assert_allclose(scores.excuse(strengths, codes)[:5], [1, 0.5, 0.25, 0.25, 1])
    np.testing.assert_allclose(scores.excuse(0.8 * strengths, codes)[:5], [1, 0.5, 0.25, 0.25, 1])
    foreign = scores.excuse(0.2 * strengths, codes)  # none of them shows much of any type
    np.testing.assert_allclose(foreign[[0, 1, 2, 4]], 1)
    assert (np.diff(scores.excuse(np.linspace(-1, 3, 90), codes)) <= 0).all()


@pytest.fixture(scope="module")
def pancreas() -> Annotator:
    return Annotator(load_model("human-pancreas"), device="cpu", threads=1, write_graph=True)


def without(annotator: Annotator) -> Annotator:
    """Return a model as it was before strength counted."""
    bundle = annotator.bundle
    limits = msgspec.structs.replace(bundle.spec.thresholds, weak=0.0)
    spec = msgspec.structs.replace(bundle.spec, thresholds=limits)
    files = {name: bundle.read(name) for name in spec.files}
    plain = ModelBundle(bundle.path, spec, files, bundle.sha256)
    return Annotator(plain, device="cpu", threads=1, write_graph=True)


def test_what_models_that_follow_their_file_take_for_strength(
    pancreas: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the formula, of what is taken without it and of the strengths."""
    seen: dict[str, Any] = {}
    own = scores.strength

    def strength(scaled: Array, near: Array, codes: Array, *tables: Array, shift: Array) -> Array:
        seen["codes"] = codes
        seen["found"] = own(scaled, near, codes, *tables, shift=shift)
        return seen["found"]

    monkeypatch.setattr(scores, "strength", strength)
    before, after = (annotate(a, ()) for a in (without(pancreas), pancreas))
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    np.testing.assert_array_equal(before.novelty, after.novelty)
    usual = np.clip(scores.typical(seen["found"], seen["codes"]), 0.5, 1)
    relative = np.log(np.maximum(seen["found"], 0.02) / usual)
    left = np.clip(1 - 5 * relative, 0.25, 1)
    expected = before.penalties * left[:, None]
    expected[:, 1] += 0.5 * np.maximum(np.log(0.8) - relative, 0)
    np.testing.assert_allclose(after.penalties, expected, atol=1e-5)
    assert (left < 1).mean() > 0.2
    assert (relative < np.log(0.8)).mean() > 0.01


def test_a_file_of_another_tissue_is_not_excused(pancreas: Annotator) -> None:
    blood = ad.read_h5ad(REPOSITORY / "scbignn_infer" / "examples" / "pbmc700.h5ad")
    both = [
        a.annotate_matrix(blood.X, blood.var_names.tolist()) for a in (without(pancreas), pancreas)
    ]
    assert both[1].provenance.apart > scores.APART
    assert (both[1].penalties >= both[0].penalties - 1e-6).all()
    assert (both[1].penalties > both[0].penalties + 1e-6).any()


@pytest.mark.parametrize("model", ["human-pancreas", "human-pbmc"])
@pytest.mark.parametrize(("weak", "genes"), [(0.8, STRENGTH_GENES), (0.0, RESIDUAL_GENES)])
def test_a_model_without_strength_keeps_fewer_genes(model: str, weak: float, genes: int) -> None:
    bundle = load_model(model)
    assert bundle.spec.thresholds.weak == 0.8
    if not weak:
        bundle = without(Annotator(bundle, device="cpu", threads=1)).bundle
    names = {"symbols": bundle.gene_symbols}
    panel = Panel.of(bundle, match_genes(names, model_genes(bundle)))
    assert panel.n_scaled == genes
