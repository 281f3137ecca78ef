"""What is installed, what really loads, and how to repair it."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer import __version__
from scbignn_infer.errors import BundleError, DeviceError
from scbignn_infer.model.registry import list_models, load_model, model_folders
from scbignn_infer.network.exact import ExactSearch
from scbignn_infer.network.sessions import (
    PACKAGES,
    REPAIR,
    Runtime,
    Session,
    cuda_driver_loads,
    import_onnxruntime,
    installed_packages,
)
from scbignn_infer.network.trial import try_out
from scbignn_infer.query.containment import hdf5_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer.model.bundle import ModelBundle

RUNTIME = ("numpy", "scipy", "anndata", "h5py", "pynndescent")
HDF5 = "the HDF5 library"
CRAFTED = "a crafted model can make it read or write memory that is not its own"
KNOWN_BAD = {
    "onnxruntime": ("1.28", CRAFTED),
    "onnxruntime-gpu": ("1.28", CRAFTED),
    "onnx": ("1.21", "CVE-2026-27489, 28500, 34445, 34446 and 34447: a model file can read others"),
    "numcodecs": ("0.16.6", "a Zarr store can run a program while it is read"),
    HDF5: ("1.14.4", "CVE-2026-26200: a crafted file can overwrite memory"),
}
"""Packages with a known fault that can hurt: the first version without it, and the fault."""
TRAINING = ("torch", "torch-geometric", "onnx", "onnxscript", "scikit-learn")


@dataclass
class Findings:
    """The state of an installation."""

    versions: dict[str, str | None]
    """Python, this package, its dependencies and each onnxruntime package found."""
    training: dict[str, str | None]
    """Version of each package of the extra ``training``, or ``None``."""
    providers_listed: list[str] = field(default_factory=list)
    """Execution providers that onnxruntime was built with."""
    providers: dict[str, str] = field(default_factory=dict)
    """What came of loading a graph and running it: ``loads``, or why it does not."""
    models: dict[str, str] = field(default_factory=dict)
    """Version of each model found, or what is wrong with it."""
    problems: list[str] = field(default_factory=list)
    """What has to be repaired, each with the way to do it."""


def examine() -> Findings:
    """Look at the installation, load a graph on each device, and run every model."""
    packages = installed_packages()
    report = Findings(
        versions={
            "python": platform.python_version(),
            "scbignn-infer": __version__,
            **{name: _version(name) for name in RUNTIME},
            **({"hdf5": hdf5_version()} if hdf5_version() else {}),
            **packages,
        },
        training={name: _version(name) for name in TRAINING},
    )
    for name, found in report.versions.items():
        if found is None:
            report.problems.append(f"{name} is not installed; run: pip install {name}")
    report.problems += _known_bad()
    if len(packages) == len(PACKAGES):
        report.problems.append(f"{' and '.join(PACKAGES)} overwrite each other; {REPAIR}")
    _examine_providers(report)
    _examine_models(report)
    return report


def _known_bad() -> Iterator[str]:
    """Yield a problem for each package that is older than the mending of a known fault."""
    for name, (mended, fault) in KNOWN_BAD.items():
        found = hdf5_version() if name == HDF5 else _version(name)
        if found and _numbers(found) < _numbers(mended):
            package = "h5py" if name == HDF5 else name
            needed = "" if name == HDF5 else f">={mended}"
            yield (
                f"{name} {found} has a known fault ({fault}), mended in {mended}; "
                f"run: pip install --upgrade '{package}{needed}'"
            )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, which compare as versions do where none is a pre-release."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _examine_providers(report: Findings) -> None:
    try:
        report.providers_listed = import_onnxruntime().get_available_providers()
    except DeviceError as error:
        report.problems.append(str(error))
        return
    report.providers["cpu"] = _try(Runtime("cpu", 0, 1), report)
    if "CUDAExecutionProvider" not in report.providers_listed:
        report.providers["cuda"] = "not built into this onnxruntime"
    elif not cuda_driver_loads():
        report.providers["cuda"] = "no NVIDIA driver with a device"
    else:
        report.providers["cuda"] = _try(Runtime("cuda", 0, 1), report)


def _try(runtime: Runtime, report: Findings) -> str:
    """Run the package's exact search, by which each row of an identity must find itself."""
    rows = np.eye(3, dtype=np.float32)
    try:
        nearest, _ = ExactSearch(rows, runtime).nearest(rows, 1)
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is the finding
        report.problems.append(f"{runtime.provider}: {error}")
        return f"fails ({error})"
    if nearest.ravel().tolist() != [0, 1, 2]:
        report.problems.append(f"{runtime.provider}: a search gave wrong neighbours; {REPAIR}")
        return "computes wrong results"
    return "loads"


def _examine_models(report: Findings) -> None:
    models = list_models()
    if not models:
        folders = ", ".join(map(str, model_folders()))
        report.problems.append(f"no model in {folders}; install scbignn-infer again")
    for name, path in models.items():
        try:
            bundle = load_model(path)
            if report.providers.get("cpu") == "loads":
                try_out(bundle, partial(_open_on_cpu, bundle))
            report.models[name] = bundle.spec.version
        except BundleError as error:
            report.models[name] = f"fails ({error.found})"
            report.problems.append(str(error))


def _open_on_cpu(bundle: ModelBundle, file: str) -> Session:
    return Session(bundle.read(file), Runtime("cpu", 0, 1), file)
