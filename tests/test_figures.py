"""Figures for print, the report of a labelled file, colours for all eyes, the map that is kept."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import anndata as ad
import h5py
import numpy as np
import pytest

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.errors import InputError
from scbignn_infer.query.readers import AnnDataQuery, open_query
from scbignn_infer.report import figures, layout, palette, plates, views
from scbignn_infer.report.composition import Composition
from scbignn_infer.report.findings import Findings
from scbignn_infer.report.labelled import Labelled
from scbignn_infer.report.layout import CellMap

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore")  # numba and UMAP warn of their own matters
FILES = sorted([*(f"{n}{f}" for n in views.FIGURES for f in views.FORMATS), views.TABLE])


@pytest.fixture(scope="module")
def folder(run: Any, example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label the example with a report and figures, and return where all is."""
    folder = tmp_path_factory.mktemp("figures")
    adata = ad.read_h5ad(example)
    adata.obs["group"] = np.array(["control", "treated $x_1$"])[np.arange(adata.n_obs) % 3 % 2]
    adata.write_h5ad(folder / "q.h5ad")
    options = ["-m", "human-pbmc", "--threads", "1", "-o", folder / "o.h5ad"]
    drawn = ["--report", folder / "r.html", "--figures", folder / "figures"]
    told = run("annotate", folder / "q.h5ad", *options, *drawn).stderr
    assert f"report   {folder / 'r.html'}" in told
    assert f"figures  {folder / 'figures'}" in told
    return folder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def labelled(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the labelled file in a folder of its own."""
    return Path(shutil.copy(folder / "o.h5ad", tmp_path / "o.h5ad"))


# --- the report of a labelled file ---------------------------------------------------------------


def test_a_labelled_file_gives_the_same_report_without_labelling(
    run: Any, folder: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same figures, to the byte; the file stays as it was."""
    before = labelled.read_bytes()
    monkeypatch.setattr(layout, "lay_out", None)  # the map was kept
    out = labelled.with_name("figures")
    told = run("report", labelled, "--figures", out).stderr
    assert f"report   {labelled.with_suffix('.html')}" in told
    assert labelled.read_bytes() == before
    assert names(out) == FILES
    assert {
        n for n in FILES if (out / n).read_bytes() != (folder / "figures" / n).read_bytes()
    } == set()
    first, second = (
        path.read_text(encoding="utf-8").replace(name, "FILE")
        for path, name in ((folder / "r.html", "q.h5ad"), (labelled.with_suffix(".html"), "o.h5ad"))
    )
    assert first == second
    assert "of all 765 genes of the file" in first


def test_what_stands_in_the_file_is_shown(run: Any, labelled: Path) -> None:
    """Not what the model said: labels may be corrected by hand, and cells left out."""
    adata = ad.read_h5ad(labelled)[::2].copy()
    names = adata.obs["scbignn_cell_type"].astype(object)
    names[:7] = "mine & yours"
    adata.obs["scbignn_cell_type"] = names.astype("category")
    adata.write_h5ad(labelled)
    done = json.loads(run("report", labelled, "--json", "-o", labelled.with_name("p.html")).stdout)
    assert done["drawn"] == [str(labelled.with_name("p.html"))]
    page = labelled.with_name("p.html").read_text()
    (data,) = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    counts = {c["label"]: c["n"] for c in json.loads(data)["kinds"]["label"]["categories"]}
    assert counts == names.value_counts().to_dict()
    assert "mine &amp; yours" in page


def test_clusters_are_read_back(run: Any, folder: Path, tmp_path: Path) -> None:
    start = ["annotate", folder / "q.h5ad", "-m", "human-pbmc", "--threads", "1", "-q"]
    page = tmp_path / "r.html"
    keys = ["--cluster-key", "group", "--cluster-key", "sample"]
    adata = ad.read_h5ad(folder / "q.h5ad")
    adata.obs["sample"] = "one"
    adata.write_h5ad(tmp_path / "q.h5ad")
    start[1] = tmp_path / "q.h5ad"
    run(*start, *keys, "-o", tmp_path / "o.h5ad", "--report", page)
    run("report", tmp_path / "o.h5ad", "-q")
    first, second = (
        re.findall(r"<h2>Clusters</h2>.+?<h2>", path.read_text(), re.DOTALL)[0]
        for path in (page, tmp_path / "o.html")
    )
    assert first == second
    assert re.findall("<th>(group|sample)</th>", first) == ["group", "sample"]


def change(path: Path, edit: Callable[[h5py.File], Any]) -> None:
    with h5py.File(path, "r+") as file:
        edit(file)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.pop("uns/scbignn"), "holds no labels of a model under the key 'scbignn'"),
        (lambda f: f.pop("obs/scbignn_support"), "scbignn_support"),
        (lambda f: f["uns/scbignn"].pop("cell_types"), "holds no labels of a model"),
    ],
)
def test_files_without_labels_are_refused(
    run: Any, labelled: Path, edit: Callable[[h5py.File], Any], message: str
) -> None:
    change(labelled, edit)
    assert message in run("report", labelled, code=1).stderr
    assert names(labelled.parent) == ["o.h5ad"]


def test_a_column_that_holds_no_numbers_is_refused(run: Any, labelled: Path) -> None:
    adata = ad.read_h5ad(labelled)
    adata.obs["scbignn_novelty"] = "high"
    adata.write_h5ad(labelled)
    assert "holds what is no number" in run("report", labelled, code=1).stderr


def test_without_its_model_a_report_has_all_but_the_models_part(
    run: Any, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model of the same name is not taken for it; -m names the right one."""
    page, out = tmp_path / "o.html", tmp_path / "f"
    change(labelled, lambda f: f.__delitem__("uns/scbignn/model/sha256"))
    change(labelled, lambda f: f["uns/scbignn/model"].create_dataset("sha256", data="0" * 64))
    assert "0.1.0" not in run("report", labelled, "--figures", out).stderr.splitlines()[0]
    text = page.read_text()
    assert "is not among the installed models" in text
    assert "Genes that carry the labels" not in text
    assert "<h2>The model</h2>" not in text
    assert "Map of the cells" in text
    assert names(out) == [n for n in FILES if not n.startswith(("evidence", "markers"))]
    wrong = run("report", labelled, "-m", "human-pbmc", "--overwrite", code=1).stderr
    assert "the labels are of human-pbmc" in wrong


def test_without_counts_a_report_shows_no_genes(run: Any, labelled: Path) -> None:
    change(labelled, lambda f: (f.pop("X"), f["layers"] and f.pop("layers")))
    told = run("report", labelled).stderr
    assert "warning: genes are not shown: " in told
    assert "Genes that carry the labels" not in labelled.with_suffix(".html").read_text()


def test_nothing_is_replaced_or_half_written(run: Any, labelled: Path) -> None:
    page, out = labelled.with_suffix(".html"), labelled.with_name("f")
    page.write_text("mine")
    assert "o.html exists" in run("report", labelled, "--figures", out, code=1).stderr
    page.unlink()
    out.mkdir()
    (out / "map.pdf").write_text("mine")
    assert "map.pdf exists" in run("report", labelled, "--figures", out, code=1).stderr
    assert names(labelled.parent) == ["f", "o.h5ad"]
    assert names(out) == ["map.pdf"]
    run("report", labelled, "--figures", out, "--overwrite", "-q")
    assert names(out) == FILES
    assert (out / "map.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--figures", "o.h5ad"], "o.h5ad is no folder"),
        (["--figures", "no/where"], "no folder no"),
        (["-o", "r.pdf"], "ends in .html"),
        (["--basis", "X_tsne"], "no map of two dimensions in obsm['X_tsne']"),
        (["--sample-key", "absent"], "no obs['absent']"),
        (["--key-added", "mine"], "under the key 'mine'"),
        (["-m", "./absent"], "absent"),
    ],
)
def test_wrong_wishes_are_refused(
    run: Any, labelled: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(labelled.parent)
    assert message in run("report", "o.h5ad", *options, code=1).stderr
    assert names(labelled.parent) == ["o.h5ad"]


def test_without_matplotlib_figures_are_refused_in_one_line(
    run: Any, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = labelled.with_name("f")
    done = run("report", labelled, "--figures", out, code=1)
    assert "figures for print needs the Python package 'matplotlib'" in done.stderr
    assert names(labelled.parent) == ["o.h5ad"]
    run("report", labelled, "-q")


# --- the map -------------------------------------------------------------------------------------


def test_the_map_is_kept_where_it_was_made(folder: Path) -> None:
    """By a name that scanpy, CELLxGENE and Vitessce take for a map: X_, two columns of floats."""
    places = ad.read_h5ad(folder / "o.h5ad").obsm["X_scbignn_umap"]
    assert places.shape == (700, 2)
    assert places.dtype == np.float32
    assert np.isfinite(places).all()
    labels = ad.read_h5ad(folder / "o.h5ad").obs["scbignn_best_cell_type"].to_numpy()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(axis=1)] == labels).mean() > 0.9


def test_a_plain_labelling_keeps_no_map_and_removes_an_old_one(
    run: Any, labelled: Path, tmp_path: Path
) -> None:
    start = ["annotate", labelled, "-m", "human-pbmc", "--threads", "1", "-q"]
    taken = run(*start, "-o", tmp_path / "p.h5ad", code=1).stderr
    assert "exist already" in taken
    run(*start, "-o", tmp_path / "p.h5ad", "--overwrite")
    assert "X_scbignn_umap" not in ad.read_h5ad(tmp_path / "p.h5ad").obsm


def test_the_map_of_the_user_is_shown_by_default(
    run: Any, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = ad.read_h5ad(labelled)
    own = adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(700, 3))
    adata.obsm["X_odd"] = np.full((700, 2), np.nan)
    adata.write_h5ad(labelled)
    monkeypatch.setattr(layout, "lay_out", None)  # no map is made
    shown = {}
    for name, options in {"own": [], "kept": ["--basis", "X_scbignn_umap"]}.items():
        page = tmp_path / f"{name}.html"
        run("report", labelled, "-q", "-o", page, *options)
        (shown[name],) = re.findall(r"The map is (\w+):", page.read_text())
    assert shown == {"own": "X_umap", "kept": "X_scbignn_umap"}
    with open_query(labelled) as cells:
        found = layout.map_of(cells, "scbignn")
        assert found is not None
        np.testing.assert_allclose(found.places, own[:, :2], rtol=1e-6)
        assert layout.map_of(cells, "scbignn", "X_scbignn_umap") is None  # of earlier labels
        with pytest.raises(InputError, match="X_odd"):
            layout.map_of(cells, "scbignn", "X_odd")
    again = ["annotate", labelled, "-m", "human-pbmc", "--threads", "1", "--overwrite", "-q"]
    run(*again, "-o", tmp_path / "p.h5ad", "--report", tmp_path / "p.html")
    assert "The map is X_umap:" in (tmp_path / "p.html").read_text()
    assert "X_scbignn_umap" not in ad.read_h5ad(tmp_path / "p.h5ad").obsm


def test_tables_of_obsm_are_read_from_files_and_memory(labelled: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(labelled)
    adata.obsm["frame"] = adata.obs[["scbignn_confidence"]]
    adata.write_h5ad(labelled)
    with open_query(labelled) as cells:
        for query in (cells, AnnDataQuery(adata)):
            np.testing.assert_array_equal(query.obsm("X_scbignn"), adata.obsm["X_scbignn"])
            assert query.obsm("absent") is None
            assert query.obsm("frame") is None


def test_far_cells_do_not_press_the_others_together() -> None:
    """And a dense cluster at the edge keeps its form."""
    places = np.random.default_rng(0).normal(size=(5000, 2))
    scaled = CellMap(places, "X_umap").scaled
    assert scaled.min(axis=0).tolist() == [0, 0]
    assert scaled.max(axis=0).tolist() == [1, 1]
    assert (scaled == 1).sum() == 2
    places[0] = 1e6
    assert np.ptp(CellMap(places, "X_umap").scaled[1:], axis=0).min() > 0.8


def test_names_stand_where_most_cells_of_a_label_lie() -> None:
    rng = np.random.default_rng(0)
    places = np.vstack([rng.normal((0, 0), 0.1, (300, 2)), rng.normal((9, 9), 0.1, (100, 2))])
    labels = np.array(["a"] * 380 + ["b"] * 20, dtype=object)  # a few of "a" are far from the rest
    cells = CellMap(places, "X_umap")
    (x, y), (u, v) = (cells.centres(labels)[k] for k in "ab")
    assert max(x, y) < 0.1
    assert min(u, v) > 0.9


# --- figures -------------------------------------------------------------------------------------


def test_figures_have_the_size_of_a_journal(folder: Path) -> None:
    """One, one and a half or two columns wide, at most a page high; png at 300 dots an inch."""
    for name in views.FIGURES:
        svg = ET.parse(folder / "figures" / f"{name}.svg").getroot()
        points = [float(svg.attrib[k].removesuffix("pt")) for k in ("width", "height")]
        wide, tall = (p / 72 * 25.4 for p in points)
        assert 88 < wide < 184
        assert tall < 241
        head = (folder / "figures" / f"{name}.png").read_bytes()[:24]
        pixels = [int.from_bytes(head[i : i + 4], "big") for i in (16, 20)]
        np.testing.assert_allclose(pixels, [p / 72 * plates.DPI for p in points], atol=2)
        box = re.search(
            rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+)",
            (folder / "figures" / f"{name}.pdf").read_bytes(),
        )
        assert box is not None
        np.testing.assert_allclose([float(v) for v in box.groups()], points, atol=1)


def words_of(path: Path) -> list[str]:
    return [
        "".join(t.itertext()).strip()
        for t in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_words_stay_words_and_names_lie_on_no_other(folder: Path) -> None:
    labels = ad.read_h5ad(folder / "o.h5ad").obs["scbignn_cell_type"].value_counts()
    words = words_of(folder / "figures" / "map.svg")
    named = {k for k in labels.index if k != UNKNOWN}
    assert named <= set(words)
    assert f"700 cells; grey: {labels[UNKNOWN]} unknown" in words
    bars = words_of(folder / "figures" / "composition.svg")
    for label, n in labels.items():
        assert label in bars
        assert f"{n} ({100 * n / 700:.1f} %)" in bars
    text = (folder / "figures" / "map.svg").read_text()
    places = re.findall(r'text-anchor: middle" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)</text>', text)
    boxes = [(float(x), float(y), 3.6 * len(w)) for x, y, w in places if w in named]
    assert len(boxes) == len(named)
    for (x, y, w), (u, v, z) in itertools.combinations(boxes, 2):
        assert abs(y - v) > 6 or abs(x - u) > (w + z) / 2 - 3


def test_dots_are_drawn_with_a_scale(folder: Path) -> None:
    words = words_of(folder / "figures" / "evidence.svg")
    assert {"10 %", "50 %", "100 %", "cells with the gene", "MS4A1"} <= set(words)
    page = (folder / "r.html").read_text()
    (dots,) = re.findall(r"<svg [^>]+Expression of marker.+?</svg>", page, re.DOTALL)
    for words in ("cells with the gene", "10%", "50%", "100%", "mean, of the highest label"):
        assert words in dots


def test_two_samples_stand_side_by_side_with_their_difference(run: Any, labelled: Path) -> None:
    out = labelled.with_name("f")
    run("report", labelled, "--sample-key", "group", "--figures", out, "-q")
    obs = ad.read_h5ad(labelled).obs
    n = obs.groupby(["group", "scbignn_cell_type"], observed=False).size().unstack()
    share = 100 * n.div(n.sum(axis=1), axis=0)
    words = words_of(out / "composition.svg")
    assert "percentage points: treated $x_1$ less control" in words
    page = labelled.with_suffix(".html").read_text()
    table = re.findall(r'<table id="composition">.+?</table>', page, re.DOTALL)[0]
    for label in n.columns:
        change = f"{share[label].iloc[1] - share[label].iloc[0]:+.1f}"
        assert change in [w.replace("\N{MINUS SIGN}", "-") for w in words]
        row = next(r for r in table.split("<tr>") if f"</svg>{label}</td>" in r)
        assert change in row
        for sample in n.index:
            assert f"{n[label][sample]:,} ({share[label][sample] / 100:.1%})" in row
    rows = list(csv.DictReader((out / "composition.csv").open(encoding="utf-8")))
    for row in rows:
        assert int(row["cells"]) == n[row["cell_type"]][row["sample"]]
        assert float(row["share"]) == pytest.approx(
            share[row["cell_type"]][row["sample"]] / 100, rel=1e-4
        )
    assert {r["cell_type_ontology_id"] for r in rows if r["cell_type"] == "B"} == {"CL:0000236"}


def test_many_samples_and_many_cells_are_drawn(folder: Path, tmp_path: Path) -> None:
    """Of many cells the map is a picture within the svg, with words beside it."""
    with open_query(folder / "o.h5ad") as cells:
        few = Labelled.read(cells, "scbignn")
    many = np.random.default_rng(0).integers(0, 700, plates.MOST_VECTORS + 1)
    columns = {k: v[many] if isinstance(v, np.ndarray) else v for k, v in vars(few).items()}
    places = np.random.default_rng(1).random((len(many), 2))
    findings = Findings(
        "many",
        Labelled(**columns),
        [str(i) for i in many],
        CellMap(places, "X_umap"),
        samples=[f"s{i % 70}" for i in range(len(many))],
    )
    drawn = plates.draw(findings)
    assert sorted(drawn) == ["composition", "confidence", "map"]
    for name, figure in drawn.items():
        plates.save(figure, tmp_path / f"{name}.svg", ".svg")
    text = (tmp_path / "map.svg").read_text()
    assert "<image" in text
    assert len(text) < 2_000_000
    assert "DC" in words_of(tmp_path / "map.svg")
    assert "s69" not in "".join(words_of(tmp_path / "composition.svg"))
    assert findings.composition.cells.shape == (70, len(findings.looks))


def test_composition_counts_as_pandas_does() -> None:
    rng = np.random.default_rng(0)
    labels, samples = rng.choice(["a", "b", "c"], 99).astype(object), rng.choice(["x", "y"], 99)
    found = Composition.of(labels, ["c", "a", "b"], samples.tolist())
    for i, sample in enumerate(found.samples):
        for j, label in enumerate("cab"):
            assert found.cells[i, j] == ((samples == sample) & (labels == label)).sum()
    np.testing.assert_allclose(found.shares.sum(axis=1), 1)
    assert Composition.of(labels, ["a", "b", "c"]).samples == ["all cells"]


# --- colours -------------------------------------------------------------------------------------

SEEN = {
    "normal": "1 0 0 0 1 0 0 0 1",
    "protanopia": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 "
    "-0.003882 -0.048116 1.051998",
    "deuteranopia": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 "
    "-0.011820 0.042940 0.968881",
    "tritanopia": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 "
    "0.004733 0.691367 0.303900",
}
"""Linear light as it is seen: Machado, Oliveira and Fernandes 2009, at full severity."""
CONES = (
    "0.4122214708 0.5363325363 0.0514459929 0.2119034982 0.6806995451 0.1073969566 "
    "0.0883024619 0.2817188376 0.6299787005"
)
OKLAB = (
    "0.2104542553 0.7936177850 -0.0040720468 1.9779984951 -2.4285922050 0.4505937099 "
    "0.0259040371 0.7827717662 -0.8086757660"
)


def matrix(numbers: str) -> np.ndarray:
    return np.array(numbers.split(), float).reshape(3, 3)


def light(colour: str) -> np.ndarray:
    """Return the linear light of a colour."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def apart(one: str, other: str, eye: str) -> float:
    """Return how far two colours are apart, in hundredths of Oklab's unit."""
    seen = (matrix(SEEN[eye]) @ light(c) for c in (one, other))
    a, b = (matrix(OKLAB) @ np.cbrt(matrix(CONES) @ s.clip(0, 1)) for s in seen)
    return 100 * float(np.linalg.norm(a - b))


def contrast(one: str, other: str) -> float:
    dark, bright = sorted(float(light(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("eye", sorted(SEEN))
def test_seven_colours_are_told_apart_by_all_eyes(eye: str) -> None:
    """By 12 where #56B4E9 and #88CCEE are less than 9 apart, and grey by 9 from each."""
    assert len(palette.COLOURS) == 7
    pairs = {p: apart(*p, eye) for p in itertools.combinations(palette.COLOURS, 2)}
    assert min(pairs.values()) > 12, min(pairs, key=lambda pair: pairs[pair])
    assert min(apart(c, palette.UNKNOWN, eye) for c in palette.COLOURS) > 9
    assert apart("#56B4E9", "#88CCEE", eye) < 9


def test_colours_are_seen_on_the_light_and_on_the_dark_page() -> None:
    css = (Path(figures.__file__).parent / "templates" / "style.css").read_text()
    pages = re.findall(r"--page: (#\w+)", css)
    assert len(pages) == 2
    full = [p if len(p) == 7 else "#" + "".join(2 * c for c in p[1:]) for p in pages]
    for page in full:
        assert min(contrast(c, page) for c in (*palette.COLOURS, palette.UNKNOWN)) >= 2
    inks = [
        "#" + "".join(2 * c for c in i[1:]) if len(i) == 4 else i
        for i in re.findall(r"--ink: (#\w+)", css)
    ]
    softs = re.findall(r"--soft: (#\w+)", css)
    for words in (inks, softs):
        assert min(contrast(w, p) for w, p in zip(words, full, strict=True)) >= 4.5


def test_beyond_seven_patterns_tell_labels_apart() -> None:
    labels = [f"label {i}" for i in range(28)]
    looks = palette.looks([*labels[:3], UNKNOWN, *labels[3:]], UNKNOWN)
    assert looks[UNKNOWN].colour == palette.UNKNOWN
    assert len({looks[label] for label in labels}) == 28
    assert {looks[label].pattern for label in labels[:7]} == {palette.PLAIN}
    drawn = figures.patterns(looks)
    filled = {figures.fill(look) for look in looks.values() if look.pattern}
    assert {f"url(#{i})" for i in re.findall(r'<pattern id="([^"]+)"', drawn)} == filled
    assert len(filled) == 21
    assert figures.patterns({"a": palette.Look("#006677")}) == ""


# --- the page ------------------------------------------------------------------------------------


def test_warnings_then_the_map_come_first(folder: Path) -> None:
    page = (folder / "r.html").read_text()
    at = [page.index(part) for part in ('class="warning"', "Map of the cells", "<h2>Summary")]
    assert at == sorted(at)
    assert "<h2>" not in page[: at[0]]
    headings = re.findall(r"<h2>(.+?)</h2>", page)
    assert headings[:3] == ["Map of the cells", "Summary", "Labels"]


def test_unknown_cells_are_listed_with_their_reasons(folder: Path) -> None:
    obs = ad.read_h5ad(folder / "o.h5ad").obs
    unknown = obs[obs["scbignn_cell_type"] == UNKNOWN]
    assert len(unknown) > 3
    page = (folder / "r.html").read_text()
    (listed,) = re.findall(r"<summary>.+?</details>", page, re.DOTALL)
    rows = [re.findall(r"<td.*?>(.*?)</td>", row) for row in listed.split("<tr>")]
    found = {row[0]: row[1:3] for row in rows if row}
    assert found == {
        name: [row["scbignn_unknown_reason"], row["scbignn_best_cell_type"]]
        for name, row in unknown.iterrows()
    }
    supports = [float(row[3]) for row in rows if row]
    assert supports == sorted(supports, reverse=True)


def test_the_page_fits_a_phone_and_dark_mode(folder: Path) -> None:
    """What is wider than a phone scrolls by itself; no words have a colour of one mode alone."""
    page = (folder / "r.html").read_text()
    body = page[page.index("<body>") :]
    open_divs: list[str] = []
    for tag in re.finditer(r"<(/?)(div|svg|table)\b([^>]*)>", body):
        closing, name, attributes = tag.groups()
        if name == "div" and closing:
            open_divs.pop()
        elif name == "div":
            open_divs.append(attributes)
        elif not closing:
            width = re.search(r"width:(\d+)px", attributes)
            wide = name == "table" or (width is not None and int(width[1]) > 370)
            assert not wide or 'class="wide"' in " ".join(open_divs), tag[0]
    css = re.findall(r"<style>(.+?)</style>", page, re.DOTALL)[0]
    assert ".wide { overflow-x: auto; }" in css
    assert 'name="viewport" content="width=device-width' in page
    (dark,) = re.findall(
        r"@media screen and \(prefers-color-scheme: dark\) \{(.+?)\n\}", css, re.DOTALL
    )
    light_names = set(re.findall(r"--(\w+):", css.split("@media")[0]))
    assert set(re.findall(r"--(\w+):", dark)) == light_names
    assert not re.findall(r"(?<![-\w])(?:color|background): #", css)
    assert "fill: currentColor" in css
