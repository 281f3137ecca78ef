from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import GeneError, InputError
from scbignn_infer.query.gene_names import GeneNames
from scbignn_training.blocks import log_expression
from scbignn_training.data import (
    Origin,
    Study,
    join,
    rank_genes,
    read_study,
    relabelled,
    tell_species,
    unlabelled_cells,
    well_known,
)


def write(path, counts, genes, obs=None, **columns):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata on names that are not unique
        adata = ad.AnnData(
            sp.csr_matrix(counts, dtype=np.float32),
            obs=pd.DataFrame(obs or {}, index=[f"c{i}" for i in range(len(counts))]),
            var=pd.DataFrame(columns, index=genes),
        )
        adata.write_h5ad(path)
    return path


def cells(counts, symbols, labels, ids=None):
    return Study(
        Path("cells.h5ad"),
        sp.csr_matrix(counts, dtype=np.float32),
        list(symbols),
        list(ids or [""] * len(symbols)),
        np.array(labels, dtype=object),
    )


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(1.0, (30, 600)).astype(np.float32)


GENES = [f"G{i:03}" for i in range(600)]


class TestReading:
    def test_a_real_file_is_read_whole(self, pancreas):
        adata = ad.read_h5ad(pancreas)
        found = read_study(pancreas, label_key="cell_type")
        assert sorted(found.symbols) == sorted(adata.var_names)
        expected = adata[:, found.symbols].X
        assert (found.counts != expected).nnz == 0
        assert found.labels.tolist() == adata.obs["cell_type"].tolist()

    def test_columns_of_one_gene_are_summed(self, tmp_path):
        path = write(
            tmp_path / "a.h5ad",
            [[1, 2, 3, 0], [0, 5, 7, 1]],
            ["B", "A", "B", "C"],
            gene_ids=["id0", "id1", "id2", "id3"],
        )
        found = read_study(path)
        assert found.symbols == ["A", "B", "C"]
        np.testing.assert_array_equal(found.counts.toarray(), [[2, 4, 0], [5, 7, 1]])
        assert found.ensembl_ids == ["id1", "id0", "id3"]
        assert found.labels.tolist() == ["", ""]

    def test_log_values_are_turned_back(self, tmp_path, counts):
        share = counts / counts.sum(axis=1, keepdims=True)
        path = write(tmp_path / "log.h5ad", np.log1p(1e4 * share), GENES)
        np.testing.assert_allclose(read_study(path).counts.toarray(), 1e4 * share, rtol=1e-4)

    def test_a_cut_of_log_values_is_refused(self, tmp_path, counts):
        share = counts / counts.sum(axis=1, keepdims=True)
        path = write(tmp_path / "cut.h5ad", np.log1p(1e4 * share)[:, :200], GENES[:200])
        with pytest.raises(InputError, match="only some genes") as caught:
            read_study(path)
        assert "\n" not in str(caught.value)

    def test_a_missing_label_column_is_one_line(self, pancreas):
        with pytest.raises(InputError, match=r"no obs\['celltype'\]") as caught:
            read_study(pancreas, label_key="celltype")
        assert "cell_type" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_cells_are_excluded_by_pattern(self, tmp_path, counts):
        batch = ["GSE1_a", "GSE1_b", "GSE2"] * 10
        path = write(tmp_path / "b.h5ad", counts, GENES, obs={"batch": batch, "t": GENES[:30]})
        found = read_study(path, label_key="t", exclude={"batch": ["GSE1*", "nothing"]})
        np.testing.assert_array_equal(found.counts.toarray(), counts[2::3])
        assert found.labels.tolist() == GENES[2:30:3]

    @pytest.mark.parametrize("categorical", [True, False])
    def test_cells_without_a_label_have_an_empty_one(self, tmp_path, counts, categorical):
        labels = pd.Series(["a", None, "b"] * 10, index=[f"c{i}" for i in range(30)])
        obs = {"t": labels.astype("category") if categorical else labels}
        found = read_study(write(tmp_path / "n.h5ad", counts, GENES, obs=obs), label_key="t")
        assert found.labels.tolist() == ["a", "", "b"] * 10


class TestJoining:
    def test_a_gene_that_a_file_has_not_is_absent_there(self, counts):
        rng = np.random.default_rng(1)
        order = rng.permutation(600)[:550]
        other = rng.poisson(1.0, (20, 550))
        first = cells(counts, GENES, ["a"] * 30, ids=[f"id{i}" for i in range(600)])
        second = cells(other, [*np.array(GENES)[order[:-1]], "OTHER"], ["b"] * 20)
        found = join([first, second])
        frames = [pd.DataFrame(f.counts.toarray(), columns=f.symbols) for f in (first, second)]
        expected = pd.concat(frames, ignore_index=True)
        assert set(found.symbols) == set(expected.columns)
        np.testing.assert_array_equal(found.counts.toarray(), expected[found.symbols].fillna(0))
        here = [expected[found.symbols].notna().to_numpy()[row] for row in (0, 30)]
        np.testing.assert_array_equal(found.measured, here)
        np.testing.assert_array_equal(found.gaps.of(np.array([29, 30])), here)
        ids = [f"id{int(s[1:])}" if s != "OTHER" else "" for s in found.symbols]
        assert found.ensembl_ids == ids
        common = [s for s in first.symbols if s in second.symbols]
        assert found.symbols[: len(common)] == common
        assert found.batches.tolist() == [0] * 30 + [1] * 20
        assert found.codes.tolist() == [0] * 30 + [1] * 20

    def test_labels_are_merged_and_dropped(self, counts):
        labels = ["T1"] * 6 + ["T2"] * 6 + ["B"] * 12 + ["rare"] * 3 + ["doublet"] * 2 + [""]
        found = join(
            [cells(counts, GENES, labels)],
            merge={"T1": "T", "T2": "T", "nowhere": "B"},
            drop=["doublet"],
            min_cells=4,
        )
        assert found.cell_types == ["B", "T"]
        assert found.codes.tolist() == [1] * 12 + [0] * 12
        assert found.merged == {"T1": "T", "T2": "T"}
        assert found.dropped == {"rare": 3, "doublet": 2, "": 1}
        few = "rare (3), doublet (2), no label that is used (1)"
        assert found.left_out == f"6 cells, 20.0% of all, are left out: {few}"
        np.testing.assert_array_equal(found.counts.toarray(), counts[:24])

    def test_many_types_that_are_left_out_are_said_in_one_line(self, counts):
        labels = [f"rare {i}" for i in range(10)] + ["T"] * 10 + ["B"] * 10
        said = join([cells(counts, GENES, labels)]).left_out
        assert said.startswith("10 cells, 33.3% of all, are left out: rare 0 (1), ")
        assert said.endswith("rare 7 (1), 2 more types")

    def test_five_cells_are_enough_by_default(self, counts):
        found = join([cells(counts, GENES, ["few"] * 5 + ["T"] * 12 + ["B"] * 13)])
        assert found.cell_types == ["B", "T", "few"]
        assert found.left_out == ""

    def test_a_type_of_enough_cells_after_merging_stays(self, counts):
        labels = ["T1"] * 9 + ["T2"] * 9 + ["B"] * 12
        reference = cells(counts, GENES, labels)
        assert join([reference], min_cells=12, merge={"T1": "T2"}).cell_types == ["B", "T2"]
        with pytest.raises(InputError, match="1 cell types with at least 12 cells"):
            join([reference], min_cells=12)

    def test_too_few_common_genes_is_one_line(self, counts):
        first = cells(counts, GENES, ["a"] * 30)
        second = cells(counts[:, :499], GENES[:499], ["b"] * 30)
        with pytest.raises(InputError, match="shares 499 genes with the other") as caught:
            join([first, second])
        assert "\n" not in str(caught.value)
        whole = cells(counts, GENES, ["b"] * 30)
        few = cells(counts[:, :20], [*GENES[:10], *"ABCDEFGHIJ"], ["b"] * 30)
        with pytest.raises(InputError, match="shares 10 genes"):
            join([first, whole, few])

    def test_a_cut_file_costs_the_others_no_gene(self, counts):
        whole = [cells(counts, GENES, ["a"] * 15 + ["b"] * 15) for _ in range(2)]
        found = join([*whole, cells(counts[:, :520], GENES[:520], ["a"] * 30)])
        assert found.symbols == GENES
        assert found.measured.sum(axis=1).tolist() == [600, 600, 520]
        # Its cells get the totals that they would have had, and shares are as without it.
        share = found.gene_share
        np.testing.assert_allclose(share, join(whole).gene_share, rtol=1e-4)
        np.testing.assert_allclose(
            found.totals[60:], counts[:, :520].sum(axis=1) / share[:520].sum(), rtol=1e-5
        )
        np.testing.assert_allclose(found.totals[:60], join(whole).totals, rtol=1e-6)

    def test_files_with_the_same_genes_have_no_gaps(self, counts):
        order = np.random.default_rng(0).permutation(600)
        shuffled = cells(counts[:, order], [GENES[i] for i in order], ["b"] * 30)
        found = join([cells(counts, GENES, ["a"] * 30), shuffled])
        assert found.gaps is None
        np.testing.assert_array_equal(found.counts.toarray(), np.vstack([counts, counts]))

    @pytest.mark.parametrize("name", ["a\x1b[2J", "b" * 201, "c\u202ed"])
    def test_names_that_no_bundle_may_have_are_refused_before_training(self, counts, name):
        with pytest.raises(InputError, match="a cell type named ") as caught:
            join([cells(counts, GENES, ["a"] * 15 + [name] * 15)])
        assert str(caught.value).isprintable()
        with pytest.raises(InputError, match="a gene named "):
            join([cells(counts, [name, *GENES[1:]], ["a"] * 15 + ["b"] * 15)])

    def test_a_type_named_unknown_is_one_line(self, counts):
        """It is what the runtime calls cells below the threshold."""
        labels = ["a"] * 12 + ["unknown"] * 12 + ["b"] * 6
        study = cells(counts, GENES, labels)
        with pytest.raises(InputError, match="a cell type named 'unknown'") as caught:
            join([study], min_cells=4)
        assert "\n" not in str(caught.value)
        assert join([study], min_cells=4, drop=["unknown"]).cell_types == ["a", "b"]
        assert join([study], min_cells=4, merge={"unknown": "b"}).cell_types == ["a", "b"]
        rare = cells(counts, GENES, ["a"] * 14 + ["unknown"] * 2 + ["b"] * 14)
        assert join([rare], min_cells=4).cell_types == ["a", "b"]

    def test_totals_and_gene_shares_are_over_the_joined_genes(self, counts):
        found = join([cells(counts, GENES, ["a"] * 15 + ["b"] * 15)])
        np.testing.assert_allclose(found.totals, counts.sum(axis=1))
        np.testing.assert_allclose(found.gene_share, counts.sum(axis=0) / counts.sum())
        assert found.totals.dtype == np.float32


def test_genes_that_few_studies_measured_are_left_out(counts):
    one = cells(counts[:, :3], ["A", "B", "C"], ["x"] * 30)
    two = cells(counts[:, :2], ["B", "C"], ["x"] * 30)
    kept = well_known([one, two], 2)
    assert [s.symbols for s in kept] == [["B", "C"]] * 2
    assert (kept[0].counts != one.counts[:, 1:]).nnz == 0
    assert kept[1] is two


def test_studies_of_one_file_measured_a_gene_once(counts):
    one = cells(counts[:, :3], ["A", "B", "C"], ["x"] * 30)
    two = cells(counts[:, :2], ["B", "C"], ["x"] * 30)
    organs = [replace(one, origin=Origin(name, reference="atlas")) for name in ("lung", "liver")]
    assert [s.symbols for s in well_known([*organs, two], 2)] == [["B", "C"]] * 3
    apart = [replace(o, origin=Origin(o.origin.name)) for o in organs]
    assert well_known([*apart, two], 2)[0].symbols == ["A", "B", "C"]


def test_log_expression():
    counts = sp.csr_matrix([[1.0, 0.0], [2.0, 3.0]])
    found = log_expression(counts, np.array([4.0, 0.0])).toarray()
    np.testing.assert_allclose(found, np.log1p([[2500.0, 0.0], [2e4, 3e4]]), rtol=1e-6)
    assert found.dtype == np.float32


def naive_rank(counts, totals, codes, n_genes):
    """Rank genes with loops over types and genes."""
    x = np.log1p(counts / totals[:, None] * 1e4)
    n_types, m = codes.max() + 1, counts.shape[1]
    best = [m] * m
    for t in range(n_types):
        scores = []
        for j in range(m):
            own, every = x[codes == t, j], x[:, j]
            spread = own.var() / len(own) + every.var() / len(every) + 1e-3
            scores.append((own.mean() - every.mean()) / spread**0.5)
        for place, j in enumerate(sorted(range(m), key=lambda j: -scores[j])):
            best[j] = min(best[j], place)
    return sorted(range(m), key=lambda j: best[j])[:n_genes]


def test_genes_are_ranked_by_their_best_type():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 60)
    rate = rng.gamma(1.0, 1.0, (3, 50))
    counts = rng.poisson(rate[codes] * 5).astype(np.float32) + 1
    totals = counts.sum(axis=1) * rng.uniform(1, 3, 60)
    found = rank_genes(sp.csr_matrix(counts), totals, codes, 20)
    assert found.tolist() == naive_rank(counts.astype(float), totals, codes, 20)


def test_markers_of_real_cells_rank_first(pancreas):
    reference = join([read_study(pancreas, label_key="cell_type")])
    best = rank_genes(reference.counts, reference.totals, reference.codes, 60)
    assert {"INS", "GCG", "SST", "PPY"} <= {reference.symbols[i] for i in best}


class TestParts:
    """Cells and genes of a reference, chosen and reordered."""

    LABELS = ("a", "b", "b", "c", "d", "d")

    @pytest.fixture
    def reference(self, counts):
        first, second = (
            cells(part, GENES, list(self.LABELS) * 2, ids=[f"id{i}" for i in range(600)])
            for part in (counts[:12], counts[12:24])
        )
        return join([first, second], min_cells=2)

    def test_a_subset_recodes_its_types(self, reference, counts):
        rows = np.array([21, 1, 3, 2, 4, 10, 0, 9])  # c b c b d d a c: one a only
        part = reference.subset(rows)
        assert part.cell_types == ["b", "c", "d"]
        kept = rows[rows != 0]
        np.testing.assert_array_equal(part.counts.toarray(), counts[kept])
        assert [part.cell_types[c] for c in part.codes] == [self.LABELS[i % 6] for i in kept]
        assert part.batches.tolist() == (kept >= 12).astype(int).tolist()
        assert (part.symbols, part.ensembl_ids) == (reference.symbols, reference.ensembl_ids)
        np.testing.assert_array_equal(part.totals, counts[kept].sum(axis=1))
        assert reference.cell_types == ["a", "b", "c", "d"]  # the whole stays as it was

    def test_a_subset_of_everything_is_the_same(self, reference):
        part = reference.subset(np.arange(24))
        assert part.cell_types == reference.cell_types
        assert part.codes.tolist() == reference.codes.tolist()
        assert (part.counts != reference.counts).nnz == 0

    def test_the_best_ranked_genes_come_first_and_take_their_counts_along(self, reference):
        best = rank_genes(reference.counts, reference.totals, reference.codes, 50)
        ordered = reference.in_rank_order(50)
        assert ordered.symbols[:50] == [reference.symbols[i] for i in best]
        assert sorted(ordered.symbols) == sorted(reference.symbols)
        place = [reference.symbols.index(s) for s in ordered.symbols]
        assert (ordered.counts != reference.counts[:, place]).nnz == 0
        assert ordered.ensembl_ids == [f"id{i}" for i in place]
        few = ordered.cells(50)
        assert (few.counts != ordered.counts[:, :50]).nnz == 0
        np.testing.assert_array_equal(few.totals, reference.totals)  # of all genes
        assert few.present.all()
        assert (few.expression != log_expression(few.counts, few.totals)).nnz == 0


def test_cells_with_a_gene_of_another_type_are_relabelled(counts):
    study = cells(counts, GENES, ["CD4 T"] * 20 + ["B"] * 10)
    genes = GENES[3:5]
    found = relabelled(study, "CD4 T", "CD8 T", [*genes, "OTHER"]).labels
    shown = counts[:, 3:5].any(axis=1)
    assert 0 < shown[:20].sum() < 20
    assert (found[:20] == np.where(shown[:20], "CD8 T", "CD4 T")).all()
    assert (found[20:] == "B").all()
    assert study.labels[:20].tolist() == ["CD4 T"] * 20
    with pytest.raises(InputError, match="none of the genes OTHER") as caught:
        relabelled(study, "CD4 T", "CD8 T", ["OTHER"])
    assert "\n" not in str(caught.value)


class TestUnlabelled:
    """Unlabelled files are brought to the ranked genes as the runtime would do it."""

    M = 600

    def bring(self, reference, files, settings):
        return unlabelled_cells(reference, files, self.M, settings.net_genes)

    @staticmethod
    def file(reference, columns, seed=0, extra=0):
        """Return a file of some genes of the reference, shuffled, and of ``extra`` others."""
        rng = np.random.default_rng(seed)
        counts = rng.poisson(1.0, (20, len(columns) + extra)).astype(np.float32)
        names = [reference.symbols[i] for i in columns] + [f"OTHER{i}" for i in range(extra)]
        order = rng.permutation(len(names))
        return Study(
            Path("other.h5ad"),
            sp.csr_matrix(counts[:, order]),
            [names[i] for i in order],
            [""] * len(names),
            np.full(20, "", object),
        ), counts

    def test_none_given(self, model, settings):
        assert self.bring(model.reference, [], settings) is None

    def test_absent_genes_are_masked_and_totals_scaled(self, model, settings):
        reference = model.reference
        columns = np.flatnonzero(np.arange(len(reference.symbols)) % 3 > 0)
        file, counts = self.file(reference, columns, extra=50)
        found = self.bring(reference, [file], settings)
        expected = np.zeros((20, len(reference.symbols)), np.float32)
        expected[:, columns] = counts[:, : len(columns)]
        np.testing.assert_array_equal(found.counts.toarray(), expected[:, : self.M])
        np.testing.assert_array_equal(found.present, np.arange(self.M) % 3 > 0)
        share = reference.gene_share[columns].sum()
        np.testing.assert_allclose(found.totals, expected.sum(axis=1) / share, rtol=1e-5)
        assert len(found.codes) == 0

    def test_of_two_files_only_their_common_genes_are_present(self, model, settings):
        reference = model.reference
        every = np.arange(len(reference.symbols))
        one, _ = self.file(reference, every[every % 3 > 0], seed=1)
        two, _ = self.file(reference, every[every % 5 > 0], seed=2)
        found = self.bring(reference, [one, two], settings)
        present = (every % 3 > 0) & (every % 5 > 0)
        np.testing.assert_array_equal(found.present, present[: self.M])
        assert not found.counts.toarray()[:, ~found.present].any()
        assert len(found.totals) == 40

    def test_empty_cells_are_left_out(self, model, settings):
        file, _ = self.file(model.reference, np.arange(4000))
        counts = file.counts.toarray()
        counts[[3, 7]] = 0
        found = self.bring(model.reference, [replace(file, counts=sp.csr_matrix(counts))], settings)
        assert found.counts.shape[0] == len(found.totals) == 18
        assert found.totals.min() > 0

    def test_no_cell_with_counts_is_one_line(self, model, settings):
        file, _ = self.file(model.reference, np.arange(4000))
        with pytest.raises(InputError, match="no unlabelled cell") as caught:
            self.bring(model.reference, [replace(file, counts=sp.csr_matrix((20, 4000)))], settings)
        assert "\n" not in str(caught.value)

    def test_foreign_genes_are_one_line(self, model, settings):
        file, _ = self.file(model.reference, [], extra=700)
        with pytest.raises(GeneError) as caught:
            self.bring(model.reference, [file], settings)
        assert "other.h5ad" in str(caught.value)
        assert "\n" not in str(caught.value)


class TestSpecies:
    """Genes tell it; what the user says must agree, and all files with each other."""

    @staticmethod
    def of(species, path="cells.h5ad"):
        names = sorted(GeneNames.of(species).symbols)[5000:5300] if species else GENES[:300]
        return replace(cells(np.ones((2, 300)), names, ["a", "b"]), path=Path(path))

    @pytest.mark.parametrize("species", ["human", "mouse"])
    @pytest.mark.parametrize("latin", [False, True])
    def test_it_is_told_from_the_genes(self, species, latin):
        assert tell_species("", [self.of(species), self.of(species), self.of(None)]) == species
        said = {"human": "Homo sapiens", "mouse": "Mus musculus"}[species] if latin else species
        assert tell_species(said, [self.of(species)]) == species
        assert tell_species(said.upper(), [self.of(None)]) == species

    @pytest.mark.parametrize("said", ["human", "mouse"])
    def test_what_is_said_must_agree(self, said):
        other = {"human": "mouse", "mouse": "human"}[said]
        with pytest.raises(InputError, match=f"b.h5ad are those of {other}") as error:
            tell_species(said, [self.of(said), self.of(other, "b.h5ad")])
        assert f"genes of {said}, as --species (species in a recipe) says" in str(error.value)
        assert "\n" not in str(error.value)

    def test_files_must_agree(self):
        with pytest.raises(InputError, match=r"a\.h5ad of mouse and b\.h5ad of human") as error:
            tell_species("", [self.of("mouse", "a.h5ad"), self.of("human", "b.h5ad")])
        assert "train a model for each species" in str(error.value)

    def test_nobody_guesses_where_the_genes_do_not_tell(self):
        with pytest.raises(InputError, match="do not tell their species") as error:
            tell_species("", [self.of(None)])
        assert "--species" in str(error.value)

    def test_a_species_without_a_table_is_believed(self):
        """Genes of a rat are written like those of a mouse."""
        assert tell_species("rat", [self.of("mouse")]) == "rat"
