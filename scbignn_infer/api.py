"""Label an AnnData in memory."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from scbignn_infer.annotator import Annotator
from scbignn_infer.bound import embed_cells
from scbignn_infer.errors import InputError
from scbignn_infer.explanation import explain_cells
from scbignn_infer.gene_evidence import find_evidence
from scbignn_infer.output import slots
from scbignn_infer.output.h5ad import refuse_existing, write_adata
from scbignn_infer.query.enough import SomeCells, enough
from scbignn_infer.query.readers import AnnDataQuery
from scbignn_infer.settings import AS_FOUND, Keywords, LabelKeywords, Settings, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Unpack

    import anndata as ad

    from scbignn_infer._types import Array
    from scbignn_infer.explanation import CellExplanation
    from scbignn_infer.gene_evidence import Evidence
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.settings import Reading


@shown(Keywords)
def annotate(
    adata: ad.AnnData,
    model: str | Path | ModelBundle,
    *,
    overwrite: bool = False,
    copy: bool = False,
    **settings: Unpack[Keywords],
) -> ad.AnnData | None:
    """Label the cells of an AnnData.

    Parameters
    ----------
    adata
        The cells, with counts or log1p(CP10k) in ``X``, ``raw`` or a layer.
    model
        Name or path of a model, or a loaded one.
    overwrite
        Replace slots of an earlier run.
    copy
        Return an annotated copy and leave ``adata`` alone.
    **settings

    Returns
    -------
    AnnData or None
        ``None``, or the copy. These slots are written:

        ``obs[f"{key_added}_cell_type"]``
            Final label, categorical: a type, or what joins types of which none is sure; "unknown"
            below the threshold or above the novelty.
        ``obs[f"{key_added}_cell_type_set"]``
            With ``sets``, the labels that hold that share of the probability, joined by ``|``.
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
        ``obs[f"{key_added}_support"]``
            Confidence less penalties, which the threshold is compared with.
        ``obs[f"{key_added}_unknown_reason"]``
            Why a cell is unknown, or empty.
        ``obs[f"{key_added}_mixture"]``, ``obs[f"{key_added}_mixture_score"]``
            With ``mixtures``, the two labels that explain a cell better than one, or empty; and how
            far above the bar of such a name the cell is.
        ``obs[f"{key_added}_cell_type_by_{key}"]``
            For each ``key`` of ``cluster_key``, the label of the cell's cluster; empty for a cell
            without one.
        ``obsm[f"{key_added}_probabilities"]``, ``obsm[f"X_{key_added}"]``
            Probabilities (n_cells, n_classes) and cell embedding (n_cells, d).
        ``uns[key_added]``
            Model, matrix, genes, parameters, versions, and the names of the classes; with
            ``cluster_key``, what each cluster is, as ``uns[key_added]["clusters"][key]``.
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
    {'DC': 193, 'CD16 Mono': 171, 'B': 61}
    >>> adata.obsm["X_scbignn"].shape
    (700, 96)
    """
    chosen = Settings.of(settings, Keywords)
    query = AnnDataQuery(adata)
    if adata.isbacked and (copy or adata.is_view):
        raise InputError(
            f"{'a copy' if copy else 'a part'} of an AnnData that is backed by a file",
            expected="all of it, or an AnnData in memory",
            do="pass adata.to_memory()",
        )
    annotator = Annotator.load(model, **chosen.some(LabelKeywords))
    refuse_existing(slots.taken_slots(adata, chosen.key_added), overwrite=overwrite)
    kept = enough(query, chosen.reading)
    annotation = annotator.annotate_query(kept, chosen.reading)
    annotation = replace(annotation, provenance=annotation.provenance.with_names(kept))
    for warning in annotation.warnings():
        warnings.warn(warning, UserWarning, stacklevel=2)
    annotation = annotation.of_all(kept)
    target = adata.copy() if copy else adata
    write_adata(target, slots.slot_values(annotation, chosen.key_added))
    return target if copy else None


@shown(LabelKeywords)
def embed(
    adata: ad.AnnData,
    model: str | Path | ModelBundle,
    *,
    reading: Reading = AS_FOUND,
    **settings: Unpack[LabelKeywords],
) -> Array:
    """Embed the cells of an AnnData by the gene level alone, without labelling them.

    Parameters
    ----------
    adata, model
        As in :func:`annotate`; nothing is written.
    reading
        How the cells are read.
    **settings

    Returns
    -------
    numpy.ndarray
        (n_cells, d) float32, what :func:`annotate` writes as ``obsm[f"X_{key_added}"]``.

    Raises
    ------
    InputError, BundleError, DeviceError
        As in :func:`annotate`.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import anndata as ad
    >>> import scbignn_infer
    >>> adata = ad.read_h5ad(files("scbignn_infer") / "examples" / "pbmc700.h5ad")
    >>> scbignn_infer.embed(adata, "human-pbmc", threads=1).shape
    (700, 96)
    """
    query = AnnDataQuery(adata)
    annotator = Annotator.load(model, **settings)
    kept = enough(query, reading)
    found = embed_cells(annotator.pair, kept, annotator.choose(kept, reading))
    return kept.spread(found) if isinstance(kept, SomeCells) else found


@shown(LabelKeywords)
def explain(
    adata: ad.AnnData,
    model: str | Path | ModelBundle,
    cells: Sequence[str],
    *,
    reading: Reading = AS_FOUND,
    **settings: Unpack[LabelKeywords],
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
    **settings

    Returns
    -------
    list of CellExplanation
        Genes present and missing, neighbours and the opinions of both levels, in the order of
        ``cells``; a name that several cells bear stands for all of them.

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
    return explain_cells(annotator, query, [cells] if isinstance(cells, str) else cells, reading)


@shown(LabelKeywords)
def evidence(
    adata: ad.AnnData,
    model: str | Path | ModelBundle,
    *,
    where: str | None = None,
    reading: Reading = AS_FOUND,
    **settings: Unpack[LabelKeywords],
) -> list[Evidence]:
    """Say which genes the cells of each label show against all others, and which markers miss.

    Parameters
    ----------
    adata, model
        As in :func:`annotate`; all cells are labelled, and nothing is written.
    where
        Only cells for which this holds, as one group: comparisons of columns of ``obs``, or of
        those that :func:`annotate` writes, such as ``'scbignn_cell_type == "unknown"'``.
    reading
        How the cells are read. If it names columns of clusters (``cluster_key``), their clusters
        are the groups.
    **settings

    Returns
    -------
    list of Evidence
        One for each label, the most frequent first, or for each cluster; see
        :class:`~scbignn_infer.gene_evidence.Evidence`.

    Raises
    ------
    InputError
        The condition cannot be understood or holds for no cell, or as in :func:`annotate`.

    Examples
    --------
    >>> from importlib.resources import files
    >>> import anndata as ad
    >>> import scbignn_infer
    >>> adata = ad.read_h5ad(files("scbignn_infer") / "examples" / "pbmc700.h5ad")
    >>> found = {e.group: e for e in scbignn_infer.evidence(adata, "human-pbmc", threads=1)}
    >>> gene = found["CD16 Mono"].shown[0]
    >>> gene.gene, gene.share, gene.share_of_rest
    ('FCGR3A', 0.9942, 0.0907)
    >>> found["CD16 Mono"].missing
    'CD16 Mono: MS4A7, SERPINA1 absent from the file'
    """
    query = AnnDataQuery(adata)
    annotator = Annotator.load(model, **settings)
    return find_evidence(annotator, query, reading, where=where)
