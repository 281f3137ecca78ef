"""Who may call the service from a browser: pages of its own, by names that are its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scbignn_infer.service.refusals import RefusedError, as_answer

LOOPBACK = ("localhost",)
SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer that has none of its own: no page elsewhere can show or load it, and no
browser keeps it."""


class KnownHosts:
    """Refuse requests to another host than this machine and ``hosts``, and those of other pages.

    A page on the web may let its own name lead to this machine and then send requests from the
    browser of someone who works here. The header ``Host`` tells: it holds the page's name.
    Addresses are no names, and programs that send no header are no browsers.

    A page may also send requests to this machine's own name. Browsers say so in ``Origin`` and
    ``Sec-Fetch-Site``. A link elsewhere may lead here, since its page learns nothing of the answer.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        self._app = app
        self._known = list(dict.fromkeys(name.lower() for name in (*LOOPBACK, *hosts)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have it answered."""

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif error := self._refusal(scope):
            await as_answer(error)(scope, receive, safely)
        else:
            await self._app(scope, receive, safely)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        """Return why a request is refused, if it is."""
        headers = Headers(scope=scope)
        unknown = next((host for host in headers.getlist("host") if not self._knows(host)), None)
        if unknown is not None:
            return RefusedError(
                421,
                f"the host {_shown(unknown)} is not a name of this service",
                expected=f"{', '.join(self._known)} or an address",
                do="use one of these, or start the service with --allow-host NAME",
            )
        stranger = _stranger(headers)
        if stranger is not None:
            return RefusedError(
                403,
                f"the request comes from a page of {stranger}",
                expected="a page of this service, or a program",
                do="open the address of the service itself; a proxy must pass the header Host",
            )
        return None

    def _knows(self, host: str) -> bool:
        name = _name(host).lower().removesuffix(".")
        return name in self._known or is_address(name)


def _stranger(headers: Headers) -> str | None:
    """Return the site of the page that has sent a request, unless it is a page of this service."""
    origin = headers.get("origin")
    if origin is not None:
        scheme, _, host = origin.lower().partition("://")
        port = {"http": "80", "https": "443"}.get(scheme, "")
        own = headers.get("host", "").lower()
        return None if host and own in (host, f"{host}:{port}") else _shown(host or origin)
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return None
    follows = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return None if follows == ("navigate", "document") else "another site"


def _shown(host: str) -> str:
    return ascii(_name(host)[:100])


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
