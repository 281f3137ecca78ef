from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec
import pytest

import scbignn_infer
from scbignn_infer.errors import InputError
from scbignn_training.recipe import Source, read_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted((REPOSITORY / "training" / "recipes").glob("*.toml"))
MINIMAL = """
name = "mine"
label_key = "cell_type"
[[reference]]
file = "cells.h5ad"
"""


def one_line(error, *parts):
    """Check that an error is one line that says what is meant."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
class TestShippedRecipes:
    def test_they_name_their_inputs_well_enough_to_find_them(self, path):
        recipe = read_recipe(path)
        assert recipe.name == path.stem
        assert recipe.description
        assert recipe.licence
        for source in (*recipe.reference, *recipe.profiles, *recipe.unlabelled):
            assert re.fullmatch("[0-9a-f]{64}", source.sha256)
            assert source.title
            assert source.citation
            assert source.accession
            assert source.licence
        assert all(re.fullmatch(r"CL:\d{7}", i) for i in recipe.ontology.values())

    def test_the_shipped_model_was_made_from_them(self, path):
        recipe = read_recipe(path)
        spec = scbignn_infer.load_model(REPOSITORY / "exported_models" / path.stem).spec
        datasets = spec.training.datasets
        cells = [d for d in datasets if d.role != "profiles"]
        assert [(d.file, d.sha256) for d in cells] == [
            (s.file, s.sha256) for s in (*recipe.reference, *recipe.unlabelled)
        ]
        assert {(d.file, d.sha256) for d in datasets if d.role == "profiles"} == {
            (Path(s.file).name, s.sha256) for s in recipe.profiles
        }
        named = [s.called for s in (*recipe.reference, *recipe.unlabelled)]
        assert [d.name for d in cells] == named
        if not recipe.profiles:
            ids = {c.label: c.ontology_id for c in spec.cell_types if c.ontology_id}
            assert ids == recipe.ontology
        assert {t.name: t.tested for t in spec.tissues if t.tested} == recipe.tested
        assert spec.training.cannot_tell == recipe.cannot_tell
        assert spec.version == recipe.version
        assert (spec.certainty is not None) == bool(recipe.follow_file)
        assert spec.follows_file == (recipe.follow_file is True)
        groups = {group.label for c in spec.cell_types for group in c.lineage}
        assert set(recipe.ontology) <= {c.label for c in spec.cell_types} | groups
        simulation = recipe.simulation.as_record() if recipe.profiles else {}
        assert spec.training.settings == recipe.settings.as_record() | simulation

    def test_the_first_line_is_the_command_that_makes_it(self, path):
        first = path.read_text().splitlines()[0]
        assert first.startswith(f"# scbignn-infer train --recipe training/recipes/{path.name} ")


def test_there_are_recipes():
    assert {p.stem for p in RECIPES} == {
        p.name for p in (REPOSITORY / "exported_models").iterdir() if p.is_dir()
    }


def test_a_minimal_recipe_takes_the_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + "[settings]\nseed = 4\n")
    recipe = read_recipe(path)
    assert recipe.min_cells == 5
    assert recipe.settings.seed == 4
    assert recipe.settings.folds == 3
    assert recipe.reference == [Source(file="cells.h5ad")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label_kye = 'x'\n" + MINIMAL, "label_kye"),
        (MINIMAL + "sha265 = 'x'\n", "sha265"),
        ("follow_file = 'maybe'\n" + MINIMAL, "maybe"),
        (MINIMAL + "[settings]\nepochs = 4\n", "epochs"),
        (MINIMAL + "[settings]\nseed = 'four'\n", "seed"),
        (MINIMAL + "[settings]\nnet_genes = 9000\n", "net_genes must not exceed"),
        ("min_cells = 1\n" + MINIMAL, "min_cells"),
        ("name = 'mine'\n", "needs a reference or profiles"),
        ("max_cells_per_type = -1\n" + MINIMAL, "max_cells_per_type"),
        (MINIMAL + "[simulation]\nsize = 0\n", "size"),
        ("name = \n", "mine.toml"),
        ("\n".join(MINIMAL.splitlines()[:3]), "reference"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path, text, says):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_recipe(path)
    one_line(error, "cannot read the recipe", str(path), says)


def test_no_recipe_is_one_line(tmp_path, pancreas):
    with pytest.raises(InputError) as error:
        read_recipe(tmp_path / "none.toml")
    one_line(error, "none.toml")
    with pytest.raises(InputError) as error:
        read_recipe(pancreas)  # an .h5ad in the place of the recipe
    one_line(error, "cannot read the recipe")


def test_queries_to_adapt_to_follow_the_unlabelled_files(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        MINIMAL + "[[adapt]]\nfile = 'query.h5ad'\n[[unlabelled]]\nfile = 'others.h5ad'\n"
    )
    recipe = read_recipe(path)
    assert [s.file for s in recipe.adapt] == ["query.h5ad"]
    assert [s.file for s in recipe.foreign] == ["others.h5ad", "query.h5ad"]
    path.write_text(MINIMAL)
    assert read_recipe(path).foreign == []


class TestLeavingOut:
    @pytest.fixture
    def two(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_text(MINIMAL + "[[reference]]\nname = 'second'\nfile = 'others.h5ad'\n")
        return read_recipe(path)

    def test_a_twin_has_the_other_references_and_says_so(self, two):
        twin = two.without("second")
        assert twin.name == "mine-without-second"
        assert [s.file for s in twin.reference] == ["cells.h5ad"]
        assert "without second" in twin.notes[-1]
        assert two.without("cells").reference == [two.reference[1]]  # by the file's stem
        assert (two.name, two.notes) == ("mine", [])

    def test_what_was_tested_of_the_whole_is_not_said_of_a_twin(self, two):
        whole = msgspec.structs.replace(two, tested={"lung": "Someone: .9"})
        assert whole.without("second").tested == {}

    def test_files_of_one_study_are_left_out_together(self, tmp_path):
        path = tmp_path / "r.toml"
        path.write_text(
            MINIMAL
            + '[[reference]]\nfile = "b.h5ad"\nstudy = "cells"\n[[reference]]\nfile = "c.h5ad"'
        )
        recipe = read_recipe(path)
        assert [s.called for s in recipe.without("cells").reference] == ["c"]
        assert [s.called for s in recipe.without("b").reference] == ["cells", "c"]

    @pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
    def test_no_twin_keeps_a_part_of_the_study_that_it_is_scored_on(self, path):
        recipe = read_recipe(path)
        for study in {s.of for s in recipe.reference} if len(recipe.reference) > 1 else ():
            twin = recipe.without(study)
            assert study not in {s.of for s in twin.reference}
            for table in twin.profiles:
                assert study not in {t.study for t in (table.meanings() or {}).values()}

    def test_an_unknown_name_lists_the_known_ones(self, two):
        with pytest.raises(InputError) as error:
            two.without("others")
        one_line(error, "no reference 'others'", "cells, second", "--leave-out")

    def test_the_only_one_cannot_be_left_out(self, two):
        with pytest.raises(InputError) as error:
            two.without("second").without("cells")
        one_line(error, "'cells' is the only reference", "two or more")

    def test_a_study_of_a_table_of_profiles_can_be_left_out(self):
        recipe = read_recipe(REPOSITORY / "training" / "recipes" / "human-body.toml")
        twin = recipe.without("baron").without("darmanis")
        assert twin.name == "human-body-without-baron-without-darmanis"
        studies = {t.study for s in twin.profiles for t in s.meanings().values()}
        assert "enge" in studies
        assert not studies & {"baron", "darmanis"}
        with pytest.raises(InputError, match="no reference 'muraro'"):
            recipe.without("muraro")

    def test_two_references_of_one_name_are_refused(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_text(MINIMAL + "[[reference]]\nfile = 'other/cells.h5ad'\n")
        with pytest.raises(InputError) as error:
            read_recipe(path)
        one_line(error, str(path), "2 references named 'cells'", "name =")
        path.write_text(path.read_text() + "name = 'other'\n")
        assert [s.called for s in read_recipe(path).reference] == ["cells", "other"]


class TestFindingFiles:
    @pytest.fixture
    def cells(self, tmp_path, monkeypatch):
        """Return a file of the data folder, seen from a working folder without it."""
        data, work = tmp_path / "data", tmp_path / "work"
        data.mkdir()
        work.mkdir()
        (data / "cells.h5ad").write_bytes(b"of the data folder")
        monkeypatch.setenv("SCBIGNN_DATA", str(data))
        monkeypatch.chdir(work)
        return data / "cells.h5ad"

    def test_in_the_data_folder(self, cells):
        assert Source(file="cells.h5ad").locate() == cells

    def test_in_the_working_folder_first(self, cells):
        Path("cells.h5ad").write_bytes(b"of the working folder")
        assert Source(file="cells.h5ad").locate().resolve() != cells

    def test_by_absolute_path(self, cells, monkeypatch):
        monkeypatch.setenv("SCBIGNN_DATA", "/nowhere")
        assert Source(file=str(cells)).locate() == cells

    def test_with_the_right_checksum(self, cells):
        right = hashlib.sha256(b"of the data folder").hexdigest()
        assert Source(file="cells.h5ad", sha256=right).locate() == cells

    def test_a_wrong_checksum_is_one_line(self, cells):
        with pytest.raises(InputError) as error:
            Source(file="cells.h5ad", sha256="0" * 64).locate()
        found = hashlib.sha256(b"of the data folder").hexdigest()
        one_line(error, str(cells), found[:12], "000000000000", "same version")

    @pytest.mark.usefixtures("cells")
    def test_a_missing_file_is_one_line_that_says_where_it_is_from(self):
        source = Source(file="gone.h5ad", accession="GSE84133", citation="Baron et al. 2016")
        with pytest.raises(InputError) as error:
            source.locate()
        one_line(error, "no file gone.h5ad", "SCBIGNN_DATA", "GSE84133", "Baron et al. 2016")


def test_a_file_name_that_is_not_utf_8_can_stand_in_a_record() -> None:
    """Else hours of training would end where the record is written."""
    from scbignn_training.pack import _dataset

    source = Source(file=os.fsdecode(b"data/caf\xe9.h5ad"))
    assert source.called == "caf\\xe9"
    record = _dataset(source, 3, "reference")
    assert (record.name, record.file) == ("caf\\xe9", "caf\\xe9.h5ad")
    msgspec.json.encode(record)
