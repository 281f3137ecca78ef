"""What an annotation is based on, and what follows from it: warnings, and the record in ``uns``."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import fields, replace

from scbignn_infer import __version__
from scbignn_infer.annotation.scores import APART
from scbignn_infer.annotation.tissues import NO_VOTES, FoundTissue, Votes
from scbignn_infer.network.sessions import installed_packages
from scbignn_infer.query.enough import LeftOut
from scbignn_infer.query.gene_match import LOW_COVERAGE
from scbignn_infer.query.readers.columns import INDEX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.adapt import Round
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.pair import Pair
    from scbignn_infer.query.gene_match import GeneMatch
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice

MAX_NOVELTY = 0.99
"""Of the typical cell; above it, a query is unlike the reference as a whole."""
MANY_UNKNOWN = 0.5
"""Share of unknown cells that is more than the odd type."""
MANY_EMPTY = 0.3
"""Share of barcodes without cells that is more than a filter leaves."""
LOG_STATES = ("log1p", "log1p-cut")
ALL_GENES = 10_000
"""A file with fewer genes has only a part of them."""
FEW_TRAINING_CELLS = 3
"""So many cells that a model was trained on are no chance."""


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """The model that gave the labels."""

    name: str = ""
    version: str = ""
    sha256: str = ""
    from_profiles: bool = False
    """It learned from mean expression alone: next to simulated cells, all real ones are novel."""

    @classmethod
    def of(cls, bundle: ModelBundle) -> Model:
        """Return what is said of a model."""
        spec = bundle.spec
        return cls(spec.name, spec.version, bundle.sha256, spec.training.from_profiles)


class Matrix(msgspec.Struct, frozen=True):
    """The matrix that was read; ``few_genes`` is the share of barcodes that show almost none."""

    name: str = ""
    state: str = ""
    reason: str = ""
    target_sum: float = 0.0
    doubt: str = ""
    few_genes: float = 0.0
    verdicts: dict[str, str] = {}

    @classmethod
    def of(cls, choice: Choice) -> Matrix:
        """Return what is said of the matrix that was chosen."""
        verdict, cut = choice.verdict, choice.verdict.state == "log1p-cut"
        verdicts = {
            name.replace("/", ":"): f"{v.state} ({v.reason})"
            + (f"; passed over: {over}" if (over := choice.passed_over.get(name)) else "")
            for name, v in choice.verdicts.items()
        }
        total = choice.target_sum if cut else 0.0
        said = verdict.state, verdict.reason, total, choice.doubt, verdict.few
        return cls(choice.matrix, *said, verdicts)


class Foreign(msgspec.Struct, frozen=True, omit_defaults=True):
    """Cells that are mostly of another species; empty where no gene is of one."""

    species: str = ""
    cells: int | None = None


class Silent(msgspec.Struct, frozen=True):
    """Share of the common genes that are 0 in a share of the cells."""

    genes: float = 0.0
    cells: float = 0.0


class Genes(msgspec.Struct, frozen=True):
    """The genes that query and model share."""

    column: str = ""
    n_shared: int = 0
    coverage: float = 1.0
    n_duplicates: int = 0
    n_renamed: int = 0
    left_out: dict[str, int] = {}
    foreign: Foreign = Foreign()
    silent: Silent = Silent()
    n_genes: int = 0
    """Genes of the file, without what was left out."""

    @classmethod
    def of(cls, match: GeneMatch, n_foreign: int, silent: tuple[float, float]) -> Genes:
        """Return what is said of genes that were matched, and of cells by them."""
        counts = match.n_shared, match.coverage, match.n_duplicates, match.n_renamed
        n_genes = len(match.reference_index) - sum(match.left_out.values())
        none = match.foreign is None
        foreign = Foreign() if none else Foreign(match.foreign_species, n_foreign)
        return cls(match.column, *counts, match.left_out, foreign, Silent(*silent), n_genes)

    @property
    def said(self) -> str:
        """How many are the model's, how they were found, and what was done with others."""
        of = f"of the file's {self.n_genes:,} genes " if self.n_genes else ""
        by = "the index of var" if self.column == INDEX else f"the column '{self.column}' of var"
        remarks = [
            f"{self.n_renamed:,} by another name" if self.n_renamed else "",
            f"{self.n_duplicates:,} duplicates summed" if self.n_duplicates else "",
            f"left out: {self.left_out_said}" if self.left_out else "",
        ]
        others = "; ".join(filter(None, remarks))
        return (
            f"{self.n_shared:,} {of}match the model's, by {by}{f' ({others})' if others else ''}; "
            f"that is {self.coverage:.0%} of the genes that matter to the model"
        )

    @property
    def left_out_said(self) -> str:
        """How many features that are no genes were left out, by kind."""
        return ", ".join(f"{n:,} {kind}" for kind, n in self.left_out.items())


class Params(msgspec.Struct, frozen=True):
    """The settings that labels depend on, and the device."""

    n_neighbors: int = 0
    graph: str = ""
    graph_builder: str = ""
    batch_key: str = ""
    n_batches: int = 1
    confidence_threshold: float = 0.0
    max_novelty: float = 1.0
    label_threshold: float = 0.0
    sets: float = 0.0
    temperature: float = 1.0
    seed: int = 0
    threads: int = 0
    provider: str = ""
    device_note: str = ""

    @classmethod
    def of(cls, pair: Pair, done: Round, *, batch_key: str, n_batches: int) -> Params:
        """Return what a model's pair of levels went by, in a round over the cells."""
        spec, runtime = pair.bundle.spec, pair.runtime
        return cls(
            n_neighbors=spec.graph.n_neighbors,
            graph=pair.graph,
            graph_builder="+".join(sorted(done.builders)) or "none",
            batch_key=batch_key,
            n_batches=n_batches,
            **done.rules.limits,
            temperature=round(done.scores.temperature, 4),
            seed=pair.seed,
            threads=runtime.threads,
            provider=runtime.provider,
            device_note=runtime.note,
        )

    @property
    def said(self) -> str:
        """Among which cells neighbours were searched, and how."""
        near = f"{self.n_neighbors} neighbours for each cell"
        if self.graph == "reference":
            return f"{near}, cells of the model's reference"
        graphs = "1 graph of all cells"
        if self.batch_key:
            graphs = f"{self.n_batches:,} graph{'s' * (self.n_batches > 1)}, one for each value of "
            graphs += f"'{self.batch_key}'"
        return f"{graphs}; {near}, search: {self.graph_builder}"


class Adapted(msgspec.Struct, frozen=True):
    """How the model's means and spread were estimated with the query's cells, or why not.

    Attributes
    ----------
    refused
        Why the model stayed as it was; empty where it did not.
    cells, types, cells_of_types
        Trusted cells, and types with enough of them.
    small
        Types to which so few cells were called that these keep their labels.
    own
        Whether the means of types moved by themselves, too, and not by the shift alone.
    shift
        Root mean square of what all types share, in standard deviations of the reference.
    agreement, agreement_after
        Share of the cells that both levels agree on, before and after.
    steps
        How many were made.
    """

    refused: str = ""
    cells: int = 0
    types: list[str] = []
    cells_of_types: list[int] = []
    small: list[str] = []
    own: bool = False
    shift: float = 0.0
    agreement: float = 0.0
    agreement_after: float = 0.0
    steps: int = 0

    @property
    def said(self) -> str:
        """What was done, in one line."""
        if self.refused:
            return f"not adapted to the query: {self.refused}"
        own = " and types by their own" if self.own else ""
        steps = f", in {self.steps} steps" if self.steps > 1 else ""
        small = f"; cells called {', '.join(self.small)} stayed as they were" if self.small else ""
        return (
            "adapted to the query (transductive: each label depends on the other cells): "
            f"{self.cells:,} trusted cells of {len(self.types)} types; genes were shifted by "
            f"{self.shift:.2f} standard deviations{own}{steps}; both levels agree on "
            f"{self.agreement:.1%} of the cells before, {self.agreement_after:.1%} after{small}"
        )


class Provenance(msgspec.Struct, frozen=True):
    """What an annotation is based on.

    Attributes
    ----------
    model, matrix, genes, params, versions
        What was used, and how; versions are those of packages.
    tissue
        Of a body model, the tissues whose types cells were called.
    stricter
        Bounds of the user that call more cells unknown than the model's own, in words.
    votes
        What the cells say of their tissue, if they were asked.
    apart
        How many times as far from the reference's cells as these are from each other the typical
        cell is; 0 where that is not known.
    few_counts
        Of the typical cell, where the model was set to so few; else 0.
    median_distance
        How far the typical cell is from the nearest reference cell, as a quantile of held-out
        reference cells; None where no cell has counts.
    adaptation, training_cells
        What the model has seen before: as its makers say, and cells of the query.
    adapted
        How the model was adapted to the query, if that was asked.
    left_out
        Barcodes with too few counts, if these were to be left out.
    seconds
        That each step took.
    notes
        What a reader has to say of the cells.
    reference_distance
        Of the models among which the nearest was taken, if none was named.
    why
        Why that one was taken, and which is the next.
    """

    model: Model = Model()
    adaptation: str = ""
    training_cells: int = 0
    matrix: Matrix = Matrix()
    genes: Genes = Genes()
    params: Params = Params()
    tissue: FoundTissue = FoundTissue()
    votes: Votes = NO_VOTES
    stricter: list[str] = []
    apart: float = 0.0
    few_counts: float = 0.0
    median_distance: float | None = None
    adapted: Adapted | None = None
    left_out: LeftOut | None = None
    versions: dict[str, str] = {}
    seconds: dict[str, float] = {}
    notes: list[str] = []
    reference_distance: dict[str, float] | None = None
    why: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Provenance:
        """Return what ``uns`` of a labelled file says; what is not there, or odd, is left empty."""
        said: dict[str, Any] = {}
        for field in fields(cls):
            with suppress(KeyError, msgspec.ValidationError):
                written = _plain(record[field.name])
                said[field.name] = msgspec.convert(written, field.type, strict=False)
        return cls(**said)

    @classmethod
    def joined(cls, parts: Sequence[Provenance]) -> Provenance:
        """Return that of a whole sample: of a part that had cells with counts, and their sums."""
        kept = next((p for p in parts if p.params.graph_builder != "none"), parts[0])
        genes, stages = kept.genes, dict.fromkeys(stage for p in parts for stage in p.seconds)
        if genes.foreign.species:
            foreign = sum(p.n_foreign for p in parts)
            genes = replace(genes, foreign=replace(genes.foreign, cells=foreign))
        return replace(
            kept,
            genes=genes,
            votes=Votes.added([p.votes for p in parts]),
            apart=_median([p.apart for p in parts if p.apart]) or 0.0,
            training_cells=sum(p.training_cells for p in parts),
            median_distance=_median([p.median_distance for p in parts]),
            seconds={s: sum(p.seconds.get(s, 0.0) for p in parts) for s in stages},
        )

    def with_names(self, query: Query) -> Provenance:
        """Note what a reader has to say of the cells, and how many bear the name of another."""
        notes = list(getattr(query, "notes", ()))
        if repeated := count_repeated(query):
            notes.append(f"cells with the name of an earlier cell: {repeated}; all cells are kept")
        return replace(self, notes=notes)

    @property
    def matrix_said(self) -> str:
        """Which matrix was read and what it holds, without the observation that decided."""
        matrix, n = self.matrix, self.genes.n_genes
        if matrix.state not in LOG_STATES:
            return f"{matrix.name}: {matrix.state} ({matrix.reason})"
        cut = f" of {n:,} selected genes" if n < ALL_GENES else " without a common total"
        return f"{matrix.name}: log-normalised counts{cut if matrix.state == 'log1p-cut' else ''}"

    @property
    def n_foreign(self) -> int:
        """Number of cells that are mostly of another species than the model's."""
        return self.genes.foreign.cells or 0

    def record(self) -> dict[str, Any]:
        """Return what stands in ``uns``, without timings: the same input gives the same file."""
        written: dict[str, Any] = msgspec.to_builtins(self)
        del written["seconds"], written["reference_distance"], written["why"]
        del written["median_distance"], written["votes"]
        if not self.notes:
            del written["notes"]
        return _without_nothing(written)

    def summary(self) -> dict[str, Any]:
        """Return what commands and services say of it."""
        said = msgspec.to_builtins(self)
        names = ("model", "adaptation", "reference_distance", "why", "matrix", "genes", "params")
        also = ("tissue", "apart", "few_counts", "median_distance", "adapted", "left_out")
        kept = {name: said[name] for name in (*names, *also)}
        return _without_nothing(kept | {"stages": said["seconds"]})

    def warnings(self, *, n: int, n_empty: int, unknown: float, novelty: float) -> list[str]:
        """Return what the user should know before labels are believed.

        ``unknown`` is the share of unknown cells, ``novelty`` the median. The model and the tissue
        are blamed only where no other cause is known.
        """
        causes = self._causes(n, n_empty)
        said = list(causes)
        if self.genes.coverage < LOW_COVERAGE:
            said.append(
                f"the data have only {self.genes.coverage:.0%} of the genes that the model's "
                "network reads; labels are less reliable"
            )
        if self.few_counts:
            said.append(
                f"the typical cell has {self.few_counts:.0f} counts, far fewer than the model's "
                "cells: the model was set to so few, and small types may be lost"
            )
        if not causes:
            said += self._blames(unknown, novelty)
        if self.params.device_note:
            said.append(self.params.device_note)
        return [*said, *self.notes, *self.training_warnings()]

    def _causes(self, n: int, n_empty: int) -> list[str]:
        """Return what is wrong with the data, each with its cure."""
        matrix, silent, foreign = self.matrix, self.genes.silent, self.genes.foreign
        empty = max(matrix.few_genes, n_empty / max(n, 1))
        said = []
        if empty > MANY_EMPTY:
            said.append(
                f"{empty:.0%} of the barcodes are empty or nearly so: this looks like a raw, "
                "unfiltered matrix; give the filtered one (filtered_feature_bc_matrix of Cell "
                "Ranger), or remove barcodes without cells first"
            )
        if matrix.doubt:
            said.append(
                f"{matrix.name} was read, but {matrix.doubt}: labels are less reliable; give the "
                "raw counts"
            )
        if silent.genes:
            said.append(
                f"{silent.genes:.0%} of the common genes are 0 in all of {silent.cells:.0%} of "
                "the cells: files with different genes were joined; label each file on its own, or "
                "join the genes that all files have"
            )
        if foreign.cells:
            said.append(
                f"{foreign.cells:,} of {n:,} cells are mostly of {foreign.species}, another "
                "species than the model's, and are unknown; label them with a model of "
                f"{foreign.species}"
            )
        if self.tissue.doubt:
            said.append(self.tissue.doubt)
        return said

    def _blames(self, unknown: float, novelty: float) -> list[str]:
        """Return what many strange or unknown cells say of the model."""
        said = []
        if self.apart > APART:
            said.append(
                f"the file does not look like the tissue of {self.model.name}: its cells are "
                f"{self.apart:.1f} times as far from the model's reference as that is from itself; "
                "is it the right model?"
            )
        elif novelty > MAX_NOVELTY and not self.model.from_profiles:
            said.append(
                f"most cells are unlike any that {self.model.name} was trained on (median novelty "
                f"above {MAX_NOVELTY}); is it the right model?"
            )
        if unknown > MANY_UNKNOWN:
            asked = f"{' and '.join(self.stricter)} asks for more than the model does, or "
            said.append(
                f"{unknown:.0%} of the cells are called unknown: {asked if self.stricter else ''}"
                "they are of other types, or of a tissue, state or technology that the model has "
                "not seen; best_cell_type holds what they resemble most, a report (--report) shows "
                "where they lie"
            )
        return said

    def training_warnings(self) -> list[str]:
        """Return what is to be said where cells of the query trained the model."""
        if self.training_cells < FEW_TRAINING_CELLS or not self.model.name:
            return []
        said = f"{self.model.name} was trained on at least {self.training_cells:,} of these cells"
        return [f"{said}; scores on them say nothing about new data"]


def count_repeated(query: Query) -> int:
    """Return how many cells bear the name of an earlier one; few names are held at once."""
    blocks = [_hashes(names) for names in query.name_blocks()]
    hashes = np.concatenate(blocks or [_hashes([])])
    hashes.sort()
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not twice:
        return 0
    seen, n = set[str](), 0
    for names in query.name_blocks():
        alike = [name for name in names if hash(name) in twice]
        n += len(alike)
        seen.update(alike)
    return n - len(seen)


def _hashes(names: Sequence[str]) -> Array:
    return np.fromiter(map(hash, names), np.int64, len(names))


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


MAY_LACK = ("tissue", "apart", "few_counts", "why", "adapted", "left_out", "stricter")
"""What a record holds only where there is something to say."""


def _without_nothing(record: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is said of few models alone, where it is empty."""
    return {k: v for k, v in record.items() if v or k not in MAY_LACK}


def versions() -> dict[str, str]:
    """Return the versions of the packages that have a part in the labels."""
    return {"scbignn_infer": __version__, "numpy": np.__version__, **installed_packages()}


def _plain(value: Any) -> Any:
    """Return what h5py and anndata read as Python's own types."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
