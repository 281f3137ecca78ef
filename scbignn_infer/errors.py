"""Errors a user can mend: each says what was found, what was expected and what to do."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires
from typing import Any


class Flaw(Exception):  # noqa: N818 - no error yet: whoever knows the bundle's path makes it one
    """What is wrong with a part of a bundle: what was found, and what was expected."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(f"{found}; expected {expected}")


def need(fact: object, found: str, expected: str) -> None:
    """Raise a flaw unless a fact holds."""
    if not fact:
        raise Flaw(found, expected)


class ScBiGNNError(Exception):
    """Root of the package's errors.

    Parameters
    ----------
    found
        What is wrong, as it was met.
    expected
        What should have been there.
    do
        The next step for the user.

    Examples
    --------
    >>> import scbignn_infer
    >>> try:
    ...     scbignn_infer.load_model("absent")
    ... except scbignn_infer.ScBiGNNError as error:
    ...     print(error.found)
    no model named 'absent'
    """

    def __init__(self, found: str, *, expected: str, do: str) -> None:
        self.found, self.expected, self.do = found, expected, do
        super().__init__(f"{found}; expected {expected}; {do}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error travel between processes."""
        return _again, (type(self), self.found, self.expected, self.do)


def _again(kind: type[ScBiGNNError], found: str, expected: str, do: str) -> ScBiGNNError:
    """Make an error anew, whatever its class is made from."""
    error = kind.__new__(kind)
    ScBiGNNError.__init__(error, found, expected=expected, do=do)
    return error


class InputError(ScBiGNNError):
    """The query or reference cannot be read or is not what it should be."""


class GeneError(InputError):
    """The genes of the data do not fit the model."""


class BundleError(ScBiGNNError):
    """A model bundle is missing, incomplete, altered, too new, or cannot be run."""


class OutputError(ScBiGNNError):
    """The result cannot be written where it was asked for."""


class DeviceError(ScBiGNNError):
    """The asked-for device, provider or installation of onnxruntime is not usable."""


class MissingExtraError(ScBiGNNError):
    """An optional dependency is needed and not installed."""

    def __init__(self, module: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the Python package '{module}', which is not installed",
            expected=f"the extra '{extra}'",
            do=f"run: pip install {packages_of(extra) or module}",
        )


def packages_of(extra: str) -> str:
    """Return the packages of an extra as pip takes them, wherever this package came from."""
    try:
        needs = requires("scbignn-infer") or []
    except PackageNotFoundError:  # imported from a folder that was never installed
        return ""
    named = (need.partition(";") for need in needs)
    mine = re.compile(rf"""extra == ['"]{re.escape(extra)}['"]""")
    return " ".join(f"'{need.strip()}'" for need, _, marker in named if mine.search(marker))
