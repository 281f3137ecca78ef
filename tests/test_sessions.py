"""Devices and providers, with fakes where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scbignn_infer.errors import DeviceError
from scbignn_infer.network import sessions
from scbignn_infer.network.sessions import Runtime, Session, choose_runtime

if TYPE_CHECKING:
    from pathlib import Path

CPU = Runtime("cpu", 0, 1)


@pytest.fixture(scope="module")
def graph() -> bytes:
    return files("scbignn_infer").joinpath("knn.onnx").read_bytes()


class FakeOrt(types.ModuleType):
    """An onnxruntime that lists and gives the providers it is told to."""

    def __init__(self, listed: list[str], given: list[str]) -> None:
        super().__init__("onnxruntime")
        self.__version__ = "9.9"
        self.asked: list[Any] = []
        self.options: Any = None
        self.preloaded = False
        fake = self

        class SessionOptions:
            def __init__(self) -> None:
                self.entries: dict[str, str] = {}

            def add_session_config_entry(self, key: str, value: str) -> None:
                self.entries[key] = value

        class InferenceSession:
            def __init__(
                self, graph: bytes, options: Any, providers: list[Any], **more: Any
            ) -> None:
                fake.asked, fake.options = providers, options

            def get_providers(self) -> list[str]:
                return given

            def get_inputs(self) -> list[Any]:
                return []

            get_outputs = get_inputs

        self.SessionOptions, self.InferenceSession = SessionOptions, InferenceSession
        self.get_available_providers = lambda: listed
        self.set_default_logger_severity = lambda level: None

    def preload_dlls(self) -> None:
        self.preloaded = True


CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def fake(monkeypatch: pytest.MonkeyPatch, listed: list[str], given: list[str]) -> FakeOrt:
    module = FakeOrt(listed, given)
    open_anew = sessions._open_search.__wrapped__
    monkeypatch.setattr(sessions, "_open_search", open_anew)  # a fake one is not kept
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module


def test_auto_takes_a_gpu_only_where_the_driver_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, CUDA, CUDA)
    monkeypatch.setattr(sessions, "cuda_driver_loads", lambda: False)
    assert choose_runtime("auto", 1).provider == "cpu"
    monkeypatch.setattr(sessions, "cuda_driver_loads", lambda: True)
    assert choose_runtime("auto", 1).provider == "cuda"


def test_cuda_index_reaches_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = fake(monkeypatch, CUDA, CUDA)
    Session(b"", choose_runtime("cuda:2", 3))
    assert ort.asked == [("CUDAExecutionProvider", {"device_id": 2}), "CPUExecutionProvider"]
    assert ort.preloaded
    assert ort.options.intra_op_num_threads == 3
    assert ort.options.entries["session.intra_op.allow_spinning"] == "0"


def test_silent_fall_back_from_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, CUDA, ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=r"CUDA was asked for and onnxruntime 9\.9 gave"):
        Session(b"", choose_runtime("cuda"))


def test_cuda_without_cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, ["CPUExecutionProvider"], [])
    with pytest.raises(DeviceError, match="built without CUDA"):
        choose_runtime("cuda")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "auto:0", ""])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="auto, cpu, cuda or cuda:N"):
        choose_runtime(device)


def test_threads_default_to_what_the_process_may_use() -> None:
    expected = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert choose_runtime("cpu").threads == expected
    assert choose_runtime("cpu", 5).threads == 5


def test_emptied_onnxruntime_names_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(DeviceError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        sessions.import_onnxruntime()


def test_missing_onnxruntime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match="pip install onnxruntime-gpu"):
        sessions.import_onnxruntime()


def test_broken_graph_is_one_line() -> None:
    with pytest.raises(DeviceError) as caught:
        Session(b"no graph", CPU)
    assert "\n" not in str(caught.value)


def test_run_takes_inputs_by_name(graph: bytes) -> None:
    session = Session(graph, CPU)
    assert session.inputs == ["queries", "bank", "k", "groups"]
    eye, one = np.eye(4, 32, dtype=np.float32), np.array([1])
    values, indices = session.run(bank=eye, k=one, groups=one, queries=np.eye(4)[::-1].astype("f4"))
    np.testing.assert_array_equal(indices[:, 0], [3, 2, 1, 0])
    np.testing.assert_array_equal(values, np.ones((4, 1)))


def test_constants_are_given_once_and_the_results_are_the_same(graph: bytes) -> None:
    session = Session(graph, CPU)
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((8, 64), np.float32)
    constants = {"bank": bank, "k": np.array([3]), "groups": np.array([2])}
    held, bound = session.holding(**constants), session._bound(constants, "cpu", 0)
    for _ in range(3):
        queries = rng.standard_normal((5, 8), np.float32)
        expected = session.run(queries=queries, **constants)
        for run in (held, bound):
            for found, true in zip(run(queries=queries), expected, strict=True):
                np.testing.assert_array_equal(found, true)


def test_a_gpu_receives_constants_once(monkeypatch: pytest.MonkeyPatch, graph: bytes) -> None:
    session = Session(graph, CPU)
    session._runtime = Runtime("cuda", 2, 1)
    real, sent = session._ort.OrtValue, []

    class OrtValue:
        @staticmethod
        def ortvalue_from_numpy(array: np.ndarray, device: str, index: int) -> Any:
            sent.append((device, index))
            return real.ortvalue_from_numpy(array, "cpu", 0)

    session._ort = types.SimpleNamespace(OrtValue=OrtValue)
    bank = np.eye(4, 32, dtype=np.float32)
    run = session.holding(bank=bank, k=np.array([1]), groups=np.array([1]))
    for _ in range(4):
        run(queries=np.eye(4, dtype=np.float32))
    assert sent == [("cuda", 2)] * 3


def test_nothing_is_reported_to_anyone(tmp_path: Path) -> None:
    """onnxruntime's own telemetry would leave a session file in the temporary folder."""
    program = (
        "import numpy as np\n"
        "from scbignn_infer import Annotator\n"
        "a = Annotator.load('human-pbmc', device='cpu', threads=1)\n"
        "a.annotate_matrix(np.ones((5, 300)), a.bundle.gene_symbols[:300])"
    )
    clean = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", program], check=True, env=clean | {"TMPDIR": str(tmp_path)}
    )
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_does_not_run_is_done_without_where_none_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver is there and the libraries of CUDA are not, as with the plain package."""
    ort = sessions.import_onnxruntime()
    monkeypatch.setattr(sessions, "cuda_driver_loads", lambda: True)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    sessions._try_cuda.cache_clear()
    found = choose_runtime("auto", 2)
    assert (found.provider, found.threads) == ("cpu", 2)
    assert "onnxruntime-gpu[cuda,cudnn]" in found.note
    assert choose_runtime("cuda", 2).provider == "cuda"
    assert choose_runtime("cpu", 2).note == ""
    assert capsys.readouterr().out == ""
    sessions._try_cuda.cache_clear()


def test_a_graph_that_cannot_be_loaded_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime's own second try would print to stdout, into what --json writes."""
    import onnxruntime

    def refuse(self: Any, *arguments: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", refuse)
    with pytest.raises(DeviceError, match="out of memory"):
        Session(b"", Runtime("cpu", 0, 1))
    assert capsys.readouterr().out == ""


def test_a_graph_that_does_not_fit_its_inputs_is_one_line(graph: bytes) -> None:
    session = Session(graph, CPU, "knn.onnx")
    arrays = {"queries": np.ones((2, 3), np.float32), "bank": np.ones((4, 32), np.float32)}
    one = np.array([1], np.int64)
    with pytest.raises(DeviceError, match=r"cannot run knn\.onnx on these cells \(.+\)") as caught:
        session.run(**arrays, k=one, groups=one)
    assert "\n" not in str(caught.value)


def test_a_graph_that_gets_no_memory_says_so(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def no_memory(self: Any, *_: Any) -> None:
        raise RuntimeError("bad allocation: Failed to allocate memory for requested buffer")

    session = Session(graph, CPU)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", no_memory)
    with pytest.raises(MemoryError, match="Failed to allocate memory"):
        session.run()


def test_a_process_opens_one_session_to_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of threads ask first; another runtime has its own."""
    opened: list[int] = []

    class Counted(Session):
        def __init__(self, graph: bytes, runtime: Runtime) -> None:
            opened.append(runtime.threads)
            super().__init__(graph, runtime)

    monkeypatch.setattr(sessions, "Session", Counted)
    once, other = Runtime("cpu", 0, 61), Runtime("cpu", 0, 62)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(sessions.search_session, [once] * 16))
    assert found == {sessions.search_session(once)}
    assert sessions.search_session(other) not in found
    assert opened == [61, 62]
