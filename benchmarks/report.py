"""Write the accuracy tables of docs/benchmarks.md from the raw results.

Run: ``python benchmarks/report.py``. Reads ``benchmarks/results/*.json``, the rows that
``accuracy.py`` and ``peers/`` wrote.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
Row = dict[str, Any]
FORMS = {("program", "gate"): "", ("full", "gate"): "_full", ("program", "sage"): "_sage"}
"""What the result files of each form of the gene and of the cell level end in."""


def rows(name: str) -> list[Row]:
    """Return the whole-query rows of one result file, none if it is not there."""
    path = HERE / "results" / f"{name}.json"
    found = json.loads(path.read_text()) if path.is_file() else []
    return [r for r in found if r["view"] == "all"]


def mean(found: list[Row], figure: str) -> tuple[float, float, int]:
    """Return the mean over tasks, its spread over seeds, and the number of seeds."""
    seeds = sorted({r["seed"] for r in found})
    by_seed = [np.mean([r[figure] for r in found if r["seed"] == s]) for s in seeds]
    return float(np.mean(by_seed)), float(np.std(by_seed)), len(seeds)


def means(found: list[Row]) -> list[str]:
    """Return a table of methods: mean accuracy and macro-F1, best first."""
    methods = {
        m: [r for r in found if r["method"] == m] for m in dict.fromkeys(r["method"] for r in found)
    }
    order = sorted(methods, key=lambda m: -mean(methods[m], "macro_f1")[0])
    lines = ["| method | accuracy | macro-F1 | seeds |", "|---|---|---|---|"]
    for method in order:
        accuracy, _, n = mean(methods[method], "accuracy")
        f1, spread, _ = mean(methods[method], "macro_f1")
        shown = f"{f1:.4f}" + (f" ± {spread:.4f}" if n > 1 else "")
        lines.append(f"| {method} | {accuracy:.4f} | {shown} | {n} |")
    return lines


def by_task(found: list[Row], methods: list[str]) -> list[str]:
    """Return a table of tasks by methods: mean macro-F1 over seeds."""
    lines = ["| macro-F1 | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods)]
    for task in dict.fromkeys(r["task"] for r in found):
        cells = []
        for method in methods:
            values = [r["macro_f1"] for r in found if (r["task"], r["method"]) == (task, method)]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return lines


def forms() -> list[str]:
    """Return a table of forms: macro-F1 over pairs and folds, and speed of the gene level."""
    path = HERE / "results" / "gene_speed.json"
    speed = {r["form"]: r["cells"] / r["seconds"] for r in json.loads(path.read_text())}
    lines = ["| form | 8 pairs | 6 folds | seeds | gene cells/s |", "|---|---|---|---|---|"]
    for method in ("scBiGNN", "network alone", "cell level, share 1"):
        for (gene, cell), suffix in FORMS.items():
            suites = [rows(suite + suffix) for suite in ("pairs", "folds")]
            scores = [mean([r for r in s if r["method"] == method], "macro_f1") for s in suites]
            cells = [
                f"{f1:.4f}" + (f" ± {spread:.4f}" if n > 1 else "") for f1, spread, n in scores
            ]
            name = f"{gene}, {cell}: {method}"
            lines.append(f"| {name} | {' | '.join(cells)} | {scores[0][2]} | {speed[gene]:,.0f} |")
    return lines


def fill(page: str, name: str, lines: list[str]) -> str:
    """Put lines between the markers of one table."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    filled, n = re.subn(pattern, lambda m: m[1] + "\n".join(lines) + "\n" + m[2], page, flags=re.S)
    if n != 1:
        raise SystemExit(f"{PAGE} has {n} places for the table '{name}'")
    return filled


def main() -> None:
    """Fill the page."""
    peers = rows("celltypist") + rows("singler")
    page = PAGE.read_text()
    shown = [
        "scBiGNN",
        "gene level",
        "CellTypist",
        "CellTypist, feature selection",
        "CellTypist, feature selection, majority voting",
        "SingleR",
        "logistic regression, C = 1",
    ]
    for suite, mark in (("pairs", "->"), ("folds", "#")):
        found = rows(suite) + [r for r in peers if mark in r["task"]]
        page = fill(page, suite, means(found))
        page = fill(page, f"{suite} by task", by_task(found, shown))
    em = rows("em")
    without = [
        r | {"method": f"{r['method']}, without EM"}
        for r in rows("pairs")
        if r["task"] in {e["task"] for e in em} and r["method"] in ("scBiGNN", "gene level")
    ]
    page = fill(page, "em", means(em + without))
    page = fill(page, "em by task", by_task(em + without, ["scBiGNN", "scBiGNN, without EM"]))
    page = fill(page, "forms", forms())
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
