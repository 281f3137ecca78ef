"""The service over HTTP: one request is worked on, by a process of its own, and others wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Annotated

import fastapi
import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from scbignn_infer import __version__
from scbignn_infer._types import Document, Progress
from scbignn_infer.service import bodies, site
from scbignn_infer.service.bodies import CSV, JSON, KEPT, SUFFIXES, answer_type, body_type, receive
from scbignn_infer.service.desk import Desk, Job, Limits, take_folder
from scbignn_infer.service.hosts import KnownHosts
from scbignn_infer.service.metrics import TEXT, Metrics
from scbignn_infer.service.models import SEVERAL, KeptWishes, Wishes, named
from scbignn_infer.service.observing import Observed
from scbignn_infer.service.openapi import SCHEMAS, file_body, refusals, request_body, responses
from scbignn_infer.service.refusals import (
    ANSWERED,
    FailedError,
    RefusedError,
    as_answer,
    error_answer,
)
from scbignn_infer.service.results import ALONE, TYPES, File, Name, Results
from scbignn_infer.service.work import Question
from scbignn_infer.service.worker import Filed, Worker, in_time

Folder = Annotated[Job, fastapi.Depends(take_folder)]
Asked = Annotated[Wishes, fastapi.Query()]
AskedToKeep = Annotated[KeptWishes, fastapi.Query()]


def make_app(worker: Worker, limits: Limits, hosts: Sequence[str] = ()) -> fastapi.FastAPI:
    """Return the application; it answers to ``hosts``, this machine's names and addresses."""
    desk, results, metrics = Desk(limits, worker), Results(limits), Metrics()

    @asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        results.close()

    app = fastapi.FastAPI(
        title="scbignn-infer",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,  # pages of documentation would load scripts from the network
        redirect_slashes=False,
    )
    app.state.desk = desk
    app.add_middleware(KnownHosts, hosts=hosts)
    app.add_middleware(Observed, metrics=metrics)  # the outer one, which sees what is refused, too
    _add_handlers(app)
    _add_labels(app, desk)
    _add_results(app, desk, results)
    _add_state(app, desk, results, metrics)
    site.add_page(app)
    app.openapi().setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
    return app


async def _answer(
    request: fastapi.Request,
    wishes: Wishes | KeptWishes,
    job: Job,
    wanted: str,
    tell: Progress | None = None,
) -> fastapi.Response:
    """Receive the body of a request, and wait for its answer; ``tell`` hears of the progress."""
    _refuse_repeated(request)
    desk, sent = job.desk, body_type(request)
    model = named(desk.worker.names, wishes.model)
    body = job.folder / f"cells.{SUFFIXES[sent]}"
    longest = desk.limits.max_size
    with desk.upload() as upload:
        most = min(longest, bodies.JSON_BYTES if sent == JSON else longest)
        await receive(request, body, most, upload)
    if tell is not None:
        tell("", 0, 0)
    return await job.run(Question(model, wishes, body, sent, wanted), request, tell)


def _refuse_repeated(request: fastapi.Request) -> None:
    """Refuse a parameter that is there twice and has one value: no client can mean both."""
    n = Counter(name for name, _ in request.query_params.multi_items())
    twice = next((name for name, times in n.items() if times > 1 and name not in SEVERAL), None)
    if twice is not None:
        raise RefusedError(
            422,
            f"the parameter '{twice[:60]}' is there {n[twice]} times",
            expected="each parameter once, but for those that may be given again",
            do="leave out all but one",
        )


def _add_labels(app: fastapi.FastAPI, desk: Desk) -> None:
    """Add what labels cells."""

    @app.post("/annotate", openapi_extra=request_body(), responses=responses())
    async def annotate(request: fastapi.Request, wishes: Asked, job: Folder) -> fastapi.Response:
        """Label cells: an .h5ad, JSON or Arrow in; JSON, CSV, Arrow or the labelled .h5ad out."""
        try:
            wanted = answer_type(request, body_type(request))
            if wishes.embedding and wanted == CSV:
                raise RefusedError(
                    422,
                    "an embedding is to be sent as text/csv",
                    expected="an answer in JSON, Arrow or HDF5, which can hold it",
                    do="name one in the header Accept, or leave out embedding",
                )
            return await _answer(request, wishes, job, wanted)
        except ANSWERED as error:
            return as_answer(error, job.folder)

    @app.get("/models")
    async def list_models() -> Document:
        """Describe the models that are served."""
        return {"models": desk.worker.models}


def _add_results(app: fastapi.FastAPI, desk: Desk, results: Results) -> None:
    """Add results that are kept for a while: made, looked at, taken and deleted."""

    @app.put("/results/{name}", openapi_extra=file_body(), responses=refusals(), status_code=201)
    async def make(
        request: fastapi.Request, name: Name, wishes: AskedToKeep, job: Folder
    ) -> fastapi.Response:
        """Label the cells of a file, and keep report, table and labelled file under a name."""
        try:
            if (sent := body_type(request)) not in bodies.FILES:
                raise RefusedError(
                    415,
                    f"results are to be kept of a body of the type '{sent}'",
                    expected=f"one of {', '.join(bodies.FILES)}",
                    do="send a file, or take /annotate",
                )
            with results.begin(name) as result:
                answer = await _answer(request, wishes, job, KEPT, result.tell)
                summary = msgspec.json.decode(bytes(answer.body))
                results.keep(name, job.folder / "cells.scbignn.json", summary)
            told = msgspec.json.encode(result.as_document())
            return fastapi.Response(told, 201, media_type=JSON)
        except ANSWERED as error:
            return as_answer(error, job.folder)

    @app.get("/results/{name}", responses=refusals())
    async def look(name: Name) -> Document:
        """Say how far results are, and what they are when they are done."""
        return results.find(name).as_document()

    @app.get("/results/{name}/{file}", responses=refusals(), response_class=fastapi.Response)
    async def take(name: Name, file: File) -> Filed:
        """Send a file of results."""
        how = {"Content-Security-Policy": ALONE} if file == "report" else {}
        if file != "report":
            how["Content-Disposition"] = "attachment"
        return in_time(Filed(results.file(name, file), media_type=TYPES[file], headers=how))

    @app.delete("/results/{name}", responses=refusals(), status_code=204)
    async def delete(name: Name) -> None:
        """Remove results before their time."""
        if results.find(name).state != "done":
            raise RefusedError(
                409,
                "these results are being made",
                expected="results that are done",
                do="close the request that makes them, which ends it",
            )
        results.forget(name)


def _add_state(app: fastapi.FastAPI, desk: Desk, results: Results, metrics: Metrics) -> None:
    """Add what is said of the service itself."""
    worker = desk.worker
    has_report = all(map(find_spec, ("jinja2", "umap")))

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
            "max_size": desk.limits.max_size,
            "report": has_report,
        }

    @app.get("/metrics", response_class=fastapi.responses.PlainTextResponse)
    async def measure() -> fastapi.Response:
        """Give counts and times in the text format of Prometheus."""
        gauges = {
            "worker_ready": ("Whether the process that labels is ready.", worker.state == "ready"),
            "queue_length": ("Requests that wait or are being labelled.", desk.taken),
            "receiving": ("Bodies that are being received.", desk.coming),
            "kept_results": ("Results that are kept or being made.", len(results)),
        }
        said = metrics.text(gauges, cells=worker.cells, restarts=worker.restarts)
        return fastapi.Response(said, headers={"Content-Type": TEXT})


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
