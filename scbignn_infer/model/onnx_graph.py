"""What an ONNX graph of a bundle may hold: looked at field by field before onnxruntime sees it.

onnxruntime works while it loads a graph: it folds constants, and it follows every loop and every
name of a file. So only what the exporter writes may be in a graph: a short list of fields, of
operators and of types. That is read from the bytes, without the package ``onnx``.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

from scbignn_infer.errors import Flaw, need

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9
BYTES = {FLOAT: 4, INT32: 4, INT64: 8, BOOL: 1}
"""Types of constants, and the bytes of a value."""
GENE_INPUTS = dict.fromkeys(
    (
        "counts",
        "totals",
        "gene_mean",
        "gene_scale",
        "class_weight",
        "class_norm",
        "class_prior",
        "impute_in",
        "impute_out",
        "net_present",
        "misfit_weight",
        "misfit_inner",
    ),
    FLOAT,
) | {"net_position": INT64}
CELL_INPUTS = dict.fromkeys(
    ("state", "reach", "own", "gene_logits", "neighbor_similarity"), FLOAT
) | {"neighbor_indices": INT64, "layer": INT64}
LEVELS: dict[str, tuple[Mapping[str, int], tuple[str, ...]]] = {
    "gene level": (GENE_INPUTS, ("cell_embedding", "gene_logits")),
    "cell level": (CELL_INPUTS, ("cell_logits", "new_state")),
}
"""Inputs with their types, and outputs in their order."""
_EXPORTED = """Add Clip Concat Div Erf Exp Expand Gather GatherElements GatherND Gemm Greater
    LayerNormalization Log LogSoftmax MatMul Max Min Mul Neg Pad Pow Reciprocal ReduceL2 ReduceMax
    ReduceMean ReduceMin ReduceSum Relu Reshape Shape Sigmoid Slice Softmax Sqrt Squeeze Sub TopK
    Transpose Unsqueeze Where"""
_ALIKE = """Abs And Cast Constant Equal Gelu GreaterOrEqual Identity Less LessOrEqual Not Or
    ReduceSumSquare Split Tanh"""
EXPORTED = frozenset(_EXPORTED.split())
"""Operators of the graphs that the exporter writes, of all forms of both levels."""
ALIKE = frozenset(_ALIKE.split())
"""Operators that another version of PyTorch may write instead; they make nothing larger."""
OPSETS = range(17, 31)
IR_VERSIONS = range(7, 16)
MAX_NODES = 1000
"""Steps of a graph; the exporter writes up to 200."""
MAX_FIELDS = 50_000
"""Fields that are looked at; the exporter writes up to 5,000."""
MAX_VALUES = 1 << 26
"""Values that a constant shape may ask for."""
SHAPE_LENGTH = 16
"""Integer constants up to this length may be a shape."""
ANY_END = 1 << 62
"""Beyond it an integer means 'up to the end'."""
VARINT, EIGHT, PART, FOUR = 0, 1, 2, 5
"""How protobuf writes a field: a part is a text, bytes or another message."""
TEXT, NUMBERS = -2, -1
"""A part that must be UTF-8, and numbers, which may be written in two ways."""


class _Kind(NamedTuple):
    """A kind of protobuf message: its name, and its fields' names and ways by number."""

    name: str
    fields: Mapping[int, tuple[str, int]]


MODEL = _Kind(
    "the model",
    {
        1: ("ir_version", VARINT),
        2: ("producer_name", TEXT),
        3: ("producer_version", TEXT),
        4: ("domain", TEXT),
        5: ("model_version", VARINT),
        6: ("doc_string", TEXT),
        7: ("graph", PART),
        8: ("opset_import", PART),
        14: ("metadata_props", PART),
    },
)
OPSET = _Kind("an opset", {1: ("domain", TEXT), 2: ("version", VARINT)})
GRAPH = _Kind(
    "the graph",
    {
        1: ("node", PART),
        2: ("name", TEXT),
        5: ("initializer", PART),
        10: ("doc_string", TEXT),
        11: ("input", PART),
        12: ("output", PART),
        13: ("value_info", PART),
        16: ("metadata_props", PART),
    },
)
NODE = _Kind(
    "a node",
    {
        1: ("input", TEXT),
        2: ("output", TEXT),
        3: ("name", TEXT),
        4: ("op_type", TEXT),
        5: ("attribute", PART),
        6: ("doc_string", TEXT),
        7: ("domain", TEXT),
        9: ("metadata_props", PART),
    },
)
ATTRIBUTE = _Kind(
    "an attribute",
    {
        1: ("name", TEXT),
        2: ("f", FOUR),
        3: ("i", VARINT),
        4: ("s", PART),
        5: ("t", PART),
        7: ("floats", NUMBERS),
        8: ("ints", NUMBERS),
        13: ("doc_string", TEXT),
        20: ("type", VARINT),
    },
)
TENSOR = _Kind(
    "a constant",
    {
        1: ("dims", NUMBERS),
        2: ("data_type", VARINT),
        8: ("name", TEXT),
        9: ("raw_data", PART),
        12: ("doc_string", TEXT),
    },
)
ELSEWHERE = (13, 14)
"""Fields of a constant that name another file."""
VALUE = _Kind(
    "an input or output",
    {1: ("name", TEXT), 2: ("type", PART), 3: ("doc_string", TEXT), 4: ("metadata_props", PART)},
)
TYPE = _Kind("a type", {1: ("tensor_type", PART), 6: ("denotation", TEXT)})
TENSOR_TYPE = _Kind("a type", {1: ("elem_type", VARINT), 2: ("shape", PART)})


def check_graph(data: bytes, level: str) -> None:
    """Refuse a graph that holds anything but what the exporter of its level writes."""
    _Walk().model(memoryview(data), level)


class _Walk:
    """One walk through the messages of a graph's file, of a bounded number of fields."""

    def __init__(self) -> None:
        self.fields_left, self.nodes = MAX_FIELDS, 0
        self.inputs: dict[str, int] = {}
        self.outputs: list[str] = []

    def model(self, data: memoryview, level: str) -> None:
        """Look at the whole file."""
        opsets: list[int] = []
        for name, value in self._read(data, MODEL):
            if name == "ir_version":
                need(_number(value) in IR_VERSIONS, f"IR version {value}", "a known IR version")
            elif name == "opset_import":
                opsets.append(self._opset(_part(value)))
            elif name == "graph":
                self._graph(_part(value))
        inputs, outputs = LEVELS[level]
        need(
            len(opsets) == 1 and opsets[0] in OPSETS,
            f"operators of version {', '.join(map(str, opsets)) or 'none'}",
            f"one set of operators, of version {OPSETS[0]} to {OPSETS[-1]}",
        )
        need(
            self.inputs == inputs,
            f"the inputs {_names(self.inputs)}",
            f"those of the {level}: {_names(inputs)}",
        )
        need(
            tuple(self.outputs) == outputs,
            f"the outputs {_names(self.outputs)}",
            f"those of the {level}: {_names(outputs)}",
        )

    def _opset(self, data: memoryview) -> int:
        version = 0
        for name, value in self._read(data, OPSET):
            if name == "version":
                version = _number(value)
            else:
                need(not value, f"operators of {_text(value)!r}", "ONNX's own operators alone")
        return version

    def _graph(self, data: memoryview) -> None:
        for name, value in self._read(data, GRAPH):
            if name == "node":
                self._node(_part(value))
            elif name == "initializer":
                self._tensor(_part(value))
            elif name == "input":
                named, kind = self._value(_part(value))
                self.inputs[named] = kind
            elif name == "output":
                named, kind = self._value(_part(value))
                need(kind == FLOAT, f"the output {named!r} of type {kind}", "float32")
                self.outputs.append(named)

    def _node(self, data: memoryview) -> None:
        self.nodes += 1
        need(self.nodes <= MAX_NODES, f"more than {MAX_NODES} steps", "a graph of 'train'")
        operator = ""
        for name, value in self._read(data, NODE):
            if name == "op_type":
                operator = _text(value)
                need(
                    operator in EXPORTED | ALIKE,
                    f"the operator {operator[:80]!r}",
                    "operators that 'train' writes",
                )
            elif name == "domain":
                need(not value, f"operators of {_text(value)[:80]!r}", "ONNX's own alone")
            elif name == "attribute":
                for part, inner in self._read(_part(value), ATTRIBUTE):
                    if part == "t":
                        self._tensor(_part(inner))
        need(bool(operator), "a step without an operator", "operators that 'train' writes")

    def _tensor(self, data: memoryview) -> None:
        dims: list[int] = []
        kind, raw = 0, memoryview(b"")
        for name, value in self._read(data, TENSOR):
            if name == "dims":
                dims += [value] if isinstance(value, int) else self._packed(value)
            elif name == "data_type":
                kind = _number(value)
            elif name == "raw_data":
                raw = _part(value)
        need(kind in BYTES, f"a constant of type {kind}", "numbers")
        need(
            min(dims, default=0) >= 0 and math.prod(dims) * BYTES[kind] == len(raw),
            f"a constant of shape {dims[:8]} in {len(raw)} bytes",
            "as many bytes as its shape says",
        )
        if kind == INT64:
            _check_integers(raw)
        elif kind == FLOAT:
            top = bytes(raw[3::4])  # of sign and exponent; these two begin beyond 1e38
            need(
                0x7F not in top and 0xFF not in top,
                "weights that are NaN, infinite or huge",
                "finite weights",
            )

    def _value(self, data: memoryview) -> tuple[str, int]:
        """Return name and type of an input or output."""
        named, kind = "", 0
        for name, value in self._read(data, VALUE):
            if name == "name":
                named = _text(value)
            elif name == "type":
                for part, inner in self._read(_part(value), TYPE):
                    if part == "tensor_type":
                        for what, number in self._read(_part(inner), TENSOR_TYPE):
                            kind = _number(number) if what == "elem_type" else kind
        return named, kind

    def _packed(self, data: memoryview) -> list[int]:
        values, at = [], 0
        while at < len(data):
            value, at = read_varint(data, at)
            values.append(_signed(value))
            self._count()
        return values

    def _count(self) -> None:
        self.fields_left -= 1
        need(self.fields_left >= 0, f"more than {MAX_FIELDS:,} fields", "a graph of 'train'")

    def _read(self, data: memoryview, kind: _Kind) -> Iterator[tuple[str, int | memoryview]]:
        """Yield name and value of each field of a message; refuse unknown ones."""
        at, end = 0, len(data)
        while at < end:
            self._count()
            key, at = read_varint(data, at)
            number, way = key >> 3, key & 7
            name, expected = kind.fields.get(number, ("", None))
            value: int | memoryview
            if way == VARINT:
                value, at = read_varint(data, at)
                value = _signed(value)
            elif way in (EIGHT, PART, FOUR):
                size = 8 if way == EIGHT else 4
                if way == PART:
                    size, at = read_varint(data, at)
                value, at = data[at : at + size], at + size
                need(at <= end, "a field beyond the end", "a whole ONNX file")
            else:
                raise Flaw("bytes that are no ONNX", "an ONNX file")
            if kind is TENSOR and number in ELSEWHERE:
                raise Flaw("weights that may refer to data in another file", "all weights inside")
            fits = expected in {way, NUMBERS} or (expected == TEXT and way == PART)
            need(fits, f"{kind.name} with the field {number}", "an ONNX file that 'train' wrote")
            if expected == TEXT:
                _text(value)
            yield name, value


def _check_integers(raw: memoryview) -> None:
    """Refuse integers that ask for huge results: lengths, places and shapes are all small."""
    values = [abs(v) for v in struct.unpack(f"<{len(raw) // 8}q", raw) if abs(v) < ANY_END]
    asked = math.prod(max(v, 1) for v in values) if len(values) <= SHAPE_LENGTH else 1
    need(
        max(asked, *values, 0) <= MAX_VALUES,
        f"a constant that asks for more than {MAX_VALUES:,} values",
        "shapes of a graph of 'train'",
    )


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a place in a message, and the place after it."""
    value = 0
    for place in range(10):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise Flaw("bytes that are no ONNX", "an ONNX file")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _number(value: int | memoryview) -> int:
    return value if isinstance(value, int) else -1


def _part(value: int | memoryview) -> memoryview:
    return memoryview(b"") if isinstance(value, int) else value


def _text(value: int | memoryview) -> str:
    try:
        return bytes(_part(value)).decode()
    except UnicodeDecodeError:
        raise Flaw("a name that is no UTF-8", "an ONNX file that 'train' wrote") from None


def _names(names: Mapping[str, int] | list[str] | tuple[str, ...]) -> str:
    """Return names in one short line."""
    return ascii(", ".join(sorted(names)))[1:-1][:300] or "none"
