"""How requests and answers are described to those who write clients."""

from __future__ import annotations

import msgspec

from scbignn_infer._types import Document
from scbignn_infer.service.bodies import ARROW, CSV, FILES, HDF5, JSON, OPENERS, CellsOfJson
from scbignn_infer.service.refusals import REFUSALS, Refusal
from scbignn_infer.service.work import Labels

(_CELLS, _LABELS, _REFUSAL), SCHEMAS = msgspec.json.schema_components(
    (CellsOfJson, Labels, Refusal), ref_template="#/components/schemas/{name}"
)
"""SCHEMAS are the structs that read bodies and write answers, by name, as OpenAPI has them."""
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def request_body() -> Document:
    """Describe the body of a request as OpenAPI does."""
    content = {kind: {"schema": _CELLS} if kind == JSON else _BINARY for kind in OPENERS}
    return {"requestBody": {"required": True, "content": content}}


def file_body() -> Document:
    """Describe the body of a request that must be a file."""
    return {"requestBody": {"required": True, "content": dict.fromkeys(FILES, _BINARY)}}


def responses() -> dict[int | str, Document]:
    """Describe the answers of a request as OpenAPI does."""
    labelled = {JSON: {"schema": _LABELS}, CSV: {}, ARROW: _BINARY, HDF5: _BINARY}
    return {200: {"description": "the labels", "content": labelled}, **refusals()}


def refusals() -> dict[int | str, Document]:
    """Describe the answers that are one line, as OpenAPI does."""
    return {
        status: {"description": reason, "content": {JSON: {"schema": _REFUSAL}}}
        for status, reason in REFUSALS.items()
    }
