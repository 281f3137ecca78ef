"""Cells that stand in two studies are found, whatever their names and the order of their genes."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest

from scbignn_infer.errors import InputError
from scbignn_training.data import read_study
from scbignn_training.overlap import refuse_copies, shared_cells


@pytest.fixture(scope="module")
def study(parts):
    return read_study(parts["labelled"], label_key="cell_type")


def part(study, rows, name, genes=None):
    """Return some cells as a study of their own, maybe with genes in another order."""
    genes = np.arange(len(study.symbols)) if genes is None else genes
    return replace(
        study,
        counts=study.counts[rows][:, genes],
        labels=study.labels[rows],
        symbols=[study.symbols[i] for i in genes],
        ensembl_ids=[study.ensembl_ids[i] for i in genes],
        origin=replace(study.origin, name=name),
    )


@pytest.mark.parametrize("n", [0, 5, 40])
def test_they_are_counted_in_another_order_and_with_fewer_genes(study, n):
    chance = np.random.default_rng(0)
    order = chance.permutation(len(study.labels))
    half = len(order) // 2
    genes = chance.permutation(len(study.symbols))[:-50]
    one = part(study, order[:half], "one")
    other = part(study, order[half - n : 2 * half - n], "other", genes)
    by_hand = len(set(order[:half]) & set(order[half - n : 2 * half - n]))
    assert by_hand == n
    found = shared_cells([one, other])
    assert [(s.studies, s.cells) for s in found] == ([(("one", "other"), n)] if n else [])
    simulated = replace(other, origin=replace(other.origin, simulated=True))
    assert shared_cells([one, simulated]) == []
    refuse_copies([one, other])


def test_a_copy_is_refused_and_nothing_is_trained(run, parts, tmp_path):
    cells = ad.read_h5ad(parts["labelled"])
    cells.obs_names = [f"again {i}" for i in range(cells.n_obs)]
    cells[::2].write_h5ad(tmp_path / "half.h5ad")
    start = ["train", parts["labelled"], tmp_path / "half.h5ad", "--label-key", "cell_type"]
    for more in (["--check"], ["--name", "x", "-o", tmp_path, "--quiet"]):
        done = run(*start, *more, code=1)
        assert "cells stand in both 'labelled' and 'half'" in done.stderr.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["half.h5ad"]


def test_a_study_is_no_copy_of_itself(study):
    refuse_copies([study])
    with pytest.raises(InputError, match="stand in both 'one' and 'two'"):
        refuse_copies([part(study, slice(None), "one"), part(study, slice(40), "two")])
