"""Write the tables of docs/benchmark_tables.md, benchmarks.md and space.md from the raw results.

Run: ``python benchmarks/report.py``. Reads ``benchmarks/results/*.json``, the rows that
``accuracy.py`` and ``peers/`` wrote; a table whose rows are not there is left as it is.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import body_tables

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmark_tables.md"
MAIN, SPACE = PAGE.with_name("benchmarks.md"), PAGE.with_name("space.md")
STEPS = {"alpha0": "alpha = 0", "self": "self-training", "": "EM"}
RETRAINED = "logistic regression, C = 0.01"
"""The method that is trained anew on the genes of each cut."""
MARGIN = 0.02
LEAST = 10
"""Cells that a type must have to be the worst."""
EIGHT = (
    *("kang -> pbmc3k", "pbmc3k -> kang", "pbmc3k -> zheng", "zheng -> pbmc3k", "kang -> zheng"),
    *("baron -> segerstolpe", "neuca -> segerstolpe", "baron -> neuca"),
)
PUBLISHED = {"baron": 0.983, "baron mouse": 0.983, "zheng": 0.867}
"""Accuracies of arXiv 2312.10310, table 2, on all cells of these studies."""
DOUBLET_VIEWS = ("as they are", "as deep as a cell")
Row = dict[str, Any]


def rows(name: str, *, cuts: bool = False) -> list[Row]:
    """Return the rows of one result file on whole queries or on cut ones, none without a file."""
    path = HERE / "results" / f"{name}.json"
    found = json.loads(path.read_text()) if path.is_file() else []
    return [r for r in found if (r["view"] != "all") == cuts]


def results(name: str) -> Any:
    """Return one result file of another form than rows of scores, nothing without a file."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def em_rows() -> list[Row]:
    """Return the start and the last iteration of EM and of its controls, named by what it is."""
    found = []
    for row in rows("em"):
        last = max(r["iteration"] for r in rows("em") if r["control"] == row["control"])
        if row["iteration"] in (0, last):
            step = STEPS[row["control"]] if row["iteration"] else "without EM"
            found.append(row | {"method": f"{row['method']}, {step}"})
    return found


def differences(found: list[Row]) -> dict[tuple[str, str], float]:
    """Map pair and cut to macro-F1 of scBiGNN, mean over seeds, less that of the retrained."""
    differs = {}
    for key in dict.fromkeys((r["task"], r["view"]) for r in found):
        ours, theirs = (
            [r["macro_f1"] for r in found if (r["task"], r["view"], r["method"]) == (*key, method)]
            for method in ("scBiGNN", RETRAINED)
        )
        if ours and theirs:
            differs[key] = float(np.mean(ours) - np.mean(theirs))
    return differs


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


def by(key: str, found: list[Row], methods: list[str]) -> list[str]:
    """Return a table of tasks or views by methods that have rows: mean macro-F1."""
    methods = [m for m in methods if any(r["method"] == m for r in found)]
    lines = ["| macro-F1 | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods)]
    for row in dict.fromkeys(r[key] for r in found):
        cells = []
        for method in methods:
            values = [r["macro_f1"] for r in found if (r[key], r["method"]) == (row, method)]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def average(found: list[Row], methods: list[str]) -> str:
    """Return a last row for :func:`by`: the mean over tasks of each task's mean over seeds."""
    cells = []
    for method in methods:
        tasks = dict.fromkeys(r["task"] for r in found)
        of_task = [
            np.mean([r["macro_f1"] for r in found if (r["task"], r["method"]) == (task, method)])
            for task in tasks
        ]
        cells.append(f"{np.mean(of_task):.4f}")
    return "| mean | " + " | ".join(cells) + " |"


def panels(found: list[Row]) -> list[str]:
    """Return the table of cuts, how scBiGNN stands to the retrained regression, and the figure."""
    differs = differences(found)
    (task, view), worst = min(differs.items(), key=lambda item: item[1])
    below = sum(d < -MARGIN for d in differs.values())
    average = np.mean(list(differs.values()))
    peers = rows("celltypist", cuts=True) + rows("singler", cuts=True)
    table = by(
        "view",
        found + [r for r in peers if "->" in r["task"]],
        [
            "scBiGNN",
            "gene level",
            "CellTypist",
            "CellTypist, feature selection",
            "SingleR",
            "SingleR, classic markers",
            RETRAINED,
        ],
    )
    return [
        *table,
        "",
        (
            f"scBiGNN less the regression retrained on each cut: {average:+.4f} macro-F1, the mean "
            f"of {len(differs)} combinations of pair and cut; the worst is {worst:+.4f} "
            f"({task}, {view}); {below} of {len(differs)} are more than {MARGIN} below."
        ),
        "",
        (
            "![Difference of macro-F1 to the retrained logistic regression, by pair and number of "
            "genes](figures/panels.svg)"
        ),
    ]


def ablation(found: list[Row]) -> list[str]:
    """Return a table of forms: what each gains over the gene level on pairs and on folds."""
    kinds = {"pairs": "->", "folds": "#"}
    groups = {k: [r for r in found if mark in r["task"]] for k, mark in kinds.items()}
    groups = {kind: members for kind, members in groups.items() if members}
    heads = [f"{kind} | gain | worst task | worst type" for kind in groups]
    lines = [
        f"| form | seeds | {' | '.join(heads)} |",
        "|---|---|" + "---|" * (4 * len(groups)),
    ]
    for method in dict.fromkeys(r["method"] for r in found):
        cells = [method, str(len({r["seed"] for r in found if r["method"] == method}))]
        for group in groups.values():
            mine = [r for r in group if r["method"] == method]
            if not mine:
                cells += [""] * 4
                continue
            gains = [
                np.mean([r["gain"] for r in mine if r["task"] == task])
                for task in dict.fromkeys(r["task"] for r in mine)
            ]
            cells += [f"{mean(mine, 'macro_f1')[0]:.4f}", f"{np.mean(gains):+.4f}"]
            cells += [f"{min(gains):+.3f}", f"{min(r['worst_type'] for r in mine):+.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def held_out(found: list[Row]) -> list[str]:
    """Return a table of held-out studies by methods: accuracy and macro-F1."""
    methods = list(dict.fromkeys(r["method"] for r in found))
    cells = {r["task"]: r["cells"] for r in found if "cells" in r}
    lines = ["| accuracy / macro-F1 | cells | " + " | ".join(methods) + " |"]
    lines.append("|---|---|" + "---|" * len(methods))
    for task, n in cells.items():
        shown = [f"{task} | {n:,}"]
        for method in methods:
            scores = [r for r in found if (r["task"], r["method"]) == (task, method)]
            mean_of = [np.mean([r[f] for r in scores]) for f in ("accuracy", "macro_f1")]
            shown.append(" / ".join(f"{x:.3f}" for x in mean_of))
        lines.append("| " + " | ".join(shown) + " |")
    return lines


def medians(found: list[Row]) -> list[Row]:
    """Return a row for each method and size, the medians of its runs, and ratios within pairs."""
    rows: list[Row] = []
    for key in dict.fromkeys((r["cells"], r["method"]) for r in found):
        own = [r for r in found if (r["cells"], r["method"]) == key]
        ours = {
            r["pair"]: r
            for r in found
            if r.get("pair") is not None and r["cells"] == key[0] and r["method"] == "scBiGNN"
        }
        row = dict(own[0])
        for figure in ("seconds", "cpu", "peak_mb"):
            row[figure] = type(own[0][figure])(np.median([r[figure] for r in own]))
        if key[1] == "CellTypist" and "pair" in own[0]:
            row["ratio"] = [
                float(np.median([ours[r["pair"]][figure] / r[figure] for r in own]))
                for figure in ("seconds", "cpu")
            ]
        rows.append(row)
    return rows


def paper(found: list[Row]) -> list[str]:
    """Return a table of studies by parts and EM iterations: mean accuracy over the folds.

    Rows without an iteration are of models without EM.
    """
    found = [{"iteration": 0, **r, "study": r["task"].split(" #")[0]} for r in found]
    last = max(r["iteration"] for r in found)
    columns = [("network alone", 0), ("gene level", 0)]
    columns += [("scBiGNN", i) for i in range(last + 1)] + [("gene level", last)] * (last > 0)
    names = [f"{m}, EM {i}" if i else m for m, i in columns]
    lines = [f"| accuracy (macro-F1) | folds | {' | '.join(names)} | published |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for study in (s for s in PUBLISHED if any(r["study"] == s for r in found)):
        own = [r for r in found if r["study"] == study]
        cells = [study, str(len({r["task"] for r in own}))]
        for method, i in columns:
            mine = [r for r in own if (r["method"], r["iteration"]) == (method, i)]
            accuracy, f1 = (np.mean([r[k] for r in mine]) for k in ("accuracy", "macro_f1"))
            cells.append(f"{accuracy:.3f} ({f1:.3f})")
        lines.append(f"| {' | '.join(cells)} | {PUBLISHED[study]:.3f} |")
    return lines


def rare(found: list[Row]) -> list[str]:
    """Return a table of studies by the fewest cells of a type: all types, and those with many."""
    lines = ["| study | `--min-cells` | types | accuracy | macro-F1 | of types with 10 or more |"]
    lines.append("|---" * 6 + "|")
    for study, least in dict.fromkeys((r["task"].split(" #")[0], r["min_cells"]) for r in found):
        own = [r for r in found if (r["task"].split(" #")[0], r["min_cells"]) == (study, least)]
        types = " / ".join(str(n) for n in sorted({r["types"] for r in own}))
        keys = ("accuracy", "macro_f1", "macro_f1_many")
        shown = " | ".join(f"{np.mean([r[k] for r in own]):.3f}" for k in keys)
        lines.append(f"| {study} | {least} | {types} | {shown} |")
    return lines


def fine(found: list[Row]) -> list[str]:
    """Return a table of studies with many types of few cells, by methods."""
    found = [r | {"study": r["task"].rsplit(" #", 1)[0]} for r in found]
    shown = [m for m in dict.fromkeys(r["method"] for r in found) if "level" not in m]
    return by("study", found, [m for m in shown if "discriminant" not in m])


def atlas(found: list[Row]) -> list[str]:
    """Return a table of trainings on atlases."""
    timed = [
        r | {"minutes": r["seconds"] / 60, "cpu_minutes": r["cpu_seconds"] / 60} for r in found
    ]
    return table(timed, ATLAS)


def speed(found: list[Row]) -> list[str]:
    """Return a table of whole processes, and how scBiGNN's time divides among its stages."""
    found = medians(found)
    lines = ["| cells | method | seconds | CPU seconds | peak MB | of the seconds |"]
    lines.append("|---|---|---|---|---|---|")
    for row in found:
        stages = [f"{name} {spent:.1f}" for name, spent in row.get("stages", {}).items()]
        if "ratio" in row:
            seconds, cpu = row["ratio"]
            stages = [
                f"scBiGNN takes {seconds:.2f} of the seconds",
                f"{cpu:.2f} of the CPU seconds",
            ]
        figures = f"{row['seconds']:.1f} | {row['cpu']:.1f} | {row['peak_mb']:,}"
        lines.append(f"| {row['cells']:,} | {row['method']} | {figures} | {', '.join(stages)} |")
    return lines


def table(found: list[Row], columns: dict[str, tuple[str, str]], blank: str = "") -> list[str]:
    """Return rows as they are: columns by their titles, each with its key and its format."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---|" * (len(columns) - 1)]
    for row in found:
        cells = [
            blank if row.get(key) is None else format(row[key], how)
            for key, how in columns.values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


KERNELS = {
    "work": ("kernel", ""),
    "cells": ("cells", ",d"),
    "seconds": ("seconds", ".3f"),
    "cells a second": ("rate", ",.0f"),
}
CROSSOVER = {
    "cells": ("cells", ",d"),
    "exact, CPU s": ("exact_cpu", ".2f"),
    "ivf, CPU s": ("ivf_cpu", ".2f"),
}
RECALL = {
    "points": ("points", ""),
    "cells": ("cells", ",d"),
    "search": ("search", ""),
    "recall": ("recall", ".4f"),
    "CPU seconds": ("cpu", ".1f"),
    "seconds": ("seconds", ".1f"),
    "peak MB": ("peak_mb", ",d"),
}
LABELS = {
    "model": ("model", ""),
    "file": ("file", ""),
    "recall": ("recall", ".2f"),
    "labels that stay": ("same", ".4f"),
    "accuracy": ("accuracy", ".4f"),
}
GRAPH_KINDS = {
    "model and study": ("case", ""),
    "neighbours": ("graph", ""),
    "cells": ("cells", ",d"),
    "gene level alone": ("gene_level_accuracy", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "macro-F1": ("macro_f1", ".3f"),
    "called unknown": ("unknown", ".1%"),
    "accuracy of the called": ("called_accuracy", ".3f"),
}
FOOTPRINT = {
    "tool": ("tool", ""),
    "version": ("version", ""),
    "packages": ("packages", "d"),
    "download, MB": ("download_mb", ",.0f"),
    "installed, MB": ("installed_mb", ",.0f"),
    "import, s": ("import_seconds", ".2f"),
    "import of all that labelling needs, s": ("ready_seconds", ".1f"),
}
UNKNOWN_TYPES = {
    "model": ("model", ""),
    "study": ("study", ""),
    "type": ("type", ""),
    "cells": ("cells", ",d"),
    "called unknown": ("unknown", ",d"),
    "the others were called": ("called", ""),
}
SAMPLE_COSTS = {
    "cells of a sample": ("cells", ",d"),
    "neighbours": ("neighbours", ""),
    "CPU seconds": ("cpu", ".1f"),
    "seconds": ("seconds", ".1f"),
    "gene level": ("gene_level", ".1f"),
    "graph": ("graph", ".1f"),
    "cell level": ("cell_level", ".2f"),
    "scores": ("scores", ".2f"),
    "peak of the worker, MB": ("peak_mb", ",d"),
    "read, MB": ("read_mb", ".0f"),
    "written, MB": ("written_mb", ".0f"),
}
JOIN = {
    "cells": ("cells", ",d"),
    "output": ("written", ""),
    "CPU seconds": ("cpu", ".1f"),
    "peak MB": ("peak_mb", ",d"),
    "output, MB": ("output_mb", ",d"),
}
STRICTNESS = {
    "tasks": ("tasks", ""),
    "how many": ("n_tasks", "d"),
    "`--max-novelty`": ("max_novelty", "g"),
    "unseen cells that keep a label": ("unseen_labelled", ".1%"),
    "seen cells called unknown": ("seen_unknown", ".1%"),
}
DEPTH = {
    "model": ("model", ""),
    "study": ("study", ""),
    "genes": ("view", ""),
    "labels": ("depth", ""),
    "threshold": ("threshold", ".2f"),
    "cells": ("cells", ",d"),
    "labelled": ("labelled", ".1%"),
    "true": ("true", ".3f"),
    "right type": ("right_type", ".1%"),
    "right type behind a coarser label": ("hidden", ".1%"),
    "unseen types: labelled": ("unseen_labelled", ".1%"),
    "true type in the set": ("covered", ".3f"),
    "types in a set": ("types_in_set", ".2f"),
}
DESCENT = {
    "species": ("species", ""),
    "data set": ("set", ""),
    "tissue": ("tissue", ""),
    "most probable type": ("flat", ".3f"),
    "down the ontology": ("descent", ".3f"),
}
ATLAS = {
    "cells in the file": ("cells", ",d"),
    "file, GB": ("file_gb", ".1f"),
    "threads": ("threads", "d"),
    "minutes": ("minutes", ".1f"),
    "CPU minutes": ("cpu_minutes", ".1f"),
    "memory at most, GiB": ("peak_gib", ".1f"),
}
PLAIN = {
    "depth": DEPTH,
    "descent": DESCENT,
    "graph_kinds": GRAPH_KINDS,
    "unknown_types": UNKNOWN_TYPES,
    "sample_costs": SAMPLE_COSTS,
    "join": JOIN,
}
"""Result files that are a table as they stand."""
COVERAGE = {
    "hidden": ("hidden", ".1%"),
    "genes": ("genes", ",d"),
    "coverage": ("coverage", ".2f"),
    "accuracy": ("accuracy", ".3f"),
    "macro-F1": ("macro_f1", ".3f"),
    "mean confidence": ("confidence", ".3f"),
    "unknown": ("unknown", ".1%"),
}


def unseen(found: list[Row]) -> list[str]:
    """Return a table of tasks by signals, with means of the groups."""
    signals = list(dict.fromkeys(r["signal"] for r in found))
    groups = {
        "mean, blood": ("zheng without", "pbmc3k without"),
        "mean, islets": ("baron without",),
        "mean, kidney": ("kidney without",),
        "mean, across studies": ("->",),
        "mean, mouse": ("mouse ",),
    }
    means = {
        name: [r for r in found if any(p in r["task"] for p in parts)]
        for name, parts in groups.items()
    }
    means["mean, tasks on which the rule was found"] = [r for r in found if not r["fresh"]]
    means["mean, five new studies without tuning"] = [r for r in found if r["fresh"]]
    lines = ["| task | unseen cells | " + " | ".join(signals) + " |"]
    lines.append("|---|---|" + "---|" * len(signals))

    def row(name: str, n: str, chosen: list[Row]) -> str:
        cells = []
        for signal in signals:
            own = [r for r in chosen if r["signal"] == signal]
            area, kept = (float(np.mean([r[k] for r in own])) for k in ("auroc", "labelled"))
            cells.append(f"{area:.3f} ({kept:.2f})")
        return f"| {name} | {n} | " + " | ".join(cells) + " |"

    for task in dict.fromkeys(r["task"] for r in found):
        own = [r for r in found if r["task"] == task]
        lines.append(row(task, f"{own[0]['unseen']:,}", own))
    for name, own in means.items():
        lines.append(row(name, "", own))
    return lines


def coverage(found: list[Row]) -> list[str]:
    """Return a table of hidden genes, means over the seeds, and the figure."""
    shown = []
    for order in dict.fromkeys(r["order"] for r in found):
        for hidden in dict.fromkeys(r["hidden"] for r in found):
            same = [r for r in found if (r["order"], r["hidden"]) == (order, hidden)]
            if same:
                keys = [key for key, _ in COVERAGE.values() if key not in ("hidden", "genes")]
                means = {key: float(np.mean([r[key] for r in same])) for key in keys}
                shown.append({"order": order, **same[0], **means})
    return [
        *table(shown, {"order": ("order", "")} | COVERAGE),
        "",
        "![Accuracy, macro-F1 and confidence against coverage](figures/coverage.svg)",
    ]


def adapted(found: list[Row]) -> list[str]:
    """Return a table of models without and with a step of EM on the query, means over seeds."""
    others = (
        *("one step", "means alone", "one step, means alone"),
        *("shift only", "small types follow", "gene level teaches itself"),
    )
    names = [
        *("model and query", "cells", "seeds", "macro-F1 without", "with", *others),
        *("accuracy", "worst type", "known types called unknown"),
        *("precision of the called", "unseen types that keep a label"),
    ]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for task, view in dict.fromkeys((r["task"], r["view"]) for r in found):
        own = [r for r in found if (r["task"], r["view"]) == (task, view)]
        of = {m: [r for r in own if r["method"] == m] for m in ("without", "adapt", *others)}
        old, new = of["without"], of["adapt"]
        changes = [
            (np.mean([b["f1"][k][0] - a["f1"][k][0] for a, b in zip(old, new, strict=True)]), k)
            for k, (_, n) in old[0]["f1"].items()
            if n >= LEAST
        ]
        fall, worst = min(changes)
        cells = [task, f"{view}, {old[0]['cells']:,}", str(len(old))]
        cells.append(f"{np.mean([r['macro_f1'] for r in old]):.4f}")
        for rows_of in (new, *(of[m] for m in others)):
            gains = [b["macro_f1"] - a["macro_f1"] for a, b in zip(old, rows_of, strict=False)]
            cells.append(f"{np.mean(gains):+.4f}" if gains else "")
        for figure, digits in (
            ("accuracy", 3),
            ("unknown", 2),
            ("precision", 2),
            ("unseen_kept", 2),
        ):
            if figure == "unknown":
                cells.append(f"{fall:+.3f} {worst}" if fall < -5e-4 else "none is worse")
            pair = [[r[figure] for r in rows_of if r[figure] is not None] for rows_of in (old, new)]
            shown = [f"{np.mean(values):.{digits}f}" for values in pair if values]
            cells.append(" → ".join(shown) if len(shown) == 2 else "")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", over_pairs(found)]


def over_pairs(found: list[Row]) -> str:
    """Say what a step on the query gains over the eight pairs, each the mean of its seeds."""
    gains = {}
    for pair in EIGHT:
        own = [r for r in found if (r["task"], r["view"]) == (pair, "known types")]
        f1 = [[r["macro_f1"] for r in own if r["method"] == m] for m in ("without", "adapt")]
        gains[pair] = np.subtract(f1[1], f1[0])
    of_pairs = [g.mean() for g in gains.values()]
    apart = max(g.max() - g.min() for g in gains.values())
    return (
        f"The eight pairs: {np.mean(of_pairs):+.4f} macro-F1, the worst {min(of_pairs):+.4f}; two "
        f"seeds of a pair differ by {apart:.4f} at most."
    )


def calibrated(found: list[Row]) -> list[str]:
    """Return a table of studies: before the certainty, and with it."""
    names = [
        *("model and file", "genes", "accuracy", "calibration error", "known types called unknown"),
        *("precision of the called", "cells of unseen types", "labelled", "area under the curve"),
    ]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    figures = ("ece", "known_unknown", "precision", "unseen_labelled", "auroc")
    keys = dict.fromkeys((r["model"], r["tests"], r["file"], r["genes"]) for r in found)
    for key in (k for k in keys if k[1] != "foreign"):
        old, new = _both_rules(found, key)
        cells = [f"{_shown(old.get(f))} → {_shown(new.get(f))}" for f in figures]
        said = f"{key[0]}: {key[2]}", str(key[3]), _shown(new["accuracy"]), *cells[:3]
        n = new.get("unseen")
        lines.append(
            "| " + " | ".join((*said, *((str(n), *cells[3:]) if n else ("", "", "")))) + " |"
        )
    return lines


def foreign(found: list[Row]) -> list[str]:
    """Return a table of files of another tissue: how far apart, and how many keep a label."""
    lines = ["| model and file | genes | times as far | labelled |", "|---|---|---|---|"]
    keys = dict.fromkeys((r["model"], r["tests"], r["file"], r["genes"]) for r in found)
    for key in (k for k in keys if k[1] == "foreign"):
        old, new = _both_rules(found, key)
        shares = f"{_shown(old['called'])} → {_shown(new['called'])}"
        apart = f"{new['apart']:.1f}" if new["apart"] else "does not follow the file"
        lines.append(f"| {key[0]}: {key[2]} | {key[3]} | {apart} | {shares} |")
    return lines


def strengths(found: list[Row]) -> list[str]:
    """Return a table of files: what is hidden and given without the term of strength, and with."""
    shares = {
        "right_hidden": "right labels hidden",
        "wrong_given": "wrong labels given",
        "foreign_given": "foreign cells with a label",
    }
    lines = [f"| model and file | {' | '.join(shares.values())} |", "|---" * 4 + "|"]
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in shares}
    for row in found:
        cells = []
        for name in shares:
            before, after = row.get(f"without_{name}"), row.get(f"with_{name}")
            if before is None or after is None:
                cells.append("")
                continue
            cells.append(f"{before:.3f} → {after:.3f}")
            values[name].append((before, after))
        lines.append(f"| {row['model']}: {row['file']} | {' | '.join(cells)} |")
    means = [np.mean(values[name], axis=0) for name in shares]
    shown = [f"{old:.3f} → {new:.3f}" for old, new in means]
    return [*lines, f"| mean | {' | '.join(shown)} |"]


def _both_rules(found: list[Row], key: tuple[Any, ...]) -> list[Row]:
    """Return the rows of one file before and now."""
    own = [r for r in found if (r["model"], r["tests"], r["file"], r["genes"]) == key]
    return [next(r for r in own if r["rule"] == rule) for rule in ("before", "now")]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def few_cells(found: list[Row]) -> list[str]:
    """Return a table of steps on samples of a query: gains, mean and worst draw."""
    lines = ["| pair | cells | trusted | accuracy | worst draw | macro-F1 | worst draw |"]
    lines.append("|---" * 7 + "|")
    for task, n in dict.fromkeys((r["task"], r["cells"]) for r in found):
        own = [r for r in found if (r["task"], r["cells"]) == (task, n)]
        trusted = np.mean([r["trusted"] for r in own])
        gains = [[r[figure] for r in own] for figure in ("accuracy", "macro_f1")]
        shown = " | ".join(f"{np.mean(g):+.3f} | {min(g):+.3f}" for g in gains)
        lines.append(f"| {task} | {n} | {trusted:.0f} | {shown} |")
    return lines


def doublets(found: list[Row]) -> list[str]:
    """Return a table of made doublets: how they are told from cells, and how many are named."""
    peer = {(r["task"], r["view"]): r for r in results("doublets_scrublet") or []}
    named = ["cells named", "doublets named"]
    titles = ["model and query", "chosen on it", "cells", "AUROC", "by genes alone", *named]
    titles += ["right name", "Scrublet: AUROC", "by genes alone", *named]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for task in dict.fromkeys(r["task"] for r in found):
        views = [[r for r in found if (r["task"], r["view"]) == (task, v)] for v in DOUBLET_VIEWS]
        whole, thin = views
        others = [peer.get((task, view), {}) for view in DOUBLET_VIEWS]
        cells = [
            task,
            "yes" if whole[0]["chosen_on"] else "",
            f"{whole[0]['cells']:,}",
            *(_spread([r["auroc"] for r in view]) for view in (whole, thin)),
            *(_share(whole, key) for key in ("cells_named", "doublets_named", "right_name")),
            *(f"{r['auroc']:.3f}" if r else "" for r in others),
            *(_share([others[0]], key) for key in ("cells_named", "doublets_named")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(values: list[float]) -> str:
    """Return the mean of a score, and its least and largest value."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _share(found: list[Row], key: str) -> str:
    """Return the mean of a share, where there is one."""
    known = [r[key] for r in found if r.get(key) is not None]
    return f"{np.mean(known):.1%}" if known else ""


VIEWS = {
    "as it is": ("whole cells", ""),
    "panel": ("panel", "genes"),
    "foreign panel": ("panel of another tissue", "genes"),
    "bins": ("all genes", "counts"),
    "panel, bins": ("panel of 500 genes", "counts"),
    "spots": ("spots of two types, share of the larger", ""),
}
"""Changes of cells in ``space.json``, how they are called, and of what their size is."""
HALVES = ("spots", 0.5)
SHALLOW = f"{RETRAINED}, as many counts"


def typical(found: list[Row], figure: str) -> float | None:
    """Return the mean over pairs of the means over seeds, if all pairs have the figure."""
    tasks: dict[str, list[Any]] = {}
    for row in found:
        tasks.setdefault(row["task"], []).append(row.get(figure))
    whole = tasks and all(v is not None for values in tasks.values() for v in values)
    return float(np.mean([np.mean(values) for values in tasks.values()])) if whole else None


def spatial(found: list[Row]) -> list[str]:
    """Return a table of changes that cells of tissue sections undergo, by methods and figures."""
    names = [
        *("cells", "pairs", "macro-F1", "regression", "regression, as many counts"),
        *("unknown", "labels that are true", "calibration error", "of the regression"),
    ]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    keys = dict.fromkeys((r["view"], r["size"]) for r in found)
    for view, size in sorted(keys, key=lambda k: ([*VIEWS].index(k[0]), k[1])):
        here = [r for r in found if (r["view"], r["size"]) == (view, size)]
        of = {m: [r for r in here if r["method"] == m] for m in ("scBiGNN", RETRAINED, SHALLOW)}
        title, unit = VIEWS[view]
        shown = f"{size:.0%}" if view == "spots" else f"{size:,g} {unit}"
        title += f", {shown}" if size else ""
        cells = [title, str(len({r["task"] for r in here}))]
        halves = (view, size) == HALVES  # no type is the larger one
        cells += ["" if halves else _shown_or_nothing(typical(of[m], "macro_f1")) for m in of]
        cells += [_shown_or_nothing(typical(of["scBiGNN"], f)) for f in ("unknown", "true", "ece")]
        cells.append(_shown_or_nothing(typical(of[SHALLOW] or of[RETRAINED], "ece")))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_below(found)]


def _below(found: list[Row]) -> list[str]:
    """Say on how many changes of pairs the model is below the better regression."""
    gaps = {}
    keys = dict.fromkeys((r["task"], r["view"], r["size"]) for r in found)
    for key in (k for k in keys if k[1:] != HALVES):
        mine, *others = (
            [r["macro_f1"] for r in found if (r["task"], r["view"], r["size"], r["method"]) == way]
            for way in ((*key, m) for m in ("scBiGNN", RETRAINED, SHALLOW))
        )
        best = max(float(np.mean(o)) for o in others if o)
        gaps[key] = float(np.mean(mine)) - best
    worst = min(gaps, key=lambda k: gaps[k])
    below = [k for k in gaps if gaps[k] < -MARGIN]
    seeds = len({r["seed"] for r in found})
    said = (
        f"scBiGNN less the better of the regressions: {np.mean([*gaps.values()]):+.4f} macro-F1, "
        f"the mean of {len(gaps)} changes of pairs ({seeds} seeds); the worst is "
        f"{gaps[worst]:+.4f} ({worst[0]}, {worst[1]}, {worst[2]:g}); {len(below)} of {len(gaps)} "
        f"are more than {MARGIN} below."
    )
    either = [
        typical([r for r in found if (r["view"], r["size"], r["method"]) == (*HALVES, m)], "either")
        for m in ("scBiGNN", SHALLOW)
    ]
    if None in either:
        return [said]
    halves = (
        "Of spots of two halves, {:.0%} are called one of the two types, by the regression {:.0%}."
    )
    return [said, "", halves.format(*either)]


def _shown_or_nothing(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def fill(page: str, name: str, lines: list[str]) -> str:
    """Put lines between the markers of one table."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    filled, n = re.subn(
        pattern, lambda m: m[1] + "\n".join(lines) + "\n" + m[2], page, flags=re.DOTALL
    )
    if n != 1:
        raise SystemExit(f"there are {n} places for the table '{name}', not one")
    return filled


def fill_certainty(page: str, found: list[Row]) -> str:
    """Put the tables of confidence and of foreign files in their places, if there are rows."""
    if not found:
        return page
    return fill(fill(page, "calibration", calibrated(found)), "foreign", foreign(found))


def fill_others() -> dict[Path, str]:
    """Return the pages on tissue sections and with the main results."""
    pages = {path: path.read_text() for path in (MAIN, SPACE)}
    if found := results("space"):
        pages[SPACE] = fill(pages[SPACE], "space", spatial(found))
    if found := results("body"):
        page = fill(pages[MAIN], "body", body_tables.means(found))
        pages[MAIN] = fill(page, "body by file", body_tables.by_file(found))
    if found := results("body_markers"):
        pages[MAIN] = fill(pages[MAIN], "body markers", body_tables.means(found))
    return pages


def filled() -> dict[Path, str]:
    """Return the pages with their tables filled."""
    peers = [r for name in ("celltypist", "singler", "scanvi", "sctop") for r in rows(name)]
    page = PAGE.read_text()
    shown = [
        "scBiGNN",
        "gene level",
        "CellTypist",
        "CellTypist, feature selection",
        "CellTypist, feature selection, majority voting",
        "SingleR",
        "scTOP",
        "scTOP, types of 100 cells",
        "scANVI",
        "logistic regression, C = 1",
        "logistic regression, C = 0.01",
    ]
    for suite, mark in (("pairs", "->"), ("folds", "#")):
        found = rows(suite) + [r for r in peers if mark in r["task"]]
        page = fill(page, suite, means(found))
        page = fill(page, f"{suite} by task", by("task", found, shown))
    steps = ["without EM", *STEPS.values()]
    em = em_rows()
    shown = [f"{level}, {step}" for level in ("scBiGNN", "gene level") for step in steps]
    page = fill(page, "em", [*by("task", em, shown), average(em, shown)])
    if cut := rows("pairs", cuts=True):
        page = fill(page, "panels", panels(cut))
    if parts := rows("ablation"):
        page = fill(page, "ablation", ablation(parts))
    page = fill_certainty(page, results("calibration") or [])
    if studies := rows("held_out_studies"):
        peers = rows("held_out_celltypist") + rows("held_out_sctop")
        page = fill(page, "held out", held_out(studies + peers))
    if whole := results("speed"):
        page = fill(page, "speed", speed([r for r in whole if "file_mb" not in r]))
        page = fill(page, "variants", speed([r for r in whole if "file_mb" in r]))
    if kernels := results("kernels"):
        rated = [r | {"rate": r["cells"] / r["seconds"]} for r in kernels]
        page = fill(page, "kernels", table(rated, KERNELS))
    if graph := results("graph"):
        page = fill(page, "crossover", table(graph["crossover"], CROSSOVER))
        page = fill(page, "recall", table(graph["recall"], RECALL))
        page = fill(page, "labels", table(graph["labels"], LABELS))
    if footprint := results("footprint"):
        page = fill(page, "footprint", table(footprint["tools"], FOOTPRINT, "not measured"))
    makers: dict[str, Callable[[Any], list[str]]] = {"adapt": adapted, "adapt_few": few_cells}
    makers |= {"doublets": doublets, "strength": strengths}
    page = fill(page, "paper", paper(rows("paper") or rows("folds")))
    makers |= {"rare": rare, "fine": fine, "atlas": atlas, "atlas_read": atlas}
    makers |= {name: partial(table, columns=columns) for name, columns in PLAIN.items()}
    for name, make in makers.items():
        if found := results(name):
            page = fill(page, name.replace("_", " "), make(found))
    if types := results("unseen"):
        page = fill(page, "unseen", unseen(types["signals"]))
        page = fill(page, "strictness", table(types["strictness"], STRICTNESS))
    if hidden := results("gene_coverage"):
        page = fill(page, "coverage", coverage(hidden))
    return {PAGE: page} | fill_others()


def main() -> None:
    """Write the pages."""
    for path, page in filled().items():
        path.write_text(page)


if __name__ == "__main__":
    main()
