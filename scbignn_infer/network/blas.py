"""numpy's linear algebra on one thread, whatever number the calling program has chosen.

The matrices here are small. On all cores BLAS would wait more than it works, and the setting
``threads`` would not be kept; on one, results do not depend on the machine's cores either.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from threadpoolctl import ThreadpoolController

_holding = threading.RLock()
"""Held within: the number is one of the process, and who sets it must be who gives it back."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread; afterwards the number is what it was."""
    with _holding, _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    """Find the libraries that numpy has loaded, once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
