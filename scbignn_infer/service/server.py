"""The server of HTTP, with an end to connections that send no request."""

from __future__ import annotations

import asyncio
from typing import Any

import fastapi
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For the head of a request to come, or twice as long at most."""
HEAD_BYTES = 65_536
"""Longest head of a request."""
CONNECTIONS = 500
"""More are answered with 503."""


class Punctual(H11Protocol):
    """HTTP/1.1 over a connection that is closed when no request comes; its head may not trickle."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look after a new connection."""
        super().connection_made(transport)
        self._look_later()

    def _waits(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _look_later(self) -> None:
        self.loop.call_later(HEAD_SECONDS, self._look, (self.cycle, self._waits()))

    def _look(self, before: object) -> None:
        """Close the connection if it waits for the same request as at the last look."""
        if self.transport.is_closing():
            return
        if before == (self.cycle, True) and self._waits():
            self.transport.close()
        else:
            self._look_later()


def make_server(app: fastapi.FastAPI, seconds: float, **settings: Any) -> uvicorn.Server:
    """Return a server, which gives the requests in hand so many seconds when it is to end."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Punctual,
            ws="none",
            log_level="warning",
            h11_max_incomplete_event_size=HEAD_BYTES,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=round(seconds) + 1,
            **settings,
        )
    )
