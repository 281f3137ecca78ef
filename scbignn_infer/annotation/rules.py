"""Which labels cells are given: from what on they are unknown, and how coarse labels are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.settings import RuleKeywords, Settings, shown

if TYPE_CHECKING:
    from typing import Unpack

    from scbignn_infer.model.bundle import ModelBundle

NEVER_UNKNOWN = -2.0
"""A threshold that no cell is below."""


@dataclass(frozen=True)
class Rules:
    """Which labels cells are given; an annotator follows other ones in each call.

    Attributes
    ----------
    grouping
        The labels, groups of the model's types.
    threshold
        Cells are unknown below it, by their :attr:`~scbignn_infer.Annotation.support`.
    max_novelty
        Cells are unknown above it, too, by their novelty.
    adapt
        Whether the model's means are first estimated once more with the query's cells.

    Examples
    --------
    >>> from scbignn_infer import Rules, load_model
    >>> Rules.of(load_model("human-pbmc"), level=1, unknown_threshold=0.9).threshold
    0.9
    """

    grouping: Grouping
    threshold: float
    max_novelty: float = 1.0
    adapt: bool = False

    @property
    def limits(self) -> dict[str, Any]:
        """What an annotation and its record keep of when cells are unknown."""
        return {"confidence_threshold": self.threshold, "max_novelty": self.max_novelty}

    @classmethod
    @shown(RuleKeywords)
    def of(cls, bundle: ModelBundle, **settings: Unpack[RuleKeywords]) -> Rules:
        """Return the rules of a model with some settings.

        Parameters
        ----------
        bundle
            The model.
        **settings

        Raises
        ------
        InputError
            A group is named for what is no type of the model.
        """
        chosen, spec = Settings.of(settings, RuleKeywords), bundle.spec
        grouping = Grouping.by_level(spec.cell_types, chosen.level)
        if chosen.groups is not None:
            grouping = Grouping.by_map(spec.cell_types, chosen.groups)
        if not chosen.unknown:
            return cls(grouping, NEVER_UNKNOWN, adapt=chosen.adapt)
        usual, threshold = spec.thresholds.confidence, chosen.unknown_threshold
        bar = usual if threshold is None else threshold
        return cls(grouping, bar, chosen.max_novelty, chosen.adapt)
