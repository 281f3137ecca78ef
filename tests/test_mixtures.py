"""Cells between two types: the formula by dense algebra, made doublets, and what is written."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.special import logsumexp
from scipy.stats import rankdata

import scbignn_infer
from scbignn_infer import Annotator, Rules
from scbignn_infer.annotation import mixtures as mx
from scbignn_infer.annotation.mixtures import Explainer, Mixtures, find_mixtures
from scbignn_infer.query.readers import MatrixQuery
from scbignn_infer.query.reading import choose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scbignn_infer.settings import GraphKind

MODEL = "human-pancreas"
MOST_NAMED = 0.03
"""Of cells that are none, in studies that the bar was not chosen on."""


@pytest.fixture(scope="module")
def islets(request: pytest.FixtureRequest) -> ad.AnnData:
    return ad.read_h5ad(request.path.parent / "data" / "pancreas400.h5ad")


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator.load(MODEL, threads=1)


def auroc(negative: Any, positive: Any) -> float:
    """Return the share of pairs of a negative and a positive that are in the right order."""
    ranks = rankdata(np.concatenate([negative, positive]))
    n, m = len(negative), len(positive)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def with_doublets(counts: sp.csr_matrix, labels: Any, seed: int = 0) -> tuple[Any, Any]:
    """Return the cells and a tenth as many doublets of different types, and their two cells."""
    rng, n = np.random.default_rng(seed), len(labels)
    pairs = rng.integers(0, n, (50 * n, 2))
    pairs = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]][: n // 10]
    return sp.vstack([counts, counts[pairs[:, 0]] + counts[pairs[:, 1]]]).tocsr(), pairs


def scored(annotator: Annotator, counts: Any, genes: list[str], **rules: Any) -> Any:
    rules = {"mixtures": True, **rules}
    return annotator.annotate_matrix(counts, genes, rules=Rules.of(annotator.bundle, **rules))


@pytest.fixture(scope="module")
def found(annotator: Annotator, islets: ad.AnnData) -> Any:
    labels = islets.obs["cell_type"].astype(str).to_numpy()
    counts, pairs = with_doublets(islets.X, labels)
    return counts, pairs, labels, scored(annotator, counts, list(islets.var_names))


def test_the_evidence_is_that_of_the_formula(found: Any, annotator: Annotator) -> None:
    """Dense covariances and loops over all pairs, from the tables of the bundle alone."""
    counts, _, _, annotation = found
    genes = list(
        ad.read_h5ad(__file__.replace("test_mixtures.py", "data/pancreas400.h5ad")).var_names
    )
    query = MatrixQuery(counts, genes)
    panel = choose(query, annotator.bundle).panel
    tables = {k: np.asarray(v, np.float64) for k, v in panel.statistics.items()}
    g = panel.genes
    sigma = tables["within_factors"][g] @ tables["within_factors"][g].T
    sigma += np.diag(tables["within_residual"][g] + tables["ridge"])
    inverse, mean, scale = np.linalg.inv(sigma), tables["gene_mean"][g], tables["gene_scale"][g]
    profile = tables["class_mean"][:, g]
    prior = np.log(tables["cells_per_type"] / tables["cells_per_type"].sum())
    called = np.bincount(
        annotation.gene_level_codes, minlength=len(profile)
    )  # no tissue: classes are labels
    parts = np.flatnonzero(called >= max(10, 0.005 * len(annotation)))
    z = panel.standardize(*panel.densify(counts)).astype(np.float64)
    rows = np.r_[0:15, len(z) - 15 : len(z)]

    def likely(mu: Any, x: Any) -> float:
        weight = inverse @ mu
        return float((x @ weight - mu @ weight / 2) / 5.0)

    def mixed(a: int, b: int, w: float) -> Any:
        one, other = (np.expm1(np.maximum(profile[c] * scale + mean, 0)) for c in (a, b))
        return (np.log1p(w * one + (1 - w) * other) - mean) / scale

    explain = Explainer(panel, annotator.rules.grouping, annotation.gene_level_codes, 5.0)
    assert sorted(explain.types.tolist()) == parts.tolist()
    pairs, evidence, totals, misfit = explain(counts[rows])
    np.testing.assert_allclose(totals, panel.densify.totals(counts[rows]))

    def off(mu: Any, x: Any) -> float:
        return float((x - mu) @ inverse @ (x - mu))

    for i, row in enumerate(rows):
        single = [likely(profile[c], z[row]) + prior[c] for c in range(len(profile))]
        first = max(parts, key=lambda c: single[c])
        both = {
            (b, w): likely(mixed(first, b, w), z[row]) + prior[first] + prior[b]
            for b, w in product(parts, (0.3, 0.5, 0.7))
            if b != first
        }
        expected = logsumexp(list(both.values())) - logsumexp(single) - np.log(3)
        assert evidence[i] == pytest.approx(expected, abs=2e-3 * max(1, abs(expected)))
        assert pairs[i, 0] == first
        best = max(both, key=both.__getitem__)[0]
        assert (
            both[max(both, key=both.__getitem__)]
            - max(v for (b, _), v in both.items() if b == pairs[i, 1])
            < 2e-3
            or pairs[i, 1] == best
        )
        of_type = min(off(mu, z[row]) for mu in profile)
        assert misfit[i, 0] == pytest.approx(of_type, rel=5e-3)
        shares = (0.3, 0.5, 0.7)
        ofs = [off(mixed(pairs[i, 0], pairs[i, 1], w), z[row]) for w in shares]
        assert min(abs(misfit[i, 1] / v - 1) for v in ofs) < 5e-3


def test_made_doublets_are_found_and_labels_stay(
    found: Any, annotator: Annotator, islets: ad.AnnData
) -> None:
    counts, pairs, labels, annotation = found
    score, n = annotation.mixtures.score, len(labels)
    assert auroc(score[:n], score[n:]) > 0.9
    assert annotation.mixtures.named[:n].mean() <= MOST_NAMED
    named = annotation.mixtures.named[n:]
    names = annotation.mixture_names[n:]
    merged = {"quiescent_stellate": "stellate", "activated_stellate": "stellate"}
    truth = [" + ".join(sorted(merged.get(labels[i], labels[i]) for i in pair)) for pair in pairs]
    assert named.sum() >= 5
    assert np.mean([names[i] == truth[i] for i in np.flatnonzero(named)]) > 0.7
    plain = annotator.annotate_matrix(counts, list(islets.var_names))
    assert plain.mixtures is None
    assert "scbignn_mixture" not in plain.columns()
    assert plain.labels.tolist() == annotation.labels.tolist()
    np.testing.assert_array_equal(plain.probabilities, annotation.probabilities)


@pytest.mark.parametrize(
    ("file", "model", "key", "least"),
    [
        ("pancreas_enge_2017.h5ad", "human-pancreas", "cell_type", 0.9),
        ("pbmc_10x_frozen_donorA_UNLABELLED.h5ad", "human-pbmc", None, 0.9),
        ("liver_aizarani_2019.h5ad", "human-body", "cell_type", 0.75),
    ],
)
def test_doublets_of_studies_left_out(
    real_data: Callable[[str], Path], file: str, model: str, key: str | None, least: float
) -> None:
    cells = ad.read_h5ad(real_data(file))
    annotator, genes = Annotator.load(model, threads=1), list(cells.var_names)
    counts = sp.csr_matrix(cells.X)
    if key is None:
        labels = annotator.annotate_matrix(counts, genes).best_labels.astype(str)
    else:
        labels = cells.obs[key].astype(str).to_numpy()
    counts, _ = with_doublets(counts, labels)
    score = scored(annotator, counts, genes).mixtures.score
    n = len(labels)
    assert auroc(score[:n], score[n:]) >= least
    assert (score[:n] > 0).mean() <= MOST_NAMED


def test_threads_and_order_change_nothing(
    found: Any, annotator: Annotator, islets: ad.AnnData
) -> None:
    counts, _, _, annotation = found
    genes = list(islets.var_names)
    many = Annotator.load(MODEL, threads=4)
    again = scored(many, counts, genes).mixtures
    np.testing.assert_array_equal(again.score, annotation.mixtures.score)
    np.testing.assert_array_equal(again.codes, annotation.mixtures.codes)
    order = np.random.default_rng(0).permutation(len(annotation))
    turned = scored(annotator, counts[order], genes)
    np.testing.assert_allclose(turned.mixtures.score, annotation.mixtures.score[order], atol=1e-3)
    sure = np.abs(annotation.mixtures.score[order]) > 1e-3
    names = annotation.mixture_names[order]
    assert turned.mixture_names[sure].tolist() == names[sure].tolist()


@pytest.mark.parametrize("graph", ["query", "reference"])
def test_a_sample_s_depth_is_its_own(
    annotator: Annotator, islets: ad.AnnData, graph: GraphKind
) -> None:
    """Twice as many counts in all cells of a sample make no doublets of them."""
    deep = islets.copy()
    deep.X = deep.X * 2
    both = ad.concat({"a": islets, "b": deep}, label="sample", index_unique="-")
    both.obs["sample"] = both.obs["sample"].astype(str)
    together, apart = both.copy(), both.copy()
    for cells, key in ((together, None), (apart, "sample")):
        scbignn_infer.annotate(
            cells, annotator.bundle, mixtures=True, batch_key=key, graph=graph, threads=1
        )
    n = len(islets)
    score = {
        k: c.obs["scbignn_mixture_score"].to_numpy() for k, c in (("t", together), ("a", apart))
    }
    np.testing.assert_allclose(score["a"][:n], score["a"][n:], atol=1e-3)
    assert np.median(score["t"][n:] - score["t"][:n]) == pytest.approx(4.5 * np.log(2), abs=0.2)


def test_groups_are_mixed_and_not_the_types_of_one(
    found: Any, annotator: Annotator, islets: ad.AnnData
) -> None:
    counts = found[0]
    groups = dict.fromkeys(("alpha", "beta", "delta", "gamma", "epsilon"), "endocrine")
    annotation = scored(annotator, counts, list(islets.var_names), groups=groups)
    kinds = {kind for name in annotation.mixture_counts() for kind in name.split(" + ")}
    assert "endocrine" in kinds
    assert not kinds & set(groups)
    assert "endocrine + endocrine" not in annotation.mixture_counts()
    one = dict.fromkeys(annotator.bundle.cell_types, "cell")
    alone = scored(annotator, counts, list(islets.var_names), groups=one)
    assert np.isnan(alone.mixtures.score).all()
    assert set(alone.mixture_names) == {""}


def test_cells_without_counts_are_no_mixtures(annotator: Annotator, islets: ad.AnnData) -> None:
    counts = islets.X.copy()
    counts.data[: counts.indptr[5]] = 0
    annotation = scored(annotator, counts, list(islets.var_names))
    assert np.isnan(annotation.mixtures.score[:5]).all()
    assert not np.isnan(annotation.mixtures.score[5:]).any()


def test_the_bar_follows_the_file() -> None:
    """Cells far above the median are named, by the spread below it; and none below the least."""

    def named(score: Any, misfit: Any = None) -> Any:
        totals = np.ones(len(score))
        misfit = np.ones((len(score), 2)) if misfit is None else misfit

        class Given:
            types = np.array([0, 1])

            def __call__(self, rows: Any) -> Any:
                part = slice(int(rows[0, 0]), int(rows[0, 0]) + rows.shape[0])
                parts = np.tile([1, 0], (rows.shape[0], 1))
                return parts, score[part], totals[part], misfit[part]

        rows = sp.csr_matrix(np.arange(len(score), dtype=float)[:, None])
        return find_mixtures(
            lambda size: (rows[i : i + size] for i in range(0, len(score), size)),
            Given(),  # type: ignore[arg-type]
            np.array([3, 5]),
            [slice(None)],
            n_cells=len(score),
            workers=1,
            report=lambda *_: None,
        )

    score = np.concatenate([np.random.default_rng(0).normal(-6, 3, 5000), [9.0, 8.0, 0.5]])
    low, middle = np.quantile(score, [0.25, 0.5])
    found = named(score)
    np.testing.assert_allclose(found.score, score - (middle + 4.5 * (middle - low)), atol=1e-5)
    assert found.named[-3:].tolist() == [True, True, False]
    assert found.codes[0].tolist() == [3, 5]
    wide = named(np.concatenate([np.random.default_rng(0).normal(-6, 5, 5000), [6.1, 5.9]]))
    assert wide.named[-2:].tolist() == [True, False]  # the bar would be at 9
    narrow = named(np.concatenate([np.random.default_rng(0).normal(-6, 0.1, 5000), [0.9, 1.1]]))
    assert narrow.named[-2:].tolist() == [False, True]
    assert narrow.named.sum() == 1
    misfit = np.stack([np.linspace(1, 2, 5003), np.full(5003, 1.5)], axis=1)
    misfit[-3:, 1] = [1.95, 1.85, 1.95]  # the first and the last fit worse than nine in ten do
    gated = named(score, misfit)
    assert gated.named[-3:].tolist() == [False, True, False]
    assert gated.score[-3] == 0
    np.testing.assert_array_equal(gated.score[:-3], found.score[:-3])


def test_names_are_of_two_labels() -> None:
    found = Mixtures(np.array([[0, 2], [-1, -1], [1, 2]], np.int16), np.array([0.1, np.nan, -1.0]))
    assert found.named.tolist() == [True, False, False]
    assert found.names(["B cell", "NK", "CD14 monocyte"]).tolist() == [
        "B cell + CD14 monocyte",
        "",
        "",
    ]


def test_genes_say_less_in_files_that_do_not_fit(pbmc_bundle: Any) -> None:
    assert [mx.temperature_of(pbmc_bundle.spec, m) for m in (0.5, 1.0, 2.0)] == [4, 4, 16]
    body = Annotator.load("human-body", threads=1).bundle.spec
    assert [mx.temperature_of(body, m) for m in (0.5, 1.0, 2.0)] == [15, 15, 60]


def test_files_and_tables_have_the_names(
    run: Callable[..., Any], found: Any, islets: ad.AnnData, tmp_path: Path
) -> None:
    counts, _, _, annotation = found
    cells = ad.AnnData(counts, var=islets.var[[]])
    cells.obs_names = [f"c{i}" for i in range(len(annotation))]
    query, out, table = (tmp_path / name for name in ("a.h5ad", "b.h5ad", "c.csv"))
    cells.write_h5ad(query)
    more = ["-m", MODEL, "--threads", 1, "--mixtures"]
    done = run("annotate", query, "-o", out, *more)
    said = json.loads(run("annotate", query, "-o", table, *more, "--json").stdout)
    names = annotation.mixture_names
    assert said["mixtures"] == annotation.mixture_counts()
    assert sum(said["mixtures"].values()) == (names != "").sum() > 0
    assert f"mixtures  {(names != '').sum()} cells" in done.stderr
    written, read = ad.read_h5ad(out), pd.read_csv(table, index_col=0, na_filter=False)
    assert written.obs["scbignn_mixture"].tolist() == names.tolist()
    assert read["scbignn_mixture"].tolist() == names.tolist()
    np.testing.assert_allclose(
        written.obs["scbignn_mixture_score"], annotation.mixtures.score, atol=1e-5
    )
    again = run("annotate", out, "-o", tmp_path / "d.h5ad", "-m", MODEL, "--overwrite")
    assert again.exit_code == 0
    assert "scbignn_mixture" not in ad.read_h5ad(tmp_path / "d.h5ad").obs  # those are of old labels


def test_a_sample_is_not_divided(run: Callable[..., Any], example: Path, tmp_path: Path) -> None:
    more = ["--mixtures", "--split", 1024, "--graph", "reference", "-m", "human-pbmc"]
    done = run("annotate", example, "-O", tmp_path / "out", *more, code=1)
    assert "a sample is to be divided, and mixtures are named by what is usual" in done.stderr


def test_it_goes_with_adaptation_and_left_out_barcodes(
    found: Any, islets: ad.AnnData, annotator: Annotator
) -> None:
    cells = ad.AnnData(found[0], var=islets.var[[]])
    few = np.asarray(cells.X.sum(axis=1)).ravel() < 2000
    assert 0 < few.sum() < 100
    scbignn_infer.annotate(
        cells, annotator.bundle, mixtures=True, adapt=True, min_counts=2000, threads=1
    )
    assert cells.obs["scbignn_mixture_score"].isna().tolist() == few.tolist()
    assert set(cells.obs["scbignn_mixture"][few]) == {""}
    assert (cells.obs["scbignn_mixture"] != "").sum() > 3
