"""Find a model bundle by name or by path, and list what there is.

A name comes from the folders of models alone, never from the working folder: a folder that happens
to lie there does not take the place of a model.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scbignn_infer.errors import BundleError
from scbignn_infer.model.bundle import RECORD, ModelBundle, read_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL_PATH_VARIABLE = "SCBIGNN_MODEL_PATH"
PACKED = ".scbignn.zip"
"""How the name of a packed model ends."""


def model_folders() -> list[Path]:
    """Return the folders searched for bundles, first come first served.

    Those of ``$SCBIGNN_MODEL_PATH`` (separated like ``$PATH``), the checkout's ``exported_models``
    when the package is installed in editable mode, then the models inside the wheel, then those
    that ``models install`` has put into the user's folder: none of them hides a shipped one.
    """
    named = [Path(p) for p in os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep) if p]
    installed = user_folder()
    return [*named, *shipped_folders(), *([installed] if installed else [])]


def shipped_folders() -> list[Path]:
    """Return the folders of the models that come with the package: in a checkout, or in a wheel."""
    package = Path(__file__).resolve().parents[1]
    return [package.parent / "exported_models", package / "exported_models"]


def user_folder() -> Path | None:
    """Return the user's folder of models, where the platform keeps data of programs.

    That is below ``%LOCALAPPDATA%`` on Windows, ``~/Library/Application Support`` on macOS, and
    ``$XDG_DATA_HOME`` or ``~/.local/share`` elsewhere; ``None`` for a user without a home.
    """
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - which never raises
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = home / "Library" / "Application Support"
    else:
        named = os.environ.get("XDG_DATA_HOME", "")
        data = Path(named) if Path(named).is_absolute() else home / ".local" / "share"
    return data / "scbignn-infer" / "models" if data.is_absolute() else None


def list_models() -> dict[str, Path]:
    """Map the name of each model that can be found to its path.

    Returns
    -------
    dict of str to Path
        Sorted by name; names are those of the folders, or of .zip files without their suffix
        (``.zip`` or ``.scbignn.zip``).
        Entries that begin with a dot are left out: ``train`` writes there what is not whole yet.

    Warns
    -----
    UserWarning
        A folder of models cannot be read.

    Examples
    --------
    >>> import scbignn_infer
    >>> "human-pbmc" in scbignn_infer.list_models()
    True
    """
    paths: dict[str, Path] = {}
    for folder in model_folders():
        if not os.path.isdir(folder):  # noqa: PTH112 - which never raises
            continue
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            warnings.warn(
                f"the folder of models {folder} is passed over: it cannot be read "
                f"({error.strerror})",
                stacklevel=2,
            )
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_bundle(entry):
                paths.setdefault(entry.name, entry)
            elif entry.suffix == ".zip":
                paths.setdefault(entry.stem.removesuffix(Path(PACKED).stem), entry)
    return dict(sorted(paths.items()))


def _is_bundle(folder: Path) -> bool:
    return os.path.isfile(folder / RECORD)  # noqa: PTH113 - which never raises


def is_path(model: str | Path) -> bool:
    """Tell whether a model is named by its path.

    A :class:`~pathlib.Path` is one, and so is a text with a slash (on Windows a backslash or a
    drive, too) or that begins with a dot. Any other text is a name.
    """
    if not isinstance(model, str):
        return True
    separators = {"/", os.sep, os.altsep or os.sep}
    return model.startswith(".") or bool(separators & set(model) or Path(model).drive)


def find_model(model: str | Path) -> Path:
    """Return the path of a model, given by name or path (see :func:`is_path`), without reading it.

    A warning says if a bundle of that name lies in the working folder, too; it is not used.
    """
    if is_path(model):
        return Path(model)
    name, models = str(model), list_models()
    here = Path(name)
    if name not in models:
        lies_here = name and os.path.lexists(here)
        kind = "folder" if here.is_dir() else "file"
        raise BundleError(
            f"no model named '{name}'" if name else "a model without a name",
            expected=f"one of {', '.join(models) or 'no models (none is installed)'}, or a path",
            do=f"to use the {kind}, write .{os.sep}{name}"
            if lies_here
            else "see: scbignn-infer models list",
        )
    if _is_bundle(here) and not here.samefile(models[name]):
        warnings.warn(
            f"the model {name} is that of {models[name].parent}; to use the folder {name} in the "
            f"working folder instead, write .{os.sep}{name}",
            stacklevel=2,
        )
    return models[name]


def load_model(model: str | Path | ModelBundle) -> ModelBundle:
    """Load a model bundle and check it.

    Parameters
    ----------
    model
        Name of a model that :func:`list_models` gives; or the path of a bundle (folder or .zip): a
        :class:`~pathlib.Path`, or a text with a slash or that begins with a dot, such as
        ``./mine``; or a bundle, which is returned as it is.

    Returns
    -------
    ModelBundle
        With all checksums verified, and record and graphs checked. Tables are checked when they
        are first used, and an :class:`~scbignn_infer.Annotator` runs the model once.

    Warns
    -----
    UserWarning
        A bundle of that name lies in the working folder, too; it is not used.

    Raises
    ------
    BundleError
        There is no such model, or its bundle is incomplete, altered, too new, or not what
        ``train`` writes.

    Examples
    --------
    >>> import scbignn_infer
    >>> scbignn_infer.load_model("human-pbmc").cell_types[:2]
    ['B', 'CD14 Mono']
    """
    return model if isinstance(model, ModelBundle) else read_bundle(find_model(model))


@contextmanager
def passing_over(name: str) -> Iterator[None]:
    """Warn of a broken model among those that were found, rather than fail."""
    try:
        yield
    except BundleError as error:
        warnings.warn(f"the model {name} is passed over: {error}", stacklevel=3)
