"""The record of a qualification: what ran where, what came of it, and a checksum of all that."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from base64 import urlsafe_b64encode
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scbignn_infer import __version__
from scbignn_infer.doctor import examine
from scbignn_infer.model.registry import list_models
from scbignn_infer.network.sessions import available_threads
from scbignn_infer.qualification.cases import TOLERANCE, golden_cases, run_case

if TYPE_CHECKING:
    from importlib.metadata import Distribution

Record = dict[str, Any]
FORMAT = 1
NAME = "scbignn-infer"


def qualify(*, device: str, threads: int | None) -> Record:
    """Run every golden case on this machine and return the record."""
    outcomes = [
        run_case(model, path, device=device, threads=threads)
        for model, path in golden_cases().items()
    ]
    found, files = examine(), _own_files()
    passed = bool(outcomes) and all(outcome.passed for outcome in outcomes)
    passed = passed and not found.problems and not files.get("altered")
    return {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": passed,
        "package": {"name": NAME, "version": __version__, "files": files},
        "machine": _machine(),
        "asked": {"device": device, "threads": threads},
        "providers": found.providers,
        "problems": found.problems,
        "tolerance": TOLERANCE,
        "cases": [asdict(outcome) | {"passed": outcome.passed} for outcome in outcomes],
        "models_without_a_case": sorted(list_models().keys() - golden_cases().keys()),
        "packages": dict(sorted((d.name, d.version) for d in distributions())),
    }


def sealed(record: Record) -> dict[str, Any]:
    """Return the document of a record: itself, and the SHA-256 of its canonical form."""
    return {"record": record, "sha256": checksum(record)}


def checksum(record: Record) -> str:
    """Return the SHA-256 of a record: JSON with sorted keys, without spaces, in ASCII."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def stem(record: Record) -> str:
    """Return the name of a record's files, without their ending."""
    moment = datetime.fromisoformat(record["made"])
    return f"{NAME}-{record['package']['version']}-{moment:%Y%m%dT%H%M%SZ}"


def _machine() -> dict[str, Any]:
    """Return what identifies this machine and its software."""
    return {
        "name": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": available_threads(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def _own_files() -> dict[str, Any]:
    """Compare the installed files of this package with the checksums that its wheel had."""
    try:
        installed = distribution(NAME)
    except PackageNotFoundError:
        return {"note": "not installed as a package"}
    return compare_files(installed)


def compare_files(installed: Distribution) -> dict[str, Any]:
    """Return how many files of a package were compared, and which were altered or are missing."""
    files = {str(f): f for f in installed.files or () if ".dist-info" not in str(f)}
    if not any(name.startswith("scbignn_infer") for name in files):
        return {"note": "installed in editable mode: files were not compared"}
    altered, compared = [], 0
    for name, file in sorted(files.items()):
        if file.hash is None:  # what Python compiled
            continue
        compared += 1
        path = Path(file.locate())
        data = path.read_bytes() if path.is_file() else b""
        made = urlsafe_b64encode(hashlib.new(file.hash.mode, data).digest()).rstrip(b"=").decode()
        if made != file.hash.value or not path.is_file():
            altered.append(name)
    return {"compared": compared, "altered": altered}
