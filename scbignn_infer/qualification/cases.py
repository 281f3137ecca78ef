"""Golden cases: for each shipped model a file of real cells, labelled when the model was released.

They come with the package; ``tests/golden/make_cases.py`` makes them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import BundleError, ScBiGNNError
from scbignn_infer.model.registry import load_model
from scbignn_infer.query.readers import open_query
from scbignn_infer.settings import DEFAULT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import anndata as ad

    from scbignn_infer._types import Array

FOLDER = Path(__file__).with_name("cases")
TOLERANCE = 1e-4
"""How far a score may be from the stored one. Labels must be the same."""


@dataclass
class Outcome:
    """What came of one golden case."""

    model: str
    version: str = ""
    sha256: str = ""
    """Of the model."""
    case_sha256: str = ""
    """Of the file of cells."""
    source: str = ""
    """Where the cells come from."""
    cells: int = 0
    provider: str = ""
    labels: dict[str, int] = field(default_factory=dict)
    """Number of cells with another label than the stored one, by column."""
    scores: dict[str, float] = field(default_factory=dict)
    """Largest difference to the stored numbers, by column or matrix."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What it took to load the model and to label the cells."""
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether all labels are the same, and all scores within the tolerance."""
        different = any(self.labels.values()) or not all(
            value <= TOLERANCE for value in self.scores.values()
        )
        return not self.problem and bool(self.labels and self.scores) and not different


def golden_cases() -> dict[str, Path]:
    """Map the name of each model with a golden case to the file of cells."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.h5ad"))}


def run_case(model: str, path: Path, *, device: str, threads: int | None) -> Outcome:
    """Label the cells of a golden case on this machine, and compare."""
    outcome = Outcome(model)
    try:
        outcome.case_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        _run(outcome, path, device, threads)
    except (ScBiGNNError, OSError) as error:
        outcome.problem = str(error)
    return outcome


def _run(outcome: Outcome, path: Path, device: str, threads: int | None) -> None:
    import anndata as ad

    stored = ad.read_h5ad(path)
    start = perf_counter()
    bundle = load_model(outcome.model)
    outcome.version, outcome.sha256 = bundle.spec.version, bundle.sha256
    outcome.cells, outcome.source = stored.n_obs, str(stored.uns["source"])
    if bundle.sha256 != str(stored.uns[DEFAULT_KEY]["model"]["sha256"]):
        raise BundleError(
            f"the model {outcome.model} at {bundle.path} is not the released one",
            expected="the model that its golden case was made with",
            do="unset SCBIGNN_MODEL_PATH, or install scbignn-infer again",
        )
    annotator = Annotator(bundle, device=device, threads=threads)
    loaded = perf_counter()
    with open_query(path) as query:
        annotation = annotator.annotate_query(query)
    labelled = perf_counter()
    outcome.provider = annotator.runtime.provider
    outcome.seconds = {"load": round(loaded - start, 3), "label": round(labelled - loaded, 3)}
    columns = {f"{DEFAULT_KEY}_{n}": c.values(annotation) for n, c in annotation.shown.items()}
    outcome.labels = dict(_labels(stored, columns))
    outcome.scores = dict(_scores(stored, columns | annotation.matrices()))


def _labels(stored: ad.AnnData, found: Mapping[str, Array]) -> Iterator[tuple[str, int]]:
    """Yield the name of each stored column of texts, and how many cells differ."""
    for name in stored.obs.columns:
        column = stored.obs[name]
        if name.startswith(f"{DEFAULT_KEY}_") and column.dtype.kind not in "fiu":
            other = found.get(name)
            same = other is not None and np.asarray(column).astype(str) == other.astype(str)
            yield name, int(len(column) - np.sum(same))


def _scores(stored: ad.AnnData, found: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
    """Yield the name of each stored column or matrix of numbers, and its largest difference."""
    numbers: dict[str, Array] = {
        name: np.asarray(stored.obs[name])
        for name in stored.obs.columns
        if name.startswith(f"{DEFAULT_KEY}_") and stored.obs[name].dtype.kind in "fiu"
    }
    numbers |= {name: np.asarray(value) for name, value in stored.obsm.items()}
    for name, value in numbers.items():
        other = np.asarray(found.get(name, np.nan), np.float64)
        if other.shape != value.shape:
            yield name, float("inf")
        else:
            worst = np.max(np.abs(value - other), initial=0.0)
            yield name, float(worst) if np.isfinite(worst) else float("inf")
