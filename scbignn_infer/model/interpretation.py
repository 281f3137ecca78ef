"""Whether a gene carries a type because its cells have it, or because they lack it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scbignn_infer.model.bundle import GeneWeight, Interpretation

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import BundleSpec


def signed_interpretation(spec: BundleSpec, class_mean: Array) -> dict[str, Interpretation]:
    """Give the weights of a model's genes their sign.

    A bundle keeps how much of a type's log-probability a gene makes on the way from the mean of the
    other types, whichever way that leads. Here a weight is positive where the cells of the type
    have more of the gene than the other types' mean, and negative where they have less.

    Parameters
    ----------
    spec
        Of the model.
    class_mean
        (n_types, n_ranked_genes) means of scaled expression, from ``statistics.npz``.

    Returns
    -------
    dict of str to Interpretation
        By type: genes that speak by their presence, then those that speak by their absence, the
        heaviest of each first. Genes without a mean are left out.
    """
    place = {gene.symbol: i for i, gene in enumerate(spec.genes[: class_mean.shape[1]])}
    found, total = {}, class_mean.sum(axis=0)
    for code, cell_type in enumerate(spec.cell_types):
        own = spec.interpretation.get(cell_type.label)
        if own is None:
            continue
        rise = class_mean[code] - (total - class_mean[code]) / (len(class_mean) - 1)
        genes = [
            GeneWeight(symbol=g.symbol, weight=g.weight if rise[place[g.symbol]] > 0 else -g.weight)
            for g in own.genes
            if g.symbol in place
        ]
        genes.sort(key=lambda gene: gene.weight < 0)
        found[cell_type.label] = Interpretation(genes=genes, pairs=own.pairs)
    return found


def by_presence(genes: list[GeneWeight]) -> list[GeneWeight]:
    """Return the genes that a type's cells have more of than others."""
    return [gene for gene in genes if gene.weight > 0]


def by_absence(genes: list[GeneWeight]) -> list[GeneWeight]:
    """Return the genes that a type's cells lack."""
    return [gene for gene in genes if gene.weight < 0]
