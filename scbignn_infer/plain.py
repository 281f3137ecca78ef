"""Text from files, made safe to print."""

from __future__ import annotations

import re

UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f"  # control characters: ESC starts commands to the terminal
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they turn the direction of what follows
    r"\u2028\u2029"  # they end a line
    r"\ud800-\udfff]"  # no characters at all: bytes of file names that are not UTF-8
)
BYTES = range(0xDC80, 0xDD00)
"""Where Python keeps such bytes in a string."""


def visible(text: str) -> str:
    r"""Write control and direction characters and stray bytes as escapes, such as ``\x1b``."""
    return UNSAFE.sub(lambda found: _escape(found[0]), text)


def without_stray_bytes(value: object) -> object:
    """Return a JSON document in which strings, keys too, are all of characters."""
    if isinstance(value, str):
        return value if value.isascii() else re.sub(r"[\ud800-\udfff]", _stray, value)
    if isinstance(value, dict):
        return {without_stray_bytes(k): without_stray_bytes(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_stray_bytes(v) for v in value]
    return value


def _stray(found: re.Match[str]) -> str:
    return _escape(found[0])


def _escape(character: str) -> str:
    code = ord(character)
    if code in BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
