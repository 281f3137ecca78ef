"""What stands beside many samples: a table of types, one for MultiQC, an index of reports."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anndata as ad
import pytest

from scbignn_infer.batch import overview
from scbignn_infer.batch.overview import INDEX, MULTIQC, TABLE
from scbignn_infer.report.layout import FEW

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # numba and UMAP warn of their own matters
MODEL = ["-m", "human-pbmc", "--threads", "1"]


@pytest.fixture(scope="module")
def cells(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two samples with strange names and one that is broken."""
    folder = tmp_path_factory.mktemp("cells")
    whole = ad.read_h5ad(example)
    whole[:300].write_h5ad(folder / "a & #1?.h5ad")
    whole[300:].write_h5ad(folder / "b.h5ad")
    (folder / "broken.h5ad").write_bytes(b"no cells")
    return folder


@pytest.fixture(scope="module")
def folder(run: Any, cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label them with reports, and return where all is."""
    out = tmp_path_factory.mktemp("out")
    done = run("annotate", cells / "*.h5ad", *MODEL, "-O", out, "--reports", code=3)
    assert f"overview  {out / TABLE}, {out / MULTIQC}, {out / INDEX}" in done.stderr
    return out


def counts(folder: Path) -> dict[str, dict[str, int]]:
    """Return how many cells of each label the outputs have."""
    return {
        path.stem: ad.read_h5ad(path).obs["scbignn_cell_type"].value_counts().to_dict()
        for path in sorted(folder.glob("*.h5ad"))
    }


def test_the_table_holds_what_the_outputs_hold(folder: Path) -> None:
    rows = list(csv.DictReader((folder / TABLE).open(encoding="utf-8")))
    for row in rows:
        own = counts(folder)[row.pop("sample")]
        assert int(row.pop("all cells")) == sum(own.values())
        assert {k: int(n) for k, n in row.items() if int(n)} == own
    assert len(rows) == 2
    total = [sum(int(row[label]) for row in rows) for label in rows[0] if label != "unknown"]
    assert total == sorted(total, reverse=True)
    assert list(rows[0])[-1] == "unknown"


def test_multiqc_finds_the_same(folder: Path) -> None:
    document = json.loads((folder / MULTIQC).read_text())
    assert document["plot_type"] == "bargraph"
    shown = {k: {t: n for t, n in v.items() if n} for k, v in document["data"].items()}
    assert shown == counts(folder)


def test_multiqc_draws_it(folder: Path, tmp_path: Path) -> None:
    """By MultiQC itself, where it is installed."""
    multiqc = pytest.importorskip("multiqc")
    multiqc.reset()
    multiqc.parse_logs(folder / MULTIQC)
    assert "scbignn_cell_types" in multiqc.list_modules()
    assert sorted(multiqc.list_samples()) == sorted(counts(folder))


class Links(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(str(dict(attrs)["href"]))


def test_the_index_leads_to_each_report(folder: Path) -> None:
    page = (folder / INDEX).read_text()
    links = Links(page).found
    assert [unquote(link) for link in links] == ["a & #1?.html", "b.html"]
    assert not {"#", "?", " "} & set("".join(links))
    assert all((folder / unquote(link)).is_file() for link in links)
    assert "broken could not be labelled" in page
    assert "a &amp; #1?" in page
    assert "a & #1?" not in page


def test_a_second_run_writes_it_anew(run: Any, cells: Path, folder: Path, tmp_path: Path) -> None:
    """Of samples that are whole already, too; without reports there is no index."""
    before = {name: (folder / name).read_text() for name in (TABLE, MULTIQC, INDEX)}
    for name in before:
        (folder / name).write_text(before[name][:200])
    start = ["annotate", cells / "*.h5ad", *MODEL, "-q", "-O"]
    document = json.loads(run(*start, folder, "--reports", "--json", code=3).stdout)
    assert {r["status"] for r in document["samples"]} == {"skipped", "failed"}
    assert document["overview"] == [str(folder / name) for name in before]
    assert {name: (folder / name).read_text() for name in before} == before
    run(*start, tmp_path, code=3)
    assert not (tmp_path / INDEX).exists()
    assert (tmp_path / TABLE).read_text() == before[TABLE]


def test_the_index_of_somebody_else_is_not_replaced(run: Any, cells: Path, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text("mine")
    start = ["annotate", cells / "b.h5ad", *MODEL, "-q", "-O", tmp_path]
    done = run(*start, "--reports", code=1)
    assert f"index.html exists in {tmp_path}, and is not of an earlier run" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [INDEX]
    run(*start)
    assert (tmp_path / INDEX).read_text() == "mine"


def test_a_sample_of_the_same_name_is_refused(run: Any, cells: Path, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(f"query,name\n{cells / 'b.h5ad'},index\n")
    start = ["annotate", "--samples", tmp_path / "s.csv", *MODEL, "-q", "-O", tmp_path / "o"]
    done = run(*start, "--reports", code=1)
    assert "which is written for all samples" in done.stderr
    assert not (tmp_path / "o").exists()


def test_records_of_earlier_versions_and_odd_names_are_taken() -> None:
    records = [
        {"sample": "x\x1b", "status": "done", "labels": {"B": 2, "unknown": 1}},
        {"sample": "y", "status": "skipped", "labels": {"T": 5, "B": 1}},
        {"sample": "z", "status": "skipped"},
        {"sample": "w", "status": "failed", "error": "no"},
    ]
    whole = overview.Overview.of(records)
    assert whole.types == ["T", "B", "unknown"]
    assert whole.cells == [[0, 2, 1], [5, 1, 0]]
    assert list(whole.for_multiqc()["data"]) == [r"x\x1b", "y"]


def test_each_sample_has_a_folder_of_figures(run: Any, cells: Path, tmp_path: Path) -> None:
    """Which a later run takes as they are, unless one is missing."""
    out, figures = tmp_path / "out", tmp_path / "all" / "figures"
    (tmp_path / "few").mkdir()
    for path in (cells / "a & #1?.h5ad", cells / "b.h5ad"):
        ad.read_h5ad(path)[:FEW].write_h5ad(tmp_path / "few" / path.name)
    start = ["annotate", tmp_path / "few" / "*.h5ad", *MODEL, "-O", out, "--figures", figures]
    done = run(*start)
    assert f"figures   {figures}, a folder for each sample" in done.stderr
    names = ["a & #1?", "b"]
    assert sorted(path.name for path in figures.iterdir()) == names
    for name in names:
        rows = list(csv.DictReader((figures / name / "composition.csv").open(encoding="utf-8")))
        n = {row["cell_type"]: int(row["cells"]) for row in rows}
        assert n == counts(out)[name]
        drawn = {path.name for path in (figures / name).iterdir()}
        assert {"map.svg", "map.pdf", "map.png", "evidence.svg", "confidence.png"} <= drawn
        assert not list(out.glob("*.html"))
    assert {r["status"] for r in json.loads(run(*start, "--json").stdout)["samples"]} == {"skipped"}
    (figures / "b" / "map.pdf").unlink()
    (figures / "b" / ".map.svg.run-0123abcd.x.tmp").write_text("left by a run that was killed")
    again = json.loads(run(*start, "--json").stdout)["samples"]
    assert {r["sample"]: r["status"] for r in again} == {"a & #1?": "skipped", "b": "done"}
    assert {path.name for path in (figures / "b").iterdir()} == drawn
    other = run(*start[:-1], tmp_path / "other", "--json")
    assert {r["status"] for r in json.loads(other.stdout)["samples"]} == {"done"}
    assert {path.name for path in (tmp_path / "other" / "b").iterdir()} == drawn


@pytest.mark.parametrize(
    ("name", "figures", "said"),
    [
        ("b.h5ad", "out", "would be, or be in, a sample or the output of one"),
        ("c", "out/a.h5ad", "would be, or be in, a sample or the output of one"),
        (TABLE, "out", f"the output of a sample would be {TABLE}, which is written for all"),
        ("c", "cells/b.h5ad", "would be, or be in, a sample or the output of one"),
    ],
)
def test_figures_that_would_lie_on_others_are_refused(
    run: Any, cells: Path, tmp_path: Path, name: str, figures: str, said: str
) -> None:
    """Nothing is labelled or made."""
    (tmp_path / "cells").mkdir()
    for stem in "ab":
        (tmp_path / "cells" / f"{stem}.h5ad").write_bytes((cells / "b.h5ad").read_bytes())
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"query,name\ncells/a.h5ad,a\ncells/b.h5ad,b\ncells/a.h5ad,{name}\n")
    start = ["annotate", "--samples", sheet, *MODEL, "-O", tmp_path / "out"]
    assert said in run(*start, "--figures", tmp_path / figures, code=1).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "sheet.csv"]
