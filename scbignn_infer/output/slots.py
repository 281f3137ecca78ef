"""Where an annotation stands in an AnnData: obs, obsm, obsp and uns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scbignn_infer.annotation.annotation import BY, COLUMNS
from scbignn_infer.output.h5ad import Slots, as_column, existing_slots

if TYPE_CHECKING:
    import anndata as ad

    from scbignn_infer.annotation.annotation import Annotation


def slot_names(key: str) -> dict[str, list[str]]:
    """Name the slots of an annotation in an AnnData, those of its graph among them."""
    return {
        "obs": [f"{key}_{name}" for name in COLUMNS],
        "obsm": [f"{key}_probabilities", f"X_{key}", f"X_{key}_umap"],
        "obsp": [f"{key}_connectivities", f"{key}_distances"],
        "uns": [key, f"{key}_neighbors"],
    }


def taken_slots(adata: ad.AnnData, key: str) -> list[str]:
    """List the slots of an annotation that an AnnData has already."""
    wanted = slot_names(key)
    return existing_slots({slot: list(getattr(adata, slot)) for slot in wanted}, wanted)


def slot_values(annotation: Annotation, key: str) -> Slots:
    """Return what is added to an AnnData for an annotation."""
    uns: dict[str, Any] = {key: annotation.record()}
    pairs: dict[str, Any] = {}
    if annotation.graph is not None:
        pairs = annotation.pairs(key)
        uns[f"{key}_neighbors"] = {
            "connectivities_key": f"{key}_connectivities",
            "distances_key": f"{key}_distances",
            "params": {
                "n_neighbors": annotation.provenance.params.n_neighbors,
                "method": "scbignn",
                "metric": "cosine",
                "use_rep": f"X_{key}",
            },
        }
    columns, matrices = obs_columns(annotation, key), annotation.matrices(key)
    written = {"obs": columns, "obsm": matrices, "obsp": pairs, "uns": uns}
    stale = {s: [n for n in names if n not in written[s]] for s, names in slot_names(key).items()}
    return Slots(columns, matrices, pairs, uns, stale, stale_start=f"{key}_{BY}")


def obs_columns(annotation: Annotation, key: str) -> dict[str, Any]:
    """Return the columns of ``obs``, strings as categoricals in the model's order."""
    return {
        f"{key}_{name}": as_column(
            column.values(annotation), column.names(annotation) if column.names else ()
        )
        for name, column in annotation.shown.items()
    }
