"""Dense blocks and panel tables, against dense linear algebra written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.network.panel import Densifier, panel_tables

if TYPE_CHECKING:
    from scbignn_infer.model.bundle import ModelBundle

SHARE = np.array([0.4, 0.3, 0.2, 0.1])


def densifier(state: str = "counts", panel: tuple[int, ...] = (0, 2)) -> Densifier:
    """File columns: reference gene 2, unknown, gene 0, gene 2 again; gene 3 and 1 are absent."""
    index = np.array([2, -1, 0, 2])
    return Densifier.make(index, SHARE, np.array(panel), state)


def test_block_sums_duplicates_and_ignores_unknown_genes() -> None:
    rows = sp.csr_matrix(np.array([[1, 9, 3, 4], [0, 7, 0, 0]], np.float32))
    counts, totals = densifier()(rows)
    np.testing.assert_array_equal(counts, [[3, 5], [0, 0]])
    # genes 0 and 2 carry .6 of the reference's counts
    np.testing.assert_allclose(totals, [[8 / 0.6], [0]], rtol=1e-6)


def test_log_values_are_inverted() -> None:
    values = np.array([[1, 9, 3, 4]], np.float32)
    counts, totals = densifier("log1p")(sp.csr_matrix(np.log1p(values)))
    np.testing.assert_allclose(counts, [[3, 5]], rtol=1e-5)
    np.testing.assert_allclose(totals, [[8 / 0.6]], rtol=1e-5)


def test_cut_log_values_keep_their_total() -> None:
    rows = sp.csr_matrix(np.log1p(np.array([[1, 9, 3, 4], [0, 5, 0, 0]], np.float32)))
    _, totals = densifier("log1p-cut")(rows)
    np.testing.assert_array_equal(totals, [[1e4], [0]])


def test_scaling_a_cell_changes_nothing_after_normalisation() -> None:
    rows = sp.csr_matrix(np.array([[1, 9, 3, 4]], np.float32))
    counts, totals = densifier()(rows)
    more, more_totals = densifier()(rows * 7)
    np.testing.assert_allclose(counts / totals, more / more_totals, rtol=1e-6)


def test_unsorted_and_repeated_indices_are_summed() -> None:
    data, indices = np.array([3.0, 1.0, 2.0], np.float32), np.array([2, 0, 2])
    counts, _ = densifier()(sp.csr_matrix((data, indices, [0, 3]), shape=(1, 4)))
    np.testing.assert_array_equal(counts, [[5, 1]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_unusable_values_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="NaN, infinite or negative"):
        densifier()(sp.csr_matrix(np.array([[1, value, 0, 0]], np.float32)))


def test_index_beyond_the_genes_is_refused() -> None:
    rows = sp.csr_matrix(np.array([[1, 0, 0, 2]], np.float32))
    rows.indices[-1] = 9
    with pytest.raises(InputError, match="gene 9 of 4"):
        densifier()(rows)


def present_genes(bundle: ModelBundle, share: float, seed: int = 0) -> Any:
    """Keep a random share of the reference genes."""
    return np.random.default_rng(seed).random(len(bundle.spec.genes)) < share


def test_discriminant_tables_equal_a_dense_inverse(pbmc_bundle: ModelBundle) -> None:
    s, present = pbmc_bundle.statistics, present_genes(pbmc_bundle, 0.2)
    panel, tables = panel_tables(s, present, net_genes=1000, panel_genes=400)
    assert present[panel].all()
    assert (np.diff(panel) > 0).all()
    u = s["within_factors"][panel]
    covariance = u @ u.T + np.diag(s["within_residual"][panel] + s["ridge"])
    mu = s["class_mean"][:, panel]
    weight = np.linalg.solve(covariance, mu.T)
    np.testing.assert_allclose(tables["class_weight"], weight, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(tables["class_norm"], np.diag(mu @ weight), rtol=1e-4)
    np.testing.assert_allclose(tables["class_prior"], np.log(s["cells_per_type"]), rtol=1e-6)


def test_imputation_is_the_conditional_gaussian_mean(pbmc_bundle: ModelBundle) -> None:
    s, present = pbmc_bundle.statistics, present_genes(pbmc_bundle, 0.3)
    panel, tables = panel_tables(s, present, net_genes=1000, panel_genes=300)
    absent = np.flatnonzero(~present[:1000])
    f = s["total_factors"]
    covariance = f[panel] @ f[panel].T + np.diag(s["total_residual"][panel])
    z = np.random.default_rng(1).normal(size=(5, len(panel)))
    expected = z @ np.linalg.solve(covariance, f[panel] @ f[absent].T)
    found = z @ tables["impute_in"].astype(float) @ tables["impute_out"].astype(float)
    np.testing.assert_allclose(found[:, absent], expected, rtol=1e-3, atol=1e-4)
    assert not found[:, present[:1000]].any()


def test_misfit_tables_give_the_mahalanobis_distance(pbmc_bundle: ModelBundle) -> None:
    s, present = pbmc_bundle.statistics, present_genes(pbmc_bundle, 0.3)
    panel, tables = panel_tables(s, present, net_genes=1000, panel_genes=300)
    f = s["total_factors"][panel]
    covariance = f @ f.T + np.diag(s["total_residual"][panel])
    z = np.random.default_rng(1).normal(size=(5, len(panel)))
    scores = z @ tables["impute_in"].astype(float)
    inner = np.einsum("nr,rs,ns->n", scores, tables["misfit_inner"].astype(float), scores)
    found = z**2 @ tables["misfit_weight"].astype(float) - inner
    expected = np.einsum("ni,ni->n", z, np.linalg.solve(covariance, z.T).T) / len(panel)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_positions_lead_from_the_net_to_the_panel(pbmc_bundle: ModelBundle) -> None:
    present = present_genes(pbmc_bundle, 0.5)
    panel, tables = panel_tables(pbmc_bundle.statistics, present, net_genes=1000, panel_genes=1500)
    here = np.flatnonzero(tables["net_present"] > 0.5)
    np.testing.assert_array_equal(panel[tables["net_position"][here]], here)


@pytest.mark.parametrize("base", [2.0, 10.0])
def test_logarithms_of_other_bases_are_inverted(base: float) -> None:
    values = np.array([[1, 9, 3, 4]], np.float32)
    rows = sp.csr_matrix(np.log1p(values) / np.log(base))
    found = Densifier.make(np.array([2, -1, 0, 2]), SHARE, np.array([0, 2]), "log1p", base=base)
    counts, totals = found(rows)
    np.testing.assert_allclose(counts, [[3, 5]], rtol=1e-5)
    np.testing.assert_allclose(totals, [[8 / 0.6]], rtol=1e-5)
    assert counts.dtype == totals.dtype == np.float32


def test_a_cut_has_the_total_that_it_was_scaled_to() -> None:
    rows = sp.csr_matrix(np.log1p(np.array([[0.2, 0, 0.1, 0]], np.float32)))
    found = Densifier.make(
        np.array([2, -1, 0, 2]), SHARE, np.array([0, 2]), "log1p-cut", target_sum=2e4
    )
    np.testing.assert_array_equal(found(rows)[1], [[2e4]])


def test_refusals_say_what_to_do() -> None:
    rows = sp.csr_matrix(np.array([[1, 0, 0, 2]], np.float32))
    rows.indices[-1] = 4
    with pytest.raises(InputError) as damaged:
        densifier()(rows)
    assert str(damaged.value) == (
        "the matrix refers to gene 4 of 4; expected column indices within the gene table; "
        "the file is damaged; write it again from its source"
    )
    rows.indices[:] = -1, 3
    with pytest.raises(InputError, match="refers to gene -1 of 4"):
        densifier()(rows)
    with pytest.raises(InputError) as negative:
        densifier()(sp.csr_matrix(np.array([[1, -2, 0, 0]], np.float32)))
    assert str(negative.value) == (
        "the matrix holds NaN, infinite or negative values; expected counts or log1p values, "
        "finite and not negative; choose another matrix with --matrix, or mend the file"
    )


def test_one_value_and_explicit_zeros_are_read() -> None:
    zero = sp.csr_matrix((np.float32([0, 3]), np.array([0, 2]), [0, 2]), shape=(1, 4))
    np.testing.assert_array_equal(densifier()(zero)[0], [[3, 0]])
    one = sp.csr_matrix((np.float32([3]), np.array([2]), [0, 1]), shape=(1, 4))
    np.testing.assert_array_equal(densifier()(one)[0], [[3, 0]])


def test_tables_have_the_names_and_types_of_the_graph(pbmc_bundle: ModelBundle) -> None:
    from scbignn_infer.network.sessions import Runtime, Session

    present = present_genes(pbmc_bundle, 0.5)
    panel, tables = panel_tables(pbmc_bundle.statistics, present, net_genes=1000, panel_genes=1500)
    graph = Session(pbmc_bundle.read("gene_level.onnx"), Runtime("cpu", 0, 1))
    assert set(tables) | {"counts", "totals"} == set(graph.inputs)
    assert {k: v.dtype for k, v in tables.items()} == {
        k: np.dtype(np.int64 if k == "net_position" else np.float32) for k in tables
    }
    assert (np.diff(panel) > 0).all()
