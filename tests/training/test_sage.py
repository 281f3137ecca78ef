from __future__ import annotations

import numpy as np
import pytest
import torch

from scbignn_training.cell_level import CellGraph, CellLevel, fit_cell_level
from scbignn_training.sage import SageLayer
from scbignn_training.settings import Settings

SETTINGS = Settings(cell_form="sage", sage_hidden=6, cell_epochs=30)
N_TYPES = 4


def random_layer():
    """Return a layer with random weights everywhere."""
    torch.manual_seed(1)
    layer = SageLayer(N_TYPES, SETTINGS)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return layer.requires_grad_(False)


def dense(layer, log_p, shield, adjacency):
    """Work the layer out with the (n, n) matrix of edges, row-normalised."""
    weight = {k: v.numpy().astype(float) for k, v in layer.named_parameters()}
    x = np.log(np.exp(log_p) + 1e-4)
    mean = adjacency / np.maximum(adjacency.sum(axis=1, keepdims=True), 1) @ x
    h = mean @ weight["conv.lin_l.weight"].T + weight["conv.lin_l.bias"]
    h = h + x @ weight["conv.lin_r.weight"].T
    h = np.maximum(h / np.linalg.norm(h, axis=1, keepdims=True), 0)
    new = log_p + shield * (h @ weight["out.weight"].T + weight["out.bias"])
    return new - np.log(np.exp(new).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("chance", [0.05, 0.3, 1.0])
def test_a_layer_is_a_product_with_the_adjacency_matrix(chance):
    """Of any degree, none too."""
    rng = np.random.default_rng(3)
    adjacency = (rng.random((25, 25)) < chance).astype(float)
    adjacency[7] = 0
    target, source = np.nonzero(adjacency)
    log_p = torch.from_numpy(rng.normal(0, 2, (25, N_TYPES))).float().log_softmax(1)
    shield = torch.linspace(0.2, 1, 25)[:, None]
    edges = torch.from_numpy(np.stack([source, target]))
    layer = random_layer()
    found = layer(log_p, shield, edges, torch.ones(len(source)))
    expected = dense(layer, log_p.double().numpy(), shield.double().numpy(), adjacency)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected - log_p.numpy()).max() > 0.1


def test_an_impossible_type_stays_finite():
    """The exported form sees probabilities, and a float32 one may be 0."""
    log_p = torch.tensor([[0.0, -150.0, -90.0, -3.0]]).log_softmax(1)
    edges = torch.zeros(2, 1, dtype=torch.int64)
    layer, one = random_layer(), torch.ones(1, 1)
    found = layer(log_p, one, edges, torch.ones(1))
    assert bool(found.isfinite().all())
    near = log_p.exp()[:, None]
    fixed = layer.fixed(dict(layer.named_parameters()), log_p, one, near, one, one)
    torch.testing.assert_close(fixed, found)


@torch.no_grad()
def test_an_untrained_level_says_what_the_gene_level_says(clusters):
    graph = clusters(0)
    level = CellLevel(torch.ones(N_TYPES), SETTINGS, share=1.0)
    torch.testing.assert_close(level(graph.gene_logits, graph), graph.gene_logits)


@torch.no_grad()
def test_training_learns_to_trust_good_neighbours(clusters):
    with torch.enable_grad():
        level = fit_cell_level([clusters(0), clusters(1)], torch.ones(N_TYPES), SETTINGS, share=0.8)
    assert not level.training
    assert level.share == 0.8
    graph = clusters(7)
    codes = graph.targets.argmax(1)
    before = (graph.gene_logits.argmax(1) == codes).float().mean()
    after = (level(graph.gene_logits, graph).argmax(1) == codes).float().mean()
    assert float(before) < 0.7
    assert float(after) > float(before) + 0.15


@torch.no_grad()
def test_an_m_step_learns_from_pseudo_labels_too(clusters):
    graphs, other = [clusters(0), clusters(1)], clusters(5)
    swapped = CellGraph(
        other.embedding,
        other.gene_logits,
        other.neighbor_indices,
        other.neighbor_similarity,
        other.targets.roll(1, 1),
    )
    with torch.enable_grad():
        taught, misled = (
            fit_cell_level(graphs, torch.ones(N_TYPES), settings, share=1.0, unlabelled=swapped)
            for settings in (
                Settings(cell_form="sage", pseudo_weight_cell=0.0),
                Settings(cell_form="sage", pseudo_weight_cell=0.9),
            )
        )
    wrong = swapped.targets.argmax(1)
    share = [
        float((level(other.gene_logits, other).argmax(1) == wrong).float().mean())
        for level in (taught, misled)
    ]
    assert share[1] > share[0] + 0.2
