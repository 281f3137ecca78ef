"""Write the golden cases of ``doctor --qualify``: real cells, labelled by the shipped models.

Run ``python tests/golden/make_cases.py`` after a shipped model was trained anew or its labels
changed on purpose; it reads the mouse and lung cells from ``$SCBIGNN_DATA``.
``scbignn_infer/qualification/cases/SOURCES.md`` says where the cells come from.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scbignn_infer.label_file import label_file
from scbignn_infer.qualification.cases import FOLDER
from scbignn_infer.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SCBIGNN_DATA", REPOSITORY.parent / "shared" / "data"))
BLOOD = (
    REPOSITORY / "scbignn_infer" / "examples" / "pbmc700.h5ad",
    "bulk_labels",
    "human blood, 10x Genomics, Fresh 68k PBMC (Zheng et al. 2017)",
)
ISLETS = (
    REPOSITORY / "tests" / "data" / "pancreas400.h5ad",
    "cell_type",
    "human islets, Baron et al. 2016, GSE84133, donor 1",
)
MOUSE = (
    DATA / "mouse_pancreas_baron_mouse1.h5ad",
    "cell_type",
    "mouse islets, Baron et al. 2016, GSE84133, mouse 1",
)
LUNG = (
    DATA / "cellbench_sc_mixology.h5ad",
    "cell_type",
    "five human lung cancer cell lines, Tian et al. 2019, GSE118767",
)
CASES = {
    "human-pbmc": BLOOD,
    "human-body": BLOOD,
    "human-pancreas": ISLETS,
    "mouse-pancreas": MOUSE,
    "mouse-body": MOUSE,
    "human-lung-cancer-lines": LUNG,
}
PER_TYPE = 5


def cells_of(path: Path, key: str, source: str) -> ad.AnnData:
    """Return the first cells of each published type, with the genes that they express."""
    adata = ad.read_h5ad(path)
    rank = adata.obs.groupby(key, observed=True).cumcount()
    adata = adata[np.asarray(rank < PER_TYPE)].copy()
    values = sp.csr_matrix(adata.X, dtype=np.float32)
    genes = np.flatnonzero(values.getnnz(axis=0))
    return ad.AnnData(
        values[:, genes],
        obs=pd.DataFrame({"published": adata.obs[key].astype(str)}, index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names[genes]),
        uns={"source": source},
    )


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for model, (path, key, source) in CASES.items():
            cells = Path(folder) / f"{model}.h5ad"
            cells_of(path, key, source).write_h5ad(cells, compression="gzip")
            target = FOLDER / cells.name
            target.unlink(missing_ok=True)
            settings = Settings(model=model, device="cpu", threads=1)
            label_file(cells, target, settings)


if __name__ == "__main__":
    main()
