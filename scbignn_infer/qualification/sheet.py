"""The record as a page that a laboratory prints, signs and files; it needs no network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from scbignn_infer.qualification.record import checksum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scbignn_infer.qualification.record import Record

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; margin: .5em 0 1.5em; width: 100%; }}
th, td {{ border: 1px solid #bbb; padding: .25em .6em; text-align: left; vertical-align: top; }}
th {{ background: #f2f2f2; }}
.passed {{ color: #05610f; }}
.failed {{ color: #a00; }}
code {{ overflow-wrap: anywhere; }}
.signed td {{ height: 3em; width: 25%; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
ABOUT = """<p>Each case is a file of real cells that was labelled when the model was released. Here
the cells were labelled again. All labels must be the same, and scores may differ by at most
{:g}.</p>"""
CLOSING = """<h2>Signed</h2>
<table class="signed"><tr><th>performed by</th><th>date, signature</th><th>reviewed by</th>
<th>date, signature</th></tr><tr><td></td><td></td><td></td><td></td></tr></table>"""


def page(record: Record) -> str:
    """Return the page of a record."""
    package, result = record["package"], verdict(passed=record["passed"])
    title = f"Installation check of {package['name']} {package['version']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p>Result: <strong class="{result}">{result}</strong>. Made {escape(record["made"])}. ',
        f"SHA-256 of the record: <code>{checksum(record)}</code></p>",
        "<h2>Golden cases</h2>",
        ABOUT.format(record["tolerance"]),
        _table(CASE_HEADS, map(_case, record["cases"])),
        *(["<h2>Problems</h2>", _list(record["problems"])] if record["problems"] else []),
        "<h2>Machine and package</h2>",
        _pairs(record["machine"]),
        _pairs({"devices": record["providers"], "asked": record["asked"], **package}),
    ]
    if record["models_without_a_case"]:
        parts += ["<h2>Models without a golden case</h2>", _list(record["models_without_a_case"])]
    parts += ["<h2>Python packages</h2>", _pairs(record["packages"]), CLOSING]
    return PAGE.format(title=escape(title), body="\n".join(parts))


def verdict(*, passed: bool) -> str:
    """Return the word for a result."""
    return "passed" if passed else "failed"


CASE_HEADS = ("model", "cells", "other labels", "largest difference", "seconds", "result", "files")


def _case(case: Mapping[str, Any]) -> list[str]:
    """Return the cells of a row."""
    result = verdict(passed=case["passed"])
    worst = max(case["scores"].values(), default=None)
    sums = escape(case["sha256"]), escape(case["case_sha256"])
    return [
        escape(f"{case['model']} {case['version']}"),
        escape(f"{case['cells']}: {case['source']}"),
        ", ".join(f"{escape(name)}: {n}" for name, n in case["labels"].items() if n) or "none",
        "-" if worst is None else f"{worst:.1e}",
        " + ".join(f"{value:.2f} ({escape(name)})" for name, value in case["seconds"].items()),
        f'<strong class="{result}">{result}</strong> {escape(case["problem"])}',
        f"model <code>{sums[0]}</code> case <code>{sums[1]}</code>",
    ]


def _table(heads: Iterable[str], rows: Iterable[list[str]]) -> str:
    named = "".join(f"<th>{escape(head)}</th>" for head in heads)
    lines = ["<table>", *([f"<tr>{named}</tr>"] if named else [])]
    lines += [f"<tr>{''.join(f'<td>{value}</td>' for value in row)}</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def _pairs(values: Mapping[str, Any]) -> str:
    return _table((), ([escape(name), escape(_text(v))] for name, v in values.items()))


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _text(value: Any) -> str:
    """Return a value as a line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "-" if value is None else str(value)
