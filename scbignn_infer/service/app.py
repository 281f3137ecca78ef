"""The service over HTTP: one request is worked on, by a process of its own, and others wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import fastapi
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from scbignn_infer import __version__
from scbignn_infer._types import Document
from scbignn_infer.service import bodies
from scbignn_infer.service.bodies import JSON, SUFFIXES, answer_type, body_type, receive
from scbignn_infer.service.desk import Desk, Job, Limits, take_folder
from scbignn_infer.service.hosts import KnownHosts
from scbignn_infer.service.models import Wishes, named
from scbignn_infer.service.openapi import SCHEMAS, request_body, responses
from scbignn_infer.service.refusals import (
    ANSWERED,
    FailedError,
    RefusedError,
    as_answer,
    error_answer,
)
from scbignn_infer.service.work import Question
from scbignn_infer.service.worker import Worker

Folder = Annotated[Job, fastapi.Depends(take_folder)]
Asked = Annotated[Wishes, fastapi.Query()]


def make_app(worker: Worker, limits: Limits, hosts: Sequence[str] = ()) -> fastapi.FastAPI:
    """Return the application.

    Parameters
    ----------
    worker
        The process that reads and labels, and what it serves.
    limits
        What is taken on.
    hosts
        Names by which the service may be called, beside those of this machine and addresses.
    """
    app = fastapi.FastAPI(
        title="scbignn-infer", version=__version__, docs_url=None, redoc_url=None
    )  # pages of documentation would load scripts from the network
    desk = app.state.desk = Desk(limits, worker)
    app.add_middleware(KnownHosts, hosts=hosts)
    _add_handlers(app)

    @app.post("/annotate", openapi_extra=request_body(), responses=responses())
    async def annotate(request: fastapi.Request, wishes: Asked, job: Folder) -> fastapi.Response:
        """Label cells: an .h5ad, JSON or Arrow in; JSON, CSV or the labelled .h5ad out."""
        try:
            model, sent = named(worker.names, wishes.model), body_type(request)
            wanted = answer_type(request, sent)
            body = job.folder / f"cells.{SUFFIXES[sent]}"
            most = min(limits.max_size, bodies.JSON_BYTES if sent == JSON else limits.max_size)
            with desk.upload() as upload:
                await receive(request, body, most, upload)
            return await job.run(Question(model, wishes, body, sent, wanted), request)
        except ANSWERED as error:
            return as_answer(error, job.folder)

    @app.get("/health")
    async def health() -> Document:
        """Say whether the service is ready, and how many requests come, wait or are worked on."""
        return {
            "ready": worker.state == "ready",
            "version": __version__,
            "models": worker.names,
            "queue_length": desk.taken,
            "receiving": desk.coming,
            "worker": worker.state,
            "restarts": worker.restarts,
        }

    @app.get("/models")
    async def list_models() -> Document:
        """Describe the models that are served."""
        return {"models": worker.models}

    app.openapi().setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
    return app


def _add_handlers(app: fastapi.FastAPI) -> None:
    """Make every error one line of JSON."""

    @app.exception_handler(RefusedError)
    async def refused(request: fastapi.Request, error: RefusedError) -> fastapi.Response:
        return as_answer(error)

    @app.exception_handler(FailedError)
    async def failed(request: fastapi.Request, error: FailedError) -> fastapi.Response:
        return error_answer(500, f"the request failed ({error.kind}); it has been logged")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: fastapi.Request, error: RequestValidationError) -> fastapi.Response:
        first = error.errors()[0]
        return error_answer(422, f"parameter '{first['loc'][-1]}': {first['msg']}")

    @app.exception_handler(HTTPException)
    async def unknown(request: fastapi.Request, error: HTTPException) -> fastapi.Response:
        line = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json"
        return error_answer(error.status_code, line, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: fastapi.Request, error: ClientDisconnect) -> fastapi.Response:
        return fastapi.Response(status_code=400)  # nobody reads it

    @app.exception_handler(Exception)
    async def broken(request: fastapi.Request, error: Exception) -> fastapi.Response:
        """Answer; the server logs the error, which is raised again."""
        return error_answer(500, f"the request failed ({type(error).__name__}); it has been logged")
