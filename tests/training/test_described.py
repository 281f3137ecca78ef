"""A file of the CELLxGENE schema says itself what its cells are, and which studies it holds."""

from __future__ import annotations

import anndata as ad
import msgspec
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.gene_names import GeneNames
from scbignn_training.data import Wanted, read_study
from scbignn_training.recipe import Source
from scbignn_training.sampling import spread
from scbignn_training.train import check, read_reference, train

TERMS = {
    "alpha": ("pancreatic A cell", "CL:0000171"),
    "beta": ("type B pancreatic cell", "CL:0000169"),
    "delta": ("pancreatic D cell", "CL:0000173"),
    "ductal": ("pancreatic ductal cell", "CL:0002079"),
}


@pytest.fixture(scope="module")
def published(parts, tmp_path_factory):
    """Return the labelled cells as CELLxGENE publishes them: counts in raw, ids in the index."""
    adata = ad.read_h5ad(parts["labelled"])
    ids = GeneNames.of("human").gene
    adata = adata[:, [s in ids for s in adata.var_names]].copy()
    adata = adata[adata.obs["cell_type"].isin(TERMS)].copy()
    n = adata.n_obs
    terms = [TERMS[x] for x in adata.obs["cell_type"]]
    adata.obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([name for name, _ in terms]),
            "cell_type_ontology_term_id": pd.Categorical([term for _, term in terms]),
            "tissue": pd.Categorical(["islet of Langerhans"] * n),
            "assay": pd.Categorical(["inDrop"] * (n - 20) + ["Smart-seq2"] * 20),
            "donor_id": pd.Categorical([f"d{i % 4}" for i in range(n)]),
            "is_primary_data": [i % 10 > 0 for i in range(n)],
        },
        index=adata.obs_names,
    )
    adata.var = pd.DataFrame(
        {"feature_name": pd.Categorical(adata.var_names)}, index=[ids[s] for s in adata.var_names]
    )
    adata.raw = adata.copy()
    total = np.asarray(adata.X.sum(axis=1))
    adata.X = sp.csr_matrix(adata.X.multiply(1e4 / total)).log1p()
    path = tmp_path_factory.mktemp("published") / "published.h5ad"
    adata.write_h5ad(path)
    return path


def recipe_of(recipe, file, **fields):
    source = Source(file=str(file), study_key=fields.pop("study_key", []))
    empty = {"unlabelled": [], "ontology": {}, "tissue": "", "label_key": ""}
    return msgspec.structs.replace(recipe, reference=[source], **(empty | fields))


def test_the_file_says_labels_ids_tissue_and_assays(published):
    adata = ad.read_h5ad(published)
    own = np.flatnonzero(adata.obs["is_primary_data"])
    study = read_study(published, label_key="")
    assert study.labels.tolist() == adata.obs["cell_type"].astype(str).iloc[own].tolist()
    assert study.ontology == dict(TERMS.values())
    assert (study.tissue, study.assays) == ("islet of Langerhans", ("inDrop", "Smart-seq2"))
    assert study.left_out == {"is_primary_data is False": adata.n_obs - len(own)}
    place = {s: i for i, s in enumerate(adata.var["feature_name"])}
    raw = adata.raw.X[own][:, [place[s] for s in study.symbols]]
    assert (study.counts != raw).nnz == 0
    assert dict(zip(study.symbols, study.ensembl_ids, strict=True)) == dict(
        zip(adata.var["feature_name"], adata.var_names, strict=True)
    )


def test_labels_may_be_the_ontology_ids(published):
    by_id = read_study(published, label_key="cell_type_ontology_term_id")
    assert by_id.labels.tolist() == read_study(published, label_key="").labels.tolist()


def test_a_file_of_no_schema_must_be_told(parts):
    with pytest.raises(InputError, match="--label-key"):
        read_study(parts["labelled"], label_key="")


def test_copies_alone_are_refused(published, tmp_path):
    adata = ad.read_h5ad(published)
    adata.obs["is_primary_data"] = False
    adata.write_h5ad(tmp_path / "copies.h5ad")
    with pytest.raises(InputError, match="is_primary_data False"):
        read_study(tmp_path / "copies.h5ad", label_key="")


def test_donors_are_studies(recipe, published):
    reference = read_reference(recipe_of(recipe, published, study_key=["donor_id"]))
    donors = ad.read_h5ad(published).obs.query("is_primary_data")["donor_id"].value_counts()
    n = np.bincount(reference.batches)
    assert {o.name: int(m) for o, m in zip(reference.origins, n, strict=True)} == donors.to_dict()
    with pytest.raises(InputError, match="--study-key"):
        read_reference(recipe_of(recipe, published, study_key=["donor"]))


def test_two_columns_name_a_study_together(recipe, published):
    both = read_reference(recipe_of(recipe, published, study_key=["donor_id", "assay"]))
    obs = ad.read_h5ad(published).obs.query("is_primary_data")
    names = {f"{d} / {a}" for d, a in zip(obs["donor_id"], obs["assay"], strict=True)}
    assert {o.name for o in both.origins} == names


def test_a_model_has_scores_of_donors_left_out_and_what_the_file_says(recipe, published):
    model = train(recipe_of(recipe, published, study_key=["donor_id"], min_cells=4))
    assert model.validation == "each study left out in turn"
    origins = model.reference.origins
    assert {origins[i].name for i in model.held_out.by_study} == {"d0", "d1", "d2", "d3"}
    assert model.tissue == "islet of Langerhans"
    assert model.assays == ["inDrop", "Smart-seq2"]
    assert model.reference.ontology["pancreatic A cell"] == "CL:0000171"


@pytest.fixture
def copies_pass(monkeypatch):
    """Let the same cells stand in two files."""
    monkeypatch.setattr("scbignn_training.train.refuse_copies", lambda cells: None)


def test_donors_of_two_files_stay_apart(recipe, published, tmp_path, copies_pass):
    other = tmp_path / "again.h5ad"
    other.write_bytes(published.read_bytes())
    two = msgspec.structs.replace(
        recipe_of(recipe, published),
        reference=[Source(file=str(f), study_key=["donor_id"]) for f in (published, other)],
    )
    names = [o.name for o in read_reference(two).origins]
    assert len(names) == len(set(names)) == 8
    assert "again: d1" in names


class TestSampling:
    def test_no_type_has_more_and_small_ones_are_whole(self, published):
        obs = ad.read_h5ad(published).obs.query("is_primary_data")
        study = read_study(published, wanted=Wanted("", study_key=["donor_id"], most_per_type=20))
        names, n = np.unique(study.labels.astype(str), return_counts=True)
        all_of = obs["cell_type"].value_counts()
        assert {str(k): int(v) for k, v in zip(names, n, strict=True)} == {
            k: min(20, int(v)) for k, v in all_of.items()
        }
        beta = study.studies[study.labels == "type B pancreatic cell"]
        assert np.unique(beta.astype(str), return_counts=True)[1].tolist() == [5, 5, 5, 5]
        assert study.left_out["beyond --max-cells-per-type"] == len(obs) - n.sum()

    def test_a_seed_fixes_the_sample_and_rows_are_those_of_the_file(self, published):
        one, same, other = (
            read_study(published, wanted=Wanted("", most_per_type=20, seed=s)) for s in (1, 1, 2)
        )
        assert (one.counts != same.counts).nnz == 0
        assert (one.counts != other.counts).nnz > 0
        whole = read_study(published, label_key="")
        rows = {row.tobytes() for row in whole.counts.toarray()}
        assert all(row.tobytes() in rows for row in one.counts.toarray())

    def test_it_is_as_even_as_studies_allow(self):
        codes = np.repeat([0, 0, 1], [90, 6, 4])
        studies = np.repeat([0, 1, 0], [90, 6, 4])
        rows = spread(codes, studies, 20, 0)
        assert np.bincount(codes[rows]).tolist() == [20, 4]
        assert np.bincount(studies[rows][codes[rows] == 0]).tolist() == [14, 6]


class TestRoom:
    """A large file is read as a sample, whatever its types are."""

    def test_small_types_are_whole_and_studies_even(self, published):
        obs = ad.read_h5ad(published).obs.query("is_primary_data")
        all_of = obs["cell_type"].value_counts()
        study = read_study(published, wanted=Wanted("", study_key=["donor_id"], most=100))
        names, n = np.unique(study.labels.astype(str), return_counts=True)
        assert 90 <= n.sum() <= 100
        found = dict(zip(names.tolist(), n.tolist(), strict=True))
        smallest = all_of.index[-1]
        assert found[smallest] == min(all_of[smallest], max(25 // 4, found[smallest]))
        assert set(found) == set(all_of.index)
        assert study.left_out["beyond --max-cells"] == len(obs) - n.sum()
        beta = study.studies[study.labels == "type B pancreatic cell"]
        each = np.unique(beta.astype(str), return_counts=True)[1]
        assert each.max() - each.min() <= 1

    def test_cells_of_many_values_leave_room_for_fewer(self, published):
        whole = read_study(published, label_key="")
        per_cell = whole.counts.nnz / whole.counts.shape[0]
        few = read_study(published, wanted=Wanted("", most_values=int(80 * per_cell)))
        assert few.counts.shape[0] == pytest.approx(80, rel=0.1)
        assert few.counts.nnz == pytest.approx(80 * per_cell, rel=0.2)

    def test_with_room_enough_every_cell_is_read_as_before(self, published):
        whole = read_study(published, label_key="")
        roomy = read_study(published, wanted=Wanted("", most=10**6, most_values=10**9))
        assert (roomy.counts != whole.counts).nnz == 0
        assert roomy.left_out == whole.left_out

    def test_files_share_it(self, recipe, published, tmp_path, copies_pass):
        other = tmp_path / "again.h5ad"
        other.write_bytes(published.read_bytes())
        two = msgspec.structs.replace(
            recipe_of(recipe, published, max_cells=100),
            reference=[Source(file=str(f)) for f in (published, other)],
        )
        n = np.bincount(read_reference(two).batches)
        assert n.tolist() == pytest.approx([50, 50], abs=6)
        every = msgspec.structs.replace(two, max_cells=0)
        assert len(read_reference(every).codes) == 2 * len(
            read_study(published, label_key="").labels
        )

    def test_cells_without_labels_have_room_too(self, parts):
        study = read_study(parts["labelled"], wanted=Wanted(most=30))
        assert study.counts.shape[0] == 30


def test_a_model_says_what_was_not_read(recipe, published):
    sampled = recipe_of(recipe, published, min_cells=4, max_cells=150)
    model = train(sampled)
    n = ad.read_h5ad(published).n_obs
    held = len(model.reference.codes) + sum(model.reference.dropped.values())
    assert sum(model.not_read.values()) == n - held
    assert set(model.not_read) == {"is_primary_data is False", "beyond --max-cells"}


def test_check_says_what_the_columns_left_out(recipe, published):
    rows = check(recipe_of(recipe, published))
    assert [r.labels for r in rows if r.what == "not read"] == ["is_primary_data is False"]
