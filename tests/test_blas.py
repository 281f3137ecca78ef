"""Linear algebra on one thread, and the calling program's number afterwards."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import threadpoolctl

from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.annotator import Annotator
from scbignn_infer.network import blas

if TYPE_CHECKING:
    from scbignn_infer.model.bundle import ModelBundle


def threads() -> set[int]:
    """Return how many threads numpy's libraries may use."""
    libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
    return {library["num_threads"] for library in libraries}


@pytest.fixture
def two() -> object:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        if threads() != {2}:
            pytest.skip("BLAS has one thread here")
        yield


THREADS = """
import time
from concurrent.futures import ThreadPoolExecutor
import numpy
import threadpoolctl
from scbignn_infer.network.blas import one_blas_thread
def threads():
    libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
    return {library["num_threads"] for library in libraries}
def within(number):
    with one_blas_thread(), one_blas_thread():
        time.sleep(0.001 * number)
        return threads()
before = threads()
with ThreadPoolExecutor(4) as pool:
    print(list(pool.map(within, range(12))) == [{1}] * 12, threads() == before)
with one_blas_thread():
    print(threads() == {1})
"""
"""In a process where no other thread has a say: here, the tests themselves hold BLAS."""


def test_every_thread_is_held_and_the_number_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    done = subprocess.run([sys.executable, "-c", THREADS], check=True, capture_output=True)
    assert done.stdout.decode().split() == ["True"] * 3


@pytest.mark.usefixtures("two")
def test_an_error_gives_the_number_back() -> None:
    @blas.one_blas_thread()
    def fail() -> None:
        assert threads() == {1}
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert threads() == {2}


@pytest.mark.usefixtures("two")
def test_labelling_holds_it_and_gives_it_back(
    pbmc_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decompositions, solutions and inverses, wherever they are, see one thread."""
    seen: dict[str, set[int]] = {}
    for name in ("eigh", "inv", "solve"):
        plain = getattr(np.linalg, name)

        def spied(*a: object, name: str = name, plain: object = plain) -> object:
            seen.setdefault(name, set()).update(threads())
            return plain(*a)  # type: ignore[operator]

        monkeypatch.setattr(np.linalg, name, spied)
    genes = pbmc_bundle.gene_symbols[:1000]
    counts = np.random.default_rng(0).poisson(0.8, (60, 1000))
    annotator = Annotator(pbmc_bundle, device="cpu", threads=1, adapt=True)
    annotator.annotate_matrix(counts, genes)
    assert seen.pop("eigh") == {1}
    assert seen == {"inv": {1}, "solve": {1}}
    assert threads() == {2}


@pytest.mark.usefixtures("two")
def test_labels_do_not_depend_on_the_number(pbmc_bundle: ModelBundle) -> None:
    """On two threads the sums of probabilities had other last digits."""
    spec = pbmc_bundle.spec
    ontology = Ontology.of(spec, Grouping.each(spec.cell_types))
    chances = np.random.default_rng(0).dirichlet(np.full(ontology.n_types, 0.3), 4096)
    found = ontology.deepest(chances.astype(np.float32), 0.5)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        alone = ontology.deepest(chances.astype(np.float32), 0.5)
    np.testing.assert_array_equal(found, alone)
    assert threads() == {2}
