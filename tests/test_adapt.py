"""EM on the query: which cells teach, what they teach, and when a model is left alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scbignn_infer
from scbignn_infer import Annotator, Rules
from scbignn_infer.annotation.adapt import Adaptation, Round, type_sums
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.annotation.provenance import Adapted, Provenance
from scbignn_infer.annotation.scores import CellScores
from scbignn_infer.errors import InputError
from scbignn_infer.query.readers import AnnDataQuery, MatrixQuery

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from scbignn_infer.model.bundle import ModelBundle

pytestmark = pytest.mark.filterwarnings("ignore:the data have only:UserWarning")


@pytest.fixture(scope="module")
def annotator(pbmc_bundle: ModelBundle) -> Annotator:
    return Annotator(pbmc_bundle, device="cpu", threads=1, adapt=True)


@pytest.fixture(scope="module")
def blood(example: Path) -> ad.AnnData:
    """The example as another laboratory might have measured it: genes caught more or less well."""
    cells = ad.read_h5ad(example)
    factor = np.random.default_rng(0).lognormal(0, 1.0, cells.n_vars)
    linear = sp.csr_matrix(cells.X).expm1() @ sp.diags_array(factor)
    return ad.AnnData(sp.csr_matrix(linear).log1p(), cells.obs[[]], cells.var[[]])


def toy_panel(mean: Any, shift: float = 0.0) -> Any:
    k = np.shape(mean)[1]
    tables = {
        "class_mean": np.asarray(mean, np.float16),
        "gene_mean": np.full(k, shift, np.float16),
        "gene_scale": np.full(k, 2.0, np.float16),
        "ridge": np.array(1.0),
    }
    return SimpleNamespace(genes=np.arange(k), statistics=tables)


def toy_round(p: Any, *, agree: float = 1.0, residual: Any = 0.5, empty: Any = False) -> Round:
    p = np.asarray(p, np.float32)
    each = partial(np.broadcast_to, shape=len(p))
    genes = SimpleNamespace(logits=np.log(p), empty=each(empty))
    scores = SimpleNamespace(probabilities=p, agreement=each(agree), residual=each(residual))
    labels = [str(code) for code in range(p.shape[1])]
    rules = Rules(Grouping(labels, [""] * len(labels), np.arange(len(labels))), 0.5)
    return Round(genes, scores, rules)  # type: ignore[arg-type]


class TestMStep:
    mean = np.random.default_rng(0).normal(size=(4, 12))

    def step(self, difference: Any, n: Any, *, own: bool = True) -> tuple[Any, Any]:
        n = np.array(n)
        sums = n[:, None] * (np.float16(self.mean) + np.array(difference, float))
        tables, shift = Adaptation().m_step(toy_panel(self.mean), sums, n, own=own)
        whole = tables["class_mean"] + tables["gene_mean"] / 2 - np.float16(self.mean)
        return shift, whole

    def test_what_all_types_share_is_a_shift_of_the_genes(self) -> None:
        shift, whole = self.step(np.full((4, 12), 0.5), [30, 300, 8, 0])
        np.testing.assert_allclose(shift, 0.5)
        np.testing.assert_allclose(whole, 0.5)  # also of the type that was not seen

    def test_many_cells_outweigh_the_reference_and_few_do_not(self) -> None:
        difference = np.zeros((4, 12))
        difference[0] = 1
        moved = [self.step(difference, [n, 9999, 9999, 9999])[1][0].mean() for n in (6, 100, 1e6)]
        assert moved[0] < 0.15 < moved[1] < 0.6
        assert moved[2] == pytest.approx(1, abs=0.01)

    def test_it_is_the_posterior_mean_of_its_model(self) -> None:
        """Against the equations of a joint Gaussian with a common mean of no known size."""
        rng, n, seen = np.random.default_rng(1), np.array([50, 7, 400, 2]), [0, 1, 2]
        difference = rng.normal(size=(4, 12))
        shift, whole = self.step(difference, n)
        x = np.float16(self.mean).astype(float)
        unit = x - x.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        values, vectors = np.linalg.eigh(np.maximum(unit @ unit.T, 0))
        alike = (vectors * np.maximum(values, 0)) @ vectors.T
        wide = 1e7 + 0.5 * np.eye(4) + 0.5 * alike  # a shift that may be anything
        inner = wide[np.ix_(seen, seen)] + np.diag(100 / n[seen])
        expected = wide[:, seen] @ np.linalg.solve(inner, difference[seen])
        np.testing.assert_allclose(whole, expected, atol=1e-4)
        assert shift.shape == (12,)

    def test_relatives_follow_and_strangers_do_not(self) -> None:
        mean = np.zeros((4, 12))
        mean[0, :3], mean[1, :3], mean[2, 4:8], mean[3, 8:] = 2, 2.1, 2, 2
        difference = np.zeros((4, 12))
        difference[0] = 1
        n = np.array([500, 0, 500, 500])
        tables, _ = Adaptation().m_step(toy_panel(mean), n[:, None] * (mean + difference), n)
        whole = tables["class_mean"] + tables["gene_mean"] / 2 - np.float16(mean)
        assert whole[1].mean() > 0.5 > whole[2].mean() + 0.2

    def test_shift_only(self) -> None:
        difference = np.random.default_rng(2).normal(size=(4, 12))
        shift, whole = self.step(difference, [50, 50, 50, 50], own=False)
        np.testing.assert_allclose(whole, np.tile(shift, (4, 1)), atol=1e-6)

    def test_the_reference_stays_as_it_is(self) -> None:
        panel = toy_panel(self.mean)
        before = {k: v.copy() for k, v in panel.statistics.items()}
        tables, _ = Adaptation().m_step(panel, np.ones((4, 12)), np.full(4, 9))
        assert all((panel.statistics[k] == before[k]).all() for k in before)
        assert tables["ridge"] is panel.statistics["ridge"]


class TestTrust:
    sure, less = [0.9, 0.1], [0.6, 0.4]

    def test_a_cell_is_trusted_that_is_sure(self) -> None:
        found = toy_round([*[self.sure] * 3, self.less, [0.05, 0.95]])
        assert Adaptation().trust(found, 1.0).tolist() == [0, 0, 0, -1, 1]

    def test_if_none_is_sure_it_is_the_surer_half(self) -> None:
        found = toy_round([[0.5 + 0.01 * i, 0.5 - 0.01 * i] for i in range(1, 12)])
        assert Adaptation().trust(found, 1.0).tolist() == [-1] * 5 + [0] * 6

    def test_empty_cells_and_those_among_others_are_not(self) -> None:
        found = toy_round([self.sure] * 3, agree=0.7)  # type: ignore[arg-type]
        assert (Adaptation().trust(found, 1.0) == -1).all()
        found = toy_round([self.sure] * 3, empty=np.array([True, False, False]))
        assert Adaptation().trust(found, 1.0).tolist() == [-1, 0, 0]

    def test_a_type_that_is_stranger_than_the_others_is_not(self) -> None:
        """Cells of an unseen type, all of them called one type, do not speak for it."""
        p = np.repeat(np.eye(3) * 0.9 + 0.03, 30, axis=0)
        residual = np.repeat([0.9, 1.0, 2.0], 30)
        codes = Adaptation().trust(toy_round(p, residual=residual), 1.0)
        assert codes.tolist() == [0] * 30 + [1] * 30 + [-1] * 30

    def test_the_gene_level_alone(self) -> None:
        found = toy_round([self.sure, self.less], agree=0.0)
        found.genes.logits[:] = np.log([[0.01, 0.99], [0.3, 0.7]])
        assert Adaptation(teacher="gene").trust(found, 1.0).tolist() == [1, -1]


class TestWhatWasTaught:
    """A step is undone if cells that taught it are called something else by what they taught."""

    shift = np.zeros(3)

    def judged(self, kept: int, taught: int) -> str:
        """Return why a step is refused after which a type keeps some of its trusted cells."""
        codes = np.repeat([0, 1, -1], [100, taught, 50])
        said = codes.copy()
        said[100 + kept : 100 + taught] = 0
        p = np.eye(2)[np.maximum(said, 0)] * 0.9 + 0.05
        before = toy_round(np.eye(2)[np.maximum(codes, 0)] * 0.9 + 0.05)
        adapted = Adapted(agreement=1.0)
        return Adaptation().judged(adapted, self.shift, codes, before, toy_round(p)).refused

    def test_a_type_that_loses_its_trusted_cells(self) -> None:
        assert self.judged(20, 20) == self.judged(18, 20) == ""
        assert (
            self.judged(16, 20)
            == "of the cells that taught it a type, only 80% are still called that"
        )

    def test_few_cells_do_not_count(self) -> None:
        assert self.judged(2, 9) == ""
        assert self.judged(2, 10).endswith("only 20% are still called that")


class TestTypesOfFewCells:
    def test_they_are_those_that_are_called_but_seldom(self) -> None:
        p = np.eye(4)[[0] * 5 + [1] * 4 + [2] * 4] * 0.9 + 0.025
        found = toy_round(p, empty=np.array([False] * 12 + [True]))
        how = Adaptation(few=5)
        assert how.small(found).tolist() == [False, True, True, False]
        assert how.stay(found).tolist() == [False] * 5 + [True] * 7 + [False]
        few = how.record(found, np.full(13, -1), ["a", "b", "c", "d"]).small
        assert few == ["b", "c"]

    @pytest.mark.parametrize("level", [{}, {"Naive CD4 T": "T", "Memory CD4 T": "T"}])
    def test_their_cells_keep_what_was_said_and_others_do_not(
        self, annotator: Annotator, blood: ad.AnnData, level: dict[str, str]
    ) -> None:
        query = AnnDataQuery(blood)
        rules = Rules.of(annotator.bundle, adapt=True, groups=level)
        plain = annotator.annotate_query(query, rules=replace(rules, adapt=False))
        each = annotator.annotate_query(query, rules=replace(annotator.rules, adapt=False))
        found = annotator.annotate_query(query, rules=rules)
        record = found.provenance.adapted
        assert record is not None
        assert "NK" in record.small
        assert f"cells called {', '.join(record.small)} stayed as they were" in record.said
        stay = np.isin(each.best_labels, record.small)
        for name in ("probabilities", "novelty", "residual", "neighbor_agreement"):
            new, old = (getattr(x, name) for x in (found, plain))
            np.testing.assert_array_equal(new[stay], old[stay])
            assert (new[~stay] != old[~stay]).any()
        assert (found.gene_level_labels == plain.gene_level_labels)[stay].all()


class TestSupport:
    def test_a_cell_gains_no_more_than_a_trusted_one_does(self) -> None:
        p = np.repeat([[0.9, 0.1]], 6, axis=0)
        before, after = toy_round(p), toy_round(p)
        before.scores.support = np.array([0.5, 0.5, 0.6, 0.1, 0.9, 0.2])  # type: ignore[misc]
        after.scores.support = np.array([0.7, 0.7, 0.8, 0.9, 0.8, 0.4])  # type: ignore[misc]
        codes = np.array([0, 0, 1, -1, -1, -1])
        excess = Adaptation().excess(before, after, codes)
        np.testing.assert_allclose(excess, [0, 0, 0, 0.6, 0, 0], atol=1e-6)

    def test_nothing_is_taken_of_what_was_there(self) -> None:
        before, after = toy_round([[0.9, 0.1]] * 2), toy_round([[0.9, 0.1]] * 2)
        before.scores.support = np.array([0.8, 0.3])  # type: ignore[misc]
        after.scores.support = np.array([0.5, 0.4])  # type: ignore[misc]
        excess = Adaptation().excess(before, after, np.array([0, -1]))
        np.testing.assert_allclose(after.scores.support - excess, [0.5, 0.3], atol=1e-6)

    def test_no_cell_has_more_than_before_and_what_is_typical(
        self, annotator: Annotator, blood: ad.AnnData
    ) -> None:
        query = AnnDataQuery(blood)
        rules = Rules.of(annotator.bundle, adapt=True, depth="leaf")
        plain = annotator.annotate_query(query, rules=replace(rules, adapt=False))
        found = annotator.annotate_query(query, rules=rules)
        gain = found.support - plain.support
        taken = found.excess > 1e-3  # of these what they gained beyond it is taken back
        np.testing.assert_allclose(gain[taken], gain.max(), atol=1e-3)
        assert 0.01 < gain.max() < 0.5
        assert (found.excess > 0.1).any()
        assert (plain.excess == 0).all()


def test_sums_are_those_of_the_dense_matrix(annotator: Annotator, blood: ad.AnnData) -> None:
    query = AnnDataQuery(blood)
    choice = annotator.choose(query)
    codes = np.random.default_rng(0).integers(-1, 3, blood.n_obs)
    blocks = partial(query.blocks, choice.matrix)
    one, two = (
        type_sums(blocks, choice.panel, codes, n_types=4, workers=workers) for workers in (1, 3)
    )
    np.testing.assert_array_equal(one, two)
    z = choice.panel.standardize(*choice.panel.densify(sp.csr_matrix(blood.X)))
    for c in range(4):
        np.testing.assert_allclose(one[c], z[codes == c].sum(axis=0), atol=1e-3)


def test_it_undoes_what_a_laboratory_does(annotator: Annotator, blood: ad.AnnData) -> None:
    query, plain = AnnDataQuery(blood), replace(annotator.rules, adapt=False)
    before = annotator.annotate_query(query, rules=plain)
    found = annotator.annotate_query(query)
    record = found.provenance.adapted
    assert record is not None
    assert record.refused == ""
    assert record.cells == sum(record.cells_of_types) > 300
    assert record.shift > 0.1
    assert found.residual.mean() < before.residual.mean() - 0.1
    assert found.novelty.mean() < before.novelty.mean() - 0.05
    assert (found.best_labels == before.best_labels).mean() > 0.95
    assert before.provenance.adapted is None
    for said in (found.summary(), found.record()):
        assert said["adapted"]["cells"] == record.cells
    assert "adapted" not in before.summary()
    assert "adapted" not in before.record()


def test_a_cell_of_the_same_label_is_at_most_half_as_much_stranger(annotator: Annotator) -> None:
    spec = annotator.bundle.spec
    grouping = Grouping.each(spec.cell_types)
    now, then = (CellScores(4, grouping, 1.0, Ontology.of(spec, grouping)) for _ in range(2))
    then.probabilities[:, :2] = [[0.9, 0.1]] * 3 + [[0.1, 0.9]]
    now.probabilities[:, :2] = [[0.8, 0.2]] * 4  # the last has another label
    then.novelty[:], now.novelty[:] = [0.2, 0.8, 0.5, 0.2], [0.6, 0.4, 0.5, 0.6]
    then.residual[:], now.residual[:] = 0.1, [0.3, 0.0, 0.1, 0.3]
    then.penalties[:], now.penalties[:] = [0.1, 0.4], [0.5, 0.2]
    now.spare(then)
    np.testing.assert_allclose(now.novelty, [0.4, 0.4, 0.5, 0.6])
    np.testing.assert_allclose(now.residual, [0.2, 0.0, 0.1, 0.3])
    np.testing.assert_allclose(now.penalties, [[0.3, 0.2]] * 3 + [[0.5, 0.2]])
    np.testing.assert_allclose(then.novelty, [0.2, 0.8, 0.5, 0.2])


def test_the_order_of_cells_and_threads_change_no_label(
    annotator: Annotator, blood: ad.AnnData
) -> None:
    found = annotator.annotate_query(AnnDataQuery(blood))
    order = np.random.default_rng(0).permutation(blood.n_obs)
    other = annotator.annotate_query(AnnDataQuery(blood[order].copy()))
    assert (other.labels == found.labels[order]).all()
    np.testing.assert_allclose(other.probabilities, found.probabilities[order], atol=1e-3)
    one, three = (
        Annotator(annotator.bundle, device="cpu", threads=n, adapt=True, batch_cells=50)
        for n in (1, 3)
    )
    np.testing.assert_array_equal(
        *(a.annotate_query(AnnDataQuery(blood)).probabilities for a in (one, three))
    )


def test_cells_of_unseen_types_do_not_pull(
    annotator: Annotator, blood: ad.AnnData, real_data: Callable[[str], Path]
) -> None:
    """Islets among blood: hardly one is trusted, and blood is called as without them."""
    islets = ad.read_h5ad(real_data("pancreas_baron_human1.h5ad"))
    islets = islets[islets.obs["cell_type_common"].isin(["alpha", "beta", "ductal"])][:200]
    both = ad.concat([blood, ad.AnnData(islets.X, islets.obs[[]], islets.var[[]])], join="inner")
    query = AnnDataQuery(blood[:, both.var_names].copy())
    rules = annotator.rules
    alone, mixed = annotator.annotate_query(query), None
    x = sp.csr_matrix(islets[:, both.var_names].X)
    scaled = sp.csr_matrix(sp.diags_array(1e4 / np.asarray(x.sum(axis=1)).ravel()) @ x).log1p()
    rows = sp.vstack([sp.csr_matrix(query.rows("X", np.arange(700))), scaled]).tocsr()
    mixed = annotator.annotate_query(MatrixQuery(rows, list(both.var_names)), rules=rules)
    a, b = alone.provenance.adapted, mixed.provenance.adapted
    assert a is not None
    assert b is not None
    assert b.refused or b.cells <= 1.1 * a.cells
    assert (mixed.best_labels[:700] == alone.best_labels).mean() > 0.97
    assert (mixed.labels[700:] == "unknown").mean() > 0.8


def test_cells_that_trained_the_model_are_still_recognised(
    annotator: Annotator, real_data: Callable[[str], Path]
) -> None:
    taught = ad.read_h5ad(real_data("pbmc3k_seurat.h5ad"))[:1000]
    found = annotator.annotate_query(AnnDataQuery(taught))
    plain = annotator.annotate_query(
        AnnDataQuery(taught), rules=replace(annotator.rules, adapt=False)
    )
    record = found.provenance.adapted
    assert record is not None
    assert record.refused == ""
    assert found.provenance.training_cells == plain.provenance.training_cells > 100


def test_another_tissue_teaches_nothing(
    annotator: Annotator, real_data: Callable[[str], Path]
) -> None:
    islets = ad.read_h5ad(real_data("pancreas_baron_human1.h5ad"))
    found = annotator.annotate_query(AnnDataQuery(islets))
    record = found.provenance.adapted
    assert record is not None
    assert record.cells > 300
    assert record.refused.endswith("it needs 300 cells, 40% of all, of 4 types")
    assert (found.labels == "unknown").mean() > 0.9


def test_few_cells_are_left_alone(annotator: Annotator, blood: ad.AnnData) -> None:
    query = AnnDataQuery(blood[:60].copy())
    found = annotator.annotate_query(query)
    plain = annotator.annotate_query(query, rules=replace(annotator.rules, adapt=False))
    record = found.provenance.adapted
    assert record is not None
    assert record.refused.startswith("the model is sure of ")
    assert record.said == f"not adapted to the query: {record.refused}"
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    np.testing.assert_array_equal(found.residual, plain.residual)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (Adaptation(tolerated=-1.0), "the levels agree on fewer cells after it ("),
        (Adaptation(apart=-1.0), "fewer neighbours have one label after it ("),
        (Adaptation(kept=1.1), "of the cells that taught it a type, only "),
    ],
    ids=["levels", "neighbours", "taught"],
)
def test_a_step_is_undone_if_cells_agree_less(
    pbmc_bundle: ModelBundle, blood: ad.AnnData, how: Adaptation, why: str
) -> None:
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1, adapt=True)
    annotator.adaptation = how
    query = AnnDataQuery(blood)
    found = annotator.annotate_query(query)
    plain = annotator.annotate_query(query, rules=replace(annotator.rules, adapt=False))
    record = found.provenance.adapted
    assert record is not None
    assert record.refused.startswith(why)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)


def test_groups_are_those_of_the_adapted_types(annotator: Annotator, blood: ad.AnnData) -> None:
    query = AnnDataQuery(blood)
    rules = Rules.of(annotator.bundle, adapt=True, groups={"Naive CD4 T": "T", "Memory CD4 T": "T"})
    grouped, each = annotator.annotate_query(query, rules=rules), annotator.annotate_query(query)
    assert grouped.provenance.adapted == each.provenance.adapted
    merged = np.where(
        np.isin(each.best_labels, ["Naive CD4 T", "Memory CD4 T"]), "T", each.best_labels
    )
    assert (grouped.best_labels == merged).mean() > 0.99


def test_an_explanation_is_of_the_adapted_model(blood: ad.AnnData) -> None:
    cell = blood.obs_names[3]
    (why,) = scbignn_infer.explain(blood, "human-pbmc", [cell], threads=1, adapt=True)
    (plain,) = scbignn_infer.explain(blood, "human-pbmc", [cell], threads=1)
    scbignn_infer.annotate(blood, "human-pbmc", threads=1, adapt=True, key_added="k")
    assert why.confidence == pytest.approx(blood.obs.loc[cell, "k_confidence"])
    assert why.present != plain.present


def test_it_is_refused_where_labels_are_fixed(
    pbmc_bundle: ModelBundle, blood: ad.AnnData, run: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="take graph 'query' and no --split"):
        Annotator(pbmc_bundle, graph="reference", adapt=True)
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1, graph="reference")
    with pytest.raises(InputError, match="an adaptation to the query's cells"):
        annotator.annotate_query(AnnDataQuery(blood), rules=replace(annotator.rules, adapt=True))
    blood.write_h5ad(tmp_path / "q.h5ad")
    common = ("annotate", tmp_path / "q.h5ad", "-m", "human-pbmc", "-O", tmp_path / "out")
    for more in (["--graph", "reference"], ["--split", "100"]):
        failed = run(*common, "--adapt", *more, code=1)
        assert "an adaptation to the query's cells" in failed.stderr


def test_the_command_says_what_it_changed(
    blood: ad.AnnData, run: Callable[..., Result], tmp_path: Path
) -> None:
    blood.write_h5ad(tmp_path / "q.h5ad")
    page = tmp_path / "page.html"
    common = ("annotate", tmp_path / "q.h5ad", "-m", "human-pbmc", "--threads", "1")
    told = run(*common, "--adapt", "-o", tmp_path / "o.h5ad", "--report", page)
    written = ad.read_h5ad(tmp_path / "o.h5ad").uns["scbignn"]
    record = Provenance.from_record(written).adapted
    assert isinstance(record, Adapted)
    assert record.said in told.stderr
    assert "each label depends on the other cells" in record.said
    assert f"{record.cells:,} trusted cells" in page.read_text()
    labelled = ad.read_h5ad(tmp_path / "o.h5ad")
    labelled.obs["truth"] = labelled.obs["scbignn_best_cell_type"].astype(str)
    labelled.write_h5ad(tmp_path / "o.h5ad")
    scored = run("evaluate", tmp_path / "o.h5ad", "--truth", "truth")
    assert record.said in " ".join(scored.stderr.split())
