"""The site is built without a warning, and the pages list every message that a user may meet."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import scbignn_infer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DOCS, RUNTIME = ROOT / "docs", ROOT / "scbignn_infer"
RAISED = (
    *("InputError", "GeneError", "OutputError", "BundleError", "DeviceError", "MissingExtraError"),
    *("UsageError", "BadParameter"),
)
OF_MANY_SAMPLES = ("batch/samples.py", "batch/split.py", "batch/cluster.py")
"""What these and the service say is about samples, workers and requests, and stands elsewhere."""


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build pages with the site's settings; notebooks are executed by test_notebooks.py."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    settings = ["-c", str(DOCS), "-d", str(target / "trees"), "-D", "nb_execution_mode=off"]
    return subprocess.run(
        [*command, *settings, str(source), str(target / "html")],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = build(DOCS, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    pages = [p for p in DOCS.rglob("*") if p.suffix in (".md", ".ipynb")]
    assert len(pages) > 15
    for page in pages:
        assert (tmp_path / "html" / page.relative_to(DOCS).with_suffix(".html")).is_file(), page
    api = (tmp_path / "html" / "api.html").read_text()
    assert [n for n in scbignn_infer.__all__ if f'id="scbignn_infer.{n}"' not in api] == []
    assert "min_gene_coverage" in api


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("See [the example](example.md).", ""),
        ("See [nothing](nothing.md).", "cross-reference target not found: 'nothing.md'"),
        ("See [nothing](example.md#nothing).", "local id not found in doc 'example'"),
        ("See [nothing](../nothing).", "cross-reference target not found: '../nothing'"),
        ("{py:class}`scbignn_infer.Nothing`", "target not found: scbignn_infer.Nothing"),
        ("```{nothing}\n```", "Unknown directive type: 'nothing'"),
    ],
    ids=["whole", "page", "anchor", "file", "name", "directive"],
)
def test_what_is_broken_is_found(text: str, said: str, tmp_path: Path) -> None:
    source = tmp_path / "pages"
    source.mkdir()
    (source / "index.md").write_text(f"# Pages\n\n{text}\n\n```{{toctree}}\nexample\n```\n")
    (source / "example.md").write_text("# An example\n\nText.\n")
    done = build(source, tmp_path / "out")
    assert (done.returncode == 0) == (not said), done.stderr
    assert said in done.stderr


def test_a_page_that_nothing_leads_to_is_found(tmp_path: Path) -> None:
    source = tmp_path / "pages"
    source.mkdir()
    for name in ("index", "alone"):
        (source / f"{name}.md").write_text(f"# {name}\n\nText.\n")
    done = build(source, tmp_path / "out")
    assert done.returncode != 0
    assert "alone.md: WARNING: document isn't included in any toctree" in done.stderr


def test_formulas_are_read_as_latex_reads_them(tmp_path: Path) -> None:
    source = tmp_path / "pages"
    source.mkdir()
    (source / "index.md").write_text(
        r"# Formulas" + "\n\n" + r"$\tfrac12 x^10$ and $\bar y_i$" + "\n"
    )
    done = build(source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    half, mean = re.findall(
        "<math.+?</math>", (tmp_path / "out/html/index.html").read_text(), re.DOTALL
    )
    assert re.search(r"<mfrac.*?>\s*<mn>1</mn>\s*<mn>2</mn>\s*</mfrac>", half)
    assert re.search(r"<msup>\s*<mi>x</mi>\s*<mn>1</mn>\s*</msup>\s*<mn>0</mn>", half)
    assert "<msub>" in mean


def messages() -> Iterator[tuple[str, str]]:
    """Yield each place that makes an error, and the longest part of its message that is fixed."""
    for file in sorted(RUNTIME.rglob("*.py")):
        name = str(file.relative_to(RUNTIME))
        if name in OF_MANY_SAMPLES or name.startswith("service"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in RAISED:
                part = fixed_part(node)
                if part:
                    yield f"{name}:{node.lineno}", part


def fixed_part(call: ast.Call) -> str:
    """Return the longest literal of what was found; of what is expected where that has none."""
    said = {k.arg: k.value for k in call.keywords}
    tried = (said.get("purpose"), *call.args[:1], said.get("expected"), said.get("do"))
    for expression in filter(None, tried):
        literals = [
            node.value.strip()
            for node in ast.walk(expression)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        longest = max(literals, key=len, default="")
        if "purpose" in said or len(longest) >= 5:
            return longest
        if not literals:  # an error that is passed on
            return ""
    return ""


@pytest.mark.parametrize(("place", "part"), [pytest.param(*m, id=m[0]) for m in messages()])
def test_every_message_is_explained(place: str, part: str) -> None:
    page = re.sub(r"[`\s]+", " ", (DOCS / "annotate.md").read_text())
    assert re.sub(r"[`\s]+", " ", part) in page, place


def test_messages_are_found() -> None:
    found = [part for _, part in messages()]
    assert len(found) > 75
    assert {"no usable matrix:", "is no plain file", "the map of the report"} <= set(found)
