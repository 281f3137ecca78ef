"""Whatever scale counts are stored in, whatever names genes bear, the model sees the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scbignn_infer.network.panel import TARGET_SUM, Densifier
from scbignn_infer.query.gene_match import ModelGenes, match_genes
from scbignn_infer.query.gene_names import GeneNames
from scbignn_infer.query.matrices import judge

N_GENES = 120
SHARE = np.full(N_GENES, 1 / N_GENES)


@st.composite
def counts(draw: st.DrawFn) -> sp.csr_matrix:
    """Return counts of a few cells with at least a dozen of different values each."""
    n = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    depth = rng.uniform(0.5, draw(st.sampled_from([2, 20, 200])), (n, 1))
    values = rng.poisson(rng.gamma(0.6, 1, N_GENES) * depth)
    values[:, :12] = rng.permutation(np.arange(1, 13))
    return sp.csr_matrix(values.astype(np.float64))


SCALES = st.sampled_from([None, "median", 1.0, 1e4, 1e5, 1e6, "factors"])
BASES = st.sampled_from([None, np.e, 2.0, 10.0])
TYPES = st.sampled_from([np.float32, np.float64])


def stored(x: sp.csr_matrix, scale: Any, base: float | None, dtype: Any) -> sp.csr_matrix:
    """Return counts as some program would store them."""
    totals = np.asarray(x.sum(axis=1)).ravel()
    if scale == "factors":
        x = sp.csr_matrix(sp.diags_array(np.linspace(0.31, 2.7, len(totals))) @ x)
    elif scale is not None:
        target = np.median(totals) if scale == "median" else scale
        x = sp.csr_matrix(sp.diags_array(target / totals) @ x)
    x = x.copy()
    if base is not None:
        x.data = np.log1p(x.data) / np.log(base)
    return x.astype(dtype)


def seen(x: sp.csr_matrix) -> np.ndarray:
    """Return counts scaled to 10,000, as the model sees them."""
    verdict = judge(x)
    assert verdict.usable, verdict
    genes = np.arange(N_GENES)
    densify = Densifier.make(genes, SHARE, genes, verdict.state, base=verdict.base)
    values, totals = densify(x)
    return values * (TARGET_SUM / totals)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(x=counts(), scale=SCALES, base=BASES, dtype=TYPES)
def test_any_scale_and_logarithm_is_inverted_to_the_same_abundances(
    x: sp.csr_matrix, scale: Any, base: float | None, dtype: Any
) -> None:
    if base is not None and scale in (1.0, "factors"):
        return  # a logarithm of shares is hardly one; of size factors, it counts as a cut
    np.testing.assert_allclose(seen(stored(x, scale, base, dtype)), seen(x), rtol=2e-3, atol=0.05)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=counts(), base=st.sampled_from([np.e, 2.0, 10.0]), n=st.integers(40, 100))
def test_a_cut_of_log_values_is_seen_to_be_one(x: sp.csr_matrix, base: float, n: int) -> None:
    cut = stored(x, 1e4, base, np.float32)[:, :n]
    verdict = judge(sp.csr_matrix(cut))
    assert verdict.base == pytest.approx(base)
    totals = np.asarray(stored(x, 1e4, None, np.float64)[:, :n].sum(axis=1)).ravel()
    few = cut.shape[0] < 5
    same = totals.std() / totals.mean() < (1e-4 if few else 0.01)  # by chance
    assert verdict.state == ("log1p" if same else "log1p-cut")


HUMAN = GeneNames.of("human")
PREVIOUS: dict[str, list[str]] = {}
for _name, _gene in HUMAN.gene.items():
    if _name not in HUMAN.symbols and not _name.startswith("ENSG"):
        PREVIOUS.setdefault(_gene, []).append(_name)
SYMBOLS = [s for s in sorted(HUMAN.symbols) if HUMAN.gene.get(s) in PREVIOUS][:4000:20]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_genes_are_found_by_any_of_their_names_in_any_order(data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(SYMBOLS))))
    kinds = data.draw(st.lists(st.integers(0, 3), min_size=len(order), max_size=len(order)))
    names = []
    for i, kind in zip(order, kinds, strict=True):
        gene = HUMAN.gene[SYMBOLS[i]]
        names.append((SYMBOLS[i], gene, f"{gene}.{i % 30}", PREVIOUS[gene][0])[kind])
    genes = ModelGenes(SYMBOLS, [""] * len(SYMBOLS), "human", np.ones(100))
    found = match_genes({"index": names}, genes)
    np.testing.assert_array_equal(found.reference_index, order)
    assert found.n_renamed == sum(kind > 0 for kind in kinds)
    assert found.n_duplicates == 0
