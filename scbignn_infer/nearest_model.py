"""Which model a query is meant for, where the user has not said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scbignn_infer.annotation.provenance import MAX_NOVELTY
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.annotator import Annotator
from scbignn_infer.errors import BundleError, GeneError, InputError
from scbignn_infer.model import registry
from scbignn_infer.model.bundle import read_species
from scbignn_infer.query.gene_match import other_species
from scbignn_infer.query.gene_names import SPECIES, surely_of
from scbignn_infer.query.matrices import sample_rows
from scbignn_infer.query.readers import INDEX
from scbignn_infer.query.reading import choose, judge_matrices, with_misfit
from scbignn_infer.settings import AS_FOUND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import scipy.sparse as sp

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.tissues import FoundTissue
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.sessions import Device
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.settings import Reading

CHOICE_CELLS = 256
MIN_NOVELTY_GAP = 0.02
"""Without a wish of the user, a model must place the typical cell within its reference's range,
and closer than the next model does."""
SAME_STEM = 6
"""Letters by which words of one organ are the same, such as pancreas and pancreatic."""


class Nearest(NamedTuple):
    """The model that a query is meant for.

    Attributes
    ----------
    bundle, choice
        The model, and what of the query it is to read.
    novelty
        How far the typical cell is from the reference of each model that could read it, as a
        quantile of held-out reference cells.
    why
        Why it was chosen, and which model is the next.
    """

    bundle: ModelBundle
    choice: Choice
    novelty: dict[str, float]
    why: str


@dataclass(frozen=True)
class _Fit:
    """How a model fits some of the cells, and of which tissue they are to a body model."""

    bundle: ModelBundle
    choice: Choice
    novelty: float
    tissue: FoundTissue

    @property
    def body(self) -> bool:
        return bool(self.bundle.spec.tissues)

    @property
    def qualified(self) -> bool:
        """A body model knows all tissues: it fits if it is sure of one, however far cells are."""
        return bool(self.tissue.chosen) or self.novelty <= MAX_NOVELTY


def choose_model(
    query: Query,
    reading: Reading = AS_FOUND,
    *,
    device: Device = "auto",
    threads: int | None = None,
    tissue: Sequence[str] = (),
) -> Nearest:
    """Take the model that is meant for the query, or refuse to guess.

    Up to 256 cells are embedded by each model that :func:`list_models` gives, and placed by their
    distance to its reference bank. Body models also find the tissue. The nearest specialised model
    wins if the tissue is its own or is not clear; else the body model does. A broken model is
    passed over.

    Parameters
    ----------
    query
        The cells.
    reading
        The user's wishes on how it is read.
    device, threads
        As in :class:`Annotator`.
    tissue
        Only body models with these tissues are candidates.

    Warns
    -----
    UserWarning
        A model is broken.

    Raises
    ------
    BundleError
        No model is found, none resembles the query, or two do equally well.
    InputError
        No model has the tissue.
    """
    fits, refused = _fits(query, reading, device=device, threads=threads, tissue=tissue)
    ranked = sorted(fits, key=lambda name: fits[name].novelty)
    novelty = {name: fit.novelty for name, fit in fits.items()}
    bodies = _close([n for n in ranked if fits[n].body and fits[n].qualified], fits)
    alike = [n for n in ranked if not fits[n].body and fits[n].novelty <= MAX_NOVELTY]
    own, why = alike, "nearest to the cells"
    if bodies and (tissues := fits[bodies[0]].tissue.chosen):
        own = [n for n in alike if _is_of(fits[n], tissues[0])]
        known = "chosen" if tissue else f"found by {bodies[0]}"
        why = f"it knows {', '.join(tissues)}, the tissue {known}"
    close = _close(own, fits) or bodies
    if len(close) != 1:
        if not fits and refused:
            raise _unreadable(query, refused)
        shown = ", ".join(f"{name} {novelty[name]:.2f}" for name in ranked) or "none can read it"
        raise BundleError(
            f"no model is clearly meant for {query.name} "
            f"(distance of its cells to the references: {shown})",
            expected=f"one model below {MAX_NOVELTY}, {MIN_NOVELTY_GAP} ahead of the next",
            do="choose a model with -m; see: scbignn-infer models list",
        )
    (name,) = close
    chosen = fits[name]
    others = [*bodies, *alike, *ranked]
    why += next((f"; next: {other}" for other in others if other != name), "")
    return Nearest(chosen.bundle, with_misfit(query, chosen.choice), novelty, why)


def _fits(
    query: Query,
    reading: Reading,
    *,
    device: Device,
    threads: int | None,
    tissue: Sequence[str],
) -> tuple[dict[str, _Fit], list[GeneError]]:
    """Return how each model fits that can read the query, and why others cannot."""
    verdicts = judge_matrices(query)
    sample = sample_rows(query.n_cells, CHOICE_CELLS)
    rows: dict[str, sp.csr_matrix] = {}
    fits: dict[str, _Fit] = {}
    refused, tissues = list[GeneError](), set[str]()
    columns = {} if tissue else query.gene_columns(next(iter(verdicts)))
    surely = None if reading.allow_species_mismatch else surely_of(columns.values())
    for name, path in registry.list_models().items():
        if surely and (other := read_species(path)) in SPECIES and other != surely:
            values = columns.get(reading.gene_column or INDEX, columns[INDEX])
            refused.append(other_species(values, surely, other))
            continue
        with registry.passing_over(name):
            bundle = registry.load_model(path)
            tissues.update(known.name for known in bundle.spec.tissues)
            try:
                rules = Rules.of(bundle, tissue=tissue)
            except InputError:
                continue  # it has no such tissue
            try:
                choice = choose(query, bundle, reading, verdicts=verdicts, measure_misfit=False)
            except GeneError as error:
                refused.append(error)
                continue  # a model for other genes, perhaps another species
            annotator = Annotator(bundle, device=device, threads=threads, tissue=tissue)
            if choice.matrix not in rows:
                rows[choice.matrix] = query.rows(choice.matrix, sample)
            said = annotator.pair.gene_level(choice.panel).label(rows[choice.matrix])
            fits[name] = _fit(annotator, choice, rules, *said)
    if tissue and not fits and not refused:
        wished = [tissue] if isinstance(tissue, str) else tissue
        raise InputError(
            f"no model has the tissue '{', '.join(wished)}'",
            expected=f"some of {', '.join(sorted(tissues)) or 'a body model'}, or any",
            do="choose others with --tissue (tissue); see: scbignn-infer models list",
        )
    return fits, refused


def _unreadable(query: Query, refused: Sequence[GeneError]) -> BundleError:
    """Return the error of a query that no model can read, with the cause that tells most."""
    cause = min(refused, key=lambda error: "genes x cells" not in error.found)
    return BundleError(
        f"no model is clearly meant for {query.name}: none can read it: {cause.found}",
        expected=cause.expected,
        do=cause.do,
    )


def _fit(
    annotator: Annotator, choice: Choice, rules: Rules, embedding: Array, log_p: Array
) -> _Fit:
    rules = rules.found(log_p, np.zeros(len(log_p), dtype=bool))
    bank = annotator.pair.bank_of(rules.grouping.kept)
    novelty = float(np.median(bank.novelty(bank.distance(embedding)[0])))
    return _Fit(annotator.bundle, choice, novelty, rules.tissue)


def _close(names: list[str], fits: Mapping[str, _Fit]) -> list[str]:
    """Return the nearest model and those that are hardly farther, of some in that order."""
    return [n for n in names if fits[n].novelty <= fits[names[0]].novelty + MIN_NOVELTY_GAP]


def _is_of(fit: _Fit, tissue: str) -> bool:
    """Tell whether a specialised model is of a tissue, by the words of its record."""
    own = re.findall(r"\w+", fit.bundle.spec.tissue.lower())
    stems = {word[:SAME_STEM] for word in own}
    return all(word[:SAME_STEM] in stems for word in tissue.split())


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
