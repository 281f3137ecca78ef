"""A model's first run: a few made-up cells through both levels, before any cell of a user."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.errors import DeviceError, Flaw, need
from scbignn_infer.model.archives import one_line
from scbignn_infer.model.bundle import of_bundle
from scbignn_infer.model.validate import graph_levels
from scbignn_infer.network.panel import TARGET_SUM, panel_tables
from scbignn_infer.network.sessions import import_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.sessions import Session

CELLS, GENES, NEIGHBORS = 64, 256, 5
"""The most of each."""
LEAST_RIGHT = 1 / 3
"""Share of the types that the gene level must know by their profile. All are known by the shipped
models; a graph of another model knows them by chance."""


def try_out(bundle: ModelBundle, session: Callable[[str], Session]) -> None:
    """Run a model on the profiles of its types; nothing is done where it has run already.

    Parameters
    ----------
    bundle
        The model.
    session
        Opens one of its graphs, by the name of the file.

    Raises
    ------
    BundleError
        A table makes no sense, a graph cannot be opened or run, gives no log-probabilities, or
        does not know the profiles that its own tables give the types.
    DeviceError
        The device is at fault.
    """
    if bundle.tried_out:
        return
    import_onnxruntime()
    with of_bundle(bundle.path):
        statistics, _ = bundle.statistics, bundle.reference
        sessions = {file: _open(session, file) for file in graph_levels(bundle.spec)}
        try:
            logits = _run_gene_level(bundle, sessions, statistics)
            _run_cell_level(bundle, sessions, logits)
        except (Flaw, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common root
            raise Flaw(
                f"the graphs do not run on the tables ({one_line(error)})",
                "graphs and tables of one model",
            ) from None
    bundle.tried_out = True


def _open(session: Callable[[str], Session], file: str) -> Session:
    """Open a graph; where no GPU is at fault, the graph is."""
    try:
        return session(file)
    except DeviceError as error:
        if "CUDA" in str(error):
            raise
        raise Flaw(f"{file}: {one_line(error)}", "a graph that onnxruntime can run") from None


def _run_gene_level(
    bundle: ModelBundle, sessions: Mapping[str, Session], statistics: Mapping[str, Array]
) -> Array:
    """Return the log-probabilities of cells that look like the mean of each type."""
    spec = bundle.spec
    session = sessions[spec.gene_level.file]
    types = np.arange(min(len(spec.cell_types), CELLS))
    present = np.zeros(len(spec.genes), dtype=bool)
    present[: min(GENES, spec.preprocessing.panel_genes, len(statistics["gene_mean"]))] = True
    panel, tables = panel_tables(
        statistics,
        present,
        net_genes=spec.gene_level.net_genes,
        panel_genes=spec.preprocessing.panel_genes,
    )
    profiles = statistics["class_mean"][np.ix_(types, panel)]
    mean, scale = statistics["gene_mean"][panel], statistics["gene_scale"][panel]
    counts = np.expm1(np.clip(mean + scale * profiles, 0, np.log1p(TARGET_SUM)))
    inputs = {
        "counts": counts.astype(np.float32),
        "totals": np.full((len(types), 1), TARGET_SUM, np.float32),
    }
    embedding, logits = session.run(**inputs, **tables)
    _check("cell_embedding", embedding, (len(types), spec.gene_level.embedding_size))
    _check("gene_logits", logits, (len(types), len(spec.cell_types)), log_probabilities=True)
    alone = session.run(**{k: v[:1] for k, v in inputs.items()}, **tables)
    need(
        all(
            np.allclose(a, b[:1], atol=1e-2)
            for a, b in zip(alone, (embedding, logits), strict=True)
        ),
        "gene_level.onnx gives a cell other values beside other cells",
        "a cell's own values alone",
    )
    names = np.array([cell_type.called for cell_type in spec.cell_types])
    right = float((names[logits.argmax(axis=1)] == names[types]).mean())
    need(
        right >= LEAST_RIGHT,
        f"the gene level knows {right:.0%} of its own types' profiles",
        f"at least {LEAST_RIGHT:.0%}: graph and tables of one model",
    )
    return logits


def _run_cell_level(bundle: ModelBundle, sessions: Mapping[str, Session], logits: Array) -> None:
    """Run the layers on a ring of cells, and none beyond the last."""
    layers = bundle.spec.cell_level.layers
    n = len(logits)
    k = min(NEIGHBORS, bundle.spec.graph.n_neighbors, n - 1)
    indices = (np.arange(n)[:, None] + np.arange(1, k + 1)) % n
    similarity = np.tile(np.linspace(0.9, 0.5, k, dtype=np.float32), (n, 1))
    inputs = {
        "reach": similarity.min(axis=1),
        "gene_logits": logits,
        "neighbor_indices": indices,
        "neighbor_similarity": similarity,
    }
    own, state = logits, np.exp(logits)
    for layer in layers:
        run = partial(sessions[layer.file].run, **inputs, own=own, state=state)
        own, state = run(layer=np.array(layer.layer, np.int64))
        _check("cell_logits", own, logits.shape, log_probabilities=True)
        _check("new_state", state, logits.shape)
        need(
            np.abs(state - np.exp(own)).max() < 1e-3,
            "new_state other than cell_logits",
            "the same as probabilities",
        )
    for file, n_layers in Counter(layer.file for layer in layers).items():
        if sessions[file].providers[0] != "CPUExecutionProvider":
            continue  # where an index beyond the end is no error
        run = partial(sessions[file].run, **inputs, own=own, state=state)
        need(
            not _runs(partial(run, layer=np.array(n_layers, np.int64))),
            f"{file} has more layers than the {n_layers} of bundle.json",
            "as many",
        )


def _runs(run: Callable[[], Any]) -> bool:
    """Tell whether a graph runs."""
    try:
        run()
    except Exception:  # noqa: BLE001 - onnxruntime's errors have no common root
        return False
    return True


def _check(
    name: str, values: Array, shape: tuple[int, ...], *, log_probabilities: bool = False
) -> None:
    """Refuse an output of another shape, or with values that it cannot have."""
    need(values.shape == shape, f"{name} of shape {values.shape}", f"{shape}")
    need(np.isfinite(values).all(), f"{name} holds NaN or infinite values", "finite values")
    if log_probabilities:
        with np.errstate(over="ignore"):
            total = np.exp(values.astype(np.float64)).sum(axis=1)
        need(
            np.abs(total - 1).max() < 1e-3,
            f"{name} adds up to {total.min():.3g} to {total.max():.3g}",
            "log-probabilities, which add up to 1",
        )
