from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
import zipfile

import msgspec
import numpy as np
import pytest

from scbignn_infer.errors import BundleError
from scbignn_infer.model.bundle import REQUIRED_FILES, Dataset, read_bundle


def write(folder, record):
    (folder / "bundle.json").write_text(json.dumps(record))


def zipped(folder, path, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in folder.iterdir():
            archive.write(file, f"{folder.name}/{file.name}")
    return path


def test_reads_record_and_files(toy):
    found = read_bundle(toy)
    assert found.name == "toy"
    assert found.cell_types == ["B", "T [naive]"]
    assert found.gene_symbols == ["CD3D", "MS4A1", "NKG7"]
    assert found.read("gene_level.onnx") == (toy / "gene_level.onnx").read_bytes()
    assert found.sha256 == hashlib.sha256((toy / "bundle.json").read_bytes()).hexdigest()
    with pytest.raises(AttributeError):
        found.spec.name = "other"


@pytest.mark.parametrize(
    ("cells", "drawn", "mostly", "word"),
    [(0, 5, True, "simulated"), (4, 5, True, "training"), (5, 5, False, "training")],
)
def test_a_model_is_mostly_of_profiles_if_most_of_its_cells_are(toy, cells, drawn, mostly, word):
    made = read_bundle(toy).spec.training
    sets = [Dataset(file="p", n_cells=drawn, role="profiles")]
    if cells:
        sets += [Dataset(file="c", n_cells=cells), Dataset(file="u", n_cells=9, role="unlabelled")]
    found = msgspec.structs.replace(made, datasets=sets)
    assert found.mostly_from_profiles == mostly
    assert found.from_profiles == (not cells)
    assert found.cells_are == f"{word} cells"


def test_a_zip_is_the_same_bundle(toy, tmp_path):
    folder, archive = read_bundle(toy), read_bundle(zipped(toy, tmp_path / "toy.zip"))
    assert archive.sha256 == folder.sha256
    assert all(archive.read(name) == folder.read(name) for name in REQUIRED_FILES)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_one_altered_byte_is_refused_by_the_name_of_its_file(toy, name):
    data = bytearray((toy / name).read_bytes())
    data[3] ^= 1
    (toy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was altered"):
        read_bundle(toy)


def test_a_truncated_file_is_refused(toy):
    (toy / "reference.npz").write_bytes(b"the")
    with pytest.raises(BundleError, match=r"reference\.npz was altered or is truncated \(3 bytes"):
        read_bundle(toy)


def test_a_missing_file_is_refused(toy):
    (toy / "statistics.npz").unlink()
    with pytest.raises(BundleError, match=r"statistics\.npz is missing"):
        read_bundle(toy)


def test_a_file_that_the_record_does_not_list_is_refused(toy, record):
    del record["files"]["cell_level.onnx"]
    write(toy, record)
    with pytest.raises(BundleError, match=r"does not list cell_level\.onnx"):
        read_bundle(toy)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b"])
def test_a_record_cannot_point_outside_its_folder(toy, record, name):
    record["files"][name] = {"sha256": "0", "size": 1}
    write(toy, record)
    with pytest.raises(BundleError, match="plain file names"):
        read_bundle(toy)


def test_a_newer_format_is_refused_and_says_newer(toy, record):
    write(toy, record | {"format_version": 3, "news": {}})
    with pytest.raises(BundleError, match=r"format version 3.*newer"):
        read_bundle(toy)


def test_an_older_format_is_refused_and_says_rebuild(toy, record):
    write(toy, record | {"format_version": 1})
    with pytest.raises(BundleError, match=r"format version 1.*rebuild"):
        read_bundle(toy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 2}', "\x00"])
def test_a_record_that_is_none_is_refused(toy, text):
    (toy / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        read_bundle(toy)


def test_an_unknown_field_is_refused(toy, record):
    write(toy, record | {"tempratur": 1.0})
    with pytest.raises(BundleError, match="tempratur"):
        read_bundle(toy)


def test_a_wrong_type_is_refused(toy, record):
    write(toy, record | {"temperature": "warm"})
    with pytest.raises(BundleError, match="temperature"):
        read_bundle(toy)


def test_a_path_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no model bundle at"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match="no model bundle at"):
        read_bundle(tmp_path / "absent.zip")


def test_a_zip_that_is_none_is_refused(tmp_path):
    path = tmp_path / "toy.zip"
    path.write_bytes(b"PK no more")
    with pytest.raises(BundleError, match=r"not a readable \.zip"):
        read_bundle(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_is_refused(toy, tmp_path, compression):
    path = zipped(toy, tmp_path / "toy.zip", compression)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("toy/bundle.json")
    data = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    data[start + 20 : start + 40] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"bundle\.json cannot be unpacked"):
        read_bundle(path)


def test_a_zip_that_lacks_a_file_is_refused(toy, tmp_path):
    shutil.copytree(toy, tmp_path / "part" / "toy")
    (tmp_path / "part" / "toy" / "reference.npz").unlink()
    with pytest.raises(BundleError, match=r"reference\.npz is missing"):
        read_bundle(zipped(tmp_path / "part" / "toy", tmp_path / "toy.zip"))


@pytest.mark.parametrize("name", ["../../bundle.json", "/etc/bundle.json", "a/../../bundle.json"])
def test_a_zip_is_never_unpacked_outside(toy, tmp_path, name):
    """Nothing is unpacked to disk at all: files are read out of the archive by their last name."""
    path, before = tmp_path / "toy.zip", sorted(p.name for p in tmp_path.iterdir())
    with zipfile.ZipFile(path, "w") as archive:
        for file in toy.iterdir():
            archive.write(file, name if file.name == "bundle.json" else file.name)
    assert read_bundle(path).name == "toy"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "toy.zip"])


def test_no_more_of_a_zip_is_unpacked_than_its_record_says(toy, tmp_path):
    """The size in the archive's own list is what a bomb would lie about."""
    size = (toy / "gene_level.onnx").stat().st_size
    (toy / "gene_level.onnx").write_bytes(bytes(50_000_000))
    path = zipped(toy, tmp_path / "toy.zip", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(BundleError, match=rf"gene_level\.onnx was altered.*more than {size} bytes"):
        read_bundle(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_a_zip_with_two_files_of_one_name_is_refused(toy, tmp_path):
    path = zipped(toy, tmp_path / "toy.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/gene_level.onnx", b"")
    with pytest.raises(BundleError, match=r"2 files are named gene_level\.onnx"):
        read_bundle(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_python_cannot_unpack_in_bounds_is_refused(toy, tmp_path, method):
    path = zipped(toy, tmp_path / "toy.zip", method)
    with pytest.raises(BundleError, match="packed in a rare way"):
        read_bundle(path)


def test_a_zip_with_a_password_is_refused(toy, tmp_path):
    path = zipped(toy, tmp_path / "toy.zip")
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = data.find(mark)
        while place >= 0:
            data[place + at] |= 1
            place = data.find(mark, place + 1)
    path.write_bytes(data)
    with pytest.raises(BundleError, match="has a password"):
        read_bundle(path)


def test_a_zip_with_a_long_list_of_members_is_refused_before_it_is_listed(toy, tmp_path):
    path = zipped(toy, tmp_path / "toy.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(2000):
            archive.writestr(f"{i}", b"")
    with pytest.raises(BundleError, match="list of members is too long"):
        read_bundle(path)


def make_pipe(path):
    os.mkfifo(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize(
    ("place", "message"),
    [
        (make_pipe, "gene_level.onnx is no regular file"),
        (lambda p: p.symlink_to("/dev/zero"), "gene_level.onnx is no regular file"),
        (lambda p: p.symlink_to(p.parent), "gene_level.onnx is no regular file"),
        (lambda p: p.symlink_to(p), "gene_level.onnx cannot be read"),
        (lambda p: p.symlink_to("/proc/kcore"), "gene_level.onnx"),
        (lambda p: p.symlink_to("absent"), "gene_level.onnx cannot be read"),
    ],
    ids=["pipe", "device", "folder", "itself", "kernel", "nowhere"],
)
def test_only_regular_files_are_read_and_none_is_waited_for(toy, place, message):
    (toy / "gene_level.onnx").unlink()
    place(toy / "gene_level.onnx")
    with pytest.raises(BundleError, match=message):
        read_bundle(toy)


def test_files_may_be_links_to_regular_files(toy, tmp_path):
    """As caches of downloads have them."""
    (toy / "gene_level.onnx").rename(tmp_path / "blob")
    (toy / "gene_level.onnx").symlink_to(tmp_path / "blob")
    assert read_bundle(toy).name == "toy"


def test_a_deeply_nested_record_is_refused(toy):
    for text in ("[" * 1_000_000, '{"format_version": ' + "[" * 1_000_000):
        (toy / "bundle.json").write_text(text)
        with pytest.raises(BundleError, match=r"bundle\.json is not a bundle record"):
            read_bundle(toy)


def test_a_long_record_is_refused(toy):
    with open(toy / "bundle.json", "ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleError, match=r"bundle\.json is larger than 16 MiB"):
        read_bundle(toy)


def test_a_graph_with_weights_in_another_file_is_refused(toy, record):
    onnx = pytest.importorskip("onnx")

    model = onnx.load(toy / "gene_level.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "w"))
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location="../../secret.bin")
    tensor.ClearField("raw_data")
    data = model.SerializeToString()
    (toy / "gene_level.onnx").write_bytes(data)
    record["files"]["gene_level.onnx"] = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }
    write(toy, record)
    with pytest.raises(
        BundleError, match=r"gene_level\.onnx: weights that may refer to data in another file"
    ):
        read_bundle(toy)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("temperature",), 0.0),
        (("graph", "n_neighbors"), 0),
        (("thresholds", "confidence"), 1.5),
        (("gene_level", "net_genes"), 0),
        (("preprocessing", "panel_genes"), -1),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(toy, record, path, value):
    node = record
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    write(toy, record)
    with pytest.raises(BundleError, match=path[-1]):
        read_bundle(toy)


def test_tables_are_float64_and_keep_their_integers(toy):
    found = read_bundle(toy)
    assert found.statistics["gene_mean"].dtype == np.float64
    assert found.reference["codes"].dtype == np.int32
    np.testing.assert_array_equal(found.reference["codes"], [0, 1, 0, 1])


def test_the_shipped_model_is_whole(pbmc_bundle):
    spec = pbmc_bundle.spec
    assert spec.name == "human-pbmc"
    assert len(set(pbmc_bundle.cell_types)) == len(spec.cell_types) >= 5
    assert set(spec.training.cells_per_type) == set(pbmc_bundle.cell_types)
    assert len(set(pbmc_bundle.gene_symbols)) == len(spec.genes) >= spec.gene_level.net_genes
    assert 0 < spec.thresholds.confidence < 1
    assert spec.temperature > 0
    ranked = len(pbmc_bundle.statistics["gene_mean"])
    assert spec.gene_level.net_genes <= ranked <= len(spec.genes)
    assert pbmc_bundle.reference["embedding"].shape[1] == spec.gene_level.embedding_size


@pytest.mark.parametrize(
    ("part", "field", "value", "known"),
    [
        ("gene_level", "form", "sparse", "'program' or 'full'"),
        ("cell_level", "form", "full", "'gate' or 'sage'"),
        ("preprocessing", "target_sum", 1e6, "10000.0"),
    ],
)
def test_what_the_runtime_would_run_wrongly_is_refused(toy, record, part, field, value, known):
    record[part][field] = value
    write(toy, record)
    with pytest.raises(BundleError, match=f"{value}.*expected {known}; install a newer") as caught:
        read_bundle(toy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gene", ["program", "full"])
@pytest.mark.parametrize("cell", ["gate", "sage"])
def test_both_forms_of_both_levels_are_read(toy, record, gene, cell):
    record["gene_level"]["form"], record["cell_level"]["form"] = gene, cell
    write(toy, record)
    spec = read_bundle(toy).spec
    assert (spec.gene_level.form, spec.cell_level.form) == (gene, cell)
