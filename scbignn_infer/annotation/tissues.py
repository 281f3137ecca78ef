"""Which tissue cells are of, and which of a body model's types they may then be called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from scbignn_infer.errors import InputError
from scbignn_infer.model.validate import ANY_TISSUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import BundleSpec

CLEAR_SHARE = 0.6
"""Of the cells that tell, for a tissue that is taken; the next may have half of its share."""
ENOUGH_CELLS, ENOUGH_SHARE = 5.0, 0.02
"""Cells that must tell: so many, and this share of all."""
COMMON_SHARE = 0.8
"""Of all cells, if hardly one tells, for a tissue all of whose types occur everywhere: blood."""
MOST_SHARES = 5
"""Tissues that are named with their shares."""
NONE = 0.005
"""A share below it is not named."""
VOTE_CELLS = 4096
"""Cells whose probabilities are summed at once."""


class FoundTissue(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tissues whose types cells were called, and why.

    Attributes
    ----------
    how
        ``given`` by the user, ``found`` from the cells that tell, ``common`` (hardly a cell tells,
        as in blood), ``unclear`` (none was clear, so all types stay), ``any`` (all stay, as the
        user wished); empty for a model without tissues.
    chosen
        The tissues; empty if all types stay.
    untested
        Those of them on whose cells the model was not tested.
    telling
        Share of the cells that tell, if it was to be found.
    shares
        Share of the largest tissues among these; of a ``common`` one, among all cells.
    """

    how: str = ""
    chosen: list[str] = []
    untested: list[str] = []
    telling: float = 0.0
    shares: dict[str, float] = {}

    @property
    def said(self) -> str:
        """One line that says it; empty for a model without tissues."""
        names = [name + " (not tested on cells)" * (name in self.untested) for name in self.chosen]
        shares = [f"{name}, {share:.0%}" for name, share in self.shares.items()]
        if self.how in ("", "given"):
            return ", ".join(names)
        if self.how == "any":
            return "any: the types of all tissues"
        if self.how in ("found", "common"):
            share = next(iter(self.shares.values()))
            if self.how == "common":
                return f"{names[0]}, since {share:.0%} of the cells are of its types"
            second = f"; second: {shares[1]}" if len(shares) > 1 else ""
            return f"{names[0]}, {share:.0%} of the cells that tell{second}"
        most = f" (most: {'; '.join(shares[:2])} of the cells that tell)" if shares else ""
        return f"none is clear{most}: the types of all tissues"


UNKNOWN_TISSUE = FoundTissue()
"""Nothing is said of it."""


@dataclass(frozen=True)
class Tissues:
    """The tissues of a model's types.

    Attributes
    ----------
    names
        Of all tissues; none but a body model has any.
    tested
        Whether the model was tested on cells of each.
    place
        (n_classes,) the tissue of each class, -1 without one.
    everywhere
        (n_classes,) classes that stay whatever tissue is chosen.
    types
        (n_classes,) names of the types.
    """

    names: list[str]
    tested: list[bool]
    place: Array
    everywhere: Array
    types: Array

    @classmethod
    def of(cls, spec: BundleSpec) -> Tissues:
        """Return those of a model."""
        names = [tissue.name for tissue in spec.tissues]
        return cls(
            names,
            [bool(tissue.tested) for tissue in spec.tissues],
            np.array([names.index(c.tissue) if c.tissue else -1 for c in spec.cell_types]),
            np.array([c.everywhere or not c.tissue for c in spec.cell_types]),
            np.array([c.called for c in spec.cell_types]),
        )

    def given(self, model: str, wished: str | Sequence[str]) -> FoundTissue:
        """Return what the user wishes; nothing for no wish.

        Raises
        ------
        InputError
            The model has no such tissue.
        """
        wished = [wished] if isinstance(wished, str) else list(wished)
        chosen = list(dict.fromkeys(name.strip().lower() for name in wished))
        if not chosen:
            return UNKNOWN_TISSUE
        if not self.names:
            raise InputError(
                f"the tissue '{wished[0]}' is chosen, and {model} has no tissues",
                expected="a body model, whose types are of several tissues",
                do="leave out --tissue (tissue), or choose another model with -m; see: "
                "scbignn-infer models list",
            )
        if chosen == [ANY_TISSUE]:
            return FoundTissue("any")
        for name, own in zip(chosen, wished, strict=False):
            if name not in self.names:
                raise InputError(
                    f"{model} has no tissue '{own}'",
                    expected=f"some of {', '.join(self.names)}, or {ANY_TISSUE} alone",
                    do="choose others with --tissue (tissue)",
                )
        return FoundTissue("given", chosen, self._untested(chosen))

    def kept(self, chosen: Sequence[str]) -> Array:
        """Return the classes (n_classes,) that stay if some tissues are chosen; all if none is."""
        if not chosen:
            return np.ones(len(self.place), dtype=bool)
        within: Array = np.isin(self.place, [self.names.index(name) for name in chosen])
        return within | self.everywhere

    def find(self, log_p: Array, empty: Array) -> FoundTissue:
        """Find the tissue of some cells.

        Each cell votes with the probabilities of the classes that one tissue alone has; those that
        occur everywhere abstain. If nearly all abstain, the tissue may be one that has no other.

        Parameters
        ----------
        log_p
            (n, n_classes) log-probabilities of the gene level.
        empty
            (n,) cells that have no say.
        """
        cells = np.zeros(len(self.place))
        for i in range(0, len(log_p), VOTE_CELLS):
            rows = slice(i, i + VOTE_CELLS)
            p = np.exp(log_p[rows][~empty[rows]], dtype=np.float64)
            cells += p.sum(axis=0)
        n, own = max(int((~empty).sum()), 1), ~self.everywhere
        votes = np.bincount(self.place[own], cells[own], minlength=len(self.names))
        told = float(votes.sum())
        shares, telling = self._largest(votes / max(told, 1e-12)), round(told / n, 4)
        enough = told >= max(ENOUGH_CELLS, ENOUGH_SHARE * n)
        best, second, *_ = [*shares.values(), 0.0, 0.0]
        if enough and best >= CLEAR_SHARE and second <= best / 2:
            return self._taken("found", telling, shares)
        common = self._largest(self._commonness(cells) / n)
        if not enough and next(iter(common.values()), 0.0) >= COMMON_SHARE:
            return self._taken("common", telling, common)
        return FoundTissue("unclear", telling=telling, shares=shares)

    def _commonness(self, cells: Array) -> Array:
        """Return how many cells (n_classes,) are of the types of each tissue without other ones."""
        found = np.zeros(len(self.names))
        for i in set(range(len(self.names))) - set(self.place[~self.everywhere].tolist()):
            found[i] = cells[np.isin(self.types, self.types[self.place == i])].sum()
        return found

    def _largest(self, shares: Array) -> dict[str, float]:
        order = np.argsort(-shares, kind="stable")[:MOST_SHARES]
        return {self.names[i]: round(float(shares[i]), 4) for i in order if shares[i] >= NONE}

    def _taken(self, how: str, telling: float, shares: dict[str, float]) -> FoundTissue:
        chosen = [next(iter(shares))]
        return FoundTissue(how, chosen, self._untested(chosen), telling, shares)

    def _untested(self, chosen: Sequence[str]) -> list[str]:
        return [name for name in chosen if not self.tested[self.names.index(name)]]
