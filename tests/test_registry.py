from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import scbignn_infer
from scbignn_infer.errors import BundleError
from scbignn_infer.model import registry

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def models(toy, monkeypatch):
    """Return the folder of the toy, as the first that is searched."""
    monkeypatch.setenv(registry.MODEL_PATH_VARIABLE, str(toy.parent))
    return toy.parent


def test_models_of_the_variable_are_found(models, toy):
    assert registry.list_models()["toy"] == toy
    assert registry.load_model("toy").path == toy


def test_models_are_listed_by_name(models):
    assert list(registry.list_models()) == sorted(registry.list_models())


def test_a_zip_is_found_by_its_stem(models, toy):
    shutil.make_archive(str(models / "packed"), "zip", toy)
    assert registry.load_model("packed").spec.name == "toy"


def test_the_first_folder_wins(models, toy, record, tmp_path, monkeypatch):
    other = tmp_path / "other" / "toy"
    shutil.copytree(toy, other)
    (other / "bundle.json").write_text(json.dumps(record | {"version": "9"}))
    monkeypatch.setenv(
        registry.MODEL_PATH_VARIABLE, os.pathsep.join(map(str, (other.parent, models)))
    )
    assert registry.load_model("toy").spec.version == "9"


def test_a_folder_that_is_not_there_is_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv(registry.MODEL_PATH_VARIABLE, str(tmp_path / "absent"))
    assert "absent" not in registry.list_models()


def test_an_unknown_name_lists_the_known_ones(models):
    with pytest.raises(BundleError, match=r"no model named 'tyo'.*toy"):
        registry.load_model("tyo")


def test_a_path_is_loaded_whatever_its_name(toy):
    assert registry.load_model(toy).name == "toy"
    assert registry.load_model(str(toy)).name == "toy"


def test_a_wrong_path_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no model bundle at"):
        registry.load_model(tmp_path / "absent")


def test_a_name_is_never_looked_for_in_the_working_folder(toy, monkeypatch):
    """It would be silent: a folder that happens to be there would take the model's place."""
    shutil.copytree(toy, toy.parent / "human-pbmc")
    monkeypatch.chdir(toy.parent)
    with pytest.warns(UserWarning, match=r"to use the folder human-pbmc.*write \./human-pbmc"):
        assert registry.load_model("human-pbmc").name == "human-pbmc"
    assert registry.load_model("./human-pbmc").name == "toy"
    with pytest.raises(
        BundleError, match=r"no model named 'toy'.*to use the folder, write \./toy$"
    ):
        registry.load_model("toy")
    monkeypatch.chdir(toy)
    assert registry.load_model(".").name == "toy"


def test_a_zip_in_the_working_folder_needs_a_slash_too(toy, monkeypatch):
    monkeypatch.chdir(toy.parent)
    shutil.make_archive("packed", "zip", toy)
    with pytest.raises(BundleError, match=r"to use the file, write \./packed\.zip$"):
        registry.load_model("packed.zip")
    assert registry.load_model("./packed.zip").name == "toy"


def test_a_path_object_is_a_path(toy, monkeypatch):
    monkeypatch.chdir(toy.parent)
    assert registry.load_model(Path("toy")).name == "toy"
    with pytest.raises(BundleError, match="no model bundle at human-pbmc"):
        registry.load_model(Path("human-pbmc"))


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("toy", False),
        ("toy.zip", False),
        ("", False),
        ("./toy", True),
        (".", True),
        ("..", True),
        ("a/b", True),
        ("toy/", True),
        ("/toy", True),
        ("a\\b", os.name == "nt"),
        ("C:toy", os.name == "nt"),
        (Path("toy"), True),
    ],
)
def test_what_is_a_path(model, path):
    assert registry.is_path(model) == path


def test_an_empty_name_is_refused():
    with pytest.raises(BundleError, match="a model without a name"):
        registry.load_model("")


def test_the_same_folder_by_name_is_not_warned_of(models, monkeypatch):
    monkeypatch.chdir(models)
    assert registry.load_model("toy").name == "toy"


def test_a_folder_of_the_same_name_does_not_hide_a_model(models, tmp_path, monkeypatch):
    (tmp_path / "work" / "toy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert registry.load_model("toy").path == models / "toy"


def test_what_training_has_not_finished_is_no_model(models, toy):
    toy.rename(models / ".toy.x1")
    assert not {".toy.x1", "toy"} & set(registry.list_models())


def test_a_folder_that_cannot_be_read_is_passed_over(models, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    plain = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda p: refuse(p) if p == models else plain(p))
    with pytest.warns(UserWarning, match=r"passed over: it cannot be read \(Permission denied\)"):
        assert "human-pbmc" in registry.list_models()


def test_a_loaded_bundle_is_returned_as_it_is(toy):
    bundle = scbignn_infer.load_model(toy)
    assert scbignn_infer.load_model(bundle) is bundle


def test_the_shipped_models_are_found():
    shipped = {"human-pbmc", "human-pancreas", "mouse-pancreas", "human-lung-cancer-lines"}
    assert shipped <= set(scbignn_infer.list_models())


def test_shipped_models_are_small():
    for folder in (REPOSITORY / "exported_models").iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            most = 15e6 if folder.name.endswith("-body") else 6e6
            assert sum(f.stat().st_size for f in folder.iterdir()) < most, folder.name
