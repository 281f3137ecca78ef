"""The model bundle: a folder (or one .zip) of two ONNX graphs, two tables and a JSON record.

``bundle.json`` is decoded into the frozen records below; every other file is named there with
its size and SHA-256. Record and graphs are checked when they are read, tables when they are first
used; what they must say stands in ``validate.py`` and ``onnx_graph.py``. Nothing in a bundle is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from scbignn_infer.errors import BundleError, Flaw
from scbignn_infer.model.archives import one_line, open_archive, unpack
from scbignn_infer.model.onnx_graph import check_graph
from scbignn_infer.model.shipped import SHIPPED
from scbignn_infer.model.validate import check_record, graph_levels, read_tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import numpy as np

FORMAT_VERSION = 2
RECORD = "bundle.json"
MAX_RECORD_BYTES = 1 << 24
"""Of ``bundle.json``; those of the shipped models have up to 1.3 MB."""
Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A frozen record of ``bundle.json``; unknown or missing fields are refused.

    None holds itself, so that Python need not look for cycles in tens of thousands of them.
    """


class Gene(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One gene of the reference, in the model's rank order."""

    symbol: str
    ensembl_id: str = ""


class Term(Record, frozen=True, kw_only=True):
    """A group of types, by a term of the Cell Ontology that they have in common."""

    label: str
    ontology_id: str
    level: Count


class Node(Record, frozen=True, kw_only=True):
    """A term of the Cell Ontology that joins types: a label for cells whose type is not sure."""

    label: str
    ontology_id: str
    below: list[str]
    """Ontology ids of the types that it is true of."""


class CellType(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One class of the model; its position is the label code."""

    label: str
    ontology_id: str = ""
    lineage: list[Term] = []
    """Groups that it belongs to, from narrow to wide."""
    name: str = ""
    """The type that users see, if not the label; classes of several tissues share one."""
    tissue: str = ""
    """One of the model's tissues; empty: of none."""
    everywhere: bool = False
    """Whether it stays whatever tissue is chosen: immune, vascular and stromal types."""
    resident: bool = False
    """Whether it never circulates: it does not stay if the chosen tissues are all fluid."""

    @property
    def called(self) -> str:
        """What its cells are called."""
        return self.name or self.label


class Tissue(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A tissue of a body model, whose types can be chosen alone."""

    name: str
    tested: str = ""
    """On which independent cells it was tested, and the score; empty: on none."""
    organ: str = ""
    """The tissue of any age, where the name tells an age; empty: the name."""
    fluid: bool = False
    """Whether all of its cells circulate, as those of blood."""


class Preprocessing(Record, frozen=True, kw_only=True):
    """How counts become the model's input."""

    normalisation: Literal["log1p"] = "log1p"
    target_sum: float = 1e4
    panel_genes: Count
    """How many of the best-ranked present genes enter ``gene_level.onnx``."""
    min_genes: int = 50
    """Fewer present genes than this among the net's genes is an error."""


class GeneLevelSpec(Record, frozen=True, kw_only=True):
    """The gene-level module."""

    file: str = "gene_level.onnx"
    form: str = "program"
    net_genes: Count
    """The first ``net_genes`` of the ranked genes feed the attention network."""
    embedding_size: Count
    settings: dict[str, float | int | str] = {}


class CellLayer(Record, frozen=True, kw_only=True):
    """One step of message passing: a graph file and the value of its ``layer`` input."""

    file: str = "cell_level.onnx"
    layer: int


class CellLevelSpec(Record, frozen=True, kw_only=True):
    """The cell-level module, run layer by layer."""

    form: str = "gate"
    layers: list[CellLayer]
    settings: dict[str, float | int | str] = {}


class GraphSpec(Record, frozen=True, kw_only=True):
    """How the kNN graph of the cells is built."""

    n_neighbors: Count = 15
    metric: Literal["cosine"] = "cosine"


class Certainty(Record, frozen=True, kw_only=True):
    """How sure a model may be of a file, by what is known of it before any cell is labelled.

    The temperature is exp(constant + misfit log m + coverage log v), where m is the median misfit
    of the file's cells and v the coverage. It was fitted on cells that the model did not see: of
    studies left out, and of its own as other laboratories might show them. In such a model the
    residual's quantiles, too, are of cells whose common shift was taken off.
    """

    constant: float
    misfit: float
    coverage: float


class Thresholds(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Below ``confidence`` a cell is called unknown."""

    confidence: Share
    label: Share = 0.0
    """What the types of a label that may be coarser must sum to; 0: labels are types."""
    sets: float = 1.0
    """A set of labels for a share s holds s to this power of the probability."""
    weak: Share = 0.0
    """A cell loses support if it shows less than this share of its type's profile, relative to the
    typical cell of the file; 0: none does."""


class Dataset(Record, frozen=True, kw_only=True):
    """Where training cells came from."""

    file: str
    name: str = ""
    """What the scores of held-out studies call it."""
    title: str = ""
    citation: str = ""
    accession: str = ""
    licence: str = ""
    sha256: str = ""
    n_cells: int
    role: Literal["reference", "profiles", "unlabelled", "adapted"] = "reference"
    """``profiles``: mean expression that cells were simulated from; ``adapted``: unlabelled cells
    of the very query that the model is meant for."""
    tissues: list[str] = []
    """Of a body model, the tissues that it has cells or profiles of; empty: not said."""


class EMIteration(Record, frozen=True, kw_only=True):
    """One row of the EM history; the scores are macro-F1 on held-out cells."""

    iteration: int
    gene_level_f1: float
    cell_level_f1: float
    kept: bool
    seconds: float


class StudyScores(Record, frozen=True, kw_only=True):
    """How well a model trained without a study labels its cells of the types it knows."""

    accuracy: float
    macro_f1: float
    n_cells: int


class Confusion(Record, frozen=True, kw_only=True):
    """Held-out cells of one type that are called another."""

    truth: str
    called: str
    share: float
    """Of the held-out cells of that type."""
    n: int


class GeneWeight(Record, frozen=True, kw_only=True):
    """A gene and how much it carries a type."""

    symbol: str
    weight: float


class PairWeight(Record, frozen=True, kw_only=True):
    """Two genes and how much they are attended to together."""

    genes: tuple[str, str]
    weight: float


class Interpretation(Record, frozen=True, kw_only=True):
    """What the gene level looks at to call a type, largest weights first."""

    genes: list[GeneWeight] = []
    pairs: list[PairWeight] = []


class ReliabilityBin(Record, frozen=True, kw_only=True):
    """Cells of like confidence."""

    confidence: float
    """Their mean."""
    accuracy: float
    n_cells: int


class Calibration(Record, frozen=True, kw_only=True):
    """How far confidence is what it says."""

    error: float
    """The expected calibration error: accuracy less confidence, absolute, mean over the cells."""
    bins: list[ReliabilityBin] = []


class Training(Record, frozen=True, kw_only=True):
    """What the model was trained on and how well it did on cells it did not see."""

    datasets: list[Dataset]
    cells_per_type: dict[str, int]
    merged_labels: dict[str, str] = {}
    dropped_labels: dict[str, int] = {}
    not_read: dict[str, int] = {}
    """Labelled cells of the files that were not read, by the reason."""
    n_cells: int
    validation: str
    """What was held out for the scores of ``em_history``."""
    seed: int
    settings: dict[str, float | int | str] = {}
    em_history: list[EMIteration]
    scores: dict[str, float] = {}
    scores_per_type: dict[str, float] = {}
    """F1 of each type, out of fold."""
    calibration: Calibration | None = None
    """On the cells that the temperature was fitted on: of studies left out, or out of fold."""
    held_out_scores: dict[str, StudyScores] = {}
    """Of each study, left out in turn, where there are several."""
    held_out_scores_per_type: dict[str, float] = {}
    """F1 of each type, pooled over the studies left out."""
    confusions: list[Confusion] = []
    """The worst, on cells of studies left out; of cells out of fold where there is one study."""
    cannot_tell: list[str] = []
    """What the model was found unable to tell, in words."""
    notes: list[str] = []

    @property
    def from_profiles(self) -> bool:
        """Whether all cells were simulated from mean expression."""
        return all(d.role == "profiles" for d in self.datasets)

    @property
    def mostly_from_profiles(self) -> bool:
        """Whether most labelled cells were simulated from mean expression."""
        return self.n_simulated > sum(d.n_cells for d in self.datasets if d.role == "reference")

    @property
    def n_simulated(self) -> int:
        """How many of its cells were simulated from mean expression."""
        return sum(d.n_cells for d in self.datasets if d.role == "profiles")

    @property
    def cells_are(self) -> str:
        """What its cells are called where they are counted."""
        return "simulated cells" if self.from_profiles else "training cells"

    @property
    def adapted_to(self) -> list[str]:
        """Files of the queries whose own cells the model has learned from."""
        return [d.file for d in self.datasets if d.role == "adapted"]

    @property
    def adaptation(self) -> str:
        """One line that says to which files the model was adapted; empty if to none."""
        files = ", ".join(self.adapted_to)
        return files and f"model was adapted to: {files} (transductive; not a held-out result)"


class FileRecord(Record, frozen=True, kw_only=True):
    """Size and checksum of one file of the bundle."""

    sha256: str
    size: int


class BundleSpec(Record, frozen=True, kw_only=True):
    """The whole of ``bundle.json``."""

    format_version: int
    name: str
    version: str
    species: str
    tissue: str = ""
    assays: list[str] = []
    description: str = ""
    licence: str = ""
    genes: list[Gene]
    cell_types: list[CellType]
    ontology: list[Node] = []
    """What joins the types, in labels that are as deep as is sure."""
    best: Literal["flat", "descent"] = "flat"
    """How the best type is found: the most probable one, or down the ontology, at each step by the
    sum of the types below."""
    tissues: list[Tissue] = []
    """Of a body model; others have none."""
    elsewhere: Literal["dropped", "kin"] = "dropped"
    """What becomes of what is said for types that a chosen tissue has not: it is dropped, or goes
    to types of their kin."""
    preprocessing: Preprocessing
    gene_level: GeneLevelSpec
    cell_level: CellLevelSpec
    graph: GraphSpec
    thresholds: Thresholds
    temperature: Positive
    certainty: Certainty | None = None
    """Models without it have the one temperature for every file, and measure novelty as it is."""
    novelty: Literal["file", "reference"] = "file"
    """Whether a model with a certainty measures novelty relative to the file, or as it is."""
    training: Training
    interpretation: dict[str, Interpretation] = {}
    """By the label of the type."""
    files: dict[str, FileRecord]
    created_with: dict[str, str]

    @property
    def follows_file(self) -> bool:
        """Whether how strange a cell is counts relative to its file."""
        return self.certainty is not None and self.novelty == "file"


class ModelBundle:
    """A model bundle whose files have been checked against their checksums.

    Use :func:`load_model` to make one.

    Attributes
    ----------
    path
        The folder or .zip it was read from.
    spec
        The decoded ``bundle.json``.
    sha256
        Checksum of ``bundle.json``; since that file holds the checksums of all others, it
        identifies the whole bundle.

    Examples
    --------
    >>> import scbignn_infer
    >>> bundle = scbignn_infer.load_model("human-pbmc")
    >>> bundle.spec.species, len(bundle.cell_types)
    ('human', 15)
    """

    def __init__(self, path: Path, spec: BundleSpec, files: dict[str, bytes], sha256: str) -> None:
        self.path, self.spec, self.sha256 = path, spec, sha256
        self._files = files
        self.tried_out = self.tried_out_on_cpu = False
        """Whether its graphs have run on a few made-up cells; the runtime does that once."""

    def __repr__(self) -> str:
        n = len(self.spec.cell_types)
        return f"ModelBundle({self.spec.name!r}, {n} cell types, {self.path})"

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.spec.name

    @cached_property
    def cell_types(self) -> list[str]:
        """The labels of the model's classes, in the order of its label codes."""
        return [c.label for c in self.spec.cell_types]

    @cached_property
    def type_names(self) -> list[str]:
        """The types that cells may be called; classes of a body model share some."""
        return list(dict.fromkeys(c.called for c in self.spec.cell_types))

    @cached_property
    def gene_symbols(self) -> list[str]:
        """Symbols of the reference genes, in rank order."""
        return [g.symbol for g in self.spec.genes]

    def read(self, name: str) -> bytes:
        """Return the checked bytes of one file of the bundle, or those of its record."""
        return self._files[name]

    @cached_property
    def statistics(self) -> dict[str, np.ndarray[Any, Any]]:
        """Tables of ``statistics.npz`` as float64 arrays."""
        return self._tables("statistics.npz")

    @cached_property
    def reference(self) -> dict[str, np.ndarray[Any, Any]]:
        """Tables of ``reference.npz``: the bank of reference embeddings."""
        return self._tables("reference.npz")

    def _tables(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        with of_bundle(self.path):
            return read_tables(name, self.read(name), self.spec)


SUPPORTED = {
    "gene level": ("program", "full"),
    "cell level": ("gate", "sage"),
    "target sum": (1e4,),
}
"""Forms of the two levels, and target sums, that the runtime knows how to run."""
SPEC = msgspec.json.Decoder(BundleSpec)
"""Made while the module is imported: msgspec crashes where two threads decode a type first."""


class _Version(msgspec.Struct, frozen=True):
    """The one field of a record that says how to read the others."""

    format_version: Any


VERSION = msgspec.json.Decoder(_Version)


class _Species(msgspec.Struct, frozen=True):
    """The one field of a record that says whether the others are worth reading."""

    species: str


SPECIES = msgspec.json.Decoder(_Species)
REQUIRED_FILES = ("gene_level.onnx", "cell_level.onnx", "statistics.npz", "reference.npz")
Fetch = Callable[[str, int], bytes]
"""Gives the bytes of a file of a bundle, one beyond a number where it has more."""
FETCH_AGAIN = "get the bundle again or rebuild it with 'scbignn-infer train'"


@contextmanager
def of_bundle(path: Path) -> Iterator[None]:
    """Turn a flaw into an error that names the bundle.

    Raises
    ------
    BundleError
        There was one.
    """
    try:
        yield
    except Flaw as flaw:
        raise BundleError(f"{path}: {flaw.found}", expected=flaw.expected, do=FETCH_AGAIN) from None


def read_bundle(path: str | Path, *, known: Collection[str] = SHIPPED) -> ModelBundle:
    """Read and check a bundle.

    Parameters
    ----------
    path
        A bundle folder, or a .zip of one.
    known
        Checksums of bundles that were checked whole before, by default the shipped models. Of these
        the files need only be what the checksums say.

    Returns
    -------
    ModelBundle
        With every file read and its checksum verified, and record and graphs checked. Its tables
        are checked when they are first used.

    Raises
    ------
    BundleError
        The path is no bundle, its format is newer than this package knows, a file is missing,
        a checksum differs, or the record or a graph cannot be what ``train`` wrote.
    """
    path = Path(path)
    zipped = path.suffix == ".zip" and os.path.isfile(path)  # noqa: PTH113 - which never raises
    with of_bundle(path), _open_zip(path) if zipped else _open_folder(path) as fetch:
        raw = fetch(RECORD, MAX_RECORD_BYTES)
        sha256 = hashlib.sha256(raw).hexdigest()
        if len(raw) > MAX_RECORD_BYTES:
            raise Flaw(f"{RECORD} is larger than {MAX_RECORD_BYTES >> 20} MiB", "a shorter record")
        spec = _decode(raw, path)
        _check_supported(spec, path)
        for name in REQUIRED_FILES:
            if name not in spec.files:
                raise Flaw(
                    f"{RECORD} does not list {name}", f"the files {', '.join(REQUIRED_FILES)}"
                )
        if sha256 not in known:
            check_record(spec)
        files = {name: _checked(fetch, name, spec.files[name]) for name in sorted(spec.files)}
        if sha256 not in known:
            _check_graphs(spec, files)
    bundle = ModelBundle(path, spec, files | {RECORD: raw}, sha256)
    bundle.tried_out_on_cpu = sha256 in known
    return bundle


def _check_graphs(spec: BundleSpec, files: Mapping[str, bytes]) -> None:
    for name, level in graph_levels(spec).items():
        try:
            check_graph(files[name], level)
        except Flaw as flaw:
            raise Flaw(f"{name}: {flaw.found}", flaw.expected) from None


def read_species(path: Path) -> str:
    """Return the species that a bundle says it is of, unchecked; nothing if it cannot be read."""
    undecodable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
    with suppress(BundleError, Flaw, OSError, *undecodable):
        zipped = path.suffix == ".zip"
        with _open_zip(path) if zipped else _open_folder(path) as fetch:
            return SPECIES.decode(fetch(RECORD, MAX_RECORD_BYTES)).species
    return ""


def _checked(fetch: Fetch, name: str, record: FileRecord) -> bytes:
    """Return the bytes of a file that has its size and checksum."""
    data = fetch(name, record.size)
    if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
        size = f"more than {record.size}" if len(data) > record.size else str(len(data))
        raise Flaw(
            f"{name} was altered or is truncated ({size} bytes)",
            f"{record.size} bytes with SHA-256 {ascii(record.sha256[:12])[1:-1]}...",
        )
    return data


def _check_supported(spec: BundleSpec, path: Path) -> None:
    """Refuse what the record may say but this runtime would run wrongly."""
    asked = {
        "gene level": spec.gene_level.form,
        "cell level": spec.cell_level.form,
        "target sum": spec.preprocessing.target_sum,
    }
    for part, value in asked.items():
        if value not in SUPPORTED[part]:
            raise BundleError(
                f"{path}: {part} {ascii(value)[:80]}",
                expected=" or ".join(map(repr, SUPPORTED[part])),
                do="install a newer scbignn-infer",
            )


def _decode(raw: bytes, path: Path) -> BundleSpec:
    try:
        version = VERSION.decode(raw).format_version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Flaw(
            f"{RECORD} is not a bundle record ({one_line(error)})", "JSON with a format_version"
        ) from None
    if version != FORMAT_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise BundleError(
            f"{path}: bundle format version {ascii(version)[:40]}",
            expected=f"version {FORMAT_VERSION}",
            do="install a newer scbignn-infer" if newer else FETCH_AGAIN,
        )
    try:
        return SPEC.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Flaw(
            f"{RECORD} does not hold what its version promises ({one_line(error)})",
            f"the fields of format version {FORMAT_VERSION}",
        ) from None


@contextmanager
def _open_folder(path: Path) -> Iterator[Fetch]:
    """Give what reads the files of a folder."""
    if not os.path.isfile(path / RECORD):  # noqa: PTH113
        raise BundleError(
            f"no model bundle at {path}",
            expected=f"a folder or .zip that holds {RECORD}",
            do="check the path, or list the models with: scbignn-infer models list",
        )

    def fetch(name: str, most: int) -> bytes:
        file = path / name
        if not os.path.lexists(file):
            raise Flaw(f"the file {name} is missing", f"{name} beside {RECORD}")
        try:
            return read_regular(file, most)
        except OSError as error:
            raise Flaw(
                f"the file {name} cannot be read ({error.strerror})", "a file that can be read"
            ) from None

    yield fetch


def read_regular(file: Path, most: int) -> bytes:
    """Read a file up to one byte beyond ``most``; a pipe or a device is never waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    regular = stat.S_ISREG(file.stat().st_mode)  # devices are not even opened
    if regular:
        with open(os.open(file, flags), "rb") as opened:
            regular = stat.S_ISREG(os.fstat(opened.fileno()).st_mode)
            if regular:
                return opened.read(most + 1)
    raise Flaw(f"{file.name} is no regular file", "regular files, or links to them")


@contextmanager
def _open_zip(path: Path) -> Iterator[Fetch]:
    """Give what reads the files of a .zip, by their last name."""
    with open_archive(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]

        def fetch(name: str, most: int) -> bytes:
            found = [m for m in members if PurePosixPath(m.filename).name == name]
            if len(found) != 1:
                what = (
                    f"{len(found)} files are named {name}"
                    if found
                    else f"the file {name} is missing"
                )
                raise Flaw(what, f"one {name} inside the .zip")
            return unpack(archive, found[0], most)

        yield fetch
