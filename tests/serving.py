"""The service in a thread of this process, for tests."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import httpx

from scbignn_infer import service
from scbignn_infer.service import server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def running(
    child: service.Worker, limits: service.Limits, hosts: Sequence[str] = ()
) -> Iterator[httpx.Client]:
    """Serve in a thread, and give a client."""
    own = server.make_server(service.make_app(child, limits, hosts), 0, port=0, log_config=None)
    thread = threading.Thread(target=own.run)
    thread.start()
    try:
        while not own.started:
            time.sleep(0.01)
        address = "http://{}:{}".format(*own.servers[0].sockets[0].getsockname())
        # A connection that is kept may be closed by the server just as it is used again.
        each_anew = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=address, timeout=300, limits=each_anew) as client:
            yield client
    finally:
        own.should_exit = True
        thread.join()
