"""Requests that are not served: which status and which line they are answered with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import fastapi
import msgspec

from scbignn_infer.errors import InputError, MissingExtraError, OutputError, ScBiGNNError

RETRY_SECONDS = 5
REFUSALS = {
    403: "the request comes from a page of another site",
    404: "no such model",
    406: "an answer in none of the formats",
    408: "the body took too long",
    409: "results are kept under this name already",
    413: "the body is too large",
    415: "a body in none of the formats",
    421: "the host is not a name of this service",
    422: "the cells or a parameter cannot be used",
    501: "a package for this format is not installed",
    503: "too many requests wait or come, or the process that labels does not start",
    504: "waiting and work took too long",
}


class Refusal(msgspec.Struct):
    """What was found, what was expected and what to do, in one line."""

    error: str


class RefusedError(ScBiGNNError):
    """A request that is not served, with the status of the answer."""

    def __init__(self, status: int, found: str, *, expected: str, do: str) -> None:
        self.status = status
        super().__init__(found, expected=expected, do=do)


class FailedError(Exception):
    """A request that failed by the server's fault; the error of this kind has been logged."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(kind)


STATUS: dict[type[ScBiGNNError], int] = {InputError: 422, MissingExtraError: 501, OutputError: 507}
ANSWERED: tuple[type[ScBiGNNError], ...] = (RefusedError, *STATUS)
"""Errors that the client is told; any other is the server's, and logged."""


def as_answer(error: ScBiGNNError, folder: Path | None = None) -> fastapi.Response:
    """Return an error as one line, without the folder that only the server knows."""
    if isinstance(error, RefusedError):
        status = error.status
    else:
        status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    line = str(error).replace(f"{folder}{os.sep}", "")
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    return error_answer(status, line, headers)


def error_answer(
    status: int, line: str, headers: Mapping[str, str] | None = None
) -> fastapi.Response:
    """Return one line as an answer."""
    body = msgspec.json.encode(Refusal(" ".join(line.split())))
    return fastapi.Response(body, status, headers, "application/json")
