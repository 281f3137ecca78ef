"""Cells of few counts: the model's statistics are taken at as many counts as they have."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer import Annotator
from scbignn_infer.network import shallow
from scbignn_infer.network.panel import TARGET_SUM
from scbignn_infer.query.readers import MatrixQuery, open_query
from scbignn_infer.settings import Reading

FIXTURE = Path(__file__).parent / "data" / "pancreas400.h5ad"
ANY_GENES = Reading(min_gene_coverage=0.0)


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    return ad.read_h5ad(FIXTURE)


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator.load("human-pancreas", device="cpu", threads=1)


@pytest.fixture(scope="module")
def statistics(annotator: Annotator) -> dict[str, np.ndarray]:
    return dict(annotator.bundle.statistics)


def thinned(counts: sp.csr_matrix, depth: int, seed: int = 0) -> sp.csr_matrix:
    """Draw about so many counts of each cell."""
    counts = sp.csr_matrix(counts, copy=True)
    share = np.minimum(depth / np.asarray(counts.sum(axis=1)).ravel(), 1)
    each = np.repeat(share, np.diff(counts.indptr))
    drawn = np.random.default_rng(seed).binomial(counts.data.astype(int), each)
    counts.data = drawn.astype(np.float32)
    counts.eliminate_zeros()
    return counts


@pytest.mark.parametrize("counts", [50, 300, 3000])
def test_moments_are_those_of_simulated_cells(counts):
    mean, variance = shallow.moments(counts)
    rng = np.random.default_rng(0)
    for i in range(0, len(mean), 15):
        drawn = rng.poisson(counts * np.exp(shallow.LOG_SHARES[i]), 200_000)
        value = np.log1p(TARGET_SUM * drawn / counts)
        assert mean[i] == pytest.approx(value.mean(), abs=5 * value.std() / 400 + 1e-3)
        assert variance[i] == pytest.approx(value.var(), rel=0.05, abs=5e-3)


def test_a_reference_has_the_counts_that_its_cells_were_drawn_to(statistics):
    """Statistics that are taken at some number of counts say that number themselves."""
    usual = shallow.reference_counts(statistics)
    assert 500 < usual < 20_000
    for counts in (100, 300):
        found = shallow.reference_counts(shallow.at_counts(statistics, counts))
        assert counts / 1.6 < found < 1.6 * counts


def test_statistics_of_as_many_counts_stay(statistics):
    for counts in (shallow.reference_counts(statistics), 1e6):
        same = shallow.at_counts(statistics, counts)
        assert all(same[name] is statistics[name] for name in statistics)


def test_means_of_types_are_those_of_thinned_cells(cells, annotator, statistics):
    """The genes of real beta and alpha cells, thinned, against what the statistics say of them."""
    tables = shallow.at_counts(statistics, 100)
    symbols = annotator.bundle.gene_symbols[: len(tables["gene_mean"])]
    shared = [i for i, name in enumerate(symbols) if name in cells.var_names]
    few = thinned(cells.X, 100)[:, cells.var_names.get_indexer([symbols[i] for i in shared])]
    shown = np.log1p(few.toarray() * (TARGET_SUM / 100))
    types = [t.label for t in annotator.bundle.spec.cell_types]
    for name in ("alpha", "beta"):
        real = shown[(cells.obs.cell_type == name).to_numpy()].mean(axis=0)
        for table, less in ((statistics, 1.0), (tables, 0.6)):
            scaled = table["class_mean"][types.index(name), shared].astype(float)
            said = table["gene_mean"][shared] + table["gene_scale"][shared] * scaled
            error = np.sqrt(np.mean((said - real) ** 2))
            if less == 1.0:
                before = error
            assert error <= less * before


@pytest.mark.parametrize("depth", [60, 150])
def test_labels_of_thinned_cells_are_nearer_to_the_truth(cells, annotator, depth, monkeypatch):
    few, names, truth = thinned(cells.X, depth), list(cells.var_names), cells.obs.cell_type
    found = annotator.annotate_matrix(few, names, reading=ANY_GENES)
    assert 0 < found.provenance.few_counts < shallow.SHALLOW
    assert found.provenance.record()["few_counts"] == found.provenance.few_counts
    assert any("far fewer than the model's" in line for line in found.warnings())
    monkeypatch.setattr("scbignn_infer.query.reading.SHALLOW", 0)
    before = annotator.annotate_matrix(few, names, reading=ANY_GENES)
    assert before.provenance.few_counts == 0
    right, right_before = ((f.best_labels == truth).mean() for f in (found, before))
    assert right > right_before
    assert (found.labels == "unknown").mean() < (before.labels == "unknown").mean()


def test_usual_cells_logarithms_and_other_scales_are_read_as_they_are(cells, annotator):
    few = thinned(cells.X, 100)
    totals = np.asarray(few.sum(axis=1)).ravel()
    scaled = sp.csr_matrix(sp.diags_array(100 / totals) @ few)
    matrices = {"whole cells": cells.X, "logarithms": few.log1p(), "of one total": scaled}
    for name, matrix in matrices.items():
        query = MatrixQuery(matrix, list(cells.var_names))
        assert annotator.choose(query, ANY_GENES).few_counts is None, name
    query = MatrixQuery(few, list(cells.var_names))
    counts = annotator.choose(query, ANY_GENES).few_counts
    assert counts == pytest.approx(100, rel=0.3)


def test_a_panel_has_the_counts_of_the_whole_cells(cells, annotator):
    """Few counts on few genes are as many as a cell has on these."""
    some = cells[:, ::16]
    assert np.median(np.asarray(some.X.sum(axis=1))) < shallow.SHALLOW
    query = MatrixQuery(some.X, list(some.var_names))
    assert annotator.choose(query, ANY_GENES).few_counts is None


def test_counts_of_what_is_no_gene_do_not_count(cells, annotator, tmp_path):
    """Antibodies stand before the genes in this file, and have more counts than these."""
    few, proteins = thinned(cells.X, 100), sp.csr_matrix(np.full((cells.n_obs, 3), 500.0))
    both = ad.AnnData(sp.csr_matrix(sp.hstack([proteins, few])), obs=cells.obs[[]])
    both.var_names = ["CD3", "CD4", "CD8", *cells.var_names]
    both.var["feature_types"] = ["Antibody Capture"] * 3 + ["Gene Expression"] * cells.n_vars
    both.write_h5ad(tmp_path / "cite.h5ad")
    alone = annotator.choose(MatrixQuery(few, list(cells.var_names)), ANY_GENES).few_counts
    with open_query(tmp_path / "cite.h5ad") as query:
        assert annotator.choose(query, ANY_GENES).few_counts == pytest.approx(alone)


def test_empty_barcodes_do_not_tell_how_many_counts_cells_have(cells, annotator):
    """Of a raw matrix most barcodes are no cells; of others the rest is asked."""
    empty = thinned(cells.X, 5)
    few = thinned(cells.X, 150)
    names = list(cells.var_names)
    for matrices, expected in (
        ([cells.X, empty, empty], None),
        ([few, empty, empty], None),
        ([few, few, empty], 150),
    ):
        query = MatrixQuery(sp.csr_matrix(sp.vstack(matrices)), names)
        counts = annotator.choose(query, ANY_GENES).few_counts
        assert counts == (expected and pytest.approx(expected, rel=0.3))


def test_with_the_graph_of_the_reference_no_cell_depends_on_others(cells):
    alone = Annotator.load("human-pancreas", device="cpu", threads=1, graph="reference")
    few, names = thinned(cells.X, 100)[:60], list(cells.var_names)
    together = alone.annotate_matrix(few, names, reading=ANY_GENES)
    assert together.provenance.few_counts == 0
    assert "few_counts" not in together.provenance.record()
    one = alone.annotate_matrix(few[:1], names, reading=ANY_GENES)
    np.testing.assert_allclose(one.probabilities[0], together.probabilities[0], atol=1e-6)
