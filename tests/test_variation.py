"""What varies within the types of a query: which cells say it, and what it does to the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from msgspec import structs

from scbignn_infer import Annotator
from scbignn_infer.annotation import variation
from scbignn_infer.annotation.adapt import Adaptation
from scbignn_infer.query.readers import AnnDataQuery

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import ModelBundle

GENES = np.array([0, 2, 3, 4, 6, 7, 8, 9])
"""Those of ten that a file has."""


def tables(rank: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "within_factors": rng.normal(size=(10, rank)).astype(np.float16),
        "within_residual": np.full(10, 0.5, np.float16),
        "ridge": np.array(0.3),
    }


def covariance(of: dict[str, Any]) -> Array:
    factors = of["within_factors"].astype(np.float64)[GENES]
    found: Array = factors @ factors.T
    return found + np.diag(of["within_residual"][GENES] + float(of["ridge"]))


def cells(axis: Array, amount: float, n: int = 400) -> tuple[Array, Array]:
    """Return cells of four types, half of each with a program, and their types."""
    rng, codes = np.random.default_rng(2), np.arange(n) % 4
    z = rng.normal(size=(4, len(GENES)))[codes] + 0.1 * rng.normal(size=(n, len(GENES)))
    return z + amount * np.outer(np.arange(n) // 4 % 2, axis), codes


def test_an_axis_that_varies_more_has_the_variance_of_the_query() -> None:
    axis = np.eye(len(GENES))[2]
    z, codes = cells(axis, 8.0)
    panel, before = SimpleNamespace(genes=GENES), tables()
    after = variation.widened(before, panel, z, codes)  # type: ignore[arg-type]
    centred = z - np.stack([z[codes == c].mean(axis=0) for c in range(4)])[codes]
    own = centred.T @ centred / (len(z) - 4)
    old, new = covariance(before), covariance(after)
    first = np.linalg.eigh(own)[1][:, -1]
    assert abs(first @ axis) > 0.99
    assert first @ new @ first == pytest.approx(first @ own @ first, rel=1e-5)
    rest = np.linalg.svd(first[None])[2][1:]
    np.testing.assert_allclose(rest @ new @ rest.T, rest @ old @ rest.T, atol=1e-4)
    absent = np.setdiff1d(np.arange(10), GENES)
    assert (after["within_factors"][absent, 1:] == 0).all()
    assert before["within_factors"].shape == (10, 1)


def test_a_query_that_varies_less_changes_nothing() -> None:
    z, codes = cells(np.eye(len(GENES))[0], 0.0)
    panel, before = SimpleNamespace(genes=GENES), tables()
    after = variation.widened(before, panel, z, codes)  # type: ignore[arg-type]
    np.testing.assert_array_equal(after["within_factors"], before["within_factors"])


def test_types_of_few_cells_say_nothing() -> None:
    z, _ = cells(np.eye(len(GENES))[0], 8.0, n=40)
    panel, before = SimpleNamespace(genes=GENES), tables()
    few = variation.widened(before, panel, z, np.arange(40) // 10)  # type: ignore[arg-type]
    np.testing.assert_array_equal(few["within_factors"], before["within_factors"])


def test_a_program_is_no_longer_taken_for_another_type() -> None:
    """Half of the cells show a program that looks like what tells two types apart."""
    rng = np.random.default_rng(3)
    mean = np.zeros((4, len(GENES)))
    mean[1, :2], mean[2, 4:6], mean[3, 6:8] = 3.0, 6.0, 6.0
    program = np.zeros(len(GENES))
    program[[0, 1, 3]] = 2.5, 2.5, 4.0
    codes = np.arange(1200) % 4
    z = mean[codes] + rng.normal(size=(1200, len(GENES)))
    z += np.outer(np.arange(1200) // 4 % 2, program)
    wide = tables()
    wide["within_factors"] = np.zeros((10, 1), np.float16)
    panel = SimpleNamespace(genes=GENES)
    trusted = np.where((codes != 0) | (np.arange(1200) // 4 % 2 == 0), codes, -1)
    kept = np.flatnonzero(trusted >= 0)  # the first type's are mistaken, so not trusted
    after = variation.widened(wide, panel, z[kept], codes[kept])  # type: ignore[arg-type]

    def right(of: dict[str, Any]) -> float:
        inverse = np.linalg.inv(covariance(of))
        off = z[:, None, :] - mean - program / 2
        distance = np.einsum("ncg,gh,nch->nc", off, inverse, off)
        return float((distance.argmin(axis=1) == codes).mean())

    assert right(wide) < 0.92
    assert right(after) > right(wide) + 0.05


def test_the_same_cells_are_looked_at_in_any_order() -> None:
    rng = np.random.default_rng(4)
    scaled = rng.integers(-120, 121, (3000, 128)).astype(np.int8)
    codes = rng.integers(-1, 3, 3000)
    rows = variation.sample(scaled, codes)
    assert len(rows) == len(set(rows.tolist())) == variation.CELLS
    assert (codes[rows] >= 0).all()
    order = rng.permutation(3000)
    np.testing.assert_array_equal(order[variation.sample(scaled[order], codes[order])], rows)
    few = variation.sample(scaled[:50], codes[:50])
    np.testing.assert_array_equal(np.sort(few), np.flatnonzero(codes[:50] >= 0))


def test_rows_are_read_in_their_order(pbmc_bundle: ModelBundle, example: Path) -> None:
    query = AnnDataQuery(ad.read_h5ad(example))
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1)
    choice = annotator.choose(query)
    rows = np.random.default_rng(5).permutation(query.n_cells)[:60]
    dense = choice.panel.standardize(
        *choice.panel.densify(sp.csr_matrix(query.rows(choice.matrix, np.arange(query.n_cells))))
    )
    for size in (7, 1024):
        found = variation.read(query.blocks(choice.matrix, size), choice.panel, rows)
        np.testing.assert_allclose(found, dense[rows], atol=1e-6)


@pytest.fixture(scope="module")
def foreign(example: Path) -> AnnDataQuery:
    """The example as another laboratory might have measured it."""
    found = ad.read_h5ad(example)
    factor = np.random.default_rng(0).lognormal(0, 1.0, found.n_vars)
    linear = sp.csr_matrix(found.X).expm1() @ sp.diags_array(factor)
    return AnnDataQuery(ad.AnnData(sp.csr_matrix(linear).log1p(), found.obs[[]], found.var[[]]))


def test_a_second_step_that_is_refused_leaves_the_first(
    pbmc_bundle: ModelBundle, foreign: AnnDataQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1, adapt=True)
    annotator.adaptation = Adaptation(steps=1)
    one = annotator.annotate_query(foreign)
    annotator.adaptation = Adaptation(steps=2)
    two = annotator.annotate_query(foreign)
    assert (one.probabilities != two.probabilities).any()
    judged, calls = Adaptation.judged, []

    def strict(self: Adaptation, *given: Any) -> Any:
        calls.append(1)
        said = judged(self, *given)
        return structs.replace(said, refused="no") if len(calls) == 2 else said

    monkeypatch.setattr(Adaptation, "judged", strict)
    found = annotator.annotate_query(foreign)
    assert len(calls) == 2
    np.testing.assert_array_equal(found.probabilities, one.probabilities)
    record, single, double = (a.provenance.adapted for a in (found, one, two))
    assert record is not None
    assert record == single
    assert (record.steps, record.refused) == (1, "")
    assert double is not None
    assert double.steps == 2
    assert "in 2 steps" in double.said
    assert "steps" not in record.said
    assert double.agreement == record.agreement  # before all steps


def test_without_variation_the_covariance_stays(
    pbmc_bundle: ModelBundle, foreign: AnnDataQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1, adapt=True)
    seen: list[int] = []
    whole = variation.widened

    def spy(*given: Any) -> dict[str, Any]:
        found = whole(*given)
        seen.append(found["within_factors"].shape[1] - given[0]["within_factors"].shape[1])
        return found

    monkeypatch.setattr(variation, "widened", spy)
    annotator.adaptation = Adaptation(varies=False)
    annotator.annotate_query(foreign)
    assert seen == []
    annotator.adaptation = Adaptation()
    annotator.annotate_query(foreign)
    assert len(seen) == 2
    assert all(0 < n <= variation.AXES for n in seen)
