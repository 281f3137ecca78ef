"""A recipe: everything that one model is made from. TOML on disk, or options of ``train``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec

from scbignn_infer.errors import InputError
from scbignn_infer.plain import encodable
from scbignn_training.ontology import check_terms
from scbignn_training.profile_types import read_types
from scbignn_training.profiles import Columns
from scbignn_training.settings import MIN_CELLS, Settings
from scbignn_training.simulate import Simulation

if TYPE_CHECKING:
    from scbignn_training.profile_types import ProfileType

FollowFile = bool | Literal["confidence"]
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
    name: str = ""
    """What scores and ``--leave-out`` call it; by default the file's stem."""
    study: str = ""
    """Study that the cells are of, where several files are of one: by default the name. Files and
    profiles of one study are left out together."""
    study_key: list[str] = []
    """Columns that together tell the studies (or donors) of the file apart."""
    types: str = ""
    """Table that says what the published names mean, relative to the recipe's folder; cells and
    profiles of names that it does not have are left out. Types are then told by tissue and age,
    too. The data set of a cell is what ``study_key`` says of it, by default nothing."""

    @property
    def called(self) -> str:
        """The name, or the file's stem."""
        return self.name or encodable(Path(self.file).stem)

    @property
    def of(self) -> str:
        """The study that it is a part of."""
        return self.study or self.called

    def meanings(self) -> dict[tuple[str, str], ProfileType] | None:
        """Return what the published names mean, by data set and name, if a table says it."""
        return read_types(self.types, Path(self.file).stem) if self.types else None

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


class ProfileSource(Source, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of mean profiles; each of its data sets is a study."""

    columns: Columns = Columns()
    """Names of the columns that describe a profile, where they are not the usual ones."""
    include: dict[str, list[str]] = {}
    """Patterns by column; rows that match none are left out."""
    leave_out: list[str] = []
    """Studies of that table whose profiles are left out."""
    citations: dict[str, str] = {}
    """Of studies of that table, where the profiles' own column does not say them."""

    def meanings(self) -> dict[tuple[str, str], ProfileType] | None:
        """Return what the published names mean, without the studies that are left out."""
        found = super().meanings()
        return found and {k: t for k, t in found.items() if t.study not in self.leave_out}

    def without(self, study: str) -> ProfileSource:
        """Return the table without the profiles of a study."""
        return msgspec.structs.replace(self, leave_out=[*self.leave_out, study])


AnySource = TypeVar("AnySource", bound=Source)


class Relabel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cells of a label that show a gene of another type, where studies were labelled by cluster."""

    label: str
    to: str
    genes: list[str]
    """A count on any of them is enough."""
    studies: list[str] = []
    """Names of the references; by default all."""


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model is made from."""

    name: str
    version: str = "1"
    description: str = ""
    species: str = ""
    """Empty: told from the genes."""
    tissue: str = ""
    assays: list[str] = []
    licence: str = ""
    label_key: str = ""
    """Column of the references with the cell types; empty for files of the CELLxGENE schema."""
    min_cells: Annotated[int, msgspec.Meta(ge=2)] = MIN_CELLS
    """Types with fewer cells after merging are left out."""
    max_cells_per_type: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of more cells of a type in a file, a sample, as even as possible over its studies; 0: all."""
    max_cells: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Of more cells in all files, a sample with small types whole; 0: all. By default 200,000, and
    fewer where cells hold more than 750 genes each."""
    keep: list[str] = []
    """Labels that seem to name no type, such as "doublet", and are types all the same."""
    reference: list[Source] = []
    profiles: list[ProfileSource] = []
    """Tables of mean expression that cells are simulated from."""
    simulation: Simulation = Simulation()
    gene_studies: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Genes that fewer data sets measured are left out. Those of one file of cells are one."""
    hold_out: Annotated[int, msgspec.Meta(ge=0)] = 5
    """The most twins that are trained to score studies left out, of several studies each where
    there are more; 0 for none."""
    unlabelled: list[Source] = []
    adapt: list[Source] = []
    """Queries whose own cells join the unlabelled ones, so that what the model says of them is
    transductive."""
    follow_file: FollowFile = True
    """Whether temperature and novelty follow what is typical of a file; else they are those of
    studies left out. With "confidence" the temperature follows alone, which suits a reference of
    many laboratories."""
    relabel: list[Relabel] = []
    """Applied to labelled cells before labels are merged."""
    merge: dict[str, str] = {}
    drop: list[str] = []
    ontology: dict[str, str] = {}
    """Cell Ontology id by label. A label that is no type names the group of the types below its
    term."""
    cannot_tell: list[str] = []
    """What the model was found unable to tell, in words, for its card."""
    notes: list[str] = []
    best: Literal["flat", "descent"] = "flat"
    """How the best type is found, see ``BundleSpec``."""
    label_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """What the types of a label that may be coarser must sum to; 0: labels are types; by default
    fitted on studies left out."""
    tested: dict[str, str] = {}
    """By tissue, on which cells its types were tested and with what result."""
    settings: Settings = Settings()

    def __post_init__(self) -> None:
        """Refuse a recipe of nothing."""
        if not self.reference and not self.profiles:
            raise ValueError("a recipe needs a reference or profiles")

    @property
    def foreign(self) -> list[Source]:
        """All files of unlabelled cells."""
        return [*self.unlabelled, *self.adapt]

    def without(self, name: str) -> Recipe:
        """Return the recipe of a twin that has not seen one reference, table or study.

        On which cells the tissues of the whole were tested is not said of it.

        Raises
        ------
        InputError
            No reference bears that name, or there is no other.
        """
        rest = [s for s in self.reference if name not in (s.called, s.of)]
        tables = [s.without(name) for s in self.profiles if s.called != name]
        studies = {t.study for s in self.profiles for t in (s.meanings() or {}).values()}
        studies |= {s.of for s in self.reference}
        called = [s.called for s in (*self.reference, *self.profiles)]
        known = [*called, *sorted(studies - set(called))]
        if name not in known:
            raise InputError(
                f"the recipe {self.name} has no reference '{name}'",
                expected=f"one of {', '.join(known)}",
                do="choose with --leave-out",
            )
        if not rest and not tables:
            raise InputError(
                f"'{name}' is the only reference of {self.name}",
                expected="a recipe with two or more, to train on the rest",
                do="score on another file with: scbignn-infer evaluate",
            )
        return msgspec.structs.replace(
            self,
            name=f"{self.name}-without-{name}",
            reference=rest,
            profiles=tables,
            tested={},
            notes=[*self.notes, f"{self.name} without {name}: trained to be scored on that study"],
        )


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    InputError
        There is no such file, it is no recipe, or it has an ontology id that there is not.
    """
    try:
        recipe = msgspec.toml.decode(Path(path).read_bytes(), type=Recipe)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise InputError(
            f"cannot read the recipe {path} ({error})",
            expected="a TOML file like those in training/recipes",
            do="mend the recipe",
        ) from None
    folder = Path(path).parent
    recipe = msgspec.structs.replace(
        recipe,
        reference=[_from(folder, s) for s in recipe.reference],
        profiles=[_from(folder, s) for s in recipe.profiles],
    )
    check_terms(recipe.ontology)
    names = [s.called for s in (*recipe.reference, *recipe.profiles)]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"{path} has {names.count(name)} references named '{name}'",
                expected="a name for each",
                do="give them other names in the recipe: name = ...",
            )
    return recipe


def _from(folder: Path, source: AnySource) -> AnySource:
    """Return a source with the path of its table of types as seen from the working folder."""
    if not source.types:
        return source
    return msgspec.structs.replace(source, types=str(folder / source.types))
