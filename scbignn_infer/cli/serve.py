"""``serve``: label cells over HTTP."""

from __future__ import annotations

import ipaddress
import logging
import logging.handlers
import os
import signal
import socket
from typing import TYPE_CHECKING

import click

from scbignn_infer.cli.options import Seconds, as_bytes, settings_options
from scbignn_infer.cli.printing import say
from scbignn_infer.cli.running import ENDING
from scbignn_infer.errors import MissingExtraError, OutputError, ScBiGNNError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer.settings import Settings

MODULES = ("fastapi", "uvicorn")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="NAME|PATH",
    help="Model to serve, may be given again; by default all that are found.",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    default="1GB",
    show_default=True,
    callback=lambda ctx, parameter, value: as_bytes(value),
    help="Longest body.",
)
@click.option(
    "--timeout",
    type=Seconds(),
    default=600.0,
    show_default=True,
    help="Seconds for receiving a body, and again for waiting and work.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="Requests that may wait.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Name by which clients call this service, may be given again; localhost and addresses "
    "are allowed.",
)
@click.option(
    "--access-log",
    "log",
    metavar="FILE",
    help="File to which a line of JSON is added for each request; - is stderr.",
)
@settings_options("device", "threads", "memory_limit")
def serve(
    host: str,
    port: int,
    models: Sequence[str],
    max_size: int,
    timeout: float,
    queue: int,
    hosts: Sequence[str],
    log: str | None,
    settings: Settings,
) -> None:
    """Label cells over HTTP, for programs and a browser.

    Loads its models once, in a child process that reads and labels, and serves this machine alone,
    unless told otherwise with --host. Needs the extra 'serve'.
    """
    from importlib.util import find_spec

    for module in MODULES:
        if find_spec(module) is None:
            raise MissingExtraError(module, extra="serve", purpose="the service")
    from scbignn_infer import nearest_model, service
    from scbignn_infer.service.server import make_server

    if log is not None:
        _log_accesses(log)
    with _bind(host, port) as listener:
        limits = service.Limits(max_size, timeout, queue)
        device, threads = settings.device, settings.threads
        served = list(models) or [
            str(bundle.path)
            for bundle in nearest_model.whole_models(device=device, threads=threads)
        ]
        with service.Worker(served, settings, limits) as worker:
            app = service.make_app(worker, limits, [*hosts, host])
            server = make_server(app, timeout)
            for number in ENDING:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, server.handle_exit)  # which ends it well, exit code 0
            listener.listen()
            place = f"[{host}]" if ":" in host else host
            say(
                f"serving {', '.join(worker.names)} at http://{place}:{listener.getsockname()[1]}",
                err=True,
            )
            if not _is_loopback(host):
                say(
                    f"warning: whoever reaches {host} may use this service; it asks for no "
                    "password",
                    err=True,
                )
            server.run(sockets=[listener])


def _log_accesses(path: str) -> None:
    """Let the access log go to a file, or to stderr; a file that is moved away is made anew."""
    from scbignn_infer.service.observing import access

    try:
        handler = (
            logging.StreamHandler() if path == "-" else logging.handlers.WatchedFileHandler(path)
        )
    except OSError as error:
        raise OutputError(
            f"cannot write the access log {path} ({error.strerror or error})",
            expected="a file that can be written, or - for stderr",
            do="choose another with --access-log",
        ) from None
    access.handlers[:], access.propagate = [handler], False
    access.setLevel(logging.INFO)


def _bind(host: str, port: int) -> socket.socket:
    """Take the address, before models are loaded."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if os.name != "nt":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ScBiGNNError(
            f"cannot listen at {host}, port {port} ({error.strerror or error})",
            expected="an address of this machine and a free port",
            do="choose others with --host and --port",
        ) from None
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
