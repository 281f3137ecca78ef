"""onnxruntime sessions: devices, threads, options. The only importer of onnxruntime."""

from __future__ import annotations

import ctypes
import io
import os
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scbignn_infer._types import Array
from scbignn_infer.errors import DeviceError, is_want_of_memory, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

Device = str
"""``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
Run = Callable[..., tuple[Array, ...]]
"""Takes inputs by name and gives the outputs in the graph's order."""

MakeSession = Callable[[str, bytes], Any]
"""Takes a graph's file name and bytes and gives an ``onnxruntime.InferenceSession``."""
_creating = threading.Lock()
"""Held while a session is created: onnxruntime's first one sets up what all share."""
_searching = threading.Lock()
"""Held while the one session of a runtime's searches is looked up or created."""

PACKAGES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Runtime:
    """Where and how sessions run."""

    provider: Literal["cpu", "cuda"]
    device_id: int
    """Index of the GPU; 0 on the CPU."""
    threads: int
    note: str = ""
    """Why a GPU that is there is not used."""

    @property
    def workers(self) -> int:
        """Blocks that are worked on at once: one a CPU thread, but one for a GPU."""
        return self.threads if self.provider == "cpu" else 1


def available_threads() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cuda_driver_loads() -> bool:
    """Tell whether an NVIDIA driver with at least one device answers."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


def installed_packages() -> dict[str, str]:
    """Map each installed onnxruntime distribution to its version."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def import_onnxruntime() -> Any:
    """Import onnxruntime, or say how to repair it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported ({error})",
            expected="one of onnxruntime-gpu (Linux x86_64, Windows) or onnxruntime",
            do="run: pip install onnxruntime-gpu",
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):
        raise DeviceError(
            "onnxruntime is an empty package",
            expected="one of onnxruntime and onnxruntime-gpu, never both",
            do=REPAIR,
        )
    return onnxruntime


REPAIR = (
    "run: pip uninstall -y onnxruntime onnxruntime-gpu && "
    "pip install --no-cache-dir --force-reinstall --no-deps onnxruntime-gpu"
)


def choose_runtime(device: Device = "auto", threads: int | None = None) -> Runtime:
    """Turn the user's wish into a runtime; by default it has all threads that the process may use.

    ``auto`` takes a GPU where onnxruntime and the driver have one that runs, else the CPU; ``cuda``
    or ``cuda:N`` asks for it, and a DeviceError says if onnxruntime was built without it.
    """
    threads = threads or available_threads()
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdigit())):
        raise DeviceError(
            f"device '{device}'", expected="auto, cpu, cuda or cuda:N", do="choose one of these"
        )
    if kind == "cpu":
        return Runtime("cpu", 0, threads)
    built = "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
    if kind == "cuda" and not built:
        raise DeviceError(
            "this onnxruntime was built without CUDA",
            expected="the package onnxruntime-gpu",
            do="see: scbignn-infer doctor",
        )
    if kind == "cuda":
        return Runtime("cuda", int(index or 0), threads)
    if not (built and cuda_driver_loads()):
        return Runtime("cpu", 0, threads)
    return _try_cuda(threads)


@cache
def _try_cuda(threads: int) -> Runtime:
    """Return the first GPU if it runs the smallest graph, else the CPU and why."""
    gpu = Runtime("cuda", 0, threads)
    try:
        search_session(gpu)
    except DeviceError:
        note = (
            "a GPU is there and CUDA does not load, so the CPU was used; run: pip install "
            "'onnxruntime-gpu[cuda,cudnn]', or see: scbignn-infer doctor"
        )
        return Runtime("cpu", 0, threads, note)
    return gpu


class Session:
    """An ONNX graph ready to run on named arrays; ``make`` gives the session, or it is made here.

    A DeviceError says that onnxruntime cannot load the graph, or fell back from CUDA to the CPU.
    """

    def __init__(
        self, graph: bytes, runtime: Runtime, name: str = "", make: MakeSession | None = None
    ) -> None:
        self._name = name
        with _creating:
            self._ort = import_onnxruntime()
            self._session = make(name, graph) if make else self._open(graph, runtime)
        self._runtime = runtime
        self.providers: list[str] = self._session.get_providers()
        self.inputs: list[str] = [i.name for i in self._session.get_inputs()]
        self.outputs: list[str] = [o.name for o in self._session.get_outputs()]

    def _open(self, graph: bytes, runtime: Runtime) -> Any:
        ort = self._ort
        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        # Blocks side by side use the cores better than the threads of one operator, and a result
        # does not depend on their number.
        options.intra_op_num_threads = 1 if runtime.provider == "cpu" else runtime.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads that spin while they wait starve everything else on a shared machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        how: dict[str, Any] = {}
        if runtime.provider == "cpu":
            # There is nothing to fall back to: it would print to stdout and try again. Its sum of
            # two layers with their norm, in one, takes five times as long as one after the other.
            how = {"enable_fallback": 0, "disabled_optimizers": ["SkipLayerNormFusion"]}
        if runtime.provider == "cuda":
            if hasattr(ort, "preload_dlls"):
                with redirect_stdout(io.StringIO()):  # where it prints what it cannot load
                    ort.preload_dlls()  # CUDA and cuDNN as installed by pip
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": runtime.device_id}))
        try:
            session = ort.InferenceSession(graph, options, providers=providers, **how)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common root
            raise DeviceError(
                f"onnxruntime {ort.__version__} cannot load the graph "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})",
                expected="an ONNX graph of opset 18 or later that it supports",
                do="upgrade onnxruntime, then see: scbignn-infer doctor",
            ) from None
        given = session.get_providers()
        if runtime.provider == "cuda" and "CUDAExecutionProvider" not in given:
            raise DeviceError(
                f"CUDA was asked for and onnxruntime {ort.__version__} gave {given}",
                expected="a GPU with its driver, CUDA and cuDNN",
                do="run: pip install 'onnxruntime-gpu[cuda,cudnn]', or use --device cpu; "
                "see: scbignn-infer doctor",
            )
        return session

    def run(self, **arrays: Array) -> tuple[Array, ...]:
        """Run the graph; inputs by name, outputs in the graph's order. Threads may share it.

        A DeviceError says that onnxruntime cannot run it on these inputs, a MemoryError that there
        is no memory.
        """
        with self._one_line():
            return tuple(self._session.run(None, arrays))

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common root
            if is_want_of_memory(error):
                raise MemoryError(reason(error)) from None
            raise DeviceError(
                f"onnxruntime cannot run {self._name or 'a graph'} on these cells "
                f"({reason(error)})",
                expected="a model that takes any number of cells",
                do="check the model with: scbignn-infer models verify; get it again or rebuild it",
            ) from None

    def holding(self, **constants: Array) -> Run:
        """Return :meth:`run` with some inputs filled in; a GPU receives them only once."""
        if self._runtime.provider == "cpu":
            return partial(self.run, **constants)
        return self._bound(constants, self._runtime.provider, self._runtime.device_id)

    def _bound(self, constants: dict[str, Array], device: str, index: int) -> Run:
        values = {
            name: self._ort.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(array).reshape(array.shape), device, index
            )
            for name, array in constants.items()
        }

        def run(**arrays: Array) -> tuple[Array, ...]:
            binding = self._session.io_binding()
            for name, value in values.items():
                binding.bind_ortvalue_input(name, value)
            for name, array in arrays.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name in self.outputs:
                binding.bind_output(name, "cpu")
            with self._one_line():
                self._session.run_with_iobinding(binding)
                return tuple(binding.copy_outputs_to_cpu())

        return run


def search_session(runtime: Runtime) -> Session:
    """Return the session of ``knn.onnx``; a process opens one for each runtime that works."""
    with _searching:
        return _open_search(runtime)


@cache
def _open_search(runtime: Runtime) -> Session:
    return Session(files("scbignn_infer").joinpath("knn.onnx").read_bytes(), runtime)
