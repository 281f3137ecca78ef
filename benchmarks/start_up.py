"""Wall time of fresh processes: import, --help, and a whole annotation of pbmc3k.

Run: ``python benchmarks/start_up.py`` (needs ``SCBIGNN_DATA``). Medians of five runs after one
that is not counted; times depend on the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(os.environ.get("SCBIGNN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CLI = str(Path(sys.executable).with_name("scbignn-infer"))


def seconds(*command: str, runs: int = 5) -> float:
    """Return the median wall time of a command."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return round(statistics.median(times[1:]), 3)


def main() -> None:
    """Print a JSON object of medians."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "out.h5ad")
        query = str(DATA / "pbmc3k_seurat.h5ad")
        report = {
            "python -c pass": seconds(sys.executable, "-c", "pass"),
            "import scbignn_infer": seconds(sys.executable, "-c", "import scbignn_infer"),
            "scbignn-infer --help": seconds(CLI, "--help"),
            "annotate pbmc3k (2,638 cells)": seconds(
                CLI, "annotate", query, "-m", "human-pbmc", "-o", output, "--overwrite"
            ),
            "annotate pbmc3k, model chosen": seconds(
                CLI, "annotate", query, "-o", output, "--overwrite"
            ),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
