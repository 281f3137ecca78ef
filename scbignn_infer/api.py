"""Label an AnnData in memory."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scbignn_infer.annotation.annotation import DEFAULT_KEY
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import InputError
from scbignn_infer.explanation import explain_cells
from scbignn_infer.output import slots
from scbignn_infer.output.h5ad import refuse_existing, write_adata
from scbignn_infer.query.readers import AnnDataQuery
from scbignn_infer.query.reading import AS_FOUND, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import anndata as ad

    from scbignn_infer.annotator import GraphKind
    from scbignn_infer.explanation import CellExplanation
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.sessions import Device


def annotate(  # noqa: PLR0913 - settings, by name
    adata: ad.AnnData,
    model: str | Path | ModelBundle,
    *,
    key_added: str = DEFAULT_KEY,
    matrix: str | None = None,
    gene_column: str | None = None,
    min_gene_coverage: float | None = None,
    allow_species_mismatch: bool = False,
    batch_key: str | None = None,
    unknown: bool = True,
    unknown_threshold: float | None = None,
    max_novelty: float = 1.0,
    level: int = 0,
    groups: Mapping[str, str] | None = None,
    graph: GraphKind = "query",
    device: Device = "auto",
    threads: int | None = None,
    seed: int = 0,
    memory_limit: int | None = None,
    write_graph: bool = False,
    overwrite: bool = False,
    copy: bool = False,
) -> ad.AnnData | None:
    """Label the cells of an AnnData.

    Parameters
    ----------
    adata
        The cells, with counts or log1p(CP10k) in ``X``, ``raw`` or a layer.
    model
        Name or path of a model, or a loaded one.
    key_added
        Prefix of everything that is written.
    matrix
        ``X``, ``raw`` or ``layers/NAME``; by default the best usable one.
    gene_column
        Column of ``var`` with the gene names; by default the one that matches best.
    min_gene_coverage
        Share of the model's genes, weighted by how well they tell types apart, below which nothing
        is labelled.
    allow_species_mismatch
        Match the symbols of another species, whatever their case.
    batch_key
        Column of ``obs``; cells are neighbours only of cells with the same value.
    unknown, unknown_threshold, max_novelty, level, groups
        Which labels are given, as in :class:`~scbignn_infer.Annotator`.
    graph, device, threads, seed, memory_limit
        How they are found, as there.
    write_graph
        Write the cell graph, too, as scanpy's functions take it with ``neighbors_key``.
    overwrite
        Replace slots of an earlier run.
    copy
        Return an annotated copy and leave ``adata`` alone.

    Returns
    -------
    AnnData or None
        ``None``, or the copy. These slots are written:

        ``obs[f"{key_added}_cell_type"]``
            Final label, categorical; "unknown" below the threshold or above the novelty.
        ``obs[f"{key_added}_cell_type_ontology_id"]``
            Cell Ontology id or empty.
        ``obs[f"{key_added}_best_cell_type"]``
            Label without rejection.
        ``obs[f"{key_added}_confidence"]``
            Calibrated probability of the best label.
        ``obs[f"{key_added}_gene_level_cell_type"]``
            What the gene level alone said.
        ``obs[f"{key_added}_neighbor_agreement"]``
            Weighted share of graph neighbours with the same best label.
        ``obs[f"{key_added}_novelty"]``
            How unlike the reference, as a quantile of held-out reference cells.
        ``obsm[f"{key_added}_probabilities"]``, ``obsm[f"X_{key_added}"]``
            Probabilities (n_cells, n_classes) and cell embedding (n_cells, d).
        ``uns[key_added]``
            Model, matrix, genes, parameters, versions, and the names of the classes.
        ``obsp[f"{key_added}_connectivities"]``, ``obsp[f"{key_added}_distances"]``
            The graph with its record in ``uns[f"{key_added}_neighbors"]``, if asked for.

    Warns
    -----
    UserWarning
        Few genes are shared, the cells are unlike the reference, or many are unknown.

    Raises
    ------
    InputError, BundleError, OutputError, DeviceError
        What is wrong with the data, the model, existing slots or the device.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import anndata as ad
    >>> import scbignn_infer
    >>> adata = ad.read_h5ad(files("scbignn_infer") / "examples" / "pbmc700.h5ad")
    >>> scbignn_infer.annotate(adata, "human-pbmc", threads=1)
    >>> adata.obs["scbignn_cell_type"].value_counts().head(3).to_dict()
    {'DC': 192, 'CD16 Mono': 177, 'CD4 T': 101}
    >>> adata.obsm["X_scbignn"].shape
    (700, 96)
    """
    query = AnnDataQuery(adata)
    if adata.isbacked and (copy or adata.is_view):
        raise InputError(
            f"{'a copy' if copy else 'a part'} of an AnnData that is backed by a file",
            expected="all of it, or an AnnData in memory",
            do="pass adata.to_memory()",
        )
    annotator = Annotator.load(
        model,
        device=device,
        threads=threads,
        seed=seed,
        memory_limit=memory_limit,
        unknown=unknown,
        unknown_threshold=unknown_threshold,
        max_novelty=max_novelty,
        level=level,
        groups=groups,
        graph=graph,
        keep_graph=write_graph,
    )
    refuse_existing(slots.taken_slots(adata, key_added), overwrite=overwrite)
    reading = Reading(matrix, gene_column, min_gene_coverage, allow_species_mismatch, batch_key)
    annotation = annotator.annotate_query(query, reading)
    annotation = replace(annotation, provenance=annotation.provenance.with_names(query))
    for warning in annotation.warnings():
        warnings.warn(warning, UserWarning, stacklevel=2)
    target = adata.copy() if copy else adata
    write_adata(target, slots.slot_values(annotation, key_added))
    return target if copy else None


def explain(
    adata: ad.AnnData,
    model: str | Path | ModelBundle,
    cells: Sequence[str],
    *,
    reading: Reading = AS_FOUND,
    **settings: Any,
) -> list[CellExplanation]:
    """Say why some cells of an AnnData are called what they are.

    Parameters
    ----------
    adata, model
        As in :func:`annotate`; all cells are labelled, since neighbours matter.
    cells
        Names of those to explain.
    reading
        How the cells are read.
    settings
        Those of :class:`~scbignn_infer.Annotator`.

    Returns
    -------
    list of CellExplanation
        Genes present and missing, neighbours and the opinions of both levels, in the order of
        ``cells``.

    Raises
    ------
    InputError
        There is no such cell, or one without counts, or as in :func:`annotate`.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import anndata as ad
    >>> import scbignn_infer
    >>> adata = ad.read_h5ad(files("scbignn_infer") / "examples" / "pbmc700.h5ad")
    >>> (why,) = scbignn_infer.explain(adata, "human-pbmc", ["AAAGCCTGGCTAAC-1"], threads=1)
    >>> why.label, list(why.present)[0], why.neighbors
    ('CD16 Mono', 'FCGR3A', {'CD16 Mono': 15})
    """
    query = AnnDataQuery(adata)
    annotator = Annotator.load(model, **settings)
    return explain_cells(annotator, query, cells, reading)
