"""Evidence: what groups of cells show is what counting says, and missing markers are named."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scbignn_infer
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError
from scbignn_infer.gene_evidence import find_evidence
from scbignn_infer.query.expressed import FileGenes, Shown
from scbignn_infer.query.readers import AnnDataQuery
from scbignn_infer.settings import Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer.gene_evidence import Evidence

REPOSITORY = Path(__file__).resolve().parents[1]
HORMONES = {"beta": "INS", "alpha": "GCG", "delta": "SST"}
MARKERS = {
    "B": {"MS4A1", "CD79A", "CD79B"},
    "CD16 Mono": {"FCGR3A"},
    "NK": {"NKG7", "GNLY"},
    "Plasma": {"MZB1", "TNFRSF17"},
    "T cell": {"CD3D", "CD3E"},
    "Naive CD8 T": {"CD8A", "CD8B"},
}
"""Of the example: known to every textbook, and not taken from the model."""


@pytest.fixture(scope="module")
def islets() -> ad.AnnData:
    return ad.read_h5ad(REPOSITORY / "tests" / "data" / "pancreas400.h5ad")


@pytest.fixture(scope="module")
def islet_annotator() -> Annotator:
    return Annotator.load("human-pancreas", device="cpu", threads=1)


@pytest.fixture(scope="module")
def blood(example: Path) -> ad.AnnData:
    return ad.read_h5ad(example)


@pytest.fixture(scope="module")
def blood_annotator(pbmc_bundle: Any) -> Annotator:
    return Annotator(pbmc_bundle, device="cpu", threads=1)


def by_group(found: list[Evidence]) -> dict[str, Evidence]:
    return {e.group: e for e in found}


def test_cells_show_the_markers_of_their_label(
    islet_annotator: Annotator,
    islets: ad.AnnData,
    blood_annotator: Annotator,
    blood: ad.AnnData,
) -> None:
    found = by_group(find_evidence(islet_annotator, AnnDataQuery(islets)))
    for label, hormone in HORMONES.items():
        assert found[label].shown[0].gene == hormone
        assert hormone in {g.gene for g in found[label].looked_at}
        assert found[label].unseen == []
    found = by_group(find_evidence(blood_annotator, AnnDataQuery(blood)))
    for label, markers in MARKERS.items():
        assert markers <= {g.gene for g in found[label].shown}, label


def test_markers_of_a_type_are_its_own(blood_annotator: Annotator, blood: ad.AnnData) -> None:
    """The term of dendritic cells is above that of pDC, whose genes are no markers of DC."""
    own = blood_annotator.bundle.spec.interpretation["pDC"].genes
    dc = by_group(find_evidence(blood_annotator, AnnDataQuery(blood)))["DC"]
    assert {"LILRA4", "SCT"} <= {gene.symbol for gene in own[:5]}
    assert not {"LILRA4", "SCT", "SMPD3"} & {*dc.absent, *dc.unseen}
    assert [gene.gene for gene in dc.looked_at][:2] == ["CLEC10A", "FCER1A"]


def test_numbers_are_those_of_counting(blood_annotator: Annotator, blood: ad.AnnData) -> None:
    """By means, shares and deviations of a dense matrix, as its values are log1p(CP10k)."""
    annotation = blood_annotator.annotate_query(AnnDataQuery(blood))
    found = by_group(find_evidence(blood_annotator, AnnDataQuery(blood)))
    n = annotation.counts()
    assert list(found) == [*(label for label in n if label != "unknown"), "unknown"]
    values = blood.to_df()
    for label in ("B", "NK", "unknown"):
        own = annotation.labels == label
        assert found[label].cells == own.sum()
        assert found[label].confidence == pytest.approx(annotation.confidence[own].mean(), abs=1e-4)
        for gene in [*found[label].shown, *found[label].looked_at]:
            inside, outside = values[gene.gene][own], values[gene.gene][~own]
            assert gene.share == pytest.approx((inside > 0).mean(), abs=1e-4)
            assert gene.share_of_rest == pytest.approx((outside > 0).mean(), abs=1e-4)
            spread = np.sqrt((inside.var(ddof=0) + outside.var(ddof=0)) / 2) + 0.3
            expected = (inside.mean() - outside.mean()) / spread
            assert gene.difference == pytest.approx(expected, abs=2e-3)
        shown = [g.difference for g in found[label].shown]
        assert shown == sorted(shown, reverse=True)
        assert all(g.share >= 0.1 for g in found[label].shown)


def test_the_best_genes_are_found(islet_annotator: Annotator, islets: ad.AnnData) -> None:
    """No gene of the file stands out more than those shown, whether the model reads it or not."""
    query = AnnDataQuery(islets)
    annotation = islet_annotator.annotate_query(query)
    counts = islets.to_df()
    index = islet_annotator.choose(query).genes.reference_index
    share = islet_annotator.bundle.statistics["gene_share"][index[index >= 0]].sum()
    totals = islets.to_df().loc[:, index >= 0].sum(axis=1) / share
    values = np.log1p(counts.div(totals, axis=0) * 1e4)
    own = annotation.labels == "alpha"
    spread = np.sqrt((values[own].var(ddof=0) + values[~own].var(ddof=0)) / 2) + 0.3
    difference = (values[own].mean() - values[~own].mean()) / spread
    difference = difference[(counts[own] > 0).mean() >= 0.1].nlargest(10)
    (alpha,) = (e for e in find_evidence(islet_annotator, query) if e.group == "alpha")
    assert [g.gene for g in alpha.shown] == list(difference.index)
    assert [g.difference for g in alpha.shown] == pytest.approx(list(difference), abs=2e-3)
    foreign = {g.gene for g in alpha.shown} - set(islet_annotator.choose(query).panel.symbols)
    assert all(g.weight == 0 for g in alpha.shown if g.gene in foreign)


def with_planted(islets: ad.AnnData, labels: np.ndarray, name: str) -> ad.AnnData:
    """Return the cells with two columns of one gene that no model knows, and an antibody.

    The two are high in beta cells alone, each in every other cell; the antibody is higher.
    """
    beta, even = labels == "beta", np.arange(len(labels)) % 2 == 0
    planted = np.stack([30.0 * (beta & even), 30.0 * (beta & ~even), 900.0 * beta], axis=1)
    counts = sp.csr_matrix(np.hstack([planted, islets.to_df().to_numpy()]))
    found = ad.AnnData(counts, obs=islets.obs)
    found.var_names = ["planted", "planted-1", "antibody", *islets.var_names]
    found.var["symbol"] = [name, name, "CD99", *islets.var_names]
    found.var["feature_types"] = "Gene Expression"
    found.var.loc["antibody", "feature_types"] = "Antibody Capture"
    return found


@pytest.mark.parametrize(
    ("name", "shown"), [("PLANTED", "PLANTED"), ("ENSG00000142163", "OR1E3"), ("ENSG9", "ENSG9")]
)
def test_genes_that_the_model_does_not_know_are_shown(
    islet_annotator: Annotator, islets: ad.AnnData, name: str, shown: str
) -> None:
    """Columns of one name are one gene, ids have their symbol, and what is no gene is none."""
    assert shown not in islet_annotator.bundle.gene_symbols
    labels = islet_annotator.annotate_query(AnnDataQuery(islets)).labels
    query = AnnDataQuery(with_planted(islets, labels, name))
    reading = Reading(gene_column="symbol")
    beta = by_group(find_evidence(islet_annotator, query, reading))["beta"]
    assert beta.shown[0].gene == shown
    assert beta.shown[0].share == pytest.approx(1, abs=0.05)
    assert beta.shown[0].share_of_rest == pytest.approx(0, abs=0.02)
    assert "CD99" not in [g.gene for g in beta.shown]
    assert [g.gene for g in beta.shown[1:]].count(shown) == 0


class Blocks(AnnDataQuery):
    """Hands out blocks of few cells, whatever is asked for, with entries in disorder and halved."""

    def blocks(self, matrix: str, size: int) -> Iterator[sp.csr_matrix]:
        for block in super().blocks(matrix, 7):
            halves = sp.csr_matrix(
                (
                    np.repeat(block.data / 2, 2),
                    np.repeat(block.indices, 2),
                    2 * block.indptr,
                ),
                shape=block.shape,
            )
            for i in range(halves.shape[0]):
                row = slice(halves.indptr[i], halves.indptr[i + 1])
                halves.data[row] = halves.data[row][::-1]
                halves.indices[row] = halves.indices[row][::-1]
            halves.has_sorted_indices = halves.has_canonical_format = False
            yield halves


def test_sums_do_not_depend_on_blocks_or_on_the_order_of_entries(
    islet_annotator: Annotator, islets: ad.AnnData
) -> None:
    plain, odd = AnnDataQuery(islets), Blocks(islets)
    choice = islet_annotator.choose(plain)
    codes = np.arange(islets.n_obs) % 3
    genes = FileGenes.of(plain, choice)
    first, second = (Shown.of(q, choice, genes, codes, 3) for q in (plain, odd))
    np.testing.assert_array_equal(first.cells, second.cells)
    np.testing.assert_allclose(first.sums, second.sums, rtol=1e-5)
    assert first.sums.shape == (3, 3, len(genes.symbols))
    assert set(choice.panel.symbols) < set(genes.symbols)


def test_memory_is_that_of_groups_and_genes(islet_annotator: Annotator, islets: ad.AnnData) -> None:
    """Twice as many cells take no more."""
    peaks = []
    for n in (4, 8):
        query = AnnDataQuery(islets)
        choice = islet_annotator.choose(query)
        genes = FileGenes.of(query, choice)
        query.blocks = lambda matrix, size, n=n: (sp.csr_matrix(islets.X) for _ in range(n))
        tracemalloc.start()
        Shown.of(query, choice, genes, np.arange(n * islets.n_obs) % 5, 5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_markers_that_are_missing_are_named(islet_annotator: Annotator, islets: ad.AnnData) -> None:
    """A gene that the file lacks, one that is 0 in all cells, and one that was shuffled."""
    cut = islets[:, [g != "INS" for g in islets.var_names]].copy()
    beta = by_group(find_evidence(islet_annotator, AnnDataQuery(cut)))["beta"]
    assert "INS" in beta.absent
    assert beta.missing.startswith("beta: INS")
    assert beta.missing.endswith("absent from the file")
    blank = islets.copy()
    counts = blank.to_df()
    counts["INS"] = 0.0
    blank.X = counts.to_numpy()
    assert "INS" in by_group(find_evidence(islet_annotator, AnnDataQuery(blank)))["beta"].absent
    labels = islet_annotator.annotate_query(AnnDataQuery(islets)).labels
    odd = islets.copy()
    counts = odd.to_df()
    counts.loc[labels == "beta", "IAPP"] = 0.0
    odd.X = counts.to_numpy()
    found = by_group(find_evidence(islet_annotator, AnnDataQuery(odd)))["beta"]
    assert "IAPP" in found.unseen
    assert "IAPP no higher in these cells than in others" in found.missing


def test_a_gene_of_another_name_is_not_absent(
    blood_annotator: Annotator, blood: ad.AnnData
) -> None:
    """The file has JCHAIN as IGJ, and both are genes of the model."""
    assert "IGJ" in blood.var_names
    assert "JCHAIN" not in blood.var_names
    plasma = by_group(find_evidence(blood_annotator, AnnDataQuery(blood)))["Plasma"]
    weights = blood_annotator.bundle.spec.interpretation["Plasma"].genes[:3]
    assert "JCHAIN" in {g.symbol for g in weights}
    assert "JCHAIN" not in plasma.absent


def test_cells_without_others_are_compared_with_none(
    islet_annotator: Annotator, islets: ad.AnnData
) -> None:
    labels = islet_annotator.annotate_query(AnnDataQuery(islets)).labels
    alone = Annotator(islet_annotator.bundle, device="cpu", threads=1, unknown=False, depth="leaf")
    (found,) = find_evidence(
        alone, AnnDataQuery(islets[labels == "delta"].copy()), where='scbignn_cell_type == "delta"'
    )
    assert found.shown == []
    assert found.looked_at[0].share > 0.9
    assert found.looked_at[0].share_of_rest is None
    json.dumps([g.share_of_rest for g in found.looked_at], allow_nan=False)


def test_cells_without_counts_are_no_others(islet_annotator: Annotator, islets: ad.AnnData) -> None:
    """They would make all other cells look as if they lacked every gene."""
    blank = islets[:100].copy()
    blank.X = np.zeros(blank.shape, np.float32)
    blank.obs_names = [f"blank{i}" for i in range(100)]
    both = ad.concat([islets, blank])
    plain = by_group(find_evidence(islet_annotator, AnnDataQuery(islets)))["beta"]
    found = by_group(find_evidence(islet_annotator, AnnDataQuery(both)))
    assert found["beta"].shown == plain.shown
    assert found["unknown"].reasons["empty"] == 100


def test_chosen_cells_are_one_group(blood_annotator: Annotator, blood: ad.AnnData) -> None:
    query = AnnDataQuery(blood)
    annotation = blood_annotator.annotate_query(query)
    unknown = annotation.labels == "unknown"
    (found,) = find_evidence(blood_annotator, query, where='scbignn_cell_type == "unknown"')
    assert found.cells == unknown.sum()
    assert found.labels == {"unknown": unknown.sum()}
    assert found.reasons == annotation.unknown_counts()
    assert found.label == next(iter(found.best_labels))
    both = 'bulk_labels == "CD19+ B" and scbignn_confidence > 0.9'
    (found,) = find_evidence(blood_annotator, query, where=both)
    own = (blood.obs["bulk_labels"] == "CD19+ B") & (annotation.confidence > 0.9)
    assert found.cells == own.sum()
    assert found.label == "B"
    with pytest.raises(InputError, match="no cell of AnnData is one for which"):
        find_evidence(blood_annotator, query, where="scbignn_confidence > 1")


def test_clusters_are_groups(blood_annotator: Annotator, blood: ad.AnnData) -> None:
    reading = Reading(cluster_key=["bulk_labels"])
    query = AnnDataQuery(blood)
    found = find_evidence(blood_annotator, query, reading)
    assert {e.key for e in found} == {"bulk_labels"}
    counts = blood.obs["bulk_labels"].value_counts()
    assert {e.group: e.cells for e in found} == counts.to_dict()
    among = find_evidence(blood_annotator, query, reading, where='scbignn_cell_type == "B"')
    assert all(e.labels == {"B": e.cells} for e in among)
    assert (
        sum(e.cells for e in among) == (blood_annotator.annotate_query(query).labels == "B").sum()
    )
    many = blood.copy()
    many.obs["barcode"] = many.obs_names
    with pytest.raises(InputError, match="700 clusters to explain; expected at most 500"):
        find_evidence(blood_annotator, AnnDataQuery(many), Reading(cluster_key="barcode"))


def test_in_python(islets: ad.AnnData) -> None:
    before = islets.obs.columns.tolist()
    found = by_group(scbignn_infer.evidence(islets, "human-pancreas", threads=1))
    assert found["beta"].shown[0].gene == "INS"
    assert islets.obs.columns.tolist() == before
    (beta,) = scbignn_infer.evidence(
        islets, "human-pancreas", where='cell_type == "beta"', threads=1
    )
    assert beta.label == "beta"


THREADS = ["-m", "human-pbmc", "--threads", "1"]


def test_the_command_prints_and_writes_them(run: Any, example: Path, tmp_path: Path) -> None:
    text = run("explain", example, *THREADS, "--n", "3").stdout
    assert "FCGR3A 99% (9%)" in text
    assert "CD16 Mono: MS4A7, SERPINA1 absent from the file" in text
    assert "standard deviations higher" in text
    document = json.loads(run("explain", example, *THREADS, "--json").stdout)
    assert document["model"] == "human-pbmc"
    groups = {group["group"]: group for group in document["groups"]}
    assert groups["CD16 Mono"]["shown"][0]["gene"] == "FCGR3A"
    assert groups["CD16 Mono"]["missing"].startswith("CD16 Mono: ")
    unknown = ["--where", 'scbignn_cell_type == "unknown"']
    text = run("explain", example, *THREADS, *unknown).stdout
    assert 'scbignn_cell_type == "unknown"' in text
    assert "unknown because" in text
    run("explain", example, *THREADS, "--cluster-key", "bulk_labels", "-o", tmp_path / "e.csv")
    table = pd.read_csv(tmp_path / "e.csv", keep_default_na=False)
    assert set(table["key"]) == {"bulk_labels"}
    assert {"shown", "looked_at", "lacks", "absent"} <= set(table["kind"])
    first = table[(table["group"] == "CD19+ B") & (table["kind"] == "shown")].iloc[0]
    assert first["gene"] in {"CD79A", "CD79B", "MS4A1"}
    run("explain", example, *THREADS, "-o", tmp_path / "e.html")
    page = (tmp_path / "e.html").read_text()
    assert "FCGR3A 99% (9%)" in page
    assert "its cells show" in page


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--where", "n = 1"], 1, "'=' at character 3 of the condition"),
        (["--where", "absent == 1"], 1, "no obs['absent']; expected one of bulk_labels"),
        (["--where", "scbignn_confidence > 2"], 1, "is one for which scbignn_confidence > 2"),
        (["--cluster-key", "absent"], 1, "no obs['absent']"),
        (["--cells", "x", "--where", "n == 1"], 2, "--cells names single cells"),
        (["-o", "e.png"], 1, "ends in .html, .csv, .tsv"),
    ],
)
def test_wrong_wishes_are_one_line(
    run: Any, example: Path, options: list[str], code: int, message: str
) -> None:
    assert message in run("explain", example, *THREADS, *options, code=code).stderr


def test_the_report_has_them(run: Any, example: Path, tmp_path: Path) -> None:
    pytest.importorskip("umap")
    page = tmp_path / "r.html"
    adata = ad.read_h5ad(example)
    adata.obs["third"] = np.arange(adata.n_obs) % 3
    adata.write_h5ad(tmp_path / "q.h5ad")
    keys = ["--cluster-key", "bulk_labels", "--cluster-key", "third"]
    run(
        "annotate",
        tmp_path / "q.h5ad",
        *THREADS,
        "-q",
        "-o",
        tmp_path / "o.h5ad",
        "--report",
        page,
        *keys,
    )
    text = page.read_text()
    for part in ("Evidence for the labels", "FCGR3A 99% (9%)", "MS4A7, SERPINA1 absent"):
        assert part in text
    for part in ("<h2>Clusters</h2>", "CD8+/CD45RA+ Naive Cytotoxic", ">mixed<"):
        assert part in text
