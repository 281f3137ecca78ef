"""All that a report and figures are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.report.composition import Composition
from scbignn_infer.report.palette import looks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer.model.bundle import BundleSpec
    from scbignn_infer.report.labelled import Labelled
    from scbignn_infer.report.layout import CellMap
    from scbignn_infer.report.markers import Markers
    from scbignn_infer.report.palette import Look


@dataclass(frozen=True)
class Findings:
    """The labels of a file's cells, and what is shown beside them."""

    name: str
    """Of the file."""
    labelled: Labelled
    cell_names: Sequence[str]
    cell_map: CellMap
    spec: BundleSpec | None = None
    """The model, if it is at hand."""
    markers: Markers | None = None
    samples: Sequence[str] | None = None
    """Of each cell, if there are several."""
    warnings: Sequence[str] = ()

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """How each label is drawn, in their order."""
        return looks(self.labelled.order, UNKNOWN)

    @cached_property
    def composition(self) -> Composition:
        """Cells of each label in each sample."""
        return Composition.of(self.labelled.labels, self.labelled.order, self.samples)
