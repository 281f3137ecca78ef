"""How honest confidence is, and what is called unknown, on studies that a model never saw.

Run: ``python benchmarks/calibration.py --models FOLDER --out benchmarks/results/calibration.json``
(needs the extra ``training`` and ``SCBIGNN_DATA``). FOLDER receives the twins of
``held_out_study.py`` unless they are there, and holds the models of :data:`LEFT_OUT`, which
``adapt.py`` trains; those that it lacks are not scored.
Each study is labelled with all its genes and cut to its 2,000 and 500 most variable ones, by the
model as it is and as it would be without its record of certainty: with one temperature, and
distances as they are.

Labels are compared as those of ``held_out_study.py``; where several types of a model are one label
of a file, the confidence in that label is their sum. A cell is of an unseen type if the model has
not its type. Foreign files are of another tissue.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

import held_out_study
import tasks
from scbignn_infer.annotator import Annotator
from scbignn_infer.evaluation import calibration_error, reliability
from scbignn_infer.model.bundle import ModelBundle
from scbignn_infer.model.registry import load_model
from scbignn_infer.settings import Reading
from scbignn_training.data import read_study
from scbignn_training.recipe import Source
from shelf import common_labels, common_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scbignn_training.data import Study
    from scbignn_training.recipe import Recipe

Array = np.ndarray[Any, Any]
CUTS = (None, 2000, 500)
MOST_CELLS = 1000
LINES = Source(file="cellbench_sc_mixology.h5ad", name="cell lines")
ISLETS = Source(file="pancreas_baron_human1.h5ad", name="baron")
NEUCA = Source(file="pancreas_baron_neuca_2000g.h5ad", name="baron, other donors")
SEGERSTOLPE = Source(file="pancreas_segerstolpe_neuca_2000g.h5ad", name="segerstolpe")
ENGE = Source(file="pancreas_enge_2017.h5ad", name="enge")
PBMC3K = Source(file="pbmc3k_seurat.h5ad", name="pbmc3k")
KANG = Source(file="pbmc_kang_ifnb.h5ad", name="kang")
ZHENG = Source(file="pbmc_zheng_facs.h5ad", name="zheng")
LUNG = Source(file="mouse_lung_zilionis_800.h5ad", name="mouse lung")
LEFT_OUT = {
    "zheng-without-NK": (KANG, PBMC3K),
    "kang-without-CD14-Mono": (PBMC3K, ZHENG),
    "baron-without-alpha": (SEGERSTOLPE, NEUCA, ENGE),
}
"""Models of one study without one of its types (``train FILE --label-key cell_type_common
--min-cells 3``), and studies that have it."""
FOREIGN = {
    "human-pancreas-without-enge": (LINES, PBMC3K),
    "human-pbmc-without-zheng": (ISLETS, LINES),
    "human-lung-cancer-lines-without-drop-seq": (ISLETS, KANG),
    "mouse-pancreas-without-bastidas": (LUNG,),
}
MERGED = {"mesenchymal": "stellate"}
KEYS = {"cell lines": "cell_type", "enge": "cell_type", "mouse lung": "cell_type"}


@dataclass(frozen=True)
class Case:
    """A bundle, what a file tests, the file, and the recipe if it says what its labels mean."""

    bundle: Path
    tests: str
    source: Source
    recipe: Recipe | None = None

    def cells(self) -> Study:
        """Return some cells of the file, with their labels."""
        source, key = self.source, KEYS.get(self.source.called, "cell_type_common")
        if self.recipe:
            study = read_study(source.locate(), exclude=source.exclude)
            study = replace(study, labels=common_labels(self.recipe, source))
        else:
            study = read_study(source.locate(), label_key=key)
            study = replace(study, labels=np.array([MERGED.get(x, x) for x in study.labels]))
        n = len(study.labels)
        return tasks.rows(study, np.sort(np.random.default_rng(0).permutation(n)[:MOST_CELLS]))

    def names(self, types: list[str], labels: Array) -> Array:
        """Return what the file calls each type of the model."""
        return common_names(self.recipe, types, set(labels)) if self.recipe else np.array(types)


def cases(models: Path, recipes: Sequence[str] = ()) -> Iterator[Case]:
    """Yield bundles with a file, and what it tests."""
    for recipe, bundle, source in held_out_study.cases(models, recipes):
        yield Case(bundle, "held out", source, recipe)
    for tests, table in (("type left out", LEFT_OUT), ("foreign", FOREIGN)):
        for name, sources in table.items():
            yield from (Case(models / name, tests, source) for source in sources)


def without_certainty(bundle: ModelBundle) -> ModelBundle:
    """Return a bundle as it was before there was a record of its certainty."""
    limits = msgspec.structs.replace(bundle.spec.thresholds, weak=0.0)
    spec = msgspec.structs.replace(bundle.spec, certainty=None, thresholds=limits)
    files = {name: bundle.read(name) for name in spec.files}
    return ModelBundle(bundle.path, spec, files, bundle.sha256)


def variable_genes(counts: sp.csr_matrix, size: int) -> Array:
    """Return the genes of a study that vary the most, in the order of the file."""
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    x = sp.csr_matrix(sp.diags_array(1e4 / totals) @ counts).log1p()
    mean = np.asarray(x.mean(axis=0)).ravel()
    variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
    return np.sort(np.argsort(-variance, kind="stable")[:size])


def score(annotator: Annotator, case: Case, study: Study, genes: Array) -> dict[str, Any]:
    """Return what a model makes of a study's cells with some genes."""
    symbols = [study.symbols[i] for i in genes]
    reading = Reading(allow_species_mismatch=True, min_gene_coverage=0.0)
    found = annotator.annotate_matrix(study.counts[:, genes], symbols, reading=reading)
    truth = study.labels.astype(str)
    names = case.names(found.cell_types, truth).astype(str)
    best = names[found.best_codes]
    known, right, called = np.isin(truth, names), best == truth, found.codes >= 0
    confidence = (found.probabilities * (names == best[:, None])).sum(axis=1)
    row: dict[str, Any] = {
        "temperature": found.provenance.params.temperature,
        "apart": found.provenance.apart,
        "confidence": mean(confidence),
        "called": mean(called),
    }
    if known.any():
        row |= {
            "known": int(known.sum()),
            "accuracy": mean(right[known]),
            "ece": calibration_error(reliability(confidence[known], right[known])),
            "known_unknown": mean(~called[known]),
            "precision": mean(right[known & called]),
        }
    if known.any() and not known.all():
        row |= {
            "unseen": int((~known).sum()),
            "unseen_labelled": mean(called[~known]),
            "auroc": float(roc_auc_score(~known, -found.support)),
        }
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def mean(values: Array) -> float | None:
    """Return the mean of some values, if there are any."""
    return float(np.mean(values)) if len(values) else None


def main() -> None:
    """Write a JSON list with a row for each model, file, cut and rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of the models")
    parser.add_argument("--recipe", action="append", default=[], help="name of one, for its twins")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for case in cases(arguments.models, arguments.recipe):
        if not case.bundle.exists():
            print(f"{case.bundle} is not there", flush=True)
            continue
        bundle, study = load_model(case.bundle), case.cells()
        for rule, model in (("before", without_certainty(bundle)), ("now", bundle)):
            annotator = Annotator(model, device="cpu", threads=1)
            for cut in CUTS:
                if cut is not None and cut >= len(study.symbols):
                    continue
                genes = np.arange(len(study.symbols))
                genes = genes if cut is None else variable_genes(study.counts, cut)
                row: dict[str, Any] = {"model": bundle.name, "tests": case.tests}
                row |= {"file": case.source.called, "genes": cut or "all", "rule": rule}
                rows.append(row | score(annotator, case, study, genes))
                print(rows[-1], flush=True)
        arguments.out.write_text(json.dumps(rows, indent=0) + "\n")


if __name__ == "__main__":
    main()
