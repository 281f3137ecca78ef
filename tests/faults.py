"""What child processes of tests run: the service's work with something wrong in it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from scbignn_infer.errors import BundleError, OutputError
from scbignn_infer.files import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer.child import Link


def serve(folder: Path, link: Link, *arguments: Any) -> None:
    """Serve, with the fault that a file in ``folder`` names, where the child tells of its work."""
    from scbignn_infer import files
    from scbignn_infer.pipeline import Annotator
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

    def open_arrow(path: Path) -> Any:
        if (folder / "fault").read_text() == "package":
            sys.modules["pyarrow"] = None  # type: ignore[assignment]
        return plain_arrow(path)

    Annotator.annotate_query = label  # type: ignore[method-assign]
    files.label_file = label_file
    bodies.OPENERS[bodies.ARROW] = open_arrow
    work.serve(link, *arguments)


class FatalSettings(Settings):
    """Settings whose annotator ends the process, as the system does where memory runs out."""

    def annotator(self, bundle: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
