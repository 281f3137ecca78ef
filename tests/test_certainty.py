"""How sure a model may be of a file: by misfit and coverage, and by the file's common shift."""

from __future__ import annotations

import math
from pathlib import Path

import anndata as ad
import msgspec
import numpy as np
import pytest
import scipy.sparse as sp

from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import Flaw
from scbignn_infer.model.bundle import Certainty, ModelBundle
from scbignn_infer.model.registry import load_model
from scbignn_infer.model.validate import check_record

REPOSITORY = Path(__file__).parents[1]
ISLETS = REPOSITORY / "tests" / "data" / "pancreas400.h5ad"
BLOOD = REPOSITORY / "scbignn_infer" / "examples" / "pbmc700.h5ad"
CERTAINTY = Certainty(constant=0.5, misfit=-0.4, coverage=-0.2)


def certain(
    name: str, certainty: Certainty | None = CERTAINTY, novelty: str = "file"
) -> ModelBundle:
    """Return a shipped model with a record of its certainty."""
    bundle = load_model(name)
    spec = msgspec.structs.replace(bundle.spec, certainty=certainty, novelty=novelty)
    files = {file: bundle.read(file) for file in spec.files}
    return ModelBundle(bundle.path, spec, files, bundle.sha256)


@pytest.fixture(scope="module")
def blood() -> Annotator:
    return Annotator(certain("human-pbmc"), device="cpu", threads=1)


def matrix(file: Path) -> tuple[object, list[str]]:
    cells = ad.read_h5ad(file)
    return cells.X, cells.var_names.tolist()


def test_the_temperature_is_that_of_the_files_misfit_and_coverage(blood: Annotator) -> None:
    counts, genes = matrix(BLOOD)
    found = blood.annotate_matrix(counts, genes)
    half = blood.annotate_matrix(counts[:, ::2], genes[::2])
    usual = Annotator.load(certain("human-pbmc", None), device="cpu", threads=1)
    before = usual.annotate_matrix(counts, genes)
    assert before.provenance.params.temperature == usual.bundle.spec.temperature
    assert before.provenance.apart == 0
    for told, names in ((found, genes), (half, genes[::2])):
        temperature, coverage = told.provenance.params.temperature, told.provenance.genes.coverage
        log_m = (0.5 - 0.2 * math.log(coverage) - math.log(temperature)) / 0.4
        assert 0 <= log_m <= math.log(5), names
    log_p = np.log(np.maximum(before.probabilities, 1e-30)) * usual.bundle.spec.temperature
    exact = np.exp(log_p / found.provenance.params.temperature)
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, exact, atol=2e-3)
    assert half.provenance.params.temperature != found.provenance.params.temperature


def test_the_temperature_may_follow_a_file_and_novelty_not() -> None:
    """How sure a cell is comes from the one record, how strange it is from the other."""
    cells, said = matrix(ISLETS), {}
    for name, record in {
        "both": (CERTAINTY, "file"),
        "confidence": (CERTAINTY, "reference"),
        "nothing": (None, "file"),
    }.items():
        model = Annotator(certain("human-pancreas", *record), device="cpu", threads=1)
        said[name] = model.annotate_matrix(*cells)
    one, two, three = said.values()
    assert two.provenance.params.temperature == one.provenance.params.temperature
    assert two.provenance.params.temperature != three.provenance.params.temperature
    np.testing.assert_array_equal(two.probabilities, one.probabilities)
    for score in ("novelty", "residual", "penalties"):
        np.testing.assert_array_equal(getattr(two, score), getattr(three, score), err_msg=score)
    assert (one.penalties != two.penalties).any()
    assert one.provenance.apart > 0 == two.provenance.apart


def test_a_file_of_another_tissue_is_told_as_a_whole() -> None:
    islets = Annotator(certain("human-pancreas"), device="cpu", threads=1)
    own = islets.annotate_matrix(*matrix(ISLETS))
    other = islets.annotate_matrix(*matrix(BLOOD))
    assert 0 < own.provenance.apart < 1.6
    assert not [w for w in own.warnings() if "does not look like" in w]
    assert np.mean(own.codes < 0) < 0.25
    assert other.provenance.apart > 2
    assert "the file does not look like the tissue of human-pancreas" in " ".join(other.warnings())
    assert np.mean(other.codes < 0) > 0.9
    assert sum(other.unknown_counts().values()) == (other.codes < 0).sum()
    assert set(other.unknown_counts()) <= {"unsure", "novel", "genes do not fit"}
    assert other.record()["apart"] == other.provenance.apart


def test_no_cell_is_unknown_if_none_may_be() -> None:
    """However far the cells of another tissue are: what that takes has no bound."""
    islets = Annotator(certain("human-pancreas"), device="cpu", threads=1, unknown=False)
    found = islets.annotate_matrix(*matrix(BLOOD))
    assert found.support.min() < -2
    assert found.unknown_counts() == {}


def test_a_laboratory_that_multiplies_genes_leaves_the_labels() -> None:
    """Factors of the genes, the same in all cells, make few cells unknown that were not."""
    annotator = Annotator(certain("human-pancreas"), device="cpu", threads=1)
    counts, genes = matrix(ISLETS)
    factor = np.exp(0.8 * np.random.default_rng(0).standard_normal(len(genes)))
    distorted = sp.csr_matrix(counts).multiply(factor).rint().tocsr()
    plain, found = (annotator.annotate_matrix(x, genes) for x in (counts, distorted))
    assert found.provenance.apart > plain.provenance.apart
    assert found.provenance.params.temperature < plain.provenance.params.temperature
    assert np.mean(found.codes < 0) < np.mean(plain.codes < 0) + 0.1
    old = Annotator.load(certain("human-pancreas", None), device="cpu", threads=1)
    before = old.annotate_matrix(distorted, genes)
    assert np.median(before.residual) > 1.5 * np.median(found.residual)


def test_neighbours_in_the_reference_know_nothing_of_other_cells() -> None:
    """Then no cell is compared with the others of its file; nor is the file as a whole."""
    fixed = Annotator(certain("human-pbmc"), device="cpu", threads=1, graph="reference")
    found = fixed.annotate_matrix(*matrix(BLOOD))
    assert found.provenance.apart == 0
    assert (found.penalties[:, 1] == 0).all()
    assert found.penalties[:, 0].max() <= 0.1


@pytest.mark.parametrize("slope", [11.0, -1e9])
def test_a_slope_beyond_reason_is_refused(slope: float) -> None:
    wrong = Certainty(constant=0.5, misfit=slope, coverage=0.0)
    with pytest.raises(Flaw, match=r"certainty\.misfit"):
        check_record(certain("human-pbmc", wrong).spec)
