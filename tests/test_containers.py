"""Files of several AnnData, packed files, and folders of other programs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import warnings
import zipfile

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem
from scipy.io import mmwrite

from scbignn_infer.errors import InputError
from scbignn_infer.query.readers import open_query
from scbignn_infer.query.readers.folders import LAYOUTS

GENES = ["CD3D", "MS4A1", "NKG7", "CD8A", "GNLY"]
COUNTS = np.array([[0, 3, 0, 1, 0], [2, 0, 0, 0, 5], [0, 0, 1, 0, 0], [1, 1, 0, 2, 0]], np.float32)
CELLS = [f"ACGT{i}-1" for i in range(4)]


def make(genes=GENES, values=COUNTS):
    obs, var = pd.DataFrame(index=CELLS), pd.DataFrame(index=genes)
    adata = ad.AnnData(sp.csr_matrix(values), obs=obs, var=var)
    adata.obs["sample"] = ["a", "b"] * 2
    return adata


PROTEINS = make([f"protein {i}" for i in range(5)], COUNTS + 1)


def read(path, **how):
    """Return what is read of a path, having looked at all that a query gives."""
    with open_query(path, **how) as query:
        assert not query.h5ad
        blocks = sp.vstack(list(query.blocks("X", 3))).toarray()
        np.testing.assert_array_equal(query.rows("X", np.array([0, 2])).toarray(), blocks[[0, 2]])
        whole = query.to_adata()
        np.testing.assert_array_equal(sp.csr_matrix(whole.X).toarray(), blocks)
        assert list(whole.obs_names) == query.cell_names()
        return pd.DataFrame(blocks, query.cell_names(), query.gene_columns("X")["index"])


EXPECTED = pd.DataFrame(COUNTS, CELLS, GENES)


def check(found):
    pd.testing.assert_frame_equal(found, EXPECTED, check_dtype=False)


# --- several AnnData -----------------------------------------------------------------------------


def write_container(path, group, members, *, kind=None):
    """Write AnnData side by side into a group, as mudata and spatialdata do."""
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = (
            zarr.open_group(str(path), mode="w") if path.suffix == ".zarr" else h5py.File(path, "w")
        )
        root.require_group(group)
        for name, adata in members.items():
            write_elem(root[group], name, adata)
        if kind == "MuData":
            root.attrs["encoding-type"] = kind
            write_elem(root, "obs", pd.DataFrame(index=CELLS))
            write_elem(root, "var", pd.DataFrame(index=[*GENES, *PROTEINS.var_names]))
    if isinstance(root, h5py.File):
        root.close()
    return path


@pytest.mark.parametrize(
    ("suffix", "rna"), [(".h5mu", "RNA"), (".h5mu", "cells"), (".zarr", "rna"), (".zarr", "gex")]
)
def test_the_modality_with_genes_is_read_by_itself(tmp_path, suffix, rna):
    members = {"prot": PROTEINS, rna: make()}
    path = write_container(tmp_path / f"a{suffix}", "mod", members, kind="MuData")
    check(read(path))
    with open_query(path) as query:
        assert query.obs_column("sample") == ["a", "b"] * 2
        assert query.uns("scbignn") is None
    found = read(path, modality="prot")
    assert list(found.columns) == list(PROTEINS.var_names)
    with pytest.raises(InputError, match=r"MuData with .*, and no 'atac'.*--modality"):
        read(path, modality="atac")


def test_a_file_of_mudata_itself_is_read(tmp_path):
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = mudata.MuData({"rna": make(), "prot": PROTEINS})
        cells.write(tmp_path / "a.h5mu")
        cells.write_zarr(tmp_path / "a.zarr")
    check(read(tmp_path / "a.h5mu"))
    check(read(tmp_path / "a.zarr"))


def test_modalities_that_tell_nothing_are_asked_for(tmp_path):
    members = {"one": make(), "other": make()}
    path = write_container(tmp_path / "a.h5mu", "mod", members, kind="MuData")
    with pytest.raises(InputError, match=r"MuData with one, other;.* say which with --modality"):
        open_query(path)
    check(read(path, modality="other"))


@pytest.mark.parametrize("group", ["tables", "table"])
def test_a_table_of_spatialdata_is_read(tmp_path, group):
    path = write_container(tmp_path / "a.zarr", group, {"cells": make()})
    check(read(path))
    path = write_container(tmp_path / "b.zarr", group, {"bins": PROTEINS, "cells": make()})
    with pytest.raises(InputError, match=r"SpatialData with bins, cells;.*--table NAME"):
        open_query(path)
    check(read(path, table="cells"))


def test_a_choice_among_several_needs_several(tmp_path):
    make().write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"is no MuData.*leave out --modality"):
        open_query(tmp_path / "a.h5ad", modality="rna")
    path = write_container(tmp_path / "a.h5mu", "mod", {"rna": make()}, kind="MuData")
    with pytest.raises(InputError, match=r"is no SpatialData.*leave out --table"):
        open_query(path, table="rna")


def test_damaged_modalities_are_one_line(tmp_path):
    path = write_container(tmp_path / "a.h5mu", "mod", {"rna": make()}, kind="MuData")
    with h5py.File(path, "r+") as file:
        del file["mod/rna/X/data"]
    with open_query(path) as query, pytest.raises(InputError, match="cannot read"):
        list(query.blocks("X", 3))
    with h5py.File(path, "r+") as file:
        del file["mod/rna/var"]
    with pytest.raises(InputError, match="MuData with no AnnData"):
        open_query(path)


def test_a_modality_is_labelled_and_written_as_a_file_of_its_own(run, tmp_path, example):
    cells = ad.read_h5ad(example)[:60].copy()
    proteins = ad.AnnData(np.ones((60, 2), np.float32), obs=pd.DataFrame(index=cells.obs_names))
    path = write_container(tmp_path / "a.h5mu", "mod", {"prot": proteins, "rna": cells})
    options = ["-m", "human-pbmc", "--device", "cpu", "--threads", "1", "--modality", "rna"]
    run("annotate", path, *options)
    labelled = ad.read_h5ad(tmp_path / "a.scbignn.h5ad")
    assert list(labelled.obs_names) == list(cells.obs_names)
    assert "scbignn_cell_type" in labelled.obs
    done = run("annotate", path, "--in-place", *options, code=1)
    assert "no .h5ad file" in done.output


# --- packed files --------------------------------------------------------------------------------


def tar(data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("a.h5ad")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zipped(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.h5ad", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "pack", "command"),
    [
        ("a.h5ad.gz", gzip.compress, "gunzip --keep 'a.h5ad.gz'"),
        ("a.h5ad.xz", lzma.compress, "unxz --keep 'a.h5ad.xz'"),
        ("a.h5ad.bz2", bz2.compress, "bunzip2 --keep 'a.h5ad.bz2'"),
        ("a.zip", zipped, "unzip 'a.zip'"),
        ("a.h5ad", zipped, "unzip 'a.h5ad'"),
        ("a.tar", tar, "tar -xf 'a.tar'"),
        ("a.tar.gz", lambda data: gzip.compress(tar(data)), "tar -xf 'a.tar.gz'"),
        ("a.tgz", lambda data: gzip.compress(tar(data)), "tar -xf 'a.tgz'"),
    ],
)
def test_a_packed_file_names_the_command_that_unpacks_it(tmp_path, name, pack, command):
    make().write_h5ad(tmp_path / "plain.h5ad")
    (tmp_path / name).write_bytes(pack((tmp_path / "plain.h5ad").read_bytes()))
    with pytest.raises(InputError, match="packed with") as caught:
        open_query(tmp_path / name)
    assert f"({command})" in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {"plain.h5ad", name}


# --- folders of other programs -------------------------------------------------------------------


def write_names(path, rows, pack):
    end = ".gz" if pack else ""
    with (gzip.open if pack else open)(f"{path}{end}", "wb") as file:
        file.write("".join(row + "\n" for row in rows).encode())


def write_layout(folder, layout, *, pack=False, turned=False):
    """Write counts as a program does, split where it splits them; by gzip if so."""
    folder.mkdir(parents=True)
    for i, name in enumerate(layout.matrices):
        n = len(layout.matrices)
        part = COUNTS if n == 1 else [COUNTS - (COUNTS > 1), COUNTS > 1, 0 * COUNTS][i]
        values = sp.coo_matrix(np.asarray(part, int))
        mmwrite(folder / name, values if layout.cells_by_genes != turned else values.T)
        if pack:
            data = (folder / name).read_bytes()
            (folder / name).unlink()
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    csv = layout.genes[0].endswith(".csv")
    genes = ["gene_id,gene_name,genome", *(f"{g},{g},hg38" for g in GENES)] if csv else GENES
    write_names(folder / layout.genes[0], genes, pack)
    cells = ["bc_wells,sample,gene_count", *(f"{c},a,3" for c in CELLS)] if csv else CELLS
    write_names(folder / layout.cells[0], cells, pack)
    return folder


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.matrices[0])
def test_every_program_gives_the_same_cells(tmp_path, layout, pack):
    folder = write_layout(tmp_path / "cells", layout, pack=pack)
    check(read(folder))
    check(read(next(p for p in folder.iterdir() if p.name.startswith(layout.matrices[0]))))
    check(read(write_layout(tmp_path / "turned", layout, turned=True)))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.matrices[0])
def test_a_file_that_is_missing_or_short_is_named(tmp_path, layout):
    folder = write_layout(tmp_path / "cells", layout)
    lines = (folder / layout.cells[0]).read_text().splitlines(keepends=True)
    (folder / layout.cells[0]).write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="for 3 cells and 5 genes"):
        open_query(folder)
    (folder / layout.genes[0]).unlink()
    with pytest.raises(InputError, match=f"has no {layout.genes[0]}"):
        open_query(folder)


def test_more_about_cells_and_genes_is_kept(tmp_path):
    parse = next(layout for layout in LAYOUTS if layout.matrices == ("count_matrix.mtx",))
    with open_query(write_layout(tmp_path / "parse", parse)) as query:
        assert query.gene_columns("X")["gene_name"] == GENES
        assert query.obs_column("sample") == ["a"] * 4
    kb = write_layout(tmp_path / "kb", LAYOUTS[0])
    (kb / "cells_x_genes.genes.names.txt").write_text("\n".join(f"S{g}" for g in GENES))
    with open_query(kb) as query:
        assert query.gene_columns("X")["gene_names"] == [f"S{g}" for g in GENES]


def test_spliced_unspliced_and_ambiguous_of_alevin_are_summed(tmp_path):
    layout = next(layout for layout in LAYOUTS if layout.program == "alevin-fry")
    folder = write_layout(tmp_path / "cells", layout)
    parts = np.hstack([COUNTS, 2 * COUNTS, 3 * COUNTS]).astype(int)
    mmwrite(folder / "quants_mat.mtx", sp.coo_matrix(parts))
    names = [*GENES, *(f"{g}-U" for g in GENES), *(f"{g}-A" for g in GENES)]
    write_names(folder / layout.genes[0], names, pack=False)
    pd.testing.assert_frame_equal(read(folder), 6 * EXPECTED, check_dtype=False)


@pytest.mark.parametrize(
    "place",
    [
        "filtered_feature_bc_matrix",
        "outs/filtered_feature_bc_matrix",
        "cell_feature_matrix",
        "Gene/filtered",
        "Solo.out/Gene/filtered",
    ],
)
def test_the_output_of_a_program_is_searched_for_its_cells(tmp_path, write_as, place):
    folder = tmp_path / "run" / place
    folder.parent.mkdir(parents=True)
    write_as(make(), folder, "mtx")
    (tmp_path / "run" / "metrics_summary.csv").write_text("a,b\n1,2\n")
    raw = tmp_path / "run" / "raw_feature_bc_matrix"
    raw.mkdir()
    (raw / "matrix.mtx").write_text("not read")
    check(read(tmp_path / "run"))


def test_other_folders_name_what_can_be_given(tmp_path, write_as):
    (tmp_path / "run" / "sample 1").mkdir(parents=True)
    (tmp_path / "run" / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"without matrix\.mtx.*check the path"):
        open_query(tmp_path / "run")
    write_as(make(), tmp_path / "run" / "sample 1" / "counts_unfiltered", "mtx")
    make().write_h5ad(tmp_path / "run" / "b.h5ad")
    with pytest.raises(InputError, match=r"b\.h5ad or .*sample 1/counts_unfiltered") as caught:
        open_query(tmp_path / "run")
    assert "give what is in it" in str(caught.value)


def test_a_matrix_of_no_known_program_names_what_is_expected(tmp_path):
    mmwrite(tmp_path / "counts.mtx", sp.coo_matrix(COUNTS))
    with pytest.raises(InputError, match=r"counts\.mtx is a matrix without names.*features\.tsv"):
        open_query(tmp_path / "counts.mtx")


def test_zarr_that_is_not_installed_is_not_needed_for_mudata(tmp_path, monkeypatch):
    path = write_container(tmp_path / "a.h5mu", "mod", {"rna": make()}, kind="MuData")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with open_query(path) as query:
        assert query.n_cells == 4
