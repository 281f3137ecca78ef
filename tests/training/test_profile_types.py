"""The tables of what profiles and labels of cells are, and of what test files' labels mean.

How names were judged. A name stands where the genes of its profile agree. Where they speak
plainly against it, the genes decide and the note names them; where they tell of several lineages
or of none, the profile is not used, and ``use`` says why. A name of two sibling types gets the
term above both. "Stromal cell" is a fibroblast where collagens and decorin say so, "endothelial
cell" one of blood vessels, "dendritic cell" a conventional one where plasmacytoid ones stand
apart. Place is left out of a type ("goblet cell"), since the table has a column for it.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import anndata as ad
import pytest

from scbignn_infer.model.cell_ontology import terms as all_terms
from scbignn_training.ontology import check_terms
from scbignn_training.recipe import read_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SCBIGNN_DATA", REPOSITORY.parent / "shared" / "data"))
COLUMNS = [
    *("library", "dataset", "cell_type", "label", "ontology_id", "state"),
    *("tissue", "age", "study", "use", "note"),
]
TRUTH_COLUMNS = [
    *("file", "organ", "tissue", "species", "age", "label"),
    *("ontology_id", "finest_id", "scored", "note"),
]
AGES = {"adult", "fetal", "neonatal"}
UNUSED = {
    *("mixture", "doublets", "low quality", "disease", "undefined", "duplicate", "microarray"),
    *("cultured cells", "name says nothing", "name does not fit the genes"),
    *("906 genes only", "2554 genes only", "human gene names", "mouse gene names"),
    *("same cells as Adult_Retina_HCA", "same cells as Adult_Pancreas_HCA"),
}
# The labels that are shorter than the ontology's, which the review of the table agreed on.
SHORT = {
    "adrenal cortical cell": "cortical cell of adrenal gland",
    "alpha cell": "pancreatic A cell",
    "alveolar epithelial cell": "pulmonary alveolar epithelial cell",
    "alveolar type 1 cell": "pulmonary alveolar type 1 cell",
    "alveolar type 2 cell": "pulmonary alveolar type 2 cell",
    "atrial cardiomyocyte": "regular atrial cardiac myocyte",
    "AXL dendritic cell": "Axl+ dendritic cell, human",
    "BEST4 enterocyte": "BEST4+ enterocyte",
    "beta cell": "type B pancreatic cell",
    "bone marrow mesenchymal stem cell": "mesenchymal stem cell of the bone marrow",
    "CD14 monocyte": "CD14-positive, CD16-negative classical monocyte",
    "CD16 monocyte": "CD14-low, CD16-positive monocyte",
    "CD16 NK cell": "CD16-positive, CD56-dim natural killer cell, human",
    "CD4 T cell": "CD4-positive, alpha-beta T cell",
    "CD56-bright NK cell": "CD16-negative, CD56-bright natural killer cell, human",
    "CD8 T cell": "CD8-positive, alpha-beta T cell",
    "CD8 TEMRA cell": "effector memory CD8-positive, alpha-beta T cell, terminally differentiated",
    "cDC2": "CD1c-positive myeloid dendritic cell",
    "central memory CD4 T cell": "central memory CD4-positive, alpha-beta T cell",
    "central memory CD8 T cell": "central memory CD8-positive, alpha-beta T cell",
    "cerebellar GABAergic interneuron": "cerebellar inhibitory GABAergic interneuron",
    "cortical GABAergic interneuron": "cerebral cortex GABAergic interneuron",
    "CT cortical neuron": "corticothalamic-projecting glutamatergic cortical neuron",
    "cumulus cell": "cumulus granulosa cell",
    "cytotoxic CD8 T cell": "CD8-positive, alpha-beta cytotoxic T cell",
    "cytotrophoblast cell": "mononuclear cytotrophoblast cell",
    "decidual natural killer cell": "decidual natural killer cell, human",
    "decidual stromal cell": "decidual cell",
    "delta cell": "pancreatic D cell",
    "dermal papilla cell": "hair follicle dermal papilla cell",
    "double-negative thymocyte": "double negative thymocyte",
    "double-positive thymocyte": "double-positive, alpha-beta thymocyte",
    "effector memory CD4 T cell": "effector memory CD4-positive, alpha-beta T cell",
    "effector memory CD8 T cell": "effector memory CD8-positive, alpha-beta T cell",
    "endocrine pancreas progenitor cell": "progenitor cell of endocrine pancreas",
    "endometrial glandular epithelial cell": "glandular epithelial cell of endometrium",
    "epsilon cell": "pancreatic epsilon cell",
    "esophageal gland epithelial cell": "epithelial cell of esophageal gland proper",
    "ET cortical neuron": "extratelencephalic-projecting glutamatergic cortical neuron",
    "extravillous trophoblast cell": "extravillous trophoblast",
    "follicular helper T cell": "T follicular helper cell",
    "intermediate monocyte": "CD14-positive, CD16-positive monocyte",
    "IT cortical neuron": "intratelencephalic-projecting glutamatergic cortical neuron",
    "L6b cortical neuron": "L6b glutamatergic cortical neuron",
    "LAMP5 interneuron": "lamp5 GABAergic interneuron",
    "liver sinusoidal endothelial cell": "endothelial cell of hepatic sinusoid",
    "lymphatic endothelial cell": "endothelial cell of lymphatic vessel",
    "MAIT cell": "mucosal-associated invariant T cell",
    "mammary luminal epithelial cell": "luminal epithelial cell of mammary gland",
    "mammary luminal progenitor cell": "progenitor cell of mammary luminal epithelium",
    "mammary myoepithelial cell": "basal-myoepithelial cell of mammary gland",
    "memory CD4 T cell": "CD4-positive, alpha-beta memory T cell",
    "memory CD8 T cell": "CD8-positive, alpha-beta memory T cell",
    "naive CD4 T cell": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "naive CD8 T cell": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "neuroblast": "neuroblast (sensu Vertebrata)",
    "NKT cell": "mature NK T cell",
    "NP cortical neuron": "near-projecting glutamatergic cortical neuron",
    "PP cell": "pancreatic PP cell",
    "prostate club cell": "club-like cell of the urethral epithelium",
    "prostate hillock cell": "hillock cell of prostatic urethral epithelium",
    "proximal tubule epithelial cell": "epithelial cell of proximal tubule",
    "PVALB interneuron": "pvalb GABAergic interneuron",
    "regulatory T cell": "CD4-positive, CD25-positive, alpha-beta regulatory T cell",
    "respiratory multiciliated cell": "respiratory tract multiciliated cell",
    "respiratory secretory cell": "respiratory tract secretory epithelial cell",
    "squamous epithelial cell of esophagus": "esophagus non-keratinized squamous epithelial cell",
    "SST interneuron": "sst GABAergic interneuron",
    "sympathoblast": "neural crest derived neuroblast",
    "thick ascending limb cell": "kidney loop of Henle thick ascending limb epithelial cell",
    "thin descending limb cell": "kidney loop of Henle thin descending limb epithelial cell",
    "thymic epithelial cell": "epithelial cell of thymus",
    "vascular smooth muscle cell": "vascular associated smooth muscle cell",
    "ventricular cardiomyocyte": "regular ventricular cardiac myocyte",
    "VIP interneuron": "VIP GABAergic interneuron",
}
TESTED_WITH = {  # what a file was made of may not stand among the profiles it is scored with
    "pancreas_baron_human1.h5ad": "baron",
    "pancreas_baron_neuca_2000g.h5ad": "baron",
    "pancreas_segerstolpe_neuca_2000g.h5ad": "segerstolpe",
    "pancreas_enge_2017.h5ad": "enge",
    "brain_darmanis_2015.h5ad": "darmanis",
}
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Return the rows of a table, each with every column; a published name keeps its spaces."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


def above(term: str) -> frozenset[str]:
    """Return a term and all that the ontology has above it."""
    return all_terms()[term].above


@pytest.fixture(scope="module")
def types() -> list[Row]:
    return read(REPOSITORY / "training" / "tables" / "profile_types.tsv")


@pytest.fixture(scope="module")
def truth() -> list[Row]:
    return read(REPOSITORY / "benchmarks" / "body_truth.tsv")


@pytest.fixture(scope="module")
def cells() -> list[Row]:
    return read(REPOSITORY / "training" / "tables" / "cell_types.tsv")


@pytest.fixture(scope="module", params=["types", "cells"])
def table(request: pytest.FixtureRequest) -> list[Row]:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def usable(types: list[Row]) -> list[Row]:
    return [row for row in types if row["use"] == "yes"]


def test_each_name_has_one_row(table: list[Row]) -> None:
    assert list(table[0]) == COLUMNS
    keys = [(row["library"], row["dataset"], row["cell_type"]) for row in table]
    assert len(keys) == len(set(keys))


def test_a_usable_row_says_all_and_another_says_why_not(table: list[Row]) -> None:
    for row in table:
        assert row["age"] in AGES, row
        assert row["tissue"], row
        assert row["tissue"] == row["tissue"].strip().lower(), row
        assert bool(row["label"]) == bool(row["ontology_id"]), row
        assert row["use"] in UNUSED | {"yes"}, row
        assert row["use"] != "yes" or (row["label"] and row["study"]), row
        assert row["state"] == row["state"].strip(), row


def test_a_label_is_a_term_by_the_name_that_the_ontology_gives_it(
    types: list[Row], cells: list[Row]
) -> None:
    terms = {row["label"]: row["ontology_id"] for row in types + cells if row["label"]}
    check_terms(terms)
    for label, term in terms.items():
        assert all_terms()[term].label == SHORT.get(label, label), (label, term)
    assert not set(SHORT) - set(terms)


def test_a_label_has_one_term_and_a_term_one_label(types: list[Row], cells: list[Row]) -> None:
    pairs = {(row["label"], row["ontology_id"]) for row in types + cells if row["label"]}
    assert len({label for label, _ in pairs}) == len({term for _, term in pairs}) == len(pairs)


def test_clusters_are_states_of_a_type(types: list[Row]) -> None:
    found = {(r["dataset"], r["cell_type"]): (r["label"], r["state"]) for r in types}
    assert found["Adult_Liver_HCA", "Hep 5"] == ("hepatocyte", "Hep 5")
    assert found["Adult_Kidney_MCA", "Stromal cell Mgp high"] == ("fibroblast", "Mgp high")
    assert found["Adult_Ovary_MCA", "Cumulus cell Ube2c high"][1] == "Ube2c high, cycling"
    assert found["Adult_Lung_HCA", "alveolar epithelial cell type 1"] == (
        "alveolar type 1 cell",
        "",
    )


def test_types_that_occur_everywhere_are_the_same_in_both_species(usable: list[Row]) -> None:
    tissues = defaultdict(set)
    for row in usable:
        tissues[row["label"], row["library"].split("_")[0]].add(row["tissue"])
    for label in ("macrophage", "T cell", "B cell", "natural killer cell", "plasma cell"):
        assert len(tissues[label, "human"]) > 2 < len(tissues[label, "mouse"]), label
    for label in ("blood vessel endothelial cell", "fibroblast", "smooth muscle cell"):
        assert len(tissues[label, "human"]) > 7 < len(tissues[label, "mouse"]), label


def test_what_leaks_into_a_test_is_marked(usable: list[Row]) -> None:
    studies = {row["dataset"]: row["study"] for row in usable}
    assert studies["Adult_Pancreas_HCA"] == "enge"
    assert studies["Adult_Brain_Darmanis"] == "darmanis"
    assert studies["ref_pan_indrop"] == "baron"
    assert studies["Adult_Liver_HCA"] == "macparland"
    assert all(v == "covid_atlas" for k, v in studies.items() if k.startswith("COVID"))
    patients = [row["note"] for row in usable if row["study"] == "covid_atlas"]
    assert all("COVID-19 patients" in note for note in patients)


def test_the_table_has_the_profiles_of_the_libraries_and_no_others(types: list[Row]) -> None:
    rows = defaultdict(set)
    for row in types:
        rows[row["library"]].add((row["dataset"], row["cell_type"]))
    for library, names in rows.items():
        path = DATA.parent / "profiles" / f"{library}.h5ad"
        if not path.is_file():
            message = f"{path.name} is not in {path.parent}, beside $SCBIGNN_DATA"
            if os.environ.get("SCBIGNN_REQUIRE_DATA") == "1":
                pytest.fail(message)
            pytest.skip(message)
        obs = ad.read_h5ad(path, backed="r").obs
        assert names == set(
            zip(obs["dataset"].astype(str), obs["cell_type"].astype(str), strict=True)
        )


def test_a_true_label_has_a_term_or_a_reason(truth: list[Row]) -> None:
    assert list(truth[0]) == TRUTH_COLUMNS
    keys = [(row["file"], row["organ"], row["label"]) for row in truth]
    assert len(keys) == len(set(keys))
    for row in truth:
        assert row["species"] in {"human", "mouse"}, row
        assert row["age"] in AGES, row
        assert row["scored"] == "yes" or row["scored"].startswith("no: "), row
        assert row["ontology_id"] or row["scored"] != "yes", row
        if row["finest_id"]:
            assert row["ontology_id"] in above(row["finest_id"]) - {row["finest_id"]}, row
    check_terms({row["label"]: row["ontology_id"] for row in truth})


def test_what_is_scored_can_be_answered(truth: list[Row], usable: list[Row]) -> None:
    for row in truth:
        left_out = TESTED_WITH.get(row["file"])
        answers = {
            profile["ontology_id"]
            for profile in usable
            if profile["library"].startswith(row["species"]) and profile["study"] != left_out
        }
        if row["scored"] == "yes":
            assert any(row["ontology_id"] in above(term) for term in answers), row


def test_truth_has_each_label_of_the_files(truth: list[Row], real_data) -> None:
    rows = defaultdict(set)
    for row in truth:
        rows[row["file"]].add((row["organ"], row["label"]))
    for file, labels in rows.items():
        obs = ad.read_h5ad(real_data(file), backed="r").obs
        found = obs["cell_type"].astype(str)
        if len({organ for organ, _ in labels}) > 1:
            assert labels == set(zip(obs["tissue"].astype(str), found, strict=True)), file
        else:
            assert {label for _, label in labels} == set(found), file


def test_cells_are_what_the_test_files_say_or_finer(truth: list[Row], cells: list[Row]) -> None:
    said = {(r["file"].removesuffix(".h5ad"), r["label"]): r for r in truth if r["ontology_id"]}
    compared = 0
    for row in cells:
        parts = {r["organ"] for r in truth if r["file"] == f"{row['library']}.h5ad"}
        own = [r for r in truth if r["file"] == f"{row['library']}.h5ad"]
        own = [r for r in own if r["label"] == row["cell_type"]]
        own = [r for r in own if len(parts) == 1 or r["organ"] == row["dataset"]]
        judged_by_genes = bool(row["note"])
        named = row["use"] == "yes" and not judged_by_genes
        if named and (row["library"], row["cell_type"]) in said:
            assert own[0]["ontology_id"] in above(row["ontology_id"]), row
            assert (own[0]["tissue"], own[0]["age"]) == (row["tissue"], row["age"]), row
            compared += 1
    assert compared > 100


def test_cells_have_each_label_of_their_files(cells: list[Row], real_data) -> None:
    relabelled = {
        change.to
        for path in (REPOSITORY / "training" / "recipes").glob("*-body.toml")
        for change in read_recipe(path).relabel
    }
    rows = defaultdict(set)
    for row in cells:
        if row["cell_type"] not in relabelled:
            rows[row["library"]].add((row["dataset"], row["cell_type"]))
    for library, names in rows.items():
        obs = ad.read_h5ad(real_data(f"{library}.h5ad"), backed="r").obs
        parts = obs["tissue"].astype(str) if any(part for part, _ in names) else [""] * len(obs)
        assert names == set(zip(parts, obs["cell_type"].astype(str), strict=True)), library
