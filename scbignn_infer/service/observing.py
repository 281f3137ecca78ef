"""Look at each request as it is answered: count it, and note it in the access log."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scbignn_infer.service.metrics import Metrics

access = logging.getLogger("scbignn_infer.access")
"""Has a line of JSON for each request, if it has a handler."""
MOST_TEXT = 200
"""Characters that the log keeps of what a client has written."""
SECRET = re.compile(r"[A-Za-z0-9_-]{22,}")
"""What may be the name of results in a path that the service does not have."""


class Observed:
    """Count requests, and note them in the access log, once they have been answered.

    The log has the path of a request as the service declares it, such as ``/results/{name}``: who
    knows the name of results may read them, and a query may hold whatever a client wrote.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have it answered, and take note."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, received, sent = perf_counter(), 500, 0, 0

        async def taking() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def giving(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, taking, giving)
        finally:
            seconds = perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            sizes = {"received": received, "sent": sent}
            self._metrics.count(route, scope["method"], status, seconds=seconds, **sizes)
            if access.isEnabledFor(logging.INFO):
                access.info(_line(scope, route, status, seconds, sizes))


def _line(scope: Scope, route: str, status: int, seconds: float, sizes: dict[str, int]) -> str:
    """Return a request as JSON in ASCII, in which no control character of a client stands."""
    agent = next((v for k, v in scope["headers"] if k == b"user-agent"), b"")
    client = scope.get("client") or ("",)
    noted = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": client[0],
        "method": scope["method"][:MOST_TEXT],
        "path": route if route != "other" else SECRET.sub("{name}", scope["path"])[:MOST_TEXT],
        "status": status,
        **sizes,
        "seconds": round(seconds, 4),
        "agent": agent.decode("latin-1")[:MOST_TEXT],
    }
    return json.dumps(noted)
