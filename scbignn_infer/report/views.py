"""What a user wants to be drawn: a report, figures for print, or both. Refused at the gate."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from scbignn_infer.errors import MissingExtraError, OutputError
from scbignn_infer.output import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from scbignn_infer.output.atomic import Draft
    from scbignn_infer.query.identity import Identity
    from scbignn_infer.report.findings import Findings

PAGES = (".html",)
FIGURES = ("map", "confidence", "markers", "evidence", "composition")
"""Names of the figures."""
FORMATS = (".svg", ".pdf", ".png")
"""Each is written as each of them."""
TABLE = "composition.csv"


@dataclass(frozen=True)
class Views:
    """Where a report and figures go, and how they are divided and laid out."""

    page: Path | None = None
    figures: Path | None = None
    """The folder."""
    sample_key: str | None = None
    """Column of ``obs`` that they divide by."""
    basis: str | None = None
    """Name of the map in ``obsm``; by default that of the file's user, or that of the model."""
    title: str = ""
    """What the file is called in them; by default its name."""

    @property
    def paths(self) -> list[Path]:
        """All files that may be written, the report first."""
        names = [f"{name}{form}" for name in FIGURES for form in FORMATS]
        pages = [] if self.page is None else [self.page]
        folder = self.figures
        return pages if folder is None else [*pages, *(folder / name for name in (*names, TABLE))]

    def check(
        self, *, overwrite: bool, inputs: Sequence[Identity], others: Sequence[Path] = ()
    ) -> None:
        """Refuse what cannot be written, before any work is done."""
        needed = {"jinja2": "an HTML page"} if self.page is not None else {}
        if self.figures is not None:
            needed["matplotlib"] = "figures for print"
            _check_folder(self.figures)
        for path in self.paths:
            if path == self.page or path.parent.exists():
                suffixes = PAGES if path == self.page else (path.suffix,)
                atomic.check_output(
                    path, suffixes=suffixes, overwrite=overwrite, inputs=inputs, others=others
                )
        for module, purpose in needed.items():
            require(module, purpose)

    @contextmanager
    def drafting(self, *, new: bool) -> Iterator[list[Draft]]:
        """Make an empty draft of each of :attr:`paths`, and the folder if it is not there.

        A folder that was made goes with the block, if nothing has been put into it.
        """
        with ExitStack() as stack:
            if self.figures is not None and not self.figures.exists():
                with atomic.one_line(self.figures):
                    self.figures.mkdir()
                stack.callback(_remove_empty, self.figures)
            yield [stack.enter_context(atomic.drafting(path, new=new)) for path in self.paths]

    def write(self, drafts: Sequence[Draft], findings: Findings) -> tuple[list[Draft], list[str]]:
        """Draw what was wanted into drafts of :attr:`paths`.

        Return those that were written, and the warnings of the table among them.
        """
        by_name = {draft.target: draft for draft in drafts}
        written: list[Path] = []
        warnings: list[str] = []
        if self.page is not None:
            from scbignn_infer.report.page import write_report

            write_report(by_name[self.page].path, findings)
            written.append(self.page)
        if self.figures is not None:
            from scbignn_infer.report import plates

            for name, figure in plates.draw(findings).items():
                for form in FORMATS:
                    target = self.figures / f"{name}{form}"
                    with atomic.one_line(target):
                        plates.save(figure, by_name[target].path, form)
                    written.append(target)
            with atomic.one_line(self.figures / TABLE):
                table = by_name[self.figures / TABLE].path
                warnings = findings.composition.write(table, findings.labelled.ids)
            written.append(self.figures / TABLE)
        return [by_name[target] for target in written], warnings


def _check_folder(folder: Path) -> None:
    """Refuse what is there and is no folder, or whose parent is not there."""
    place = folder if folder.exists() else folder.parent
    if not place.is_dir():
        raise OutputError(
            f"{place} is no folder" if place.exists() else f"no folder {place}",
            expected="a folder for figures, or the name of a new one in a folder",
            do="choose another --figures",
        )


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # of one that holds what was put
        folder.rmdir()


def require(module: str, purpose: str) -> None:
    """Raise if a package of the extra is not there."""
    if find_spec(module) is None:
        raise MissingExtraError(module, extra="report", purpose=purpose)
