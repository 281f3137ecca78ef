"""The page at ``/``: a file is dropped there, and its labels are seen. It loads nothing else."""

from __future__ import annotations

from pathlib import Path

import fastapi

PAGE = Path(__file__).parent / "page"
FILES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")}
FILES["/page.js"] = ("page.js", "text/javascript")
OWN = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""What the page may do: run its own script, speak to this service, and show reports. No text
becomes markup, whatever a file is called."""


def add_page(app: fastapi.FastAPI) -> None:
    """Serve the files of the page."""
    for path, (name, kind) in FILES.items():
        _add(app, path, (PAGE / name).read_bytes(), f"{kind}; charset=utf-8")


def _add(app: fastapi.FastAPI, path: str, content: bytes, kind: str) -> None:
    headers = {"Content-Security-Policy": OWN, "Cache-Control": "no-cache", "Content-Type": kind}

    @app.get(path, include_in_schema=False)
    async def page() -> fastapi.Response:
        return fastapi.Response(content, headers=headers)
