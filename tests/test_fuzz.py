"""Bytes that nobody meant: whatever is read ends in a result or in an error of ours."""

from __future__ import annotations

import gzip
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import BundleError, Flaw, InputError
from scbignn_infer.model.bundle import RECORD, ModelBundle, read_bundle
from scbignn_infer.model.onnx_graph import check_graph
from scbignn_infer.model.validate import TABLES, read_tables
from scbignn_infer.query.readers import open_query

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.model.bundle import BundleSpec

fuzz = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def read(path: Path) -> None:
    """Read a bundle; all that may be raised is ours, in one line."""
    message = ""
    try:
        bundle = read_bundle(path)
        assert bundle.cell_types == [c.label for c in bundle.spec.cell_types]
    except BundleError as error:
        message = str(error)
    assert "\n" not in message


@fuzz
@given(data=st.binary(max_size=400))
def test_any_bytes_as_a_record(toy: Path, data: bytes) -> None:
    (toy / RECORD).write_bytes(data)
    read(toy)


@fuzz
@given(at=st.integers(0, 3000), length=st.integers(0, 40), data=st.binary(max_size=20))
def test_any_change_of_bytes_of_a_record(
    toy: Path, record: dict[str, Any], at: int, length: int, data: bytes
) -> None:
    whole = json.dumps(record).encode()
    at %= len(whole)
    (toy / RECORD).write_bytes(whole[:at] + data + whole[at + length :])
    read(toy)


@fuzz
@given(data=st.data())
def test_any_value_anywhere_in_a_record(
    toy: Path, record: dict[str, Any], data: st.DataObject
) -> None:
    node: Any = json.loads(json.dumps(record))
    whole = node
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(VALUES)
        break
    (toy / RECORD).write_text(json.dumps(whole))
    read(toy)


@fuzz
@given(data=st.binary(max_size=300))
def test_any_bytes_as_a_zipped_bundle(tmp_path: Path, data: bytes) -> None:
    for start in (b"", b"PK\x03\x04", b"PK\x05\x06"):
        (tmp_path / "toy.zip").write_bytes(start + data)
        read(tmp_path / "toy.zip")


@pytest.fixture
def spec(toy: Path) -> BundleSpec:
    return read_bundle(toy).spec


def mutated(data: bytes, at: int, length: int, other: bytes) -> bytes:
    """Return data with some bytes replaced."""
    at %= len(data)
    return data[:at] + other + data[at + length :]


CHANGES = {
    "at": st.integers(0, 1 << 20),
    "length": st.integers(0, 40),
    "other": st.binary(max_size=20),
}


@fuzz
@given(**CHANGES, file=st.sampled_from(["statistics.npz", "reference.npz"]))
def test_any_change_of_bytes_of_tables(
    toy: Path, spec: BundleSpec, file: str, at: int, length: int, other: bytes
) -> None:
    message = ""
    try:
        tables = read_tables(file, mutated((toy / file).read_bytes(), at, length, other), spec)
        assert tables.keys() <= TABLES[file].keys()
    except Flaw as flaw:
        message = str(flaw)
    assert message.isprintable()


@fuzz
@given(**CHANGES, level=st.sampled_from(["gene", "cell"]))
def test_any_change_of_bytes_of_a_graph(
    toy: Path, level: str, at: int, length: int, other: bytes
) -> None:
    """What passes is opened and run, too."""
    name = f"{level}_level.onnx"
    data = mutated((toy / name).read_bytes(), at, length, other)
    bundle, message = read_bundle(toy), ""
    try:
        check_graph(data, f"{level} level")
        changed = ModelBundle(bundle.path, bundle.spec, bundle._files | {name: data}, "")
        Annotator(changed, device="cpu", threads=1)
    except (Flaw, BundleError) as error:
        message = str(error)
    assert message.isprintable()


@fuzz
@given(data=st.binary(max_size=300), level=st.sampled_from(["gene level", "cell level"]))
def test_any_bytes_as_a_graph(data: bytes, level: str) -> None:
    with pytest.raises(Flaw):
        check_graph(data, level)


@fuzz
@given(**CHANGES)
def test_any_change_of_bytes_of_a_zipped_bundle(
    toy: Path, tmp_path: Path, at: int, length: int, other: bytes
) -> None:
    whole = tmp_path / "whole.zip"
    if not whole.exists():
        shutil.make_archive(str(whole.with_suffix("")), "zip", toy)
    (tmp_path / "toy.zip").write_bytes(mutated(whole.read_bytes(), at, length, other))
    read(tmp_path / "toy.zip")


def open_all(path: Path) -> None:
    """Read all of a query; all that may be raised is ours, in one line."""
    message = ""
    try:
        with open_query(path, known_genes={"CD3D", "LYZ", "NKG7"}) as query:
            for matrix in query.matrices():
                query.gene_columns(matrix)
                rows = sum(block.shape[0] for block in query.blocks(matrix, 3))
                assert rows == query.n_cells
    except InputError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore")  # pandas warns of columns of mixed kinds
@fuzz
@given(
    data=st.binary(max_size=300)
    | st.text(alphabet="CD3LYZNKG7,;\t\n\"'.0123456789eE-+ ", max_size=300).map(str.encode),
    start=st.sampled_from([b"", b",CD3D,LYZ,NKG7\n", b"\tCD3D\tLYZ\n"]),
)
def test_any_bytes_as_a_table(tmp_path: Path, data: bytes, start: bytes) -> None:
    for name, content in (("a.csv", start + data), ("a.tsv.gz", gzip.compress(start + data))):
        (tmp_path / name).write_bytes(content)
        open_all(tmp_path / name)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(start)[: len(data)] + data)
    open_all(tmp_path / "b.csv.gz")


@pytest.mark.filterwarnings("ignore")
@fuzz
@given(
    matrix=st.binary(max_size=120)
    | st.text(alphabet="0123456789 \n.-%e", max_size=120).map(str.encode),
    names=st.text(max_size=30).map(str.encode),
    head=st.booleans(),
)
def test_any_bytes_in_a_matrix_folder(
    tmp_path: Path, matrix: bytes, names: bytes, head: bool
) -> None:
    folder = tmp_path / "cells"
    folder.mkdir(exist_ok=True)
    start = b"%%MatrixMarket matrix coordinate integer general\n2 2 1\n" if head else b""
    (folder / "matrix.mtx").write_bytes(start + matrix)
    (folder / "genes.tsv").write_bytes(b"id1\tCD3D\nid2\tLYZ\n" + names)
    (folder / "barcodes.tsv").write_bytes(b"a\nb\n")
    open_all(folder)


@fuzz
@given(data=st.binary(max_size=600))
def test_any_bytes_as_hdf5(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + data)
    open_all(tmp_path / "a.h5ad")
