"""By which names the service may be called: others are those of a page that rebinds its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from scbignn_infer.service.refusals import RefusedError, as_answer

LOOPBACK = ("localhost",)


class KnownHosts:
    """Refuse requests to another host than this machine and ``hosts``.

    A page on the web may let its own name lead to this machine and then send requests from the
    browser of someone who works here. The header ``Host`` tells: it holds the page's name.
    Addresses are no names, and programs that send no header are no browsers.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        self._app = app
        self._known = list(dict.fromkeys(name.lower() for name in (*LOOPBACK, *hosts)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have it answered."""
        if scope["type"] in ("http", "websocket"):
            given = [v.decode("latin-1") for k, v in scope["headers"] if k == b"host"]
            unknown = next((host for host in given if not self._knows(host)), None)
            if unknown is not None:
                shown = ascii(_name(unknown)[:100])
                error = RefusedError(
                    421,
                    f"the host {shown} is not a name of this service",
                    expected=f"{', '.join(self._known)} or an address",
                    do="use one of these, or start the service with --allow-host NAME",
                )
                await as_answer(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _knows(self, host: str) -> bool:
        name = _name(host).lower().removesuffix(".")
        return name in self._known or is_address(name)


def _name(host: str) -> str:
    """Return the host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_address(name: str) -> bool:
    """Tell whether a host is given by its address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
