"""Everything that a user may choose. Name, type, default, bounds and meaning stand here once.

Options of the commands, keywords in Python and parameters of the service derive from the fields.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from types import NoneType
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from scbignn_infer.errors import InputError
from scbignn_infer.plain import encodable

T = TypeVar("T", bound=Callable[..., Any])
GraphKind = Literal["query", "reference"]
Depth = Literal["sure", "leaf"]
SearchName = Literal["auto", "exact", "ivf", "pynndescent"]
Orientation = Literal["cells-by-genes", "genes-by-cells"]
DEFAULT_KEY = "scbignn"
KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _setting(default: Any, meaning: str, **more: Any) -> Any:
    """Return a field; ``more`` is what else :class:`Setting` holds."""
    return field(default=default, metadata={"meaning": meaning, **more})


@dataclass(frozen=True)
class Reading:
    """The user's wishes on how a query is read.

    Attributes
    ----------
    **settings

    Examples
    --------
    >>> from scbignn_infer import Reading
    >>> Reading(matrix="layers/counts", batch_key="sample").matrix
    'layers/counts'
    """

    matrix: str | None = _setting(
        None,
        "Matrix to read: X, raw, layers/NAME or a sum of layers; by default the best.",
        metavar="X|raw|layers/NAME",
    )
    gene_column: str | None = _setting(
        None, "Column of var with the gene names; by default the best match.", metavar="NAME"
    )
    min_gene_coverage: float | None = _setting(
        None,
        "Refuse data with a lower share of the model's genes, by weight; by default 0.05.",
        metavar="SHARE",
        within=(0, 1),
    )
    allow_species_mismatch: bool = _setting(
        False, "Match the symbols of another species, whatever their case."
    )
    min_counts: int | None = _setting(
        None,
        "Leave out barcodes with fewer counts, as empty droplets have; rows stay, unlabelled.",
        metavar="N",
        within=(1, None),
    )
    batch_key: str | None = _setting(
        None, "Column of obs; only cells with the same value are neighbours.", metavar="KEY"
    )
    cluster_key: Sequence[str] = _setting(
        (),
        "Column of obs with clusters, such as leiden: also say what each cluster is. May be given "
        "again.",
        metavar="KEY",
    )
    orientation: Orientation | None = _setting(
        None,
        "Whether the rows of a text table are cells or genes; by default found by the gene names.",
    )
    modality: str | None = _setting(
        None, "Modality of a MuData file (.h5mu); by default the one with genes.", metavar="NAME"
    )
    table: str | None = _setting(
        None, "Table of a SpatialData store; by default its only table.", metavar="NAME"
    )


AS_FOUND = Reading()
"""No wishes."""
SAME_LABELS = ("device", "threads", "batch_cells", "memory_limit")
"""Settings that say where and how fast work is done, and change no label."""


@dataclass(frozen=True)
class Settings:
    """How cells are read and labelled, and what is written.

    Attributes
    ----------
    reading
        How the query is read.
    **settings
    """

    model: str | None = _setting(
        None,
        "Model to use; by default the one that fits best.",
        flags=("-m", "--model"),
        metavar="NAME|PATH",
    )
    reading: Reading = AS_FOUND
    key_added: str = _setting(
        DEFAULT_KEY, "Prefix of everything that annotate writes.", is_prefix=True
    )
    device: str = _setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int | None = _setting(None, "CPU threads; by default all.", within=(1, None))
    seed: int = _setting(
        0, "Seed of the approximate graph search, used above 20,000 cells.", within=(0, None)
    )
    batch_cells: int | None = _setting(
        None,
        "Cells that go through the gene level at once; by default 256, on a GPU 4096.",
        within=(1, None),
    )
    memory_limit: int | None = _setting(
        None,
        "Stop before any work if the estimate is higher: bytes, or a size such as 4GB.",
        metavar="SIZE",
    )
    unknown: bool = _setting(
        True, "If no cell may be unknown, every cell with counts gets a label."
    )
    unknown_threshold: float | None = _setting(
        None,
        "Call cells with less support (confidence less penalties) unknown; by default the model's.",
        metavar="CONFIDENCE",
        within=(0, 1),
    )
    max_novelty: float = _setting(
        1.0,
        "Also call cells with a higher novelty unknown, such as 0.99; off by default.",
        metavar="QUANTILE",
        within=(0, 1),
    )
    level: int = _setting(
        0, "Coarser labels: number of steps up the Cell Ontology.", within=(0, None)
    )
    depth: Depth = _setting(
        "sure",
        "Label a cell as deep down the Cell Ontology as is sure, if the model can; or always with "
        "one of its types, a leaf.",
    )
    sets: float | None = _setting(
        None,
        "Also write the labels that together hold this share of a cell's probability, such as 0.9.",
        metavar="SHARE",
        within=(0, 1),
    )
    adapt: bool = _setting(
        False,
        "Estimate the model's means, and what varies within types, once more with cells of the "
        "query that it is sure of; each label then depends on the other cells.",
    )
    mixtures: bool = _setting(
        False,
        "Also name cells that two types explain better than one, as doublets; no label changes.",
    )
    groups: Mapping[str, str] | None = _setting(
        None,
        "Coarser labels: a map from type to group; in a file, a JSON object.",
        flags=("--group-map",),
    )
    tissue: Sequence[str] = _setting(
        (),
        "Body model: label with the types of this tissue and those that occur everywhere; may be "
        "given again. 'any' keeps all; by default it is found from the cells.",
        metavar="NAME",
    )
    graph: GraphKind = _setting(
        "query",
        "Take neighbours from the query, or from the model's reference, whose cells do not change "
        "with the query.",
    )
    neighbors: SearchName = _setting(
        "auto",
        "How neighbours are searched: exact, ivf (lists of similar cells) or pynndescent; auto "
        "takes exact up to 20,000 cells, and ivf above.",
    )
    write_graph: bool = _setting(False, "Write the cell graph for scanpy, too.")

    @classmethod
    def of(cls, given: Mapping[str, Any], kind: type | None = None) -> Settings:
        """Return the settings with these values, which must be keywords ``kind``."""
        wrong = sorted(given.keys() - (SETTINGS if kind is None else get_type_hints(kind)).keys())
        if wrong:
            raise TypeError(f"unexpected keyword argument '{wrong[0]}'")
        for name, value in given.items():
            SETTINGS[name].check(value)
        _refuse_contradiction(given)
        reading = {name: value for name, value in given.items() if name in READING}
        return cls(
            **{name: value for name, value in given.items() if name not in READING},
            reading=Reading(**reading),
        )

    def some(self, kind: type) -> Any:
        """Return those that are keywords ``kind``, as a dictionary of them."""
        return {name: getattr(self, name) for name in get_type_hints(kind)}

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        reading = asdict(self.reading) | {"cluster_key": names_in(self.reading.cluster_key)}
        return asdict(self) | {"reading": reading, "tissue": names_in(self.tissue)}


def _refuse_contradiction(given: Mapping[str, Any]) -> None:
    """Refuse bounds below which cells are unknown where none is to be."""
    bounds = {"unknown_threshold": None, "max_novelty": SETTINGS["max_novelty"].default}
    wrong = [name for name, usual in bounds.items() if given.get(name, usual) != usual]
    if given.get("unknown", True) is False and wrong:
        raise InputError(
            f"{' and '.join(wrong)} where no cell is to be unknown",
            expected="bounds for unknown cells, or none of them (--no-unknown, unknown=False)",
            do="leave out one of the two",
        )


def names_in(given: str | Sequence[str]) -> list[str]:
    """Return the names that were given, or the one; each once."""
    return list(dict.fromkeys([given] if isinstance(given, str) else given))


class RuleKeywords(TypedDict, total=False):
    """Keywords that say which labels are given."""

    unknown: bool
    unknown_threshold: float | None
    max_novelty: float
    level: int
    depth: Depth
    sets: float | None
    adapt: bool
    mixtures: bool
    groups: Mapping[str, str] | None
    tissue: Sequence[str]


class LabelKeywords(RuleKeywords, total=False):
    """Keywords of an annotator: also how labels are found."""

    device: str
    threads: int | None
    seed: int
    batch_cells: int | None
    memory_limit: int | None
    graph: GraphKind
    neighbors: SearchName
    write_graph: bool


class Keywords(LabelKeywords, total=False):
    """Keywords of ``annotate``: also how an AnnData is read, and the prefix of its slots."""

    matrix: str | None
    gene_column: str | None
    min_gene_coverage: float | None
    allow_species_mismatch: bool
    min_counts: int | None
    batch_key: str | None
    cluster_key: Sequence[str]
    key_added: str


@dataclass(frozen=True)
class Setting:
    """What is said of a field of :class:`Settings` or :class:`Reading`."""

    name: str
    hint: Any
    default: Any
    meaning: str
    metavar: str | None = None
    within: tuple[int | None, int | None] = (None, None)
    flags: tuple[str, ...] = ()
    is_prefix: bool = False
    """Whether names of what is written begin with it."""

    @property
    def kind(self) -> Any:
        """The type of a value that is not None."""
        kinds = [kind for kind in get_args(self.hint) if kind is not NoneType]
        return kinds[0] if NoneType in get_args(self.hint) else self.hint

    def check(self, value: Any) -> None:
        """Refuse a value beyond the bounds, that is none of the words there are, or begins no name.

        Raises
        ------
        InputError
            The value is no number, is out of bounds, is another word, or holds a slash.
        """
        if value is None:
            return
        if any("\0" in text for text in _texts(value)):
            raise InputError(
                f"{self.name} holds a zero byte",
                expected="a name that a file can hold",
                do=f"choose another {self.name}",
            )
        if get_origin(self.kind) is Mapping and not isinstance(value, Mapping):
            raise InputError(
                f"{self.name} is of type {type(value).__name__}",
                expected="a dictionary",
                do=f"choose another {self.name}",
            )
        if get_origin(self.kind) is Literal:
            words = get_args(self.kind)
            if value not in words:
                raise InputError(
                    f"{self.name} '{value}'", expected=" or ".join(words), do="choose one of these"
                )
        elif self.is_prefix:
            if not isinstance(value, str) or not value or "/" in value or encodable(value) != value:
                raise InputError(
                    f"{self.name} is {value!r}",
                    expected="text in UTF-8 that is not empty and holds no slash",
                    do=f"choose another {self.name}",
                )
        elif self.kind in (int, float):
            least, most = self.within
            number = isinstance(value, Real)
            fits = number and (least is None or value >= least) and (most is None or value <= most)
            bounds = "" if least is None else f" from {least}"
            bounds += "" if most is None else f" to {most}"
            if not fits:
                raise InputError(
                    f"{self.name} is {value!r}",
                    expected=f"a number{bounds}",
                    do=f"choose another {self.name}",
                )

    @property
    def options(self) -> tuple[str, ...]:
        """How it is spelled on the command line."""
        negative = "no-" if self.default is True else ""
        return self.flags or (f"--{negative}{self.name.replace('_', '-')}",)


def _texts(value: Any) -> list[str]:
    """Return the texts of a value, which may be one or several."""
    several = value if isinstance(value, list | tuple) else [value]
    return [text for text in several if isinstance(text, str)]


def _settings_of(cls: type[Reading | Settings]) -> dict[str, Setting]:
    hints, found = get_type_hints(cls), dict[str, Setting]()
    for f in fields(cls):
        if f.name == "reading":
            found |= READING
        else:
            found[f.name] = Setting(f.name, hints[f.name], f.default, **f.metadata)
    return found


READING = _settings_of(Reading)
SETTINGS = _settings_of(Settings)
"""All of them by name, in the order in which help shows them."""


def _with_entries(text: str | None, names: list[str]) -> str:
    """Put what is said of settings into a docstring, where it has ``**settings``."""
    entries = [
        f"{s.name}\n    {s.meaning}\n"
        f"    ``{inspect.formatannotation(s.hint, 'collections.abc')} = {s.default!r}``\n"
        for s in map(SETTINGS.__getitem__, names)
    ]
    return re.sub(r"(?m)^\*\*settings\n?", lambda _: "".join(entries), inspect.cleandoc(text or ""))


def shown(kind: type) -> Callable[[T], T]:
    """Show the keywords ``kind`` that a function takes, in its signature and its docstring."""
    names = [name for name in SETTINGS if name in get_type_hints(kind)]

    def show(function: T) -> T:
        plain = inspect.signature(function)
        kept = [p for p in plain.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(n, KEYWORD, default=SETTINGS[n].default, annotation=SETTINGS[n].hint)
            for n in names
        ]
        function.__signature__ = plain.replace(parameters=[*kept, *keywords])  # type: ignore[attr-defined]
        function.__doc__ = _with_entries(function.__doc__, names)
        return function

    return show


Reading.__doc__ = _with_entries(Reading.__doc__, list(READING))
Settings.__doc__ = _with_entries(Settings.__doc__, [n for n in SETTINGS if n not in READING])
