"""Which labels cells are given: from what on they are unknown, and how coarse labels are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.tissues import NO_VOTES, UNKNOWN_TISSUE, Tissues, Votes
from scbignn_infer.errors import InputError
from scbignn_infer.settings import RuleKeywords, Settings, shown

if TYPE_CHECKING:
    from typing import Unpack

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.tissues import FoundTissue
    from scbignn_infer.model.bundle import ModelBundle

NEVER_UNKNOWN = -1000.0
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
    least
        Labels are the deepest whose types are as probable together; 0: labels are types.
    sets
        The share of a cell's probability that a set of labels holds; 0: no sets.
    tissues
        Those of a body model that are to be found from the cells, or None.
    tissue
        What is known of the tissue already.
    votes
        What the cells say of it, if they were asked.
    adapt
        Whether the model's means are first estimated once more with the query's cells.
    mixtures
        Whether cells between two types are named, too.
    model
        SHA-256 of the model's record that they are for; empty for any.

    Examples
    --------
    >>> from scbignn_infer import Rules, load_model
    >>> Rules.of(load_model("human-pbmc"), level=1, unknown_threshold=0.9).threshold
    0.9
    """

    grouping: Grouping
    threshold: float
    max_novelty: float = 1.0
    least: float = 0.0
    sets: float = 0.0
    tissues: Tissues | None = None
    tissue: FoundTissue = UNKNOWN_TISSUE
    votes: Votes = NO_VOTES
    adapt: bool = False
    mixtures: bool = False
    model: str = ""

    @property
    def limits(self) -> dict[str, Any]:
        """What an annotation and its record keep of when cells are unknown."""
        return {
            "confidence_threshold": self.threshold,
            "max_novelty": self.max_novelty,
            "label_threshold": self.least,
            "sets": self.sets,
        }

    def stricter(self, usual: float) -> list[str]:
        """Return the bounds that call more cells unknown than a model's own do, in words.

        ``usual`` is the model's threshold.
        """
        return [
            *([f"--unknown-threshold {self.threshold:g}"] if self.threshold > usual else []),
            *([f"--max-novelty {self.max_novelty:g}"] if self.max_novelty < 1 else []),
        ]

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
            A group is named for what is no type of the model, or the model has no such tissue.
        """
        chosen, spec = Settings.of(settings, RuleKeywords), bundle.spec
        grouping = Grouping.by_level(spec.cell_types, chosen.level)
        if chosen.groups is not None:
            grouping = Grouping.by_map(spec.cell_types, chosen.groups)
        usual, threshold = spec.thresholds.confidence, chosen.unknown_threshold
        limits = (usual if threshold is None else threshold), chosen.max_novelty
        least = spec.thresholds.label if chosen.depth == "sure" else 0.0
        least = max(least, threshold or 0.0) if least else 0.0
        if not chosen.unknown:
            limits = NEVER_UNKNOWN, 1.0
        tissues = Tissues.of(spec)
        tissue = tissues.given(spec.name, chosen.tissue)
        known = tissues if tissues.names else None
        depth = least, chosen.sets or 0.0
        rules = cls(grouping, *limits, *depth, known, adapt=chosen.adapt, mixtures=chosen.mixtures)
        return replace(rules.on(tissue), model=bundle.sha256)

    def check(self, bundle: ModelBundle) -> None:
        """Refuse to be the rules of another model, whose types have other places.

        Raises
        ------
        InputError
            They were made for another model.
        """
        if self.model not in ("", bundle.sha256):
            raise InputError(
                f"rules that are not those of {bundle.name}",
                expected="rules of the annotator's own model",
                do="make them with Rules.of(annotator.bundle, ...)",
            )

    def on(self, tissue: FoundTissue) -> Rules:
        """Return the rules for cells of a tissue: the types that it has not are gone."""
        if self.tissues is None or not tissue.how:
            return self
        kept, close = self.tissues.kept(tissue.chosen), self.tissues.close
        return replace(self, grouping=self.grouping.only(kept, close), tissue=tissue)

    def found(self, log_p: Array, empty: Array) -> Rules:
        """Return the rules for some cells, whose tissue is found, or compared with the given one.

        Parameters
        ----------
        log_p
            (n, n_classes) log-probabilities of the gene level.
        empty
            (n,) cells that have no say.
        """
        if self.tissues is None or self.tissue.how not in ("", "given"):
            return self
        votes = Votes.of(log_p, empty)
        if self.tissue.how == "given":
            return replace(self, tissue=self.tissues.compared(self.tissue, votes), votes=votes)
        return replace(self.on(self.tissues.find(votes)), votes=votes)
