"""Labels: groups of a model's classes, whose probabilities are summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.annotation.chances import logsumexp
from scbignn_infer.annotation.kinship import inherit
from scbignn_infer.errors import InputError
from scbignn_infer.network.levels import READ_CELLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import CellType

GONE = -1e30
"""Log-probability of a class that no cell may be of: finite, since the cell level multiplies it
by a probability of 0."""
WENT = GONE / 1e6
"""What the cell level makes of it is below: such classes have nothing to leave to their kin."""
NO_GROUPS = "", "unknown"
"""What no group may be called: cells without a label are."""


@dataclass(frozen=True)
class Grouping:
    """Groups that each of a model's classes belongs to one of, or to none.

    Attributes
    ----------
    labels, ontology_ids
        Names of the groups, and their ids or empty strings.
    group
        (n_classes,) the group of each class; -1 if no cell may be of it.
    close
        (n_classes, n_classes) what :func:`~scbignn_infer.annotation.kinship.kinship` returns, if
        those take over what is said for a class without a group.
    """

    labels: list[str]
    ontology_ids: list[str]
    group: Array
    close: Array | None = None

    @classmethod
    def each(cls, cell_types: Sequence[CellType]) -> Grouping:
        """Make a group of each type."""
        labels, ids = [c.label for c in cell_types], [c.ontology_id for c in cell_types]
        return cls(labels, ids, np.arange(len(labels)))

    @classmethod
    def of(cls, names: Sequence[tuple[str, str]]) -> Grouping:
        """Make groups of types with the same name and id."""
        groups = list(dict.fromkeys(label for label, _ in names))
        ids = dict(reversed(names))
        group = np.array([groups.index(label) for label, _ in names], np.int64)
        return cls(groups, [ids[label] for label in groups], group)

    @classmethod
    def by_level(cls, cell_types: Sequence[CellType], level: int) -> Grouping:
        """Group types along the ontology, as the bundle has it.

        Parameters
        ----------
        cell_types
            Those of the model.
        level
            0 joins classes of one name alone; each level joins groups that have no smaller ones
            left.
        """
        names = []
        for c in cell_types:
            within = [term for term in c.lineage if term.level <= level]
            own = (c.called, c.ontology_id)
            names.append((within[-1].label, within[-1].ontology_id) if within else own)
        return cls.of(names)

    @classmethod
    def by_map(cls, cell_types: Sequence[CellType], groups: Mapping[str, str]) -> Grouping:
        """Group types by name; those that are not named stay as they are.

        Raises
        ------
        InputError
            A name is not one of the model's types, or a group is called nothing or "unknown".
        """
        known = {c.called: c.ontology_id for c in cell_types}
        wrong = [label for label in groups if label not in known]
        if wrong:
            raise InputError(
                f"the map names '{wrong[0]}', which is no type of the model",
                expected=f"some of {', '.join(known)}",
                do="mend the map, or see: scbignn-infer models show",
            )
        misled = next((c for c, group in groups.items() if group.strip() in NO_GROUPS), None)
        if misled is not None:
            raise InputError(
                f"the map calls '{misled}' '{groups[misled]}'",
                expected="names of groups; cells without a label are called 'unknown'",
                do="choose another name in the map",
            )
        names = [c.called for c in cell_types]
        return cls.of([(groups[c], "") if c in groups else (c, known[c]) for c in names])

    def only(self, kept: Array, close: Array | None = None) -> Grouping:
        """Return the groups of some classes (n_classes,), as of a model that has no others."""
        names = list(zip(self.labels, self.ontology_ids, strict=True))
        part = Grouping.of([names[group] for group in self.group[kept]])
        group = np.full(len(self.group), -1)
        group[kept] = part.group
        return Grouping(part.labels, part.ontology_ids, group, close)

    @property
    def kept(self) -> Array:
        """(n_classes,) which classes cells may be of."""
        kept: Array = self.group >= 0
        return kept

    def narrow(self, log_p: Array) -> Array:
        """Return log-probabilities (n, n_classes) given that cells are of no class without a group.

        The array is changed in place, a block of reading at a time, since parts of a divided sample
        end where these do: a product of other rows differs in the last digit. Unless their kin
        takes over what is said for those classes, it is what a model without them would say: what
        all classes of a cell share cancels out of log-probabilities.
        """
        kept = self.kept
        if not kept.all():
            for i in range(0, len(log_p), READ_CELLS):
                rows = log_p[i : i + READ_CELLS]
                if self.close is not None and rows[:, ~kept].max() > WENT:
                    rows[:, kept] = inherit(rows, kept, self.close)
                rows[:, ~kept] = GONE
                rows -= logsumexp(rows)
        return log_p

    def sum(self, probabilities: Array) -> Array:
        """Return the probabilities of the groups, (n, n_groups) of (n, n_classes)."""
        summed = np.zeros((len(probabilities), len(self.labels)), probabilities.dtype)
        for code in np.flatnonzero(self.kept):
            summed[:, self.group[code]] += probabilities[:, code]
        return summed
