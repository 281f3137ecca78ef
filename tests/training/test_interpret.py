"""Integrated gradients against their axiom, and pairs against the programs' attention."""

from __future__ import annotations

import numpy as np
import torch

import scbignn_infer
from scbignn_infer.model.interpretation import signed_interpretation
from scbignn_infer.network.panel import TARGET_SUM
from scbignn_training.gene_level import Panel
from scbignn_training.interpret import _integrated, interpret


def test_weights_add_up_to_the_change_of_the_log_probability(model, gold, settings) -> None:
    """Completeness (Sundararajan et al. 2017), within what 16 steps of a steep way allow."""
    gene = model.pair.gene
    panel = Panel(gene, gold.present, settings.panel_genes)
    for code in range(3):
        rows = np.flatnonzero(gold.codes == code)[:10]
        counts, totals = panel.inputs(gold.counts[rows], gold.totals[rows])
        weight = _integrated(gene, panel, counts, totals, code)
        others = np.delete(gene.statistics["class_mean"][:, panel.genes], code, axis=0)
        mean, scale = (gene.statistics[k][panel.genes] for k in ("gene_mean", "gene_scale"))
        start = torch.tensor(mean + scale * others.mean(axis=0), dtype=torch.float32).clamp(min=0)
        with torch.no_grad():
            _, end = gene(counts, totals, panel.tables)
            begin = torch.expm1(start).expand_as(counts) * (totals / TARGET_SUM)
            _, first = gene(begin, totals, panel.tables)
        change = float((end - first)[:, code].mean())
        assert abs(float(weight.sum()) - change) < 0.25 * abs(change) + 0.2


def test_genes_and_pairs_of_each_type(model, gold, settings) -> None:
    gene = model.pair.gene
    panel = Panel(gene, gold.present, settings.panel_genes)
    symbols = [f"gene{i}" for i in range(len(gold.present))]
    n = len(model.reference.cell_types)
    found = interpret(gene, panel, gold, symbols, n)
    assert len(found) == n
    for of_type in found:
        weights = [g.weight for g in of_type.genes]
        assert weights == sorted(weights, reverse=True)
        assert all(w > 0 for w in weights)
        pairs = [p.weight for p in of_type.pairs]
        assert pairs == sorted(pairs, reverse=True)
        assert all(a != b for a, b in (p.genes for p in of_type.pairs))
    assert found == interpret(gene, panel, gold, symbols, n)
    assert len({tuple(g.symbol for g in f.genes[:3]) for f in found}) == n


def test_the_means_of_the_types_tell_whether_a_gene_is_present_or_absent(
    model, gold, settings, bundle
) -> None:
    """As the cells themselves do: the way from the other types' mean to them leads up or down."""
    gene = model.pair.gene
    panel = Panel(gene, gold.present, settings.panel_genes)
    mean, scale = (gene.statistics[k][panel.genes] for k in ("gene_mean", "gene_scale"))
    loaded = scbignn_infer.load_model(bundle)
    signed = signed_interpretation(loaded.spec, loaded.statistics["class_mean"])
    same = []
    for code, label in enumerate(loaded.cell_types):
        rows = np.flatnonzero(gold.codes == code)
        counts, totals = panel.inputs(gold.counts[rows], gold.totals[rows])
        others = np.delete(gene.statistics["class_mean"][:, panel.genes], code, axis=0)
        own = torch.log1p(counts * (TARGET_SUM / totals)).mean(dim=0).numpy()
        rise = dict(
            zip(
                (model.reference.symbols[i] for i in panel.genes),
                own - np.maximum(mean + scale * others.mean(axis=0), 0),
                strict=True,
            )
        )
        same += [(g.weight > 0) == (rise[g.symbol] > 0) for g in signed[label].genes]
    assert 0 < sum(g.weight < 0 for found in signed.values() for g in found.genes) < len(same)
    assert np.mean(same) > 0.95
