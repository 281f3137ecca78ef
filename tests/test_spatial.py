"""Outputs of spatial platforms are read from their folders, and where cells lie is kept."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scbignn_infer import open_query
from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

platforms = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("platforms.py"))))
FIXTURE = Path(__file__).parent / "data" / "pancreas400.h5ad"
PLATFORMS: dict[str, Callable[[Path, ad.AnnData], np.ndarray]] = {
    "cosmx": platforms.cosmx,
    "cosmx, packed": lambda folder, cells: platforms.cosmx(folder, cells, packed=True),
    "merscope": platforms.merscope,
    "merscope, older": lambda folder, cells: platforms.merscope(folder, cells, key=""),
    "visium": lambda folder, cells: platforms.visium(folder / "outs", cells, "csv"),
    "visium, older": lambda folder, cells: platforms.visium(folder / "outs", cells, "list"),
    "visium hd": platforms.visium_hd,
    "xenium": platforms.xenium,
    "xenium, folder": lambda folder, cells: platforms.xenium(folder, cells, as_folder=True),
}


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    """Return 51 islet cells with a panel of 400 genes."""
    adata = ad.read_h5ad(FIXTURE)[::8, ::10].copy()
    adata.obs_names = [f"abcd{i:04}-1" for i in range(adata.n_obs)]
    return adata


@pytest.fixture(scope="module")
def annotate(run: Callable[..., Result]) -> Callable[..., Result]:
    """Return a function that labels islet cells of a panel."""

    def annotate(path: Path, output: Path, **how: Any) -> Result:
        options = ("--min-gene-coverage", "0", "-m", "human-pancreas", "--threads", "1")
        return run("annotate", path, *options, "-o", output, **how)

    return annotate


@pytest.fixture(scope="module")
def labels(cells, annotate, tmp_path_factory) -> list[str]:
    """Return the labels of the same cells in a plain file."""
    folder = tmp_path_factory.mktemp("plain")
    cells.write_h5ad(folder / "cells.h5ad")
    annotate(folder / "cells.h5ad", folder / "o.csv")
    found = pd.read_csv(folder / "o.csv")["scbignn_cell_type"]
    assert found.nunique() > 3
    return list(found)


@pytest.mark.parametrize("name", sorted(PLATFORMS))
def test_a_folder_gives_labels_genes_and_places(cells, labels, annotate, tmp_path, name):
    where = PLATFORMS[name](tmp_path / "run", cells)
    said = annotate(tmp_path / "run", tmp_path / "o.h5ad").stderr
    found = ad.read_h5ad(tmp_path / "o.h5ad")
    assert list(found.obs["scbignn_cell_type"]) == labels
    assert list(found.var_names) == list(cells.var_names)
    assert (found.X != cells.X).nnz == 0
    np.testing.assert_array_equal(found.obsm["spatial"], where)
    assert ("a cell is a bin of 8 x 8 um" in said) == (name == "visium hd")
    assert ("control probes" in said) == name.startswith(("cosmx", "merscope"))
    assert ("hold what lies in no cell" in said) == name.startswith("cosmx")


@pytest.mark.parametrize("name", ["visium hd", "xenium"])
def test_cells_and_genes_are_those_of_scanpy(cells, tmp_path, name):
    sc = pytest.importorskip("scanpy")
    PLATFORMS[name](tmp_path / "run", cells)
    with open_query(tmp_path / "run") as query:
        whole, path = query.to_adata(), query.path
    theirs = sc.read_10x_h5(path, gex_only=True)
    assert list(whole.obs_names) == list(theirs.obs_names)
    assert list(whole.var_names) == list(theirs.var_names)
    assert (whole.X != theirs.X).nnz == 0


def test_a_file_of_a_folder_is_read_as_it_is(cells, tmp_path):
    """Nothing beside a file that is given is looked at."""
    platforms.xenium(tmp_path / "run", cells)
    with open_query(tmp_path / "run" / "cell_feature_matrix.h5") as query:
        assert "spatial" not in query.to_adata().obsm


# --- Visium HD -----------------------------------------------------------------------------------


def test_another_size_of_bins_is_named_and_may_be_given(cells, tmp_path):
    platforms.visium_hd(tmp_path / "run", cells)
    (tmp_path / "run" / "segmented_outputs").mkdir()
    bins = tmp_path / "run" / "binned_outputs"
    for folder in (tmp_path / "run", bins):
        with open_query(folder) as query:
            (note,) = query.notes
            assert query.path == bins / "square_008um" / "filtered_feature_bc_matrix.h5"
    assert str(bins / "square_002um") in note
    with open_query(tmp_path / "run") as query:
        assert query.notes[0].endswith(f"or {tmp_path / 'run' / 'segmented_outputs'}")
    with open_query(bins / "square_016um") as query:
        assert query.n_cells == cells.n_obs - 16
        assert query.to_adata().obsm["spatial"].shape == (cells.n_obs - 16, 2)


def test_the_only_size_is_taken_and_several_others_are_refused(cells, tmp_path):
    platforms.visium_hd(tmp_path / "one", cells, (16,))
    with open_query(tmp_path / "one") as query:
        assert query.notes == ["a cell is a bin of 16 x 16 um"]
    platforms.visium_hd(tmp_path / "two", cells, (2, 16))
    with pytest.raises(InputError, match=r"bins of 2, 16 um.*give the folder.*square_002um"):
        open_query(tmp_path / "two")


# --- what may be wrong ---------------------------------------------------------------------------


def test_several_slides_of_cosmx_are_refused(cells, tmp_path, annotate):
    platforms.cosmx(tmp_path / "run", cells)
    table = tmp_path / "run" / "S1_exprMat_file.csv"
    table.with_name("S2_exprMat_file.csv").write_bytes(table.read_bytes())
    done = annotate(tmp_path / "run", tmp_path / "o.csv", code=1)
    assert "2 tables of cells (S1_exprMat_file.csv, S2_exprMat_file.csv)" in done.stderr
    with open_query(table, orientation="cells-by-genes") as query:
        assert query.n_cells == cells.n_obs


def test_cells_without_a_place_have_none(cells, tmp_path):
    where = platforms.xenium(tmp_path / "run", cells)
    listed = pd.read_csv(tmp_path / "run" / "cells.csv.gz")
    kept = listed[listed.cell_id != cells.obs_names[3]]
    pd.concat([kept, kept.assign(x_centroid=0)]).to_csv(tmp_path / "run" / "cells.csv.gz")
    with open_query(tmp_path / "run") as query:
        found = query.to_adata().obsm["spatial"]
    where[3] = np.nan
    np.testing.assert_array_equal(found, where)
    listed.assign(cell_id="other").to_csv(tmp_path / "run" / "cells.csv.gz")
    with open_query(tmp_path / "run") as query:
        assert "spatial" not in query.to_adata().obsm


def test_a_table_of_something_else_is_passed_over(cells, tmp_path):
    platforms.xenium(tmp_path / "run", cells)
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "run" / "cells.csv.gz")
    with open_query(tmp_path / "run") as query:
        assert query.notes == []
        assert "spatial" not in query.to_adata().obsm


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_table_of_places_is_one_line_and_nothing_is_written(cells, tmp_path, annotate, share):
    platforms.xenium(tmp_path / "run", cells)
    listed = tmp_path / "run" / "cells.csv.gz"
    listed.write_bytes(listed.read_bytes()[: int(listed.stat().st_size * share)])
    done = annotate(tmp_path / "run", tmp_path / "o.h5ad", code=None, lines=None)
    if done.exit_code:
        assert "cells.csv.gz" in done.stderr.splitlines()[-1]
        assert not (tmp_path / "o.h5ad").exists()
    annotate(tmp_path / "run", tmp_path / "o.csv")


def test_a_damaged_parquet_is_said_and_left_out(cells, tmp_path):
    platforms.visium_hd(tmp_path / "run", cells, (8,))
    (listed,) = tmp_path.glob("run/binned_outputs/square_008um/spatial/tissue_positions.parquet")
    listed.write_bytes(listed.read_bytes()[:100])
    with open_query(tmp_path / "run") as query:
        assert query.notes[1].startswith("tissue_positions.parquet, which should say where")
        assert "spatial" not in query.to_adata().obsm


def test_the_extra_is_named_where_it_is_missing(cells, tmp_path, monkeypatch):
    platforms.visium_hd(tmp_path / "run", cells, (8,))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with open_query(tmp_path / "run") as query:
        assert "needs the extra 'parquet'" in query.notes[1]
        assert query.n_cells == cells.n_obs


@pytest.mark.parametrize("name", ["merscope", "visium hd", "xenium"])
def test_places_that_memory_does_not_hold_are_refused(cells, tmp_path, name):
    PLATFORMS[name](tmp_path / "run", cells)
    with open_query(tmp_path / "run") as query:
        query.places = query.places.__class__(query.places.path, query.places.layout, most=100)
        with pytest.raises(InputError, match=r"memory|unpacks"):
            query.to_adata()


def test_a_sample_called_as_a_control_stays(tmp_path):
    """Only genes may be controls, not cells of a table of genes x cells."""
    genes = ["CD3D", "MS4A1", "NKG7"]
    table = pd.DataFrame([[1, 2], [3, 4], [5, 6]], genes, ["Blank-1", "Negative2"])
    table.to_csv(tmp_path / "a.csv")
    with open_query(tmp_path / "a.csv", known_genes=genes) as query:
        assert query.cell_names() == ["Blank-1", "Negative2"]
