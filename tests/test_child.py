"""Child processes: what they may take, how they end, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scbignn_infer import apart, child, label_file
from scbignn_infer.child import Bounds, Child, LostError
from scbignn_infer.errors import GeneError, InputError, MissingExtraError, ScBiGNNError
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from types import ModuleType

posix = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="counted or told by Linux")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give the module of what children run, which they can import, too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import faults

    return faults


def lives(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_messages_go_and_come(faults: ModuleType, tmp_path: Path) -> None:
    with closing(Child(faults.echo)) as found:
        for message in (1, {"a": [1.5, None, "é"]}, "x" * 100_000):
            found.send(message)
            assert found.receive(60) == {"back": message}
        found.send(tmp_path)  # any object goes there, and none comes back
        with pytest.raises(LostError, match="exit code 1"):
            found.receive(60)


def test_nobody_answers_in_time(faults: ModuleType) -> None:
    with closing(Child(faults.echo)) as found:
        assert found.receive(0.01) is None


def test_what_is_not_wanted_any_more_ends_at_its_next_step(faults: ModuleType) -> None:
    with closing(Child(faults.wait_for_stop)) as found:
        for message in (1, 2):  # the second is not stopped by what was for the first
            found.send(message)
            assert found.receive(0.5) is None
            found.stop()
            assert found.receive(60) == {"outcome": "stopped"}


@linux
def test_whatever_it_does_it_is_ended_and_nothing_is_left(
    until: Any, faults: ModuleType, tmp_path: Path
) -> None:
    """The interpreter's lock is held, as HDF5 holds it: no signal handler and no thread runs."""
    found = Child(faults.hang, tmp_path)
    other = (found.receive(60) or {})["other"]
    assert len(list(tmp_path.iterdir())) == 4
    found.kill()
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert not Path(f"/proc/{found.pid}").exists()  # no zombie either
    until(lambda: not lives(other))
    found.kill()


def test_who_waits_for_it_hears_of_its_end(faults: ModuleType) -> None:
    found = Child(faults.echo)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(found.receive)
        found.kill()
        for _ in range(2):
            with pytest.raises(LostError):
                waiting.result(timeout=30)
            with pytest.raises(LostError):
                found.receive()


@linux
def test_it_ends_with_its_parent(until: Any, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import faults\n"
        "from scbignn_infer.child import Child\n"
        f"found = Child(faults.hang, Path({str(tmp_path)!r}))\n"
        "found.receive(60)\n"
        "print(found.pid, flush=True)\n"
        "found.receive(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert lives(pid)
        parent.kill()
    until(lambda: not lives(pid))


@posix
def test_it_has_limits_and_few_variables(
    faults: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("SCBIGNN_MODEL_PATH", "/models")
    bounds = Bounds(cpu_seconds=100, file_bytes=12_345_678, open_files=99)
    found = Child(faults.look, bounds=bounds)
    said = found.receive(60) or {}
    found.close()
    limits = said["limits"]
    assert (limits["CORE"], limits["NOFILE"], limits["FSIZE"]) == (0, 99, 12_345_678)
    assert 100 < limits["CPU"] < 130
    assert said["environment"]["SCBIGNN_MODEL_PATH"] == "/models"
    assert "hidden" not in said["environment"].values()
    assert said["group"] == found.pid  # Ctrl-C in the terminal is not for it


@posix
def test_processor_time_has_an_end(faults: ModuleType) -> None:
    with pytest.raises(LostError, match="SIGXCPU: it took more processor time"):
        Child(faults.turn, bounds=Bounds(cpu_seconds=0.1)).receive(60)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "it ended with exit code 7"),
        ("raise", "it ended with exit code 1"),
        ("pickle", "its answer could not be read"),
        ("list", "its answer could not be read"),
        ("long", "its answer could not be read"),
        pytest.param("abort", "SIGABRT: a library crashed", marks=posix),
    ],
)
def test_how_it_was_lost_is_said(
    faults: ModuleType, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    monkeypatch.setattr(child, "MOST_BYTES", 1000)
    with pytest.raises(LostError, match=said):
        Child(faults.end, how).receive(60)


def test_errors_keep_their_kind(faults: ModuleType) -> None:
    with pytest.raises(GeneError, match="no genes; expected some; find them"):
        Child(faults.refuse, "genes").receive(60)
    with pytest.raises(MissingExtraError, match=r"pip install .pyarrow"):
        Child(faults.refuse, "extra").receive(60)
    parts = {"found": "a", "expected": "b", "do": "c"}
    for kind in ("os", "Any", "Exception", "nothing"):  # a child may say what it likes
        assert type(child.error_of({"kind": kind, **parts})) is ScBiGNNError


@linux
def test_memory_has_an_end(faults: ModuleType) -> None:
    with pytest.raises(MemoryError):
        Child(faults.refuse, "memory").receive(60)


class TestTimeLimit:
    """``annotate --time-limit``."""

    def test_the_outcome_is_that_of_the_command(self, example: Path, tmp_path: Path) -> None:
        settings = Settings(model="human-pbmc", threads=1)
        steps: list[str] = []
        with apart.JobApart(
            example,
            tmp_path / "apart.h5ad",
            settings,
            seconds=600,
            progress=lambda stage, done, total: steps.append(stage),
        ) as job:
            assert (job.n_cells, steps) == (700, [])
            assert job.expected.memory > 0
            summary = job.run()
        plain = label_file.label_file(example, tmp_path / "here.h5ad", settings)
        assert (tmp_path / "apart.h5ad").read_bytes() == (tmp_path / "here.h5ad").read_bytes()
        assert {"gene level", "write"} < set(steps)
        for key in set(plain) - {"seconds", "stages", "started", "finished", "output"}:
            assert summary[key] == plain[key], key

    @pytest.mark.parametrize("seconds", ["nan", "inf", "1e308", "0", "-1"])
    def test_what_is_no_time_is_refused(
        self, run: Any, example: Path, tmp_path: Path, seconds: str
    ) -> None:
        start = ["annotate", example, "-m", "human-pbmc", "-o", tmp_path / "o.csv"]
        assert "Invalid value" in run(*start, "--time-limit", seconds, code=2).stderr
        assert "Invalid value" in run("serve", "--timeout", seconds, code=2).stderr
        assert not list(tmp_path.iterdir())

    def test_a_hang_ends_in_one_line_and_leaves_nothing(
        self,
        run: Any,
        faults: ModuleType,
        example: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(apart, "Child", faults.HangingChild)
        command = ["annotate", example, "-o", tmp_path / "o.h5ad", "--time-limit", 3]
        (line,) = run(*command, code=1).stderr.splitlines()
        assert line.startswith(f"error: {example} was not labelled within 3 seconds; expected")
        assert not list(tmp_path.iterdir())

    def test_errors_are_those_of_the_command(self, example: Path, tmp_path: Path) -> None:
        broken = tmp_path / "broken.h5ad"
        broken.write_bytes(example.read_bytes()[:50_000])
        said = []
        start = broken, tmp_path / "o.csv", Settings(model="human-pbmc")
        for job in (label_file.Job(*start), apart.JobApart(*start, seconds=600)):
            with pytest.raises(InputError) as error, job:
                pytest.fail("it was opened")
            said.append(str(error.value))
        assert said[0] == said[1]

    @linux
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_and_leaves_nothing(
        self, start: Any, until: Any, example: Path, tmp_path: Path, number: int
    ) -> None:
        first = f"""
            import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
            import faults
            from scbignn_infer import apart
            apart.Child = faults.HangingChild
        """
        command = ["annotate", example, "-o", tmp_path / "o.h5ad", "--time-limit", 600]
        process = start(*command, first=first)
        until(lambda: list(tmp_path.iterdir()))
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert "Traceback" not in err
        assert not list(tmp_path.iterdir())
