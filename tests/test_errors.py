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

    monkeypatch.setattr("importlib.metadata.requires", absent)
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


HDF5_LINES = (
    "Can't synchronously write data (file write failed: time = Thu Nov 26 10:03:22 2026\n"
    ", filename = 'b.h5', errno = 27, error message = 'File too large', buf = 0x55d8f01bcc10)"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(27, HDF5_LINES), "File too large"),
        (RuntimeError(HDF5_LINES), "File too large"),
        (PermissionError(13, "Permission denied", "a.csv"), "Permission denied"),
        (ValueError("\nfirst\nsecond"), "first"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_a_reason_is_one_line(error, said):
    assert errors.reason(error) == said


def raised(error, *, of=None, hidden=False):
    """Return an error that was raised because of another, or while it was handled."""
    try:
        try:
            raise of or ValueError("of another kind")
        except (MemoryError, ValueError):
            if hidden:
                raise error from None
            raise error  # noqa: B904 - as libraries do
    except ValueError as found:
        return found


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        OSError("Can't synchronously read data (memory allocation failed for raw data chunk)"),
        ValueError("Unable to allocate 7.28 TiB for an array with shape (10, 10)"),
        ValueError("Error tokenizing data. C error: out of memory"),
        RuntimeError("std::bad_alloc"),
        raised(ValueError("cannot decode"), of=MemoryError()),
    ],
)
def test_want_of_memory_is_known_by_any_name(error):
    assert errors.is_want_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("Can't synchronously read data (filter returned failure during read)"),
        OSError("Unable to extend file (file allocation failed)"),
        raised(ValueError("cannot decode")),
        raised(ValueError("cannot decode"), of=MemoryError(), hidden=True),
    ],
)
def test_other_errors_are_no_want_of_memory(error):
    assert not errors.is_want_of_memory(error)


def test_where_no_memory_is_left_it_is_the_cause_of_what_names_none(monkeypatch):
    monkeypatch.setattr(errors, "PROBE_BYTES", 1 << 62)
    assert errors.is_want_of_memory(OSError("(filter returned failure during read)"))
    assert not errors.is_want_of_memory(OSError(28, "No space left on device"))
    assert not errors.is_want_of_memory(ValueError("no number"))
