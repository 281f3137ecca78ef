"""Text from files, made safe to print."""

from __future__ import annotations

import re

UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f"  # control characters: ESC starts commands to the terminal
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they turn the direction of what follows
    r"\u2028\u2029"  # they end a line
    r"\ud800-\udfff]"  # no characters at all: bytes of file names that are not UTF-8
)
STRAY = re.compile(r"[\ud800-\udfff]")
BYTES = range(0xDC80, 0xDD00)
"""Where Python keeps such bytes in a string."""


def visible(text: str) -> str:
    r"""Write control and direction characters and stray bytes as escapes, such as ``\x1b``."""
    return UNSAFE.sub(lambda found: _escape(found[0]), text)


def encodable(text: str) -> str:
    r"""Write stray bytes alone as escapes, such as ``\xe9``, for a file in UTF-8."""
    return text if text.isascii() else STRAY.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    if code in BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
