"""Output folders of spatial platforms, laid out as these write them, with the counts of real cells.

The layouts are those that spatialdata-io 0.3 reads and the vendors document: Xenium Onboard
Analysis 1 to 3, Space Ranger 1 to 4, MERSCOPE (cell ids of 19 digits; metadata in another order)
and CosMx of AtoMx (a row of what lies in no cell for each field of view).
"""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.io import mmwrite

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

CONTROLS = {
    "NegControlProbe_00042": "Negative Control Probe",
    "NegControlCodeword_0500": "Negative Control Codeword",
    "UnassignedCodeword_0003": "Unassigned Codeword",
    "DeprecatedCodeword_0321": "Deprecated Codeword",
}
"""Features of Xenium that are no genes, with their types."""


def places(cells: ad.AnnData) -> np.ndarray:
    """Return made-up places of cells, all different."""
    return np.column_stack([np.arange(cells.n_obs) * 1.5, 100 - np.arange(cells.n_obs) * 0.25])


def with_controls(cells: ad.AnnData, names: list[str]) -> sp.csr_matrix:
    """Return counts with columns of controls, of which each cell has one."""
    noise = np.zeros((cells.n_obs, len(names)), np.float32)
    noise[np.arange(cells.n_obs), np.arange(cells.n_obs) % len(names)] = 1
    return sp.csr_matrix(sp.hstack([cells.X, noise]))


def write_10x(path: Path, counts: sp.csr_matrix, genes: pd.DataFrame, cells: list[str]) -> None:
    """Write an ``.h5`` of version 3."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(counts, part).astype(np.int64)
        group["shape"] = np.array(counts.shape[::-1])
        group["barcodes"] = np.array(cells, "S")
        for name in ("id", "name", "feature_type", "genome"):
            group[f"features/{name}"] = np.array(genes[name], "S")


def features(cells: ad.AnnData, controls: dict[str, str]) -> pd.DataFrame:
    names = [*cells.var_names, *controls]
    types = ["Gene Expression"] * cells.n_vars + list(controls.values())
    columns = {"id": names, "name": names, "feature_type": types, "genome": "Unknown"}
    return pd.DataFrame(columns)


def xenium(folder: Path, cells: ad.AnnData, *, as_folder: bool = False) -> np.ndarray:
    """Write an output of Xenium."""
    folder.mkdir(parents=True)
    (folder / "experiment.xenium").write_text(json.dumps({"analysis_sw_version": "xenium-3.1.0.0"}))
    counts, genes = with_controls(cells, list(CONTROLS)), features(cells, CONTROLS)
    names = list(cells.obs_names)
    if as_folder:
        inner = folder / "cell_feature_matrix"
        inner.mkdir()
        mmwrite(inner / "plain.mtx", counts.T)
        listed = {
            "matrix.mtx": (inner / "plain.mtx").read_text(),
            "barcodes.tsv": "\n".join(names),
            "features.tsv": genes[["id", "name", "feature_type"]].to_csv(
                sep="\t", header=False, index=False
            ),
        }
        (inner / "plain.mtx").unlink()
        for name, text in listed.items():
            (inner / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        write_10x(folder / "cell_feature_matrix.h5", counts, genes, names)
    where = places(cells)
    table = pd.DataFrame(
        {
            "cell_id": names,
            "x_centroid": where[:, 0],
            "y_centroid": where[:, 1],
            "transcript_counts": np.asarray(cells.X.sum(axis=1)).ravel().astype(int),
        }
    )
    table[::-1].to_csv(folder / "cells.csv.gz", index=False, quoting=2)
    return where


def merscope(folder: Path, cells: ad.AnnData, *, key: str = "EntityID") -> np.ndarray:
    """Write an output of MERSCOPE; its cells are numbers."""
    folder.mkdir(parents=True)
    ids = [str(1129850600014100046 + 7 * i) for i in range(cells.n_obs)]
    blanks = [f"Blank-{i}" for i in range(1, 6)]
    counts = with_controls(cells, blanks).toarray().astype(int)
    table = pd.DataFrame(counts, index=ids, columns=[*cells.var_names, *blanks])
    table.to_csv(folder / "cell_by_gene.csv", index_label="cell" if key else "")
    where = places(cells)
    columns = {"fov": 0, "volume": 900.5, "center_x": where[:, 0], "center_y": where[:, 1]}
    about = pd.DataFrame(columns | {"min_x": 0.0}, index=ids)
    about[::-1].to_csv(folder / "cell_metadata.csv", index_label=key)
    return where


def cosmx(folder: Path, cells: ad.AnnData, *, packed: bool = False) -> np.ndarray:
    """Write flat files of CosMx, of two fields of view with rows of what lies in no cell."""
    folder.mkdir(parents=True)
    n = cells.n_obs
    controls = ["Negative1", "NegPrb10", "SystemControl1", "FalseCode27"]
    counts = with_controls(cells, controls).toarray().astype(int)
    fields, numbers = 1 + np.arange(n) % 2, 1 + np.arange(n) // 2
    table = pd.DataFrame(counts, columns=[*cells.var_names, *controls])
    table.insert(0, "fov", fields)
    table.insert(1, "cell_ID", numbers)
    outside = table.iloc[:2].assign(cell_ID=0)
    end = ".gz" if packed else ""
    pd.concat([outside, table]).to_csv(folder / f"S1_exprMat_file.csv{end}", index=False)
    where = places(cells)
    about = {"fov": fields, "cell_ID": numbers, "Area": 100, "CenterX_local_px": 5}
    about |= {"CenterX_global_px": where[:, 0], "CenterY_global_px": where[:, 1]}
    about |= {"cell_id": [f"c_1_{f}_{i}" for f, i in zip(fields, numbers, strict=True)]}
    pd.DataFrame(about)[::-1].to_csv(folder / f"S1_metadata_file.csv{end}", index=False, quoting=2)
    return where


def visium(folder: Path, cells: ad.AnnData, positions: str = "parquet") -> np.ndarray:
    """Write an output of Space Ranger: a matrix, and where its spots lie, in one of three forms."""
    (folder / "spatial").mkdir(parents=True)
    names = list(cells.obs_names)
    genes = features(cells, {})
    write_10x(folder / "filtered_feature_bc_matrix.h5", sp.csr_matrix(cells.X), genes, names)
    where = places(cells)
    table = pd.DataFrame(
        {
            "barcode": [*names, "outside-1"],
            "in_tissue": [1] * len(names) + [0],
            "array_row": range(len(names) + 1),
            "array_col": range(len(names) + 1),
            "pxl_row_in_fullres": [*where[:, 1], 0.0],
            "pxl_col_in_fullres": [*where[:, 0], 0.0],
        }
    )
    if positions == "parquet":
        table.to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
    else:
        name = "tissue_positions_list.csv" if positions == "list" else "tissue_positions.csv"
        table.to_csv(folder / "spatial" / name, index=False, header=positions != "list")
    return where


def visium_hd(folder: Path, cells: ad.AnnData, sizes: tuple[int, ...] = (2, 8, 16)) -> np.ndarray:
    """Write an output of Space Ranger with bins of several sizes, of which each has other cells."""
    for size in sizes:
        some = cells[: cells.n_obs - size].copy() if size != 8 else cells.copy()
        some.obs_names = [f"s_{size:03}um_{i:05}_{i:05}-1" for i in range(some.n_obs)]
        visium(folder / "binned_outputs" / f"square_{size:03}um", some)
    return places(cells)
