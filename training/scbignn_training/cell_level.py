"""The cell level: a graph network that changes a cell's log-probabilities by its neighbours'.

A form is a layer from log-probabilities to log-probabilities, written twice. :class:`CellLevel`
runs it over ``edge_index`` with PyTorch Geometric and is what trains; :class:`CellStep` runs its
``fixed`` form, for a fixed number of neighbours and without scatter, and is what is exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from scbignn_infer.network.neighbors import build_graph
from scbignn_infer.network.sessions import choose_runtime
from scbignn_training.gate import GateLayer
from scbignn_training.objective import bilevel_loss, class_weights, soft_targets
from scbignn_training.run import BARE
from scbignn_training.sage import SageLayer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from scbignn_training.checkpoint import State
    from scbignn_training.run import Run
    from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
FORMS: dict[str, type[GateLayer | SageLayer]] = {"gate": GateLayer, "sage": SageLayer}
"""Layers by ``Settings.cell_form``."""
EDGE_VALUES = 1 << 25
"""Probabilities on all edges of a graph at most (128 MiB): with many types, fewer cells."""
STEP_VALUES = 700_000
"""Probabilities on edges that take about as long as a step of the gene level's network."""
SHIFTED = 0.5
"""Share of the cells that a random sub-composition has, about."""


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


def level_steps(sizes: Iterable[int], n_classes: int, settings: Settings) -> int:
    """Return what training a level on graphs of some sizes takes, in steps of a network, about."""
    shown = [m for n in sizes for m in (n, int(SHIFTED * n))]
    return settings.cell_epochs * sum(_worth(n, n_classes, settings) for n in shown)


def _worth(n_cells: int, n_classes: int, settings: Settings) -> int:
    """Return how many steps of a network one step on a graph is worth, for the estimate of time."""
    return max(1, n_cells * settings.n_neighbors * n_classes // STEP_VALUES)


def make_graph(
    embedding: Tensor, gene_logits: Tensor, targets: Tensor, settings: Settings
) -> CellGraph:
    """Build the graph of some cells as the runtime does."""
    runtime = choose_runtime("cpu", torch.get_num_threads())
    found = build_graph(
        embedding.numpy(), settings.n_neighbors, runtime=runtime, seed=settings.seed
    )
    graph = torch.from_numpy(found.indices).long(), torch.from_numpy(found.similarity)
    return CellGraph(embedding, gene_logits, *graph, targets)


class CellLevel(nn.Module):
    """Layers of one form, then the share of their result in the final log-probabilities.

    Parameters
    ----------
    shield
        (c,) see :func:`shield_of`.
    settings
        Form, layers and width.
    share
        Of the cell level in the output; 1 for a teacher.
    """

    shield: Tensor

    def __init__(self, shield: Tensor, settings: Settings, share: float) -> None:
        super().__init__()
        self.register_buffer("shield", shield)
        self.share = share
        self.form = FORMS[settings.cell_form]
        self.layers = nn.ModuleList(
            self.form(len(shield), settings) for _ in range(settings.cell_layers)
        )

    def forward(self, gene_logits: Tensor, graph: CellGraph) -> Tensor:
        """Return ``cell_logits`` (n, c) from ``gene_logits`` (n, c) on a graph's edges."""
        own = self.undivided(gene_logits, graph)
        return ((1 - self.share) * gene_logits + self.share * own).log_softmax(1)

    def undivided(self, gene_logits: Tensor, graph: CellGraph) -> Tensor:
        """Return the log-probabilities (n, c) of the last layer: the output at share 1."""
        own = gene_logits
        shield = (own.exp() @ self.shield)[:, None]
        for layer in self.layers:
            edges = graph.edge_index, graph.neighbor_similarity.reshape(-1)
            own = layer(own, shield, *edges)
        return own


class CellStep(nn.Module):
    """One layer for a chunk of cells with a fixed number of neighbours; the exported form.

    Parameters
    ----------
    level
        The trained cell level, whose layers are stacked here and chosen by an input.
    """

    shield: Tensor
    share: Tensor

    def __init__(self, level: CellLevel) -> None:
        super().__init__()
        self.form = level.form
        n = len(level.layers)
        parameters = [dict(layer.named_parameters()) for layer in level.layers]
        self.stacked = {
            name: torch.stack([p[name] for p in parameters]).detach() for name in parameters[0]
        }
        self.register_buffer("share", torch.tensor([1.0] * (n - 1) + [level.share]))
        self.register_buffer("shield", level.shield.clone())

    def forward(  # noqa: PLR0917 - the inputs of the exported graph, in their order
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

        def pick(stacked: Tensor) -> Tensor:
            return stacked.index_select(0, layer.reshape(1)).squeeze(0)

        new = self.form.fixed(
            {name: pick(stacked) for name, stacked in self.stacked.items()},
            own,
            (gene_logits.exp() @ self.shield)[:, None],
            state[neighbor_indices],
            neighbor_similarity,
            reach[neighbor_indices],
        )
        share = pick(self.share)
        new = ((1 - share) * gene_logits + share * new).log_softmax(1)
        return new, new.exp()


def homophily(graphs: list[CellGraph]) -> Tensor:
    """Return, for each type, how many of its cells' neighbours are of that type, on average; (c,).

    A type without cells has 0.
    """
    same = [(g.targets[g.neighbor_indices] * g.targets[:, None]).sum(2).mean(1) for g in graphs]
    found = sum(g.targets.T @ s for g, s in zip(graphs, same, strict=True))
    cells = sum(g.targets.sum(0) for g in graphs)
    return torch.as_tensor(found / torch.as_tensor(cells).clamp(min=1))


def shield_of(graphs: list[CellGraph], settings: Settings) -> Tensor:
    """Return how far each type's cells may listen to their neighbours, (c,) from 0 to 1.

    Rare types and types that the graph does not tell apart have neighbours of other types; they
    are shielded, by what held-out cells of the reference show.
    """
    least, full = settings.shield
    return ((homophily(graphs) - least) / (full - least)).clamp(0, 1)


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

    All inputs are noised. Held-out cells of the same studies are easier than those of a new one:
    without noise the gate learns to stay shut. And the pseudo-labels of unlabelled cells are the
    gene level's own, so that copying a clean input would satisfy them.

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
                gold = (level(noised(graph, settings), graph), soft_targets(graph.targets, 0.02))
                if unlabelled is not None and settings.pseudo_weight_cell > 0:
                    extra = (level(noised(unlabelled, settings), unlabelled), unlabelled.targets)
                loss = bilevel_loss(gold, extra, settings.pseudo_weight_cell, weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                run.progress.step(_worth(len(graph.targets), len(shield), settings))
        return level.state_dict()

    steps = level_steps((len(g.targets) for g in graphs), len(shield), settings)
    level.load_state_dict(run.once(descend, steps=steps))
    level.share = share
    return level.eval()


def noised(graph: CellGraph, settings: Settings) -> Tensor:
    """Return gene-level log-probabilities with noise, more in some cells than in others."""
    logits = graph.gene_logits
    spread = settings.logit_noise * torch.randn(len(logits), 1)
    return (logits + spread * torch.randn_like(logits)).log_softmax(1)


def _shifted(graph: CellGraph, settings: Settings, generator: np.random.Generator) -> CellGraph:
    """Return the graph over a random sub-composition of its types."""
    codes = graph.targets.argmax(1).numpy()
    c = graph.targets.shape[1]
    wanted = generator.dirichlet(np.ones(c)) * c
    chance = wanted[codes].clip(0.1, 1.5) * generator.uniform(0.4, 1.0)
    rows = np.flatnonzero(generator.random(len(codes)) < chance)
    return graph if len(rows) < 60 else graph.subset(torch.from_numpy(rows), settings)
