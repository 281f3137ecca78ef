"""Which model a query is meant for, where the user has not said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.annotation.provenance import MAX_NOVELTY
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import BundleError, GeneError
from scbignn_infer.model import registry
from scbignn_infer.query.matrices import sample_rows
from scbignn_infer.query.reading import choose, judge_matrices
from scbignn_infer.settings import AS_FOUND

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.sessions import Device
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.settings import Reading

CHOICE_CELLS = 256
MIN_NOVELTY_GAP = 0.02
"""Without a wish of the user, a model must place the typical cell within its reference's range,
and closer than the next model does."""


def choose_model(
    query: Query,
    reading: Reading = AS_FOUND,
    *,
    device: Device = "auto",
    threads: int | None = None,
) -> tuple[ModelBundle, Choice, dict[str, float]]:
    """Take the model whose reference the query resembles most, or refuse to guess.

    Up to 256 cells are embedded by each model that :func:`list_models` gives, and placed by their
    distance to its reference bank. A broken model is passed over.

    Parameters
    ----------
    query
        The cells.
    reading
        The user's wishes on how it is read.
    device, threads
        As in :class:`Annotator`.

    Returns
    -------
    bundle, choice, novelty
        The model, what of the query it is to read, and how far the typical cell is from the
        reference of each model that could read it, as a quantile of held-out reference cells.

    Warns
    -----
    UserWarning
        A model is broken.

    Raises
    ------
    BundleError
        No model is found, none resembles the query, or two do equally well.
    """
    verdicts = judge_matrices(query)
    sample = sample_rows(query.n_cells, CHOICE_CELLS)
    rows: dict[str, sp.csr_matrix] = {}
    bundles: dict[str, ModelBundle] = {}
    choices: dict[str, Choice] = {}
    novelty: dict[str, float] = {}
    refused: set[str] = set()
    for name, path in registry.list_models().items():
        with registry.passing_over(name):
            bundle = registry.load_model(path)
            try:
                choice = choose(query, bundle, reading, verdicts=verdicts)
            except GeneError as error:
                refused.add(error.found)
                continue  # a model for other genes, perhaps another species
            annotator = Annotator(bundle, device=device, threads=threads)
            bundles[name], choices[name] = bundle, choice
            if choice.matrix not in rows:
                rows[choice.matrix] = query.rows(choice.matrix, sample)
            embedding, _ = annotator.gene_level(choice.panel).label(rows[choice.matrix])
            distance, _ = annotator.bank.distance(embedding)
            novelty[name] = float(np.median(annotator.bank.novelty(distance)))
    ranked = sorted(novelty, key=lambda name: novelty[name])
    alike = [name for name in ranked if novelty[name] <= MAX_NOVELTY]
    close = [name for name in alike if novelty[name] <= novelty[alike[0]] + MIN_NOVELTY_GAP]
    if len(close) != 1:
        none = "none can read it" + (f": {refused.pop()}" if len(refused) == 1 else "")
        shown = ", ".join(f"{name} {novelty[name]:.2f}" for name in ranked) or none
        raise BundleError(
            f"no model is clearly meant for {query.name} "
            f"(distance of its cells to the references: {shown})",
            expected=f"one model below {MAX_NOVELTY}, {MIN_NOVELTY_GAP} ahead of the next",
            do="choose a model with -m; see: scbignn-infer models list",
        )
    return bundles[close[0]], choices[close[0]], novelty


def whole_models(*, device: Device = "auto", threads: int | None = None) -> list[ModelBundle]:
    """Return the models that can be found and run; broken ones are passed over.

    Parameters
    ----------
    device, threads
        As in :class:`Annotator`.

    Warns
    -----
    UserWarning
        A model is broken.
    """
    whole = []
    for name, path in registry.list_models().items():
        with registry.passing_over(name):
            bundle = registry.load_model(path)
            Annotator(bundle, device=device, threads=threads)
            whole.append(bundle)
    return whole
