"""What child processes of tests run: the service's work with something wrong in it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from scbignn_infer.child import HEAD, Child, StoppedError, limit_memory
from scbignn_infer.errors import BundleError, GeneError, MissingExtraError, OutputError
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.child import Link


def serve(folder: Path, link: Link, *arguments: Any) -> None:
    """Serve, with the fault that a file in ``folder`` names, where the child tells of its work."""
    from scbignn_infer import label_file as files
    from scbignn_infer.annotator import Annotator
    from scbignn_infer.service import bodies, work
    from scbignn_infer.service.models import WARM_CELLS

    plain, plain_file, plain_arrow = (
        Annotator.annotate_query,
        files.label_file,
        bodies.OPENERS[bodies.ARROW],
    )

    def wait(progress: Any = None) -> None:
        while not (folder / "go").exists():
            time.sleep(0.01)
            if progress is not None:
                progress("wait", 0, 1)

    def label(self: Any, query: Any, *more: Any, **named: Any) -> Any:
        fault = (folder / "fault").read_text()
        warming = query.n_cells <= WARM_CELLS
        if fault == "start" and warming:
            raise BundleError("no model is there any more", expected="one", do="mend it")
        if not fault or warming:
            return plain(self, query, *more, **named)
        with open(folder / "begun", "a") as file:
            file.write(f"{query.n_cells}\n")
        tempfile.mkstemp(prefix="scbignn-of-the-child")
        if fault == "held":
            wait(named["progress"])
        if fault == "hang":
            wait()
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "crash":
            os.abort()
        if fault == "key":
            raise KeyError("no such thing")
        if fault == "bundle":
            raise BundleError("no such thing", expected="one", do="mend it")
        if fault == "memory":
            raise MemoryError
        return plain(self, query, *more, **named)

    def label_file(source: Path, target: Path, *more: Any, **named: Any) -> Any:
        if (folder / "fault").read_text() == "full":
            raise OutputError(f"cannot write {target} (no space)", expected="space", do="free some")
        return plain_file(source, target, *more, **named)

    def open_arrow(path: Path, *more: Any) -> Any:
        if (folder / "fault").read_text() == "package":
            sys.modules["pyarrow"] = None  # type: ignore[assignment]
        return plain_arrow(path, *more)

    Annotator.annotate_query = label  # type: ignore[method-assign]
    files.label_file = label_file
    bodies.OPENERS[bodies.ARROW] = open_arrow
    work.serve(link, *arguments)


class FatalSettings(Settings):
    """Settings whose annotator ends the process, as the system does where memory runs out."""

    def some(self, kind: type) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def echo(link: Link) -> None:
    """Send back what comes."""
    for message in link:
        print("a library says something")
        link.send({"back": message})


def hang(link: Link, folder: Path) -> None:
    """Make temporary files and a process, then hold the interpreter's lock for ever."""
    tempfile.mkstemp(dir=folder, prefix="file")
    tempfile.mkdtemp(dir=folder, prefix="folder")
    for name in (".o.h5ad.0123.tmp", "kept"):
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    link.send({"other": other.pid})
    ctypes.PyDLL(None).sleep(1000)


def look(link: Link) -> None:
    """Say what this process may take and knows."""
    import resource

    names = ("CORE", "NOFILE", "FSIZE", "CPU")
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in names}
    link.send({"limits": limits, "environment": dict(os.environ), "group": os.getpgid(0)})


def end(link: Link, how: str) -> None:
    """End in some way."""
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(7)
    if how == "pickle":
        link._sink.write(HEAD.pack(4) + b"\x80\x04N.")  # what pickle would take for None
        link._sink.flush()
    if how == "list":
        link._sink.write(HEAD.pack(2) + b"[]")
        link._sink.flush()
    if how == "long":
        link.send({"a": "x" * 2000})
    if how == "raise":
        raise ZeroDivisionError
    time.sleep(1000)


def refuse(link: Link, kind: str) -> None:
    """End with an error."""
    if kind == "extra":
        raise MissingExtraError("pyarrow", extra="parquet", purpose="reading Arrow")
    if kind == "memory":
        limit_memory(1_000_000_000)
        bytearray(2_000_000_000)
    raise GeneError("no genes", expected="some", do="find them")


def turn(link: Link) -> None:
    """Take processor time for ever."""
    while True:
        pass


def wait_for_stop(link: Link) -> None:
    """Work in steps until nobody waits, once a message."""
    for _ in link:
        try:
            while True:
                time.sleep(0.01)
                link.step("wait", 0, 1)
        except StoppedError:
            link.send({"outcome": "stopped"})


def label_and_hang(link: Link, query: Path, target: Path, *more: Any) -> None:
    """Begin to write beside the target, and hang."""
    tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    link.send({"progress": ["inspect", 0, 1]})
    ctypes.PyDLL(None).sleep(1000)


class HangingChild(Child):
    """A child that labels, and hangs."""

    def __init__(self, work: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(label_and_hang, *arguments, **more)
