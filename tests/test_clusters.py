"""Clusters: what each is, by the labels of its cells, in memory, in files and in tables."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import asdict, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scbignn_infer
from scbignn_infer.annotation.annotation import Annotation
from scbignn_infer.annotation.clusters import factorize, label_clusters, with_clusters
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError
from scbignn_infer.query.readers import AnnDataQuery
from scbignn_infer.settings import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scbignn_infer import ModelBundle

TYPES = ["B", "CD4 T", "CD8 T", "NK"]
NAMES = [*TYPES, "T cell", "lymphocyte"]
TREE = Ontology(
    NAMES,
    [""] * 6,
    np.vstack([np.eye(4, dtype=bool), [[0, 1, 1, 0], [0, 1, 1, 1]]]).astype(bool),
)
"""Lymphocytes here are T cells and NK."""
BELOW = {"T cell": {"CD4 T", "CD8 T"}, "lymphocyte": {"CD4 T", "CD8 T", "T cell", "NK"}}
THREADS = ["-m", "human-pbmc", "--threads", "1"]


def called(labels: Sequence[str], *, flat: bool = False) -> Annotation:
    """Return an annotation that gives cells these labels."""
    n = len(labels)
    probabilities = np.full((n, 4), 1e-3, np.float32)
    for i, label in enumerate(labels):
        if label in NAMES:
            held = TREE.holds[NAMES.index(label)]
            probabilities[i, held] = 0.99 / held.sum()
    zeros = np.zeros(n, np.float32)
    found = Annotation(
        TYPES,
        [""] * 4,
        probabilities,
        np.zeros(n, int),
        *(zeros, zeros, zeros),
        np.zeros((n, 2), np.float32),
        np.array([label == "unknown" for label in labels]),
        confidence_threshold=0.5,
        label_threshold=0.0 if flat else 0.9,
        wider=None if flat else TREE,
        penalties=np.zeros((n, 2)),
    )
    assert found.labels.tolist() == list(labels)
    return found


def rows(labels: Sequence[str], clusters: Sequence[str], *, flat: bool = False) -> dict[str, Any]:
    given = called(labels, flat=flat)
    found = label_clusters(given.labels, given.confidence, given.ontology, clusters)
    return {row.cluster: row for row in found.rows}


@pytest.mark.parametrize(
    ("labels", "label", "share", "runner_up", "mixed"),
    [
        ({"B": 10}, "B", 1.0, "", False),
        ({"B": 75, "NK": 25}, "B", 0.75, "NK", True),
        ({"B": 76, "NK": 24}, "B", 0.76, "NK", False),
        ({"B": 60, "unknown": 20, "NK": 20}, "B", 0.6, "NK", True),
        ({"CD4 T": 6, "CD8 T": 4}, "CD4 T", 0.6, "CD8 T", True),
        ({"CD4 T": 5, "CD8 T": 5}, "T cell", 1.0, "", False),
        ({"CD4 T": 4, "T cell": 3, "B": 3}, "T cell", 0.7, "B", True),
        ({"CD4 T": 6, "T cell": 4}, "CD4 T", 0.6, "T cell", False),
        ({"CD4 T": 3, "NK": 3, "B": 2}, "lymphocyte", 0.75, "B", True),
        ({"B": 4, "NK": 3, "unknown": 3}, "B", 0.4, "NK", True),
        ({"B": 6, "unknown": 4}, "B", 0.6, "unknown", False),
        ({"unknown": 6, "B": 4}, "unknown", 0.6, "B", False),
        ({"unknown": 9, "B": 1}, "unknown", 0.9, "B", False),
    ],
)
def test_a_cluster_is_what_most_of_its_cells_are(
    labels: dict[str, int], label: str, share: float, runner_up: str, mixed: bool
) -> None:
    cells = [name for name, n in labels.items() for _ in range(n)]
    row = rows(cells, ["0"] * len(cells))["0"]
    assert (row.cell_type, row.runner_up, row.mixed) == (label, runner_up, mixed)
    assert row.share == pytest.approx(share)
    assert row.cells == len(cells)


@given(
    st.lists(st.tuples(st.sampled_from([*NAMES, "unknown"]), st.sampled_from("012")), min_size=1)
)
def test_shares_are_those_of_counting(cells: list[tuple[str, str]]) -> None:
    """By a count of strings, cluster by cluster."""
    labels, clusters = zip(*cells, strict=True)
    for name, row in rows(labels, clusters).items():
        own = [label for label, cluster in cells if cluster == name]
        within = {row.cell_type} | BELOW.get(row.cell_type, set())
        assert row.share == pytest.approx(np.mean([x in within for x in own]), abs=1e-4)
        others = Counter(x for x in own if x not in within)
        assert row.runner_up_share * len(own) == pytest.approx(
            max(others.values(), default=0), abs=1e-4 * len(own)
        )
        assert others[row.runner_up] == max(others.values(), default=0)
        above = {k for k, below in BELOW.items() if row.cell_type in below}
        known = [x for x in own if x != "unknown"]
        against = sum(x not in within | above for x in known)
        assert row.mixed == (row.cell_type != "unknown" and against >= 0.25 * len(known))
        held = [k for k in NAMES if 2 * sum(x in {k, *BELOW.get(k, ())} for x in own) > len(own)]
        if held:
            size = dict(zip(NAMES, TREE.size, strict=True))
            assert size[row.cell_type] == min(size[k] for k in held)


def test_without_an_ontology_the_most_frequent_label_counts() -> None:
    row = rows(["CD4 T"] * 3 + ["CD8 T"] * 3 + ["B"], ["a"] * 7, flat=True)["a"]
    assert (row.cell_type, row.runner_up, row.mixed) == ("CD4 T", "CD8 T", True)


def test_names_are_in_their_natural_order() -> None:
    names, codes = factorize(["c10", "", "c2", "1e5", "c2", "9" * 5000, "²"])
    assert names.index("c2") < names.index("c10")
    assert [names[c] if c >= 0 else "" for c in codes] == [
        "c10",
        "",
        "c2",
        "1e5",
        "c2",
        "9" * 5000,
        "²",
    ]


def test_names_of_one_number_are_in_the_order_of_their_letters() -> None:
    shuffled = ["2", "001", "1", "0001", "01"]
    for values in (shuffled, shuffled[::-1]):
        assert factorize(values)[0] == ["0001", "001", "01", "1", "2"]


def test_a_hundred_thousand_clusters_are_quick_and_warned_of() -> None:
    few = called([*NAMES, "unknown"])
    many = np.random.default_rng(0).integers(0, 7, 100_000)
    arrays = ("probabilities", "gene_level_codes", "neighbor_agreement", "novelty", "residual")
    arrays += ("embedding", "empty", "penalties")
    found = replace(few, **{name: getattr(few, name)[many] for name in arrays})
    start = perf_counter()
    clusters = with_clusters(found, {"b": [f"cell{i}" for i in range(100_000)]}).clusters["b"]
    assert perf_counter() - start < 10
    assert len(clusters.rows) == 100_000
    assert [row.cell_type for row in clusters.rows] == found.labels.tolist()
    assert "100,000 values in 100,000 cells" in clusters.warning("barcode")
    assert with_clusters(few, {"leiden": ["a"] * 7}).clusters["leiden"].warning("leiden") == ""


# --- in memory and in files ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def blood(example: Path) -> ad.AnnData:
    adata = ad.read_h5ad(example)
    n = np.arange(adata.n_obs)
    adata.obs["number"] = n % 3
    adata.obs["decimal"] = np.where(n < 100, np.nan, n % 2)
    adata.obs["yes"] = n % 2 == 0
    adata.obs["one"] = "x"
    adata.obs["gaps"] = pd.Categorical(np.where(n < 10, None, np.where(n % 2, "odd", "even")))
    adata.obs["nothing"] = np.full(adata.n_obs, np.nan)
    adata.obs["barcode"] = adata.obs_names
    adata.obs["a/b"] = "x"
    return adata


@pytest.fixture(scope="module")
def annotator(pbmc_bundle: ModelBundle) -> Annotator:
    return Annotator(pbmc_bundle, device="cpu", threads=1)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("number", ["0", "1", "2"]),
        ("decimal", ["0.0", "1.0"]),
        ("yes", ["False", "True"]),
        ("one", ["x"]),
        ("gaps", ["even", "odd"]),
        ("bulk_labels", None),
    ],
)
def test_any_column_is_one_of_clusters(
    annotator: Annotator, blood: ad.AnnData, key: str, names: list[str] | None
) -> None:
    found = annotator.annotate_query(AnnDataQuery(blood), Reading(cluster_key=[key]))
    clusters = found.clusters[key]
    values = blood.obs[key].astype(object).where(blood.obs[key].notna(), "").astype(str)
    assert {row.cluster for row in clusters.rows} == set(names or values)
    for row in clusters.rows:
        own = (values == row.cluster).to_numpy()
        assert row.cells == own.sum()
        assert row.confidence == pytest.approx(found.confidence[own].mean(), abs=1e-4)
        assert set(clusters.cell_types[own]) == {row.cell_type}
    assert set(clusters.cell_types[(values == "").to_numpy()]) <= {""}
    assert found.summary()["clusters"] == {key: [asdict(row) for row in clusters.rows]}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("leiden", r"no obs\['leiden'\].*one of bulk_labels, number, decimal"),
        ("nothing", "nothing but missing values"),
        ("a/b", "a name without a slash"),
    ],
)
def test_a_column_that_is_no_use_is_one_line(
    annotator: Annotator, blood: ad.AnnData, key: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        annotator.annotate_query(AnnDataQuery(blood), Reading(cluster_key=key))


def test_in_python_a_name_or_several(blood: ad.AnnData, pbmc_bundle: ModelBundle) -> None:
    adata = blood[:200].copy()
    del adata.obs["a/b"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        scbignn_infer.annotate(adata, pbmc_bundle, cluster_key=["gaps", "barcode"], threads=1)
    assert any("200 values in 200 cells" in str(warning.message) for warning in said)
    table = pd.DataFrame(adata.uns["scbignn"]["clusters"]["gaps"]).set_index("cluster")
    for name in ("even", "odd"):
        own = adata.obs["scbignn_cell_type_by_gaps"][adata.obs["gaps"] == name]
        assert set(own) == {table.loc[name, "cell_type"]}
    assert set(adata.obs["scbignn_cell_type_by_gaps"][:10]) == {""}
    with pytest.warns(UserWarning, match="26% of the genes"):
        scbignn_infer.annotate(adata, pbmc_bundle, cluster_key="one", threads=1, overwrite=True)
    by = [name for name in adata.obs if "_by_" in name]
    assert by == ["scbignn_cell_type_by_one"]  # those of the earlier run are gone
    assert list(adata.uns["scbignn"]["clusters"]) == ["one"]


def test_files_and_tables_have_them(run: Any, blood: ad.AnnData, tmp_path: Path) -> None:
    query, out, table = tmp_path / "q.h5ad", tmp_path / "o.h5ad", tmp_path / "c.tsv"
    adata = blood[:120].copy()
    del adata.obs["a/b"]
    adata.write_h5ad(query)
    keys = ["--cluster-key", "number", "--cluster-key", "bulk_labels"]
    done = run("annotate", query, *THREADS, *keys, "-o", out, "--cluster-table", table)
    assert "mixed" in done.stderr
    written = ad.read_h5ad(out)
    listed = pd.read_csv(table, sep="\t", dtype={"cluster": str}, keep_default_na=False)
    assert set(listed["key"]) == {"number", "bulk_labels"}
    for key, part in listed.groupby("key"):
        labels = written.obs.groupby(written.obs[key].astype(str), observed=True)
        labels = labels[f"scbignn_cell_type_by_{key}"].unique().map("|".join)
        assert labels.to_dict() == dict(zip(part["cluster"], part["cell_type"], strict=True))
        stored = written.uns["scbignn"]["clusters"][key]
        assert list(stored["cluster"]) == list(part["cluster"])
        np.testing.assert_allclose(stored["share"], part["share"])
        assert list(stored["mixed"]) == list(part["mixed"])
    document = json.loads(
        run("annotate", query, *THREADS, *keys, "-o", out, "--overwrite", "--json").stdout
    )
    assert [c["cluster"] for c in document["clusters"]["number"]] == ["0", "1", "2"]
    run("annotate", query, *THREADS, "-o", tmp_path / "t.csv", *keys)
    cells = pd.read_csv(tmp_path / "t.csv", index_col="cell")
    assert list(cells["scbignn_cell_type_by_number"]) == list(
        written.obs["scbignn_cell_type_by_number"]
    )
    # a later run without clusters leaves none behind
    run("annotate", out, *THREADS, "-o", tmp_path / "p.h5ad", "--overwrite")
    with h5py.File(tmp_path / "p.h5ad") as file:
        assert not [name for name in file["obs"] if "_by_" in name]
        assert not [name for name in file["obs"].attrs["column-order"] if "_by_" in name]
    assert "clusters" not in ad.read_h5ad(tmp_path / "p.h5ad").uns["scbignn"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster-key", "absent"], "no obs['absent']; expected one of bulk_labels"),
        (["--cluster-table", "c.csv"], "--cluster-key with --cluster-table"),
        (["--cluster-key", "bulk_labels", "--cluster-table", "c.xlsx"], "ends in .csv, .tsv"),
        (["--cluster-key", "bulk_labels", "--cluster-table", "o.csv"], "are the same file"),
    ],
)
def test_wrong_wishes_leave_nothing(
    run: Any,
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in run("annotate", example, *THREADS, "-o", "o.csv", *options, code=1).stderr
    assert list(tmp_path.iterdir()) == []


def test_many_clusters_are_cut_in_print_alone(run: Any, blood: ad.AnnData, tmp_path: Path) -> None:
    query = tmp_path / "q.h5ad"
    adata = blood[:60].copy()
    del adata.obs["a/b"]
    adata.write_h5ad(query)
    start = ["annotate", query, *THREADS, "-o", tmp_path / "o.h5ad", "--cluster-key", "barcode"]
    done = run(*start, "--cluster-table", tmp_path / "c.csv")
    assert "20 more; --cluster-table FILE.csv writes all" in done.stderr
    assert "60 values in 60 cells" in done.stderr
    assert len(pd.read_csv(tmp_path / "c.csv")) == 60


def test_samples_and_their_parts_have_them(run: Any, example: Path, tmp_path: Path) -> None:
    """A divided sample has the clusters of all of its cells; a second run finds it whole."""
    adata = ad.concat([ad.read_h5ad(example)] * 4, index_unique="-")
    adata.write_h5ad(tmp_path / "s.h5ad")
    start = ["annotate", tmp_path / "s.h5ad", *THREADS, "--graph", "reference"]
    start += ["--cluster-key", "bulk_labels"]
    run(*start, "-o", tmp_path / "one.h5ad")
    run(*start, "-O", tmp_path / "many", "--split", 1024)
    one, many = (ad.read_h5ad(tmp_path / f) for f in ("one.h5ad", "many/s.h5ad"))
    column = "scbignn_cell_type_by_bulk_labels"
    assert list(one.obs[column]) == list(many.obs[column])
    assert list(many.uns["scbignn"]["clusters"]["bulk_labels"]["cells"]) == [
        4 * n
        for n in ad.read_h5ad(example)
        .obs["bulk_labels"]
        .value_counts()[list(one.uns["scbignn"]["clusters"]["bulk_labels"]["cluster"])]
    ]
    again = run(*start, "-O", tmp_path / "many", "--split", 1024)
    assert "1 skipped" in again.stderr
    adata.obs.loc[adata.obs_names[1024:2048], "bulk_labels"] = np.nan  # a part without clusters
    adata.write_h5ad(tmp_path / "s.h5ad")
    run(*start, "-O", tmp_path / "many", "--split", 1024)
    assert ad.read_h5ad(tmp_path / "many" / "s.h5ad").obs[column].eq("").sum() == 1024
    refused = run(*start, "-O", tmp_path / "many", "--cluster-table", "c.csv", code=2)
    assert "--cluster-table: not with -O" in refused.stderr


def test_an_output_that_may_not_be_replaced_keeps_the_table_away(
    run: Any, example: Path, tmp_path: Path
) -> None:
    out, table = tmp_path / "o.h5ad", tmp_path / "c.csv"
    start = ["annotate", example, *THREADS, "-o", out, "--cluster-key", "bulk_labels"]
    table.write_text("mine")
    assert "c.csv exists" in run(*start, "--cluster-table", table, code=1).stderr
    assert table.read_text() == "mine"
    assert not out.exists()
