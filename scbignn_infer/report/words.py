"""Names that come from files, made fit for a page."""

from __future__ import annotations

import html

from scbignn_infer.plain import visible

MOST = 18
"""Characters of a name beside a bar or a dot."""


def escape(text: str) -> str:
    """Return words as HTML; control and direction characters are shown as what they are."""
    return html.escape(visible(text))


def short(name: str) -> str:
    """Return a name cut to what a figure has room for."""
    shown = visible(name)
    return shown if len(shown) <= MOST else f"{shown[: MOST - 1]}…"
