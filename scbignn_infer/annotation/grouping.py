"""Coarser labels: groups of a model's types, whose probabilities are summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import CellType


@dataclass(frozen=True)
class Grouping:
    """Groups that each of a model's types belongs to one of.

    Attributes
    ----------
    labels, ontology_ids
        Names of the groups, and their ids or empty strings.
    group
        (n_classes,) the group of each type.
    """

    labels: list[str]
    ontology_ids: list[str]
    group: Array

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
            0 leaves them as they are; each level joins groups that have no smaller ones left.
        """
        names = []
        for c in cell_types:
            within = [term for term in c.lineage if term.level <= level]
            own = (c.label, c.ontology_id)
            names.append((within[-1].label, within[-1].ontology_id) if within else own)
        return cls.of(names)

    @classmethod
    def by_map(cls, cell_types: Sequence[CellType], groups: Mapping[str, str]) -> Grouping:
        """Group types by name; those that are not named stay as they are.

        Raises
        ------
        InputError
            A name is not one of the model's types.
        """
        known = {c.label: c.ontology_id for c in cell_types}
        wrong = [label for label in groups if label not in known]
        if wrong:
            raise InputError(
                f"the map names '{wrong[0]}', which is no type of the model",
                expected=f"some of {', '.join(known)}",
                do="mend the map, or see: scbignn-infer models show",
            )
        return cls.of([(groups[c], "") if c in groups else (c, i) for c, i in known.items()])

    def sum(self, probabilities: Array) -> Array:
        """Return the probabilities of the groups, (n, n_groups) of (n, n_classes)."""
        summed = np.zeros((len(probabilities), len(self.labels)), probabilities.dtype)
        for code, group in enumerate(self.group):
            summed[:, group] += probabilities[:, code]
        return summed
