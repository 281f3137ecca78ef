"""Tables of mean expression as they are read, and cells that are simulated from them."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scbignn_infer.errors import InputError
from scbignn_infer.query.gene_names import GeneNames
from scbignn_training.profile_types import ProfileType, read_types
from scbignn_training.profiles import Columns, ontology_of, read_profiles
from scbignn_training.simulate import Simulation, simulate

GENES = sorted(GeneNames.of("human").symbols)[5000:7000]
TYPES = ["B", "T", "NK", "B"]
SETS = ["one", "one", "one", "two"]


@pytest.fixture(scope="module")
def means():
    """Return four profiles that sum to 10,000; the second data set lacks every fourth gene."""
    found = np.random.default_rng(0).gamma(0.15, 1, (4, 2000)) + 1e-6
    found[3, ::4] = 0
    return found / found.sum(axis=1, keepdims=True) * 1e4


@pytest.fixture
def about():
    return pd.DataFrame(
        {
            "cell_type": TYPES,
            "dataset": SETS,
            "tissue": ["blood"] * 4,
            "ontology_id": ["CL:0000236", "CL:0000084", "", "CL:0000236"],
            "n_cells": [20, 30, 10, 50],
        },
        index=[f"p{i}" for i in range(4)],
    )


def write(path, values, about, genes=GENES):
    """Write a table in the format that its name says."""
    if path.suffix == ".h5ad":
        table = ad.AnnData(np.asarray(values), obs=about, var=pd.DataFrame(index=list(genes)))
        table.write_h5ad(path)
    else:
        frame = pd.concat([about, pd.DataFrame(values, about.index, list(genes))], axis=1)
        if path.suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, sep="," if path.suffix == ".csv" else "\t")
    return path


class TestReading:
    @pytest.mark.parametrize("name", ["p.h5ad", "p.csv", "p.tsv", "p.parquet"])
    def test_every_format(self, tmp_path, means, about, name):
        one, two = read_profiles(write(tmp_path / name, means, about))
        assert (one.name, two.name) == ("one", "two")
        assert one.labels.tolist() == ["B", "T", "NK"]
        assert one.symbols == GENES
        np.testing.assert_allclose(one.means, means[:3] / 1e4, rtol=1e-5)
        assert two.symbols == [g for i, g in enumerate(GENES) if i % 4]
        assert one.n_cells.tolist() == [20, 30, 10]
        assert one.tissues.tolist() == ["blood"] * 3
        assert one.ontology_ids.tolist() == ["CL:0000236", "CL:0000084", ""]
        assert ontology_of([one, two], {"T": "T cell"}) == {
            "B": "CL:0000236",
            "T cell": "CL:0000084",
        }

    def test_genes_may_be_rows(self, tmp_path, means):
        path = tmp_path / "t.csv"
        pd.DataFrame(means[:3].T, index=GENES, columns=["B", "T", "NK"]).to_csv(path)
        (found,) = read_profiles(path)
        assert found.labels.tolist() == ["B", "T", "NK"]
        np.testing.assert_allclose(found.means, means[:3] / 1e4, rtol=1e-5)

    @pytest.mark.parametrize("scale", [1.0, 100.0], ids=["CP10k", "CPM"])
    @pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(1 + x)], ids=["e", "2"])
    def test_logarithms_are_undone(self, tmp_path, means, about, log, scale):
        path = write(tmp_path / "p.h5ad", log(means[:3] * scale), about[:3])
        (found,) = read_profiles(path)
        np.testing.assert_allclose(found.means, means[:3] / 1e4, rtol=1e-3, atol=1e-9)

    def test_means_of_logarithms_that_were_scaled_are_steep_again(self, tmp_path, about):
        """No study's largest gene is only twice its hundredth."""
        rng = np.random.default_rng(1)
        linear = np.exp(1.2 * rng.standard_normal((3, 2000)))
        linear *= 5000 / linear.sum(axis=1, keepdims=True)
        flat = np.log1p(linear)
        flat *= 1e4 / flat.sum(axis=1, keepdims=True)
        (found,) = read_profiles(write(tmp_path / "p.h5ad", flat, about[:3]))
        np.testing.assert_allclose(found.means, linear / 5000, rtol=0.02)

    @pytest.mark.parametrize("side", ["types", "genes"])
    def test_columns_that_say_something_of_the_cells_are_no_genes(self, tmp_path, means, side):
        from scbignn_infer.query.gene_names import all_names

        genes = sorted(name for name in all_names() if name.isupper())[: means.shape[1]]
        table = pd.DataFrame(means, index=["a", "b", "c", "d"], columns=genes)
        more = table.assign(n_donors=3, total_umi=90_000, pct_counts_mt=4.5, nCount_RNA=7.0)
        found = []
        for name, each in (("bare", table), ("more", more)):
            written = each if side == "types" else each.T
            written.to_csv(tmp_path / f"{name}.csv")
            found += read_profiles(tmp_path / f"{name}.csv")
        assert found[0].symbols == found[1].symbols == genes
        np.testing.assert_array_equal(found[0].means, found[1].means)
        table.assign(depth=1e6).to_csv(tmp_path / "heavy.csv")
        with pytest.raises(InputError, match=r"the column 'depth' of .* is 9"):
            read_profiles(tmp_path / "heavy.csv")

    def test_columns_are_chosen_and_rows_by_pattern(self, tmp_path, means, about):
        other = about.rename(columns={"cell_type": "wer", "dataset": "woher"})
        path = write(tmp_path / "p.h5ad", means, other)
        columns = Columns(type="wer", dataset="woher")
        (found,) = read_profiles(path, columns=columns, include={"woher": ["o*"]})
        assert found.labels.tolist() == ["B", "T", "NK"]
        (found,) = read_profiles(path, columns=columns, exclude={"woher": ["two"], "wer": ["N*"]})
        assert found.labels.tolist() == ["B", "T"]
        with pytest.raises(InputError, match="no column 'who'") as caught:
            read_profiles(path, columns=Columns(type="who"))
        assert "\n" not in str(caught.value)


class TestTypes:
    NAMES = "library dataset cell_type label ontology_id state tissue age study use note"

    @pytest.fixture
    def table(self, tmp_path):
        """Return a table of types: two names of one data set are one type."""
        rows = [
            "p one B|B cell|CL:0000236|B1|liver|fetal|s1|yes|",
            "p one T|B cell|CL:0000236|B2|liver|fetal|s1|yes|",
            "p one NK|||||blood|s1|mixture|",
            "p two B|macrophage|CL:0000235||lung|adult|s2|yes|",
            "q two B|T cell|CL:0000084||lung|adult|s2|yes|",
        ]
        lines = ["\t".join([*r.split("|")[0].split(), *r.split("|")[1:]]) for r in rows]
        path = tmp_path / "types.tsv"
        path.write_text("\n".join([self.NAMES.replace(" ", "\t"), *lines]) + "\n")
        return path

    def test_a_class_is_a_type_in_a_tissue(self, tmp_path, means, about, table):
        path = write(tmp_path / "p.h5ad", means, about)
        one, two = read_profiles(path, types=read_types(table, "p"))
        assert one.labels.tolist() == ["fetal liver: B cell"] * 2
        assert one.ontology_ids.tolist() == ["CL:0000236"] * 2
        assert one.rows == [("B", "fetal liver"), ("T", "fetal liver")]
        assert [t.name for t in one.meant] == ["B cell"] * 2
        assert two.labels.tolist() == ["lung: macrophage"]

    def test_a_twin_without_the_only_study_of_a_table_has_no_set_of_it(
        self, tmp_path, means, about, table
    ):
        path = write(tmp_path / "p.h5ad", means, about)
        about_one = {"dataset": ["one"]}
        left = {k: t for k, t in read_types(table, "p").items() if t.study != "s1"}
        assert read_profiles(path, include=about_one, types=left, may_be_empty=True) == []
        with pytest.raises(InputError, match="has 0 cell types"):
            read_profiles(path, include=about_one, types=left)

    def test_profiles_of_one_class_are_drawn_apart(self, tmp_path, means, about, table):
        one, _ = read_profiles(
            write(tmp_path / "p.h5ad", means, about), types=read_types(table, "p")
        )
        same = replace(one, means=one.means[[0, 0]])
        counts = simulate(same, Simulation(cells=3), seed=0).counts
        assert (counts[:3] != counts[3:]).nnz > 0

    def test_what_occurs_everywhere_is_told_by_the_ontology(self):
        def made(term, age="adult"):
            return ProfileType("", term, "lung", age, "").everywhere

        assert made("CL:0000625")  # CD8 T, below leukocyte
        assert made("CL:0000071")  # of blood vessels
        assert not made("CL:0000583")  # alveolar macrophage
        assert not made("CL:0002062")  # alveolar type 1
        assert not made("CL:0000625", "fetal")

    def test_what_circulates_is_told_by_the_ontology(self):
        def made(term):
            return ProfileType("", term, "lung", "adult", "").resident

        assert made("CL:0000235")  # macrophage
        assert made("CL:0000583")  # alveolar macrophage, below it
        assert made("CL:0000097")  # mast cell
        assert made("CL:0000057")  # fibroblast, of no blood lineage
        assert not made("CL:0000576")  # monocyte
        assert not made("CL:0000940")  # MAIT
        assert not made("CL:0000786")  # plasma cell

    @pytest.mark.parametrize(
        ("text", "says"),
        [(None, "cannot read"), ("library\tuse\np\tyes\n", "has no column"), ("", "has no column")],
        ids=["none", "columns", "empty"],
    )
    def test_what_is_no_table_of_types_is_one_line(self, tmp_path, text, says):
        path = tmp_path / "t.tsv"
        if text is not None:
            path.write_text(text)
        with pytest.raises(InputError, match=says) as caught:
            read_types(path, "p")
        assert "\n" not in str(caught.value)

    def test_an_id_that_the_ontology_has_not_is_one_line(self, table):
        table.write_text(table.read_text().replace("CL:0000235", "CL:9"))
        with pytest.raises(InputError, match="the ontology id 'CL:9' of 'macrophage'"):
            read_types(table, "p")

    def test_a_table_without_data_sets_is_one_of_its_own_name(self, tmp_path, means, about, table):
        table.write_text(table.read_text().replace("p\tone", "p\tp"))
        path = write(tmp_path / "p.h5ad", means[:2], about[:2].drop(columns="dataset"))
        (found,) = read_profiles(path, types=read_types(table, "p"))
        assert (found.name, found.labels.tolist()) == ("p", ["fetal liver: B cell"] * 2)

    def test_a_library_that_it_has_not_is_one_line(self, table):
        with pytest.raises(InputError, match="no usable row of r"):
            read_types(table, "r")


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda x, a: (-x, a, GENES), "negative or infinite"),
            (lambda x, a: (np.where(x > 1, np.inf, x), a, GENES), "negative or infinite"),
            (lambda x, a: (x, a, [str(i) for i in range(2000)]), "no gene names"),
            (lambda x, a: (x, a.assign(cell_type="B", tissue=list("abcd")), GENES), "1 cell types"),
            (lambda x, a: (x, a.assign(dataset="one"), GENES), "2 profiles of 'B / one / blood'"),
            (lambda x, a: (x * [[1], [0], [1], [1]], a, GENES), "1 rows without expression"),
            (lambda x, a: (x, a.assign(ontology_id="CL:9"), GENES), "the ontology id 'CL:9'"),
            (lambda x, a: (x, a.assign(n_cells="many"), GENES), "numbers of cells"),
        ],
        ids=["negative", "infinite", "no names", "one type", "twice", "zeros", "ontology", "cells"],
    )
    def test_what_is_no_table_of_profiles_is_one_line(self, tmp_path, means, about, change, says):
        path = write(tmp_path / "p.h5ad", *change(means, about))
        with pytest.raises(InputError, match=says) as caught:
            read_profiles(path)
        assert "\n" not in str(caught.value)

    def test_what_is_no_table_is_one_line(self, tmp_path):
        for name in ("none.h5ad", "text.h5ad", "text.doc", "text.parquet"):
            if name.startswith("text"):
                (tmp_path / name).write_text("hello")
            with pytest.raises(InputError, match="a table of mean expression") as caught:
                read_profiles(tmp_path / name)
            assert "\n" not in str(caught.value)

    def test_two_ids_of_one_type_are_one_line(self, tmp_path, means, about):
        path = write(tmp_path / "p.h5ad", means, about.assign(ontology_id=["CL:0000236"] * 4))
        one, two = read_profiles(path)
        other = replace(two, ontology_ids=np.array(["CL:0000084"]))
        with pytest.raises(InputError, match="two ontology ids of 'X'") as caught:
            ontology_of([one, other], {"B": "X"})
        assert "\n" not in str(caught.value)
        given = {"X": "CL:0000542", "Y": "CL:0000084"}
        assert ontology_of([one, other], {"B": "X"}, given).items() >= given.items()


class TestSimulation:
    @pytest.fixture
    def profiles(self, means, tmp_path):
        path = tmp_path / "p.h5ad"
        about = pd.DataFrame({"cell_type": TYPES[:3]}, index=list("abc"))
        (found,) = read_profiles(write(path, means[:3], about))
        return found

    QUIET = Simulation(cells=400, gene_factor=0, ambient=0, doublets=0)

    def test_cells_have_the_mean_of_their_profile(self, profiles):
        found = simulate(profiles, self.QUIET, 0)
        assert found.origin.simulated
        assert found.labels.tolist() == ["B"] * 400 + ["T"] * 400 + ["NK"] * 400
        assert (found.counts.data == np.round(found.counts.data)).all()
        for i, label in enumerate(profiles.labels):
            mean = np.asarray(found.counts[found.labels == label].mean(axis=0)).ravel()
            assert np.corrcoef(mean, profiles.means[i])[0, 1] > 0.98

    def test_noise_is_negative_binomial_of_the_size(self, profiles):
        steady = replace_(self.QUIET, depth_spread=0.0, laboratories=1, size=0.5, cells=3000)
        found = simulate(profiles, steady, 0).counts[:3000].toarray()
        mean, variance = found.mean(axis=0), found.var(axis=0)
        often = mean > 1
        size = mean[often] ** 2 / (variance[often] - mean[often])
        assert np.median(size) == pytest.approx(0.5, rel=0.1)

    def test_a_seed_fixes_every_bit_and_another_does_not(self, profiles):
        one, same, other = (simulate(profiles, Simulation(cells=12), s) for s in (3, 3, 4))
        for part in ("data", "indices", "indptr"):
            assert getattr(one.counts, part).tobytes() == getattr(same.counts, part).tobytes()
        assert (one.counts != other.counts).nnz > 0

    def test_ambient_counts_are_of_the_other_types(self, profiles):
        own = profiles.means[0] < 1e-7
        clean, dirty = (
            simulate(profiles, replace_(self.QUIET, ambient=a), 0).counts[:400][:, own].sum()
            for a in (0.0, 0.2)
        )
        assert dirty > 5 * max(clean, 1)


def replace_(simulation, **changes):
    import msgspec

    return msgspec.structs.replace(simulation, **changes)


def test_sparse_and_dense_tables_are_the_same(tmp_path, means, about):
    path = write(tmp_path / "d.h5ad", means, about)
    table = ad.read_h5ad(path)
    table.X = sp.csr_matrix(table.X)
    table.write_h5ad(tmp_path / "s.h5ad")
    for one, other in zip(read_profiles(path), read_profiles(tmp_path / "s.h5ad"), strict=True):
        np.testing.assert_array_equal(one.means, other.means)


def test_genes_of_which_some_repeat_are_summed(tmp_path, means):
    """Names that no list of genes has, too, as those of tables by Ensembl."""
    table = pd.DataFrame(means, index=[f"type {i}" for i in range(len(means))], columns=GENES)
    table.insert(0, "Y_RNA", 1.0)
    table.insert(0, "Y_RNA", 2.0, allow_duplicates=True)
    table.T.to_csv(tmp_path / "p.csv")
    (found,) = read_profiles(tmp_path / "p.csv")
    assert list(found.symbols).count("Y_RNA") == 1
