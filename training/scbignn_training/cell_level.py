"""The cell level: a gated graph network that mixes a cell's log-probabilities with its neighbours'.

It sees probabilities and similarities only, never the basis of the embedding, and treats all
classes alike; so a few hundred parameters learn on any reference and hold on any query graph.
:class:`CellLevel` is a PyTorch Geometric network over ``edge_index`` and is what trains;
:class:`CellStep` is the same layer for a fixed number of neighbours and is what is exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from scbignn_infer.neighbors import build_graph
from scbignn_infer.sessions import choose_runtime
from scbignn_training.checkpoint import State
from scbignn_training.objective import bilevel_loss, class_weights, soft_targets
from scbignn_training.run import BARE, Run
from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
FLOOR = 1e-4
GATE_FEATURES = 8
RECIPROCITY = 4.0
"""Where rho starts; it hardly moves in training."""
EDGE_VALUES = 1 << 25
"""Probabilities on all edges of a graph at most (128 MiB): with many types, fewer cells."""


@dataclass(frozen=True)
class CellGraph:
    """A kNN graph of cells with what the gene level says of them.

    Attributes
    ----------
    embedding
        (n, d) cell embedding.
    gene_logits
        (n, c) log-probabilities of the gene level.
    neighbor_indices, neighbor_similarity
        (n, k) graph.
    targets
        (n, c) label distributions; gold one-hot or soft pseudo-labels.
    """

    embedding: Tensor
    gene_logits: Tensor
    neighbor_indices: Tensor
    neighbor_similarity: Tensor
    targets: Tensor

    @property
    def edge_index(self) -> Tensor:
        """(2, n * k) edges from neighbour to cell."""
        n, k = self.neighbor_indices.shape
        target = torch.arange(n).repeat_interleave(k)
        return torch.stack([self.neighbor_indices.reshape(-1), target])

    @property
    def reach(self) -> Tensor:
        """(n,) similarity of each cell's farthest neighbour."""
        return self.neighbor_similarity.amin(1)

    def subset(self, rows: Tensor, settings: Settings) -> CellGraph:
        """Return the graph built anew over some of the cells."""
        parts = self.embedding[rows], self.gene_logits[rows], self.targets[rows]
        return make_graph(*parts, settings)


def one_hot(codes: Array, n_classes: int) -> Tensor:
    """Return (n, c) float targets."""
    return nn.functional.one_hot(torch.from_numpy(codes), n_classes).float()


def cells_of_graph(n_classes: int, settings: Settings) -> int:
    """Return how many cells a graph to train on may have."""
    return min(settings.graph_cells, EDGE_VALUES // (settings.n_neighbors * n_classes))


def make_graph(
    embedding: Tensor, gene_logits: Tensor, targets: Tensor, settings: Settings
) -> CellGraph:
    """Build the graph of some cells as the runtime does."""
    runtime = choose_runtime("cpu", torch.get_num_threads())
    indices, similarity, _ = build_graph(
        embedding.numpy(), settings.n_neighbors, runtime=runtime, seed=settings.seed
    )
    graph = torch.from_numpy(indices), torch.from_numpy(similarity)
    return CellGraph(embedding, gene_logits, *graph, targets)


class GateLayer(MessagePassing):  # type: ignore[misc]  # PyG is untyped
    r"""One step: :math:`\log p_i \leftarrow norm[(1 - g_i) \log p_i + g_i \log q_i]`.

    :math:`q_i = \sum_j a_{ij} p_j` with attention
    :math:`a_{ij} = softmax_j(e^\tau (s_{ij} - \max_j s_{ij}) + \kappa \langle p_i, p_j \rangle
    + e^\rho \min(0, s_{ij} - r_j))`, where the reach :math:`r_j` is the similarity of cell j's
    own farthest neighbour: a cell that is no neighbour of its neighbour hardly counts there. So
    a few cells beside a large population are not outvoted by it, whatever their density (compare
    the local scaling of Zelnik-Manor and Perona 2004). The gate :math:`g_i` is a small MLP of
    eight scalars that do not depend on the order of the classes, times the shield of the cell's
    likely types.

    Parameters
    ----------
    hidden
        Width of the gate's MLP.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__(aggr="sum")
        self.sharpness = nn.Parameter(torch.tensor(2.0))  # tau
        self.affinity = nn.Parameter(torch.tensor(1.0))  # kappa
        self.reciprocity = nn.Parameter(torch.tensor(RECIPROCITY))  # rho
        self.gate_in = nn.Linear(GATE_FEATURES, hidden)
        self.gate_out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.gate_out.weight)
        nn.init.constant_(self.gate_out.bias, -2.0)

    def forward(self, log_p: Tensor, shield: Tensor, edge_index: Tensor, s: Tensor) -> Tensor:
        """Return new log-probabilities (n, c).

        Parameters
        ----------
        log_p, shield
            (n, c) log-probabilities and (n, 1) shield.
        edge_index, s
            (2, e) edges from neighbour to cell and (e,) their cosine similarity.
        """
        source, target = edge_index
        n, p = len(log_p), log_p.exp()

        def reduce(values: Tensor, how: str) -> Tensor:
            reduced: Tensor = scatter(values, target, dim=0, dim_size=n, reduce=how)
            return reduced

        agree = (p[target] * p[source]).sum(1)
        nearest, reach = reduce(s, "max"), reduce(s, "min")
        score = self.sharpness.exp() * (s - nearest[target]) + self.affinity * agree
        score = score + self.reciprocity.exp() * (s - reach[source]).clamp(max=0)
        q = self.propagate(edge_index, p=p, weight=softmax(score, target, num_nodes=n))
        deviation = (agree - reduce(agree, "mean")[target]) ** 2
        spread = reduce(deviation, "sum") / (reduce(torch.ones_like(s), "sum") - 1).clamp(min=1)
        features = gate_features(log_p, q, reduce(s, "mean"), reach, spread)
        gate = torch.sigmoid(self.gate_out(nn.functional.gelu(self.gate_in(features))))
        return mix(log_p, q, gate * shield)

    def message(self, p_j: Tensor, weight: Tensor) -> Tensor:
        """Weight the neighbour's probabilities."""
        return p_j * weight[:, None]


def gate_features(log_p: Tensor, q: Tensor, mean: Tensor, least: Tensor, spread: Tensor) -> Tensor:
    """Return the eight scalars of the gate, (n, 8)."""
    p, log_q = log_p.exp(), (q + FLOOR).log()
    columns = [
        -(p * log_p).sum(1),
        -((q + FLOOR) * log_q).sum(1),
        p.amax(1),
        q.amax(1),
        (p * q).sum(1),
        mean,
        least,
        (spread + 1e-12).sqrt(),
    ]
    return torch.stack(columns, dim=1)


def mix(log_p: Tensor, q: Tensor, gate: Tensor) -> Tensor:
    """Return norm[(1 - g) log p + g log q]."""
    return ((1 - gate) * log_p + gate * (q + FLOOR).log()).log_softmax(1)


class CellLevel(nn.Module):
    """All layers, then the share of their result in the final log-probabilities.

    Parameters
    ----------
    shield
        (c,) 1 for well known types, less for those with few reference cells.
    settings
        Layers, width and the cell level's share.
    share
        Of the cell level in the output; 1 for a teacher.
    """

    shield: Tensor

    def __init__(self, shield: Tensor, settings: Settings, share: float) -> None:
        super().__init__()
        self.register_buffer("shield", shield)
        self.share = share
        self.layers = nn.ModuleList(
            GateLayer(settings.cell_hidden) for _ in range(settings.cell_layers)
        )

    def forward(self, gene_logits: Tensor, graph: CellGraph) -> Tensor:
        """Return ``cell_logits`` (n, c) from ``gene_logits`` (n, c) on a graph's edges."""
        own = gene_logits
        shield = (own.exp() @ self.shield)[:, None]
        for layer in self.layers:
            edges = graph.edge_index, graph.neighbor_similarity.reshape(-1)
            own = layer(own, shield, *edges)
        return ((1 - self.share) * gene_logits + self.share * own).log_softmax(1)


class CellStep(nn.Module):
    """One layer for a chunk of cells with a fixed number of neighbours; the exported form.

    Parameters
    ----------
    level
        The trained cell level, whose layers are stacked here and chosen by an input.
    """

    shield: Tensor

    def __init__(self, level: CellLevel) -> None:
        super().__init__()
        layers = [layer for layer in level.layers if isinstance(layer, GateLayer)]
        stacked = {
            "sharpness": torch.stack([a.sharpness.exp() for a in layers]),
            "affinity": torch.stack([a.affinity for a in layers]),
            "reciprocity": torch.stack([a.reciprocity.exp() for a in layers]),
            "weight_in": torch.stack([a.gate_in.weight.T for a in layers]),
            "bias_in": torch.stack([a.gate_in.bias for a in layers]),
            "weight_out": torch.stack([a.gate_out.weight.T for a in layers]),
            "bias_out": torch.stack([a.gate_out.bias for a in layers]),
            "share": torch.tensor([1.0] * (len(layers) - 1) + [level.share]),
            "shield": level.shield,
        }
        for name, value in stacked.items():
            self.register_buffer(name, value.detach().clone())

    def forward(
        self,
        state: Tensor,
        reach: Tensor,
        own: Tensor,
        gene_logits: Tensor,
        neighbor_indices: Tensor,
        neighbor_similarity: Tensor,
        layer: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return new log-probabilities and probabilities of the chunk, (b, c) each.

        Parameters
        ----------
        state
            (n, c) probabilities of all cells.
        reach
            (n,) least similarity in each cell's list of neighbours.
        own, gene_logits
            (b, c) current and gene-level log-probabilities of the chunk.
        neighbor_indices, neighbor_similarity
            (b, k) graph of the chunk, most similar first.
        layer
            () which layer.
        """

        def pick(name: str) -> Tensor:
            stacked: Tensor = getattr(self, name)
            return stacked.index_select(0, layer.reshape(1)).squeeze(0)

        s, p = neighbor_similarity, own.exp()
        near = state[neighbor_indices]  # (b, k, c)
        agree = (p[:, None] * near).sum(2)
        score = pick("sharpness") * (s - s[:, :1]) + pick("affinity") * agree
        score = score + pick("reciprocity") * (s - reach[neighbor_indices]).clamp(max=0)
        q = (score.softmax(1)[:, :, None] * near).sum(1)
        deviation = (agree - agree.mean(1, keepdim=True)) ** 2
        degrees = (torch.ones_like(s[:1]).sum() - 1).clamp(min=1)
        features = gate_features(own, q, s.mean(1), s.amin(1), deviation.sum(1) / degrees)
        hidden = nn.functional.gelu(features @ pick("weight_in") + pick("bias_in"))
        gate = torch.sigmoid(hidden @ pick("weight_out") + pick("bias_out"))
        new = mix(own, q, gate * (gene_logits.exp() @ self.shield)[:, None])
        share = pick("share")
        new = ((1 - share) * gene_logits + share * new).log_softmax(1)
        return new, new.exp()


def shield_of(cells_per_type: Array, settings: Settings) -> Tensor:
    """Return min(1, n_c / shield_cells) of each type."""
    return torch.from_numpy(cells_per_type.astype(np.float32) / settings.shield_cells).clamp(max=1)


def fit_cell_level(
    graphs: list[CellGraph],
    shield: Tensor,
    settings: Settings,
    *,
    share: float,
    unlabelled: CellGraph | None = None,
    run: Run = BARE,
) -> CellLevel:
    """Train the layers on graphs of held-out cells.

    The pseudo-labels of unlabelled cells are targets whose inputs are noised, so that copying the
    input does not satisfy them.

    Parameters
    ----------
    graphs
        Out-of-fold graphs with gold targets.
    shield
        (c,) see :class:`CellLevel`.
    settings
        Epochs, rate and noise.
    share
        Of the cell level in the output, set after training at 1.
    unlabelled
        Graph of unlabelled cells with soft targets; an M-step.
    run
        Its checkpoint is used; the levels train on the CPU.

    Returns
    -------
    CellLevel
        In evaluation mode.
    """
    torch.manual_seed(settings.seed)
    generator = np.random.default_rng(settings.seed)
    level = CellLevel(shield, settings, share=1.0)

    def descend() -> State:
        shown = [*graphs, *(_shifted(g, settings, generator) for g in graphs)]
        codes = torch.cat([g.targets.argmax(1) for g in shown])
        weights = class_weights(codes, len(shield), settings.class_weight_power)
        optimizer = torch.optim.AdamW(level.parameters(), lr=settings.cell_learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, settings.cell_epochs * len(shown)
        )
        level.train()
        for _ in range(settings.cell_epochs):
            for i in torch.randperm(len(shown)).tolist():
                graph, extra = shown[i], None
                gold = (level(graph.gene_logits, graph), soft_targets(graph.targets, 0.02))
                if unlabelled is not None:
                    extra = (level(noised(unlabelled, settings), unlabelled), unlabelled.targets)
                loss = bilevel_loss(gold, extra, settings.pseudo_weight_cell, weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return level.state_dict()

    level.load_state_dict(run.once(descend))
    level.share = share
    return level.eval()


def noised(graph: CellGraph, settings: Settings) -> Tensor:
    """Return gene-level log-probabilities with noise a class and noise a cell."""
    logits = graph.gene_logits
    n, c = logits.shape
    by_class = torch.rand(()) * settings.class_noise * torch.randn(1, c)
    spread = torch.rand(()) * settings.cell_noise * (0.5 + torch.rand(n, 1))
    return (logits + by_class + spread * torch.randn(n, c)).log_softmax(1)


def _shifted(graph: CellGraph, settings: Settings, generator: np.random.Generator) -> CellGraph:
    """Return the graph over a random sub-composition of its types."""
    codes = graph.targets.argmax(1).numpy()
    c = graph.targets.shape[1]
    wanted = generator.dirichlet(np.ones(c)) * c
    chance = wanted[codes].clip(0.1, 1.5) * generator.uniform(0.4, 1.0)
    rows = np.flatnonzero(generator.random(len(codes)) < chance)
    return graph if len(rows) < 60 else graph.subset(torch.from_numpy(rows), settings)
