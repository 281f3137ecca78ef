"""The model bundle: a folder (or one .zip) of two ONNX graphs, two tables and a JSON record.

``bundle.json`` is decoded into the frozen records below; every other file is named there with
its size and SHA-256 and is checked before use. Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from scbignn_infer.errors import BundleError

if TYPE_CHECKING:
    import numpy as np

FORMAT_VERSION = 2
RECORD = "bundle.json"
MAX_FILE_BYTES = 1 << 30
Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen record of ``bundle.json``; unknown or missing fields are refused."""


class Gene(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One gene of the reference, in the model's rank order."""

    symbol: str
    ensembl_id: str = ""


class Term(Record, frozen=True, kw_only=True):
    """A group of types, by a term of the Cell Ontology that they have in common."""

    label: str
    ontology_id: str
    level: Count


class CellType(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One class of the model; its position is the label code."""

    label: str
    ontology_id: str = ""
    lineage: list[Term] = []
    """Groups that it belongs to, from narrow to wide."""


class Preprocessing(Record, frozen=True, kw_only=True):
    """How counts become the model's input."""

    normalisation: Literal["log1p"] = "log1p"
    target_sum: float = 1e4
    panel_genes: Count
    """How many of the best-ranked present genes enter ``gene_level.onnx``."""
    min_genes: int = 50
    """Fewer present genes than this among the net's genes is an error."""


class GeneLevel(Record, frozen=True, kw_only=True):
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


class CellLevel(Record, frozen=True, kw_only=True):
    """The cell-level module, run layer by layer."""

    form: str = "gate"
    layers: list[CellLayer]
    settings: dict[str, float | int | str] = {}


class Graph(Record, frozen=True, kw_only=True):
    """How the kNN graph of the cells is built."""

    n_neighbors: Count = 15
    metric: Literal["cosine"] = "cosine"


class Thresholds(Record, frozen=True, kw_only=True):
    """Below ``confidence`` a cell is called unknown."""

    confidence: Share


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
    role: Literal["reference", "unlabelled", "adapted"] = "reference"
    """``adapted``: unlabelled cells of the very query that the model is meant for."""


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
    preprocessing: Preprocessing
    gene_level: GeneLevel
    cell_level: CellLevel
    graph: Graph
    thresholds: Thresholds
    temperature: Positive
    training: Training
    interpretation: dict[str, Interpretation] = {}
    """By the label of the type."""
    files: dict[str, FileRecord]
    created_with: dict[str, str]


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
    ('human', 9)
    """

    def __init__(self, path: Path, spec: BundleSpec, files: dict[str, bytes], sha256: str) -> None:
        self.path, self.spec, self.sha256 = path, spec, sha256
        self._files = files

    def __repr__(self) -> str:
        n = len(self.spec.cell_types)
        return f"ModelBundle({self.spec.name!r}, {n} cell types, {self.path})"

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.spec.name

    @cached_property
    def cell_types(self) -> list[str]:
        """The labels that the model can give, in the order of its label codes."""
        return [c.label for c in self.spec.cell_types]

    @cached_property
    def gene_symbols(self) -> list[str]:
        """Symbols of the reference genes, in rank order."""
        return [g.symbol for g in self.spec.genes]

    def read(self, name: str) -> bytes:
        """Return the checked bytes of one file of the bundle."""
        return self._files[name]

    @cached_property
    def statistics(self) -> dict[str, np.ndarray[Any, Any]]:
        """Tables of ``statistics.npz`` as float64 arrays."""
        return self._arrays("statistics.npz")

    @cached_property
    def reference(self) -> dict[str, np.ndarray[Any, Any]]:
        """Tables of ``reference.npz``: the bank of reference embeddings."""
        return self._arrays("reference.npz")

    def _arrays(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        import numpy as np

        with np.load(io.BytesIO(self.read(name)), allow_pickle=False) as npz:
            return {k: v.astype(np.float64) if v.dtype == np.float16 else v for k, v in npz.items()}


SUPPORTED = {
    "gene level": ("program", "full"),
    "cell level": ("gate", "sage"),
    "target sum": (1e4,),
}
"""Forms of the two levels, and target sums, that the runtime knows how to run."""
SPEC = msgspec.json.Decoder(BundleSpec)
"""Made while the module is imported: msgspec crashes where two threads decode a type first."""
REQUIRED_FILES = ("gene_level.onnx", "cell_level.onnx", "statistics.npz", "reference.npz")
EXTERNAL = b"location"
"""The key under which ONNX keeps the path of weights outside the graph; no graph of ours has it."""
FETCH_AGAIN = "get the bundle again or rebuild it with 'scbignn-infer train'"


def read_bundle(path: str | Path) -> ModelBundle:
    """Read and check a bundle.

    Parameters
    ----------
    path
        A bundle folder, or a .zip of one.

    Returns
    -------
    ModelBundle
        With every file read and its checksum verified.

    Raises
    ------
    BundleError
        The path is no bundle, its format is newer than this package knows, a file is missing,
        or a checksum differs.
    """
    path = Path(path)
    zipped = path.suffix == ".zip" and path.is_file()
    fetch = _zip_fetcher(path) if zipped else _folder_fetcher(path)
    raw = fetch(RECORD)
    spec = _decode(raw, path)
    _check_supported(spec, path)
    files: dict[str, bytes] = {}
    for name in sorted({*REQUIRED_FILES, *spec.files}):
        if name not in spec.files:
            raise BundleError(
                f"{path}: bundle.json does not list {name}",
                expected=f"the files {', '.join(REQUIRED_FILES)}",
                do=FETCH_AGAIN,
            )
        data = fetch(name)
        record = spec.files[name]
        if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
            raise BundleError(
                f"{path}: {name} was altered or is truncated ({len(data)} bytes)",
                expected=f"{record.size} bytes with SHA-256 {record.sha256[:12]}...",
                do=FETCH_AGAIN,
            )
        if name.endswith(".onnx") and EXTERNAL in data:
            raise BundleError(
                f"{path}: {name} may refer to data in another file",
                expected="a graph that holds its own weights",
                do=FETCH_AGAIN,
            )
        files[name] = data
    return ModelBundle(path, spec, files, hashlib.sha256(raw).hexdigest())


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
                f"{path}: {part} {value!r}",
                expected=" or ".join(map(repr, SUPPORTED[part])),
                do="install a newer scbignn-infer",
            )


def _decode(raw: bytes, path: Path) -> BundleSpec:
    try:
        version = msgspec.json.decode(raw)["format_version"]
    except (msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path}: {RECORD} is not a bundle record ({error})",
            expected="JSON with a format_version",
            do=FETCH_AGAIN,
        ) from None
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise BundleError(
            f"{path}: bundle format version {version!r}",
            expected=f"version {FORMAT_VERSION}",
            do="install a newer scbignn-infer" if newer else FETCH_AGAIN,
        )
    try:
        return SPEC.decode(raw)
    except msgspec.MsgspecError as error:
        raise BundleError(
            f"{path}: {RECORD} does not hold what its version promises ({error})",
            expected=f"the fields of format version {FORMAT_VERSION}",
            do=FETCH_AGAIN,
        ) from None


def _folder_fetcher(path: Path) -> Any:
    if not (path / RECORD).is_file():
        raise BundleError(
            f"no model bundle at {path}",
            expected=f"a folder or .zip that holds {RECORD}",
            do="check the path, or list the models with: scbignn-infer models list",
        )

    def fetch(name: str) -> bytes:
        if Path(name).name != name:
            raise BundleError(
                f"{path}: {RECORD} names the file {name!r}",
                expected="plain file names inside the bundle",
                do=FETCH_AGAIN,
            )
        file = path / name
        if not file.is_file():
            raise BundleError(
                f"{path}: the file {name} is missing",
                expected=f"{name} beside {RECORD}",
                do=FETCH_AGAIN,
            )
        return file.read_bytes()

    return fetch


def _zip_fetcher(path: Path) -> Any:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise BundleError(
            f"{path} is not a readable .zip ({error})", expected="a zipped bundle", do=FETCH_AGAIN
        ) from None
    members = {Path(i.filename).name: i for i in archive.infolist() if not i.is_dir()}

    def fetch(name: str) -> bytes:
        info = members.get(name)
        if info is None or info.file_size > MAX_FILE_BYTES:
            raise BundleError(
                f"{path}: the file {name} is missing or larger than {MAX_FILE_BYTES >> 20} MiB",
                expected=f"{name} inside the .zip",
                do=FETCH_AGAIN,
            )
        try:
            return archive.read(info)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError) as error:
            raise BundleError(
                f"{path}: the file {name} cannot be unpacked ({error})",
                expected="a whole .zip without a password",
                do=FETCH_AGAIN,
            ) from None

    return fetch
