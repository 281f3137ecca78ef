from __future__ import annotations

import pickle

import pytest

import scbignn_infer
from scbignn_infer import errors


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
    assert error.do.startswith("run: pip install 'scbignn-infer[training]'")


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
