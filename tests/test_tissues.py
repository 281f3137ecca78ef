"""Body models: which tissue cells are of, and the types that they may then be called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import msgspec
import numpy as np
import pytest

import scbignn_infer
from scbignn_infer import Annotator, BundleError, InputError, Rules, load_model
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.tissues import FoundTissue, Tissues, Votes
from scbignn_infer.model.bundle import CellType, Tissue
from scbignn_infer.nearest_model import choose_model
from scbignn_infer.query.readers import AnnDataQuery, MatrixQuery, open_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from scbignn_infer import Annotation, ModelBundle

REPOSITORY = Path(__file__).resolve().parents[1]
ARRAYS = ("probabilities", "gene_level_codes", "neighbor_agreement", "novelty", "residual")
MARKS: dict[str, dict[str, Any]] = {
    "B": {"tissue": "spleen", "everywhere": True},
    "CD14 Mono": {"name": "monocyte", "ontology_id": "CL:0000576", "tissue": "lung"},
    "CD16 Mono": {
        "name": "monocyte",
        "ontology_id": "CL:0000576",
        "tissue": "spleen",
        "everywhere": True,
    },
    "DC": {"tissue": "lung"},
    "Erythroid": {"tissue": "spleen"},
    "HSPC": {"tissue": "spleen"},
    "MAIT": {"tissue": "spleen"},
    "Megakaryocyte": {"tissue": "spleen"},
    "Memory CD4 T": {"tissue": "spleen", "everywhere": True},
    "Memory CD8 T": {"tissue": "blood", "everywhere": True},
    "NK": {"tissue": "lung", "everywhere": True},
    "Naive CD4 T": {"tissue": "spleen", "everywhere": True},
    "Naive CD8 T": {"tissue": "blood", "everywhere": True},
    "Plasma": {"tissue": "spleen"},
    "pDC": {"tissue": "fetal liver"},
}
"""What makes a body model of that of blood: 15 classes, 14 types, four tissues."""
OF_CELLS = ("ontology", "certainty")
"""What a record of a model of cells has, and that of a body model of other names has not."""


def flat(record: dict[str, Any]) -> None:
    """Take off a record what body models have not."""
    for name in OF_CELLS:
        record.pop(name, None)
    record["thresholds"] = {"confidence": record["thresholds"]["confidence"]}


@pytest.fixture(scope="module")
def flat_bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return the model of blood that the body model is made of."""
    folder = tmp_path_factory.mktemp("flat") / "human-pbmc"
    shutil.copytree(REPOSITORY / "exported_models" / "human-pbmc", folder)
    record = json.loads((folder / "bundle.json").read_bytes())
    flat(record)
    (folder / "bundle.json").write_text(json.dumps(record))
    return load_model(folder)


@pytest.fixture(scope="module")
def body_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a body model with the graphs and tables of the model of blood."""
    folder = tmp_path_factory.mktemp("models") / "toy-body"
    shutil.copytree(REPOSITORY / "exported_models" / "human-pbmc", folder)
    record = json.loads((folder / "bundle.json").read_bytes())
    record["name"] = "toy-body"
    flat(record)
    for cell_type in record["cell_types"]:
        cell_type |= MARKS[cell_type["label"]]
    tested = {"lung": "Someone 2020, 900 cells, macro-F1 .91"}
    names = sorted({mark["tissue"] for mark in MARKS.values()})
    record["tissues"] = [{"name": name, "tested": tested.get(name, "")} for name in names]
    (folder / "bundle.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def body(body_folder: Path) -> ModelBundle:
    return load_model(body_folder)


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    return ad.read_h5ad(REPOSITORY / "scbignn_infer" / "examples" / "pbmc700.h5ad")


@pytest.fixture(scope="module")
def label(body: ModelBundle, cells: ad.AnnData) -> Callable[..., Annotation]:
    """Return a function that labels the cells, with settings."""

    def label(adata: ad.AnnData = cells, **settings: Any) -> Annotation:
        annotator = Annotator(body, device="cpu", threads=1, **settings)
        return annotator.annotate_query(AnnDataQuery(adata))

    return label


class TestNames:
    """Classes of one name are one type."""

    def test_probabilities_of_a_type_are_the_sum_of_its_classes(
        self, flat_bundle: ModelBundle, cells: ad.AnnData, label: Callable[..., Annotation]
    ) -> None:
        plain = Annotator(flat_bundle, device="cpu", threads=1).annotate_query(AnnDataQuery(cells))
        found = label(tissue="any")
        assert found.cell_types == [
            "B",
            "monocyte",
            *(name for name in MARKS if name != "B" and "Mono" not in name),
        ]
        assert found.ontology_ids[1] == "CL:0000576"
        place = {name: i for i, name in enumerate(plain.cell_types)}
        for i, name in enumerate(found.cell_types):
            own = [place[c] for c in MARKS if MARKS[c].get("name", c) == name]
            np.testing.assert_allclose(
                found.probabilities[:, i], plain.probabilities[:, own].sum(axis=1), rtol=1e-6
            )
        monocytes = np.isin(plain.best_labels, ["CD14 Mono", "CD16 Mono"])
        assert (found.best_labels[monocytes] == "monocyte").all()
        assert (found.gene_level_labels == "monocyte").sum() > 100
        assert (found.neighbor_agreement >= plain.neighbor_agreement - 1e-6)[monocytes].all()

    def test_a_map_names_types_and_not_classes(self, body: ModelBundle) -> None:
        grouping = Rules.of(body, groups={"monocyte": "myeloid", "DC": "myeloid"}).grouping
        members = grouping.group == grouping.labels.index("myeloid")
        assert [c for c, own in zip(MARKS, members, strict=True) if own] == [
            "CD14 Mono",
            "CD16 Mono",
            "DC",
        ]
        with pytest.raises(InputError, match="'CD14 Mono', which is no type of the model"):
            Rules.of(body, groups={"CD14 Mono": "myeloid"})

    def test_a_model_without_names_is_as_it_was(self, pbmc_bundle: ModelBundle) -> None:
        rules = Rules.of(pbmc_bundle)
        assert rules.grouping.labels == pbmc_bundle.cell_types == pbmc_bundle.type_names
        assert rules.grouping.group.tolist() == list(range(15))
        assert (rules.tissues, rules.tissue) == (None, FoundTissue())


class TestChosen:
    """The tissue is given."""

    def test_its_types_stay_and_those_that_are_everywhere(
        self, label: Callable[..., Annotation]
    ) -> None:
        lung = label(tissue=["Lung "])
        everywhere = ["Memory CD4 T", "Memory CD8 T", "NK", "Naive CD4 T", "Naive CD8 T"]
        assert lung.cell_types == ["B", "monocyte", "DC", *everywhere]
        np.testing.assert_allclose(lung.probabilities.sum(axis=1), 1, atol=1e-5)
        assert lung.provenance.tissue == FoundTissue("given", ["lung"])
        both = label(tissue=["fetal liver", "lung"])
        assert "pDC" in both.cell_types
        assert "Megakaryocyte" not in both.cell_types
        assert both.provenance.tissue.untested == ["fetal liver"]
        assert both.provenance.tissue.said == "fetal liver (not tested on cells), lung"

    def test_chances_are_those_of_all_types_given_that_it_is_one_of_them(
        self, body: ModelBundle, label: Callable[..., Annotation], cells: ad.AnnData
    ) -> None:
        """Bayes: at the gene level, what goes is divided among what stays, by their chances."""
        kept = Tissues.of(body.spec).kept(["lung"])
        annotator = Annotator(body, device="cpu", threads=1)
        query = AnnDataQuery(cells)
        choice = annotator.choose(query)
        rows = query.rows(choice.matrix, np.arange(50))
        _, log_p = annotator.pair.gene_level(choice.panel).label(rows)
        given = np.exp(log_p.astype(np.float64)) * kept
        given /= given.sum(axis=1, keepdims=True)
        grouping = Rules.of(body, tissue=["lung"]).grouping
        narrow = grouping.sum(np.exp(grouping.narrow(log_p.copy())))
        whole = Grouping.by_level(body.spec.cell_types, 0)
        expected = whole.sum(given)[:, [whole.labels.index(name) for name in grouping.labels]]
        np.testing.assert_allclose(narrow, expected, atol=1e-5)

    @pytest.mark.parametrize("level", [0, 1])
    def test_labels_have_the_order_of_a_model_without_the_others(
        self, body: ModelBundle, level: int
    ) -> None:
        kept = Tissues.of(body.spec).kept(["spleen"])
        own = [c for c, stays in zip(body.spec.cell_types, kept, strict=True) if stays]
        found = Rules.of(body, tissue=["spleen"], level=level).grouping
        expected = Grouping.by_level(own, level)
        assert (found.labels, found.ontology_ids) == (expected.labels, expected.ontology_ids)
        assert found.group[kept].tolist() == expected.group.tolist()
        assert (found.group[~kept] == -1).all()

    @pytest.mark.parametrize("graph", ["query", "reference"])
    def test_it_is_the_same_as_a_bundle_cut_to_it(
        self, change: Callable[..., Path], tmp_path: Path, graph: Any
    ) -> None:
        """The oracle: rows of the tables, and cells of the reference, taken out by hand."""
        whole = make_toy(change, list(range(6)))
        shutil.copytree(whole, tmp_path / "whole")
        cut = load_model(make_toy(change, [0, 1, 2, 4]))
        full = load_model(tmp_path / "whole")
        counts = np.random.default_rng(3).poisson(0.7, (60, 20)).astype(np.float32)
        query = MatrixQuery(counts, [f"G{i}" for i in range(20)])
        got = Annotator(full, device="cpu", threads=1, tissue=["lung"], graph=graph).annotate_query(
            query
        )
        expected = Annotator(
            cut, device="cpu", threads=1, tissue=["any"], graph=graph
        ).annotate_query(query)
        assert got.cell_types == expected.cell_types == ["fibroblast", "T1", "ciliated"]
        assert got.best_labels.tolist() == expected.best_labels.tolist()
        assert len(set(got.best_labels)) == 3
        for name in ARRAYS:
            np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=1e-5)
        other = Annotator(full, device="cpu", threads=1, tissue=["any"], graph=graph)
        assert other.annotate_query(query).best_labels.tolist() != got.best_labels.tolist()

    def test_reference_cells_of_other_types_are_no_neighbours(self, body: ModelBundle) -> None:
        annotator = Annotator(body, device="cpu", threads=1)
        grouping = Rules.of(body, tissue=["lung"]).grouping
        bank = annotator.pair.bank_of(grouping.kept)
        assert set(np.unique(bank.codes)) == set(np.flatnonzero(grouping.kept))
        assert annotator.pair.bank_of(grouping.kept) is bank
        assert annotator.pair.bank_of(annotator.rules.grouping.kept) is annotator.pair.bank

    def test_a_body_model_is_not_adapted_and_says_so(
        self, label: Callable[..., Annotation]
    ) -> None:
        plain, asked = label(tissue="lung"), label(tissue="lung", adapt=True)
        assert asked.labels.tolist() == plain.labels.tolist()
        assert asked.provenance.adapted is not None
        assert "a model of many tissues" in asked.summary()["adapted"]["refused"]
        assert "adapted" not in plain.summary()

    @pytest.mark.parametrize(
        ("tissue", "message"),
        [
            (["moon"], r"toy-body has no tissue 'moon'; expected some of blood, fetal liver, lung"),
            (["lung", "any"], "has no tissue 'any'; .*or any alone"),
            ([""], "has no tissue ''"),
        ],
    )
    def test_a_tissue_that_the_model_has_not_is_refused(
        self, body: ModelBundle, tissue: list[str], message: str
    ) -> None:
        with pytest.raises(InputError, match=message) as caught:
            Annotator(body, device="cpu", tissue=tissue)
        assert "\n" not in str(caught.value)

    def test_a_model_without_tissues_is_refused(self, pbmc_bundle: ModelBundle) -> None:
        with pytest.raises(InputError, match="'lung' is chosen, and human-pbmc has no tissues"):
            Rules.of(pbmc_bundle, tissue="lung")


class TestFound:
    """The tissue is found from the cells."""

    TYPES = (
        CellType(label="a", tissue="lung"),
        CellType(label="b", tissue="brain"),
        CellType(label="c", tissue="skin"),
        CellType(label="lung T", name="T cell", tissue="lung", everywhere=True),
        CellType(label="blood T", name="T cell", tissue="blood", everywhere=True),
        CellType(label="brain B", name="B cell", tissue="brain", everywhere=True),
    )

    def tissues(self, body: ModelBundle) -> Tissues:
        names = ("blood", "brain", "lung", "skin")
        own = [Tissue(name=name) for name in names]
        return Tissues.of(msgspec.structs.replace(body.spec, cell_types=self.TYPES, tissues=own))

    def find(self, body: ModelBundle, *shares: tuple[int, list[float]]) -> FoundTissue:
        """Return the tissue of some cells of each of these probabilities."""
        p = np.concatenate([np.tile(row, (n, 1)) for n, row in shares]) + 1e-9
        log_p = np.log(p / p.sum(axis=1, keepdims=True)).astype(np.float32)
        return self.tissues(body).find(Votes.of(log_p, np.zeros(len(log_p), bool)))

    def test_types_that_are_everywhere_abstain(self, body: ModelBundle) -> None:
        found = self.find(
            body, (80, [0, 0, 0, 0.5, 0, 0.5]), (9, [1, 0, 0, 0, 0, 0]), (1, [0, 1, 0, 0, 0, 0])
        )
        assert (found.how, found.chosen) == ("found", ["lung"])
        assert found.shares == pytest.approx({"lung": 0.9, "brain": 0.1})
        assert found.telling == pytest.approx(10 / 90, abs=1e-3)
        assert found.said == (
            "lung (not tested on cells), 90% of the cells that tell; second: brain, 10%"
        )

    @pytest.mark.parametrize(
        ("shares", "how"),
        [
            ([(62, 0), (38, 1)], "unclear"),  # the next has over half of it
            ([(59, 0), (21, 1), (20, 2)], "unclear"),  # below the bar
            ([(64, 0), (18, 1), (18, 2)], "found"),
            ([(4, 0), (90, 5)], "unclear"),  # too few tell
            ([(2, 0), (97, 5)], "unclear"),  # and B cells are of no tissue without types of its own
            ([(2, 0), (97, 4)], "common"),
            ([(2, 0), (97, 3)], "common"),  # by the name of the type, not by the class
            ([(10, 0), (90, 4)], "found"),
            ([(4, 0)], "unclear"),
            ([(6, 0)], "found"),
        ],
    )
    def test_a_tissue_is_taken_only_if_it_is_clear(
        self, body: ModelBundle, shares: list[tuple[int, int]], how: str
    ) -> None:
        rows = [(n, np.eye(6)[code].tolist()) for n, code in shares]
        found = self.find(body, *rows)
        assert found.how == how
        assert found.chosen == {"unclear": [], "found": ["lung"], "common": ["blood"]}[how]
        assert ("none is clear" in found.said) == (how == "unclear")

    AGES = (
        CellType(label="young neuron", tissue="fetal brain"),
        CellType(label="neuron", tissue="brain"),
        CellType(label="alveolar cell", tissue="lung"),
        CellType(label="lung macrophage", tissue="lung", everywhere=True, resident=True),
        CellType(label="blood T", name="T cell", tissue="blood", everywhere=True),
        CellType(label="spleen T", name="T cell", tissue="spleen", everywhere=True),
        CellType(label="spleen plasma", tissue="spleen", everywhere=True),
    )

    def of_ages(self, body: ModelBundle) -> Tissues:
        own = [
            Tissue(name="blood", fluid=True),
            Tissue(name="brain"),
            Tissue(name="fetal brain", organ="brain"),
            Tissue(name="lung"),
            Tissue(name="spleen"),
        ]
        return Tissues.of(msgspec.structs.replace(body.spec, cell_types=self.AGES, tissues=own))

    def found(self, body: ModelBundle, *cells: int) -> FoundTissue:
        """Return the tissue of so many cells of each type of ``AGES``."""
        log_p = np.log(np.repeat(np.eye(7) + 1e-9, cells, axis=0)).astype(np.float32)
        return self.of_ages(body).find(Votes.of(log_p, np.zeros(len(log_p), bool)))

    @pytest.mark.parametrize(
        ("cells", "chosen"),
        [
            ((40, 30, 30), ["fetal brain", "brain"]),  # neither alone is clear
            ((20, 50, 30), ["brain", "fetal brain"]),
            ((10, 60, 30), ["brain"]),
            ((0, 70, 30), ["brain"]),
            ((30, 29, 41), []),
        ],
    )
    def test_ages_of_an_organ_stand_together(
        self, body: ModelBundle, cells: tuple[int, int, int], chosen: list[str]
    ) -> None:
        found = self.found(body, *cells, 0, 0, 0, 0)
        assert (found.how, found.chosen) == ("found" if chosen else "unclear", chosen)
        if len(chosen) > 1 and cells[0] == 40:
            assert found.said == (
                "fetal brain (not tested on cells) and brain (not tested on cells), 70% of the "
                "cells that tell; second: lung, 30%"
            )

    @pytest.mark.parametrize(
        ("cells", "how", "chosen"),
        [
            ((0, 0, 0, 0, 60, 40, 0), "common", ["blood", "spleen"]),
            ((0, 0, 0, 0, 35, 65, 0), "common", ["spleen", "blood"]),
            ((0, 0, 0, 0, 70, 30, 0), "common", ["blood"]),  # T cells may be of both
            ((0, 0, 0, 0, 60, 30, 10), "common", ["blood", "spleen"]),
            ((0, 0, 0, 10, 90, 0, 0), "common", ["blood"]),
            ((3, 1, 4, 0, 92, 0, 0), "common", ["blood"]),  # no organ has most of these
            ((6, 3, 9, 0, 82, 0, 0), "unclear", []),  # too many tell
            ((3, 1, 4, 15, 77, 0, 0), "unclear", []),
        ],
    )
    def test_cells_of_blood_may_be_of_several_tissues(
        self, body: ModelBundle, cells: tuple[int, ...], how: str, chosen: list[str]
    ) -> None:
        found = self.found(body, *cells)
        assert (found.how, found.chosen) == (how, chosen)
        if len(chosen) > 1:
            assert " or " in found.said

    def test_a_fluid_has_no_resident_types(self, body: ModelBundle) -> None:
        tissues, labels = self.of_ages(body), np.array([c.label for c in self.AGES])
        blood = {"blood T", "spleen T", "spleen plasma"}
        assert set(labels[tissues.kept(["blood"])]) == blood
        assert set(labels[tissues.kept(["spleen"])]) == {*blood, "lung macrophage"}
        assert set(labels[tissues.kept(["blood", "spleen"])]) == {*blood, "lung macrophage"}
        assert tissues.kept([]).all()

    def test_a_young_tissue_has_the_types_of_its_organ(self, body: ModelBundle) -> None:
        tissues, labels = self.of_ages(body), np.array([c.label for c in self.AGES])
        everywhere = {"blood T", "spleen T", "spleen plasma", "lung macrophage"}
        assert set(labels[tissues.kept(["fetal brain"])]) - everywhere == {"young neuron", "neuron"}
        assert set(labels[tissues.kept(["brain"])]) - everywhere == {"neuron"}

    def test_empty_cells_have_no_say(self, body: ModelBundle) -> None:
        log_p = np.log(np.full((40, 6), 1e-9) + np.eye(6)[[0] * 10 + [1] * 30]).astype(np.float32)
        empty = np.arange(40) >= 10
        found = self.tissues(body).find(Votes.of(log_p, empty))
        assert (found.chosen, found.telling) == (["lung"], 1.0)
        assert self.tissues(body).find(Votes.of(log_p, ~empty)).chosen == ["brain"]
        assert self.tissues(body).find(Votes.of(log_p, np.ones(40, bool))).how == "unclear"
        parts = [Votes.of(log_p, empty), Votes.of(log_p, ~empty)]
        added, whole = Votes.added(parts), Votes.of(log_p, np.zeros(40, bool))
        np.testing.assert_allclose(added.classes, whole.classes)
        assert added.n_cells == whole.n_cells == 40

    def test_labels_are_those_of_the_tissue_given(self, label: Callable[..., Annotation]) -> None:
        found = label()
        assert (found.provenance.tissue.how, found.provenance.tissue.chosen) == ("found", ["lung"])
        given = label(tissue=["lung"])
        assert found.cell_types == given.cell_types
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(found, name), getattr(given, name))

    def test_cells_in_another_order_get_the_same_labels(
        self, label: Callable[..., Annotation], cells: ad.AnnData
    ) -> None:
        order = np.random.default_rng(0).permutation(len(cells))
        plain, permuted = label(), label(cells[order].copy())
        assert permuted.provenance.tissue == plain.provenance.tissue
        assert (permuted.labels == plain.labels[order]).mean() > 0.999
        np.testing.assert_allclose(permuted.probabilities, plain.probabilities[order], atol=2e-2)

    def test_it_is_said_everywhere(
        self,
        run: Callable[..., Any],
        body_folder: Path,
        example: Path,
        tmp_path: Path,
    ) -> None:
        pytest.importorskip("umap")
        out, page = tmp_path / "out.h5ad", tmp_path / "page.html"
        done = run("annotate", example, "-m", body_folder, "-o", out, "--report", page, "--json")
        summary = json.loads(done.stdout)
        tissue = ad.read_h5ad(out).uns["scbignn"]["tissue"]
        assert summary["tissue"]["how"] == tissue["how"] == "found"
        assert summary["tissue"]["chosen"] == list(tissue["chosen"]) == ["lung"]
        assert tissue["shares"]["lung"] == pytest.approx(summary["tissue"]["shares"]["lung"])
        said = FoundTissue(**summary["tissue"]).said
        assert said.startswith("lung, ")
        assert said in page.read_text()
        shown = run("annotate", example, "-m", body_folder, "-o", out, "--overwrite").stderr
        assert f"tissue  {said}" in shown
        explained = run("explain", example, "-m", body_folder, "--cells", "AAAGCCTGGCTAAC-1")
        assert "monocyte" in explained.stdout
        assert "CD16 Mono" not in explained.stdout

    def test_it_is_not_said_of_other_models(
        self, pbmc_bundle: ModelBundle, cells: ad.AnnData
    ) -> None:
        found = Annotator(pbmc_bundle, device="cpu").annotate_query(AnnDataQuery(cells))
        assert "tissue" not in found.record()
        assert "tissue" not in found.summary()


class TestManySamples:
    """The setting goes along to each sample."""

    def test_a_sample_with_another_tissue_is_done_again(
        self, run: Callable[..., Any], body_folder: Path, example: Path, tmp_path: Path
    ) -> None:
        def label(*more: str) -> dict[str, Any]:
            done = run(
                "annotate", example, "-m", body_folder, "-O", tmp_path / "o", "--json", *more,
                "--format", "csv",
            )  # fmt: skip
            (sample,) = json.loads(done.stdout)["samples"]
            return sample

        assert label("--tissue", "lung")["status"] == "done"
        assert label("--tissue", "lung")["status"] == "skipped"
        assert label("--tissue", "spleen", "--overwrite")["status"] == "done"
        text = next((tmp_path / "o").glob("*.csv")).read_text()
        assert "probability_Megakaryocyte" in text
        assert "probability_DC" not in text

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--tissue", "moon"], "has no tissue 'moon'"),
            (["--graph", "reference", "--split", "100"], "--tissue NAME or --tissue any"),
        ],
    )
    def test_what_cannot_be_done_is_said_before_any_sample(
        self,
        run: Callable[..., Any],
        body_folder: Path,
        example: Path,
        tmp_path: Path,
        more: list[str],
        message: str,
    ) -> None:
        folder = tmp_path / "o"
        done = run("annotate", example, "-m", body_folder, "-O", folder, *more, code=1)
        assert message in done.stderr
        assert not folder.exists()


class TestWithoutModel:
    """Specialised models and body models compete."""

    @pytest.fixture(autouse=True)
    def shelf(self, body_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """Return the body model by the name of the shipped one, which it hides."""
        folder = Path(shutil.copytree(body_folder, tmp_path / "shelf" / "human-body"))
        path = folder / "bundle.json"
        path.write_text(path.read_text().replace('"toy-body"', '"human-body"'))
        monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(folder.parent))
        return folder

    def rename(self, shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, to: str) -> None:
        """Call the tissue lung something else."""
        shutil.copytree(shelf, tmp_path / "renamed" / "human-body")
        path = tmp_path / "renamed" / "human-body" / "bundle.json"
        path.write_text(path.read_text().replace('"lung"', f'"{to}"'))
        monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(tmp_path / "renamed"))

    def test_a_specialised_model_of_the_tissue_wins(
        self, cells: ad.AnnData, shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.rename(shelf, monkeypatch, tmp_path, "pbmc")
        found = choose_model(AnnDataQuery(cells), device="cpu")
        assert found.bundle.name == "human-pbmc"
        assert found.why == "it knows pbmc, the tissue found by human-body; next: human-body"

    def test_the_body_model_wins_if_the_tissue_is_another(self, cells: ad.AnnData) -> None:
        found = choose_model(AnnDataQuery(cells), device="cpu")
        assert found.bundle.name == "human-body"
        assert found.why == "it knows lung, the tissue found by human-body; next: human-pbmc"
        assert set(found.novelty) == {
            *("human-pbmc", "human-pancreas", "human-lung-cancer-lines", "human-body"),
        }

    def test_a_given_tissue_asks_for_a_body_model(self, cells: ad.AnnData) -> None:
        found = choose_model(AnnDataQuery(cells), device="cpu", tissue=["spleen"])
        assert (found.bundle.name, set(found.novelty)) == ("human-body", {"human-body"})
        assert found.why == "it knows spleen, the tissue chosen"
        with pytest.raises(InputError, match="no model has the tissue 'moon'") as caught:
            choose_model(AnnDataQuery(cells), device="cpu", tissue=["moon"])
        assert "lung" in caught.value.expected  # of the tissues that there are
        with pytest.raises(BundleError, match=r"none can read it: .* the model is of mouse"):
            choose_model(AnnDataQuery(cells), device="cpu", tissue=["mammary gland"])

    def test_embryos_go_to_the_model_that_knows_them(
        self, real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SCBIGNN_MODEL_PATH")
        with open_query(real_data("mouse_pancreas_bastidas_1000.h5ad")) as query:
            found = choose_model(query, device="cpu")
        assert found.bundle.name == "mouse-pancreas"
        assert found.why.startswith("it knows fetal pancreas, the tissue found by mouse-body")

    def test_strange_cells_have_no_model(
        self, pbmc_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Among the models as they are shipped."""
        monkeypatch.delenv("SCBIGNN_MODEL_PATH")
        counts = np.random.default_rng(0).poisson(0.5, (50, 2000)).astype(np.float32)
        query = MatrixQuery(counts, pbmc_bundle.gene_symbols[:2000])
        with pytest.raises(BundleError, match="no model is clearly meant"):
            choose_model(query, device="cpu")

    def test_why_is_said(self, run: Callable[..., Any], example: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.csv"
        assert "it knows lung, the tissue found" in run("annotate", example, "-o", out).stderr
        done = run("annotate", example, "-o", out, "--overwrite", "--json")
        assert json.loads(done.stdout)["why"].endswith("next: human-pbmc")


class TestShelf:
    """What ``models`` says of body models."""

    def test_list_has_the_tissues(
        self, run: Callable[..., Any], body_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SCBIGNN_MODEL_PATH", str(body_folder.parent))
        shown = run("models", "list").stdout
        assert "4 tissues" in shown
        assert "tissues of toy-body: blood, fetal liver, lung, spleen" in shown
        entries = {
            e["name"]: e for e in json.loads(run("models", "list", "--json").stdout)["models"]
        }
        assert entries["toy-body"]["tissues"] == ["blood", "fetal liver", "lung", "spleen"]
        assert entries["toy-body"]["cell_types"].count("monocyte") == 1
        assert "tissues" not in entries["human-pbmc"]

    def test_show_has_the_types_of_a_tissue(
        self, run: Callable[..., Any], body_folder: Path
    ) -> None:
        shown = run("models", "show", body_folder, "--tissue", "lung").stdout
        assert "lung: Someone 2020, 900 cells, macro-F1 .91" in shown
        assert "CL:0000576" in shown
        assert "pDC" not in shown
        assert "B, Memory CD4 T, Memory CD8 T, Naive CD4 T, Naive CD8 T (of other tissues" in shown
        assert "source: " in shown
        entry = json.loads(
            run("models", "show", body_folder, "--tissue", "fetal liver", "--json").stdout
        )
        assert entry["tissues"] == {"fetal liver": ""}
        assert [t["name"] for t in entry["types"]] == ["pDC"]
        wrong = run("models", "show", "human-pbmc", "--tissue", "lung", code=1)
        assert "human-pbmc has no tissues" in wrong.stderr


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r["tissues"].append({"name": "heart"}), "the tissue 'heart' in tissues alone"),
        (lambda r: r["tissues"].pop(), "in cell_types alone"),
        (lambda r: r["tissues"].append(r["tissues"][0]), "the tissue 'gut' twice"),
        (lambda r: r["tissues"][0].update(name="Gut"), "the tissue 'Gut'; expected lower-case"),
        (lambda r: r["tissues"][0].update(name="any"), "the tissue 'any'; expected lower-case"),
        (lambda r: r["tissues"][0].update(name="a/b"), "the tissue 'a/b'"),
        (lambda r: r["tissues"][0].update(tested="\x1b[2J"), "the text .*without control"),
        (lambda r: r["cell_types"][0].update(name="T [naive]"), "the type .* with the ids"),
        (lambda r: r["cell_types"][0].update(name="unknown"), "'unknown', which the runtime"),
        (lambda r: r["cell_types"][0].update(name="x" * 300), "the type "),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    change: Callable[..., Path], edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    def changed(record: dict[str, Any]) -> None:
        for cell_type in record["cell_types"]:
            cell_type["tissue"] = "gut"
        record["tissues"] = [{"name": "gut"}]
        edit(record)

    with pytest.raises(BundleError, match=message):
        load_model(change(changed))


@pytest.mark.filterwarnings("ignore:the data have only")
def test_python_takes_one_tissue_or_several(body: ModelBundle, cells: ad.AnnData) -> None:
    for tissue in ("lung", ["lung"], ("lung",)):
        some = cells[:50].copy()
        scbignn_infer.annotate(some, body, tissue=tissue, threads=1)
        assert list(some.uns["scbignn"]["tissue"]["chosen"]) == ["lung"]


TOY = (
    {"label": "lung: fibroblast", "name": "fibroblast", "tissue": "lung", "everywhere": True},
    {"label": "lung: T1", "name": "T1", "tissue": "lung"},
    {"label": "lung: ciliated", "name": "ciliated", "tissue": "lung"},
    {"label": "skin: melanocyte", "name": "melanocyte", "tissue": "skin"},
    {"label": "skin: fibroblast", "name": "fibroblast", "tissue": "skin", "everywhere": True},
    {"label": "skin: keratinocyte", "name": "keratinocyte", "tissue": "skin"},
)


def make_toy(change: Callable[..., Path], codes: list[int]) -> Path:
    """Make a toy bundle of some of six classes, whose graphs take any number of them."""
    genes, random = 20, np.random.default_rng(0)
    profiles = np.full((6, genes), -0.3)
    for code in range(6):
        profiles[code, 3 * code : 3 * code + 3] = 1.0
    factors, bank = random.normal(0, 0.1, (genes, 4)), random.normal(0, 1, (60, 4))
    of = np.arange(60) % 6
    cells = np.isin(of, codes)

    def tables(held: dict[str, Any]) -> None:
        if "codes" in held:
            held["embedding"] = bank[cells]
            held["codes"] = np.searchsorted(codes, of[cells]).astype(np.int32)
            return
        for name in ("gene_mean", "gene_scale"):
            held[name] = np.ones(genes)
        for name in ("within_residual", "total_residual"):
            held[name] = np.full(genes, 0.5)
        held["within_factors"] = held["total_factors"] = factors
        held["gene_share"] = np.full(genes, 1 / genes)
        held["class_mean"] = profiles[codes]
        held["cells_per_type"] = np.arange(10, 16)[codes]

    def record(content: dict[str, Any]) -> None:
        own = [TOY[code] for code in codes]
        content["genes"] = [{"symbol": f"G{i}"} for i in range(genes)]
        content["cell_types"] = own
        content["tissues"] = [{"name": n} for n in sorted({c["tissue"] for c in own})]
        content["preprocessing"]["panel_genes"] = genes
        content["training"]["cells_per_type"] = {c["label"]: 10 for c in own}

    return change(record, tables)
