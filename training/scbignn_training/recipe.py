"""A recipe: everything that one model is made from. TOML on disk, or options of ``train``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

import msgspec

from scbignn_infer.errors import InputError
from scbignn_training.settings import Settings

DATA_VARIABLE = "SCBIGNN_DATA"
DEFAULT_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One input file, with what is needed to find it again."""

    file: str
    """Path, absolute or relative to the working folder, else to ``$SCBIGNN_DATA``."""
    sha256: str = ""
    title: str = ""
    citation: str = ""
    accession: str = ""
    licence: str = ""
    exclude: dict[str, list[str]] = {}
    """Patterns by obs column; matching cells are left out."""

    def locate(self) -> Path:
        """Return the file's path, its checksum verified if the recipe names one.

        Raises
        ------
        InputError
            The file is in neither place, or is another file than the recipe's.
        """
        data = Path(os.environ.get(DATA_VARIABLE, DEFAULT_DATA))
        path = next((p for p in (Path(self.file), data / self.file) if p.is_file()), None)
        if path is None:
            raise InputError(
                f"no file {self.file}",
                expected=f"it in the working folder or in ${DATA_VARIABLE}",
                do=f"set {DATA_VARIABLE} to the folder of the data"
                + (f"; it is {self.accession}, {self.citation}" if self.accession else ""),
            )
        if self.sha256:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.sha256:
                raise InputError(
                    f"{path} has SHA-256 {found[:12]}...",
                    expected=f"{self.sha256[:12]}..., as the recipe says",
                    do="get the same version of the file, or change the recipe",
                )
        return path


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model is made from."""

    name: str
    version: str = "1"
    description: str = ""
    species: str = "human"
    tissue: str = ""
    assays: list[str] = []
    licence: str = ""
    label_key: str
    min_cells: Annotated[int, msgspec.Meta(ge=2)] = 10
    """Types with fewer cells after merging are left out."""
    reference: list[Source]
    unlabelled: list[Source] = []
    adapt: list[Source] = []
    """Queries whose own cells join the unlabelled ones, so that what the model says of them is
    transductive."""
    merge: dict[str, str] = {}
    drop: list[str] = []
    ontology: dict[str, str] = {}
    """Cell Ontology id by label."""
    settings: Settings = Settings()

    @property
    def foreign(self) -> list[Source]:
        """All files of unlabelled cells."""
        return [*self.unlabelled, *self.adapt]


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    InputError
        There is no such file, or it is no recipe.
    """
    try:
        return msgspec.toml.decode(Path(path).read_bytes(), type=Recipe)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise InputError(
            f"cannot read the recipe {path} ({error})",
            expected="a TOML file like those in training/recipes",
            do="mend the recipe",
        ) from None
