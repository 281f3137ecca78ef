"""Errors a user can mend: each says what was found, what was expected and what to do."""

from __future__ import annotations

import errno
import re
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
    from importlib.metadata import PackageNotFoundError, requires

    try:
        needs = requires("scbignn-infer") or []
    except PackageNotFoundError:  # imported from a folder that was never installed
        return ""
    named = (need.partition(";") for need in needs)
    mine = re.compile(rf"""extra == ['"]{re.escape(extra)}['"]""")
    return " ".join(f"'{need.strip()}'" for need, _, marker in named if mine.search(marker))


OF_MEMORY = re.compile(
    r"unable to allocate [\d.]+ |memory allocation failed|allocate memory|out of memory"
    r"|bad[_ ]alloc",
    re.IGNORECASE,
)
"""What libraries say when they get no memory, in errors of any class."""
OF_THE_SYSTEM = re.compile("error message = '([^']*)'")
"""Where HDF5 puts what the system said, among lines about its buffers."""


def reason(error: BaseException) -> str:
    """Return in one line why the system or a library failed."""
    text = str(getattr(error, "strerror", None) or error)
    of_system = OF_THE_SYSTEM.search(text)
    lines = text.splitlines()
    return of_system[1] if of_system else next(filter(None, lines), type(error).__name__)


PROBE_BYTES = 1 << 26
"""Where no more memory than this can be had, it is the cause of errors that name none."""


def is_want_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or one that led to it, came from a lack of memory.

    The filters of HDF5 say only that they failed, so that memory is then asked for.
    """
    return _says_memory(error) or (isinstance(error, OSError) and not error.errno and _is_short())


def _is_short() -> bool:
    try:
        bytearray(PROBE_BYTES)
    except MemoryError:
        return True
    return False


def _says_memory(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = getattr(error, "errno", None)
        if isinstance(error, MemoryError) or number == errno.ENOMEM:
            return True
        if OF_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False
