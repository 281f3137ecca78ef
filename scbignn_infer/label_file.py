"""One file of cells, labelled and written whole: what commands, workers and services share."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import structs

from scbignn_infer import nearest_model
from scbignn_infer.annotation.provenance import Model
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError, OutputError
from scbignn_infer.estimate import ENTRY_BYTES, bytes_to_read, refuse_beyond, refuse_too_large
from scbignn_infer.model import registry
from scbignn_infer.output import atomic, excel, h5ad, slots
from scbignn_infer.output.table import (
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    make_table,
    write_blocks,
    write_table,
)
from scbignn_infer.query import gene_names, readers
from scbignn_infer.query.enough import SomeCells, enough
from scbignn_infer.query.readers import tables
from scbignn_infer.query.readers.files import HeldFile, one_line
from scbignn_infer.settings import AS_FOUND, LabelKeywords, RuleKeywords

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from scbignn_infer._types import Progress
    from scbignn_infer.annotation.provenance import Provenance
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.output.atomic import Draft
    from scbignn_infer.output.h5ad import Slots
    from scbignn_infer.query.readers import FileQuery, Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.report.layout import CellMap
    from scbignn_infer.report.views import Views
    from scbignn_infer.settings import Reading, Settings

Summary = dict[str, Any]
SAMPLE_ROWS = 100
"""Rows by which a matrix's stored values are counted."""


def open_file(path: Path, reading: Reading = AS_FOUND, most_bytes: int | None = None) -> FileQuery:
    """Open a file of cells; the names of genes tell which side of a text table has them."""
    symbols: set[str] = set()
    if tables.is_table(path) and reading.orientation is None:
        symbols = set(gene_names.all_names())
        for name, model in registry.list_models().items():
            with registry.passing_over(name):
                symbols.update(registry.load_model(model).gene_symbols)
    return readers.open_query(
        path,
        known_genes=symbols,
        orientation=reading.orientation,
        modality=reading.modality,
        table=reading.table,
        most_bytes=most_bytes,
    )


def find_model(
    cells: Query, settings: Settings
) -> tuple[ModelBundle, Choice | None, dict[str, float] | None, str]:
    """Return the model that is named, or the one that fits best, with why, as choose_model does."""
    if settings.model is not None:
        return registry.load_model(settings.model), None, None, ""
    return nearest_model.choose_model(
        cells,
        settings.reading,
        device=settings.device,
        threads=settings.threads,
        tissue=settings.tissue,
    )


def make_annotator(settings: Settings, bundle: ModelBundle) -> Annotator:
    """Return the annotator of a model with these settings."""
    return Annotator(bundle, **settings.some(LabelKeywords))


def now() -> str:
    """Return the time in UTC, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def expect(
    cells: FileQuery,
    annotator: Annotator,
    suffix: str,
    *,
    report: bool,
    adapt: bool,
    sample: bool = True,
    n_cells: int | None = None,
) -> Estimate:
    """Estimate what labelling a file, or so many of its cells, into another of a suffix takes.

    Without a ``sample`` of its rows, what is held of a file that is read whole does not count.
    """
    copied = suffix == ".h5ad" and cells.h5ad
    whole = isinstance(cells, HeldFile) or (suffix == ".h5ad" and not cells.h5ad)
    return annotator.estimate(
        n_cells or cells.n_cells,
        output_bytes=cells.identity.size if copied else 0,
        held_bytes=_bytes_held(cells) if whole and sample else 0,
        report=report,
        adapt=adapt,
    )


def _bytes_held(cells: FileQuery) -> int:
    """Return what of a file is in memory beside the labelling, by a sample of its rows."""
    rows = np.unique(np.linspace(0, cells.n_cells - 1, SAMPLE_ROWS).astype(int))
    stored = 0
    for name in cells.matrices():
        with suppress(InputError):  # what cannot be read is said where matrices are judged
            stored += cells.rows(name, rows).nnz
    return ENTRY_BYTES * stored * cells.n_cells // len(rows)


def estimate_file(
    query: Path, settings: Settings, *, suffix: str = ".h5ad", report: bool = False
) -> Summary:
    """Return what labelling a file is expected to take, without labelling it or writing anything.

    It is refused as the labelling would be, if the memory limit is too low.
    """
    limit = settings.memory_limit
    refuse_beyond(limit, reading := bytes_to_read(query), f"reading all of {query}")
    with open_file(query, settings.reading, limit) as cells:
        bundle, *_ = find_model(cells, settings)
        annotator = make_annotator(settings, bundle)
        adapt = Rules.of(bundle, **settings.some(RuleKeywords)).adapt
        expected = expect(cells, annotator, suffix, report=report, adapt=adapt)
        refuse_too_large(cells, expected, limit)
        return {
            "input": str(query),
            "cells": cells.n_cells,
            "model": msgspec.to_builtins(Model.of(bundle)),
            "threads": annotator.runtime.threads,
            "seconds": round(expected.seconds, 1),
            "memory_bytes": max(expected.memory, reading),
            "memory_limit": limit,
        }


def stem(query: Path) -> str:
    """Return the name of a file without suffixes such as .csv.gz, and that of a folder."""
    return readers.without_suffixes(_named(query).name)


def beside(query: Path, name: str) -> Path:
    """Return the path of a file beside another one or a folder, which may be the working one."""
    return _named(query).parent / name


def _named(query: Path) -> Path:
    """Return a path that ends in a name; a link keeps its own, and ``.`` has that of the folder."""
    return query if query.name.strip(".") else query.resolve()


class Job:
    """The labelling of one file into another, whole or not at all.

    A context: at its beginning the file is open, the model and the matrix are chosen and all that
    can be refused is refused; at its end nothing is left behind but what was written whole.

    The query is any file that :func:`~scbignn_infer.query.readers.open_query` opens; the target is
    ``.h5ad``, ``.csv``, ``.tsv``, ``.parquet`` or ``.xlsx``, or the query itself to write into it.
    ``overwrite`` replaces existing outputs and slots, ``replace`` outputs alone. ``cluster_table``
    is a ``.csv`` or ``.tsv`` of what the clusters of ``cluster_key`` are. An annotator that is held
    for many files may be given; by default one is made of the settings.
    The ``sample_key`` is the column of ``obs`` by which the sheets of a workbook divide the cells.
    """

    def __init__(
        self,
        query: Path,
        target: Path,
        settings: Settings,
        *,
        overwrite: bool = False,
        replace: bool = False,
        views: Views | None = None,
        cluster_table: Path | None = None,
        sample_key: str | None = None,
        progress: Progress | None = None,
        annotator: Annotator | None = None,
    ) -> None:
        self.query, self.target, self.settings, self.views = query, target, settings, views
        self.cluster_table = cluster_table
        self._held = annotator
        self._sample_key = sample_key if target.suffix == excel.SUFFIX else None
        self._overwrite, self._replace = overwrite, overwrite or replace
        self._progress = progress or (lambda stage, done, total: None)
        self._has_read = Event()
        self._add_slots: Callable[[Slots], None] | None = None
        self._map: CellMap | None = None
        self._reference_distance: dict[str, float] | None = None
        self._why = ""

    def __enter__(self) -> Self:
        self._start, self._started = perf_counter(), now()
        limit = self.settings.memory_limit
        refuse_beyond(limit, bytes_to_read(self.query), f"reading all of {self.query}")
        with ExitStack() as stack:
            self.cells = stack.enter_context(open_file(self.query, self.settings.reading, limit))
            stack.enter_context(self.cells.identity.watched())
            self._check_outputs()
            self._drafts = [
                stack.enter_context(atomic.drafting(path, new=self._is_new(path)))
                for path in self._outputs
            ]
            if self.views is not None:
                drafting = self.views.drafting(new=not self._replace)
                self._views_drafts = stack.enter_context(drafting)
            self.kept = enough(self.cells, self.settings.reading)
            choice = self._choose_model()
            self.rules = Rules.of(self.annotator.bundle, **self.settings.some(RuleKeywords))
            self._refuse_too_large()
            if self.copied:
                copy = h5ad.copying(self.cells.identity, self._drafts[0].path, self._has_read)
                self._add_slots = stack.enter_context(copy)
            self.choice = choice or self.annotator.choose(self.kept, self.settings.reading)
            self._inspected = round(perf_counter() - self._start, 4)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    @property
    def n_cells(self) -> int:
        """Cells of the file that are labelled."""
        return self.kept.n_cells

    def run(self) -> Summary:
        """Label the cells, write them, and return what was read, chosen, found and written."""
        self.annotate()
        return self.write()

    def annotate(self) -> None:
        """Label the cells."""
        self.annotation = self.annotator.annotate_query(
            self.kept,
            self.settings.reading,
            choice=self.choice,
            rules=self.rules,
            progress=self._tell,
        )

    def write(self) -> Summary:
        """Write the labels, and return what was read, chosen, found and written."""
        annotation = self.annotation = replace(self.annotation, provenance=self._provenance())
        tell, key = self._tell, self.settings.key_added
        drawn: list[Draft] = []
        of_tables: list[str] = []
        if self.views is not None:
            tell("report", 0, 1)
            drawn, of_tables = self._draw(self.views)
            annotation = self.annotation
            tell("report", 1, 1)
        tell("write", 0, 1)
        if self.cluster_table is not None:
            of_tables += self._write_clusters(self._drafts[-1])
        if self._add_slots is None:
            of_tables += self._write_new(self._drafts[0])
        else:
            self.cells.close()
            with atomic.one_line(self.target):
                self._add_slots(slots.slot_values(annotation.of_all(self.kept), key))
        atomic.put([*self._drafts, *drawn], self.cells.identity)
        tell("write", 1, 1)
        summary = annotation.summary()
        summary["warnings"] += dict.fromkeys(of_tables)
        return {
            "input": str(self.query),
            "output": str(self.target),
            **summary,
            **({"drawn": [str(draft.target) for draft in drawn]} if drawn else {}),
            "started": self._started,
            "finished": now(),
            "seconds": round(perf_counter() - self._start, 3),
        }

    def _tell(self, stage: str, done: int, total: int) -> None:
        """Pass progress on; the file is copied from when the graph is built, no more read."""
        if stage == "graph":
            self._has_read.set()
        self._progress(stage, done, total)

    @property
    def _outputs(self) -> list[Path]:
        """The tables that are written, the labels first."""
        return [p for p in (self.target, self.cluster_table) if p is not None]

    @property
    def copied(self) -> bool:
        """Whether the output is a copy of the file, with slots."""
        return self.target.suffix == ".h5ad" and self.cells.h5ad

    def _is_new(self, path: Path) -> bool:
        return not (self._replace or _same(path, self.cells.path))

    def _provenance(self) -> Provenance:
        """Return what the labels are based on, with what the file has to say."""
        found = self.annotation.provenance.with_names(self.kept)
        seconds = found.seconds
        return structs.replace(
            found,
            seconds=seconds | {"inspect": seconds.get("inspect", 0.0) + self._inspected},
            reference_distance=self._reference_distance,
            why=self._why,
        )

    def _choose_model(self) -> Choice | None:
        """Take the annotator that is held, or make that of the model that is named or fits best."""
        if self._held is not None:
            self.annotator = self._held
            return None
        found = find_model(self.kept, self.settings)
        bundle, choice, self._reference_distance, self._why = found
        self.annotator = make_annotator(self.settings, bundle)
        return choice

    def _refuse_too_large(self) -> None:
        limit = self.annotator.memory_limit
        self.expected = self._expect(sample=limit is not None)
        refuse_too_large(self.cells, self.expected, limit)

    def _expect(self, *, sample: bool) -> Estimate:
        """Estimate what the work takes."""
        return expect(
            self.cells,
            self.annotator,
            self.target.suffix,
            report=self.views is not None and self._map is None,
            adapt=self.rules.adapt,
            sample=sample,
            n_cells=self.n_cells,
        )

    def _check_outputs(self) -> None:
        """Refuse what cannot be written, before any work is done."""
        cells, target, key = self.cells, self.target, self.settings.key_added
        into_itself = _same(target, cells.path)
        if into_itself and not cells.h5ad:
            raise OutputError(
                f"{cells.path} is no .h5ad file of today's format, and labels cannot be written "
                "into it",
                expected="a new file",
                do="leave out --in-place",
            )
        atomic.check_output(
            target,
            suffixes=(".h5ad", *TABLE_SUFFIXES),
            overwrite=self._replace or into_itself,
            inputs=[] if into_itself else [cells.identity],
        )
        if target.suffix == excel.SUFFIX:
            excel.refuse_too_many(cells.n_cells, target)
        if self._sample_key is not None:
            cells.obs_column(self._sample_key)
        if self.views is not None:
            self._check_views(self.views)
        if self.cluster_table is not None:
            self._check_cluster_table(self.cluster_table)
        if self.settings.write_graph and target.suffix != ".h5ad":
            raise OutputError(
                f"a graph is to be written to '{target.name}'",
                expected="an output that ends in .h5ad",
                do="leave out --write-graph, or rename the output",
            )
        if self.copied:
            with one_line(cells.path, ".h5ad file"):
                names = slots.slot_names(key)
                h5ad.check_h5ad_slots(cells.path, names, overwrite=self._overwrite)
        elif target.suffix == ".h5ad" and cells.uns(key) is not None:
            h5ad.refuse_existing([f"uns['{key}']"], overwrite=self._overwrite)

    def _check_views(self, views: Views) -> None:
        from scbignn_infer.report import layout
        from scbignn_infer.report.views import require

        views.check(overwrite=self._replace, inputs=[self.cells.identity], others=[self.target])
        self._map = layout.map_of(self.cells, self.settings.key_added, views.basis)
        if self._map is None:
            require("umap", "the map of the report")
        if views.sample_key is not None:
            self.cells.obs_column(views.sample_key)

    def _check_cluster_table(self, path: Path) -> None:
        if not self.settings.reading.cluster_key:
            raise OutputError(
                f"a table of clusters is to be written to '{path.name}', and no column has any",
                expected="--cluster-key with --cluster-table",
                do="name the column of obs, or leave out --cluster-table",
            )
        atomic.check_output(
            path,
            suffixes=TEXT_SUFFIXES,
            overwrite=self._replace,
            inputs=[self.cells.identity],
            others=[self.target, *(self.views.paths if self.views else [])],
        )

    def _write_clusters(self, draft: Draft) -> list[str]:
        """Write a row for each cluster of each column; return warnings."""
        tables = {key: found.columns() for key, found in self.annotation.clusters.items()}
        with atomic.one_line(draft.target):
            return write_blocks(tables, draft.path, draft.target.suffix, title="key")

    def _write_new(self, draft: Draft) -> list[str]:
        """Write a table, or an AnnData made of a file in another format; return warnings."""
        cells, key = self.cells, self.settings.key_added
        annotation = self.annotation.of_all(self.kept)
        values = slots.slot_values(annotation, key)
        if draft.target.suffix == ".h5ad":
            whole = cells.to_adata()
            cells.close()
            h5ad.refuse_existing(slots.taken_slots(whole, key), overwrite=self._overwrite)
            h5ad.check_lengths(whole.n_obs, values, cells.path)
            with atomic.one_line(draft.target):
                h5ad.write_new_h5ad(whole, draft.path, values)
            return []
        names, samples = cells.cell_names(), None
        if self._sample_key is not None:
            samples = self.kept.obs_column(self._sample_key)
        cells.close()
        h5ad.check_lengths(len(names), values, cells.path)
        chances = annotation.probabilities
        if draft.target.suffix not in TEXT_SUFFIXES:  # other tables are written as a whole
            chances = np.asarray(chances)
        table = make_table(names, values.columns, chances, annotation.cell_types)
        with atomic.one_line(draft.target):
            if draft.target.suffix == excel.SUFFIX:
                sheets = excel.sheets_of(self.annotation, table, samples)
                excel.write_workbook(draft.path, sheets)
            else:
                write_table(table, draft.path, draft.target.suffix)
        return table.warnings() if draft.target.suffix in TEXT_SUFFIXES else []

    def _draw(self, views: Views) -> tuple[list[Draft], list[str]]:
        """Draw what was wanted of the labels; a map that is made for it stays with them."""
        from scbignn_infer.report import layout
        from scbignn_infer.report.findings import Findings
        from scbignn_infer.report.labelled import Labelled
        from scbignn_infer.report.markers import express

        cells, pair, annotation = self.kept, self.annotator.pair, self.annotation
        cell_map = self._map
        if cell_map is None:
            embedding = np.asarray(annotation.embedding)
            places = layout.lay_out(embedding, runtime=pair.runtime, seed=pair.seed)
            cell_map = layout.CellMap(places, layout.own_basis(self.settings.key_added), own=True)
            self.annotation = replace(annotation, places=places)
        elif isinstance(self.kept, SomeCells):
            cell_map = replace(cell_map, places=cell_map.places[self.kept.cells])
        labelled = Labelled.of(annotation)
        grouping = self.rules.on(annotation.provenance.tissue).grouping
        findings = Findings(
            views.title or self.cells.path.name,
            labelled,
            cells.cell_names(),
            cell_map,
            spec=self.annotator.bundle.spec,
            markers=express(cells, self.choice, labelled, grouping),
            samples=None if views.sample_key is None else cells.obs_column(views.sample_key),
            warnings=annotation.warnings(),
        )
        return views.write(self._views_drafts, findings)


def label_file(query: Path, target: Path, settings: Settings, **options: Any) -> Summary:
    """Do a :class:`Job`, with the options of one, from its start to its end."""
    with Job(query, target, settings, **options) as job:
        return job.run()


def _same(target: Path, query: Path) -> bool:
    """Tell whether an output is the input by its own name, and not by a hard link."""
    return target.exists() and target.resolve() == query.resolve()
