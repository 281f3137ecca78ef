"""Bundles with right checksums and wrong meaning: each is refused, by what is wrong with it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from scbignn_infer.annotation import annotation
from scbignn_infer.annotator import Annotator
from scbignn_infer.cli import main
from scbignn_infer.errors import BundleError, Flaw
from scbignn_infer.model import bundle as bundles
from scbignn_infer.model import onnx_graph, validate
from scbignn_infer.model.bundle import read_bundle
from scbignn_infer.model.onnx_graph import check_graph
from scbignn_infer.model.shipped import SHIPPED
from scbignn_infer.model.validate import TABLES, read_tables
from scbignn_infer.network import pair
from scbignn_infer.network.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[1]
Change = Any
STATISTICS, REFERENCE = TABLES["statistics.npz"], TABLES["reference.npz"]
DECIMALS = [k for k in (*STATISTICS, *REFERENCE) if k not in validate.WHOLE]
LONG = [k for k, shape in (STATISTICS | REFERENCE).items() if shape]


def refused(folder: Path) -> str:
    """Make a bundle ready to label; return the one line of its error."""
    with pytest.raises(BundleError) as caught:
        Annotator(read_bundle(folder), device="cpu", threads=1)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert message.isprintable(), message
    assert caught.value.expected
    assert caught.value.do
    return message


def table(key: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """Return what changes one table wherever it is, or takes it out where it becomes None."""

    def change(tables: dict[str, Any]) -> None:
        if key in tables:
            tables[key] = make(tables[key])
            if tables[key] is None:
                del tables[key]

    return change


def test_the_toy_and_the_shipped_models_run(toy: Path) -> None:
    for folder in (toy, *sorted((REPOSITORY / "exported_models").glob("*/"))):
        Annotator(read_bundle(folder), device="cpu", threads=1)


# --- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*STATISTICS, *REFERENCE])
def test_a_missing_table_is_refused(change: Change, key: str) -> None:
    calibrated = at("training", "calibration", value={"error": 0.1})
    folder = change(calibrated, table(key, lambda v: None))
    assert f"no table {key}" in refused(folder)


def test_a_model_from_before_residuals_were_shipped_runs(change: Change) -> None:
    folder = change(tables=table("residual_quantiles", lambda v: None))
    assert "residual_quantiles" not in read_bundle(folder).reference
    Annotator(read_bundle(folder), device="cpu", threads=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", DECIMALS)
def test_nan_and_infinite_values_are_refused(change: Change, key: str, value: float) -> None:
    def spoil(values: Any) -> Any:
        found = np.array(values)
        found[(-1,) * found.ndim] = value
        return found

    assert f"{key} holds NaN or infinite values" in refused(change(tables=table(key, spoil)))


@pytest.mark.parametrize("key", [k for k in DECIMALS if k not in validate.MAY_BE_ZERO])
def test_zeros_alone_are_refused(change: Change, key: str) -> None:
    message = refused(change(tables=table(key, np.zeros_like)))
    assert f"{key} holds 0" in message or f"{key} holds zeros alone" in message


@pytest.mark.parametrize("key", [k for k in DECIMALS if k not in {"ridge", "strength_precision"}])
def test_values_that_float32_cannot_reckon_with_are_refused(change: Change, key: str) -> None:
    huge = refused(change(tables=table(key, lambda v: np.full(np.shape(v), 1e30))))
    assert f"{key} holds 1e+30" in huge or "add up" in huge


@pytest.mark.parametrize("key", LONG)
def test_a_table_of_another_length_is_refused(change: Change, key: str) -> None:
    """Whatever the table; where nothing else tells a length, the next table does."""
    message = refused(change(tables=table(key, lambda v: v[: len(v) // 2])))
    assert "of shape (" in message


@pytest.mark.parametrize("key", [*STATISTICS, *REFERENCE])
@pytest.mark.parametrize("kind", ["S4", "object", "complex64", "bool"])
def test_a_table_of_another_type_is_refused(change: Change, key: str, kind: str) -> None:
    message = refused(change(tables=table(key, lambda v: np.asarray(v).astype(kind))))
    assert f"{key} of type " in message


@pytest.mark.parametrize(
    ("key", "make", "message"),
    [
        ("codes", lambda v: v + 50, "codes up to 51; expected codes of the 2 types, below 2"),
        ("codes", lambda v: v - 1, "codes holds -1"),
        ("codes", np.zeros_like, "no reference cell of 'T [naive]'"),
        ("cells_per_type", lambda v: v * 0, "cells_per_type holds 0"),
        ("cells_per_type", lambda v: v[::-1], "10 cells of 'T [naive]'; expected the 20"),
        ("class_mean", lambda v: v[[0, 0]], "gives two types the same profile"),
        ("gene_scale", lambda v: -v, "gene_scale holds -1"),
        ("gene_share", lambda v: v * 2, "gene_share adds up to 2; expected 1"),
        ("novelty_quantiles", lambda v: v[::-1], "novelty_quantiles goes down"),
        ("total_factors", lambda v: v[:, :2], "total_factors of shape (3, 2)"),
        ("embedding", lambda v: v[:, :3], "embedding of shape (4, 3)"),
        ("embedding", lambda v: v * [[0], [1], [1], [1]], "embedding has a row of zeros"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    change: Change, key: str, make: Callable[[Any], Any], message: str
) -> None:
    assert message in refused(change(tables=table(key, make)))


def test_a_table_that_no_model_has_is_refused_and_not_unpacked(toy: Path, change: Change) -> None:
    with zipfile.ZipFile(toy / "reference.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(1 << 27))
    folder = change()
    bundle = read_bundle(folder)
    tracemalloc.start()
    with pytest.raises(BundleError, match=r"'bomb\.npy', which is no table of a model"):
        _ = bundle.reference
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((10**13,), 8, r"gene_mean of shape \(10000000000000,\)"),
        ((3,), 1 << 24, "gene_mean in 25 bytes"),
        ((3,), 8, "gene_mean in 8 bytes"),
        ((), 8, r"gene_mean of shape \(\)"),
    ],
    ids=["long", "a bomb behind a short header", "cut", "one number"],
)
def test_no_more_of_a_table_is_unpacked_than_its_shape_says(
    toy: Path, shape: tuple[int, ...], size: int, message: str
) -> None:
    data = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(data, header)
    spoilt = io.BytesIO()
    with (
        zipfile.ZipFile(toy / "statistics.npz") as old,
        zipfile.ZipFile(spoilt, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            whole = data.getvalue() + bytes(size)
            new.writestr(name, whole if name == "gene_mean.npy" else old.read(name))
    spec = read_bundle(toy).spec
    tracemalloc.start()
    with pytest.raises(Flaw, match=message):
        read_tables("statistics.npz", spoilt.getvalue(), spec)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize("data", [b"", b"hello", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18)])
def test_bytes_that_are_no_tables_are_refused(change: Change, data: bytes) -> None:
    assert "statistics.npz: " in refused(change(files={"statistics.npz": data}))


# --- the record ------------------------------------------------------------------------------


def at(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets one place of the record."""

    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


TYPES = ("cell_types", 0, "label")
GROUP = {"label": "x", "ontology_id": "CL:1", "level": 1}
TERM = {"label": "x", "ontology_id": "CL:1", "below": []}


@pytest.mark.parametrize(
    ("change_record", "message"),
    [
        (at("cell_types", value=[]), "0 cell types"),
        (at("cell_types", value=[{"label": "B"}]), "1 cell types"),
        (at("cell_types", value=[{"label": f"t{i}"} for i in range(20_000)]), "20,000 cell types"),
        (at(*TYPES, value="T [naive]"), "the label 'T [naive]' twice"),
        (at(*TYPES, value="unknown"), "the label 'unknown'"),
        (at("cell_types", 0, "lineage", value=[GROUP | {"label": "unknown"}]), "label 'unknown'"),
        (at(*TYPES, value=""), "the label ''; expected 1 to 200 letters"),
        (at(*TYPES, value=" "), "the label ' '"),
        (at(*TYPES, value="a\x1b[31mX"), r"the label 'a\x1b[31mX'"),
        (at(*TYPES, value="a\u202eb"), r"the label 'a\u202eb'"),
        (at(*TYPES, value="a\nb"), r"the label 'a\nb'"),
        (at(*TYPES, value="a\x00b"), r"the label 'a\x00b'"),
        (at(*TYPES, value="x" * 1000), "the label 'xxx"),
        (at(*TYPES, value="\ud800bad"), "bundle.json"),
        (at("cell_types", 0, "ontology_id", value="\x1b"), r"the text '\x1b'"),
        (at("cell_types", 0, "lineage", value=[GROUP | {"level": 10**18}]), "groups up to level"),
        (at("ontology", value=[TERM | {"below": ["CL:9"]}]), "the term 'x' above 'CL:9'"),
        (at("ontology", value=[TERM, TERM | {"label": "y"}]), "the id 'CL:1' of two terms"),
        (at("ontology", value=[TERM, TERM | {"ontology_id": "y"}]), "the label 'x' of two terms"),
        (at("ontology", value=[TERM | {"label": "unknown"}]), "the label 'unknown'"),
        (at("ontology", value=[TERM | {"label": "a\x1b"}]), r"the label of a term 'a\x1b'"),
        (at("ontology", value=[TERM | {"ontology_id": "\x1b"}]), r"the text '\x1b'"),
        (at("ontology", value=[TERM] * 3000), "3,000 terms; expected up to 2,000"),
        (at("thresholds", "sets", value=0), "thresholds.sets 0.0; expected from 0.1 to 10"),
        (at("thresholds", "label", value=2), "bundle.json does not hold"),
        (at("best", value="x"), "bundle.json does not hold"),
        (at("genes", 1, "symbol", value="CD3D"), "the gene 'CD3D' twice"),
        (at("genes", 1, "symbol", value=""), "the gene ''"),
        (at("genes", 1, "symbol", value="\x9b"), r"the gene '\x9b'"),
        (at("genes", value=[]), "0 genes"),
        (at("name", value=""), "the name ''"),
        (at("version", value=""), "the name ''"),
        (at("name", value="a/b"), "the name 'a/b'; expected a name without slashes"),
        (at("name", value="..\\x"), "a name without slashes"),
        (at("name", value=".x"), "a name without slashes"),
        (at("name", value="\x1b[31m"), r"the name '\x1b[31m'"),
        (at("description", value="a\x1b[2Jb"), "the text"),
        (at("training", "notes", value=["a\u2066b"]), "the text"),
        (at("training", "datasets", 0, "citation", value="\x07"), "the text"),
        (at("temperature", value=1e-300), "temperature 1e-300; expected from 0.01 to 100"),
        (at("temperature", value=1e300), "temperature "),
        (at("graph", "n_neighbors", value=10**9), "graph.n_neighbors 1,000,000,000"),
        (at("preprocessing", "panel_genes", value=10**9), "preprocessing.panel_genes"),
        (at("preprocessing", "min_genes", value=-5), "preprocessing.min_genes -5"),
        (at("gene_level", "net_genes", value=4), "gene_level.net_genes 4; expected from 1 to 3"),
        (at("gene_level", "embedding_size", value=10**9), "gene_level.embedding_size"),
        (at("gene_level", "embedding_size", value=7), "embedding of shape (4, 4)"),
        (at("gene_level", "file", value="../../secret"), "does not list the graph '../../secret'"),
        (at("gene_level", "file", value="statistics.npz"), "graph 'statistics.npz'"),
        (at("cell_level", "layers", value=[]), "the number of cell_level.layers 0"),
        (at("cell_level", "layers", value=[{"layer": 0}] * 20_000), "cell_level.layers 20,000"),
        (at("cell_level", "layers", value=[{"layer": 0}] * 2), "cell_level.layers [0, 0]"),
        (at("cell_level", "layers", value=[{"layer": 999}]), "cell_level.layers [999]"),
        (at("cell_level", "layers", value=[{"layer": -1}]), "cell_level.layers [-1]"),
        (at("cell_level", "layers", value=[{"layer": i} for i in (0, 1)]), "do not run"),
        (at("cell_level", "layers", value=[{"file": "x.onnx", "layer": 0}]), "graph 'x.onnx'"),
        (at("files", "..", value={"sha256": "0", "size": 0}), "names the file '..'"),
        (at("files", "", value={"sha256": "0", "size": 0}), "names the file ''"),
        (at("files", "a\x00b", value={"sha256": "0", "size": 0}), r"names the file 'a\x00b'"),
        (at("files", "a\\b", value={"sha256": "0", "size": 0}), "names the file"),
        (at("files", "notes.txt", value={"sha256": "0", "size": 0}), "lists notes.txt, which no"),
        (at("files", "reference.npz", "size", value=1 << 40), "reference.npz of 1,099,511"),
        (at("files", "reference.npz", "size", value=-1), "reference.npz of -1 bytes"),
        (at("files", "reference.npz", "sha256", value="\x1b[2J" * 9), "was altered"),
        (at("format_version", value=True), "bundle format version True"),
        (at("gene_level", "form", value="\x1b[2J"), r"gene level '\x1b[2J'"),
        (at("x\x1b[2J", value=1), "bundle.json does not hold"),
        (at("training", "cells_per_type", value={"B": 1}), "training.cells_per_type of other"),
        (at("interpretation", value={"B": {}}), "interpretation of other types"),
        (at("training", "settings", value={"n_neighbors": 9}), "n_neighbors 15; expected 9, as in"),
        (at("training", "settings", value={"panel_genes": 9}), "panel_genes 3; expected 9, as in"),
        (at("training", "settings", value={"gene_form": "full"}), "gene_form program"),
        (at("training", "settings", value={"ridge": 0.5}), "ridge 0.3; expected 0.5, as in"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(
    change: Change, change_record: Callable[[dict[str, Any]], None], message: str
) -> None:
    assert message in refused(change(record=change_record))


def test_many_genes_of_which_two_are_the_same_are_no_work(change: Change) -> None:
    def many(record: dict[str, Any]) -> None:
        record["genes"] += [{"symbol": f"G{i}"} for i in range(150_000)] + [{"symbol": "G149999"}]

    start = time.process_time()
    assert "the gene 'G149999' twice" in refused(change(many))
    assert time.process_time() - start < 10


def test_genes_in_another_order_than_in_training_are_refused(change: Change) -> None:
    """Each number would stand for another gene; the genes that carry a type tell."""
    carried = {t: {"genes": [{"symbol": "CD3D", "weight": 1.0}]} for t in ("B", "T [naive]")}
    pairs = [{"genes": ["CD3D", "NKG7"], "weight": 1.0}]

    def ordered(record: dict[str, Any]) -> None:
        record["preprocessing"]["panel_genes"], record["interpretation"] = 2, carried

    Annotator(read_bundle(change(record=ordered)), device="cpu")
    carried["T [naive]"]["pairs"] = pairs
    assert "'T [naive]' is carried by 'NKG7'" in refused(change(ordered))
    del carried["T [naive]"]["pairs"]

    def turned(record: dict[str, Any]) -> None:
        ordered(record)
        record["genes"].reverse()

    assert "'B' is carried by 'CD3D', which the model does not read" in refused(change(turned))


def test_the_label_of_the_runtime_is_reserved() -> None:
    assert annotation.UNKNOWN in validate.RESERVED


# --- graphs ----------------------------------------------------------------------------------

OPERATORS = ["Loop", "If", "Scan", "ConstantOfShape", "Range", "Tile", "Resize", "MatMul\x1b"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_that_training_does_not_write_is_refused(
    change: Change, onnx_parts: Any, operator: str
) -> None:
    node = onnx_parts.node(operator, "counts", "x")
    data = onnx_parts.model("gene level", node, *onnx_parts.gene_level)
    message = refused(change(files={"gene_level.onnx": data}))
    assert f"gene_level.onnx: the operator {operator!r}" in message


def unusual(parts: Any) -> dict[str, tuple[bytes, str]]:
    """Return graphs by what is unusual about them, and what is said of it."""
    p, level = parts.proto, parts.gene_level

    def model(*fields: tuple[int, Any], **more: Any) -> bytes:
        whole: bytes = parts.model("gene level", *fields, *level, **more)
        return whole

    whole = model()
    tensor = (2, 1), (8, "x")
    inner = p((1, "body"), (20, 5), (6, p()))
    shape = parts.constant("s", [10**6, 10**6])
    return {
        "own operators": (
            model(parts.node("Add", "counts counts", "x", (7, "evil.ops"))),
            "'evil.ops'",
        ),
        "a graph inside": (model(parts.node("Add", "a b", "x", (5, inner))), "with the field 6"),
        "a nameless step": (model((1, p((1, "counts")))), "a step without an operator"),
        "many steps": (model(*[parts.node("Exp", "a", "a")] * 20_000), "more than 1000 steps"),
        "many fields": (model(*[(13, b"")] * 60_000), "more than 50,000 fields"),
        "many dims": (model((5, p(*[(1, 1)] * 60_000))), "more than 50,000 fields"),
        "sparse constants": (model((15, b"")), "the graph with the field 15"),
        "functions": (whole + p((25, b"")), "the model with the field 25"),
        "training": (whole + p((20, b"")), "the model with the field 20"),
        "weights elsewhere": (model((5, p(*tensor, (13, p())))), "data in another file"),
        "weights elsewhere, by place": (model((5, p(*tensor, (14, 1)))), "data in another file"),
        "typed weights": (model((5, p(*tensor, (4, b"")))), "a constant with the field 4"),
        "text": (model((5, p((2, 8), (8, "x"), (9, b"")))), "a constant of type 8"),
        "a shape without bytes": (
            model((5, p((1, 10**6), (1, 10**6), *tensor, (9, b"")))),
            "a constant of shape [1000000, 1000000] in 0 bytes",
        ),
        "a negative shape": (model((5, p((1, -1), *tensor, (9, b"")))), "of shape [-1]"),
        "a large shape": (model(shape), "asks for more than"),
        "nan": (model(parts.constant("w", [float("nan")])), "weights that are NaN"),
        "infinite": (model(parts.constant("w", [1.0, -np.inf])), "weights that are NaN, infinite"),
        "a large number": (model(parts.constant("s", [10**12])), "asks for more than"),
        "no UTF-8": (
            model(parts.node("Exp", "counts", "x", (3, b"\xa8"))),
            "name that is no UTF-8",
        ),
        "another version": (model(opset=99), "operators of version 99"),
        "two versions": (whole + p((8, p((1, ""), (2, 18)))), "operators of version 18, 18"),
        "an own version": (whole + p((8, p((1, "own"), (2, 1)))), "operators of 'own'"),
        "no version": (p((7, p())), "operators of version none"),
        "another IR": (whole + p((1, 99)), "IR version 99"),
        "one more input": (model((11, p((1, "zzz")))), "the inputs class_norm"),
        "one more output": (model((12, p((1, "counts"), (2, p((1, p((1, 1)))))))), "the outputs"),
        "an output of text": (model((12, p((1, "x"), (2, p((1, p((1, 8)))))))), "'x' of type 8"),
        "a list as input": (model((11, p((1, "x"), (2, p((4, p())))))), "a type with the field 4"),
        "nothing": (b"", "operators of version none"),
        "zeros": (bytes(100), "the model with the field 0"),
        "text instead": (b"# hello", "gene_level.onnx: "),
        "half": (whole[: len(whole) // 2], "a field beyond the end"),
        "an endless number": (b"\x08" + b"\xff" * 20, "bytes that are no ONNX"),
        "a group": (whole + b"\x3b", "bytes that are no ONNX"),
        "the other level": (parts.model("cell level", *parts.cell_level), "the inputs gene_logits"),
    }


UNUSUAL = """own operators|a graph inside|a nameless step|many steps|many fields|many dims
sparse constants|functions|training|weights elsewhere|weights elsewhere, by place|typed weights|text
nan|infinite|a shape without bytes|a negative shape|a large shape|a large number|no UTF-8
another version|two versions|an own version|no version|another IR|one more input|one more output
an output of text
a list as input|nothing|zeros|text instead|half|an endless number|a group|the other level"""


@pytest.mark.parametrize("case", UNUSUAL.replace("\n", "|").split("|"))
def test_a_graph_that_training_does_not_write_is_refused(
    change: Change, onnx_parts: Any, case: str
) -> None:
    data, message = unusual(onnx_parts)[case]
    found = refused(change(files={"gene_level.onnx": data}))
    assert message in found
    assert "gene_level.onnx: " in found


def test_every_unusual_graph_is_tried(onnx_parts: Any) -> None:
    assert set(UNUSUAL.replace("\n", "|").split("|")) == set(unusual(onnx_parts))


@pytest.mark.parametrize(
    "folder", sorted((REPOSITORY / "exported_models").glob("*/")), ids=lambda p: p.name
)
def test_the_shipped_graphs_hold_only_what_the_exporter_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "ALIKE", frozenset())
    check_graph((folder / "gene_level.onnx").read_bytes(), "gene level")
    check_graph((folder / "cell_level.onnx").read_bytes(), "cell level")


# --- the first run ---------------------------------------------------------------------------


def spoilt(parts: Any) -> dict[str, tuple[str, bytes, str]]:
    """Return graphs that load and are wrong: file, bytes and what is said of it."""
    node, constant = parts.node, parts.constant
    _, logits, embedding = parts.gene_level
    scores = node("MatMul", "counts class_weight", "scores")
    head = node("MatMul", "counts class_weight", "raw")

    def gene(*fields: Any) -> tuple[str, bytes]:
        return "gene_level.onnx", parts.model("gene level", *fields)

    def cell(*fields: Any) -> tuple[str, bytes]:
        return "cell_level.onnx", parts.model("cell level", *fields)

    none = constant("none", [0.0])
    mixed = node("MatMul", "counts class_weight", "own"), node("ReduceSum", "own zero", "all")
    two = [*parts.cell_level[:-1], constant("layers", [1.0, 1.0])]
    return {
        "nan": (
            *gene(head, none, node("Div", "raw none", "scores"), logits, embedding),
            "gene_logits holds NaN",
        ),
        "no log-probabilities": (
            *gene(node("MatMul", "counts class_weight", "gene_logits"), embedding),
            "gene_logits adds up to",
        ),
        "another size": (
            *gene(scores, logits, node("MatMul", "counts class_weight", "cell_embedding")),
            "cell_embedding of shape (2, 2); expected (2, 4)",
        ),
        "cells mixed": (
            *gene(*mixed, constant("zero", [0]), node("Sub", "own all", "scores"), logits,
                  node("MatMul", "counts impute_in", "z"), node("ReduceSum", "z zero", "s"),
                  node("Add", "z s", "cell_embedding")),
            "other values beside other cells",
        ),
        "labels of another model": (
            *gene(head, node("Neg", "raw", "scores"), logits,
                  embedding),
            "knows 0% of its own types' profiles",
        ),
        "an input from nowhere": (
            *gene(node("MatMul", "nowhere class_weight", "scores"), logits, embedding),
            "cannot load the graph",
        ),
        "a name that steers": (
            *gene(node("MatMul", "now\x1b[2Jhere class_weight", "scores", (3, "\x1b[2J")), logits,
                  embedding),
            "cannot load the graph",
        ),
        "shapes that do not fit": (
            *gene(node("MatMul", "counts impute_out", "scores"), logits, embedding),
            "the graphs do not run on the tables",
        ),
        "more layers": (*cell(*two), "has more layers than the 1 of bundle.json"),
        "cells of another size": (
            *cell(*parts.cell_level[:3], parts.cell_level[-1], constant("one", [0]),
                  node("LogSoftmax", "scores", "full"),
                  node("ReduceMax", "full one", "cell_logits"),
                  node("Exp", "full", "new_state")),
            "cell_logits of shape (1, 2); expected (2, 2)",
        ),
        "no probabilities": (
            *cell(*parts.cell_level[:4], parts.cell_level[-1], node("Neg", "own", "new_state")),
            "new_state other than cell_logits",
        ),
        "no logarithms": (
            *cell(node("Exp", "own", "cell_logits"), node("Exp", "own", "new_state")),
            "cell_logits adds up to 3.72",
        ),
    }  # fmt: skip


SPOILT = """nan|no log-probabilities|another size|cells mixed|labels of another model
an input from nowhere|a name that steers|shapes that do not fit|more layers|cells of another size
no probabilities|no logarithms"""


@pytest.mark.parametrize("case", SPOILT.replace("\n", "|").split("|"))
def test_a_model_that_does_not_run_rightly_is_refused(
    change: Change, onnx_parts: Any, case: str
) -> None:
    file, data, message = spoilt(onnx_parts)[case]
    assert message in refused(change(files={file: data}))


def test_every_spoilt_graph_is_tried(onnx_parts: Any) -> None:
    assert set(SPOILT.replace("\n", "|").split("|")) == set(spoilt(onnx_parts))


def test_a_model_is_tried_out_once(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(toy)
    Annotator(bundle, device="cpu")
    monkeypatch.setattr(Session, "run", lambda *_, **__: pytest.fail("a second run"))
    Annotator(bundle, device="cpu", level=1)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Return a copy of a shipped model."""
    return Path(shutil.copytree(REPOSITORY / "exported_models" / "human-pbmc", tmp_path / "pbmc"))


def save(folder: Path, **changes: Any) -> Path:
    """Change a shipped model's record, with right checksums."""
    record = json.loads((folder / "bundle.json").read_bytes())
    for name in record["files"]:
        data = (folder / name).read_bytes()
        record["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    for key, value in changes.items():
        record[key] = value(record[key])
    (folder / "bundle.json").write_text(json.dumps(record))
    return folder


def test_a_shipped_model_whose_genes_are_turned_is_refused(shipped: Path) -> None:
    assert "is carried by" in refused(save(shipped, genes=lambda g: g[::-1]))


def test_a_shipped_model_whose_labels_are_shifted_is_refused(shipped: Path) -> None:
    """The number of cells of each type tells."""
    message = refused(save(shipped, cell_types=lambda t: t[1:] + t[:1]))
    assert "cells of '" in message


def test_a_shipped_model_with_the_graph_of_another_is_refused(shipped: Path) -> None:
    other = REPOSITORY / "exported_models" / "human-pancreas" / "gene_level.onnx"
    shutil.copy(other, shipped)
    assert "do not run" in refused(save(shipped))


def test_a_shipped_model_with_nan_among_its_weights_is_refused(shipped: Path) -> None:
    """Most would not reach the labels: where values are cut, NaN may become a number."""
    data = bytearray((shipped / "gene_level.onnx").read_bytes())
    start = len(data) // 2
    data[start : start + 4000] = b"\xff" * 4000  # NaN, wherever a number begins
    (shipped / "gene_level.onnx").write_bytes(data)
    assert "weights that are NaN" in refused(save(shipped))


class TestShippedModelsAreKnownByTheirChecksum:
    """What was checked whole is not checked once more; anything else is, as ever."""

    def test_the_list_is_that_of_the_shipped_models(self) -> None:
        folders = (REPOSITORY / "exported_models").iterdir()
        found = {hashlib.sha256((f / "bundle.json").read_bytes()).hexdigest() for f in folders}
        assert found == SHIPPED, "run: python training/tables/make_shipped.py"

    def test_one_that_is_known_is_not_looked_through(
        self, shipped: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*arguments: object) -> None:
            pytest.fail("checked")

        for name in ("check_record", "check_graph"):
            monkeypatch.setattr(bundles, name, never)
        monkeypatch.setattr(pair, "try_out", never)
        bundle = read_bundle(shipped)
        annotator = Annotator(bundle, device="cpu", threads=1)
        counts = np.random.default_rng(0).poisson(1.0, (3, 500))
        assert len(annotator.annotate_matrix(counts, bundle.gene_symbols[:500])) == 3

    def test_a_session_of_the_callers_is_tried_out(self, shipped: Path) -> None:
        made = []

        def make(name: str, graph: bytes) -> Any:
            made.append(name)
            return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

        Annotator(read_bundle(shipped), device="cpu", make_session=make)
        assert sorted(made) == ["cell_level.onnx", "gene_level.onnx"]

    @pytest.mark.parametrize("name", ["cell_level.onnx", "reference.npz", "statistics.npz"])
    def test_its_files_are_what_the_checksums_say(self, shipped: Path, name: str) -> None:
        data = bytearray((shipped / name).read_bytes())
        data[len(data) // 2] ^= 1
        (shipped / name).write_bytes(data)
        with pytest.raises(BundleError, match=f"{name} was altered"):
            read_bundle(shipped)

    def test_one_whose_record_differs_is_checked(self, shipped: Path) -> None:
        raw = (shipped / "bundle.json").read_bytes()
        (shipped / "bundle.json").write_bytes(raw + b" ")
        assert not read_bundle(shipped).tried_out_on_cpu
        assert "is carried by" in refused(save(shipped, genes=lambda g: g[::-1]))

    def test_verify_checks_it_whole(self, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        looked: list[str] = []
        plain = bundles.check_graph
        monkeypatch.setattr(
            bundles, "check_graph", lambda *a: (looked.append("graph"), plain(*a))[1]
        )
        trial = pair.try_out
        monkeypatch.setattr(pair, "try_out", lambda *a: (looked.append("run"), trial(*a))[1])
        done = CliRunner().invoke(main, ["models", "verify", str(shipped)])
        assert (done.exit_code, looked) == (0, ["graph", "graph", "run"])
