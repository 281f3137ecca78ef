"""Find a model bundle by path or by name, and list what there is."""

from __future__ import annotations

import os
from pathlib import Path

from scbignn_infer.bundle import RECORD, ModelBundle, read_bundle
from scbignn_infer.errors import BundleError

MODEL_PATH_VARIABLE = "SCBIGNN_MODEL_PATH"


def model_folders() -> list[Path]:
    """Return the folders searched for bundles, first come first served.

    Those of ``$SCBIGNN_MODEL_PATH`` (separated like ``$PATH``), the checkout's ``exported_models``
    when the package is installed in editable mode, then the models inside the wheel.
    """
    package = Path(__file__).resolve().parent
    named = [Path(p) for p in os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep) if p]
    return [*named, package.parent / "exported_models", package / "exported_models"]


def list_models() -> dict[str, Path]:
    """Map the name of each model that can be found to its path.

    Returns
    -------
    dict of str to Path
        Sorted by name; names are those of the folders (or .zip files without their suffix).

    Examples
    --------
    >>> import scbignn_infer
    >>> "human-pbmc" in scbignn_infer.list_models()
    True
    """
    found: dict[str, Path] = {}
    for folder in model_folders():
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            if (entry / RECORD).is_file():
                found.setdefault(entry.name, entry)
            elif entry.suffix == ".zip":
                found.setdefault(entry.stem, entry)
    return dict(sorted(found.items()))


def load_model(model: str | Path | ModelBundle) -> ModelBundle:
    """Load a model bundle and check it.

    Parameters
    ----------
    model
        Path of a bundle (folder or .zip), name of a model that :func:`list_models` gives, or a
        bundle, which is returned as it is.

    Returns
    -------
    ModelBundle
        With all checksums verified.

    Raises
    ------
    BundleError
        There is no such model, or its bundle is incomplete, altered or too new.

    Examples
    --------
    >>> import scbignn_infer
    >>> scbignn_infer.load_model("human-pbmc").cell_types[:2]
    ['B', 'CD14 Mono']
    """
    if isinstance(model, ModelBundle):
        return model
    path = Path(model)
    named_as_path = len(path.parts) > 1 or str(model).startswith((".", os.sep))
    if named_as_path or (path / RECORD).is_file() or path.suffix == ".zip":
        return read_bundle(path)
    models = list_models()
    if str(model) not in models:
        raise BundleError(
            f"no model named '{model}'",
            expected=f"one of {', '.join(models) or 'no models (none is installed)'}, or a path",
            do="see: scbignn-infer models list",
        )
    return read_bundle(models[str(model)])
