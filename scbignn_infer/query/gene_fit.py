"""How tables of genes fit a model: what is worked out of names alone, once for many queries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scbignn_infer.network.panel import Panel
from scbignn_infer.query.gene_match import ModelGenes, match_genes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.query.gene_match import GeneMatch
    from scbignn_infer.settings import Reading

MOST_FITS = 4
"""Gene tables that are remembered; one holds up to about 10 MB."""


class GeneFit:
    """How one table of genes fits a model.

    Attributes
    ----------
    match
        The join of the names.
    accepted
        Least coverages at which the genes were found enough and of the model's species.
    """

    def __init__(self, bundle: ModelBundle, match: GeneMatch) -> None:
        self.bundle, self.match = bundle, match
        self.accepted: set[float | None] = set()

    @cached_property
    def panel(self) -> Panel:
        """The genes in the model, for rows of counts, worked out when they are first asked for."""
        return Panel.of(self.bundle, self.match)


class GeneFits:
    """How tables of genes fit a model; the last few are remembered. Threads may share it.

    ``genes`` are what :func:`model_genes` returns, where that has been asked already.
    """

    def __init__(self, bundle: ModelBundle, genes: ModelGenes | None = None) -> None:
        self.bundle, self.genes = bundle, genes or model_genes(bundle)
        self._held: OrderedDict[Any, GeneFit] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"bundle": self.bundle, "genes": self.genes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._held, self._lock = OrderedDict(), threading.Lock()

    def of(self, columns: Mapping[str, Sequence[str]], reading: Reading) -> GeneFit:
        """Return how the columns of a table fit, by the user's wishes on how they are read."""
        wishes = reading.gene_column, reading.allow_species_mismatch
        key = (wishes, tuple((name, tuple(values)) for name, values in columns.items()))
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        match = match_genes(columns, self.genes, column=wishes[0], any_case=wishes[1])
        fit = GeneFit(self.bundle, match)
        with self._lock:
            self._held[key] = fit
            while len(self._held) > MOST_FITS:
                self._held.popitem(last=False)
        return fit


def model_genes(bundle: ModelBundle) -> ModelGenes:
    """Return the genes of a model; those whose means differ between its types weigh more."""
    spec = bundle.spec
    class_mean = bundle.statistics["class_mean"][:, : spec.gene_level.net_genes]
    return ModelGenes(
        bundle.gene_symbols,
        [g.ensembl_id for g in spec.genes],
        spec.species,
        class_mean.var(axis=0),
        spec.preprocessing.min_genes,
    )
