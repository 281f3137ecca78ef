"""ONNX files taken apart and put together, without the package ``onnx``.

Only files that :func:`~scbignn_infer.model.onnx_graph.check_graph` has passed are taken apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.model.onnx_graph import EIGHT, FLOAT, FOUR, INT64, PART, VARINT, read_varint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scbignn_infer._types import Array

Field = tuple[int, int | bytes]
"""Number of a field, and its value: a number, or the bytes of a text or a message."""
GRAPH, METADATA = 7, 14
NODE, CONSTANT, INPUT, OUTPUT = 1, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, CONSTANT_NAME = 1, 2, 8


def fields(data: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """Yield number and value of each field of a message, and the field as it stands."""
    view, at = memoryview(data), 0
    while at < len(view):
        start = at
        key, at = read_varint(view, at)
        number, way = key >> 3, key & 7
        value: int | bytes
        if way == VARINT:
            value, at = read_varint(view, at)
        else:
            size = {EIGHT: 8, FOUR: 4}.get(way)
            if size is None:
                size, at = read_varint(view, at)
            value, at = bytes(view[at : at + size]), at + size
        yield number, value, bytes(view[start:at])


def message(*parts: tuple[int, int | str | bytes]) -> bytes:
    """Return a message of these fields."""
    found = bytearray()
    for number, value in parts:
        if isinstance(value, int):
            found += _varint(number << 3 | VARINT) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            found += _varint(number << 3 | PART) + _varint(len(data)) + data
    return bytes(found)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def node(operator: str, inputs: Sequence[str], output: str) -> tuple[int, bytes]:
    """Return a step of a graph, as a field of it."""
    names = [(NODE_INPUT, name) for name in inputs]
    return NODE, message(*names, (NODE_OUTPUT, output), (4, operator))


def constant(name: str, values: Array) -> tuple[int, bytes]:
    """Return a constant of a graph, as a field of it: int64 or float32."""
    whole = np.issubdtype(values.dtype, np.integer)
    raw = np.ascontiguousarray(values, "<i8" if whole else "<f4").tobytes()
    shape = [(1, size) for size in values.shape]
    kind = INT64 if whole else FLOAT
    return CONSTANT, message(*shape, (2, kind), (CONSTANT_NAME, name), (9, raw))


def value_info(name: str, shape: Sequence[int | str], text: str) -> bytes:
    """Return an input or output of float32; a size with a name may be any."""
    sizes = [message((1 if isinstance(size, int) else 2, size)) for size in shape]
    tensor = message((1, FLOAT), (2, message(*((1, size) for size in sizes))))
    return message((1, name), (2, message((1, tensor))), (3, text))


def metadata(texts: Mapping[str, str]) -> list[tuple[int, bytes]]:
    """Return texts by key, as fields of a model."""
    return [(METADATA, message((1, key), (2, text))) for key, text in texts.items()]


def inside(graph: bytes, called: Mapping[str, str], prefix: str) -> Iterator[tuple[int, bytes]]:
    """Yield steps and constants of a graph to be put into another.

    Its names get a prefix, so that they are none of the other's, but for those that ``called``
    gives another name.
    """

    def renamed(data: bytes, numbers: tuple[int, ...]) -> bytes:
        found = bytearray()
        for number, value, whole in fields(data):
            if number in numbers and isinstance(value, bytes) and value:
                name = value.decode()
                found += message((number, called.get(name, prefix + name)))
            else:
                found += whole
        return bytes(found)

    for number, value, _ in fields(graph):
        if number == NODE and isinstance(value, bytes):
            yield NODE, renamed(value, (NODE_INPUT, NODE_OUTPUT))
        elif number == CONSTANT and isinstance(value, bytes):
            yield CONSTANT, renamed(value, (CONSTANT_NAME,))
