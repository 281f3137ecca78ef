"""numpy's linear algebra on one thread, whatever number the calling program has chosen.

The matrices here are small. On all cores BLAS would wait more than it works and the setting
``threads`` would not be kept; on one, results do not depend on the machine's cores either.
"""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from functools import cache
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


class _OneThread(ContextDecorator):
    """Holds BLAS to one thread while any thread is within; the number before then comes back.

    The number is one of the process: it cannot be held for one thread alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0

    def __enter__(self) -> Self:
        with self._lock:
            if self._within == 0:
                self._limit = _controller().limit(limits=1, user_api="blas")
            self._within += 1
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0:
                self._limit.restore_original_limits()


@cache
def _controller() -> ThreadpoolController:
    """Find the libraries that numpy has loaded, once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


one_blas_thread = _OneThread()
