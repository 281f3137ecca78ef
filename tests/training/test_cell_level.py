from __future__ import annotations

import dataclasses
import math

import msgspec
import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from scbignn_training.cell_level import (
    FORMS,
    CellGraph,
    CellLevel,
    CellStep,
    fit_cell_level,
    homophily,
    level_steps,
    make_graph,
    noised,
    shield_of,
)
from scbignn_training.gate import FLOOR, RECIPROCITY, GateLayer
from scbignn_training.settings import Settings

SETTINGS = Settings(cell_epochs=30)
N_TYPES = 4


def random_graph(n, k, *, seed=0, hub=False):
    """Return a graph of ``n`` cells with random neighbours, most similar first."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(n)])
    own = order == torch.arange(n)[:, None]
    indices = order[:, :1] if n == 1 else order[~own].reshape(n, n - 1)[:, :k].contiguous()
    if hub:  # one cell is everybody's neighbour
        indices[~(indices == 0).any(1) & (torch.arange(n) > 0), k // 2] = 0
    similarity = torch.rand(n, k, generator=generator) * 2 - 1
    similarity = similarity.sort(dim=1, descending=True).values
    logits = torch.randn(n, N_TYPES, generator=generator).mul(2).log_softmax(1)
    targets = torch.eye(N_TYPES)[torch.randint(0, N_TYPES, (n,), generator=generator)]
    return CellGraph(torch.rand(n, 8, generator=generator), logits, indices, similarity, targets)


def random_level(share=0.5, shield=(1.0, 0.6, 0.2, 1.0), seed=1, form="gate"):
    """Return a cell level with random weights and open gates."""
    torch.manual_seed(seed)
    settings = msgspec.structs.replace(SETTINGS, cell_form=form)
    level = CellLevel(torch.tensor(shield), settings, share=share)
    with torch.no_grad():
        for parameter in level.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
        for layer in level.layers if form == "gate" else ():
            layer.gate_out.bias += 2.0
    return level.eval().requires_grad_(False)


def test_steps_on_larger_graphs_count_for_more():
    settings = Settings()
    small, large = (level_steps([n], 200, settings) for n in (100, 6000))
    assert small == 2 * settings.cell_epochs  # the graph and a part of it
    assert large == settings.cell_epochs * (25 + 12)
    assert level_steps([100, 6000, 6000], 200, settings) == small + 2 * large


def by_steps(level, graph, chunk=1000):
    """Run the exported form layer by layer, in chunks of cells."""
    step = CellStep(level).eval()
    own, state = graph.gene_logits, graph.gene_logits.exp()
    for layer in range(len(level.layers)):
        parts = [
            step(
                state,
                graph.reach,
                own[i : i + chunk],
                graph.gene_logits[i : i + chunk],
                graph.neighbor_indices[i : i + chunk],
                graph.neighbor_similarity[i : i + chunk],
                torch.tensor(layer),
            )
            for i in range(0, len(own), chunk)
        ]
        own, state = (torch.cat(part) for part in zip(*parts, strict=True))
    return own


GRAPHS = {
    "random": random_graph(40, 6),
    "hub": random_graph(40, 5, hub=True),
    "one neighbour": random_graph(12, 1),
    "two cells": random_graph(2, 1),
    "lone cell": random_graph(1, 1),  # which is its own neighbour
}
assert sum(0 in row for row in GRAPHS["hub"].neighbor_indices.tolist()) == 39


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_the_exported_form_is_the_graph_network(graph, chunk, share, form):
    level = random_level(share, form=form)
    expected = level(graph.gene_logits, graph)
    torch.testing.assert_close(by_steps(level, graph, chunk), expected, atol=1e-5, rtol=1e-5)
    assert len(graph.gene_logits) == 1 or float((expected - graph.gene_logits).abs().max()) > 0.05


def naive_layer(layer, log_p, shield, graph):
    """Walk over the cells of a directed graph and the neighbours of each."""
    p = np.exp(log_p)
    reach = {
        cell: min(s for _, _, s in graph.in_edges(cell, data="similarity")) for cell in graph.nodes
    }
    new = {}
    for cell in graph.nodes:
        edges = list(graph.in_edges(cell, data="similarity"))
        s = np.array([similarity for _, _, similarity in edges])
        agree = np.array([p[cell] @ p[near] for near, _, _ in edges])
        score = math.exp(layer.sharpness.item()) * (s - s.max()) + layer.affinity.item() * agree
        lost = np.array([min(0.0, similarity - reach[near]) for near, _, similarity in edges])
        score = score + math.exp(layer.reciprocity.item()) * lost
        attention = np.exp(score) / np.exp(score).sum()
        q = sum(a * p[near] for a, (near, _, _) in zip(attention, edges, strict=True))
        logs = np.log(q + 1e-4)
        features = [
            -sum(x * math.log(x) for x in p[cell]),
            -sum((x + 1e-4) * math.log(x + 1e-4) for x in q),
            max(p[cell]),
            max(q),
            p[cell] @ q,
            s.mean(),
            s.min(),
            agree.std(ddof=1) if len(agree) > 1 else 0.0,
        ]
        w1, b1, w2, b2 = (
            a.numpy().astype(float)
            for a in (*layer.gate_in.parameters(), *layer.gate_out.parameters())
        )
        hidden = w1 @ features + b1
        hidden = np.array([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
        gate = shield[cell] / (1 + math.exp(-(w2 @ hidden + b2)[0]))
        mixed = (1 - gate) * log_p[cell] + gate * logs
        new[cell] = mixed - math.log(sum(math.exp(x) for x in mixed))
    return np.array([new[cell] for cell in range(len(p))])


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_a_layer_is_a_walk_over_neighbours(graph):
    walk = nx.DiGraph()
    walk.add_nodes_from(range(len(graph.gene_logits)))
    for cell, (near, similarity) in enumerate(
        zip(graph.neighbor_indices.tolist(), graph.neighbor_similarity.tolist(), strict=True)
    ):
        for j, s in zip(near, similarity, strict=True):
            walk.add_edge(j, cell, similarity=s)
    assert walk.number_of_edges() == graph.neighbor_indices.numel()
    layer = random_level().layers[0]
    shield = torch.linspace(0.3, 1, len(graph.gene_logits))[:, None]
    similarity = graph.neighbor_similarity.reshape(-1)
    found = layer(graph.gene_logits, shield, graph.edge_index, similarity).numpy()
    expected = naive_layer(
        layer, graph.gene_logits.double().numpy(), shield.numpy().ravel().astype(float), walk
    )
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_degrees_may_differ():
    """The graph network needs no fixed number of neighbours."""
    walk = nx.gnp_random_graph(25, 0.15, seed=3, directed=True)
    walk.add_edges_from((0, i) for i in range(1, 25))
    walk.add_edge(1, 0)
    edges = [(a, b, 0.9 - 0.01 * ((7 * a + b) % 50)) for a, b in walk.edges]
    walk.add_weighted_edges_from(edges, weight="similarity")
    layer = random_level().layers[1]
    log_p = random_graph(25, 2).gene_logits
    edge_index = torch.tensor([[a, b] for a, b, _ in edges]).T
    similarity = torch.tensor([s for _, _, s in edges])
    found = layer(log_p, torch.ones(25, 1), edge_index, similarity).numpy()
    expected = naive_layer(layer, log_p.double().numpy(), np.ones(25), walk)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def attention(layer, graph):
    """Return the (n, n) weights of the neighbours of each cell.

    With a gate that is wide open and a type for each cell the answer is the attention itself.
    """
    n = len(graph.neighbor_indices)
    log_p = (torch.eye(n) + 1e-9).log().log_softmax(1)
    with torch.no_grad():
        layer.gate_out.bias.fill_(60.0)
        layer.gate_out.weight.zero_()
        edges = graph.edge_index, graph.neighbor_similarity.reshape(-1)
        mixed = layer(log_p, torch.ones(n, 1), *edges).exp()
    return mixed * (1 + n * FLOOR) - FLOOR


def test_a_neighbour_that_does_not_return_it_loses_its_weight():
    """Cell 0 is on the list of cell 1, whose similarity is far below its own reach."""
    indices = torch.tensor([[2, 3], [4, 0], [0, 3], [0, 2], [1, 0]])
    similarity = torch.tensor([[0.95, 0.9], [0.7, 0.69], [0.95, 0.9], [0.9, 0.9], [0.7, 0.6]])
    empty = torch.zeros(5, N_TYPES)
    graph = CellGraph(torch.zeros(5, 8), empty, indices, similarity, empty)
    torch.testing.assert_close(graph.reach, torch.tensor([0.9, 0.69, 0.9, 0.9, 0.6]))
    new, old = GateLayer(N_TYPES, SETTINGS), GateLayer(N_TYPES, SETTINGS)
    with torch.no_grad():
        old.reciprocity.fill_(-30.0)  # exp(-30): the term is off
    found, before = attention(new, graph), attention(old, graph)
    torch.testing.assert_close(found.sum(1), torch.ones(5), atol=1e-4, rtol=0)
    assert before[1, 0] > 0.45  # by similarity alone the hub counts as much as a friend
    assert before[4, 0] > 0.3
    assert found[1, 0] < 1e-4
    assert found[4, 0] < 1e-4
    torch.testing.assert_close(found[1, 4], torch.tensor(1.0), atol=1e-3, rtol=0)
    for cell in (0, 2, 3):  # neighbours of each other weigh what they weighed
        torch.testing.assert_close(found[cell], before[cell], atol=1e-4, rtol=0)


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.02, 0.1])
def test_the_loss_grows_with_the_distance_to_the_reach(gap):
    """A weight falls by exp(e^rho gap) against that of a neighbour that does return it."""
    indices = torch.tensor([[1, 2], [0, 2], [3, 1], [2, 1]])
    near = torch.tensor([0.8, 0.8 - gap])
    similarity = torch.stack([torch.tensor([0.8, 0.8]), near, near, near])
    similarity[2:] = torch.tensor([0.95, 0.8 + gap])
    empty = torch.zeros(4, N_TYPES)
    graph = CellGraph(torch.zeros(4, 8), empty, indices, similarity, empty)
    weights = attention(GateLayer(N_TYPES, SETTINGS), graph)[0]
    expected = torch.sigmoid(torch.tensor(-math.exp(RECIPROCITY) * gap))
    torch.testing.assert_close(weights[2], expected, atol=1e-4, rtol=1e-3)


def beside_a_large_population(n_rare=6, n_large=200, seed=0):
    """Return a graph of a dense population and of a few loose cells beside it, as neighbours.

    The gene level calls the few by a small margin.
    """
    torch.manual_seed(seed)
    codes = torch.cat([torch.zeros(n_large), torch.ones(n_rare)]).long()
    centre = torch.zeros(2, 10)
    centre[0, 0] = 1.0
    centre[1, :2] = torch.tensor([0.8, 0.6])
    spread = torch.tensor([0.05, 0.1])
    embedding = centre[codes] + spread[codes][:, None] * torch.randn(len(codes), 10)
    p = torch.tensor([[0.98, 0.02], [0.4, 0.6]])[codes]
    return make_graph(embedding, p.log(), torch.eye(2)[codes], SETTINGS), codes


@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_a_few_cells_beside_a_large_population_keep_their_label(seed):
    graph, codes = beside_a_large_population(seed=seed)
    rare = codes == 1
    of_the_few = rare[graph.neighbor_indices].sum(1)
    friends = rare & (of_the_few > 0)
    assert int(friends.sum()) >= 5
    assert int(of_the_few[rare].max()) < 8  # most of their neighbours are of the large
    assert not of_the_few[~rare].any()  # and none of those returns it
    levels = []
    for rho in (RECIPROCITY, -30.0):
        level = CellLevel(torch.ones(2), SETTINGS, share=1.0).eval()
        for layer in level.layers:
            layer.reciprocity.fill_(rho)
            layer.gate_out.bias.fill_(3.0)
        levels.append(level)
    new, old = (level(graph.gene_logits, graph).argmax(1) for level in levels)
    assert (new[friends] == 1).all()
    assert not new[~rare].any()
    assert not old.any()  # without the term they are outvoted
    torch.testing.assert_close(
        by_steps(levels[0], graph), levels[0](graph.gene_logits, graph), atol=1e-5, rtol=1e-5
    )


def test_the_exported_form_heeds_the_reach_of_cells_outside_the_chunk():
    torch.manual_seed(0)
    graph, level = random_graph(40, 6), random_level(share=1.0)
    step = CellStep(level).eval()
    first = [a[:5] for a in (graph.gene_logits, graph.gene_logits)]
    lists = graph.neighbor_indices[:5], graph.neighbor_similarity[:5]
    layer, state = torch.tensor(0), graph.gene_logits.exp()
    near, _ = step(state, graph.reach, *first, *lists, layer)
    reach = graph.reach.clone()
    reach[5:] = torch.linspace(-1, 1, 35)[torch.randperm(35)]
    far, _ = step(state, reach, *first, *lists, layer)
    assert float((near - far).abs().max()) > 0.01


def test_renaming_the_types_renames_the_answer():
    graph, level = random_graph(40, 6), random_level()
    order = torch.tensor([2, 0, 3, 1])
    renamed = random_level()
    renamed.shield = level.shield[order]
    found = renamed(graph.gene_logits[:, order], graph)
    torch.testing.assert_close(found, level(graph.gene_logits, graph)[:, order])


@pytest.mark.parametrize("form", FORMS)
def test_reordering_the_cells_reorders_the_answer(form):
    graph, level = random_graph(40, 6, hub=True), random_level(form=form)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    place = order.argsort()  # where each cell went
    moved = CellGraph(
        graph.embedding[order],
        graph.gene_logits[order],
        place[graph.neighbor_indices[order]],
        graph.neighbor_similarity[order],
        graph.targets[order],
    )
    found = level(moved.gene_logits, moved)
    expected = level(graph.gene_logits, graph)[order]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_shielded_types_keep_their_log_probabilities(form):
    graph = random_graph(40, 6)
    level = random_level(share=1.0, shield=(0.0,) * N_TYPES, form=form)
    torch.testing.assert_close(level(graph.gene_logits, graph), graph.gene_logits)


def test_a_shield_guards_cells_that_are_likely_of_its_type():
    graph, level = random_graph(60, 6), random_level(share=1.0, shield=(0.0, 1.0, 1.0, 1.0))
    guarded = graph.gene_logits[:, 0] > -0.1
    moved = (level(graph.gene_logits, graph) - graph.gene_logits).abs().amax(1)
    assert 0 < int(guarded.sum()) < 60
    assert float(moved[guarded].mean()) < 0.2 * float(moved[~guarded].mean())


@pytest.mark.parametrize("form", FORMS)
def test_the_share_mixes_both_levels(form):
    graph = random_graph(40, 6)
    levels = [random_level(s, form=form) for s in (0.0, 0.5, 1.0)]
    none, half, whole = (level(graph.gene_logits, graph) for level in levels)
    torch.testing.assert_close(none, graph.gene_logits)
    for level in levels:
        torch.testing.assert_close(level.undivided(graph.gene_logits, graph), whole)
    torch.testing.assert_close(half, ((graph.gene_logits + whole) / 2).log_softmax(1))


@torch.no_grad()
def test_new_gates_are_almost_shut():
    layer = GateLayer(N_TYPES, SETTINGS)
    graph = random_graph(20, 4)
    edges = graph.edge_index, graph.neighbor_similarity.reshape(-1)
    moved = layer(graph.gene_logits, torch.ones(20, 1), *edges) - graph.gene_logits
    assert 0 < float(moved.abs().mean()) < 0.5
    assert torch.sigmoid(layer.gate_out.bias).item() == pytest.approx(0.119, abs=1e-3)


def test_edges_run_from_neighbour_to_cell():
    graph = random_graph(9, 3)
    expected = [(int(graph.neighbor_indices[i, j]), i) for i in range(9) for j in range(3)]
    assert list(zip(*graph.edge_index.tolist(), strict=True)) == expected


def test_graphs_are_cosine_nearest_neighbours():
    torch.manual_seed(0)
    embedding = torch.randn(90, 10)
    logits = torch.randn(90, N_TYPES).log_softmax(1)
    graph = make_graph(embedding, logits, torch.eye(N_TYPES)[[0] * 90], SETTINGS)
    oracle = NearestNeighbors(n_neighbors=16, metric="cosine").fit(embedding)
    distance, indices = oracle.kneighbors()
    np.testing.assert_array_equal(graph.neighbor_indices, indices[:, :15])
    np.testing.assert_allclose(graph.neighbor_similarity, 1 - distance[:, :15], atol=1e-5)

    rows = torch.arange(0, 90, 2)
    part = graph.subset(rows, SETTINGS)
    again = NearestNeighbors(n_neighbors=15, metric="cosine").fit(embedding[rows])
    np.testing.assert_array_equal(part.neighbor_indices, again.kneighbors()[1])
    assert torch.equal(part.gene_logits, logits[rows])
    assert torch.equal(part.targets, graph.targets[rows])


def test_homophily_is_the_share_of_neighbours_of_the_same_type():
    graphs = [random_graph(40, 5, seed=0), random_graph(30, 5, seed=1)]
    same, cells = np.zeros(N_TYPES), np.zeros(N_TYPES)
    for graph in graphs:
        codes = graph.targets.argmax(1).numpy()
        for cell, near in enumerate(graph.neighbor_indices.numpy()):
            same[codes[cell]] += np.mean(codes[near] == codes[cell])
            cells[codes[cell]] += 1
    np.testing.assert_allclose(homophily(graphs), same / cells, rtol=1e-5)


def test_a_type_without_cells_has_no_homophily_and_is_shielded(clusters):
    graph = clusters(0)
    targets = torch.eye(N_TYPES + 1)[graph.targets.argmax(1)]
    wider = dataclasses.replace(graph, targets=targets)
    assert float(homophily([wider])[-1]) == 0
    assert shield_of([wider], SETTINGS).tolist() == [1, 1, 1, 1, 0]


def test_the_shield_rises_between_its_two_shares():
    graph = random_graph(200, 15)
    found = homophily([graph])
    low, high = float(found.min()) - 0.01, float(found.max()) + 0.03
    settings = msgspec.structs.replace(SETTINGS, shield=(low, high))
    expected = (found - low) / (high - low)
    torch.testing.assert_close(shield_of([graph], settings), expected, atol=1e-5, rtol=1e-5)
    assert not shield_of([graph], SETTINGS).any()  # random neighbours are of other types


def test_noise_differs_between_cells_and_keeps_probabilities():
    graph = random_graph(2000, 3)
    quiet = msgspec.structs.replace(SETTINGS, logit_noise=0.0)
    torch.testing.assert_close(noised(graph, quiet), graph.gene_logits)
    torch.manual_seed(0)
    loud = noised(graph, SETTINGS)
    torch.testing.assert_close(loud.exp().sum(1), torch.ones(2000))
    difference = loud - graph.gene_logits
    by_cell = (difference - difference.mean(1, keepdim=True)).std(1)
    low, high = by_cell.quantile(torch.tensor([0.1, 0.9])).tolist()
    assert low < 0.3
    assert high > 1.0


@pytest.fixture(scope="module")
def taught(clusters):
    """Return a cell level trained on two graphs."""
    return fit_cell_level([clusters(0), clusters(1)], torch.ones(N_TYPES), SETTINGS, share=0.5)


@torch.no_grad()
def test_training_learns_to_trust_good_neighbours(taught, clusters):
    assert not taught.training
    assert taught.share == 0.5
    graph = clusters(7)
    codes = graph.targets.argmax(1)
    before = (graph.gene_logits.argmax(1) == codes).float().mean()
    after = (taught(graph.gene_logits, graph).argmax(1) == codes).float().mean()
    assert float(before) < 0.7
    assert float(after) > float(before) + 0.15


def test_a_seed_fixes_the_gates(taught, clusters):
    graphs = [clusters(0), clusters(1)]
    again = fit_cell_level(graphs, torch.ones(N_TYPES), SETTINGS, share=0.5)
    other = fit_cell_level(
        graphs, torch.ones(N_TYPES), msgspec.structs.replace(SETTINGS, seed=1), share=0.5
    )
    pairs = zip(taught.parameters(), again.parameters(), other.parameters(), strict=True)
    for one, same, different in pairs:
        assert torch.equal(one, same)
        assert not torch.equal(one, different)


def test_noise_in_training_makes_neighbours_heard(clusters):
    """Where the gene level is right anyway, only noise shows what neighbours are good for."""
    graphs = [clusters(0, confidence=8.0), clusters(1, confidence=8.0)]
    unsure = clusters(7)

    def truth(noise):
        settings = msgspec.structs.replace(SETTINGS, logit_noise=noise)
        level = fit_cell_level(graphs, torch.ones(N_TYPES), settings, share=1.0)
        with torch.no_grad():
            p = level(unsure.gene_logits, unsure).exp()
        return float((p * unsure.targets).sum(1).mean())

    assert truth(3.0) > truth(0.0) + 0.01


@torch.no_grad()
def test_pseudo_labels_have_their_say(taught, clusters):
    """An M-step on unlabelled cells whose neighbours are no guide makes the gates careful."""
    misleading = random_graph(120, 15, seed=9)
    settings = msgspec.structs.replace(SETTINGS, pseudo_weight_cell=0.9)
    with torch.enable_grad():
        careful = fit_cell_level(
            [clusters(0), clusters(1)],
            torch.ones(N_TYPES),
            settings,
            share=0.5,
            unlabelled=CellGraph(
                misleading.embedding,
                misleading.gene_logits,
                misleading.neighbor_indices,
                misleading.neighbor_similarity,
                misleading.gene_logits.exp(),
            ),
        )
    moved = [
        float((level(misleading.gene_logits, misleading) - misleading.gene_logits).abs().mean())
        for level in (taught, careful)
    ]
    assert moved[1] < 0.8 * moved[0]
