from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_training.data import (
    Cells,
    join,
    log_expression,
    rank_genes,
    read_cells,
    split,
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
    return Cells(
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
        found = read_cells(pancreas, label_key="cell_type")
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
        found = read_cells(path)
        assert found.symbols == ["A", "B", "C"]
        np.testing.assert_array_equal(found.counts.toarray(), [[2, 4, 0], [5, 7, 1]])
        assert found.ensembl_ids == ["id1", "id0", "id3"]
        assert found.labels.tolist() == ["", ""]

    def test_log_values_are_turned_back(self, tmp_path, counts):
        share = counts / counts.sum(axis=1, keepdims=True)
        path = write(tmp_path / "log.h5ad", np.log1p(1e4 * share), GENES)
        np.testing.assert_allclose(read_cells(path).counts.toarray(), 1e4 * share, rtol=1e-4)

    def test_a_cut_of_log_values_is_refused(self, tmp_path, counts):
        share = counts / counts.sum(axis=1, keepdims=True)
        path = write(tmp_path / "cut.h5ad", np.log1p(1e4 * share)[:, :200], GENES[:200])
        with pytest.raises(InputError, match="only some genes") as caught:
            read_cells(path)
        assert "\n" not in str(caught.value)

    def test_a_missing_label_column_is_one_line(self, pancreas):
        with pytest.raises(InputError, match="no obs column 'celltype'") as caught:
            read_cells(pancreas, label_key="celltype")
        assert "cell_type" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_cells_are_excluded_by_pattern(self, tmp_path, counts):
        batch = ["GSE1_a", "GSE1_b", "GSE2"] * 10
        path = write(tmp_path / "b.h5ad", counts, GENES, obs={"batch": batch, "t": GENES[:30]})
        found = read_cells(path, label_key="t", exclude={"batch": ["GSE1*", "nothing"]})
        np.testing.assert_array_equal(found.counts.toarray(), counts[2::3])
        assert found.labels.tolist() == GENES[2:30:3]

    @pytest.mark.parametrize("categorical", [True, False])
    def test_cells_without_a_label_have_an_empty_one(self, tmp_path, counts, categorical):
        labels = pd.Series(["a", None, "b"] * 10, index=[f"c{i}" for i in range(30)])
        obs = {"t": labels.astype("category") if categorical else labels}
        found = read_cells(write(tmp_path / "n.h5ad", counts, GENES, obs=obs), label_key="t")
        assert found.labels.tolist() == ["a", "", "b"] * 10


class TestJoining:
    def test_files_meet_on_their_common_genes(self, counts):
        rng = np.random.default_rng(1)
        order = rng.permutation(600)[:550]
        other = rng.poisson(1.0, (20, 550))
        first = cells(counts, GENES, ["a"] * 30, ids=[f"id{i}" for i in range(600)])
        second = cells(other, [*np.array(GENES)[order[:-1]], "OTHER"], ["b"] * 20)
        found = join([first, second])
        frames = [pd.DataFrame(f.counts.toarray(), columns=f.symbols) for f in (first, second)]
        expected = pd.concat(frames, join="inner", ignore_index=True)
        assert set(found.symbols) == set(expected.columns)
        np.testing.assert_array_equal(found.counts.toarray(), expected[found.symbols])
        assert found.ensembl_ids == [f"id{int(s[1:])}" for s in found.symbols]
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
        np.testing.assert_array_equal(found.counts.toarray(), counts[:24])

    def test_a_type_of_enough_cells_after_merging_stays(self, counts):
        labels = ["T1"] * 9 + ["T2"] * 9 + ["B"] * 12
        reference = cells(counts, GENES, labels)
        assert join([reference], min_cells=12, merge={"T1": "T2"}).cell_types == ["B", "T2"]
        with pytest.raises(InputError, match="1 cell types with at least 12 cells"):
            join([reference], min_cells=12)

    def test_too_few_common_genes_is_one_line(self, counts):
        first = cells(counts, GENES, ["a"] * 30)
        second = cells(counts[:, :499], GENES[:499], ["b"] * 30)
        with pytest.raises(InputError, match="have 499 genes in common") as caught:
            join([first, second])
        assert "\n" not in str(caught.value)

    def test_totals_and_gene_shares_are_over_the_joined_genes(self, counts):
        found = join([cells(counts, GENES, ["a"] * 15 + ["b"] * 15)])
        np.testing.assert_allclose(found.totals, counts.sum(axis=1))
        np.testing.assert_allclose(found.gene_share, counts.sum(axis=0) / counts.sum())
        assert found.totals.dtype == np.float32


def test_log_expression():
    found = log_expression(np.array([[1.0, 0.0], [2.0, 3.0]]), np.array([4.0, 0.0]))
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
    reference = join([read_cells(pancreas, label_key="cell_type")])
    best = rank_genes(reference.counts, reference.totals, reference.codes, 60)
    assert {"INS", "GCG", "SST", "PPY"} <= {reference.symbols[i] for i in best}


class TestSplit:
    CODES = np.repeat([0, 1, 2, 3], [100, 37, 5, 4])

    @pytest.mark.parametrize("share", [0.1, 0.3])
    def test_each_type_gives_its_share(self, share):
        train, held = split(self.CODES, share, 0)
        assert sorted([*train, *held]) == list(range(146))
        expected = {0: round(share * 100), 1: round(share * 37), 2: round(share * 5)}
        assert Counter(self.CODES[held].tolist()) == Counter(expected)  # none of a type of four

    def test_a_seed_fixes_it(self):
        np.testing.assert_array_equal(split(self.CODES, 0.2, 3)[1], split(self.CODES, 0.2, 3)[1])
        assert split(self.CODES, 0.2, 3)[1].tolist() != split(self.CODES, 0.2, 4)[1].tolist()
