from __future__ import annotations

import pickle
import shlex
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import scbignn_infer
from scbignn_infer import errors

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "name", ["BundleError", "DeviceError", "GeneError", "InputError", "OutputError"]
)
def test_an_error_says_found_expected_and_do_in_one_line(name):
    error = getattr(scbignn_infer, name)("no file a", expected="an .h5ad file", do="check the path")
    assert isinstance(error, errors.ScBiGNNError)
    assert str(error) == "no file a; expected an .h5ad file; check the path"
    assert (error.found, error.expected, error.do) == (
        "no file a",
        "an .h5ad file",
        "check the path",
    )


def test_a_missing_extra_names_the_command_that_installs_it():
    error = errors.MissingExtraError("torch", extra="training", purpose="training")
    assert isinstance(error, errors.ScBiGNNError)
    assert "'torch'" in error.found
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    command, *needs = shlex.split(error.do.removeprefix("run: "))[1:]
    assert command == "install"
    wanted = project["optional-dependencies"]["training"]
    assert sorted(map(Requirement, needs), key=str) == sorted(map(Requirement, wanted), key=str)


def test_a_module_is_named_where_the_package_was_never_installed(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(errors, "requires", absent)
    error = errors.MissingExtraError("umap", extra="report", purpose="the map")
    assert error.do == "run: pip install umap"


def test_gene_errors_are_input_errors():
    assert issubclass(errors.GeneError, errors.InputError)


def test_an_error_needs_all_three_parts():
    with pytest.raises(TypeError):
        errors.InputError("found")


@pytest.mark.parametrize(
    "error",
    [
        errors.InputError("no file a", expected="a file", do="check the path"),
        errors.MissingExtraError("torch", extra="training", purpose="training"),
    ],
)
def test_errors_travel_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.do) == (str(error), error.do)
