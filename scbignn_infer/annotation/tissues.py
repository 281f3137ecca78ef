"""Which tissue cells are of, and which of a body model's types they may then be called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from scbignn_infer.annotation.kinship import kinship
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
COMMON_SHARE, MOST_TELLING = 0.8, 0.1
"""If no tissue is clear and at most the second share of the cells tell: the share of all cells that
are of the types of blood, spleen or other tissues all of whose types occur everywhere."""
AGE, TIE = 0.25, 0.5
"""Ages of an organ, and tissues like blood, are taken together with the first of them if they have
at least this share of its cells."""
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
        The tissues; empty if all types stay. Of a ``common`` one, all that the cells may be of.
    untested
        Those of them on whose cells the model was not tested.
    telling
        Share of the cells that tell, if it was to be found.
    shares
        Share of the largest tissues among these; of a ``common`` one, among all cells.
    seems
        What the cells seem to be of, if that is clear and is none of what was given; with its
        share.
    """

    how: str = ""
    chosen: list[str] = []
    untested: list[str] = []
    telling: float = 0.0
    shares: dict[str, float] = {}
    seems: dict[str, float] = {}

    @property
    def doubt(self) -> str:
        """One line that says why what was given may be wrong; empty if nothing does."""
        if not self.seems:
            return ""
        share = sum(self.seems.values())
        return (
            f"the cells look like {' and '.join(self.seems)} ({share:.0%} of the cells that tell), "
            f"and {', '.join(self.chosen)} was chosen: choose that tissue (--tissue, tissue), or "
            "none, and it is found"
        )

    @property
    def said(self) -> str:
        """One line that says it; empty for a model without tissues."""
        names = [name + " (not tested on cells)" * (name in self.untested) for name in self.chosen]
        if self.how in ("", "given"):
            return ", ".join(names)
        if self.how == "any":
            return "any: the types of all tissues"
        if self.how == "common":
            share = self.shares.get(self.chosen[0], 0.0)
            return f"{' or '.join(names)}, since {share:.0%} of the cells are of such types"
        own = sum(share for name, share in self.shares.items() if name in self.chosen)
        others = [f"{k}, {share:.0%}" for k, share in self.shares.items() if k not in self.chosen]
        if self.how == "found":
            second = f"; second: {others[0]}" if others else ""
            return f"{' and '.join(names)}, {own:.0%} of the cells that tell{second}"
        most = f" (most: {'; '.join(others[:2])} of the cells that tell)" if others else ""
        return f"none is clear{most}: the types of all tissues"


UNKNOWN_TISSUE = FoundTissue()
"""Nothing is said of it."""


class Votes(msgspec.Struct, frozen=True):
    """What cells say of their tissue together; those of parts of a sample can be added.

    Attributes
    ----------
    classes
        The probability of each class at the gene level, summed over the cells; empty without any.
    n_cells
        How many have a say.
    """

    classes: list[float] = []
    n_cells: int = 0

    @classmethod
    def of(cls, log_p: Array, empty: Array) -> Votes:
        """Return those of some cells; parameters as of :meth:`Rules.found`."""
        sums = np.zeros(log_p.shape[1])
        for i in range(0, len(log_p), VOTE_CELLS):
            rows = slice(i, i + VOTE_CELLS)
            p = np.exp(log_p[rows][~empty[rows]], dtype=np.float64)
            sums += p.sum(axis=0)
        return cls(sums.tolist(), int((~empty).sum()))

    @classmethod
    def added(cls, parts: Sequence[Votes]) -> Votes:
        """Return those of all cells of some parts."""
        sums = [sum(each) for each in zip(*(p.classes for p in parts), strict=True)]
        return cls(sums, sum(p.n_cells for p in parts))


NO_VOTES = Votes()


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
    organs
        Of each tissue, the tissue of any age.
    fluid
        Of each tissue, whether all of its cells circulate.
    everywhere
        (n_classes,) classes that stay whatever tissue is chosen.
    resident
        (n_classes,) those that no fluid has.
    types
        (n_classes,) names of the types.
    close
        What :func:`~scbignn_infer.annotation.kinship.kinship` returns, if types that go leave what
        is said for them to their kin.
    """

    names: list[str]
    tested: list[bool]
    organs: Array
    fluid: Array
    place: Array
    everywhere: Array
    resident: Array
    types: Array
    close: Array | None

    @classmethod
    def of(cls, spec: BundleSpec) -> Tissues:
        """Return those of a model."""
        names, close = [tissue.name for tissue in spec.tissues], None
        if spec.elsewhere == "kin":
            close = kinship([c.ontology_id for c in spec.cell_types], spec.ontology)
        return cls(
            names,
            [bool(tissue.tested) for tissue in spec.tissues],
            np.array([tissue.organ or tissue.name for tissue in spec.tissues]),
            np.array([tissue.fluid for tissue in spec.tissues]),
            np.array([names.index(c.tissue) if c.tissue else -1 for c in spec.cell_types]),
            np.array([c.everywhere or not c.tissue for c in spec.cell_types]),
            np.array([c.resident for c in spec.cell_types]),
            np.array([c.called for c in spec.cell_types]),
            close,
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
        """Return the classes (n_classes,) that stay if some tissues are chosen; all if none is.

        A young tissue grows into all types of its organ: those that are not known of its age stay
        from the other ages.
        """
        if not chosen:
            return np.ones(len(self.place), dtype=bool)
        own = [self.names.index(name) for name in chosen]
        stays = self.everywhere & ~self.resident if self.fluid[own].all() else self.everywhere
        stays = stays | np.isin(self.place, own)
        for i in own:
            if self.organs[i] != self.names[i]:
                known = np.isin(self.types, self.types[self.place == i])
                stays |= (self.organs[self.place] == self.organs[i]) & (self.place >= 0) & ~known
        kept: Array = stays
        return kept

    def compared(self, given: FoundTissue, cast: Votes) -> FoundTissue:
        """Return tissues that were given, and what the cells seem to be of if it is another."""
        found = self.find(cast)
        organ = dict(zip(self.names, self.organs.tolist(), strict=True))
        same = {organ[name] for name in given.chosen} & {organ[name] for name in found.chosen}
        if found.how != "found" or same:
            return given
        seems = {name: share for name, share in found.shares.items() if name in found.chosen}
        return msgspec.structs.replace(given, seems=seems)

    def find(self, cast: Votes) -> FoundTissue:
        """Find the tissue of some cells by their votes.

        Each cell votes with the probabilities of the classes that one tissue alone has; those that
        occur everywhere abstain. Tissues of one organ at several ages stand together. If nearly all
        cells abstain, the tissue may be one that has no other types.
        """
        cells, n, own = np.array(cast.classes), max(cast.n_cells, 1), ~self.everywhere
        votes: Array = np.bincount(self.place[own], cells[own], minlength=len(self.names))
        told = float(votes.sum())
        votes, telling = votes / max(told, 1e-12), round(told / n, 4)
        organs, organ = np.unique(self.organs, return_inverse=True)
        by_organ = np.bincount(organ, votes, minlength=len(organs))
        second, best = np.sort(np.append(by_organ, 0.0))[-2:]
        enough = told >= max(ENOUGH_CELLS, ENOUGH_SHARE * n)
        if enough and best >= CLEAR_SHARE and second <= best / 2:
            ages = np.where(organ == by_organ.argmax(), votes, 0.0)
            return self._taken("found", telling, votes, ages, AGE)
        common, together = self._commonness(cells / n)
        if told <= MOST_TELLING * n and together >= COMMON_SHARE:
            shared = ~own & (self.place >= 0)
            mass = np.bincount(self.place[shared], cells[shared], minlength=len(self.names))
            nearest = np.where(common > 0, mass / n, 0.0)
            evidence = nearest if nearest.max() >= ENOUGH_SHARE else common
            return self._taken("common", telling, common, evidence, TIE)
        return FoundTissue("unclear", telling=telling, shares=self._largest(votes))

    def _commonness(self, cells: Array) -> tuple[Array, float]:
        """Return what share of the cells is of the types of each tissue without other ones.

        The second is the share of the cells that are of the types of any of them.
        """
        found = np.zeros(len(self.names))
        common = set(range(len(self.names))) - set(self.place[~self.everywhere].tolist())
        for i in common:
            found[i] = cells[np.isin(self.types, self.types[self.place == i])].sum()
        types = self.types[np.isin(self.place, list(common))]
        return found, float(cells[np.isin(self.types, types)].sum())

    def _largest(self, shares: Array) -> dict[str, float]:
        order = np.argsort(-shares, kind="stable")[:MOST_SHARES]
        return {self.names[i]: round(float(shares[i]), 4) for i in order if shares[i] >= NONE}

    def _taken(
        self, how: str, telling: float, shares: Array, evidence: Array, least: float
    ) -> FoundTissue:
        order = np.argsort(-np.round(evidence, 4), kind="stable")
        chosen = [self.names[i] for i in order if evidence[i] >= least * evidence.max()]
        return FoundTissue(how, chosen, self._untested(chosen), telling, self._largest(shares))

    def _untested(self, chosen: Sequence[str]) -> list[str]:
        return [name for name in chosen if not self.tested[self.names.index(name)]]
