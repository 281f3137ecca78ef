"""The docs name every command, option and public name, and CI runs the README's test command."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import scbignn_infer
from scbignn_infer.cli import main
from scbignn_infer.query.readers import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
REFERENCE = (ROOT / "docs" / "cli_reference.md").read_text()


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


@pytest.mark.parametrize(("name", "command"), list(commands(main)), ids=str)
def test_commands_and_options_are_documented(name: str, command: click.Command) -> None:
    if name == "train":
        cli = pytest.importorskip("scbignn_training.cli", exc_type=ImportError)
        command = cli.train
    assert f"`{name}" in "".join(re.findall(r"^## (.+)$", COMMANDS, flags=re.MULTILINE))
    (text,) = [part for part in REFERENCE.split("\n## ") if part.startswith(f"{name}\n")]
    for parameter in command.params:
        shown = isinstance(parameter, click.Option) and not parameter.hidden
        if shown and "--help" not in parameter.opts:
            for option in parameter.opts:
                row = re.search(rf"^\| `[^`]*{re.escape(option)}\b[^`]*` \| \w", text, re.MULTILINE)
                assert row, f"{name} {option}"


def test_the_reference_is_that_of_the_commands() -> None:
    pytest.importorskip("scbignn_training.cli", exc_type=ImportError)
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["reference"]()
    assert made == REFERENCE, "run: python docs/make_reference.py"


def test_the_table_of_formats_is_that_of_the_readers() -> None:
    lines = ["| format | recognised by | how |", "|---|---|---|"]
    for row in FORMATS:
        whole = "whole; " if row.count_values else ""
        extra = f"; extra `{row.extra}`" if row.extra else ""
        lines.append(f"| {row.title} | {row.sign} | {whole}{row.how}{extra} |")
    table = "\n".join(lines)
    assert f"\n\n{table}\n\n" in (ROOT / "docs" / "formats.md").read_text(), table


def test_each_extra_of_a_format_is_an_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {row.extra for row in FORMATS} - {""} <= set(extras)


def test_public_names_are_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    assert [n for n in scbignn_infer.__all__ if n not in text] == []


def test_links_lead_somewhere() -> None:
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text()):
            assert target.startswith("http") or (file.parent / target).exists(), (file, target)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"## Test it\n\n```bash\n(.+?)\n```", readme, flags=re.DOTALL)
    assert block in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_change_is_listed() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_line_installs_from_an_index_that_has_no_such_package() -> None:
    """Until the package is released, pip finds it in a clone or in a wheel alone."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
    sources = [*(ROOT / "scbignn_infer").rglob("*.py"), *(ROOT / "training").rglob("*.py")]
    wrong = re.compile(r"pip install (-U )?['\"]?scbignn-infer")
    found = [f for f in (*pages, *sources) if wrong.search(f.read_text(encoding="utf-8"))]
    assert found == []


def test_the_tables_of_benchmarks_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    pages = runpy.run_path(str(ROOT / "benchmarks" / "report.py"))["filled"]()
    assert len(pages) == 3
    for path, page in pages.items():
        assert path.read_text("utf-8") == page, f"{path.name}: run python benchmarks/report.py"
