"""A child process with limits, which its parent can end whatever it is doing.

A library of C that loops for ever holds the interpreter's lock: no thread of the same process can
end it. A parent can. The two talk through pipes, so that nobody else can join in: no socket, no
address. The parent sends pickles, which the child may trust. The child sends JSON of a bounded
length, since a hostile file may have taken it over: nothing that it says is unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import queue
import shutil
import signal
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from scbignn_infer import errors
from scbignn_infer.errors import ScBiGNNError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scbignn_infer._types import Document

HEAD = struct.Struct(">I")
"""Before each message: its length."""
MOST_BYTES = 1 << 26
"""Longest message from a child."""
MOST_WAITING = 1000
"""Messages of a child that its parent has not taken yet; then the child waits."""
CLOSE_SECONDS = 5.0
"""For a child to end by itself."""
SLACK_BYTES = 500_000_000
"""What a process may reserve beside what it uses: stacks, and memory that it has freed."""
PR_SET_PDEATHSIG = 1
ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LANG", "LANGUAGE", "LC_", "TZ", "TMP", "TEMP", "XDG_CACHE_HOME"),
    *("PYTHON", "SCBIGNN_", "NUMBA_", "OMP_", "MKL_", "OPENBLAS_", "ORT_", "HDF5_", "MPL"),
    *("CUDA", "NVIDIA_", "LD_LIBRARY_PATH", "DYLD_", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "PATHEXT", "APPDATA", "LOCALAPPDATA", "USERPROFILE"),
)
"""Beginnings of the environment variables that a child gets: no passwords and no tokens."""


class LostError(ScBiGNNError):
    """A child process has ended before its work was done, and how."""

    def __init__(self, how: str) -> None:
        self.how = how
        super().__init__(
            f"the process that does the work was lost ({how})",
            expected="a file that its libraries can read, and enough memory",
            do="check the file, or give the process more memory",
        )


class StoppedError(Exception):
    """Ends work in a child whose result nobody waits for any more."""


@dataclass(frozen=True)
class Bounds:
    """What a child may take. A limit that the system does not have is left out."""

    cpu_seconds: float | None = None
    """Processor time of all threads, for each message that it works on."""
    file_bytes: int | None = None
    """Longest file that it may write."""
    open_files: int = 512
    """Files that may be open at once."""

    def apply(self) -> None:
        """Take on the limits, in the child."""
        _limit("RLIMIT_CORE", 0)
        _limit("RLIMIT_NOFILE", self.open_files)
        if self.file_bytes is not None:
            _limit("RLIMIT_FSIZE", self.file_bytes)

    def renew(self) -> None:
        """Grant the processor time of one more message."""
        if self.cpu_seconds is None:
            return
        with contextlib.suppress(ImportError, OSError, ValueError):
            import resource

            used = resource.getrusage(resource.RUSAGE_SELF)
            seconds = used.ru_utime + used.ru_stime + self.cpu_seconds
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, hard))


def _limit(name: str, most: int) -> None:
    """Lower a limit of this process, where the system has it."""
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(kind, (most, most))


def limit_memory(most: int) -> None:
    """Let this process hold so many bytes and no more; on Linux, which counts them.

    What libraries have reserved and do not use is not counted, nor the mapped files and address
    space of CUDA and numba, which a limit on addresses (``RLIMIT_AS``) would count.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return
    size = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in status.read_text(encoding="utf-8").splitlines()
        if line.startswith(("VmData", "RssAnon"))
    }
    reserved = max(0, size.get("VmData", 0) - size.get("RssAnon", 0))
    _limit("RLIMIT_DATA", most + reserved + SLACK_BYTES)


def as_document(error: ScBiGNNError) -> Document:
    """Return an error as JSON can hold it."""
    kind = type(error).__name__
    return {"kind": kind, "found": error.found, "expected": error.expected, "do": error.do}


def error_of(document: Document) -> ScBiGNNError:
    """Return the error that a child has met; its kind is one of the package's."""
    kind = getattr(errors, str(document["kind"]), ScBiGNNError)
    if not (isinstance(kind, type) and issubclass(kind, ScBiGNNError)):
        kind = ScBiGNNError
    error: ScBiGNNError = kind.__new__(kind)
    found, expected, do = (str(document[part]) for part in ("found", "expected", "do"))
    ScBiGNNError.__init__(error, found, expected=expected, do=do)
    return error


def _read(stream: IO[bytes], most: int) -> bytes | None:
    """Return the next message, or none at the end or where it is too long."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    (size,) = HEAD.unpack(head)
    if size > most:
        return None
    message = stream.read(size)
    return message if len(message) == size else None


class Child:
    """A process that works apart, as its parent sees it.

    The target, a function of a module, is called there with a :class:`Link` and the arguments,
    which are pickled. Its temporary files go where the parent's do, unless told otherwise.
    """

    def __init__(
        self,
        target: Callable[..., None],
        *arguments: Any,
        bounds: Bounds = Bounds(),
        temporary: Path | None = None,
    ) -> None:
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - "" is this folder
        code = f"import sys; sys.path[:] = {paths!r}; from scbignn_infer.child import run; run()"
        environment = {k: v for k, v in os.environ.items() if k.upper().startswith(ENVIRONMENT)}
        if temporary is not None:
            environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
        self._made: set[Path] = set()
        self._closed = threading.Event()
        self._came: queue.Queue[Document | None] = queue.Queue(MOST_WAITING)
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and this code
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=os.name != "nt",  # Ctrl-C is for the parent, and kill() for all
        )
        self._to, self._from = (
            cast("IO[bytes]", stream) for stream in (self._process.stdin, self._process.stdout)
        )
        self._reader = threading.Thread(target=self._take, daemon=True)
        self._reader.start()
        self.send((os.getpid(), target, arguments, bounds))

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def send(self, message: Any) -> None:
        """Send a message; a child that is gone is noticed where its answer is received."""
        self._made.clear()  # an earlier message's work is done
        self._write(pickle.dumps(message))

    def stop(self) -> None:
        """Tell the child that nobody waits for what it works on."""
        self._write(b"")

    def _write(self, message: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._to.write(HEAD.pack(len(message)) + message)
            self._to.flush()

    def _take(self) -> None:
        """Receive messages until there are no more, in a thread."""
        with contextlib.suppress(OSError, ValueError):
            while (message := _read(self._from, MOST_BYTES)) is not None:
                document = json.loads(message)
                if not isinstance(document, dict):
                    break
                if "temporary" in document:
                    self._made.add(Path(str(document["temporary"])))
                else:
                    self._put(document)
        self._put(None)

    def _put(self, document: Document | None) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._came.put(document, timeout=0.1)
                return

    def receive(self, seconds: float | None = None) -> Document | None:
        """Return the next message of the child, or none after so many seconds.

        A LostError says that it has ended, or said what it must not say. Another ScBiGNNError, or a
        MemoryError, is one that it has met, and ended.
        """
        try:
            document = self._came.get(timeout=seconds)
        except queue.Empty:
            return None
        if document is None:
            error = self._lost()
            self._came.put(None)  # for whoever asks again
            raise error
        if "ends" in document:
            self.kill()
            if document["ends"] == "memory":
                raise MemoryError
            raise error_of(document["ends"])
        return document

    def _lost(self) -> LostError:
        """End the child, and say how it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)  # its pipe is closed a moment before it has ended
        code = self._process.poll()
        self.kill()
        return LostError("its answer could not be read" if code is None else _how(code))

    def kill(self) -> None:
        """End the child and its own children at once; what they had begun to write is removed."""
        if self._closed.is_set():
            return  # the number may be another process's by now
        self._closed.set()
        with contextlib.suppress(OSError):
            if os.name == "nt":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._tidy()
        with contextlib.suppress(queue.Empty):
            while True:
                self._came.get_nowait()
        self._came.put(None)  # for a thread that waits for an answer

    def close(self) -> None:
        """Let the child end by itself; end it if it does not."""
        with contextlib.suppress(OSError, ValueError):
            self._to.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=CLOSE_SECONDS)
        self.kill()

    def _tidy(self) -> None:
        """Close the pipes, and remove the temporary files that are left."""
        self._reader.join(timeout=CLOSE_SECONDS)
        for stream in (self._to, self._from):
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        for path in self._made:
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _how(code: int) -> str:
    """Say how a process has ended."""
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = {
        "SIGKILL": "it was killed, perhaps since the memory ran out",
        "SIGXCPU": "it took more processor time than it may",
        "SIGXFSZ": "it wrote more than it may",
        "SIGTERM": "it was ended from outside",
    }
    return f"{name}: {why.get(name, 'a library crashed')}"


class Link:
    """The way to the parent, as the child sees it. Iterate over it for what is to be done."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source, self._sink = source, sink
        self._writing = threading.Lock()
        self._stopped = threading.Event()
        self._came: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.bounds = Bounds()

    def listen(self) -> None:
        """Receive messages in a thread; a parent that is gone is one that waits for nothing."""
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while (message := _read(self._source, sys.maxsize)) is not None:
            if message:
                self._came.put(message)
            else:
                self._stopped.set()
        self._stopped.set()
        self._came.put(None)

    def __iter__(self) -> Iterator[Any]:
        """Yield what the parent sends, to its end."""
        for message in iter(self._came.get, None):
            self._stopped.clear()
            self.bounds.renew()
            yield pickle.loads(message)  # noqa: S301 - of the parent

    def send(self, document: Document) -> None:
        """Send a message to the parent."""
        message = json.dumps(document).encode()
        with self._writing:
            self._sink.write(HEAD.pack(len(message)) + message)
            self._sink.flush()

    def step(self, stage: str, done: int, total: int) -> None:
        """End the work if nobody waits for it; called as it proceeds."""
        if self._stopped.is_set():
            raise StoppedError

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Tell the parent of a temporary file before it is made, so that it can remove it."""
        if event in ("tempfile.mkstemp", "tempfile.mkdtemp") or (
            event == "open" and _is_draft(*arguments)
        ):
            self.send({"temporary": os.path.abspath(os.fsdecode(arguments[0]))})  # noqa: PTH100


def _is_draft(path: Any, mode: Any, flags: Any) -> bool:
    """Tell whether a file that is opened is one beside an output, new and named ``.NAME.*.tmp``."""
    if not isinstance(flags, int) or not flags & os.O_EXCL or not isinstance(path, str | bytes):
        return False
    name = os.path.basename(os.fsdecode(path))  # noqa: PTH119
    return name.startswith(".") and name.endswith(".tmp")


def run() -> None:
    """Be the child: take what the parent sends first, and run it."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # whatever a library prints is no message
    first = _read(source, sys.maxsize)
    if first is None:
        return
    link = Link(source, sink)
    try:
        parent, target, arguments, link.bounds = pickle.loads(first)  # noqa: S301 - of the parent
        _end_with(parent)
        link.bounds.apply()
        link.listen()
        sys.addaudithook(link.note)
        link.bounds.renew()
        target(link, *arguments)
    except ScBiGNNError as error:
        link.send({"ends": as_document(error)})
    except MemoryError:
        link.send({"ends": "memory"})
    except (BrokenPipeError, StoppedError):
        pass  # nobody waits


def _end_with(parent: int) -> None:
    """Let this process be killed when its parent ends, where the system can do that."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        raise StoppedError
