"""Workbooks: what stands on their sheets, and that no text of the data is a formula there."""

from __future__ import annotations

import csv
import json
import sys
import time
import zipfile
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scbignn_infer.errors import OutputError
from scbignn_infer.output import excel
from scbignn_infer.output.elements import Categories
from scbignn_infer.output.table import Table, formula_warnings, write_rows
from scbignn_infer.plain import encodable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = "human-pbmc"
ODD = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "#N/A", "=1+1", "1E5", "0012"]
"""Names of cells that a spreadsheet takes for something else."""
openpyxl = pytest.importorskip("openpyxl")


@pytest.fixture(scope="module")
def cells(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 200 cells of two samples, some with odd names."""
    found = ad.read_h5ad(example)[:200].copy()
    found.obs_names = [*ODD, *found.obs_names[len(ODD) :]]
    found.obs["sample"] = np.where(np.arange(200) % 4 == 0, "=one", "two")
    path: Path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    found.write_h5ad(path)
    return path


def sheet(path: Path, name: str) -> list[tuple[Any, ...]]:
    """Return the values of a sheet."""
    return list(openpyxl.load_workbook(path)[name].iter_rows(values_only=True))


@pytest.fixture(scope="module")
def outputs(
    run: Callable[..., Any], cells: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Return the same labels as workbook, text and summary."""
    folder = tmp_path_factory.mktemp("outputs")
    more = ["-m", MODEL, "--threads", 1, "--sample-key", "sample", "--json"]
    for suffix in ("xlsx", "csv"):
        said = run("annotate", cells, "-o", folder / f"a.{suffix}", *more, lines=None)
    return {
        "xlsx": folder / "a.xlsx",
        "csv": pd.read_csv(folder / "a.csv", index_col=0, dtype={"cell": str}, na_filter=False),
        "json": json.loads(said.stdout),
    }


def test_sheets_say_what_the_table_says(outputs: dict[str, Any], cells: Path) -> None:
    assert openpyxl.load_workbook(outputs["xlsx"]).sheetnames == [
        "types",
        "samples",
        "cells",
        "about",
    ]
    table = outputs["csv"]
    titles, *rows = sheet(outputs["xlsx"], "cells")
    assert list(titles) == ["cell", *table.columns]
    found = pd.DataFrame(rows, columns=titles).set_index("cell")
    assert found.index.tolist() == ad.read_h5ad(cells).obs_names.tolist() == table.index.tolist()
    for name in table:
        if table[name].dtype.kind == "f":
            np.testing.assert_array_equal(found[name].astype(float), table[name])
        else:
            assert found[name].fillna("").tolist() == table[name].tolist()


def test_types_and_samples_are_counted(outputs: dict[str, Any], cells: Path) -> None:
    table, n = outputs["csv"], outputs["json"]["labels"]
    titles, *rows = sheet(outputs["xlsx"], "types")
    types = pd.DataFrame(rows, columns=titles).set_index("label")
    assert types["cells"].to_dict() == n == table["scbignn_cell_type"].value_counts().to_dict()
    for label, of_type in table.groupby("scbignn_cell_type"):
        row = types.loc[label]
        assert row["share"] == pytest.approx(len(of_type) / 200, abs=1e-6)
        assert (row["ontology id"] or "") == of_type["scbignn_cell_type_ontology_id"].iloc[0]
        expected = of_type["scbignn_confidence"].median()
        assert row["median confidence"] == pytest.approx(expected, abs=1e-4)
    titles, *rows = sheet(outputs["xlsx"], "samples")
    samples = pd.DataFrame(rows, columns=titles).set_index("sample")
    sample = ad.read_h5ad(cells).obs["sample"].to_numpy()
    crossed = pd.crosstab(sample, table["scbignn_cell_type"].to_numpy())
    assert samples.index.tolist() == ["=one", "two"]
    assert samples["cells"].tolist() == [50, 150]
    for label in crossed:
        assert samples[label].tolist() == crossed.loc[samples.index, label].tolist()


def test_what_labels_are_based_on_is_there(outputs: dict[str, Any]) -> None:
    about = sheet(outputs["xlsx"], "about")
    assert ("model", "human-pbmc 3") in about
    said = [value for what, value in about if what == "warning"]
    ours = [w for w in outputs["json"]["warnings"] if "spreadsheet" not in w]
    assert said == ours


def test_no_text_is_a_formula(outputs: dict[str, Any]) -> None:
    book = openpyxl.load_workbook(outputs["xlsx"])
    found = {cell.value: cell for cell in book["cells"]["A"]}
    assert {found[name].data_type for name in ODD} == {"s"}
    assert all(found[name].quotePrefix for name in ODD if name[0] in "=+-@#")
    with zipfile.ZipFile(outputs["xlsx"]) as archive:
        sheets = [archive.read(n) for n in archive.namelist() if "worksheets/" in n]
    assert len(sheets) == 4
    assert not any(b"<f>" in s or b"<f " in s or b't="e"' in s for s in sheets)


def test_text_tables_have_names_as_they_are_and_say_so(
    outputs: dict[str, Any], run: Callable[..., Any], cells: Path, tmp_path: Path
) -> None:
    assert outputs["csv"].index[: len(ODD)].tolist() == ODD
    (said,) = [w for w in outputs["json"]["warnings"] if "spreadsheet" in w]
    assert said.startswith("5 names begin with =, +, - or @ ('=cmd|")
    done = run("annotate", cells, "-m", MODEL, "-o", tmp_path / "a.parquet", "--threads", 1)
    assert "spreadsheet" not in done.stderr
    labelled = tmp_path / "labelled.h5ad"
    run("annotate", cells, "-m", MODEL, "-o", labelled, "--threads", 1)
    keys = "scbignn_cell_type,scbignn_best_cell_type"
    done = run("consensus", labelled, "--keys", keys, "-o", tmp_path / "both.csv")
    assert "warning: 5 names begin with =, +, - or @" in done.stderr
    both = pd.read_csv(tmp_path / "both.csv", index_col=0, dtype={"cell": str}, na_filter=False)
    assert both.index[: len(ODD)].tolist() == ODD


def test_every_text_table_says_so(run: Callable[..., Any], cells: Path, tmp_path: Path) -> None:
    one = "warning: 1 name begins with =, +, - or @ ('=one'), and a spreadsheet"
    labelled, model = tmp_path / "labelled.h5ad", ["-m", MODEL, "--threads", 1]
    clusters = ["--cluster-key", "sample", "--cluster-table", tmp_path / "clusters.csv"]
    assert one in run("annotate", cells, *model, "-o", labelled, *clusters).stderr
    figures = ["--sample-key", "sample", "--figures", tmp_path / "figures"]
    assert one in run("report", labelled, *figures).stderr
    groups = ["--cluster-key", "sample", "-o", tmp_path / "groups.tsv"]
    assert one in run("explain", cells, *model, *groups).stderr
    single = ["--cells", "=1+1", "-o", tmp_path / "single.csv"]
    assert "warning: 1 name begins" in run("explain", cells, *model, *single).stderr
    (tmp_path / "=one.h5ad").write_bytes(cells.read_bytes())
    assert one in run("annotate", tmp_path / "=one.h5ad", *model, "-O", tmp_path / "out").stderr
    kinds = {
        "clusters.csv": ("cluster", ","),
        "figures/composition.csv": ("sample", ","),
        "groups.tsv": ("group", "\t"),
        "out/scbignn_cell_types.csv": ("sample", ","),
    }
    for name, (column, separator) in kinds.items():
        assert "=one" in set(pd.read_csv(tmp_path / name, sep=separator)[column]), name
        assert b"\r" not in (tmp_path / name).read_bytes(), name
    assert set(pd.read_csv(tmp_path / "single.csv")["cell"]) == {"=1+1"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_odd_texts_are_read_back_as_they_are(tmp_path: Path, suffix: str) -> None:
    rows = [("a\rb", 1, 0.1), ('say "x"', 2, 1e-12), ("a,b\tc", 3, -1.0), ("=\n", 4, 0.0)]
    path = tmp_path / f"a{suffix}"
    (said,) = write_rows(path, suffix, ("+name", "n", "x"), rows)
    assert said.startswith("2 names begin with =, +, - or @ ('+name')")
    with path.open(encoding="utf-8", newline="") as text:
        titles, *found = csv.reader(text, delimiter="\t" if suffix == ".tsv" else ",")
    assert titles == ["+name", "n", "x"]
    assert [(a, int(b), float(c)) for a, b, c in found] == rows


def test_a_warning_names_the_first() -> None:
    assert formula_warnings(["a", "b=c", "1-2", ""]) == []
    (said,) = formula_warnings(["a", "-x", "@y"])
    assert said.startswith("2 names begin with =, +, - or @ ('-x')")


def write(path: Path, names: list[str]) -> list[Any]:
    """Write names, numbers and categories as a sheet, and return what is read of it."""
    codes = np.zeros(len(names), np.int8)
    columns = {"n": np.full(len(names), 0.1, np.float32), "c": Categories(codes, ["=x"])}
    table = Table(names, columns)
    path.touch()
    excel.write_workbook(path, [excel.Sheet("cells", table.titles, table.values())])
    return sheet(path, "cells")[1:]


def test_the_same_sheets_are_the_same_bytes_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for name, now in (("a.xlsx", 1.6e9), ("b.xlsx", 1.9e9)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        write(tmp_path / name, ["a", "=b"])
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    with zipfile.ZipFile(tmp_path / "a.xlsx") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
        assert archive.testzip() is None
    properties = openpyxl.load_workbook(tmp_path / "a.xlsx").properties
    assert (properties.created.year, properties.modified.year) == (1980, 1980)


def test_numbers_are_as_short_as_in_text(tmp_path: Path) -> None:
    assert write(tmp_path / "a.xlsx", ["a", "b"]) == [("a", 0.1, "=x"), ("b", 0.1, "=x")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a\nb", "a\nb"),
        (" a ", " a "),
        ("bell\x07", "bell_x0007_"),
        ("cr\r", "cr_x000D_"),
        ("_x0041_", "_x005F_x0041_"),
        ("\udce9", encodable("\udce9")),
        ("<&>'\"", "<&>'\""),
    ],
)
def test_names_that_xml_has_not_are_escaped_as_the_format_does(
    tmp_path: Path, name: str, expected: str
) -> None:
    assert write(tmp_path / "a.xlsx", [name])[0][0] == expected


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.touch()
    rows = [("a", np.float32(np.nan)), ("b", np.inf), ("c", 3)]
    excel.write_workbook(path, [excel.Sheet("s", ["x", "y"], rows)])
    assert sheet(path, "s")[1:] == [("a", None), ("b", None), ("c", 3)]


def test_a_sheet_has_no_more_rows_than_it_can(tmp_path: Path) -> None:
    excel.refuse_too_many(excel.MOST_ROWS - 1, tmp_path / "a.xlsx")
    with pytest.raises(OutputError, match=r"1,048,576 cells for a sheet of a.xlsx; expected at"):
        excel.refuse_too_many(excel.MOST_ROWS, tmp_path / "a.xlsx")


def test_a_file_of_too_many_cells_is_refused_before_any_work(
    run: Callable[..., Any], cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excel, "MOST_ROWS", 200)
    out = tmp_path / "a.xlsx"
    done = run("annotate", cells, "-m", MODEL, "-o", out, code=1)
    assert "200 cells for a sheet of a.xlsx; expected at most 199" in done.stderr
    assert "write .csv or .parquet" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_text_beyond_what_a_cell_holds_is_refused_and_not_cut(
    run: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    longest = "x" * excel.MOST_CHARACTERS
    assert write(tmp_path / "a.xlsx", [longest])[0][0] == longest
    groups = {"B": f"{longest}x"}
    cells = ad.read_h5ad(example)[:60].copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "map.json").write_text(json.dumps(groups))
    more = ["-m", MODEL, "--group-map", tmp_path / "map.json", "-o", tmp_path / "b.xlsx"]
    done = run("annotate", tmp_path / "cells.h5ad", *more, code=1)
    assert "a text of 32,768 characters for a cell of a sheet" in done.stderr
    assert not (tmp_path / "b.xlsx").exists()


def test_without_openpyxl_one_line_says_how_to_get_it(
    run: Callable[..., Any], cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    done = run("annotate", cells, "-m", MODEL, "-o", tmp_path / "a.xlsx", code=1)
    assert "xlsx output needs the Python package 'openpyxl'" in done.stderr
    assert "expected the extra 'excel'; run: pip install" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sample_column_must_be_there(
    run: Callable[..., Any], cells: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.xlsx"
    done = run("annotate", cells, "-m", MODEL, "-o", out, "--sample-key", "donor", code=1)
    assert "has no obs['donor']" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_many_samples_are_workbooks_too(
    run: Callable[..., Any], cells: Path, tmp_path: Path
) -> None:
    more = ["-m", MODEL, "--format", "xlsx", "--sample-key", "sample", "--threads", 1]
    run("annotate", cells, "-O", tmp_path / "out", *more)
    rows = sheet(tmp_path / "out" / "cells.xlsx", "samples")
    assert [row[:2] for row in rows[1:]] == [("=one", 50), ("two", 150)]
