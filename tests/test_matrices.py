from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.matrices import Verdict, choose_matrix, judge, passed_over, sample_rows


@pytest.fixture
def counts():
    values = np.random.default_rng(1).poisson(0.8, (50, 200)).astype(np.float32)
    values[:, 0] += 1
    return sp.csr_matrix(values)


def cp10k(counts):
    return sp.csr_matrix(counts.multiply(1e4 / counts.sum(axis=1))).log1p()


def test_whole_numbers_are_counts(counts):
    assert judge(counts).state == "counts"
    assert judge(counts.astype(np.int64)).state == "counts"


def test_corrected_counts_that_are_not_whole_are_counts(counts):
    soup = counts * 17.3
    soup.data -= np.random.default_rng(0).uniform(0, 3, len(soup.data))
    verdict = judge(soup)
    assert verdict.state == "counts"
    assert "non-integer" in verdict.reason


def test_log1p_of_the_whole_library(counts):
    verdict = judge(cp10k(counts))
    assert verdict.state == "log1p"
    assert "10000" in verdict.reason


def test_log1p_cut_to_some_genes_afterwards(counts):
    assert judge(cp10k(counts)[:, 1:60]).state == "log1p-cut"


def test_scaled_values_are_not_usable(counts):
    dense = counts.toarray()
    verdict = judge(sp.csr_matrix(dense - dense.mean(axis=0)))
    assert verdict.state == "scaled"
    assert not verdict.usable


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_seen(counts, bad):
    counts.data[-1] = bad
    verdict = judge(counts)
    assert (verdict.state, verdict.usable) == ("non-finite", False)
    assert verdict.reason.startswith("1 ")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5, 5)])
def test_nothing_is_empty(shape):
    assert judge(sp.csr_matrix(shape, dtype=np.float32)).state == "empty"


def test_log_values_of_another_scale_are_unknown(counts):
    noise = np.random.default_rng(0).uniform(0.5, 11, counts.shape)
    assert judge(sp.csr_matrix(noise)).state == "unknown"


@pytest.mark.parametrize("base", [np.e, 2, 10])
def test_a_logarithm_of_counts_of_any_base(counts, base):
    log = counts.copy()
    log.data = np.log1p(log.data) / np.log(base)
    verdict = judge(log)
    assert (verdict.state, verdict.base) == ("log1p", pytest.approx(base))
    assert "whole numbers" in verdict.reason


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("target", [None, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("base", [np.e, 2])
def test_a_logarithm_of_any_total_and_base(counts, dtype, target, base):
    totals = np.asarray(counts.sum(axis=1)).ravel()
    target = target or np.median(totals)
    log = sp.csr_matrix(sp.diags_array(target / totals) @ counts)
    log.data = (np.log1p(log.data) / np.log(base)).astype(dtype).astype(np.float64)
    verdict = judge(log)
    assert (verdict.state, verdict.base) == ("log1p", pytest.approx(base)), verdict
    cut = judge(log[:, 1:60])
    assert (cut.state, cut.base) == ("log1p-cut", pytest.approx(base)), cut


def test_log2_of_counts_over_size_factors(counts):
    """As scran's logNormCounts has it: no total is the same, values are multiples of one."""
    factors = np.random.default_rng(0).uniform(0.3, 3, counts.shape[0])
    log = sp.csr_matrix(sp.diags_array(1 / factors) @ counts)
    log.data = np.log2(1 + log.data)
    verdict = judge(log)
    assert (verdict.state, verdict.base) == ("log1p-cut", 2.0)


@pytest.mark.parametrize("target", [1, 1e4, 1e6])
def test_linear_values_of_one_total_are_counts(counts, target):
    totals = np.asarray(counts.sum(axis=1)).ravel()
    verdict = judge(sp.csr_matrix(sp.diags_array(target / totals) @ counts))
    assert (verdict.state, verdict.usable) == ("counts", True)
    transcripts = np.random.default_rng(0).lognormal(0, 2, counts.shape)  # TPM: no multiples
    transcripts *= target / transcripts.sum(axis=1, keepdims=True)
    assert judge(sp.csr_matrix(transcripts)).state == "counts"


def test_shallow_counts_over_size_factors_are_counts(counts):
    factors = np.random.default_rng(0).uniform(0.5, 2, counts.shape[0])
    shallow = sp.csr_matrix(sp.diags_array(1 / factors) @ counts)
    assert shallow.max() < 12
    assert judge(shallow).state == "counts"


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_cells_are_judged_as_many_are(counts, n):
    assert judge(counts[:n]).state == "counts"
    assert judge(cp10k(counts)[:n]).state == "log1p"
    totals = np.asarray(counts.sum(axis=1)).ravel()
    assert judge(sp.csr_matrix(sp.diags_array(1e4 / totals) @ counts)[:n]).state == "counts"
    log2 = sp.csr_matrix(sp.diags_array(1e4 / totals) @ counts)
    log2.data = np.log2(1 + log2.data)
    assert judge(log2[:n]).base == 2.0


def test_cells_that_are_all_the_same_are_not_usable(counts):
    row = counts[:1] * 1.5
    verdict = judge(sp.csr_matrix(sp.vstack([row] * 20)))
    assert (verdict.state, verdict.usable) == ("constant", False)


def test_explicit_zeros_and_repeated_indices_change_nothing(counts):
    log = cp10k(counts)
    parts = sp.coo_matrix(log)
    zeros = sp.coo_matrix((np.zeros(5), (np.arange(5), np.arange(5))), shape=log.shape)
    halves = [sp.coo_matrix((parts.data / 2, (parts.row, parts.col)), shape=log.shape)] * 2
    odd = sp.hstack([sp.csr_matrix(log), sp.csr_matrix(log.shape)]).tocsr()[:, : log.shape[1]]
    odd.data[:0] = 0
    with_zeros = sp.csr_matrix(
        (
            np.concatenate([*(h.data for h in halves), zeros.data]),
            (
                np.concatenate([*(h.row for h in halves), zeros.row]),
                np.concatenate([*(h.col for h in halves), zeros.col]),
            ),
        ),
        shape=log.shape,
    )
    assert judge(with_zeros) == judge(odd) == judge(log)


def test_rows_are_sampled_across_the_whole_in_order():
    rows = sample_rows(100_000)
    assert len(rows) == 512
    assert (rows[0], rows[-1]) == (0, 99_999)
    assert (np.diff(rows) > 0).all()
    assert np.diff(rows).max() <= 197
    np.testing.assert_array_equal(sample_rows(3), [0, 1, 2])
    assert len(sample_rows(0)) == 0


def test_counts_are_chosen_before_log1p_before_a_cut():
    log1p, cut, counts = (Verdict(s, "") for s in ("log1p", "log1p-cut", "counts"))
    assert choose_matrix({"X": log1p, "raw": counts}) == "raw"
    assert choose_matrix({"X": cut, "raw": log1p}) == "raw"
    assert choose_matrix({"X": log1p, "raw": log1p}) == "X"


def test_more_genes_win_but_for_a_cut():
    log1p, cut, counts = (Verdict(s, "") for s in ("log1p", "log1p-cut", "counts"))
    n_genes = {"X": 2000, "layers/counts": 2000, "raw": 20_000}
    verdicts = {"X": log1p, "layers/counts": counts, "raw": log1p}
    assert choose_matrix(verdicts, n_genes=n_genes) == "raw"
    verdicts["raw"] = cut
    assert choose_matrix(verdicts, n_genes=n_genes) == "layers/counts"


def test_the_users_choice_is_taken_or_refused():
    verdicts = {"X": Verdict("log1p", ""), "raw": Verdict("counts", ""), "z": Verdict("scaled", "")}
    assert choose_matrix(verdicts, "X") == "X"
    with pytest.raises(InputError, match=r"no matrix 'Y'.*X, raw"):
        choose_matrix(verdicts, "Y")
    with pytest.raises(InputError, match="z is scaled"):
        choose_matrix(verdicts, "z")


def test_no_usable_matrix_is_refused_with_each_reason():
    verdicts = {"X": Verdict("scaled", "negative"), "raw": Verdict("non-finite", "3 NaN")}
    with pytest.raises(InputError, match=r"X is scaled \(negative\); raw is non-finite \(3 NaN\)"):
        choose_matrix(verdicts)
    with pytest.raises(InputError, match="no usable matrix"):
        choose_matrix({})


def test_real_counts_and_what_is_made_of_them(real_data):
    counts = ad.read_h5ad(real_data("pbmc3k_seurat.h5ad")).X[:300]
    assert judge(counts).state == "counts"
    normalised = cp10k(counts)
    assert judge(normalised).state == "log1p"
    variable = np.argsort(-normalised.toarray().var(axis=0))[:2000]
    assert judge(normalised[:, variable]).state == "log1p-cut"


@pytest.mark.parametrize("base", [np.e, 2])
@pytest.mark.parametrize("target", [1e4, 1e6, None])
@pytest.mark.parametrize(
    "name", ["pbmc3k_seurat", "pancreas_baron_human1", "mouse_pancreas_bastidas_1000"]
)
def test_what_is_made_of_real_counts_of_any_depth(real_data, name, target, base):
    counts = sp.csr_matrix(ad.read_h5ad(real_data(f"{name}.h5ad")).X[::5], dtype=np.float32)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    linear = sp.csr_matrix(
        sp.diags_array(((target or np.median(totals)) / totals).astype(np.float32)) @ counts
    )
    assert judge(linear).state == "counts"
    log = linear.copy()
    log.data = np.log1p(log.data) / np.float32(np.log(base))
    variable = np.argsort(-log.toarray().var(axis=0))[:2000]
    for matrix, state in ((log, "log1p"), (log[:, variable], "log1p-cut")):
        verdict = judge(sp.csr_matrix(matrix))
        assert (verdict.state, verdict.base) == (state, pytest.approx(base)), verdict


def test_a_real_study_that_is_not_whole(real_data):
    rows = sp.csr_matrix(ad.read_h5ad(real_data("pbmc_10studies_UNLABELLED_3000.h5ad")).X)
    assert judge(rows).state == "counts"


def test_the_example_is_a_cut_of_log1p(example):
    adata = ad.read_h5ad(example)
    matrix = adata.X if adata.raw is None else adata.raw.X
    assert judge(sp.csr_matrix(matrix)).state == "log1p-cut"


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("total", [1e4, 1e5, 1e6])
def test_few_cells_are_known_by_a_usual_total(counts, n, total):
    """Too few to compare; values are no multiples, as after a correction."""
    rng = np.random.default_rng(0)
    some = counts[:n].toarray() * rng.uniform(0.7, 1.3, (n, counts.shape[1]))
    linear = some / some.sum(axis=1, keepdims=True) * total
    found = judge(sp.csr_matrix(np.log1p(linear)))
    assert (found.state, found.base) == ("log1p", np.e)
    assert f"to {total:.0f} in each cell" in found.reason
    off = judge(sp.csr_matrix(np.log1p(linear * 1.02)))
    assert "in each cell" not in off.reason


def test_values_that_nothing_explains_go_by_their_size(counts):
    rng = np.random.default_rng(0)
    odd = counts.toarray() * rng.uniform(0.7, 1.3, counts.shape)
    large = sp.csr_matrix(odd / odd.max() * 500)
    found = judge(large)
    assert found.state == "counts"
    assert found.reason == "non-integer linear values up to 500"
    small = sp.csr_matrix(
        np.log1p(odd / odd.sum(axis=1, keepdims=True) * rng.uniform(2e3, 9e3, (len(odd), 1)))
    )
    found = judge(small)
    assert found.state == "log1p-cut"
    low, high = (
        np.expm1(small.toarray()).sum(axis=1).min(),
        np.expm1(small.toarray()).sum(axis=1).max(),
    )
    assert found.reason == f"expm1 sums to {low:.0f}-{high:.0f} a cell"
    wide = sp.csr_matrix(
        np.log1p(odd / odd.sum(axis=1, keepdims=True) * rng.uniform(2e4, 9e4, (len(odd), 1)))
    )
    assert judge(wide).state == "unknown"


def test_refusals_say_found_expected_and_do():
    scaled, counts = Verdict("scaled", "negative"), Verdict("counts", "")
    usable = "counts, or log1p of counts scaled to one total, in X, raw or a layer"
    with pytest.raises(InputError) as absent:
        choose_matrix({"X": scaled, "raw": counts}, "Y")
    assert str(absent.value) == (
        "no matrix 'Y'; expected one of X, raw; see: scbignn-infer inspect"
    )
    with pytest.raises(InputError) as none:
        choose_matrix({"X": scaled, "raw": scaled})
    assert str(none.value) == (
        "no usable matrix: X is scaled (negative); raw is scaled (negative); "
        f"expected {usable}; store the raw counts as layers['counts'] and try again"
    )
    with pytest.raises(InputError) as wanted:
        choose_matrix({"X": scaled, "raw": counts}, "X")
    assert str(wanted.value) == (
        f"no usable matrix: X is scaled (negative); expected {usable}; "
        "leave out --matrix: raw can be used"
    )


def test_reasons_name_form_and_sums(counts):
    """What is printed, word for word, for each form of the same cells."""
    totals = np.asarray(counts.sum(axis=1))
    linear = sp.csr_matrix(counts.multiply(1e4 / totals))
    assert judge(linear).reason == "linear values that sum to 1e+04 in each cell"
    factors = np.random.default_rng(0).uniform(0.5, 2, (50, 1))
    sized = sp.csr_matrix(counts.multiply(factors))
    assert judge(sized).reason == "counts divided by a size factor"
    two = judge(sp.csr_matrix(np.log2(1 + linear.toarray())))
    assert (two.state, two.base) == ("log1p", 2.0)
    assert two.reason == "2^x - 1 sums to 10000 in each cell"
    natural = judge(sp.csr_matrix(np.log1p(linear.toarray())))
    assert natural.reason == "expm1 sums to 10000 in each cell"
    cut = judge(sp.csr_matrix(np.log1p(sized.toarray())))
    sums = sized.sum(axis=1)
    assert (cut.state, cut.base) == ("log1p-cut", np.e)
    assert cut.reason == (
        f"expm1 sums to {sums.min():.4g}-{sums.max():.4g} a cell, in multiples of one value"
    )


# --- what real counts become ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def islets():
    path = Path(__file__).parent / "data" / "pancreas400.h5ad"
    return sp.csr_matrix(ad.read_h5ad(path).X[:400:2], dtype=np.float64)


def made(x, values):
    x = x.copy()
    x.data = values(x.data)
    return x.astype(np.float32)


def to_total(x, target):
    return sp.csr_matrix(sp.diags_array(target / np.asarray(x.sum(axis=1)).ravel()) @ x)


def by_length(x):
    """Return RPKM: counts per million over the length of a gene in thousands of bases."""
    length = np.random.default_rng(0).lognormal(np.log(2.5), 0.8, x.shape[1]).clip(0.2, 100)
    return sp.csr_matrix(to_total(x, 1e6) @ sp.diags_array(1 / length))


def averaged(x, k=15, steps=5):
    """Return what smoothing over the nearest cells makes of counts, as MAGIC does."""
    near = np.log1p(to_total(x, 1e4).toarray())
    near -= near.mean(axis=0)
    near = near / np.linalg.norm(near, axis=1, keepdims=True)
    alike = near @ near.T
    cells = np.argsort(-alike, axis=1)[:, :k]
    weight = np.exp(4 * np.take_along_axis(alike, cells, axis=1))
    weight /= weight.sum(axis=1, keepdims=True)
    n = len(near)
    step = sp.csr_matrix((weight.ravel(), cells.ravel(), np.arange(n + 1) * k), shape=(n, n))
    x = to_total(x, 1e4)
    for _ in range(steps):
        x = step @ x
    return sp.csr_matrix(x)


def means_of_a_model(x, rank=10):
    """Return smooth values of low rank without a zero, as scVI's are."""
    log = np.log1p(to_total(x, 1e4).toarray())
    u, s, v = np.linalg.svd(log, full_matrices=False)
    low = (u[:, :rank] * s[:rank]) @ v[:rank]
    return to_total(sp.csr_matrix(np.logaddexp(0, 4 * low) / 4), 1e4)


LOGS = {
    2.0: lambda x: np.log2(1 + x),
    np.e: np.log1p,
    10.0: lambda x: np.log10(1 + x),
}


@pytest.mark.parametrize("base", [2.0, 10.0])
@pytest.mark.parametrize("cut", [False, True])
def test_a_logarithm_that_no_pattern_explains_is_none_the_less_one(islets, base, cut):
    """RPKM have neither whole numbers, nor multiples, nor one total; log2 of them reaches 18."""
    rpkm = by_length(islets)
    log = made(rpkm, LOGS[base])
    if cut:
        log = log[:, np.argsort(-log.toarray().var(axis=0))[:1500]]
    verdict = judge(log)
    assert (verdict.state, verdict.base) == ("log1p-cut", base), verdict
    assert verdict.doubt == ""
    assert judge(rpkm).state == "counts"


def test_log2_of_tenths_of_tpm_is_no_counts(islets):
    tpm = to_total(by_length(islets), 1e6)
    log = made(tpm, lambda x: np.log2(x / 10 + 1))
    assert log.max() > 13
    assert (judge(log).state, judge(log).base) == ("log1p", 2.0)
    cut = judge(log[:, ::3])
    assert (cut.state, cut.base) == ("log1p-cut", 2.0)


@pytest.mark.parametrize("scale", ["counts", "total", "lengths"])
@pytest.mark.parametrize(
    ("values", "state"),
    [(np.sqrt, "square-root"), (lambda x: np.log1p(np.log1p(x)), "log-log")],
)
def test_roots_and_double_logarithms_are_refused_by_name(islets, values, state, scale):
    forms = {"counts": islets, "total": to_total(islets, 1e4)}
    x = forms[scale] if scale in forms else to_total(by_length(islets), 1e4)
    verdict = judge(made(x, values))
    assert (verdict.state, verdict.usable) == (state, False), verdict
    cure = {"square-root": "square the values", "log-log": "take one logarithm back"}[state]
    with pytest.raises(InputError, match=rf"X is {state} .*{cure}"):
        choose_matrix({"X": verdict})


@pytest.mark.parametrize("smooth", [averaged, means_of_a_model])
@pytest.mark.parametrize("values", [lambda x: x, np.log1p])
def test_smoothed_values_are_read_only_if_asked_for(islets, smooth, values):
    verdict = judge(made(smooth(islets), values))
    assert verdict.usable
    assert "smoothed over cells" in verdict.doubt
    with pytest.raises(InputError, match=r"smoothed over cells.*--matrix X"):
        choose_matrix({"X": verdict})
    assert choose_matrix({"X": verdict}, "X") == "X"
    assert choose_matrix({"X": verdict, "raw": judge(islets)}) == "raw"


@pytest.mark.parametrize("make", [lambda x: x, by_length, lambda x: to_total(x, 1e4)])
def test_values_that_were_not_smoothed_are_not_doubted(islets, make):
    rng = np.random.default_rng(0)
    corrected = made(make(islets), lambda x: x * rng.uniform(0.8, 1, len(x)))
    assert judge(corrected).doubt == judge(make(islets)).doubt == ""


def test_counts_and_logarithms_in_one_matrix_are_refused(islets):
    half = islets.shape[0] // 2
    logs = made(to_total(islets[half:], 1e4), np.log1p)
    verdict = judge(sp.csr_matrix(sp.vstack([islets[:half], logs])))
    assert verdict.state == "two-scales"
    with pytest.raises(InputError, match=r"whole numbers in 100 .*log1p.*before files are joined"):
        choose_matrix({"X": verdict})


def test_two_totals_of_one_logarithm_are_each_cells_own(islets):
    half = islets.shape[0] // 2
    parts = [to_total(islets[:half], 1e4), to_total(islets[half:], 1e6)]
    verdict = judge(made(sp.csr_matrix(sp.vstack(parts)), np.log1p))
    assert verdict.state == "log1p"
    assert verdict.reason == "expm1 sums to 10000 in some cells and 1000000 in others"


def test_barcodes_with_hardly_a_gene_are_counted(islets):
    empty = sp.random(300, islets.shape[1], density=0.001, random_state=0, format="csr")
    empty.data[:] = 1
    assert judge(sp.csr_matrix(sp.vstack([empty, islets]))).few == pytest.approx(0.6)
    assert judge(islets).few == 0


# --- rivals --------------------------------------------------------------------------------------


def verdict_of(n, **more):
    return Verdict("counts", f"{n}", whole=True, entries=n, **more)


def test_parts_of_the_counts_are_no_rivals():
    names = ("ambiguous", "Ms", "Mu", "unspliced", "velocity", "imputed_MAGIC", "binary")
    verdicts = {f"layers/{n}": verdict_of(100) for n in names} | {"layers/zz": verdict_of(99)}
    assert choose_matrix(verdicts) == "layers/zz"
    over = passed_over(verdicts)
    assert set(over) == {f"layers/{n}" for n in names}
    assert over["layers/ambiguous"] == "'ambiguous' holds a part of the counts"
    for name in names:
        assert choose_matrix(verdicts, f"layers/{name}") == f"layers/{name}"
    alone = {"layers/ambiguous": verdict_of(100)}
    with pytest.raises(InputError, match=r"holds a part of the counts.*--matrix layers/ambiguous"):
        choose_matrix(alone)


def test_what_has_clearly_fewer_entries_is_passed_over():
    verdicts = {"X": verdict_of(10), "layers/all": verdict_of(100), "raw": verdict_of(90)}
    assert choose_matrix(verdicts) == "raw"
    assert passed_over(verdicts) == {"X": "it has only 10% of the entries of layers/all"}
    wide = {"X": verdict_of(100), "raw": verdict_of(50)}
    assert choose_matrix(wide, n_genes={"X": 200, "raw": 300}) == "X"
    assert choose_matrix(wide, n_genes={"X": 200, "raw": 100}) == "X"
    cut = {"X": verdict_of(10), "raw": verdict_of(100)}
    assert choose_matrix(cut, n_genes={"X": 100, "raw": 100}) == "raw"
    assert passed_over(cut, {"X": 50, "raw": 100}) == {}


def test_ones_and_zeros_lose_to_counts_and_are_read_alone():
    binary = Verdict("counts", "", whole=True, binary=True, entries=100)
    assert choose_matrix({"X": binary, "layers/odd": verdict_of(100)}) == "layers/odd"
    assert choose_matrix({"X": binary}) == "X"


def test_names_that_mean_counts_are_preferred_among_equals():
    verdicts = {f"layers/{n}": verdict_of(100) for n in ("aaa", "counts", "raw_counts")}
    assert choose_matrix(verdicts) == "layers/counts"
    decimals = Verdict("counts", "", entries=100)
    assert choose_matrix({"X": decimals} | verdicts) == "layers/counts"
    assert choose_matrix({"X": verdict_of(100)} | verdicts) == "X"


def test_no_matrix_at_all_is_said():
    with pytest.raises(InputError, match="no usable matrix: the data hold neither X, nor raw, nor"):
        choose_matrix({})


@pytest.mark.parametrize("most", [np.inf, 10.0])
def test_genes_that_were_scaled_and_not_centred_are_refused(islets, most):
    """As by ``sc.pp.scale(adata, zero_center=False)``; a sample of the cells tells."""
    logs = cp10k(islets).toarray()
    scaled = np.minimum(logs / np.maximum(logs.std(axis=0), 1e-9), most)
    verdict = judge(sp.csr_matrix(scaled[::2], dtype=np.float32))
    assert (verdict.state, verdict.reason) == ("scaled", "each gene has a standard deviation of 1")
    assert judge(sp.csr_matrix(logs[::2])).state == "log1p"


@pytest.mark.parametrize("logged", [sp.csr_matrix.log1p, cp10k])
def test_logarithms_that_were_scaled_to_a_total_are_read_only_if_asked_for(islets, logged):
    logs = logged(sp.csr_matrix(islets))
    verdict = judge(sp.csr_matrix(logs.multiply(1e4 / logs.sum(axis=1))))
    assert verdict.state == "counts"
    assert "a logarithm was taken before" in verdict.doubt
    with pytest.raises(InputError, match=r"a logarithm was taken before.*--matrix X"):
        choose_matrix({"X": verdict})
    linear = judge(sp.csr_matrix(islets.multiply(1e4 / islets.sum(axis=1))))
    assert (linear.state, linear.doubt) == ("counts", "")
