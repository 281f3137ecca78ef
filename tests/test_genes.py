from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scbignn_infer.errors import GeneError
from scbignn_infer.genes import match_genes

SYMBOLS = ["CD3D", "MS4A1", "NKG7", "LYZ", "PPBP"]
ENSEMBL = ["ENSG1", "ENSG2", "ENSG3", "ENSG4", ""]


def match(candidates, *, net_genes=4, min_genes=1, column=None):
    return match_genes(
        candidates, SYMBOLS, ENSEMBL, net_genes=net_genes, min_genes=min_genes, column=column
    )


def test_genes_are_joined_by_name_not_by_place():
    found = match({"index": ["LYZ", "ACTB", "CD3D"]})
    np.testing.assert_array_equal(found.reference_index, [3, -1, 0])
    np.testing.assert_array_equal(found.present, [True, False, False, True, False])
    assert (found.coverage, found.n_shared, found.n_duplicates) == (0.5, 2, 0)


def test_coverage_counts_the_genes_of_the_network_only():
    assert match({"index": ["PPBP", "CD3D"]}).coverage == 0.25


def test_ensembl_ids_match_too():
    found = match({"index": ["ENSG3", "ENSG1"]})
    np.testing.assert_array_equal(found.reference_index, [2, 0])


def test_the_column_that_covers_most_is_taken():
    columns = {"index": ["ENSG1", "x", "y"], "symbol": ["CD3D", "NKG7", "LYZ"]}
    assert match(columns).column == "symbol"


def test_the_earlier_column_wins_a_tie():
    assert match({"index": ["CD3D"], "ids": ["ENSG1"]}).column == "index"


def test_an_empty_id_matches_no_nameless_gene():
    assert match({"index": ["", "ENSG1"]}).n_shared == 1


def test_a_gene_that_is_there_twice_counts_once():
    found = match({"index": ["CD3D", "CD3D", "LYZ"]})
    assert (found.n_shared, found.n_duplicates) == (2, 1)


def test_the_users_column_is_taken_though_another_fits_better():
    columns = {"index": ["CD3D", "LYZ"], "ids": ["ENSG1", "x"]}
    assert match(columns, column="ids").coverage == 0.25
    with pytest.raises(GeneError, match=r"no gene column 'symbol'.*index, ids"):
        match(columns, column="symbol")


def test_too_few_genes_are_refused_with_names_of_both_sides():
    with pytest.raises(GeneError, match=r"share 1 of the 4 .*index: Cd3d, LYZ.*at least 2.*CD3D"):
        match({"index": ["Cd3d", "LYZ", "Ms4a1"]}, min_genes=2)


def test_no_names_at_all_are_refused():
    with pytest.raises(GeneError, match="share 0 of the 4"):
        match({})


@given(st.permutations(["CD3D", "ACTB", "LYZ", "PPBP", "GAPDH"]))
def test_the_order_of_the_genes_changes_nothing(names):
    found = match({"index": names})
    np.testing.assert_array_equal(found.present, [True, False, False, True, True])
    known = [(n, SYMBOLS[i]) for n, i in zip(names, found.reference_index, strict=True) if i >= 0]
    assert len(known) == 3
    assert all(name == symbol for name, symbol in known)
