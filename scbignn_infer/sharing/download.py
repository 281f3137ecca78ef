"""Bytes from an https address, bounded. With ``hub.py`` the only code that fetches anything."""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from scbignn_infer.errors import BundleError, reason
from scbignn_infer.model.archives import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 30.0
"""For which a server may be silent."""
MAX_SECONDS = 3600.0
"""For which a file may take to come, so that no server keeps a command for ever."""
URL = re.compile(r"[!-~]+")
CHUNK = 1 << 16
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
TRY_AGAIN = "try again; nothing was installed"


def check_address(url: str) -> None:
    """Refuse an address that is not https, or that holds a password."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a host or a port that is none
        parts, fits = urlsplit(""), False
    if not fits or not URL.fullmatch(url):
        raise BundleError(
            f"the address {plain_address(url)}",
            expected="one that begins with https://, so that nobody on the way can change a model",
            do="ask for such an address, or fetch the file yourself and install that",
        )
    if parts.username is not None or parts.password is not None:
        raise BundleError(
            f"the address {plain_address(url)} with a user name or password in it",
            expected="an address without them, since it is printed and kept",
            do="fetch the file yourself and install that",
        )


def plain_address(url: str) -> str:
    """Return an address without what may be secret in it: user, password, query."""
    bare = url.partition("?")[0].partition("#")[0]
    scheme, slashes, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return ascii(f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"[:300])[1:-1]


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens https addresses, through the user's proxy, and no others."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def download(
    url: str,
    most: int,
    *,
    token: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    seconds: float = MAX_SECONDS,
) -> Iterator[bytes]:
    """Yield the bytes of a file at an https address.

    Parameters
    ----------
    url
        The address.
    most
        Bytes of the largest file that is taken.
    token
        Sent to the host of the address, and to no other that it leads to.
    timeout
        Seconds for which the server may be silent.
    seconds
        For which the whole may take.

    Raises
    ------
    BundleError
        The address is not https or leads elsewhere, or the file is not there, is too large or
        ends early.
    """
    what = plain_address(url)
    try:
        with _answer(url, token, timeout) as answer:
            yield from _body(answer, what, most, time.monotonic() + seconds)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        said = reason(why) if isinstance(why, BaseException) else str(why)
        raise BundleError(
            f"cannot fetch {what} ({one_line(ValueError(said))})",
            expected="a server that can be reached and that sends the whole file",
            do=TRY_AGAIN,
        ) from None


def _answer(url: str, token: str | None, timeout: float) -> Any:
    """Open an address and those that it leads to, each https.

    urllib's own way would read the whole body of each redirect, however long.
    """
    asked, opener = url, _opener()
    for _ in range(MAX_REDIRECTS + 1):
        check_address(url)
        headers = {"User-Agent": "scbignn-infer", "Accept-Encoding": "identity"}
        if token and urlsplit(url).netloc == urlsplit(asked).netloc:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - https alone
        try:
            return opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            error.close()
            leads_to = error.headers.get("Location")
            if error.code not in REDIRECTS or not leads_to:
                raise BundleError(
                    f"the server answers {error.code} to {plain_address(url)}",
                    expected="the file of a model",
                    do="check the address; nothing was installed",
                ) from None
            url = urljoin(url, leads_to)
    raise BundleError(
        f"{plain_address(asked)} leads from address to address",
        expected=f"{MAX_REDIRECTS} redirects at the most",
        do="check the address; nothing was installed",
    )


def _body(answer: Any, what: str, most: int, until: float) -> Iterator[bytes]:
    """Yield what the server sends, up to a size and a time; what it announces must come."""
    announced = answer.headers.get("Content-Length", "")
    size = int(announced) if announced.isdecimal() else None
    done = 0
    if size is not None and size > most:
        raise too_large(what, size, most)
    while chunk := answer.read1(CHUNK):  # what is there, without waiting for more
        done += len(chunk)
        if time.monotonic() > until:
            raise BundleError(
                f"{what} is too slow: {done:,} bytes until now",
                expected="a server that sends the file in time",
                do=TRY_AGAIN,
            )
        if done > most:
            raise too_large(what, done, most)
        yield chunk
    if size is not None and done != size:
        raise BundleError(
            f"{what} ended after {done:,} of {size:,} bytes",
            expected="the whole file",
            do=TRY_AGAIN,
        )


def too_large(what: object, size: int, most: int) -> BundleError:
    """Return the error of a file that is larger than any packed model."""
    return BundleError(
        f"{what} has {size:,} bytes or more",
        expected=f"a packed model, of {most:,} bytes at the most",
        do="check that this is the right file; nothing was installed",
    )
