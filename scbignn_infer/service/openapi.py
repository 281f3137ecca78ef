"""How requests and answers are described to those who write clients."""

from __future__ import annotations

from typing import Any

from scbignn_infer.service.bodies import ARROW, CSV, HDF5, JSON, OCTETS
from scbignn_infer.service.refusals import REFUSALS

Document = dict[str, Any]


def request_body() -> Document:
    """Describe the body of a request as OpenAPI does."""
    number, whole = {"type": "number"}, {"type": "integer"}
    text = {"type": "array", "items": {"type": "string"}}
    sparse = {
        "type": "object",
        "description": "Counts by rows (CSR), as scipy.sparse has them.",
        "properties": {
            "indptr": {"type": "array", "items": whole},
            "indices": {"type": "array", "items": whole},
            "data": {"type": "array", "items": number},
            "shape": {"type": "array", "items": whole, "minItems": 2, "maxItems": 2},
        },
        "required": ["indptr", "indices", "data", "shape"],
    }
    dense = {"type": "array", "items": {"type": "array", "items": number}}
    cells = {
        "type": "object",
        "properties": {"genes": text, "cells": text, "counts": {"oneOf": [dense, sparse]}},
        "required": ["genes", "counts"],
    }
    octets = {"schema": {"type": "string", "format": "binary"}}
    content = {HDF5: octets, OCTETS: octets, JSON: {"schema": cells}, ARROW: octets}
    return {"requestBody": {"required": True, "content": content}}


def responses() -> dict[int | str, Document]:
    """Describe the answers of a request as OpenAPI does."""
    error = {"type": "object", "properties": {"error": {"type": "string"}}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    labelled = {JSON: {"schema": {"type": "object"}}, CSV: {}, HDF5: binary}
    return {
        200: {"description": "the labels", "content": labelled},
        **{
            status: {"description": reason, "content": {JSON: {"schema": error}}}
            for status, reason in REFUSALS.items()
        },
    }
