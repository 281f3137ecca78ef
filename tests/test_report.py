"""The report: what it holds, how large it is, and that it works in a browser without a network."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata as ad
import msgspec
import numpy as np
import pytest

from scbignn_infer import evaluation
from scbignn_infer.annotator import Annotator
from scbignn_infer.explanation import CellExplanation
from scbignn_infer.model.bundle import GeneWeight, Interpretation, PairWeight
from scbignn_infer.network.sessions import Runtime
from scbignn_infer.plain import UNSAFE, visible
from scbignn_infer.query.readers import open_query
from scbignn_infer.report import figures, palette, pictures, plates, summaries
from scbignn_infer.report.findings import Findings
from scbignn_infer.report.labelled import Labelled
from scbignn_infer.report.layout import CellMap, lay_out
from scbignn_infer.report.markers import Dots, Markers, express
from scbignn_infer.report.page import write_report

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = Runtime("cpu", 0, 1)
pytestmark = pytest.mark.filterwarnings("ignore")  # numba and UMAP warn of their own matters


@pytest.fixture(scope="module")
def folder(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label the example, in three samples with a strange name, and return where the files are."""
    folder = tmp_path_factory.mktemp("report")
    adata = ad.read_h5ad(REPOSITORY / "scbignn_infer" / "examples" / "pbmc700.h5ad")
    names = np.array(["first", "<second> & 'more'", "drei ä"])
    adata.obs["sample"] = names[np.arange(adata.n_obs) % 3]
    adata.write_h5ad(folder / "q.h5ad")
    options = ["-m", "human-pbmc", "-q", "-o", folder / "o.h5ad", "--sample-key", "sample"]
    run("annotate", folder / "q.h5ad", *options, "--report", folder / "r.html")
    return folder


class Reader(HTMLParser):
    """Collects the words, and everything that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.loads += [str(v) for k, v in attrs if k in ("src", "href", "data", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)


def read(path: Path) -> tuple[str, Reader, dict[str, Any]]:
    text, reader = path.read_text(encoding="utf-8"), Reader()
    reader.feed(text)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    return text, reader, json.loads(data[1])


def test_it_loads_nothing_and_says_everything(folder: Path) -> None:
    text, reader, data = read(folder / "r.html")
    assert reader.loads == ["data:,"]
    assert not re.search(
        r"url\((?!#)|@import|fetch\(|XMLHttpRequest|(?:src|href)\s*=\s*[\"']https?:", text
    )
    words = " ".join(reader.words)
    labels = ad.read_h5ad(folder / "o.h5ad").obs["scbignn_cell_type"]
    for label, n in labels.value_counts().items():
        assert str(label) in words
        shown = next(c for c in data["kinds"]["label"]["categories"] if c["label"] == label)
        assert shown["n"] == n
    for part in ("Map of the cells", "Composition", "How sure", "Genes that carry the labels"):
        assert part in words
    assert "log1p-cut" in words
    assert "<second>" not in text.replace("\\u003c", "<").split('id="data"')[0]
    assert "&lt;second&gt;" in text
    assert "MS4A1" in words or "CD79A" in words


@pytest.mark.parametrize(
    ("model", "file", "of_label", "lacks"),
    [
        (
            "human-pbmc",
            "scbignn_infer/examples/pbmc700.h5ad",
            {"B": "MS4A1", "Naive CD8 T": "CD8B", "NK": "NKG7", "CD16 Mono": "FCGR3A"},
            ("Memory CD4 T", "TYROBP"),
        ),
        (
            "human-pancreas",
            "tests/data/pancreas400.h5ad",
            {"beta": "INS", "alpha": "GCG", "delta": "SST", "ductal": "KRT7", "acinar": "CELA3B"},
            ("beta", "ACP5"),
        ),
    ],
)
def test_genes_are_shown_for_the_labels_that_have_them(
    model: str, file: str, of_label: dict[str, str], lacks: tuple[str, str]
) -> None:
    """Four new ones a label, of the model and of the cells; what a label lacks stands apart."""
    annotator = Annotator.load(model, device="cpu", threads=1)
    with open_query(REPOSITORY / file) as query:
        choice = annotator.choose(query)
        found = annotator.annotate_query(query, choice=choice)
        labelled, grouping = Labelled.of(found), annotator.rules.grouping
        markers = express(query, choice, labelled, grouping)
    for dots in (markers.carried, markers.shown):
        most = {
            gene: markers.labels[i]
            for gene, i in zip(dots.genes, dots.mean.argmax(axis=0), strict=True)
        }
        assert len(dots.genes) == len(set(dots.genes)) <= 4 * len(markers.labels)
        wrong = {label: gene for label, gene in of_label.items() if most.get(gene) != label}
        assert len(wrong) <= (dots is markers.shown)  # T cells differ little among themselves
    label, gene = lacks
    assert markers.absent[label][gene] < 0
    assert all(-1 < w < 0 for genes in markers.absent.values() for w in genes.values())
    for own, genes in markers.absent.items():  # less of it than the label that has most
        row = markers.labels.index(own)
        shown = [markers.carried.genes.index(g) for g in genes if g in markers.carried.genes]
        mean = markers.carried.mean
        assert (mean[row, shown] < mean[:, shown].max(axis=0)).all()


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{}{0}%s&<!-- <script>"
    "$\\frac{$\u202e\u2028\x1b[31m\x00\n\udcff"
)


class Parts(HTMLParser):
    """Collects tags, attributes and ids of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.ids += [str(value) for name, value in attrs if name == "id"]


def check_harmless(path: Path, scripts: int = 0) -> str:
    """Fail where a page holds more than what it was made of; names must be read as they are."""
    text = path.read_text(encoding="utf-8")
    parts = Parts(text)
    assert parts.tags["script"] == scripts
    assert not {"img", "a", "iframe", "object", "form"} & set(parts.tags)
    assert parts.tags["link"] == text.count('href="data:,"') == text.count("<link") == 1
    assert not [name for name in parts.attributes if name.startswith("on")]
    assert len(parts.ids) == len(set(parts.ids))
    assert not UNSAFE.search(text.replace("\n", ""))
    for shown in ("onerror=alert(2)&gt;", r"\u202e\u2028\x1b[31m\x00\n\xff"):
        assert shown in text
    return text


def test_names_of_others_are_words_and_nothing_else(tmp_path: Path) -> None:
    """In every page and picture: cells, labels, genes, samples, columns, files and models."""
    annotator = Annotator.load("human-pbmc", device="cpu", threads=1)
    groups = {label: f"{HOSTILE} {label[:1]}" for label in annotator.bundle.cell_types}
    grouped = Annotator(annotator.bundle, device="cpu", threads=1, groups=groups)
    with open_query(REPOSITORY / "scbignn_infer" / "examples" / "pbmc700.h5ad") as query:
        found = grouped.annotate_query(query)
    spec = msgspec.structs.replace(
        annotator.bundle.spec,
        **dict.fromkeys(("name", "version", "description", "licence", "tissue"), HOSTILE),
    )
    n, labels = len(found), list(found.counts())
    based = found.provenance
    based = msgspec.structs.replace(
        based,
        matrix=msgspec.structs.replace(based.matrix, name=HOSTILE, verdicts={HOSTILE: HOSTILE}),
        genes=msgspec.structs.replace(based.genes, column=HOSTILE),
    )
    found = replace(found, provenance=based)
    dots = Dots([HOSTILE], np.ones((len(labels), 1)), np.ones((len(labels), 1)))
    markers = Markers(labels, dots, dots, {HOSTILE: {HOSTILE: -1.0}}, 1)
    findings = Findings(
        HOSTILE,
        Labelled.of(found),
        [f"{HOSTILE}{i}" for i in range(n)],
        CellMap(np.zeros((n, 2)), HOSTILE),
        spec=spec,
        markers=markers,
        samples=[HOSTILE] * n,
        warnings=[HOSTILE],
    )
    write_report(tmp_path / "r.html", findings)
    text = check_harmless(tmp_path / "r.html", scripts=2)
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["names"][3] == f"{visible(HOSTILE)}3"

    best = found.best_labels.astype(object)
    scores = evaluation.score(best, best, best == best, found.cell_types)  # noqa: PLR0124
    against = {"key": HOSTILE, "agreement": asdict(evaluation.agreement(best, best)), "scores": {}}
    against["agreement"]["pairs"] = [(HOSTILE, HOSTILE, 3)]
    summaries.write_scores(tmp_path / "s.html", HOSTILE, scores, against, warnings=[HOSTILE])
    check_harmless(tmp_path / "s.html")

    genes = [GeneWeight(symbol=HOSTILE, weight=w) for w in (0.5, -0.2)]
    pairs = [PairWeight(genes=(HOSTILE, HOSTILE), weight=0.1)]
    types = {HOSTILE: Interpretation(genes=genes, pairs=pairs)}
    summaries.write_model(tmp_path / "m.html", HOSTILE, types)
    check_harmless(tmp_path / "m.html")
    own = {HOSTILE: 0.5}
    cell = CellExplanation(
        *(HOSTILE, HOSTILE, HOSTILE, 0.5, 0.5, 0.5),
        *(own, own, {HOSTILE: 3}, own, {"other": 0.1}),
    )
    summaries.write_cells(tmp_path / "c.html", HOSTILE, [cell])
    check_harmless(tmp_path / "c.html")
    pictures.draw_model(tmp_path / "m.png", types, 5)
    pictures.draw_cells(tmp_path / "c.png", [cell], 5)
    for samples in (None, [HOSTILE, "b"] * (n // 2), [HOSTILE, "b", "c", "d"] * (n // 4)):
        for name, figure in plates.draw(replace(findings, samples=samples)).items():
            plates.save(figure, tmp_path / f"{name}.svg", ".svg")
            drawn = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
            assert not UNSAFE.search(drawn.replace("\n", ""))
            assert "<script" not in drawn


@pytest.mark.parametrize("command", ["annotate", "evaluate", "models explain"])
def test_without_jinja2_a_page_is_refused_in_one_line(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """And a report is refused before any work."""
    page, labelled = str(tmp_path / "p.html"), str(folder / "o.h5ad")
    options = {
        "annotate": [str(folder / "q.h5ad"), "-o", str(tmp_path / "o.h5ad"), "--report", page],
        "evaluate": [labelled, "--truth", "scbignn_best_cell_type", "-o", page],
        "models explain": ["human-pbmc", "-o", page],
    }
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = run(*command.split(), *options[command], code=1)
    assert "an HTML page needs the Python package 'jinja2'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_warnings_come_first(folder: Path) -> None:
    text, _, _ = read(folder / "r.html")
    assert text.index('class="warning"') < text.index("Map of the cells")


def test_a_hundred_thousand_cells_stay_small(folder: Path, tmp_path: Path) -> None:
    from scbignn_infer.annotation.annotation import Annotation

    annotator = Annotator.load("human-pbmc", device="cpu", threads=1)
    with open_query(folder / "q.h5ad") as query:
        few = annotator.annotate_query(query)
    many = np.random.default_rng(0).integers(0, 700, 100_000)
    per_cell = (
        "probabilities",
        "gene_level_codes",
        "neighbor_agreement",
        "novelty",
        "residual",
        "embedding",
    )
    parts = {name: getattr(few, name)[many] for name in (*per_cell, "empty")}
    rest = {
        name: getattr(few, name)
        for name in ("cell_types", "ontology_ids", "confidence_threshold", "provenance")
    }
    findings = Findings(
        "many",
        Labelled.of(Annotation(**parts, **rest)),
        [f"cell{i}" for i in range(100_000)],
        CellMap(np.random.default_rng(1).random((100_000, 2)), "X_umap"),
        spec=annotator.bundle.spec,
        samples=[f"sample {i % 40}" for i in range(100_000)],
    )
    write_report(tmp_path / "r.html", findings)
    assert (tmp_path / "r.html").stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--report", "r.txt"], "ends in .html"),
        (["--report", "nowhere/r.html"], "no folder nowhere"),
        (["--report", "r.html", "--sample-key", "absent"], "no obs['absent']"),
    ],
)
def test_wrong_wishes_are_refused_before_any_work(
    run: Any,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    start = ["annotate", str(folder / "q.h5ad"), "-m", "human-pbmc", "-o", "o.h5ad"]
    assert message in run(*start, *options, code=1).stderr
    assert list(tmp_path.iterdir()) == []


def test_scores_and_explanations_become_pages(run: Any, folder: Path, tmp_path: Path) -> None:
    def page(*arguments: object) -> tuple[str, list[str]]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.html"
        assert run(*arguments, "-o", path).stdout == ""
        reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        assert reader.loads == ["data:,"]
        assert path.read_text(encoding="utf-8").count("<svg") == path.read_text().count("</svg>")
        return " ".join(reader.words), reader.loads

    truth = ["--truth", "scbignn_gene_level_cell_type", "--against", "scbignn_best_cell_type"]
    words, _ = page("evaluate", folder / "o.h5ad", *truth)
    for part in ("Calibration", "True type (row)", "Against scbignn_best_cell_type", "macro-F1"):
        assert part in words
    words, _ = page("models", "explain", "human-pbmc")
    assert {"MS4A1", "NKG7", "Megakaryocyte"} <= set(words.split())
    names = list(ad.read_h5ad(folder / "q.h5ad", backed="r").obs_names[:2])
    words, _ = page("explain", folder / "q.h5ad", "--cells", ",".join(names), "-m", "human-pbmc")
    assert all(name in words for name in names)
    again = ["models", "explain", "human-pbmc", "-o", tmp_path / "1.html"]
    assert "exists" in run(*again, code=1).stderr


@pytest.mark.parametrize("n", [1, 2, 20, 60])
def test_any_number_of_cells_is_laid_out_the_same_twice(n: int) -> None:
    z = np.random.default_rng(0).standard_normal((n, 12)).astype(np.float32)
    place = lay_out(z, runtime=CPU)
    assert place.shape == (n, 2)
    assert place.dtype == np.float32
    assert np.isfinite(place).all()
    scaled = CellMap(place, "X_umap").scaled
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    np.testing.assert_array_equal(place, lay_out(z, runtime=CPU))


def test_like_cells_lie_together() -> None:
    rng = np.random.default_rng(0)
    z = np.repeat(np.eye(3, 16), 80, axis=0) + 0.1 * rng.standard_normal((240, 16))
    place = lay_out(z.astype(np.float32), runtime=CPU)
    own = np.repeat(np.arange(3), 80)
    distance = np.linalg.norm(place[:, None] - place[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (own[distance.argmin(axis=1)] == own).mean() > 0.99


def luminance(colour: str) -> float:
    return sum(w * int(colour[i : i + 2], 16) for w, i in ((0.3, 1), (0.6, 3), (0.1, 5)))


def test_the_ramp_grows_lighter() -> None:
    lights = [luminance(palette.ramp(i / 20)) for i in range(21)]
    assert lights == sorted(lights)


# --- in a browser --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1200, 390])
def test_it_works_in_chromium(browser: Any, folder: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("request", lambda r: asked.append(r.url))
    page.goto((folder / "r.html").as_uri())
    assert page.evaluate("document.body.scrollWidth") <= width
    count = """() => {
        const c = document.getElementById("map"), d = c.getContext("2d");
        const p = d.getImageData(0, 0, c.width, c.height).data, seen = new Set();
        let n = 0;
        for (let i = 0; i < p.length; i += 4)
            if (p[i + 3]) { n++; seen.add(p[i] + "," + p[i + 1] + "," + p[i + 2]); }
        return [n, seen.size];
    }"""
    drawn, colours = page.evaluate(count)
    assert drawn > 1000
    assert colours >= 4
    shown: dict[str, str] = {}
    for kind in ("confidence", "novelty", "sample", "label"):
        page.select_option("#colour-by", kind)
        assert page.get_attribute("#map", "data-drawn") == kind
        shown[kind] = page.evaluate("document.getElementById('map').toDataURL()")
        assert page.evaluate(count)[0] > 1000
    assert len(set(shown.values())) == 4
    page.click("#legend button >> nth=0")
    assert page.evaluate(count)[0] < drawn
    page.click("#legend button >> nth=0")
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    first = page.evaluate("""() => {
        const d = JSON.parse(document.getElementById("data").textContent);
        const b = (t) => new Uint16Array(Uint8Array.from(atob(t), (c) => c.charCodeAt(0)).buffer);
        return [b(d.x)[0] / 65535, b(d.y)[0] / 65535];
    }""")
    page.mouse.move(
        box["x"] + (0.02 + 0.96 * first[0]) * box["width"],
        box["y"] + (0.98 - 0.96 * first[1]) * box["height"],
    )
    tip = page.inner_text("#tip")
    assert "label: " in tip
    assert "confidence: " in tip
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_stand_on_the_map_on_a_light_and_a_dark_page(
    browser: Any, folder: Path, scheme: str
) -> None:
    """On a phone: in the ink of the page, none of unknown cells; the legend has all."""
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto((folder / "r.html").as_uri())
    paint = """(name) => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number)"""
    ground, ink = (sum(page.evaluate(paint, name)) for name in ("backgroundColor", "color"))
    assert abs(ink - ground) > 500
    assert (ground < ink) == (scheme == "dark")
    counts = ad.read_h5ad(folder / "o.h5ad").obs["scbignn_cell_type"].value_counts()
    named = page.get_attribute("#map", "data-names").split("\n")
    assert set(counts.index[:4]) <= set(named) <= set(counts.index) - {"unknown"}
    seen = """(value) => {
        const c = document.getElementById("map"), d = c.getContext("2d");
        const p = d.getImageData(0, 0, c.width, c.height).data;
        let n = 0;
        for (let i = 0; i < p.length; i += 4)
            if (p[i + 3] > 250 && Math.abs(p[i] + p[i + 1] + p[i + 2] - value) < 9) n++;
        return n;
    }"""
    assert page.evaluate(seen, ink) > 100
    page.uncheck("#named")
    assert page.get_attribute("#map", "data-names") == ""
    assert page.evaluate(seen, ink) == 0
    wide = """() => [...document.querySelectorAll("body *")].filter((e) =>
        !e.closest(".wide") && e.getBoundingClientRect().right > 390.5).map((e) => e.outerHTML)"""
    assert page.evaluate(wide) == []
    size = """() => Math.min(...[...document.querySelectorAll("svg text")].map((e) =>
        e.getBoundingClientRect().height && parseFloat(getComputedStyle(e).fontSize)
        * e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.viewBox.baseVal.width)
        .filter(Boolean))"""
    assert page.evaluate(size) > 9  # pixels: words do not shrink with their figure
    page.close()


@pytest.mark.parametrize(("value", "anchor"), [(0.3, "start"), (0.99, "end")])
def test_where_unknown_begins_is_marked(value: float, anchor: str) -> None:
    """With words that stay within the figure."""
    drawn = figures.histogram(
        np.linspace(0, 1, 9), "Title", "novelty", mark=("unknown above", value)
    )
    assert re.search(rf'text-anchor="{anchor}">unknown above {value:.2f}<', drawn)
    (line,) = re.findall(r'<line x1="([\d.]+)"', drawn)
    (words,) = re.findall(r'x="([\d.]+)" y="14.0"', drawn)
    assert (float(words) > float(line)) == (anchor == "start")
    assert "unknown" not in figures.histogram(np.linspace(0, 1, 9), "Title", "novelty")


def test_a_limit_on_novelty_is_shown(run: Any, folder: Path, tmp_path: Path) -> None:
    start = ["annotate", str(folder / "q.h5ad"), "-m", "human-pbmc", "-q"]
    page, out = str(tmp_path / "r.html"), str(tmp_path / "o.h5ad")
    run(*start, "-o", out, "--report", page, "--max-novelty", "0.95")
    strict, usual = Path(page).read_text(), (folder / "r.html").read_text()
    assert "unknown above 0.95" in strict
    assert "unknown above" not in usual
    assert all("unknown below 0.50" in text for text in (strict, usual))
