from __future__ import annotations

import types

import h5py
import numpy as np
import pytest

from scbignn_infer import doctor
from scbignn_infer.errors import DeviceError
from scbignn_infer.model import registry
from scbignn_infer.network import sessions


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.setattr(doctor, "cuda_driver_loads", lambda: False)


def test_this_installation_is_whole():
    report = doctor.examine()
    assert report.problems == []
    assert report.versions["numpy"] == np.__version__
    assert report.providers["cpu"] == "loads"
    assert set(report.models) >= {"human-pbmc", "human-pancreas"}
    assert "CPUExecutionProvider" in report.providers_listed


def test_both_onnxruntime_packages_are_a_problem_with_its_repair(monkeypatch):
    both = {"onnxruntime": "1.30", "onnxruntime-gpu": "1.31"}
    monkeypatch.setattr(doctor, "installed_packages", lambda: both)
    report = doctor.examine()
    (problem,) = report.problems
    assert sessions.REPAIR in problem
    assert both.items() <= report.versions.items()


def test_an_emptied_onnxruntime_is_a_problem_with_its_repair(monkeypatch):
    monkeypatch.setitem(sessions.sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    report = doctor.examine()
    assert report.providers == {}
    assert any(sessions.REPAIR in problem for problem in report.problems)


def test_no_onnxruntime_is_a_problem(monkeypatch):
    monkeypatch.setitem(sessions.sys.modules, "onnxruntime", None)
    assert any("cannot be imported" in problem for problem in doctor.examine().problems)


def test_a_gpu_is_not_tried_without_a_driver_or_a_build(monkeypatch):
    assert doctor.examine().providers["cuda"] in (
        "no NVIDIA driver with a device",
        "not built into this onnxruntime",
    )
    fake = types.SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(doctor, "import_onnxruntime", lambda: fake)
    report = doctor.examine()
    assert report.providers["cuda"] == "not built into this onnxruntime"
    assert report.problems == []


def test_a_gpu_that_does_not_load_is_a_problem(monkeypatch):
    class Broken(sessions.Session):
        def __init__(self, graph, runtime):
            if runtime.provider == "cuda":
                raise DeviceError("no cuDNN", expected="cuDNN", do="install it")
            super().__init__(graph, runtime)

    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    fake = types.SimpleNamespace(get_available_providers=lambda: listed)
    monkeypatch.setattr(doctor, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(doctor, "cuda_driver_loads", lambda: True)
    monkeypatch.setattr(sessions, "Session", Broken)
    report = doctor.examine()
    assert report.providers["cpu"] == "loads"
    assert report.providers["cuda"].startswith("fails (no cuDNN")
    assert report.problems == ["cuda: no cuDNN; expected cuDNN; install it"]


def test_a_provider_that_computes_nonsense_is_a_problem(monkeypatch):
    monkeypatch.setattr(
        sessions.Session,
        "run",
        lambda self, **arrays: np.zeros((2, 3, 1), np.int64),
    )
    report = doctor.examine()
    assert report.providers["cpu"] == "computes wrong results"
    assert report.problems


def test_a_missing_dependency_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "RUNTIME", ("numpy", "absent-package"))
    report = doctor.examine()
    assert report.versions["absent-package"] is None
    assert report.problems == ["absent-package is not installed; run: pip install absent-package"]


def test_a_missing_training_extra_is_no_problem(monkeypatch):
    monkeypatch.setattr(doctor, "TRAINING", ("absent-package",))
    report = doctor.examine()
    assert report.training == {"absent-package": None}
    assert report.problems == []


def test_a_damaged_model_is_a_problem(toy, monkeypatch):
    monkeypatch.setenv(registry.MODEL_PATH_VARIABLE, str(toy.parent))
    (toy / "reference.npz").write_bytes(b"")
    report = doctor.examine()
    assert report.models["toy"].startswith("fails (")
    (problem,) = report.problems
    assert "reference.npz was altered" in problem


def test_no_model_at_all_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "list_models", dict)
    (problem,) = doctor.examine().problems
    assert "no model in" in problem


def test_a_model_that_does_not_run_is_a_problem(toy, change, monkeypatch):
    monkeypatch.setenv(registry.MODEL_PATH_VARIABLE, str(toy.parent))
    assert doctor.examine().models["toy"] == "1.2.3"
    change(tables=lambda t: t.update(codes=t["codes"] + 9) if "codes" in t else None)
    report = doctor.examine()
    assert "codes up to 10" in report.models["toy"]
    assert any("reference.npz: codes up to 10" in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("onnxruntime-gpu", "1.27.9", "1.28.0"),
        ("onnxruntime", "1.9", "1.100"),
        ("onnx", "1.20.1", "1.21.0"),
        ("numcodecs", "0.16.5", "0.16.6+local.1"),
    ],
)
def test_a_known_bad_version_is_a_problem_with_its_repair(name, bad, good, monkeypatch):
    real = doctor._version
    versions = {name: bad}
    monkeypatch.setattr(doctor, "_version", lambda asked: versions.get(asked, real(asked)))
    (problem,) = doctor.examine().problems
    first, _ = doctor.KNOWN_BAD[name]
    assert problem.startswith(f"{name} {bad} has a known fault (")
    assert problem.endswith(f"mended in {first}; run: pip install --upgrade '{name}>={first}'")
    versions[name] = good
    assert doctor.examine().problems == []


def test_an_old_hdf5_library_is_a_problem(monkeypatch):
    monkeypatch.setattr(h5py.version, "hdf5_version", "1.14.3")
    report = doctor.examine()
    assert report.versions["hdf5"] == "1.14.3"
    (problem,) = report.problems
    assert "HDF5 library 1.14.3" in problem
    assert problem.endswith("run: pip install --upgrade 'h5py'")
