from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scbignn_infer.errors import GeneError
from scbignn_infer.query import gene_names
from scbignn_infer.query.gene_match import ModelGenes, genes_only, match_genes, refuse_unfit
from scbignn_infer.query.gene_names import GeneNames, species_of

SYMBOLS = ["CD3D", "MS4A1", "NKG7", "LYZ", "PPBP"]
ENSEMBL = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "ENSG00000000004", ""]


def match(
    candidates,
    *,
    net_genes=4,
    min_genes=1,
    species="",
    symbols=SYMBOLS,
    ids=ENSEMBL,
    column=None,
    allow_species_mismatch=False,
    min_coverage=None,
):
    genes = ModelGenes(symbols, ids, species, np.ones(net_genes), min_genes)
    found = match_genes(candidates, genes, column=column, any_case=allow_species_mismatch)
    refuse_unfit(
        found,
        candidates,
        genes,
        min_coverage=min_coverage,
        allow_species_mismatch=allow_species_mismatch,
    )
    return found


def test_genes_are_joined_by_name_not_by_place():
    found = match({"index": ["LYZ", "ACTB", "CD3D"]})
    np.testing.assert_array_equal(found.reference_index, [3, -1, 0])
    np.testing.assert_array_equal(found.present, [True, False, False, True, False])
    assert (found.coverage, found.n_shared, found.n_duplicates) == (0.5, 2, 0)


def test_coverage_counts_the_genes_of_the_network_only():
    assert match({"index": ["PPBP", "CD3D"]}).coverage == 0.25


def test_genes_that_tell_the_types_apart_weigh_more():
    genes = ModelGenes(SYMBOLS, ENSEMBL, "", np.array([6.0, 2.0, 1.0, 1.0]))
    assert match_genes({"index": ["CD3D"]}, genes).coverage == pytest.approx(0.6)
    assert match_genes({"index": ["NKG7", "LYZ"]}, genes).coverage == pytest.approx(0.2)


def test_coverage_below_the_floor_is_refused_and_the_floor_is_the_users():
    with pytest.raises(GeneError, match=r"coverage of 25%.*at least 1 genes and a coverage of 50%"):
        match({"index": ["LYZ"]}, min_coverage=0.5)
    assert match({"index": ["LYZ"]}, min_genes=3, min_coverage=0.25).coverage == 0.25


def test_ensembl_ids_match_too():
    found = match({"index": ["ENSG00000000003", "ENSG00000000001"]})
    np.testing.assert_array_equal(found.reference_index, [2, 0])


def test_the_column_that_covers_most_is_taken():
    columns = {"index": ["ENSG00000000001", "x", "y"], "symbol": ["CD3D", "NKG7", "LYZ"]}
    assert match(columns).column == "symbol"


def test_the_earlier_column_wins_a_tie():
    assert match({"index": ["CD3D"], "ids": ["ENSG00000000001"]}).column == "index"


def test_an_empty_id_matches_no_nameless_gene():
    assert match({"index": ["", "ENSG00000000001"]}).n_shared == 1


def test_a_gene_that_is_there_twice_counts_once():
    found = match({"index": ["CD3D", "CD3D", "LYZ"]})
    assert (found.n_shared, found.n_duplicates) == (2, 1)


def test_the_users_column_is_taken_though_another_fits_better():
    columns = {"index": ["CD3D", "LYZ"], "ids": ["ENSG00000000001", "x"]}
    assert match(columns, column="ids").coverage == 0.25
    with pytest.raises(GeneError, match=r"no gene column 'symbol'.*index, ids"):
        match(columns, column="symbol")


def test_too_few_genes_are_refused_with_names_of_both_sides():
    with pytest.raises(GeneError, match=r"share 1 of the 4 .*index: Cd3d, LYZ.*at least 2 .*CD3D"):
        match({"index": ["Cd3d", "LYZ", "Ms4a1"]}, min_genes=2)


def test_no_names_at_all_are_refused():
    with pytest.raises(GeneError, match="share 0 of the 4"):
        match({})


@given(st.permutations(["CD3D", "ACTB", "LYZ", "PPBP", "GAPDH"]))
def test_the_order_of_the_genes_changes_nothing(names):
    found = match({"index": names})
    np.testing.assert_array_equal(found.present, [True, False, False, True, True])
    known = [(n, SYMBOLS[i]) for n, i in zip(names, found.reference_index, strict=True) if i >= 0]
    assert len(known) == 3
    assert all(name == symbol for name, symbol in known)


# --- other names ---------------------------------------------------------------------------------


def test_versions_of_ensembl_ids_are_stripped():
    found = match({"index": ["ENSG00000000003.12", "ENSG00000000001.5_PAR_Y", "ENSG00000000002"]})
    np.testing.assert_array_equal(found.reference_index, [2, 0, 1])
    assert gene_names.without_version("RP11-206L10.2") == "RP11-206L10.2"


HUMAN = ["GNB2L1", "SEPTIN7", "CD3D", "PCLAF"]
"""A model with an old symbol among new ones."""


def test_old_and_new_symbols_and_ids_find_each_other():
    found = match(
        {"index": ["RACK1", "SEPT7", "ENSG00000167286.8", "KIAA0101", "nothing"]},
        species="human",
        symbols=HUMAN,
        ids=[""] * 4,
    )
    np.testing.assert_array_equal(found.reference_index, [0, 1, 2, 3, -1])
    assert found.n_renamed == 4


def test_the_models_own_name_goes_before_another():
    found = match(
        {"index": ["SEPT7", "SEPTIN7", "CD3D"]}, species="human", symbols=HUMAN, ids=[""] * 4
    )
    np.testing.assert_array_equal(found.reference_index, [-1, 1, 2])
    assert (found.n_renamed, found.n_duplicates) == (0, 0)


def test_a_name_of_two_genes_stands_for_neither():
    names = GeneNames("ENSG1\tA\tOLD\nENSG2\tB\t\nENSG3\tB\t\n")
    assert names.gene == {"ENSG1": "ENSG1", "A": "ENSG1", "OLD": "ENSG1"} | {
        g: g for g in ("ENSG2", "ENSG3")
    }


@pytest.mark.parametrize("species", gene_names.SPECIES)
def test_the_tables_name_each_gene_once_and_no_other_name_is_a_symbol(species):
    names = GeneNames.of(species)
    prefix = "ENSG" if species == "human" else "ENSMUSG"
    ids = set(names.gene.values())
    assert all(gene.startswith(prefix) and len(gene) == len(prefix) + 11 for gene in ids)
    others = {n for n in names.gene if n not in names.symbols and not n.startswith(prefix)}
    assert len(others) > 20_000
    renamed = {
        "human": {"SEPT7": "SEPTIN7", "FAM26F": "CALHM6"},
        "mouse": {"Sept7": "Septin7"},
    }
    for old, new in renamed[species].items():
        assert names.gene[old] == names.gene[new]


def test_other_names_of_another_species_are_not_used():
    with pytest.raises(GeneError, match="share 0"):
        match({"index": ["SEPT7"]}, species="zebrafish", symbols=HUMAN, ids=[""] * 4)


# --- features that are no genes ------------------------------------------------------------------


def test_proteins_match_no_gene_of_their_name():
    columns = {
        "index": ["CD3D", "LYZ", "CD3D", "chr1:1-2"],
        "feature_types": ["Gene Expression", "Gene Expression", "Antibody Capture", "Peaks"],
    }
    found = match(columns)
    np.testing.assert_array_equal(found.reference_index, [0, 3, -1, -1])
    assert found.left_out == {"Antibody Capture": 1, "Peaks": 1}
    assert found.n_duplicates == 0


@pytest.mark.parametrize("types", [["Gene Expression"] * 2, ["exon", "intron"]])
def test_a_column_without_genes_among_others_means_nothing(types):
    assert genes_only({"index": ["CD3D", "LYZ"], "feature_types": types}) == (None, {})


# --- species -------------------------------------------------------------------------------------

REAL = {
    "cellbench_sc_mixology": ("human", False),
    "mouse_lung_zilionis_800": ("mouse", True),
    "mouse_pancreas_baron_mouse1": ("mouse", False),
    "mouse_pancreas_bastidas_1000": ("mouse", False),
    "pancreas_baron_human1": ("human", False),
    "pancreas_baron_neuca_2000g": ("human", False),
    "pancreas_segerstolpe_neuca_2000g": ("human", False),
    "pbmc3k_seurat": ("human", False),
    "pbmc_10studies_UNLABELLED_3000": ("human", False),
    "scdcc_human_kidney_2000g": None,
}


@pytest.mark.parametrize("sure", [gene_names.SURE, 10**9])
@pytest.mark.parametrize(("name", "species"), list(REAL.items()))
def test_the_species_of_real_studies(real_data, monkeypatch, name, species, sure):
    import anndata as ad

    monkeypatch.setattr(gene_names, "SURE", sure)  # with the tables alone, too
    names = ad.read_h5ad(real_data(f"{name}.h5ad"), backed="r").var_names
    assert species_of(names) == species


@pytest.mark.parametrize("species", gene_names.SPECIES)
def test_the_species_of_ids_and_of_any_part_of_the_symbols(species):
    names = GeneNames.of(species)
    symbols = sorted(names.symbols)
    ids = sorted(set(names.gene.values()))
    rng = np.random.default_rng(0)
    assert species_of(f"{g}.3" for g in ids[:200]) == (species, False)
    for _ in range(5):
        assert species_of(rng.choice(symbols, 300, replace=False)) == (species, False)
    plain = [s for s in symbols if not any(p.match(s) for p in gene_names.SHAPES.values())]
    assert species_of(plain[:20]) is None


MOUSE = sorted(GeneNames.of("mouse").symbols)[20_000:21_000]


@pytest.mark.parametrize("case", [str, str.upper])
def test_another_species_is_refused_unless_allowed(case):
    human = {"symbols": ["CD3D", "MS4A1"], "ids": ["", ""], "species": "human", "net_genes": 2}
    columns = {"index": [case(n) for n in [*MOUSE, "Cd3d", "Ms4a1"]]}
    with pytest.raises(GeneError, match=r"genes are of mouse.*model is of human.*--allow-species"):
        match(columns, **human)
    found = match(columns, **human, allow_species_mismatch=True)
    assert found.coverage == 1
    upper = match(columns, **(human | {"species": "rat"}), allow_species_mismatch=True)
    assert upper.coverage == 1  # of a species that is not known, nothing is said


def test_refusals_say_found_expected_and_do():
    with pytest.raises(GeneError) as column:
        match({"index": SYMBOLS, "id": ENSEMBL}, column="name")
    assert str(column.value) == (
        "no gene column 'name'; expected one of index, id; choose with --gene-column"
    )
    with pytest.raises(GeneError) as few:
        match({"index": ["a", "b", "c", "d"], "id": ["e"]}, min_genes=2)
    assert str(few.value) == (
        "the data share 0 of the 4 genes that the model reads, a coverage of 0% (the data have "
        f"index: a, b, c; id: e); expected at least 2 genes and a coverage of 5%, named like "
        f"{', '.join(SYMBOLS[:3])}; check species and gene names; choose the column with "
        "--gene-column, or lower --min-gene-coverage"
    )
    with pytest.raises(GeneError) as panel:
        match({"index": [*ENSEMBL[:1], "a"]}, min_genes=2)
    assert "check species and gene names" in str(panel.value)  # half of the names are known
    with pytest.raises(GeneError) as panel:
        match({"index": ENSEMBL[:1]}, min_genes=2)
    assert str(panel.value) == (
        "the data have 1 genes, and 1 of the 4 that the model reads, a coverage of 25%; expected "
        "at least 2 genes and a coverage of 5%; give a file with more genes; --min-gene-coverage "
        "0 labels it all the same, and labels are less reliable then"
    )
    human = {"symbols": ["CD3D", "MS4A1"], "ids": ["", ""], "species": "human", "net_genes": 2}
    for case, said in ((str, ""), (str.upper, ", in upper case")):
        names = [case(n) for n in [*MOUSE, "Cd3d", "Ms4a1"]]
        with pytest.raises(GeneError) as other:
            match({"index": names}, **human)
        assert str(other.value) == (
            f"the genes are of mouse{said} ({', '.join(names[:3])}) and the model is of human; "
            "expected genes of human; choose a model of mouse, or pass --allow-species-mismatch "
            "(allow_species_mismatch=True) to match symbols in any case"
        )


def test_case_and_species_matter_unless_told_otherwise():
    genes = ModelGenes(["CD3D", "LYZ"], ["", ""], "", np.ones(2))
    assert match_genes({"index": ["Cd3d", "LYZ"]}, genes).reference_index.tolist() == [-1, 1]
    any_case = match_genes({"index": ["Cd3d", "LYZ"]}, genes, any_case=True)
    assert any_case.reference_index.tolist() == [0, 1]
    assert any_case.reference_index.dtype == np.int64
    assert any_case.present.dtype == bool
    human = ModelGenes(["CD3D", "MS4A1"], ["", ""], "human", np.ones(2))
    columns = {"index": [*MOUSE, "CD3D", "MS4A1"]}
    found = match_genes(columns, human)
    with pytest.raises(GeneError, match="of mouse"):
        refuse_unfit(found, columns, human)


def test_without_any_name_nothing_matches():
    found = match_genes({}, ModelGenes(["CD3D"], [""], "", np.ones(1)))
    assert (found.column, found.n_shared, found.coverage) == ("", 0, 0.0)
    assert (found.n_duplicates, found.n_renamed, found.left_out) == (0, 0, {})
    assert found.reference_index.tolist() == []
    assert found.present.tolist() == [False]


def test_the_first_gene_of_the_model_is_found_by_its_id_too():
    genes = ModelGenes(["CD3D", "LYZ"], ["ENSG1", "ENSG2"], "", np.ones(2))
    found = match_genes({"index": ["ENSG1", "LYZ", "CD3D"]}, genes)
    assert found.reference_index.tolist() == [-1, 1, 0]  # the symbol goes before
    alone = match_genes({"index": ["ENSG1", "LYZ", "x"]}, genes)
    assert (alone.reference_index.tolist(), alone.n_renamed) == ([0, 1, -1], 1)


# --- names with more in them ---------------------------------------------------------------------

PLAIN = ["GNB2L1", "SEPTIN7", "CD3D", "PCLAF"]
IDS = [GeneNames.of("human").gene[name] for name in PLAIN]


@pytest.mark.parametrize(
    "written",
    [
        lambda s, i: f"GRCh38_{s}",
        lambda s, i: f"hg19_{s}",
        lambda s, i: f"GRCh38-{s}",
        lambda s, i: f"GRCh38______{i}",
        lambda s, i: f"GRCh38-2020-A_{s}",
        lambda s, i: f"{s}_{i}",
        lambda s, i: f"{i}:{s}",
        lambda s, i: f"{i}.7|{s}",
        lambda s, i: f"{i}_{s}",
        lambda s, i: f"{s}|6223",
        lambda s, i: f"hg38_{s}_{i}",
    ],
)
def test_genomes_and_ids_in_names_are_seen_through(written):
    names = [written(s, i) for s, i in zip(PLAIN, IDS, strict=True)]
    found = match({"index": names}, species="human", symbols=HUMAN, ids=[""] * 4)
    np.testing.assert_array_equal(found.reference_index, [0, 1, 2, 3])
    assert (found.n_renamed, found.n_duplicates) == (4, 0)


def test_names_that_only_look_like_more_stay_whole():
    for name in ("HLA-DRB1", "RP11-34P13.7", "NKX2-1", "MT-ND1", "HG2", "MMP9", "HUMAN"):
        assert gene_names.plain_names(name) == [name]


def test_copies_are_summed_only_where_that_is_sure():
    symbols = ["CD3D", "TBCE", "NKX2-1", "HLA-DRB1", "KRT"]
    found = match(
        {
            "index": [
                *("CD3D", "CD3D.1", "CD3D-1", "TBCE", "TBCE_1"),
                *("HLA-DRB1", "HLA-DRB1-1", "NKX2", "NKX2-1", "MS4A1-1"),
            ]
        },
        species="human",
        symbols=symbols,
        ids=[""] * 5,
    )
    np.testing.assert_array_equal(found.reference_index, [0, 0, 0, 1, 1, 3, 3, -1, 2, -1])
    assert found.n_duplicates == 4
    fish = match({"index": ["CD3D", "CD3D.1"]}, species="zebrafish", symbols=symbols, ids=[""] * 5)
    assert fish.reference_index.tolist() == [0, -1]  # whose genes are not known


SOME = {s: sorted(GeneNames.of(s).symbols)[3000:4000] for s in gene_names.SPECIES}


@pytest.mark.parametrize("species", gene_names.SPECIES)
def test_symbols_in_lower_case_are_those_of_their_species(species):
    names = SOME[species]
    model = {"species": species, "symbols": names, "ids": [""] * len(names), "net_genes": 1000}
    found = match({"index": [n.lower() for n in names]}, **model)
    assert found.coverage > 0.99
    other = next(s for s in gene_names.SPECIES if s != species)
    with pytest.raises(GeneError, match="share"):
        match({"index": [n.lower() for n in SOME[other]]}, **model)


def test_upper_case_mouse_is_read_by_a_model_of_mouse():
    model = {"species": "mouse", "symbols": MOUSE, "ids": [""] * len(MOUSE), "net_genes": 1000}
    assert match({"index": [n.upper() for n in MOUSE]}, **model).coverage > 0.99


@pytest.mark.parametrize("form", ["_", "-", "column", "ids", "plain"])
def test_genes_of_a_second_species_are_left_out(form):
    human, mouse = SOME["human"], [n for n in SOME["mouse"] if n not in GeneNames.of("human")]
    if form == "plain":  # told by names that only one species has
        human, mouse = (sorted(GeneNames.of(s).symbols)[::20] for s in gene_names.SPECIES)
        mouse = [n for n in mouse if n not in GeneNames.of("human")]
    columns = {"index": [*human, *mouse]}
    if form in "_-":
        named = [f"GRCh38{form}{n}" for n in human] + [f"mm10{form * 3}{n}" for n in mouse]
        columns = {"index": named}
    elif form == "column":
        columns["genome"] = ["GRCh38"] * len(human) + ["mm10"] * len(mouse)
    elif form == "ids":
        columns["id"] = [f"ENSG{i:011d}" for i, _ in enumerate(human)]
        columns["id"] += [f"ENSMUSG{i:011d}" for i, _ in enumerate(mouse)]
    found = match(
        columns, species="human", symbols=human, ids=[""] * len(human), net_genes=len(human)
    )
    assert found.coverage > 0.99
    assert found.foreign_species == "mouse"
    assert found.foreign[: len(human)].mean() < 0.01
    assert found.foreign[len(human) :].mean() > 0.99
    assert found.left_out["genes of mouse"] == found.foreign.sum()
    assert (found.reference_index[found.foreign] == -1).all()


def test_a_genome_of_one_species_alone_is_no_mixture():
    columns = {"index": [f"mm10_{n}" for n in MOUSE]}
    human = {"symbols": SOME["human"], "ids": [""] * 1000, "species": "human", "net_genes": 1000}
    with pytest.raises(GeneError, match="genes are of mouse"):
        match(columns, **human)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([f"Gene{i}" for i in range(60)], "the genes have no names: they are called Gene0, Gene1"),
        ([str(i) for i in range(60)], "the genes have no names: they are called 0, 1, 2"),
        ([f"V{i}" for i in range(1, 60)], "the genes have no names: they are called V1, V2, V3"),
        ([str(i**3 + 7) for i in range(60)], r"probably Entrez ids .* turn the ids into symbols"),
    ],
)
def test_numbers_for_names_are_named_as_the_cause(names, said):
    with pytest.raises(GeneError, match=said):
        match({"index": names}, species="human", symbols=HUMAN, ids=[""] * 4)


@pytest.mark.parametrize(
    ("columns", "species"),
    [
        ([["HLA-A", "LINC00115", "C1orf112", "CD3E"] * 5], "human"),
        ([["Cd3e", "Xkr4", "H2-Aa", "Gm1992"] * 5], "mouse"),
        ([["CD3E", "CD8A"] * 20, [f"ENSG{i:011}" for i in range(40)]], "human"),
        ([["CD3E", "CD8A"] * 20], None),
        ([["HLA-A", "LINC00115"] * 20 + ["Cd3e"]], None),
        ([["HLA-A", "LINC00115"] * 20, ["Cd3e"] * 40], None),
        ([["HLA-A", "LINC00115"] + ["CD3E"] * 38], None),
        ([[f"Gene{i}" for i in range(40)]], None),
        ([], None),
    ],
)
def test_a_species_is_sure_of_shapes_alone(columns, species):
    assert gene_names.surely_of(columns) == species
    for names in columns if species else ():
        told = gene_names.species_of(names)
        assert told is None or told[0] == species
