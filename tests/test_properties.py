"""What must not change the labels does not, on real cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scbignn_infer.annotator import Annotator
from scbignn_infer.model.registry import load_model
from scbignn_infer.network import levels
from scbignn_infer.query.readers import open_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from scbignn_infer.annotation.annotation import Annotation

REPOSITORY = Path(__file__).resolve().parents[1]
PANCREAS = REPOSITORY / "tests" / "data" / "pancreas400.h5ad"


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator(load_model(REPOSITORY / "exported_models" / "human-pancreas"), device="cpu")


@pytest.fixture(scope="module")
def cells() -> tuple[sp.csr_matrix, np.ndarray]:
    adata = ad.read_h5ad(PANCREAS)
    return sp.csr_matrix(adata.X), adata.var_names.to_numpy(dtype=object)


@pytest.fixture(scope="module")
def plain(annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray]) -> Annotation:
    return annotator.annotate_matrix(*cells)


def assert_same(a: Annotation, b: Annotation, rows: np.ndarray | None = None) -> None:
    """Labels exactly, scores to float32 rounding; ``rows`` of ``b`` correspond to those of a."""
    order = np.arange(len(b)) if rows is None else rows
    np.testing.assert_array_equal(a.labels, b.labels[order])
    np.testing.assert_allclose(a.probabilities, b.probabilities[order], atol=2e-5)
    np.testing.assert_allclose(a.embedding, b.embedding[order], atol=1e-4)
    np.testing.assert_allclose(a.neighbor_agreement, b.neighbor_agreement[order], atol=1e-4)
    np.testing.assert_allclose(a.novelty, b.novelty[order], atol=1e-3)


def test_labels_are_worth_keeping(plain: Annotation) -> None:
    truth = ad.read_h5ad(PANCREAS).obs["cell_type"].to_numpy(dtype="U")
    truth = np.where(np.char.endswith(truth, "_stellate"), "stellate", truth)
    assert (plain.best_labels == truth).mean() > 0.95


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_permuting_cells_permutes_labels(
    annotator: Annotator,
    cells: tuple[sp.csr_matrix, np.ndarray],
    plain: Annotation,
    seed: int,
) -> None:
    order = np.random.default_rng(seed).permutation(cells[0].shape[0])
    assert_same(annotator.annotate_matrix(cells[0][order], cells[1]), plain, order)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_reordering_genes_changes_nothing(
    annotator: Annotator,
    cells: tuple[sp.csr_matrix, np.ndarray],
    plain: Annotation,
    seed: int,
) -> None:
    order = np.random.default_rng(seed).permutation(cells[0].shape[1])
    assert_same(annotator.annotate_matrix(cells[0][:, order], cells[1][order]), plain)


def test_unknown_genes_change_nothing(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    x, genes = cells
    strange = sp.random(x.shape[0], 500, 0.3, format="csr", random_state=np.random.default_rng(0))
    strange.data = np.ceil(strange.data * 50)
    names = [f"stranger{i}" for i in range(500)]
    assert_same(annotator.annotate_matrix(sp.hstack([strange, x]), [*names, *genes]), plain)


def test_unread_genes_that_are_zero_may_be_missing(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    x, genes = cells
    known = set(annotator.bundle.gene_symbols)
    absent = sorted(known - set(genes))
    ranked = set(annotator.bundle.gene_symbols[: len(annotator.bundle.statistics["gene_mean"])])
    tail = [g for g in absent if g not in ranked]  # these count for totals only
    zeros = sp.csr_matrix((x.shape[0], len(tail)), dtype=x.dtype)
    wider = annotator.annotate_matrix(sp.hstack([x, zeros]), [*genes, *tail])
    assert (wider.best_labels == plain.best_labels).mean() > 0.99
    assert (wider.labels == plain.labels).mean() > 0.98  # a sum of types is near its bar


def test_zero_genes_of_the_model_may_be_missing_within_a_bound(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    """An absent gene is imputed and a zero is not, so scores move, but hardly a label."""
    x, genes = cells
    few = x[:60]
    kept = np.asarray(few.sum(axis=0)).ravel() > 0
    assert (~kept).sum() > 0
    full = annotator.annotate_matrix(few, genes)
    cut = annotator.annotate_matrix(few[:, kept], genes[kept])
    assert (full.best_labels == cut.best_labels).mean() >= 0.98


def test_a_gene_split_over_two_columns_is_summed(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    x, genes = cells
    half = x[:, :50].copy()
    half.data = np.floor(half.data / 2)
    rest = x.tolil()
    rest[:, :50] = (x[:, :50] - half).tolil()
    found = annotator.annotate_matrix(sp.hstack([rest.tocsr(), half]), [*genes, *genes[:50]])
    assert_same(found, plain)
    assert found.provenance.genes.n_duplicates == 50


def test_sparse_formats_and_dense_agree(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    x, genes = cells
    unsorted = x.copy()
    for i in range(unsorted.shape[0]):
        row = slice(unsorted.indptr[i], unsorted.indptr[i + 1])
        unsorted.indices[row] = unsorted.indices[row][::-1]
        unsorted.data[row] = unsorted.data[row][::-1]
    unsorted.has_sorted_indices = False
    wide = x.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    forms = [x.toarray(), x.tocsc(), x.tocoo(), unsorted, wide, x.astype(np.int32), sp.csr_array(x)]
    for form in forms:
        assert_same(annotator.annotate_matrix(form, genes), plain)


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "gzip"])
def test_h5ad_encodings_agree(
    annotator: Annotator,
    cells: tuple[sp.csr_matrix, np.ndarray],
    plain: Annotation,
    form: str,
    tmp_path: Path,
) -> None:
    x = {"csr": cells[0], "csc": cells[0].tocsc(), "dense": cells[0].toarray(), "gzip": cells[0]}
    adata = ad.AnnData(x[form])
    adata.var_names = cells[1].astype(str)
    adata.write_h5ad(tmp_path / "q.h5ad", compression="gzip" if form == "gzip" else None)
    with open_query(tmp_path / "q.h5ad") as query:
        assert_same(annotator.annotate_query(query), plain)


def test_log_normalised_values_give_the_labels_of_counts(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    x, genes = cells
    totals = np.asarray(x.sum(axis=1)).ravel()
    for target in (1e4, 3e3):
        log = sp.csr_matrix(sp.diags_array(target / totals) @ x).log1p().astype(np.float32)
        found = annotator.annotate_matrix(log, genes)
        assert found.provenance.matrix.state == "log1p"
        assert_same(found, plain)


@pytest.mark.parametrize(("batch", "read", "chunk"), [(1, 64, 5), (17, 100, 50), (500, 7, 1000)])
def test_batch_and_chunk_sizes_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
    cells: tuple[sp.csr_matrix, np.ndarray],
    annotator: Annotator,
    plain: Annotation,
    batch: int,
    read: int,
    chunk: int,
) -> None:
    monkeypatch.setattr(levels, "READ_CELLS", read)
    monkeypatch.setattr(levels, "CELL_CHUNK", chunk)
    other = Annotator(annotator.bundle, device="cpu", batch_cells=batch)
    assert_same(other.annotate_matrix(*cells), plain)


def test_same_input_same_bits(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    again = Annotator(annotator.bundle, device="cpu").annotate_matrix(*cells)
    np.testing.assert_array_equal(again.probabilities, plain.probabilities)
    np.testing.assert_array_equal(again.embedding, plain.embedding)


def test_empty_cells_are_unknown_and_move_no_other(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    x, genes = cells
    blank = sp.csr_matrix((3, x.shape[1]), dtype=x.dtype)
    found = annotator.annotate_matrix(sp.vstack([blank, x]), genes)
    assert found.labels[:3].tolist() == ["unknown"] * 3
    assert not found.confidence[:3].any()
    np.testing.assert_array_equal(found.labels[3:], plain.labels)


def test_company_moves_few_labels(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation
) -> None:
    """The graph is made of the query, so other cells can move a label; this bounds how often."""
    rows = np.sort(np.random.default_rng(0).permutation(len(plain))[: len(plain) // 2])
    half = annotator.annotate_matrix(cells[0][rows], cells[1])
    assert (half.best_labels == plain.best_labels[rows]).mean() >= 0.98
    np.testing.assert_allclose(half.embedding, plain.embedding[rows], atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_few_cells_work(
    annotator: Annotator, cells: tuple[sp.csr_matrix, np.ndarray], plain: Annotation, n: int
) -> None:
    found = annotator.annotate_matrix(cells[0][:n], cells[1])
    assert len(found) == n
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert (found.gene_level_labels == plain.gene_level_labels[:n]).all()


def test_permuting_cells_of_a_real_study(
    pbmc_bundle: object, real_data: Callable[[str], Path]
) -> None:
    adata = ad.read_h5ad(real_data("pbmc_zheng_facs.h5ad"))
    annotator = Annotator(load_model(pbmc_bundle), device="cpu")  # type: ignore[arg-type]
    genes = adata.var_names.to_numpy(dtype=object)
    plain = annotator.annotate_matrix(adata.X, genes)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    moved = annotator.annotate_matrix(sp.csr_matrix(adata.X)[order], genes)
    assert (moved.best_labels == plain.best_labels[order]).mean() >= 0.9995  # ties of distance
