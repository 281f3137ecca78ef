"""Files that were joined though they have different genes."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.joined import silent_genes


@pytest.fixture(scope="module")
def islets() -> sp.csr_matrix:
    path = Path(__file__).parent / "data" / "pancreas400.h5ad"
    return sp.csr_matrix(ad.read_h5ad(path).X[:256])


def without(x: sp.csr_matrix, share: float, cells: slice) -> sp.csr_matrix:
    """Return cells of which some lack a share of the genes."""
    dense = x.toarray()
    dense[cells, : int(share * x.shape[1])] = 0
    shuffled = np.random.default_rng(0).permutation(x.shape[1])
    return sp.csr_matrix(dense[:, shuffled])


@pytest.mark.parametrize("cells", [slice(0, 80), slice(90, 256)])
def test_genes_that_a_stretch_of_the_file_lacks_are_found(
    islets: sp.csr_matrix, cells: slice
) -> None:
    genes, part = silent_genes(without(islets, 0.4, cells))
    assert genes == pytest.approx(0.4, abs=0.12)
    assert part == pytest.approx((cells.stop - cells.start) / 256, abs=0.05)


def test_batches_in_any_order_are_asked_one_by_one(islets: sp.csr_matrix) -> None:
    joined = without(islets, 0.3, slice(0, 60))
    order = np.random.default_rng(1).permutation(256)
    batches = [np.flatnonzero(order < 60), np.flatnonzero(order >= 60)]
    genes, part = silent_genes(joined[order], batches)
    assert genes == pytest.approx(0.3, abs=0.1)
    assert part == pytest.approx(60 / 256, abs=0.03)


def test_sorted_cell_types_are_no_joined_files(islets: sp.csr_matrix) -> None:
    assert silent_genes(islets) == (0, 0)
    hormone = np.argsort(islets[:, int(islets.sum(axis=0).argmax())].toarray().ravel())
    assert silent_genes(islets[hormone]) == (0, 0)
    assert silent_genes(islets[:20]) == (0, 0)


@pytest.mark.parametrize("name", ["mouse_tabula_muris_facs_organs", "pbmc_6studies_sccomp"])
def test_organs_and_studies_side_by_side_are_no_joined_files(real_data, name: str) -> None:
    x = sp.csr_matrix(ad.read_h5ad(real_data(f"{name}.h5ad")).X)
    rows = np.linspace(0, x.shape[0] - 1, 256).astype(int)
    assert silent_genes(x[rows]) == (0, 0)
