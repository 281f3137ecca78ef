"""Files that were joined though they have different genes."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.query.joined import silent_genes


@pytest.fixture(scope="module")
def islets() -> np.ndarray:
    path = Path(__file__).parent / "data" / "pancreas400.h5ad"
    return ad.read_h5ad(path).X[:256].toarray()


def without(x: np.ndarray, share: float, cells: slice) -> np.ndarray:
    """Return cells of which some lack a share of the genes."""
    dense = x > 0
    dense[cells, : int(share * x.shape[1])] = 0
    shuffled = np.random.default_rng(0).permutation(x.shape[1])
    return dense[:, shuffled]


@pytest.mark.parametrize("cells", [slice(0, 80), slice(90, 256)])
def test_genes_that_a_stretch_of_the_file_lacks_are_found(islets: np.ndarray, cells: slice) -> None:
    genes, part = silent_genes(without(islets, 0.4, cells))
    assert genes == pytest.approx(0.4, abs=0.12)
    assert part == pytest.approx((cells.stop - cells.start) / 256, abs=0.05)


def test_batches_in_any_order_are_asked_one_by_one(islets: np.ndarray) -> None:
    joined = without(islets, 0.3, slice(0, 60))
    order = np.random.default_rng(1).permutation(256)
    batches = [np.flatnonzero(order < 60), np.flatnonzero(order >= 60)]
    genes, part = silent_genes(joined[order], batches)
    assert genes == pytest.approx(0.3, abs=0.1)
    assert part == pytest.approx(60 / 256, abs=0.03)


def test_sorted_cell_types_are_no_joined_files(islets: np.ndarray) -> None:
    assert silent_genes(islets > 0) == (0, 0)
    hormone = np.argsort(islets[:, int(islets.sum(axis=0).argmax())])
    assert silent_genes(islets[hormone] > 0) == (0, 0)
    assert silent_genes(islets[:20] > 0) == (0, 0)


@pytest.mark.parametrize("name", ["mouse_tabula_muris_facs_organs", "pbmc_6studies_sccomp"])
def test_organs_and_studies_side_by_side_are_no_joined_files(real_data, name: str) -> None:
    x = sp.csr_matrix(ad.read_h5ad(real_data(f"{name}.h5ad")).X)
    rows = np.linspace(0, x.shape[0] - 1, 256).astype(int)
    assert silent_genes(x[rows].toarray() > 0) == (0, 0)
