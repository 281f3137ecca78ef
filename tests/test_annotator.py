"""The passes in order, the AnnData entry point, and the choice of a model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import msgspec
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scbignn_infer
from scbignn_infer.annotation import scores
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import BundleError, GeneError, InputError, OutputError
from scbignn_infer.model.bundle import CellType
from scbignn_infer.model.registry import load_model
from scbignn_infer.nearest_model import choose_model, whole_models
from scbignn_infer.query.gene_names import GeneNames
from scbignn_infer.query.readers import AnnDataQuery, open_query
from scbignn_infer.settings import AS_FOUND, Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from scbignn_infer.model.bundle import ModelBundle

REPOSITORY = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.filterwarnings("ignore:the data have only:UserWarning")
"""The example has few of the model's genes; one test holds that this is said."""


@pytest.fixture(scope="module")
def annotator(pbmc_bundle: ModelBundle) -> Annotator:
    return Annotator(pbmc_bundle, device="cpu", threads=1)


@pytest.fixture
def blood(example: Path) -> ad.AnnData:
    return ad.read_h5ad(example)


def test_every_promised_slot_is_written(pbmc_bundle: ModelBundle, blood: ad.AnnData) -> None:
    before = blood.copy()
    with pytest.warns(UserWarning, match="only 26% of the genes"):
        assert scbignn_infer.annotate(blood, pbmc_bundle, device="cpu") is None
    cell_types, n = pbmc_bundle.cell_types, blood.n_obs
    labels = blood.obs["scbignn_cell_type"]
    assert labels.dtype == "category"
    ids = {c.label: c.ontology_id for c in pbmc_bundle.spec.cell_types} | {"unknown": ""}
    ids |= {node.label: node.ontology_id for node in pbmc_bundle.spec.ontology}
    assert set(labels) <= set(ids)
    assert set(blood.obs["scbignn_best_cell_type"]) <= set(cell_types)
    assert set(blood.obs["scbignn_gene_level_cell_type"]) <= set(cell_types)
    assert blood.obs["scbignn_cell_type_ontology_id"].tolist() == [ids[x] for x in labels]
    for name in ("confidence", "neighbor_agreement", "novelty"):
        values = blood.obs[f"scbignn_{name}"]
        assert values.between(0, 1).all(), name
    probabilities = blood.obsm["scbignn_probabilities"]
    assert probabilities.shape == (n, len(cell_types))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.max(axis=1), blood.obs["scbignn_confidence"])
    best = np.array(cell_types)[probabilities.argmax(axis=1)]
    assert best.tolist() == blood.obs["scbignn_best_cell_type"].tolist()
    assert blood.obsm["X_scbignn"].shape == (n, pbmc_bundle.spec.gene_level.embedding_size)
    record = blood.uns["scbignn"]
    assert record["cell_types"] == cell_types
    assert record["model"] == {"name": "human-pbmc", "version": "3", "sha256": pbmc_bundle.sha256}
    assert {"matrix", "genes", "params", "versions"} <= set(record)
    assert (blood.X != before.X).nnz == 0
    assert list(blood.obs.columns[:1]) == ["bulk_labels"]


def test_the_number_of_threads_changes_no_bit(pbmc_bundle: ModelBundle, example: Path) -> None:
    with open_query(example) as query:
        one, three = (
            Annotator(pbmc_bundle, device="cpu", threads=n, batch_cells=50).annotate_query(query)
            for n in (1, 3)
        )
    for name in ("probabilities", "embedding", "novelty", "neighbor_agreement"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))


def test_unknown_is_exactly_below_the_threshold(annotator: Annotator, blood: ad.AnnData) -> None:
    leaf = Rules.of(annotator.bundle, depth="leaf")
    found = annotator.annotate_query(AnnDataQuery(blood), rules=leaf)
    confidence, novelty, residual = found.confidence, found.novelty, found.residual
    strange = np.clip(residual - 0.8, 0, 1)
    support = confidence - 0.1 * novelty**20 - 0.5 * strange
    weak = support - found.support
    assert weak.min() > -1e-6
    assert np.mean(weak > 1e-6) < 0.1  # by what share of its type's profile they show
    low = found.support < annotator.bundle.spec.thresholds.confidence
    assert 0 < low.sum() < 100
    assert ((found.labels == "unknown") == low).all()
    sure = (confidence > 0.9) & (strange == 0) & (weak < 1e-6)
    assert not low[sure].any()  # novelty alone makes no cell unknown


def test_cells_of_a_type_that_the_model_never_saw_stand_out(
    real_data: Callable[[str], Path], annotator: Annotator
) -> None:
    """Islet cells on a model of blood: hardly one keeps its label, though many are sure."""
    islets = ad.read_h5ad(real_data("pancreas_baron_human1.h5ad"))
    found = annotator.annotate_query(AnnDataQuery(islets))
    truth = islets.obs["cell_type_common"].astype(str).to_numpy()
    known = np.isin(truth, ["macrophage", "t_cell", "mast"])
    assert (found.labels[~known] == "unknown").mean() > 0.8
    assert np.median(found.novelty) > 0.99
    assert np.median(found.residual) > 0.5  # half of what of studies left out 99 % are within


def test_the_residual_is_the_mean_of_the_largest_differences() -> None:
    rng = np.random.default_rng(0)
    scaled, codes = rng.normal(size=(9, 40)), rng.integers(0, 3, 9)
    near = np.array([[(i + j) % 9 for j in (1, 2, 3)] for i in range(9)])
    profile, spread = rng.normal(size=(3, 40)), rng.uniform(0.5, 2, 40)
    found = scores.residual(scaled, near, codes, profile, spread)
    for i in range(9):
        smoothed = scaled[[i, *near[i]]].mean(axis=0)
        off = np.sort(np.abs(smoothed - profile[codes[i]]) / spread)[::-1]
        assert found[i] == pytest.approx(off[:10].mean(), rel=1e-4)


def test_annotated_adata_survives_a_file(
    pbmc_bundle: ModelBundle, blood: ad.AnnData, tmp_path: Path
) -> None:
    scbignn_infer.annotate(blood, pbmc_bundle, device="cpu", key_added="mine")
    blood.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert back.obs["mine_cell_type"].tolist() == blood.obs["mine_cell_type"].tolist()
    assert back.uns["mine"]["model"]["name"] == "human-pbmc"


def test_a_model_without_ontology_ids_leaves_them_empty(
    pbmc_bundle: ModelBundle, blood: ad.AnnData
) -> None:
    bare = copy.copy(pbmc_bundle)
    types = [CellType(label=label) for label in pbmc_bundle.cell_types]
    bare.spec = msgspec.structs.replace(pbmc_bundle.spec, cell_types=types)
    scbignn_infer.annotate(blood, bare, device="cpu")
    assert blood.obs["scbignn_cell_type"].nunique() > 3
    assert set(blood.obs["scbignn_cell_type_ontology_id"]) == {""}


def test_copy_leaves_the_original_alone(pbmc_bundle: ModelBundle, blood: ad.AnnData) -> None:
    labelled = scbignn_infer.annotate(blood, pbmc_bundle, device="cpu", copy=True)
    assert labelled is not None
    assert "scbignn_cell_type" in labelled.obs
    assert list(blood.obs) == ["bulk_labels"]
    assert "scbignn" not in blood.uns
    assert not list(blood.obsm)


def test_slots_are_not_overwritten_without_leave(
    pbmc_bundle: ModelBundle, blood: ad.AnnData
) -> None:
    blood.obs["scbignn_novelty"] = 7.0
    with pytest.raises(OutputError, match=r"obs\['scbignn_novelty'\] exist already"):
        scbignn_infer.annotate(blood, pbmc_bundle, device="cpu")
    assert (blood.obs["scbignn_novelty"] == 7).all()
    scbignn_infer.annotate(blood, pbmc_bundle, device="cpu", overwrite=True)
    assert blood.obs["scbignn_novelty"].max() <= 1


def test_file_and_object_give_the_same(annotator: Annotator, example: Path) -> None:
    with open_query(example) as query:
        a = annotator.annotate_query(query)
    b = annotator.annotate_query(AnnDataQuery(ad.read_h5ad(example)))
    np.testing.assert_array_equal(a.probabilities, b.probabilities)


def test_backed_adata_works(annotator: Annotator, example: Path) -> None:
    backed = ad.read_h5ad(example, backed="r")
    found = annotator.annotate_query(AnnDataQuery(backed))
    backed.file.close()
    with open_query(example) as query:
        np.testing.assert_array_equal(found.labels, annotator.annotate_query(query).labels)


def test_scaled_x_is_passed_over_for_raw(annotator: Annotator, blood: ad.AnnData) -> None:
    plain = annotator.annotate_query(AnnDataQuery(blood))
    scaled = blood.copy()
    scaled.raw = blood
    x = blood.X.toarray()
    scaled.X = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    query = AnnDataQuery(scaled)
    choice = annotator.choose(query)
    assert choice.matrix == "raw"
    assert choice.verdicts["X"].state == "scaled"
    np.testing.assert_array_equal(annotator.annotate_query(query).labels, plain.labels)
    with pytest.raises(InputError, match="X is scaled"):
        annotator.annotate_query(query, Reading(matrix="X"))


def test_ensembl_column_is_found(pbmc_bundle: ModelBundle, blood: ad.AnnData) -> None:
    blood.var["feature_name"] = blood.var_names.to_numpy()
    blood.var_names = [f"feature{i}" for i in range(blood.n_vars)]
    choice = Annotator(pbmc_bundle, device="cpu").choose(AnnDataQuery(blood))
    assert choice.genes.column == "feature_name"
    assert choice.genes.n_shared > 700


def test_foreign_genes_name_both_sides(annotator: Annotator) -> None:
    with pytest.raises(GeneError) as caught:
        annotator.annotate_matrix(np.ones((2, 3)), ["alpha", "beta", "gamma"])
    first = annotator.bundle.gene_symbols[0]
    assert "alpha" in str(caught.value)
    assert first in str(caught.value)


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [
        (np.ones((0, 2)), ["A", "B"], "zero cells"),
        (np.ones((2, 0)), [], "no usable matrix"),
        (np.ones((2, 3)), ["A"], "3 columns and 1 gene names"),
        (np.ones(3), ["A"], "two-dimensional"),
        (pd.DataFrame(np.ones((2, 1))), ["A"], "a matrix of type DataFrame"),
        (np.zeros((4, 2)), ["A", "B"], "all zero"),
        (np.array([[1, np.nan]]), ["A", "B"], "NaN or infinite"),
    ],
)
def test_bad_matrices_are_one_line(
    annotator: Annotator, matrix: np.ndarray, names: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        annotator.annotate_matrix(matrix, names)
    assert "\n" not in str(caught.value)


def test_rules_of_another_model_are_refused(annotator: Annotator) -> None:
    """Its types have other places, so that labels would be those of others."""
    genes = annotator.bundle.gene_symbols[:500]
    counts = np.random.default_rng(0).poisson(1.0, (3, 500))
    other = Rules.of(load_model("human-pancreas"))
    for label in (
        lambda rules: annotator.annotate_matrix(counts, genes, rules=rules),
        lambda rules: annotator.bind(genes).annotate(counts, rules=rules),
    ):
        with pytest.raises(InputError, match="rules that are not those of human-pbmc"):
            label(other)
        assert len(label(Rules.of(annotator.bundle, level=1))) == 3


def test_progress_is_told_in_order(annotator: Annotator, example: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with open_query(example) as query:
        annotator.annotate_query(query, progress=lambda *a: told.append(a))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["inspect", "gene level", "graph", "cell level", "scores"]
    for stage in stages:
        done = [d / total for s, d, total in told if s == stage]
        assert done[0] == 0
        assert done[-1] == 1
        assert all(0 <= d <= 1 for d in done)


def test_annotator_is_reusable(annotator: Annotator, example: Path) -> None:
    with open_query(example) as query:
        a, b = annotator.annotate_query(query), annotator.annotate_query(query)
    np.testing.assert_array_equal(a.probabilities, b.probabilities)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("scbignn_infer/examples/pbmc700.h5ad", "human-pbmc"),
        ("tests/data/pancreas400.h5ad", "human-pancreas"),
    ],
)
def test_the_fitting_model_is_chosen(name: str, model: str) -> None:
    with open_query(REPOSITORY / name) as query:
        bundle, _, novelty, _ = choose_model(query, device="cpu")
    assert bundle.name == model
    assert min(novelty, key=lambda n: novelty[n]) == model


def test_no_model_is_chosen_for_strange_cells(pbmc_bundle: ModelBundle) -> None:
    counts = np.random.default_rng(0).poisson(0.5, (50, 2000))
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    adata.var_names = pbmc_bundle.gene_symbols[:2000]
    with pytest.raises(BundleError, match="no model is clearly meant for AnnData"):
        choose_model(AnnDataQuery(adata), device="cpu")


@pytest.mark.parametrize("damage", ["bundle.json", "statistics.npz", "gene_level.onnx"])
def test_a_broken_model_is_warned_of_and_passed_over(
    monkeypatch: pytest.MonkeyPatch, example: Path, toy: Path, damage: str
) -> None:
    monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(toy.parent))
    (toy / damage).write_bytes(b"")
    with (
        open_query(example) as query,
        pytest.warns(UserWarning, match="the model toy is passed over: .*toy: ") as caught,
    ):
        assert choose_model(query, device="cpu", threads=1)[0].name == "human-pbmc"
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="the model toy is passed over"):
        whole = whole_models(device="cpu", threads=1)
    assert "human-pbmc" in {bundle.name for bundle in whole}
    assert "toy" not in {bundle.name for bundle in whole}


def test_two_alike_models_are_not_chosen_between(
    monkeypatch: pytest.MonkeyPatch, example: Path, tmp_path: Path
) -> None:
    (tmp_path / "twin").symlink_to(REPOSITORY / "exported_models" / "human-pbmc")
    monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(tmp_path))
    with open_query(example) as query, pytest.raises(BundleError, match="twin"):
        choose_model(query, device="cpu")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("pbmc_10studies_UNLABELLED_3000.h5ad", "human-pbmc"),
        ("pancreas_segerstolpe_neuca_2000g.h5ad", "human-pancreas"),
        ("pancreas_baron_neuca_2000g.h5ad", "human-pancreas"),
        ("mouse_lung_zilionis_800.h5ad", "mouse-body"),
        ("scdcc_human_kidney_2000g.h5ad", None),
    ],
)
def test_choice_on_other_files(
    real_data: Callable[[str], Path], name: str, model: str | None
) -> None:
    with open_query(real_data(name)) as query:
        if model is None:
            with pytest.raises(BundleError, match="none can read it: the genes have no names"):
                choose_model(query, device="cpu")
        else:
            assert choose_model(query, device="cpu")[0].name == model


@pytest.mark.parametrize(
    ("query", "model", "least"),
    [
        ("pancreas_baron_neuca_2000g.h5ad", "human-pancreas", 0.93),
        ("pancreas_segerstolpe_neuca_2000g.h5ad", "human-pancreas", 0.93),
    ],
)
def test_accuracy_on_unseen_studies_does_not_fall(
    real_data: Callable[[str], Path], query: str, model: str, least: float
) -> None:
    with open_query(real_data(query)) as cells:
        annotator = Annotator.load(REPOSITORY / "exported_models" / model, device="cpu")
        truth = np.array(cells.obs_column("cell_type_common"))
        found = annotator.annotate_query(cells)
    known = np.isin(truth, annotator.bundle.cell_types)
    assert (found.best_labels == truth)[known].mean() > least


# --- what is read ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def islets() -> ad.AnnData:
    """Return 400 real islet cells with counts of 4,000 genes."""
    adata = ad.read_h5ad(REPOSITORY / "tests" / "data" / "pancreas400.h5ad")
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    return adata


@pytest.fixture(scope="module")
def islet_model() -> Annotator:
    return Annotator.load("human-pancreas", device="cpu", threads=1)


def log_cut(adata: ad.AnnData, target: float | None, n: int = 1500) -> tuple[sp.csr_matrix, list]:
    """Return log1p of counts scaled to a total, cut to the most variable genes."""
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    log = sp.csr_matrix(sp.diags_array((target or np.median(totals)) / totals) @ adata.X).log1p()
    kept = np.sort(np.argsort(-log.toarray().var(axis=0))[:n])
    return log[:, kept], list(adata.var_names[kept])


@pytest.mark.parametrize(("target", "least"), [(1e4, 0.97), (None, 0.95), (1e6, 0.95), (1e3, 0.9)])
def test_the_total_that_a_cut_was_scaled_to_is_found(
    islets: ad.AnnData, islet_model: Annotator, target: float | None, least: float
) -> None:
    whole = islet_model.annotate_matrix(islets.X, list(islets.var_names))
    found = islet_model.annotate_matrix(*log_cut(islets, target))
    assert found.provenance.matrix.state == "log1p-cut"
    total = np.median(np.asarray(islets.X.sum(axis=1)))
    if target == 1e4:
        assert found.provenance.matrix.target_sum == 1e4
    elif target is not None:
        assert 0.4 < found.provenance.matrix.target_sum / target < 2.5
    else:
        assert found.provenance.matrix.target_sum in (1e4, pytest.approx(total, rel=0.6))
    assert (found.best_labels == whole.best_labels).mean() >= least


def test_batches_are_labelled_as_if_each_came_alone(
    islets: ad.AnnData, islet_model: Annotator
) -> None:
    adata = islets.copy()
    adata.obs["sample"] = np.array(["a", "b", "c"])[np.arange(adata.n_obs) % 3]
    adata.obs["sample"] = adata.obs["sample"].astype("category")
    counts = adata.X.toarray()
    counts[5] = 0
    adata.X = sp.csr_matrix(counts)
    found = islet_model.annotate_query(AnnDataQuery(adata), Reading(batch_key="sample"))
    assert found.provenance.params.n_batches == 3
    assert found.empty.sum() == 1
    for name in "abc":
        rows = np.flatnonzero(adata.obs["sample"] == name)
        alone = islet_model.annotate_query(AnnDataQuery(adata[rows].copy()))
        for part in ("probabilities", "novelty", "neighbor_agreement"):
            np.testing.assert_array_equal(getattr(found, part)[rows], getattr(alone, part))
    together = islet_model.annotate_query(AnnDataQuery(adata))
    assert not np.array_equal(together.probabilities, found.probabilities)
    with pytest.raises(InputError, match=r"no obs\['donor'\]"):
        islet_model.annotate_query(AnnDataQuery(adata), Reading(batch_key="donor"))


def test_a_batch_of_one_cell_works(islets: ad.AnnData, islet_model: Annotator) -> None:
    adata = islets[:30].copy()
    adata.obs["sample"] = ["alone", *["rest"] * 29]
    found = islet_model.annotate_query(AnnDataQuery(adata), Reading(batch_key="sample"))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)


def test_mouse_on_a_human_model_is_refused_whatever_the_case(
    real_data: Callable[[str], Path], islet_model: Annotator
) -> None:
    adata = ad.read_h5ad(real_data("mouse_pancreas_baron_mouse1.h5ad"))
    for case in (str, str.upper):
        adata.var_names = [case(name) for name in adata.var_names]
        with pytest.raises(GeneError, match=r"of mouse.*model is of human"):
            islet_model.annotate_query(AnnDataQuery(adata))
    allowed = islet_model.annotate_query(AnnDataQuery(adata), Reading(allow_species_mismatch=True))
    truth = adata.obs["cell_type_common"].astype(str).to_numpy()
    known = np.isin(truth, allowed.cell_types)
    assert (allowed.best_labels == truth)[known].mean() > 0.7


def test_ensembl_ids_label_as_symbols_do(islets: ad.AnnData, islet_model: Annotator) -> None:
    from scbignn_infer.query.gene_names import GeneNames

    gene = GeneNames.of("human").gene
    kept = [i for i, name in enumerate(islets.var_names) if name in gene]
    assert len(kept) > 3800
    x, symbols = islets.X[:, kept], [islets.var_names[i] for i in kept]
    by_symbol = islet_model.annotate_matrix(x, symbols)
    by_id = islet_model.annotate_matrix(x, [f"{gene[s]}.7" for s in symbols])
    assert by_id.provenance.genes.n_renamed > 3700
    assert (by_id.best_labels == by_symbol.best_labels).mean() > 0.99


def test_annotate_takes_what_an_annotator_takes(
    blood: ad.AnnData, pbmc_bundle: ModelBundle
) -> None:
    options = {"unknown": False, "level": 1, "graph": "reference", "threads": 1, "device": "cpu"}
    scbignn_infer.annotate(blood, pbmc_bundle, **options)
    found = Annotator(pbmc_bundle, **options).annotate_query(AnnDataQuery(blood))
    assert list(blood.obs["scbignn_cell_type"]) == list(found.labels)
    assert "unknown" not in set(blood.obs["scbignn_cell_type"])
    with pytest.raises(InputError, match="memory limit"):
        scbignn_infer.annotate(blood, pbmc_bundle, memory_limit=1000, overwrite=True)
    with pytest.raises(InputError, match="of the reference"):
        scbignn_infer.annotate(
            blood, pbmc_bundle, graph="reference", write_graph=True, overwrite=True
        )


def test_cells_are_explained_in_memory(blood: ad.AnnData, pbmc_bundle: ModelBundle) -> None:
    cells = list(blood.obs_names[[5, 2]])
    found = scbignn_infer.explain(blood, pbmc_bundle, cells, device="cpu", threads=1)
    assert [e.cell for e in found] == cells
    assert all(isinstance(e, scbignn_infer.CellExplanation) for e in found)
    labels = Annotator(pbmc_bundle, device="cpu").annotate_query(AnnDataQuery(blood)).best_labels
    assert [e.best_label for e in found] == [labels[5], labels[2]]


# --- causes before blame -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some_islets() -> ad.AnnData:
    return ad.read_h5ad(REPOSITORY / "tests" / "data" / "pancreas400.h5ad")[:200].copy()


@pytest.fixture(scope="module")
def islet_annotator() -> Annotator:
    return Annotator.load("human-pancreas", device="cpu", threads=1)


def remarks(annotator: Annotator, adata: ad.AnnData, reading: Reading = AS_FOUND) -> list[str]:
    return annotator.annotate_query(AnnDataQuery(adata), reading).warnings()


def split(adata: ad.AnnData) -> ad.AnnData:
    """Return counts split into the layers of RNA velocity."""
    counts, rng = sp.csr_matrix(adata.X), np.random.default_rng(0)
    left = counts.data.astype(int)
    parts = ad.AnnData(None, obs=adata.obs, var=adata.var)
    for name, share in (("ambiguous", 0.1), ("spliced", 0.7), ("unspliced", 1.0)):
        data = rng.binomial(left, share)
        left = left - data
        layer = sp.csr_matrix((data.astype(np.uint16), counts.indices, counts.indptr), counts.shape)
        parts.layers[name] = layer
    return parts


def test_layers_of_velocity_are_summed_where_there_is_nothing_else(
    some_islets: ad.AnnData, islet_annotator: Annotator, tmp_path: Path
) -> None:
    plain = islet_annotator.annotate_query(AnnDataQuery(some_islets))
    parts = split(some_islets)
    whole = "layers/spliced+unspliced+ambiguous"
    parts.write_h5ad(tmp_path / "parts.h5ad")
    with open_query(tmp_path / "parts.h5ad") as query:
        found = islet_annotator.annotate_query(query)
    matrix = found.provenance.matrix
    assert matrix.name == whole
    assert "passed over: 'ambiguous' holds a part" in matrix.verdicts["layers:ambiguous"]
    np.testing.assert_array_equal(found.labels, plain.labels)
    assert found.warnings() == plain.warnings()
    assert islet_annotator.choose(AnnDataQuery(parts), Reading(matrix=whole)).matrix == whole
    both = some_islets.copy()
    both.layers.update(parts.layers)
    assert islet_annotator.choose(AnnDataQuery(both)).matrix == "X"
    forced = remarks(islet_annotator, both, Reading(matrix="layers/ambiguous"))
    assert "layers/ambiguous was read, but 'ambiguous' holds a part of the counts" in forced[0]
    del parts.layers["spliced"]
    with pytest.raises(InputError, match=r"holds a part of the counts.*--matrix layers/ambiguous"):
        islet_annotator.choose(AnnDataQuery(parts))


def test_cells_of_a_second_species_are_unknown_and_counted(
    some_islets: ad.AnnData, islet_annotator: Annotator
) -> None:
    mouse = [f"mm10___{n}" for n in sorted(GeneNames.of("mouse").symbols)[3000:3500]]
    counts = np.random.default_rng(0).poisson(3, (40, 500)).astype(np.float32)
    mixed = sp.block_diag([sp.csr_matrix(some_islets.X), sp.csr_matrix(counts)], format="csr")
    names = [f"GRCh38_{n}" for n in some_islets.var_names] + mouse
    adata = ad.AnnData(mixed.astype(np.float32))
    adata.var_names = names
    found = islet_annotator.annotate_query(AnnDataQuery(adata))
    plain = islet_annotator.annotate_query(AnnDataQuery(some_islets))
    np.testing.assert_array_equal(found.labels[:200], plain.labels)
    assert set(found.labels[200:]) == {"unknown"}
    assert (found.confidence[200:] == 0).all()
    assert (found.provenance.n_foreign, found.n_empty) == (40, 0)
    genes = found.record()["genes"]
    assert genes["foreign"] == {"species": "mouse", "cells": 40}
    assert genes["left_out"] == {"genes of mouse": 500}
    (said,) = [r for r in found.warnings() if "mouse" in r]
    assert said.startswith("40 of 240 cells are mostly of mouse, another species than the model's")


def test_empty_barcodes_are_the_cause_and_not_the_tissue(
    some_islets: ad.AnnData, islet_annotator: Annotator
) -> None:
    x = sp.csr_matrix(some_islets.X)
    rng = np.random.default_rng(0)
    ambient = np.asarray(x.sum(axis=0)).ravel() / x.sum()
    drops = np.stack([rng.multinomial(rng.integers(0, 9), ambient) for _ in range(300)])
    raw = ad.AnnData(sp.vstack([x, sp.csr_matrix(drops.astype(np.float32))]).tocsr())
    raw.var_names = some_islets.var_names
    said = remarks(islet_annotator, raw)
    assert "60% of the barcodes are empty or nearly so" in said[0]
    assert "filtered_feature_bc_matrix" in said[0]
    assert not [r for r in said if "tissue" in r or "right model" in r]


def test_genes_that_a_batch_lacks_are_the_cause(
    some_islets: ad.AnnData, islet_annotator: Annotator
) -> None:
    joined, x = some_islets.copy(), some_islets.X.toarray()
    x[:80, np.random.default_rng(0).random(x.shape[1]) < 0.5] = 0
    joined.X = sp.csr_matrix(x)
    (said, *others) = remarks(islet_annotator, joined)
    assert "files with different genes were joined" in said
    assert not [r for r in others if "tissue" in r]
    order = np.random.default_rng(0).permutation(200)
    shuffled = joined[order].copy()
    shuffled.obs["file"] = ["a" if i < 80 else "b" for i in order]
    assert "were joined" in remarks(islet_annotator, shuffled, Reading(batch_key="file"))[0]


def test_ones_and_zeros_are_warned_of(some_islets: ad.AnnData, islet_annotator: Annotator) -> None:
    binary = some_islets.copy()
    binary.X = (some_islets.X > 0).astype(np.float32)
    assert "X was read, but all values are 0 or 1" in remarks(islet_annotator, binary)[0]


def test_a_transposed_matrix_is_named_as_such(
    some_islets: ad.AnnData, islet_annotator: Annotator
) -> None:
    with pytest.raises(GeneError, match=r"the matrix is genes x cells: .*turn it round"):
        islet_annotator.choose(AnnDataQuery(some_islets.T.copy()))


def test_a_cut_of_log2_keeps_the_total_that_was_found(
    some_islets: ad.AnnData, islet_annotator: Annotator
) -> None:
    """10,000 is usual for base e alone; 26,000 is not made 10,000."""
    cut = some_islets.copy()
    x = some_islets.X.toarray()
    cut.X = sp.csr_matrix(np.log2(1 + x / x.sum(axis=1, keepdims=True) * 26_000))
    cut = cut[:, ::2].copy()
    choice = islet_annotator.choose(AnnDataQuery(cut))
    assert (choice.verdict.state, choice.verdict.base) == ("log1p-cut", 2.0)
    assert choice.target_sum == pytest.approx(26_000, rel=0.3)
    assert choice.target_sum != 10_000


def test_the_cause_is_said_where_no_model_can_read_a_file(some_islets: ad.AnnData) -> None:
    nameless = some_islets.copy()
    nameless.var_names = [f"Gene{i}" for i in range(some_islets.n_vars)]
    with pytest.raises(BundleError, match="none can read it: the genes have no names"):
        choose_model(AnnDataQuery(nameless), device="cpu")
    with pytest.raises(
        BundleError, match="none can read it: the matrix is genes x cells"
    ) as caught:
        choose_model(AnnDataQuery(some_islets.T.copy()), device="cpu")
    assert "adata.T" in caught.value.do
