"""The gate: a cell's log-probabilities give way to its neighbours' as far as these can be trusted.

It sees probabilities and similarities only, never the basis of the embedding, and treats all
classes alike; so a few hundred parameters learn on any reference and hold on any query graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from scbignn_training.settings import Settings

FLOOR = 1e-4
GATE_FEATURES = 8
RECIPROCITY = 4.0
"""Where rho starts; it hardly moves in training."""


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
    n_classes
        Of no effect: the gate treats all classes alike.
    settings
        Width of the gate's MLP.
    """

    def __init__(self, n_classes: int, settings: Settings) -> None:
        super().__init__(aggr="sum")
        hidden = settings.cell_hidden
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

    @staticmethod
    def fixed(  # noqa: PLR0917 - what the exported graph takes, in its order
        weights: Mapping[str, Tensor],
        log_p: Tensor,
        shield: Tensor,
        near: Tensor,
        s: Tensor,
        reach: Tensor,
    ) -> Tensor:
        """Return new log-probabilities (b, c), as :meth:`forward`, for k neighbours a cell.

        Parameters
        ----------
        weights
            The layer's parameters by name.
        log_p, shield
            (b, c) and (b, 1) of the cells.
        near, s, reach
            (b, k, c) probabilities, (b, k) similarity and (b, k) reach of their neighbours, most
            similar first.
        """
        agree = (log_p.exp()[:, None] * near).sum(2)
        score = weights["sharpness"].exp() * (s - s[:, :1]) + weights["affinity"] * agree
        score = score + weights["reciprocity"].exp() * (s - reach).clamp(max=0)
        q = (score.softmax(1)[:, :, None] * near).sum(1)
        deviation = (agree - agree.mean(1, keepdim=True)) ** 2
        degrees = (torch.ones_like(s[:1]).sum() - 1).clamp(min=1)
        features = gate_features(log_p, q, s.mean(1), s.amin(1), deviation.sum(1) / degrees)
        hidden = nn.functional.gelu(
            features @ weights["gate_in.weight"].T + weights["gate_in.bias"]
        )
        gate = torch.sigmoid(hidden @ weights["gate_out.weight"].T + weights["gate_out.bias"])
        return mix(log_p, q, gate * shield)


def gate_features(log_p: Tensor, q: Tensor, mean: Tensor, least: Tensor, spread: Tensor) -> Tensor:
    """Return the eight scalars of the gate, (n, 8)."""
    p, log_q = log_p.exp(), floored(q)
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
    return ((1 - gate) * log_p + gate * floored(q)).log_softmax(1)


def floored(p: Tensor) -> Tensor:
    """Return log(p + 1e-4)."""
    return (p + FLOOR).log()
