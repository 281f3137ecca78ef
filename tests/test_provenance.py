"""What an annotation is based on: the record in ``uns``, what is read of it, and the warnings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from scbignn_infer import __version__
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.annotation.provenance import (
    Foreign,
    Genes,
    Matrix,
    Model,
    Params,
    Provenance,
    Silent,
)
from scbignn_infer.annotator import Annotator
from scbignn_infer.label_file import Job
from scbignn_infer.network.sessions import installed_packages
from scbignn_infer.output.slots import slot_values
from scbignn_infer.query.readers import AnnDataQuery
from scbignn_infer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

SUMS = "expm1 sums to 1111-2742 a cell, in multiples of one value"
PLAIN = {"n": 100, "n_empty": 0, "unknown": 0.1, "novelty": 0.5}


@pytest.fixture
def based() -> Provenance:
    """Return a provenance with something in each field."""
    return Provenance(
        model=Model("toy", "1", "ab"),
        adaptation="it has seen them",
        training_cells=2,
        matrix=Matrix("X", "counts", "whole numbers", verdicts={"X": "counts"}),
        genes=Genes("index", 9, 0.9, left_out={"proteins": 3}, foreign=Foreign("mouse", 4)),
        params=Params(15, "query", "exact", threads=2, provider="cpu"),
        versions={"numpy": "2"},
        seconds={"inspect": 1.5, "graph": 0.25},
        notes=["a note"],
        reference_distance={"toy": 0.5, "other": 0.75},
    )


def expected_record(annotator: Annotator) -> dict[str, Any]:
    """Return what ``uns`` holds of the example, in its order."""
    spec = annotator.bundle.spec
    ontology = Ontology.of(spec, annotator.rules.grouping)
    return {
        "model": {"name": "human-pbmc", "version": "3", "sha256": annotator.bundle.sha256},
        "adaptation": "",
        "training_cells": 0,
        "matrix": {
            "name": "X",
            "state": "log1p-cut",
            "reason": SUMS,
            "target_sum": 10000.0,
            "doubt": "",
            "few_genes": 0.0,
            "verdicts": {"X": f"log1p-cut ({SUMS})"},
        },
        "genes": {
            "column": "index",
            "n_shared": 764,
            "coverage": 0.26193385486824755,
            "n_duplicates": 0,
            "n_renamed": 0,
            "left_out": {},
            "foreign": {},
            "silent": {"genes": 0.0, "cells": 0.0},
            "n_genes": 765,
        },
        "params": {
            "n_neighbors": 15,
            "graph": "query",
            "graph_builder": "exact",
            "batch_key": "",
            "n_batches": 1,
            "confidence_threshold": 0.5,
            "max_novelty": 1.0,
            "label_threshold": 0.9,
            "sets": 0.0,
            "temperature": 1.3896,
            "seed": 0,
            "threads": 1,
            "provider": "cpu",
            "device_note": "",
        },
        "versions": {
            "scbignn_infer": __version__,
            "numpy": np.__version__,
            **installed_packages(),
        },
        "cell_types": [c.label for c in annotator.bundle.spec.cell_types],
        "joins": {
            "labels": [ontology.labels[i] for i in ontology.joins],
            "types": [
                " ".join(map(str, np.flatnonzero(ontology.holds[i]))) for i in ontology.joins
            ],
        },
    }


def test_uns_holds_each_key_in_its_order(example: Path) -> None:
    annotator = Annotator.load("human-pbmc", device="cpu", threads=1)
    found = annotator.annotate_query(AnnDataQuery(ad.read_h5ad(example)))
    expected = expected_record(annotator)
    expected["genes"]["coverage"] = pytest.approx(expected["genes"]["coverage"])
    record = dict(slot_values(found, "k").records["k"])
    assert record == expected
    coverage = record["genes"]["coverage"]
    expected["genes"]["coverage"] = coverage
    assert json.dumps(record) == json.dumps(expected)  # the same order and types, too
    assert list(found.summary()) == [
        "cells",
        *("model", "adaptation", "reference_distance", "matrix", "genes", "params"),
        *("median_distance", "stages", "labels", "unknown", "unknown_reasons", "empty"),
        *("median_confidence", "median_novelty", "warnings"),
    ]
    assert found.summary()["genes"] == record["genes"]
    assert set(found.summary()["stages"]) == {
        *("inspect", "gene level", "graph", "cell level", "scores")
    }


def test_a_file_holds_the_record_and_gives_it_back(example: Path, tmp_path: Path) -> None:
    target = tmp_path / "o.h5ad"
    settings = Settings(model="human-pbmc", device="cpu", threads=1)
    with Job(example, target, settings) as job:
        assert job.n_cells == 700
        job.run()
    written = ad.read_h5ad(target).uns["scbignn"]
    based = job.annotation.provenance
    assert based.median_distance is not None  # which is of the summary alone
    assert Provenance.from_record(written) == replace(based, seconds={}, median_distance=None)
    assert written["cell_types"].tolist() == job.annotation.cell_types
    assert set(written) == set(expected_record(job.annotator))


def test_a_record_leaves_out_what_differs_from_run_to_run(based: Provenance) -> None:
    assert list(based.record()) == [
        *("model", "adaptation", "training_cells", "matrix", "genes", "params", "versions"),
        "notes",
    ]
    assert "notes" not in replace(based, notes=[]).record()
    assert based.record()["genes"]["foreign"] == {"species": "mouse", "cells": 4}
    none = replace(based, genes=replace(based.genes, foreign=Foreign("mouse", 0)))
    assert none.record()["genes"]["foreign"] == {"species": "mouse", "cells": 0}
    assert Provenance().record()["genes"]["foreign"] == {}
    assert based.summary()["stages"] == {"inspect": 1.5, "graph": 0.25}
    assert based.summary()["reference_distance"] == {"toy": 0.5, "other": 0.75}


def test_what_is_not_in_a_record_or_odd_there_is_empty(based: Provenance) -> None:
    kept = replace(based, seconds={}, reference_distance=None)
    assert Provenance.from_record(based.record()) == kept
    assert Provenance.from_record({}) == Provenance()
    old = {"model": {"name": np.str_("mine")}, "training_cells": np.int64(12), "more": 1}
    assert Provenance.from_record(old) == Provenance(Model("mine"), training_cells=12)
    odd = {"model": "mine", "training_cells": "many", "notes": np.array(["a"], object)}
    assert Provenance.from_record(odd) == Provenance(notes=["a"])
    assert Provenance.from_record({"training_cells": np.array([1, 2])}).training_cells == 0


def test_parts_are_joined_to_what_the_whole_would_say(based: Provenance) -> None:
    nothing = replace(
        based, params=replace(based.params, graph_builder="none"), seconds={"graph": 1.0}
    )
    through_json = msgspec.json.decode(msgspec.json.encode(based), type=Provenance)
    whole = Provenance.joined([nothing, through_json])
    assert whole.params == based.params
    assert whole.seconds == {"graph": 1.25, "inspect": 1.5}
    assert (whole.training_cells, whole.n_foreign) == (4, 8)
    bare = replace(based, genes=Genes())
    assert Provenance.joined([bare, bare]).record()["genes"]["foreign"] == {}


def test_nothing_is_said_of_usual_cells() -> None:
    assert Provenance(Model("toy")).warnings(**PLAIN) == []


@pytest.mark.parametrize(
    ("change", "numbers", "said"),
    [
        ({"matrix": Matrix(few_genes=0.4)}, {}, "40% of the barcodes are empty"),
        ({}, {"n_empty": 31}, "31% of the barcodes are empty"),
        ({"matrix": Matrix("raw", doubt="it is odd")}, {}, "raw was read, but it is odd: labels"),
        ({"genes": Genes(silent=Silent(0.2, 0.5))}, {}, "20% of the common genes are 0 in all of"),
        ({"genes": Genes(foreign=Foreign("mouse", 7))}, {}, "7 of 100 cells are mostly of mouse"),
        ({"genes": Genes(coverage=0.1)}, {}, "only 10% of the genes"),
        ({"params": Params(device_note="no GPU")}, {}, "no GPU"),
        ({"notes": ["a note"]}, {}, "a note"),
        ({"training_cells": 3}, {}, "toy was trained on at least 3 of these cells"),
        ({}, {"novelty": 0.995}, "unlike any that toy was trained on"),
        ({}, {"unknown": 0.6}, "60% of the cells are called unknown: they are of other types"),
        (
            {"stricter": ["--max-novelty 0.2"]},
            {"unknown": 0.6},
            "60% of the cells are called unknown: --max-novelty 0.2 asks for more than the model",
        ),
    ],
)
def test_each_fault_is_named(change: Any, numbers: Any, said: str) -> None:
    (warning,) = replace(Provenance(Model("toy")), **change).warnings(**PLAIN | numbers)
    assert said in warning


def test_the_model_is_blamed_only_where_no_cause_is_known() -> None:
    strange = PLAIN | {"unknown": 1.0, "novelty": 1.0}
    assert len(Provenance(Model("toy")).warnings(**strange)) == 2
    simulated = Provenance(Model("toy", from_profiles=True))  # to it all real cells are novel
    (warning,) = simulated.warnings(**strange)
    assert "are called unknown" in warning
    doubted = Provenance(Model("toy"), matrix=Matrix(doubt="it is odd"))
    (said,) = doubted.warnings(**strange)
    assert "it is odd" in said


def test_a_job_that_is_left_half_way_leaves_nothing(example: Path, tmp_path: Path) -> None:
    settings = Settings(model="human-pbmc", device="cpu", threads=1)
    with Job(example, tmp_path / "o.h5ad", settings) as job:
        job.annotate()
        assert [p.suffix for p in tmp_path.iterdir()] == [".tmp"]
    assert list(tmp_path.iterdir()) == []
