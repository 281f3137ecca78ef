"""The report and figures of a file that annotate has labelled before: no cell is labelled."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from scbignn_infer.annotation.rules import Rules
from scbignn_infer.errors import InputError
from scbignn_infer.model import registry
from scbignn_infer.network.sessions import choose_runtime
from scbignn_infer.output import atomic
from scbignn_infer.query import reading
from scbignn_infer.query.enough import LeftOut, SomeCells
from scbignn_infer.query.readers import open_query
from scbignn_infer.report import layout
from scbignn_infer.report.findings import Findings
from scbignn_infer.report.labelled import LEFT_OUT, Labelled
from scbignn_infer.report.markers import express
from scbignn_infer.report.views import require
from scbignn_infer.settings import Reading

if TYPE_CHECKING:
    from pathlib import Path

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.query.readers import FileQuery, Query
    from scbignn_infer.report.layout import CellMap
    from scbignn_infer.report.markers import Markers
    from scbignn_infer.report.views import Views
    from scbignn_infer.settings import Settings


def show(
    path: Path, views: Views, settings: Settings, *, overwrite: bool = False
) -> tuple[list[Path], list[str]]:
    """Draw the labels of a file, and return what was written, and what should be known of it."""
    with open_query(path, most_bytes=settings.memory_limit) as cells:
        views.check(overwrite=overwrite, inputs=[cells.identity])
        with views.drafting(new=not overwrite) as drafts:
            findings = find(cells, views, settings)
            written, warnings = views.write(drafts, findings)
            atomic.put(written, cells.identity)
    return [draft.target for draft in written], [*findings.warnings, *warnings]


def find(cells: FileQuery, views: Views, settings: Settings) -> Findings:
    """Return what the labels in a file say, and the model and the genes if they are at hand.

    Cells that were left out for their few counts are left out again.
    """
    labelled, kept = _without_left_out(cells, Labelled.read(cells, settings.key_added))
    bundle, lacks = _model_of(labelled, settings.model)
    markers = None
    if bundle is not None:
        markers, lacks = _markers(kept, labelled, bundle)
    chosen = kept.cells if isinstance(kept, SomeCells) else np.arange(cells.n_cells)
    return Findings(
        views.title or cells.path.name,
        labelled,
        kept.cell_names(),
        _map_of(cells, chosen, views, settings),
        spec=bundle.spec if bundle else None,
        markers=markers,
        samples=_samples_of(kept, views, labelled),
        warnings=[*labelled.warnings(), *lacks],
    )


def _without_left_out(cells: FileQuery, labelled: Labelled) -> tuple[Labelled, Query]:
    """Return the cells that were looked at and their labels, which know how many were not."""
    looked_at = np.flatnonzero(labelled.unknown_reasons != LEFT_OUT)
    if len(looked_at) == cells.n_cells:
        return labelled, cells
    if not len(looked_at):
        raise InputError(
            f"all {cells.n_cells:,} cells of {cells.path} were left out for their few counts",
            expected="cells that were labelled",
            do="label the file again with a lower --min-counts",
        )
    before = labelled.provenance.left_out or LeftOut()
    left_out = structs.replace(before, cells=cells.n_cells - len(looked_at))
    based = structs.replace(labelled.provenance, left_out=left_out)
    some = replace(labelled.some(looked_at), provenance=based)
    return some, SomeCells(cells, looked_at, left_out)


def _samples_of(cells: Query, views: Views, labelled: Labelled) -> list[str] | None:
    """Return the sample of each cell: of the column that is named, or that divided the graph."""
    if views.sample_key is not None:
        return cells.obs_column(views.sample_key)
    if key := labelled.provenance.params.batch_key:
        with suppress(InputError):  # a column that is no more there
            return cells.obs_column(key)
    return None


def _map_of(cells: FileQuery, chosen: Array, views: Views, settings: Settings) -> CellMap:
    """Return a map of some cells that the file has, or make that of the embedding."""
    key = settings.key_added
    found = layout.map_of(cells, key, views.basis, kept=True)
    if found is not None:
        return replace(found, places=found.places[chosen])
    embedding = cells.obsm(f"X_{key}")
    if embedding is None:
        raise InputError(
            f"{cells.path} has neither a map nor the embedding obsm['X_{key}']",
            expected=f"obsm['{layout.USERS}'], or the embedding that annotate writes",
            do="label the file again, or name a map of it with --basis",
        )
    require("umap", "the map of the report")
    return _made(embedding[chosen], key, settings)


def _made(embedding: Array, key: str, settings: Settings) -> CellMap:
    runtime = choose_runtime(settings.device, settings.threads)
    places = layout.lay_out(embedding, runtime=runtime, seed=settings.seed)
    return layout.CellMap(places, layout.own_basis(key), own=True)


def _model_of(labelled: Labelled, named: str | None) -> tuple[ModelBundle | None, list[str]]:
    """Return the model that gave the labels, if it is at hand, or what is said where it is not."""
    of = labelled.provenance.model
    if named is not None:
        bundle = registry.load_model(named)
        if bundle.sha256 != of.sha256:
            raise InputError(
                f"the labels are of {of.name} {of.version} ({of.sha256[:12]}), and {named} is "
                f"{bundle.spec.name} {bundle.spec.version} ({bundle.sha256[:12]})",
                expected="the model that gave the labels",
                do="name it with -m, or leave that out",
            )
        return bundle, []
    models = registry.list_models()
    if of.name in models:
        with registry.passing_over(of.name):
            bundle = registry.load_model(models[of.name])
            if bundle.sha256 == of.sha256:
                return bundle, []
    said = f"{of.name} {of.version}, which gave the labels, is not among the installed models"
    return None, [f"{said}: its genes and its card are not shown; name its path with -m"]


def _markers(
    cells: Query, labelled: Labelled, bundle: ModelBundle
) -> tuple[Markers | None, list[str]]:
    """Return how the cells express the genes that carry the labels, or why that is not shown."""
    based = labelled.provenance
    as_read = Reading(
        matrix=based.matrix.name,
        gene_column=based.genes.column,
        min_gene_coverage=0.0,
    )
    try:
        choice = reading.choose(cells, bundle, as_read, measure_misfit=False)
    except InputError as error:
        return None, [f"genes are not shown: {error.found}"]
    grouping = Rules.of(bundle).on(based.tissue).grouping
    return express(cells, choice, labelled, grouping), []
