"""The long description of the package: the README, with links that work where an index shows it.

Hatchling runs this when it builds (``[tool.hatch.metadata.hooks.custom]``). Links of the README are
relative, for readers of the repository. Where ``[project.urls]`` of ``pyproject.toml`` has
``Source``, an address such as ``https://github.com/owner/name``, links lead to the files of this
version there; without it their words stay and the links go.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def described(text: str, source: str | None, version: str) -> str:
    """Return the text of a README with absolute links to a version, or without relative ones."""

    def link(found: re.Match[str]) -> str:
        picture, words, path = found.groups()
        if source is None:
            return "" if picture else words
        kind = "raw" if picture else "blob"
        return f"{picture}[{words}]({source.rstrip('/')}/{kind}/v{version}/{path})"

    return LINK.sub(link, text)


class Description(MetadataHookInterface):
    """Sets the field ``readme``."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Describe the version that is built."""
        root = Path(self.root)
        code = (root / "scbignn_infer" / "__init__.py").read_text(encoding="utf-8")
        version = re.search(r'^__version__ = "(.+)"$', code, re.MULTILINE)
        if version is None:
            raise LookupError("scbignn_infer/__init__.py has no version")
        text = (root / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": described(text, source, version[1]),
        }
