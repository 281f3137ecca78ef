"""Files of Cell Ranger, written here in its layouts."""

from __future__ import annotations

import gzip
import shutil

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from scbignn_infer.errors import InputError
from scbignn_infer.query.readers import open_query

COUNTS = sp.csr_matrix(np.random.default_rng(0).poisson(0.7, (20, 30)).astype(np.float32))
SYMBOLS = [f"GENE{i}" for i in range(30)]
IDS = [f"ENSG{i:011d}" for i in range(30)]
TYPES = ["Gene Expression"] * 27 + ["Antibody Capture"] * 3
BARCODES = [f"ACGT{i}-1" for i in range(20)]


def text(values):
    return np.array([v.encode() for v in values])


def write_h5(path, version):
    """Write counts as Cell Ranger does: a column a cell, which is CSR of cells x genes."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(COUNTS, part).astype(np.int64)
        group["shape"] = np.array([30, 20])
        group["barcodes"] = text(BARCODES)
        if version == 3:
            group["features/id"], group["features/name"] = text(IDS), text(SYMBOLS)
            group["features/feature_type"] = text(TYPES)
            group["features/genome"] = text(["GRCh38"] * 30)
        else:
            group["genes"], group["gene_names"] = text(IDS), text(SYMBOLS)


def write_folder(folder, *, version=3, prefix="", transposed=False):
    folder.mkdir()
    pack = gzip.open if version == 3 else open
    end = ".gz" if version == 3 else ""
    mmwrite(folder / "plain.mtx", COUNTS if transposed else COUNTS.T)
    with pack(folder / f"{prefix}matrix.mtx{end}", "wb") as file:
        file.write((folder / "plain.mtx").read_bytes())
    (folder / "plain.mtx").unlink()
    names = "features" if version == 3 else "genes"
    columns = (IDS, SYMBOLS, TYPES) if version == 3 else (IDS, SYMBOLS)
    for name, rows in ((names, zip(*columns, strict=True)), ("barcodes", zip(BARCODES))):
        with pack(folder / f"{prefix}{name}.tsv{end}", "wb") as file:
            file.write("".join("\t".join(row) + "\n" for row in rows).encode())
    return folder


@pytest.mark.parametrize("kind", ["h5-2", "h5-3", "folder-2", "folder-3"])
def test_every_layout_gives_the_same_cells(tmp_path, kind):
    form, version = kind.split("-")
    path = tmp_path / ("cells.h5" if form == "h5" else "cells")
    if form == "h5":
        write_h5(path, int(version))
    else:
        write_folder(path, version=int(version))
    with open_query(path) as query:
        assert not query.h5ad
        assert (query.n_cells, query.matrices()) == (20, ["X"])
        assert query.cell_names() == BARCODES
        columns = query.gene_columns("X")
        assert (columns["index"], columns["gene_ids"]) == (SYMBOLS, IDS)
        assert columns.get("feature_types") == (TYPES if version == "3" else None)
        blocks = list(query.blocks("X", 7))
        assert [b.shape[0] for b in blocks] == [7, 7, 6]
        np.testing.assert_array_equal(sp.vstack(blocks).toarray(), COUNTS.toarray())
        rows = np.array([0, 3, 19])
        np.testing.assert_array_equal(query.rows("X", rows).toarray(), COUNTS.toarray()[rows])
        adata = query.to_adata()
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS.toarray())
    assert list(adata.obs_names) == BARCODES
    assert list(adata.var["gene_ids"]) == IDS
    assert query.uns("scbignn") is None
    with pytest.raises(InputError, match="no obs"):
        query.obs_column("sample")


def test_a_prefix_and_the_path_of_the_matrix_are_found(tmp_path):
    folder = write_folder(tmp_path / "geo", prefix="GSM1_")
    for path in (folder, folder / "GSM1_matrix.mtx.gz"):
        with open_query(path) as query:
            assert query.cell_names() == BARCODES


def test_a_transposed_matrix_is_turned(tmp_path):
    with open_query(write_folder(tmp_path / "cells", transposed=True)) as query:
        found = sp.vstack(list(query.blocks("X", 9))).toarray()
    np.testing.assert_array_equal(found, COUNTS.toarray())


def test_several_matrices_or_genomes_are_refused(tmp_path):
    folder = write_folder(tmp_path / "cells", prefix="a_")
    shutil.copy(folder / "a_matrix.mtx.gz", folder / "b_matrix.mtx.gz")
    with pytest.raises(InputError, match="holds 2 matrices"):
        open_query(folder)
    write_h5(tmp_path / "a.h5", 2)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(InputError, match=r"2 genomes \(GRCh38, mm10\)"):
        open_query(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["features.tsv.gz", "barcodes.tsv.gz"])
def test_a_missing_or_short_list_of_names_is_refused(tmp_path, name):
    folder = write_folder(tmp_path / "cells")
    with gzip.open(folder / name) as file:
        lines = file.readlines()
    with gzip.open(folder / name, "wb") as file:
        file.writelines(lines[:-1])
    with pytest.raises(InputError, match="30 x 20 values"):
        open_query(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name[:8]}"):
        open_query(folder)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("indptr", np.zeros(20, np.int64)),
        ("indptr", np.r_[np.arange(20), 10_000]),
        ("indptr", np.r_[0, np.arange(20)[::-1]]),
        ("data", np.zeros(3)),
        ("barcodes", text(BARCODES[:5])),
        ("shape", np.array([31, 20])),
    ],
)
def test_damaged_groups_are_one_line(tmp_path, part, value):
    path = tmp_path / "a.h5"
    write_h5(path, 3)
    with h5py.File(path, "r+") as file:
        del file["matrix"][part]
        file["matrix"][part] = value
    with pytest.raises(InputError, match=r"cannot read .*a\.h5"), open_query(path) as query:
        list(query.blocks("X", 5))


@pytest.mark.parametrize(
    ("dropped", "names"),
    [
        (("features/id",), SYMBOLS),
        (("features/name",), IDS),
        (("features/feature_type", "features/genome"), SYMBOLS),
    ],
)
def test_a_file_with_fewer_names_of_genes_is_read(tmp_path, dropped, names):
    write_h5(tmp_path / "a.h5", 3)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for part in dropped:
            del file["matrix"][part]
    with open_query(tmp_path / "a.h5") as query:
        columns = query.gene_columns("X")
        assert columns["index"] == names
        assert ("gene_ids" in columns) == ("features/id" not in dropped)
        assert query.to_adata().shape == (20, 30)


def test_a_file_without_names_of_genes_says_so(tmp_path):
    write_h5(tmp_path / "a.h5", 2)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["GRCh38/gene_names"]
    with open_query(tmp_path / "a.h5") as query:
        assert query.gene_columns("X")["index"] == IDS
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["GRCh38/genes"]
    with pytest.raises(InputError, match="names no genes"):
        open_query(tmp_path / "a.h5")


def test_names_in_latin_1_are_read(tmp_path):
    folder = write_folder(tmp_path / "cells", version=2)
    text = (folder / "genes.tsv").read_text().replace("GENE7\n", "gène 7\n")
    (folder / "genes.tsv").write_bytes(text.encode("latin-1"))
    with open_query(folder) as query:
        assert query.gene_columns("X")["index"][7] == "gène 7"
    write_h5(tmp_path / "a.h5", 3)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["matrix/barcodes"][3] = "é-1".encode("latin-1")
    with open_query(tmp_path / "a.h5") as query:
        assert query.cell_names()[3] == "é-1"
