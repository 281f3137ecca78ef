"""What fresh processes and single calls take: import, --help, a first labelling, one cell a call.

Run: ``python benchmarks/start_up.py --out benchmarks/results/start_up.json [--against CHECKOUT]``
(needs ``SCBIGNN_DATA``). CPU seconds of whole processes; with ``--against``, another checkout of
this package takes turns with this one (A B A B), and the ratio of each pair is told.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SCBIGNN_DATA", ROOT.parent / "shared" / "data"))
MAIN = "import sys; from scbignn_infer.cli import main; main(sys.argv[1:])"
CALLS = """
import sys, time, anndata
from scbignn_infer import Annotator
cells = anndata.read_h5ad(sys.argv[1])
genes, counts = list(cells.var_names), cells.X.tocsr()
annotator = Annotator.load("human-pbmc", threads=1)
label = lambda row: annotator.annotate_matrix(row, genes)
if sys.argv[2] == "bound":
    label = annotator.bind(genes).annotate
label(counts[:1])
start = time.process_time()
for i in range(100):
    label(counts[i : i + 1])
print((time.process_time() - start) / 100)
"""


def seconds(*command: str, runs: int = 5) -> float:
    """Return the median wall time of a command, after one run that is not counted."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return round(statistics.median(times[1:]), 3)


def run(checkout: Path, *arguments: str) -> tuple[float, str]:
    """Return the CPU seconds of a Python process on a checkout, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        capture_output=True,
        env=environment,
        cwd=tempfile.gettempdir(),  # where no package lies that would be imported first
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, done.stdout.decode()


def measure(
    checkouts: list[Path], arguments: list[str], pairs: int, *, printed: bool
) -> dict[str, Any]:
    """Run a process on each checkout in turn; ``printed`` is the time that it prints itself."""
    times: list[list[float]] = [[] for _ in checkouts]
    for i in range(pairs + 1):
        for own, checkout in zip(times, checkouts, strict=True):
            spent, said = run(checkout, *arguments)
            if i:  # the first one warms what the system keeps of files
                own.append(round(float(said) if printed else spent, 4))
    found: dict[str, Any] = {"cpu_seconds": times[0], "median": statistics.median(times[0])}
    found["load"] = round(os.getloadavg()[0], 1)
    if len(times) > 1:
        ratios = [round(a / b, 3) for a, b in zip(*times, strict=True)]
        found |= {"against": times[1], "ratios": ratios, "ratio": statistics.median(ratios)}
    return found


def main() -> None:
    """Measure all and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="Of which the name has this; others stay.")
    arguments = parser.parse_args()
    checkouts = [ROOT, *([arguments.against.resolve()] if arguments.against else [])]
    example = str(ROOT / "scbignn_infer" / "examples" / "pbmc700.h5ad")
    pbmc3k = str(DATA / "pbmc3k_seurat.h5ad")
    report: dict[str, Any] = {"processes": {}, "a_call": {}}
    if arguments.only and arguments.out.exists():
        report = json.loads(arguments.out.read_text())
    with tempfile.TemporaryDirectory() as folder:
        named, threads = ["-m", "human-pbmc"], ["--threads", "1", "-q", "--overwrite"]
        h5ad, csv = (["-o", str(Path(folder) / f"out.{suffix}")] for suffix in ("h5ad", "csv"))
        programs = {
            "python -c pass": ["-c", "pass"],
            "import scbignn_infer": ["-c", "import scbignn_infer"],
            "scbignn-infer --help": ["-c", MAIN, "--help"],
            **{
                name: ["-c", MAIN, "annotate", query, *options, *threads]
                for name, query, options in (
                    ("annotate example, h5ad, model named", example, [*h5ad, *named]),
                    ("annotate example, h5ad, model chosen", example, h5ad),
                    ("annotate example, csv, model named", example, [*csv, *named]),
                    ("annotate pbmc3k, h5ad, model named", pbmc3k, [*h5ad, *named]),
                    ("annotate pbmc3k, h5ad, model chosen", pbmc3k, h5ad),
                )
            },
        }
        for name in (name for name in programs if arguments.only in name):
            program = programs[name]
            report["processes"][name] = measure(checkouts, program, arguments.pairs, printed=False)
            print(name, report["processes"][name], flush=True)
    for name in ("annotate_matrix", "bound"):
        if arguments.only not in name:
            continue
        both = checkouts if name == "annotate_matrix" else checkouts[:1]
        program = ["-c", CALLS, pbmc3k, name]
        report["a_call"][name] = measure(both, program, arguments.pairs, printed=True)
        print(name, report["a_call"][name], flush=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
