"""Models on the Hugging Face hub: which file an ``hf://`` address means."""

from __future__ import annotations

import re
from typing import NamedTuple

from scbignn_infer.errors import BundleError, MissingExtraError
from scbignn_infer.model.archives import one_line
from scbignn_infer.model.registry import PACKED

SCHEME = "hf://"
WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
ADDRESS = re.compile(rf"hf://({WORD}/{WORD})(?:@({WORD}))?(?:/([A-Za-z0-9][A-Za-z0-9._/-]*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_SECONDS = 30.0


class HubFile(NamedTuple):
    """A file on the hub, at one commit."""

    url: str
    token: str | None
    """The user's, if there is one: for private models."""
    pinned: str
    """An address that always means this very file."""


def find_on_hub(address: str) -> HubFile:
    """Ask the hub for the packed model of a repository.

    Parameters
    ----------
    address
        ``hf://owner/name``, with ``@revision`` for a branch, tag or commit, and ``/file`` where
        the repository has more than one packed model.
    """
    parts = ADDRESS.fullmatch(address)
    if parts is None:
        raise BundleError(
            f"the address {ascii(address[:200])[1:-1]}",
            expected="hf://owner/name, hf://owner/name@revision or hf://owner/name@revision/file",
            do="mend the address",
        )
    repository, revision, wanted = parts.groups()
    try:
        import huggingface_hub as hub
    except ImportError:
        raise MissingExtraError(
            "huggingface_hub", extra="hub", purpose="installing from hf://"
        ) from None
    try:
        info = hub.HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_SECONDS)
        names = [file.rfilename for file in info.siblings or []]
        token = hub.get_token()
    except Exception as error:  # noqa: BLE001 - the hub's and its network's have no common root
        raise BundleError(
            f"the hub does not show {address} ({one_line(error)})",
            expected="a repository that exists and that you may read",
            do="check the address; for a private one, log in with: hf auth login",
        ) from None
    packed = [name for name in names if name.endswith(PACKED) and wanted in (None, name)]
    if len(packed) != 1 or not COMMIT.fullmatch(info.sha or ""):
        found = ", ".join(map(ascii, packed[:5])) or "none"
        raise BundleError(
            f"{len(packed)} packed models at {address} ({found})",
            expected=f"one file named *{PACKED}",
            do="name it: hf://owner/name/file",
        )
    return HubFile(
        hub.hf_hub_url(repository, packed[0], revision=info.sha),
        token,
        f"{SCHEME}{repository}@{info.sha}/{packed[0]}",
    )
