"""Genes are matched once for many matrices, and labels are the same."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scbignn_infer
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import GeneError, InputError
from scbignn_infer.network import panel
from scbignn_infer.query import gene_fit
from scbignn_infer.query.gene_fit import MOST_FITS, GeneFits
from scbignn_infer.settings import AS_FOUND, Reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.model.bundle import ModelBundle

GENES = 500


@pytest.fixture(scope="module")
def annotator(pbmc_bundle: ModelBundle) -> Annotator:
    return Annotator(pbmc_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def genes(pbmc_bundle: ModelBundle) -> list[str]:
    return pbmc_bundle.gene_symbols[:GENES]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count how often genes are matched, and the tables of a panel worked out."""
    done = {"matched": 0, "solved": 0}

    def counting(module: Any, name: str, what: str) -> None:
        plain: Callable[..., Any] = getattr(module, name)

        def counted(*a: Any, **k: Any) -> Any:
            done[what] += 1
            return plain(*a, **k)

        monkeypatch.setattr(module, name, counted)

    counting(gene_fit, "match_genes", "matched")
    counting(panel, "panel_tables", "solved")
    return done


def cells(n: int, state: str) -> Any:
    counts = np.random.default_rng(1).poisson(0.7, (n, GENES)).astype(np.float32)
    logs = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4)
    return {"counts": counts, "log1p": logs, "sparse": sp.csr_matrix(counts)}[state]


def same(a: Annotation, b: Annotation) -> bool:
    """Tell whether two annotations are one, to the byte, but for their timings."""
    arrays = [
        (getattr(a, name), getattr(b, name))
        for name in (
            "probabilities",
            "embedding",
            "novelty",
            "residual",
            "neighbor_agreement",
            "gene_level_codes",
            "empty",
        )
    ]
    records = [one.record() for one in (a, b)]
    for record in records:
        record.pop("tissue", None)  # of nothing, it is there or not after pickling
    return all(x.tobytes() == y.tobytes() for x, y in arrays) and records[0] == records[1]


@pytest.mark.parametrize("state", ["counts", "log1p", "sparse"])
@pytest.mark.parametrize("n", [1, 40])
def test_labels_are_those_of_an_annotator_that_is_not_bound(
    pbmc_bundle: ModelBundle, annotator: Annotator, genes: list[str], state: str, n: int
) -> None:
    fresh = Annotator(pbmc_bundle, device="cpu", threads=1)
    matrix = cells(n, state)
    bound = annotator.bind(genes)
    expected = fresh.annotate_matrix(matrix, genes)
    assert same(bound.annotate(matrix), expected)
    assert same(bound.annotate(matrix), expected)
    assert bound.embed(matrix).tobytes() == expected.embedding.tobytes()


def test_genes_are_matched_and_solved_once(
    annotator: Annotator, genes: list[str], work: dict[str, int]
) -> None:
    bound = annotator.bind(genes)
    assert work == {"matched": 1, "solved": 0}
    for i in range(5):
        bound.annotate(cells(5, "counts")[i : i + 1])
        bound.embed(cells(5, "log1p")[i : i + 1])
    assert work == {"matched": 1, "solved": 1}


def test_an_annotator_remembers_the_last_tables_of_genes(
    pbmc_bundle: ModelBundle, genes: list[str], work: dict[str, int]
) -> None:
    annotator, matrix = Annotator(pbmc_bundle, device="cpu", threads=1), cells(2, "counts")
    made = work["solved"]
    for _ in range(3):
        annotator.annotate_matrix(matrix, genes)
    assert (work["matched"], work["solved"] - made) == (1, 1)
    for i in range(1, MOST_FITS + 1):
        annotator.annotate_matrix(matrix, genes[i:] + genes[:i])
    annotator.annotate_matrix(matrix, genes)  # forgotten
    assert work["matched"] == MOST_FITS + 2
    assert len(annotator.fits._held) == MOST_FITS


def test_what_is_wished_of_the_reading_is_another_fit(
    pbmc_bundle: ModelBundle, genes: list[str]
) -> None:
    fits, columns = GeneFits(pbmc_bundle), {"index": genes, "other": genes[::-1]}
    by_index = fits.of(columns, AS_FOUND)
    assert fits.of(columns, AS_FOUND) is by_index
    by_other = fits.of(columns, Reading(gene_column="other"))
    assert (by_index.match.column, by_other.match.column) == ("index", "other")
    few = {"index": [*genes[:30], *(f"other{i}th" for i in range(GENES))]}
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1)
    lax = annotator.bind(few["index"], reading=Reading(min_gene_coverage=0.001))
    assert len(lax.annotate(np.ones((2, GENES + 30)))) == 2
    with pytest.raises(GeneError, match="share 30 of the"):
        annotator.bind(few["index"])


def test_rules_of_one_call_hold_for_it_alone(annotator: Annotator, genes: list[str]) -> None:
    bound, matrix = annotator.bind(genes), cells(30, "counts")
    lax = Rules.of(annotator.bundle, unknown=False)
    assert "unknown" not in bound.annotate(matrix, rules=lax).labels
    assert "unknown" in bound.annotate(matrix).labels


def test_a_matrix_of_other_columns_is_refused(annotator: Annotator, genes: list[str]) -> None:
    bound = annotator.bind(genes)
    with pytest.raises(InputError, match="499 columns and 500 gene names"):
        bound.annotate(np.ones((2, GENES - 1)))
    with pytest.raises(GeneError, match="mouse"):
        annotator.bind([f"Gm{i}" for i in range(10_000, 10_400)] + ["H2-Aa", "Cd3e", "Xkr4"] * 20)


def test_threads_and_pickles_share_a_bound_one(annotator: Annotator, genes: list[str]) -> None:
    bound, matrix = annotator.bind(genes), cells(8, "counts")
    expected = [bound.annotate(matrix[i : i + 1]) for i in range(8)]
    again = pickle.loads(pickle.dumps(bound))
    with ThreadPoolExecutor(4) as pool:
        for one in (bound, again):
            found = pool.map(lambda i, one=one: one.annotate(matrix[i : i + 1]), range(8))
            assert all(map(same, found, expected))


@pytest.mark.filterwarnings("ignore:the data have only:UserWarning")
def test_the_embedding_of_an_adata_is_that_of_its_labels(
    pbmc_bundle: ModelBundle, example: Path
) -> None:
    blood = ad.read_h5ad(example)
    before = blood.copy()
    embedding = scbignn_infer.embed(blood, pbmc_bundle, device="cpu", threads=1)
    assert (list(blood.obsm), list(blood.uns)) == (list(before.obsm), list(before.uns))
    scbignn_infer.annotate(blood, pbmc_bundle, device="cpu", threads=1)
    assert embedding.tobytes() == blood.obsm["X_scbignn"].tobytes()
