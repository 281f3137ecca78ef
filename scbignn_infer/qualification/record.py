"""The record of a qualification: what ran where, what came of it, and a checksum of all that."""

from __future__ import annotations

import csv
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
    text = installed.read_text("RECORD") or ""  # Python's own list leaves out missing files
    sums = {row[0]: row[1] for row in csv.reader(text.splitlines()) if len(row) == 3 and row[1]}
    sums = {name: value for name, value in sorted(sums.items()) if ".dist-info/" not in name}
    if not any(name.startswith("scbignn_infer/") for name in sums):
        return {"note": "installed in editable mode: files were not compared"}
    altered = [
        name
        for name, value in sums.items()
        if _digest(Path(str(installed.locate_file(name)))) != value
    ]
    return {"compared": len(sums), "altered": altered}


def _digest(path: Path) -> str:
    """Return the checksum of a file as a wheel has it; nothing for a missing file."""
    if not path.is_file():
        return ""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return f"sha256={urlsafe_b64encode(digest).rstrip(b'=').decode()}"
