"""Write messages.md from the errors in the code: ``python docs/make_messages.py``."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scbignn_infer.model.bundle import FETCH_AGAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "messages.md"
SOURCES = {"scbignn_infer": DOCS.parent, "scbignn_training": DOCS.parent / "training"}
HEAD = """# Messages

<!-- python docs/make_messages.py writes this page. -->

Every error is one line: what was found; what was expected; what to do. This page lists all errors
as they stand in the code, sorted by their first words. Words in capitals and `...` stand for the
parts that vary; `N` is a number. Text in `[ ]` is not always there. The command ends with exit code
1, or with 2 if it was used wrongly. In Python the same text is an exception; the last column gives
its class. [Annotate your data](annotate.md#messages) says more about the most frequent errors, and
explains the [warnings](annotate.md#warnings).
"""
CELLS, OPTIONS, USAGE = "The file and its cells", "Options and arguments", "Wrong use of a command"
SHARING = "Sharing models"
FILES, DEVICE, REST = "The files of a model", "Device and installation", "While a command runs"
AREAS = (
    *(CELLS, "The genes", "The model", FILES, OPTIONS, USAGE, "The output", DEVICE, REST),
    *("Many samples", "The service", "Training", SHARING),
)
OF_FOLDER = {
    "batch": "Many samples",
    "service": "The service",
    "training": "Training",
    "sharing": SHARING,
}
OF_CLASS = {
    "GeneError": "The genes",
    "BundleError": "The model",
    "Flaw": FILES,
    "UsageError": USAGE,
    "BadParameter": USAGE,
    "OutputError": "The output",
    "DeviceError": DEVICE,
    "MissingExtraError": DEVICE,
    "ScBiGNNError": REST,
    "LostError": REST,
}
COLUMNS = {FILES: ("found", "expected"), USAGE: ("message",)}
USUAL = ("found", "expected", "what to do", "class")
ABOUT = {
    FILES: f"""
Each line begins with the path of the model and ends with "{FETCH_AGAIN}".
All are a `BundleError`: a file is damaged, or `train` did not write it.
[What is checked](formats.md#what-is-checked) lists the checks.
""",
    USAGE: "\nThese come from the command alone, with exit code 2.\n",
}
VARIES = "..."
DEEP = 3
"""A text that reaches an error through more names and calls counts as one that varies."""
WORDS = {
    **dict.fromkeys(("path", "file", "file.filename", "query", "target", "output"), "FILE"),
    **dict.fromkeys(("folder", "root"), "FOLDER"),
    **dict.fromkeys(("name", "key"), "NAME"),
    **dict.fromkeys(("error", "strerror", "reason"), "REASON"),
    **dict.fromkeys(("n", "down", "across"), "N"),
    **{w: w.upper() for w in ("species", "label", "model", "cell", "column", "device", "sheet")},
    "cell_type": "TYPE",
    "scheduler": "ADDRESS",
    "host": "HOST",
    "port": "PORT",
}
"""The word that stands for a part, by its expression or the last name of it."""


class Row(NamedTuple):
    """One message: its area, what was found, what was expected, what to do, and its class."""

    area: str
    found: str
    expected: str
    do: str
    kind: str


class Source:
    """One file of the code: its constants, and which function and class each node stands in."""

    def __init__(self, path: Path, module: str) -> None:
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.constants = vars(importlib.import_module(module))
        self.inside: dict[ast.AST, ast.FunctionDef] = {}
        self.kind: dict[ast.AST, str] = {}
        for outer in ast.walk(self.tree):  # which come before those in them
            if isinstance(outer, ast.FunctionDef):
                self.inside.update(dict.fromkeys(ast.walk(outer), outer))
            elif isinstance(outer, ast.ClassDef):
                self.kind.update(dict.fromkeys(ast.walk(outer), outer.name))

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Yield each call and the last part of its name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func).split(".")[-1], node

    def texts(self, node: ast.expr | None, depth: int = 0) -> list[str]:
        """Return the texts that an expression may have."""
        if isinstance(node, ast.JoinedStr | ast.BinOp):
            joined = node.values if isinstance(node, ast.JoinedStr) else [node.left, node.right]
            parts = [self.texts(part, depth) for part in joined]
            return ["".join(chosen) for chosen in itertools.product(*parts)]
        if isinstance(node, ast.IfExp | ast.BoolOp):
            return self.chosen(node, depth)
        if isinstance(node, ast.FormattedValue):
            return self.shown(node, depth)
        value = "" if node is None else self.constant(node)
        if value is None and isinstance(node, ast.Name) and depth < DEEP:
            return self.bound(node, depth + 1) or [word(node)]
        return [str(value) if value is not None else word(node) if node else ""]

    def chosen(self, node: ast.IfExp | ast.BoolOp, depth: int) -> list[str]:
        """Return the texts of an expression that chooses; one that may be nothing in brackets."""
        if isinstance(node, ast.IfExp):
            told = [*self.texts(node.body, depth), *self.texts(node.orelse, depth)]
            return [f"[{''.join(told)}]"] if len(told) == 2 and "" in told else told
        return [text for part in node.values for text in self.texts(part, depth)]

    def shown(self, node: ast.FormattedValue, depth: int) -> list[str]:
        """Return what a part in braces may become."""
        form = "".join(self.texts(node.format_spec))
        value = self.constant(node.value)
        if value is not None:
            return [format(value, form)]
        if form:
            return ["N%" if form.endswith("%") else "N"]
        return self.texts(node.value, depth) if node.conversion == -1 else [word(node.value)]

    def constant(self, node: ast.expr) -> Any:
        """Return the text or number that an expression always has, or None."""
        calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
        if calls and not re.fullmatch(r"'.*'\.join\([A-Z_]+\)|listed_\w+\(\)", ast.unparse(node)):
            return None
        try:
            made = compile(ast.Expression(node), "", "eval")
            value = eval(made, {**self.constants, "__builtins__": {}})  # noqa: S307 - our own code
        except (NameError, AttributeError, TypeError, LookupError):
            return None
        return value if isinstance(value, str | int | float) else None

    def bound(self, name: ast.Name, depth: int) -> list[str]:
        """Return the texts that a local name may have: as assigned, or as its callers pass it."""
        function = self.inside.get(name)
        if function is None:
            return []
        names = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
        stored = [
            node
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and node.id == name.id and isinstance(node.ctx, ast.Store)
        ]
        given = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name.id
        ]
        if len(stored) > len(given):  # also bound by a loop, or changed
            return []
        if name.id in names and not given and function.name != "__init__":
            at = names.index(name.id) - (names[0] == "self")
            for called, call in self.calls():
                if called == function.name:
                    passed = {k.arg: k.value for k in call.keywords}
                    given += [passed[name.id]] if name.id in passed else call.args[at : at + 1]
        texts = [text for node in given for text in self.texts(node, depth)]
        if not stored:  # one word from a caller is a name, not what is said
            texts = [text if " " in text else VARIES for text in texts]
        return list(dict.fromkeys(texts)) if any(map(is_said, texts)) else []


def word(node: ast.expr) -> str:
    """Return what stands for a part that varies."""
    text = ast.unparse(node)
    name = text.split(".")[-1]
    if name.startswith(("reason(", "one_line(")) or "splitlines()" in text:
        return "REASON"
    if name.startswith(("len(", "count(")):
        return "N"
    return WORDS.get(text) or WORDS.get(name, VARIES)


def is_said(text: str) -> bool:
    """Tell whether a text says something beside what varies."""
    return bool(re.search("[a-z]{2}", text))


def rows(source: Source, folder: str) -> Iterator[Row]:
    """Yield the messages of one file."""
    for called, call in source.calls():
        names = {"need": "Flaw", "__init__": source.kind.get(call, "")}
        name = names.get(called, called)
        passed = {k.arg: k.value for k in call.keywords}
        if name == "MissingExtraError" != called:
            continue  # its definition
        if called in ("Flaw", "need"):
            told = [*call.args, None][called == "need" :][:3]
        elif called == "MissingExtraError":
            yield from (lacking(purpose, passed) for purpose in source.texts(passed["purpose"]))
            continue
        elif called in ("UsageError", "BadParameter"):
            told = [call.args[0], None, None]
        elif name.endswith("Error") and call.args and {"expected", "do"} <= passed.keys():
            told = [call.args[-1], passed["expected"], passed["do"]]
        else:
            continue
        area = FILES if name == "Flaw" else OF_FOLDER.get(folder) or OF_CLASS.get(name)
        area = area or (CELLS if folder in ("query", "network", "output") else OPTIONS)
        expected, do = (" *or* ".join(map(code, source.texts(part))) for part in told[1:])
        for found in source.texts(told[0]):
            said = is_said(found) or any(map(is_said, source.texts(told[1])))
            if said and found != VARIES:
                yield Row(area, code(found), expected, do, code(name))


def lacking(purpose: str, passed: dict[str | None, ast.expr]) -> Row:
    """Return the message of a package that is not installed."""
    extra = ast.literal_eval(passed["extra"])
    found = f"{purpose} needs the Python package '...', which is not installed"
    return Row(
        DEVICE,
        code(found),
        code(f"the extra '{extra}'"),
        code("run: pip install ..."),
        code("MissingExtraError"),
    )


def code(text: str) -> str:
    """Return a text as it stands in a table."""
    if text == VARIES:
        return "see the message"
    text = re.sub(r"\[?\.\.\.\]?(\.\.\.)+", VARIES, " ".join(text.split())).replace("|", r"\|")
    return f"`{text}`" if text else ""


def messages() -> list[Row]:
    """Return all messages, sorted by their first words, so that moved code moves none."""
    found: set[Row] = set()
    for package, root in SOURCES.items():
        for path in sorted((root / package).rglob("*.py")):
            place = path.relative_to(root).with_suffix("")
            if path.name == "__main__.py":
                continue
            module = ".".join(place.parts).removesuffix(".__init__")
            folder = "training" if package == "scbignn_training" else place.parts[1]
            found.update(rows(Source(path, module), folder))
    return sorted(found, key=lambda row: (re.sub(r"[^a-z]+", " ", row.found).strip(), row))


def page() -> str:
    """Return the page."""
    every, lines = messages(), [HEAD]
    for area in AREAS:
        heads = COLUMNS.get(area, USUAL)
        lines += [f"## {area}", ABOUT.get(area, "")]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in every:
            if row.area == area:
                lines.append(f"| {' | '.join(row[1 : len(heads) + 1])} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
