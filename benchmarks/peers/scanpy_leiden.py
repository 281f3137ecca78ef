"""scanpy's usual path on one file: read, normalise, PCA, neighbours, Leiden, write. No labels.

Run in ``benchmarks/``, in the environment of CellTypist, by ``speed.py``:
``python -m peers.scanpy_leiden QUERY OUTPUT``. What a graph costs anyone who clusters the cells.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import scanpy as sc


def main() -> None:
    """Cluster one file."""
    query, output = map(Path, sys.argv[1:])
    cells = ad.read_h5ad(query)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=2000)
    sc.pp.pca(cells, n_comps=50)
    sc.pp.neighbors(cells, n_neighbors=15)
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False)
    ad.settings.allow_write_nullable_strings = True  # its pins of pandas and anndata disagree
    cells.write_h5ad(output)


if __name__ == "__main__":
    main()
