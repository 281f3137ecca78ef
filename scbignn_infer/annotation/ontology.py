"""Labels of any depth: a model's types, and the terms of the Cell Ontology that join them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.annotation.rows import slices
from scbignn_infer.network.blas import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.model.bundle import BundleSpec, Node

BLOCK = 4096
"""Cells at once."""
LARGE_BLOCK = 1 << 16
"""The same where each block has work of its own, beside that of its cells."""
ROUNDING = 1e-6
"""Of a sum of probabilities."""
BETWEEN = "|"
"""The names of a set."""


@dataclass(frozen=True)
class Ontology:
    """The labels that cells may be given: types first, then terms that join several of them.

    Attributes
    ----------
    labels, ontology_ids
        Names of the labels, and their ids or empty strings.
    holds
        (n_labels, n_types) which types a label is true of. A type that is above other types holds
        them, too.
    """

    labels: list[str]
    ontology_ids: list[str]
    holds: Array
    descends: bool = False
    """Whether the best type is found from the top downwards."""
    power: float = 1.0
    """To which the share of a set is raised, see :meth:`sets`."""

    @classmethod
    def flat(cls, labels: list[str], ontology_ids: list[str]) -> Ontology:
        """Return types that nothing joins."""
        return cls(labels, ontology_ids, np.eye(len(labels), dtype=bool))

    @classmethod
    def of(cls, spec: BundleSpec, grouping: Grouping) -> Ontology:
        """Return the labels of a grouping of a model's classes, and what joins them."""
        found = cls.above(spec.ontology, [c.ontology_id for c in spec.cell_types], grouping)
        return replace(found, descends=spec.best == "descent", power=spec.thresholds.sets)

    @classmethod
    def above(cls, nodes: Sequence[Node], class_ids: list[str], grouping: Grouping) -> Ontology:
        """Return the labels of a grouping, and which of some terms join them.

        A term joins the groups all of whose classes are below it. It is no label if it joins fewer
        than two groups or all, or the same ones as a narrower term.
        """
        labels, ids, n = list(grouping.labels), list(grouping.ontology_ids), len(grouping.labels)
        holds, joined = list(np.eye(n, dtype=bool)), set[bytes]()
        for node in sorted(nodes, key=lambda node: len(node.below)):
            outside = grouping.kept & ~np.isin(class_ids, node.below)
            held = np.bincount(grouping.group[outside], minlength=n) == 0
            own = [i for i in range(n) if ids[i] == node.ontology_id]
            if len(own) == 1:
                holds[own[0]] = holds[own[0]] | held
            elif not 1 < held.sum() < n or node.label in labels or held.tobytes() in joined:
                continue
            else:
                labels.append(node.label)
                ids.append(node.ontology_id)
                holds.append(held)
            joined.add(held.tobytes())
        return cls(labels, ids, np.array(holds))

    @property
    def n_types(self) -> int:
        """Number of types, which are the first of the labels."""
        return len(self.holds[0])

    @cached_property
    def size(self) -> Array:
        """(n_labels,) number of types that each label is true of."""
        size: Array = self.holds.sum(axis=1)
        return size

    @property
    def joins(self) -> list[int]:
        """Codes of the labels that are true of several types."""
        return np.flatnonzero(self.size > 1).tolist()

    def best(self, probabilities: Array) -> Array:
        """Return the best type (n,) by probabilities (n, n_types)."""
        best = np.empty(len(probabilities), np.int64)
        for rows in slices(len(probabilities), LARGE_BLOCK):
            part = probabilities[rows]
            best[rows] = self.descend(part) if self.descends else part.argmax(axis=1)
        return best

    def agreeing(self, probabilities: Array, codes: Array) -> Array:
        """Return the probability (n,) of the types that do not contradict some types (n,).

        That is the type's own, where types are told apart by their probabilities. What is found
        down the ontology may lie below a type that is more probable and says less, such as a naive
        CD4 T cell below a CD4 T cell: that type's probability counts, too.
        """
        found = np.empty(len(codes), probabilities.dtype)
        for rows in slices(len(codes), LARGE_BLOCK):
            found[rows] = self._agreeing(probabilities[rows], codes[rows])
        return found

    def _agreeing(self, probabilities: Array, codes: Array) -> Array:
        """Return what :meth:`agreeing` does of some cells."""
        found: Array = probabilities[np.arange(len(codes)), codes]
        if not self.descends:
            return found
        order = np.argsort(codes, kind="stable")
        present, first = np.unique(codes[order], return_index=True)
        for code, rows in zip(present, np.split(order, first[1:]), strict=True):
            above = np.flatnonzero(self.holds[: self.n_types, code])
            found[rows] = probabilities[np.ix_(rows, above)].sum(axis=1)
        return found

    @one_blas_thread()
    def deepest(self, probabilities: Array, least: float) -> tuple[Array, Array]:
        """Return the label of the fewest types that together are probable enough.

        Parameters
        ----------
        probabilities
            (n, n_types) of the types.
        least
            The sum that is enough. Where no label has it, the one of the largest sum is taken.

        Returns
        -------
        ndarray, ndarray
            (n,) codes of the labels, and the sums of their types.
        """
        codes, sums = np.zeros(len(probabilities), np.int64), np.zeros(len(probabilities))
        holds = self.holds.T.astype(probabilities.dtype)
        fewer = self.n_types + 1.0 - self.size
        for rows in slices(len(probabilities), BLOCK):
            together = probabilities[rows] @ holds
            code = (together + np.where(together >= least, fewer, 0.0)).argmax(axis=1)
            codes[rows] = code
            sums[rows] = together[np.arange(len(code)), code]
        return codes, sums

    def sets(self, probabilities: Array, share: float) -> Array:
        """Return the names (n,) of the fewest types that hold a share of the probability, joined.

        The share is raised to :attr:`power` first, so that of cells of studies that the model has
        not seen, this share has its true type in the set. Types that make up all of a wider label
        are named by it. A cell without probabilities has an empty set.
        """
        found, mass = np.empty(len(probabilities), dtype=object), share**self.power
        named: dict[bytes, str] = {}
        for i in range(0, len(probabilities), BLOCK):
            rows = probabilities[i : i + BLOCK]
            order = np.argsort(-rows, axis=1, kind="stable")
            sorted_sums = np.take_along_axis(rows, order, axis=1).cumsum(axis=1, dtype=np.float64)
            before = np.hstack([np.zeros((len(rows), 1)), sorted_sums[:, :-1]])
            taken = (before < mass - ROUNDING) & (rows.max(axis=1) > 0)[:, None]
            inside = np.zeros(rows.shape, dtype=bool)
            np.put_along_axis(inside, order, taken, axis=1)
            for j, held in enumerate(inside):
                key = held.tobytes()
                if key not in named:
                    named[key] = BETWEEN.join(self.names_of(held))
                found[i + j] = named[key]
        return found

    def names_of(self, inside: Array) -> list[str]:
        """Return few labels that are true of some types (n_types,) and of no others.

        A type that is above others is named if it is among them, with or without these.
        """
        codes, left = list[int](), inside.copy()
        for code in np.argsort(-self.size, kind="stable"):
            if (self.holds[code] <= inside).all() and (self.holds[code] & left).any():
                codes.append(int(code))
                left &= ~self.holds[code]
        return [self.labels[code] for code in sorted({*codes, *np.flatnonzero(left).tolist()})]

    @one_blas_thread()
    def descend(self, probabilities: Array) -> Array:
        """Return the types (n,) that are found from the top of the ontology downwards.

        At each label the most probable of those right below it is taken, by the sum of its types.
        A crowd of related types so outweighs a lone one, and a type that is above others is taken
        only if none of these is there.
        """
        codes = np.zeros(len(probabilities), np.int64)
        stack = [(np.ones(self.n_types, dtype=bool), np.arange(len(probabilities)))]
        while stack:
            inside, rows = stack.pop()
            below = self._right_below(inside)
            best = (probabilities[rows] @ below.T.astype(probabilities.dtype)).argmax(axis=1)
            for i in np.unique(best):
                if below[i].sum() == 1:
                    codes[rows[best == i]] = below[i].argmax()
                else:
                    stack.append((below[i], rows[best == i]))
        return codes

    def _right_below(self, inside: Array) -> Array:
        """Return the widest sets of types (k, n_types) within a set of two or more."""
        key = inside.tobytes()
        if key not in self._branches:
            self._branches[key] = self._widest(inside)
        return self._branches[key]

    @cached_property
    def _branches(self) -> dict[bytes, Array]:
        """What is right below the sets that have been met."""
        return {}

    def _widest(self, inside: Array) -> Array:
        alone = np.eye(self.n_types, dtype=bool)[inside]
        whole = (self.holds[: self.n_types][inside] >= inside).all(axis=1)
        if not whole.all():
            alone = alone[~whole]
        within = (self.holds <= inside).all(axis=1) & (self.size < inside.sum()) & (self.size > 1)
        sets = np.unique(np.vstack([alone, self.holds[within]]), axis=0)
        contained = (sets[:, None] <= sets[None]).all(axis=2)
        widest: Array = sets[contained.sum(axis=1) == 1]
        return widest
