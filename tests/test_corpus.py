"""Odd and broken files: each ends in the right labels, or in one line and exit code 1.

The cells are 40 real islet cells of the fixture. A file is described by what it holds (built here)
and by how it must end: with the labels of the plain file, with labels at all, or with a message.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

FIXTURE = Path(__file__).resolve().parent / "data" / "pancreas400.h5ad"
MODEL = "human-pancreas"
SAME, WORKS = "the labels of the plain file", "some labels"
Build = Callable[[ad.AnnData, Path], Any]
pytestmark = pytest.mark.filterwarnings("ignore")  # what anndata says of the odd files made here


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    adata = ad.read_h5ad(FIXTURE)[::10].copy()
    return ad.AnnData(
        sp.csr_matrix(adata.X, dtype=np.float32),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(adata.n_obs)]),
        var=pd.DataFrame(index=list(adata.var_names)),
    )


@pytest.fixture(scope="session")
def annotate(run: Any) -> Any:
    """Return a function that gives exit code, stderr and the table of labels of a file."""

    def annotate(path: Path, folder: Path) -> tuple[int, str, pd.DataFrame | None]:
        output = folder / "labels.csv"
        options = ["-m", MODEL, "--threads", "1", "-q", "-o", output]
        done = run("annotate", path, *options, code=None)
        if done.exit_code:
            assert done.stderr
            assert not output.exists()
            return 1, done.stderr, None
        return 0, done.stderr, pd.read_csv(output, index_col=0, keep_default_na=False)

    return annotate


@pytest.fixture(scope="module")
def plain(
    annotate: Any, cells: ad.AnnData, tmp_path_factory: pytest.TempPathFactory
) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("plain")
    cells.write_h5ad(folder / "q.h5ad")
    _, _, labels = annotate(folder / "q.h5ad", folder)
    assert labels is not None
    assert labels["scbignn_cell_type"].nunique() > 3
    return labels


# --- how files are made --------------------------------------------------------------------------


def changed(**parts: Callable[[ad.AnnData], Any]) -> Build:
    """Set parts of the AnnData to what a function makes of it, then write it."""

    def build(cells: ad.AnnData, path: Path) -> None:
        for name, make in parts.items():
            setattr(cells, name, make(cells))
        cells.write_h5ad(path)

    return build


def as_x(make: Callable[[sp.csr_matrix], Any]) -> Build:
    return changed(X=lambda cells: make(cells.X))


def packed(**how: Any) -> Build:
    return lambda cells, path: cells.write_h5ad(path, **how)


def edited(edit: Callable[[h5py.File], Any]) -> Build:
    """Write the plain file and change it within HDF5."""

    def build(cells: ad.AnnData, path: Path) -> None:
        with ad.settings.override(allow_write_nullable_strings=False):  # as they were before 0.13
            cells.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            edit(file)

    return build


def replaced(name: str, make: Callable[[Any], Any]) -> Build:
    """Replace a data set by what a function makes of its values."""

    def edit(file: h5py.File) -> None:
        values, attributes = file[name][:], dict(file[name].attrs)
        del file[name]
        file[name] = make(values)
        file[name].attrs.update(attributes)

    return edited(edit)


def dropped(*names: str) -> Build:
    return edited(lambda file: [file.__delitem__(name) for name in names])


def shuffled(x: sp.csr_matrix) -> sp.csr_matrix:
    x = x.copy()
    for i in range(x.shape[0]):
        row = slice(x.indptr[i], x.indptr[i + 1])
        x.indices[row], x.data[row] = x.indices[row][::-1].copy(), x.data[row][::-1].copy()
    x.has_sorted_indices = False
    return x


def without(x: sp.csr_matrix, row: int) -> sp.csr_matrix:
    kept = np.ones(x.shape[0])
    kept[row] = 0
    return sp.csr_matrix(sp.diags_array(kept) @ x)


def halves(file: h5py.File) -> None:
    """Store each value as two halves under one index."""
    x = file["X"]
    data, indices, indptr = x["data"][:], x["indices"][:], x["indptr"][:]
    for name, values in (
        ("data", np.repeat(data / 2, 2)),
        ("indices", np.repeat(indices, 2)),
        ("indptr", indptr * 2),
    ):
        attributes = dict(x[name].attrs)
        del x[name]
        x[name] = values
        x[name].attrs.update(attributes)


def cp10k(x: sp.csr_matrix, target: float | None = 1e4) -> sp.csr_matrix:
    totals = np.asarray(x.sum(axis=1)).ravel()
    return sp.csr_matrix(sp.diags_array((target or np.median(totals)) / totals) @ x)


def logarithm(x: sp.csr_matrix, base: float = np.e, dtype: Any = np.float32) -> sp.csr_matrix:
    x = x.copy()
    x.data = (np.log1p(x.data) / np.log(base)).astype(dtype)
    return x


def scaled(cells: ad.AnnData) -> np.ndarray:
    dense = cells.X.toarray()
    return dense - dense.mean(axis=0)


def with_raw(cells: ad.AnnData, path: Path) -> None:
    whole = cells.copy()
    cells = ad.AnnData(scaled(cells)[:, :500], obs=cells.obs, var=cells.var.iloc[:500])
    cells.raw = whole
    cells.write_h5ad(path)


def renamed(column: str) -> Build:
    """Put the gene names into a column and numbers into the index."""

    def build(cells: ad.AnnData, path: Path) -> None:
        cells.var[column] = list(cells.var_names)
        cells.var_names = [str(i) for i in range(cells.n_vars)]
        cells.write_h5ad(path)

    return build


def with_proteins(cells: ad.AnnData, path: Path) -> None:
    proteins = sp.csr_matrix(np.full((cells.n_obs, 3), 5000.0, np.float32))
    var = pd.DataFrame(
        {"feature_types": ["Gene Expression"] * cells.n_vars + ["Antibody Capture"] * 3},
        index=[*cells.var_names, "INS", "CD4", "IgG1"],
    )
    ad.AnnData(sp.csr_matrix(sp.hstack([cells.X, proteins])), cells.obs, var).write_h5ad(path)


def twice(cells: ad.AnnData, path: Path) -> None:
    """Split the counts of some genes over two columns of one name."""
    x = cells.X.tolil()
    part = np.floor(cells.X[:, :50].toarray() / 2)
    x[:, :50] = cells.X[:, :50].toarray() - part
    var = pd.DataFrame(index=[*cells.var_names, *cells.var_names[:50]])
    whole = sp.csr_matrix(sp.hstack([x.tocsr(), sp.csr_matrix(part)]), dtype=np.float32)
    ad.AnnData(whole, cells.obs, var).write_h5ad(path)


def named(name: str) -> Build:
    def build(cells: ad.AnnData, path: Path) -> Path:
        cells.write_h5ad(path.with_name(name))
        return path.with_name(name)

    return build


def bytes_of(data: bytes) -> Build:
    return lambda cells, path: path.write_bytes(data) and None


def spoiled(value: float) -> Build:
    """Put a value into a row that the sample for the verdict sees, or, in many cells, may not."""

    def make(x: sp.csr_matrix) -> sp.csr_matrix:
        x = x.copy()
        x.data[-1] = value
        return x

    return as_x(make)


def not_readable(cells: ad.AnnData, path: Path) -> None:
    cells.write_h5ad(path)
    path.chmod(0)


def fifo(cells: ad.AnnData, path: Path) -> None:
    os.mkfifo(path)


@dataclass(frozen=True)
class File:
    build: Build
    end: str


ODD: dict[str, File] = {
    "float64": File(as_x(lambda x: x.astype(np.float64)), SAME),
    "int32 counts": File(as_x(lambda x: x.astype(np.int32)), SAME),
    "int64 counts": File(as_x(lambda x: x.astype(np.int64)), SAME),
    "uint16 counts": File(as_x(lambda x: x.astype(np.uint16)), SAME),
    "float16 values": File(replaced("X/data", lambda v: v.astype(np.float16)), WORKS),
    "big-endian values": File(replaced("X/data", lambda v: v.astype(">f4")), SAME),
    "int64 indices": File(replaced("X/indices", lambda v: v.astype(np.int64)), SAME),
    "int64 pointers": File(replaced("X/indptr", lambda v: v.astype(np.int64)), SAME),
    "unsigned indices": File(replaced("X/indices", lambda v: v.astype(np.uint32)), SAME),
    "unsorted indices": File(as_x(shuffled), SAME),
    "repeated indices": File(edited(halves), SAME),
    "csc": File(as_x(sp.csc_matrix), SAME),
    "dense": File(as_x(lambda x: x.toarray()), SAME),
    "dense float64 in Fortran order": File(
        as_x(lambda x: np.asfortranarray(x.toarray(), np.float64)), SAME
    ),
    "dense whole numbers": File(as_x(lambda x: x.toarray().astype(np.int32)), SAME),
    "gzip": File(packed(compression="gzip"), SAME),
    "lzf": File(packed(compression="lzf"), SAME),
    "log1p of CP10k": File(as_x(lambda x: logarithm(cp10k(x))), SAME),
    "log1p of the median total": File(as_x(lambda x: logarithm(cp10k(x, None))), SAME),
    "log2 of CPM": File(as_x(lambda x: logarithm(cp10k(x, 1e6), 2)), SAME),
    "log10 of CP10k": File(as_x(lambda x: logarithm(cp10k(x), 10)), SAME),
    "log1p of counts": File(as_x(logarithm), SAME),
    "log1p in float16": File(as_x(lambda x: logarithm(cp10k(x), dtype=np.float16)), WORKS),
    "CPM": File(as_x(lambda x: cp10k(x, 1e6).astype(np.float32)), SAME),
    "shares of one": File(as_x(lambda x: cp10k(x, 1).astype(np.float32)), SAME),
    "counts over size factors": File(
        as_x(lambda x: sp.csr_matrix(sp.diags_array(np.linspace(0.2, 3, x.shape[0])) @ x)), SAME
    ),
    "scaled X with raw": File(with_raw, SAME),
    "scaled X with a layer": File(changed(layers=lambda c: {"counts": c.X.copy()}, X=scaled), SAME),
    "only a layer": File(changed(layers=lambda c: {"counts": c.X.copy()}, X=lambda c: None), SAME),
    "constant X with a layer": File(
        changed(
            layers=lambda c: {"counts": c.X.copy()},
            X=lambda c: np.full(c.shape, 0.5, np.float32),
        ),
        SAME,
    ),
    "names in a column": File(renamed("feature_name"), SAME),
    "names in a category": File(edited(lambda file: None), SAME),
    "unicode cells": File(
        changed(obs_names=lambda c: [f"Zelle ä{i} 細胞" for i in range(c.n_obs)]), SAME
    ),
    "cells of one name": File(changed(obs_names=lambda c: ["cell"] * c.n_obs), SAME),
    "cells named by numbers": File(
        changed(obs_names=lambda c: [str(i) for i in range(c.n_obs)]), SAME
    ),
    "unicode genes": File(changed(var_names=lambda c: [*c.var_names[:-1], "βGene"]), WORKS),
    "genes twice": File(twice, SAME),
    "proteins": File(with_proteins, SAME),
    "an empty cell": File(
        as_x(lambda x: sp.diags_array([0.0] + [1.0] * (x.shape[0] - 1)) @ x), WORKS
    ),
    "a gene without counts": File(
        as_x(lambda x: sp.csr_matrix(x @ sp.diags_array(np.r_[0.0, np.ones(x.shape[1] - 1)]))),
        WORKS,
    ),
    "one cell": File(lambda c, path: c[:1].copy().write_h5ad(path), WORKS),
    "two cells": File(lambda c, path: c[:2].copy().write_h5ad(path), WORKS),
    "one cell of log1p": File(
        lambda c, path: ad.AnnData(logarithm(cp10k(c.X))[:1], var=c.var).write_h5ad(path), WORKS
    ),
    "no encoding of strings": File(edited(lambda f: f["obs/_index"].attrs.clear()), SAME),
    "strange groups": File(edited(lambda f: f.create_group("strange/inside")), SAME),
    "a broken uns": File(edited(lambda f: f["uns"].create_dataset("x", data=b"\xff")), SAME),
    "spaces in the name": File(named("my cells (1).h5ad"), SAME),
    "unicode in the name": File(named("zélls 細胞.h5ad"), SAME),
    "another suffix": File(named("cells.hdf5"), SAME),
    "read only": File(lambda c, path: (c.write_h5ad(path), path.chmod(0o400))[-1], SAME),
}
ODD["names in a category"] = File(
    lambda c, path: (
        c.var.insert(0, "symbol", pd.Categorical(list(c.var_names))),
        setattr(c, "var_names", [str(i) for i in range(c.n_vars)]),
        c.write_h5ad(path),
    )[-1],
    SAME,
)
BROKEN: dict[str, File] = {
    "no bytes": File(bytes_of(b" "), "is not an HDF5 file"),
    "a text": File(bytes_of(b"cell,gene\n" * 100), "is not an HDF5 file"),
    "a zip": File(bytes_of(b"PK\x03\x04" + bytes(500)), r"is packed with zip.*unzip"),
    "a signature alone": File(bytes_of(b"\x89HDF\r\n\x1a\n"), "cannot read"),
    "zero cells": File(lambda c, path: c[:0].copy().write_h5ad(path), "zero cells"),
    "zero genes": File(lambda c, path: c[:, :0].copy().write_h5ad(path), "zero genes"),
    "all zero": File(as_x(lambda x: x * 0), "X is empty"),
    "scaled": File(changed(X=scaled), "X is scaled"),
    "constant": File(changed(X=lambda c: np.full(c.shape, 0.5, np.float32)), "X is constant"),
    "NaN": File(spoiled(np.nan), "X is non-finite"),
    "infinite": File(spoiled(np.inf), "X is non-finite"),
    "negative": File(spoiled(-1), "X is scaled"),
    "no names of the model": File(
        changed(var_names=lambda c: [f"locus_{i}" for i in range(c.n_vars)]), "share 0 of"
    ),
    "numbers for names": File(
        changed(var_names=lambda c: [f"gene_{i}" for i in range(c.n_vars)]), "genes have no names"
    ),
    "another species": File(
        changed(var_names=lambda c: [n.capitalize() for n in c.var_names]), "are of mouse"
    ),
    "no X": File(dropped("X"), "no usable matrix"),
    "no obs": File(dropped("obs"), "has no 'obs'"),
    "no var": File(dropped("var"), "has no 'var'"),
    "no values": File(dropped("X/data"), "cannot read"),
    "no indices": File(dropped("X/indices"), "cannot read"),
    "no pointers": File(dropped("X/indptr"), "cannot read"),
    "no index of cells": File(dropped("obs/_index"), "cannot read"),
    "no order of columns": File(
        edited(lambda f: f["var"].attrs.pop("column-order", None)), "cannot read"
    ),
    "no index of genes": File(dropped("var/_index"), "cannot read"),
    "too few values": File(replaced("X/data", lambda v: v[:10]), "cannot read"),
    "too few indices": File(replaced("X/indices", lambda v: v[:10]), "cannot read"),
    "too few pointers": File(replaced("X/indptr", lambda v: v[:5]), "cannot read"),
    "falling pointers": File(replaced("X/indptr", lambda v: v[::-1].copy()), "cannot read"),
    "pointers beyond the end": File(replaced("X/indptr", lambda v: v * 1000), "cannot read"),
    "negative pointers": File(replaced("X/indptr", lambda v: v - 5), "cannot read"),
    "indices beyond the genes": File(
        replaced("X/indices", lambda v: v + 10**6), "a column index of 1"
    ),
    "negative indices": File(replaced("X/indices", lambda v: v - 10**4), "a column index of -"),
    "values of text": File(
        replaced("X/data", lambda v: np.full(len(v), b"text", dtype="S4")), "cannot read"
    ),
    "compound values": File(
        replaced("X/data", lambda v: np.zeros(len(v), dtype=[("a", "f4"), ("b", "i4")])),
        "cannot read",
    ),
    "values in two dimensions": File(replaced("X/data", lambda v: v[:, None]), "cannot read"),
    "X as a number": File(edited(lambda f: (f.__delitem__("X"), f.__setitem__("X", 3.0))), "shape"),
    "X in three dimensions": File(
        edited(lambda f: (f.__delitem__("X"), f.__setitem__("X", np.zeros((4, 4, 4))))), "shape"
    ),
    "an unknown encoding": File(
        edited(lambda f: f["X"].attrs.__setitem__("encoding-type", "zebra")), "cannot read"
    ),
    "too few cells": File(replaced("obs/_index", lambda v: v[:-1]), "shape"),
    "too many genes": File(replaced("var/_index", lambda v: np.r_[v, v[:1]]), "shape"),
    "a folder": File(lambda c, path: path.mkdir(), "is a folder"),
    "a pipe": File(fifo, "is no plain file"),
}


@pytest.mark.parametrize("name", list(ODD))
def test_odd_files_get_their_labels(
    annotate: Any, name: str, cells: ad.AnnData, plain: pd.DataFrame, tmp_path: Path
) -> None:
    file = ODD[name]
    path = file.build(cells.copy(), tmp_path / "q.h5ad") or tmp_path / "q.h5ad"
    code, message, labels = annotate(path, tmp_path)
    assert code == 0, message
    assert labels is not None
    if file.end == SAME:
        for column in ("scbignn_cell_type", "scbignn_gene_level_cell_type"):
            assert labels[column].tolist() == plain[column].tolist()
        np.testing.assert_allclose(
            labels["scbignn_confidence"], plain["scbignn_confidence"], atol=2e-3
        )


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_files_end_in_one_line(
    annotate: Any, name: str, cells: ad.AnnData, tmp_path: Path
) -> None:
    file = BROKEN[name]
    path = file.build(cells.copy(), tmp_path / "q.h5ad") or tmp_path / "q.h5ad"
    code, message, _ = annotate(path, tmp_path)
    assert code == 1
    assert file.end, message
    assert re.search(file.end, message), message


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_one_line(
    annotate: Any, cells: ad.AnnData, tmp_path: Path
) -> None:
    not_readable(cells.copy(), tmp_path / "q.h5ad")
    _, message, _ = annotate(tmp_path / "q.h5ad", tmp_path)
    assert "cannot read" in message


def test_the_corpus_is_large_enough() -> None:
    assert len(ODD) + len(BROKEN) >= 60


WORKER = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from click.testing import CliRunner
    from scbignn_infer.cli import main

    folder, kind, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    data = (folder / "whole.h5ad").read_bytes()
    rng = np.random.default_rng(0)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    ends = {0: 0, 1: 0}
    for i in range(n):
        path, output = folder / "q.h5ad", folder / "labels.csv"
        output.unlink(missing_ok=True)
        if kind == "truncated":
            path.write_bytes(data[: int(len(data) * i / n)])
        else:
            spoiled = bytearray(data)
            # Half of them in the first bytes, where HDF5 keeps what leads to everything else.
            limit = 4096 if i % 2 else len(data)
            for at in rng.integers(0, limit, 1 + i % 4):
                spoiled[at] ^= 1 << rng.integers(0, 8)
            path.write_bytes(spoiled)
        done = CliRunner().invoke(
            main, ["annotate", str(path), "-m", "human-pancreas", "--threads", "1", "-q",
                   "-o", str(output)]
        )
        assert done.exit_code in (0, 1), (i, done.exc_info, done.output)
        if done.exit_code:
            assert isinstance(done.exception, SystemExit), (i, done.exc_info)
            assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, i
            assert not output.exists()
        ends[done.exit_code] += 1
    status = Path("/proc/self/status").read_text()  # getrusage counts the parent, too
    print(ends[0], ends[1], int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by setrlimit")
@pytest.mark.parametrize(("kind", "n"), [("truncated", 60), ("flipped", 120)])
def test_damage_anywhere_ends_well_and_in_bounded_memory(
    cells: ad.AnnData, tmp_path: Path, kind: str, n: int
) -> None:
    """In a process of its own, since a library that crashes takes it down."""
    cells.write_h5ad(tmp_path / "whole.h5ad")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path), kind, str(n)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    fine, refused, peak = map(int, done.stdout.split())
    assert fine + refused == n
    assert refused == n if kind == "truncated" else refused > 0
    assert peak < 1500
