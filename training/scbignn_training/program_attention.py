"""Program attention: genes attend to gene programs, in closed form, and programs to each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from scbignn_training.trunk import Trunk

if TYPE_CHECKING:
    from torch import Tensor

    from scbignn_training.settings import Settings

MAX_SCORE = 6.0


class ProgramAttention(Trunk):
    r"""Self-attention of genes into gene programs, then among the programs.

    Program I attends to gene j of a cell with score :math:`S_{Ij} + \log x_j`, softmax over the
    *expressed* genes. Since :math:`e^{S + \log x} = x e^S`, the sum over genes collapses to two
    matrix products, exactly: :math:`p_I = [(x \odot x) T]_I / [x E]_I` with :math:`E = e^S` and
    :math:`T = E \odot V`. So no token, gather or padding is needed.

    Parameters
    ----------
    n_genes, n_classes
        Width of the input and of the logits.
    settings
        Sizes and dropout.
    """

    def __init__(self, n_genes: int, n_classes: int, settings: Settings) -> None:
        super().__init__(n_genes, n_classes, settings)
        i, v, d = settings.n_programs, settings.program_size, settings.embedding_size
        self.n_programs, self.program_size = i, v
        self.n_heads = settings.n_heads
        self.score = nn.Parameter(torch.randn(n_genes, i) * 0.5)
        self.value = nn.Parameter(torch.randn(n_genes, v) * 0.3)
        self._straight()
        self.up = nn.Parameter(torch.randn(i, v, d) / math.sqrt(v))
        self.program = nn.Parameter(torch.randn(i, d) * 0.3)
        self.value_norm = nn.LayerNorm(v)
        self.attention_norm = nn.LayerNorm(d)
        self.query_key_value = nn.Linear(d, 3 * d)
        self.attention_out = nn.Linear(d, d)
        self.program_norm = nn.LayerNorm(d)
        self._head()

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the two matrices that genes are multiplied with: (g, i + d + c), (g, i * v)."""
        attention = self.score.clamp(-MAX_SCORE, MAX_SCORE).exp()
        first = torch.cat([attention, *self.straight()], dim=1)
        second = (attention[:, :, None] * self.value[:, None, :]).flatten(1)
        return first, second

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, ...]:
        """Return the cell embedding (b, d) and logits (b, c) of log1p(CP10k) (b, g)."""
        first, second = tables or self.tables()
        i = self.n_programs
        y = x @ first  # (b, i + d + c)
        if i == 0:
            return self.join(y, None)
        said = self.programs(y[:, :i], (x * x) @ second)  # (b, i, d)
        return self.join(y[:, i:], said.mean(dim=1))

    def programs(self, mass: Tensor, weighted: Tensor) -> Tensor:
        """Return what the programs (b, i, d) say after they attended to genes and each other.

        Parameters
        ----------
        mass, weighted
            Sums over genes: (b, i) of attention and (b, i * v) of attention times value.
        """
        i, d, heads = self.n_programs, self.embedding_size, self.n_heads
        p = weighted.reshape(-1, i, self.program_size) / (mass.unsqueeze(-1) + 1e-3)  # (b, i, v)
        p = torch.matmul(self.value_norm(p).unsqueeze(2), self.up).squeeze(2)  # (b, i, d)
        p = self.attention_norm(p) + self.program
        qkv = self.query_key_value(p).reshape(-1, i, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (b, heads, i, d / heads)
        weight = (torch.matmul(q, k.transpose(-1, -2)) * (d // heads) ** -0.5).softmax(-1)
        mixed = torch.matmul(weight, v).transpose(1, 2).reshape(-1, i, d)
        said: Tensor = self.program_norm(p + self.attention_out(mixed))
        return said
