"""GraphSAGE: the textbook layer, on the log-probabilities of a cell and of its neighbours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import normalize
from torch_geometric.nn import SAGEConv

from scbignn_training.gate import floored
from scbignn_training.settings import Settings


class SageLayer(nn.Module):
    r"""One step: :math:`\log p_i \leftarrow norm[\log p_i + U h_i]`.

    :math:`h_i = ReLU(u / |u|), u = W_1 \bar x_i + W_2 x_i + b` is GraphSAGE with mean aggregation
    (Hamilton et al. 2017): :math:`x = \log(p + 10^{-4})`, :math:`\bar x_i` its mean over the
    neighbours. U takes it back to the classes, so that what passes between layers is again
    log-probabilities; it starts at 0, and its step is multiplied by the shield of the cell's likely
    types.

    Parameters
    ----------
    n_classes
        Number of types.
    settings
        Width of h.
    """

    def __init__(self, n_classes: int, settings: Settings) -> None:
        super().__init__()
        self.conv = SAGEConv(n_classes, settings.sage_hidden, normalize=True)
        self.out = nn.Linear(settings.sage_hidden, n_classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, log_p: Tensor, shield: Tensor, edge_index: Tensor, s: Tensor) -> Tensor:
        """Return new log-probabilities (n, c).

        Parameters
        ----------
        log_p, shield
            (n, c) log-probabilities and (n, 1) shield.
        edge_index, s
            (2, e) edges from neighbour to cell, all alike whatever their similarity (e,).
        """
        step: Tensor = self.out(self.conv(floored(log_p.exp()), edge_index).relu())
        return (log_p + shield * step).log_softmax(1)

    @staticmethod
    def fixed(  # noqa: PLR0917 - what the exported graph takes, in its order
        weights: Mapping[str, Tensor],
        log_p: Tensor,
        shield: Tensor,
        near: Tensor,
        s: Tensor,
        reach: Tensor,
    ) -> Tensor:
        """Return what :meth:`forward` does for k neighbours a cell; similarities have no effect.

        Parameters are those of :meth:`scbignn_training.gate.GateLayer.fixed`.
        """
        of_near = floored(near).mean(1) @ weights["conv.lin_l.weight"].T
        of_own = floored(log_p.exp()) @ weights["conv.lin_r.weight"].T
        hidden = normalize(of_near + weights["conv.lin_l.bias"] + of_own).relu()
        step = hidden @ weights["out.weight"].T + weights["out.bias"]
        return (log_p + shield * step).log_softmax(1)
