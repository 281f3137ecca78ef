"""One file of cells, labelled and written whole: what commands, workers and services share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer import nearest_model
from scbignn_infer.annotation.annotation import DEFAULT_KEY, UNKNOWN
from scbignn_infer.annotation.remarks import note_names, remarks_on
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError, MissingExtraError, OutputError
from scbignn_infer.estimate import ENTRY_BYTES, bytes_to_read, refuse_beyond
from scbignn_infer.model import registry
from scbignn_infer.output import atomic, h5ad, slots
from scbignn_infer.output.table import TABLE_SUFFIXES, make_table, write_table
from scbignn_infer.query import gene_names, readers
from scbignn_infer.query.readers import tables
from scbignn_infer.query.readers.files import HeldFile, one_line
from scbignn_infer.query.reading import AS_FOUND

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.annotator import GraphKind, Progress
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.sessions import Device
    from scbignn_infer.output.atomic import Draft
    from scbignn_infer.query.readers import FileQuery
    from scbignn_infer.query.reading import Choice, Reading

Summary = dict[str, Any]
Annotate = Callable[["Annotator", "FileQuery", "Choice"], "Annotation"]
"""Gives the annotation of an open file, whose matrix and genes are chosen."""
PAGES = (".html",)
SAMPLE_ROWS = 100
"""Rows by which a matrix's stored values are counted."""


@dataclass(frozen=True)
class Settings:
    """How a file is labelled.

    Attributes
    ----------
    model
        Name or path; by default the model that fits best.
    reading
        How the file is read.
    key_added
        Prefix of everything that is written.
    unknown, unknown_threshold, max_novelty, level, groups
        Which labels are given, as in :class:`~scbignn_infer.annotator.Annotator`.
    graph, device, threads, seed, batch_cells, memory_limit
        How they are found, as there.
    write_graph
        Whether the graph of the cells is written, too.
    """

    model: str | None = None
    reading: Reading = AS_FOUND
    key_added: str = DEFAULT_KEY
    device: Device = "auto"
    threads: int | None = None
    seed: int = 0
    batch_cells: int | None = None
    memory_limit: int | None = None
    unknown: bool = True
    unknown_threshold: float | None = None
    max_novelty: float = 1.0
    level: int = 0
    groups: Mapping[str, str] | None = None
    graph: GraphKind = "query"
    write_graph: bool = False

    def annotator(self, bundle: ModelBundle) -> Annotator:
        """Return the annotator of a model with these settings."""
        return Annotator(
            bundle,
            device=self.device,
            threads=self.threads,
            seed=self.seed,
            batch_cells=self.batch_cells,
            memory_limit=self.memory_limit,
            unknown=self.unknown,
            unknown_threshold=self.unknown_threshold,
            max_novelty=self.max_novelty,
            level=self.level,
            groups=self.groups,
            graph=self.graph,
            keep_graph=self.write_graph,
        )

    def as_dict(self) -> Summary:
        """Return the settings as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class ReportFile:
    """The HTML report that is written beside the labels.

    Attributes
    ----------
    path
        Where it goes.
    sample_key
        Column of ``obs`` that it divides by.
    """

    path: Path
    sample_key: str | None = None


def open_file(path: Path, reading: Reading = AS_FOUND, most_bytes: int | None = None) -> FileQuery:
    """Open a file of cells; the names of genes tell which side of a text table has them."""
    known: set[str] = set()
    if tables.is_table(path) and reading.orientation is None:
        known = set(gene_names.all_names())
        for name, model in registry.list_models().items():
            with registry.passing_over(name):
                known.update(registry.load_model(model).gene_symbols)
    return readers.open_query(
        path,
        known_genes=known,
        orientation=reading.orientation,
        modality=reading.modality,
        table=reading.table,
        most_bytes=most_bytes,
    )


def stem(query: Path) -> str:
    """Return the name of a file without suffixes such as .csv.gz, and that of a folder."""
    return readers.without_suffixes(query.resolve().name)


def label_file(
    query: Path,
    target: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    replace: bool = False,
    report: ReportFile | None = None,
    progress: Progress | None = None,
    announce: Callable[[int, Estimate], None] | None = None,
    make_annotator: Callable[[Settings, ModelBundle], Annotator] = Settings.annotator,
    annotate: Annotate | None = None,
) -> Summary:
    """Label the cells of a file and write them to another, whole or not at all.

    Parameters
    ----------
    query
        Any file that :func:`~scbignn_infer.query.readers.open_query` opens.
    target
        ``.h5ad``, ``.csv``, ``.tsv`` or ``.parquet``; the query itself to write into it.
    settings
        How.
    overwrite
        Replace an existing target, report and slots.
    replace
        Replace an existing target and report alone.
    report
        A report to write, too.
    progress
        Called as work proceeds.
    announce
        Called with the number of cells and the estimate before the work.
    make_annotator
        Where annotators are held for many files, this finds the one of a model.
    annotate
        Gives the labels, where they are not to be made here.

    Returns
    -------
    dict
        What was read, chosen, found and written.

    Raises
    ------
    ScBiGNNError
        The file, the model or the output is not what it should be, or the file has changed; nothing
        is left behind.
    """
    tell = progress or (lambda stage, done, total: None)
    start, key, reading = perf_counter(), settings.key_added, settings.reading
    refuse_beyond(settings.memory_limit, bytes_to_read(query), f"reading all of {query}")
    with ExitStack() as stack:
        cells = stack.enter_context(open_file(query, reading, settings.memory_limit))
        stack.enter_context(cells.identity.watched())
        _check_outputs(cells, target, settings, report, overwrite=overwrite, replace=replace)
        new = not (overwrite or replace)
        drafts = [
            stack.enter_context(atomic.drafting(path, new=new and not _same(path, cells.path)))
            for path in (target, *([report.path] if report else []))
        ]
        choice, novelty = None, None
        if settings.model is not None:
            bundle = registry.load_model(settings.model)
        else:
            bundle, choice, novelty = nearest_model.choose_model(
                cells, reading, device=settings.device, threads=settings.threads
            )
        annotator = make_annotator(settings, bundle)
        copied = target.suffix == ".h5ad" and cells.h5ad
        expected = annotator.estimate(
            cells.n_cells,
            output_bytes=cells.identity.size if copied else 0,
            held_bytes=_bytes_held(cells, target, annotator),
            report=report is not None,
        )
        annotator.refuse_too_large(cells, expected)
        if announce is not None:
            announce(cells.n_cells, expected)
        copy = h5ad.copying(cells.identity, drafts[0].path)
        add_slots = stack.enter_context(copy) if copied else None
        choice = choice or annotator.choose(cells, reading)
        inspected = perf_counter() - start
        if annotate is None:
            annotation = annotator.annotate_query(cells, reading, choice=choice, progress=tell)
        else:
            annotation = annotate(annotator, cells, choice)
        note_names(annotation, cells)
        if report is not None:
            tell("report", 0, 1)
            page = ReportFile(drafts[1].path, report.sample_key)
            _write_report(page, annotator, cells, choice, annotation)
            tell("report", 1, 1)
        tell("write", 0, 1)
        if add_slots is None:
            _write_new(drafts[0], cells, annotation, key, overwrite=overwrite)
        else:
            cells.close()
            with atomic.one_line(target):
                add_slots(slots.slot_values(annotation, key))
        atomic.put(drafts, cells.identity)
        tell("write", 1, 1)
    annotation.provenance["seconds"]["inspect"] += round(inspected, 4)
    return {
        "input": str(query),
        "output": str(target),
        **_summary(annotation, novelty),
        "seconds": round(perf_counter() - start, 3),
    }


def _bytes_held(cells: FileQuery, target: Path, annotator: Annotator) -> int:
    """Return what of a file is in memory beside the labelling, by a sample of its rows."""
    whole = isinstance(cells, HeldFile) or (target.suffix == ".h5ad" and not cells.h5ad)
    if annotator.memory_limit is None or not whole:
        return 0
    rows = np.unique(np.linspace(0, cells.n_cells - 1, SAMPLE_ROWS).astype(int))
    stored = 0
    for name in cells.matrices():
        with suppress(InputError):  # what cannot be read is said where matrices are judged
            stored += cells.rows(name, rows).nnz
    return ENTRY_BYTES * stored * cells.n_cells // len(rows)


def _check_outputs(
    cells: FileQuery,
    target: Path,
    settings: Settings,
    report: ReportFile | None,
    *,
    overwrite: bool,
    replace: bool,
) -> None:
    """Refuse what cannot be written, before any work is done."""
    query, replace = cells.path, overwrite or replace
    into_itself = _same(target, query)
    if into_itself and not cells.h5ad:
        raise OutputError(
            f"{query} is no .h5ad file of today's format, and labels cannot be written into it",
            expected="a new file",
            do="leave out --in-place",
        )
    atomic.check_output(
        target,
        suffixes=(".h5ad", *TABLE_SUFFIXES),
        overwrite=replace or into_itself,
        inputs=[] if into_itself else [cells.identity],
    )
    if report is not None:
        atomic.check_output(
            report.path,
            suffixes=PAGES,
            overwrite=replace,
            inputs=[cells.identity],
            others=[target],
        )
        _need_report_packages()
        if report.sample_key is not None:
            cells.obs_column(report.sample_key)
    key, graph = settings.key_added, settings.write_graph
    if graph and target.suffix != ".h5ad":
        raise OutputError(
            f"a graph is to be written to '{target.name}'",
            expected="an output that ends in .h5ad",
            do="leave out --write-graph, or rename the output",
        )
    if target.suffix == ".h5ad" and cells.h5ad:
        with one_line(query, ".h5ad file"):
            h5ad.check_h5ad_slots(query, slots.slot_names(key), overwrite=overwrite)
    elif target.suffix == ".h5ad" and cells.uns(key) is not None:
        h5ad.refuse_existing([f"uns['{key}']"], overwrite=overwrite)


def _same(target: Path, query: Path) -> bool:
    """Tell whether an output is the input by its own name, and not by a hard link."""
    return target.exists() and target.resolve() == query.resolve()


def _need_report_packages() -> None:
    """Say that the report cannot be written, before any work is done."""
    from importlib.util import find_spec

    for module, purpose in (("umap", "the map of the report"), ("jinja2", "an HTML page")):
        if find_spec(module) is None:
            raise MissingExtraError(module, extra="report", purpose=purpose)


def _write_new(
    draft: Draft, cells: FileQuery, annotation: Annotation, key: str, *, overwrite: bool
) -> None:
    """Write a table, or an AnnData made of a file in another format."""
    values = slots.slot_values(annotation, key)
    if draft.target.suffix == ".h5ad":
        whole = cells.to_adata()
        cells.close()
        h5ad.refuse_existing(slots.taken_slots(whole, key), overwrite=overwrite)
        h5ad.check_lengths(whole.n_obs, values, cells.path)
        with atomic.one_line(draft.target):
            h5ad.write_new_h5ad(whole, draft.path, values)
        return
    names = cells.cell_names()
    cells.close()
    h5ad.check_lengths(len(names), values, cells.path)
    table = make_table(names, values.columns, annotation.probabilities, annotation.cell_types)
    with atomic.one_line(draft.target):
        write_table(table, draft.path, draft.target.suffix)


def _write_report(
    report: ReportFile,
    annotator: Annotator,
    cells: FileQuery,
    choice: Choice,
    annotation: Annotation,
) -> None:
    from scbignn_infer.report import write_report
    from scbignn_infer.report.layout import lay_out
    from scbignn_infer.report.markers import express

    write_report(
        report.path,
        annotation,
        annotator.bundle.spec,
        lay_out(annotation.embedding, runtime=annotator.runtime, seed=annotator.seed),
        name=cells.path.name,
        cell_names=cells.cell_names(),
        warnings=remarks_on(annotation),
        samples=None if report.sample_key is None else cells.obs_column(report.sample_key),
        markers=express(annotator, cells, choice, annotation),
    )


def _summary(annotation: Annotation, novelty: Mapping[str, float] | None) -> Summary:
    provenance, labels = annotation.provenance, annotation.counts()
    return {
        "cells": len(annotation),
        "model": provenance["model"],
        "adaptation": provenance["adaptation"],
        "reference_distance": novelty,
        "matrix": provenance["matrix"],
        "genes": provenance["genes"],
        "params": provenance["params"],
        "stages": provenance["seconds"],
        "labels": labels,
        "unknown": labels.get(UNKNOWN, 0),
        "empty": annotation.n_empty,
        "warnings": remarks_on(annotation),
    }
