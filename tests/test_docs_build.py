"""The site is built without a warning, and the pages list every message that a user may meet."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import scbignn_infer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
DOCS, RUNTIME = ROOT / "docs", ROOT / "scbignn_infer"
RAISED = (
    *("InputError", "GeneError", "OutputError", "BundleError", "DeviceError", "MissingExtraError"),
    *("UsageError", "BadParameter", "Flaw", "RefusedError"),
)
PAGE = DOCS / "messages.md"


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


def test_the_page_of_messages_is_that_of_the_code() -> None:
    pytest.importorskip("torch")
    made = runpy.run_path(str(DOCS / "make_messages.py"))["page"]()
    assert made == PAGE.read_text(), "run: python docs/make_messages.py"


def fixed_parts() -> Iterator[tuple[str, str]]:
    """Yield each place that makes an error, and the longest part of its message that is fixed."""
    for file in sorted(RUNTIME.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in RAISED:
                said = {k.arg: k.value for k in node.keywords}
                parts = [
                    part.value.strip()
                    for expression in filter(None, (said.get("purpose"), *node.args))
                    for part in ast.walk(expression)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                yield f"{file.name}:{node.lineno}", max(parts, key=len, default="")


def test_every_message_is_listed() -> None:
    """Found here by what is fixed, which the page must not lose where it writes what varies."""
    page, found = PAGE.read_text(), list(fixed_parts())
    assert len(found) > 120
    assert [(place, part) for place, part in found if part not in page and " " in part] == []


@pytest.mark.parametrize(
    ("call", "row"),
    [
        (lambda: scbignn_infer.load_model("absent"), "| `no model named 'NAME'` | `one of ..."),
        (lambda: scbignn_infer.open_query("absent.h5ad"), "| `no file FILE` | `a .h5ad"),
        (
            lambda: scbignn_infer.Annotator.load("human-pbmc", device="tpu"),
            "| `device 'DEVICE'` | `auto, cpu, cuda or cuda:N` | `choose one of these` |",
        ),
        (
            lambda: scbignn_infer.Annotator.load("human-pbmc", graph="none"),
            "| `graph '...'` | `query or reference` | `choose one of these` | `InputError` |",
        ),
    ],
    ids=["model", "file", "device", "graph"],
)
def test_a_message_is_found_on_the_page(call: Callable[[], object], row: str) -> None:
    with pytest.raises(scbignn_infer.ScBiGNNError) as raised:
        call()
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith(row)]
    found = re.escape(line.split("`")[1]).replace(re.escape("..."), ".+")
    assert re.fullmatch(re.sub("NAME|FILE|DEVICE", ".+", found), raised.value.found)
    assert f"`{type(raised.value).__name__}`" in line
