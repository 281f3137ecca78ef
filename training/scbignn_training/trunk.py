"""What the attention networks share: straight paths beside the attention, and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from scbignn_training.settings import Settings


class Trunk(nn.Module):
    """A linear and a wide path past the attention, and the head that joins all three.

    Subclasses call :meth:`_straight` and :meth:`_head` where their weights are drawn, so that the
    order of their own draws is theirs to choose.

    Parameters
    ----------
    n_genes, n_classes
        Width of the input and of the logits.
    settings
        Sizes and dropout.
    """

    def __init__(self, n_genes: int, n_classes: int, settings: Settings) -> None:
        super().__init__()
        self.n_genes, self.n_classes = n_genes, n_classes
        self.embedding_size = settings.embedding_size
        self._dropout = settings.dropout

    def _straight(self) -> None:
        """Draw the weights of the two straight paths."""
        self.linear = nn.Parameter(torch.randn(self.n_genes, self.embedding_size) * 0.1)
        self.wide = nn.Parameter(torch.zeros(self.n_genes, self.n_classes))

    def _head(self) -> None:
        """Draw the weights of the head."""
        d = self.embedding_size
        self.linear_norm = nn.LayerNorm(d)
        self.feed_forward = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.embedding_norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, self.n_classes)
        self.dropout = nn.Dropout(self._dropout)

    def straight(self) -> list[Tensor]:
        """Return the matrices (g, d) and (g, c) that genes are multiplied with on these paths."""
        return [self.linear / 16, self.wide / 4]

    def join(self, straight: Tensor, attended: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the cell embedding (b, d) and logits (b, c).

        Parameters
        ----------
        straight
            (b, d + c) what the straight paths say.
        attended
            (b, d) what the attention says; ``None`` without attention.
        """
        d = self.embedding_size
        h = self.linear_norm(straight[:, :d])
        if attended is not None:
            h = h + attended
        z = self.embedding_norm(h + self.feed_forward(h))
        return z, self.out(self.dropout(z)) + straight[:, d:]
