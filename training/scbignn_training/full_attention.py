"""Full attention: softmax self-attention between the expressed genes of a cell, token by token.

The paper's own form, and the yardstick of the closed form in
:mod:`scbignn_training.program_attention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from scbignn_training.trunk import Trunk

if TYPE_CHECKING:
    from torch import Tensor

    from scbignn_training.settings import Settings

LEAST_PRIORITY = 0.5


class Attention(nn.Module):
    """Multi-head softmax attention whose scores take a bias for each token attended to.

    Parameters
    ----------
    size, n_heads
        Width of the tokens, and heads that share it.
    """

    def __init__(self, size: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)

    def forward(self, asking: Tensor, asked: Tensor, bias: Tensor) -> Tensor:
        """Return what tokens (b, q, s) gather from others (b, t, s) under a bias (b, t)."""

        def heads(tokens: Tensor) -> Tensor:  # (b, heads, t, s / heads)
            b, t, s = tokens.shape
            return tokens.reshape(b, t, self.n_heads, s // self.n_heads).transpose(1, 2)

        q, k, v = heads(self.query(asking)), heads(self.key(asked)), heads(self.value(asked))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None, :])
        gathered: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return gathered


class FullAttention(Trunk):
    r"""Self-attention between the most expressed genes of each cell, then from a cell token.

    Genes are ranked by expression, weighted down to a half with their rank among the network's
    genes so that of equal counts those that tell types apart come first. A token is the gene's
    embedding plus its expression times a vector. Attention to gene j has the score
    :math:`\langle q, k_j \rangle / \sqrt{s} + \log(u_j - u_T)`, with u the weighted expression and
    :math:`u_T` the least of the T tokens: 0 where fewer than T genes are expressed. So genes
    that are not expressed have weight 0, and a gene at the edge of the selection hardly any: it
    does not matter which of equals was selected.

    Parameters
    ----------
    n_genes, n_classes
        Width of the input and of the logits.
    settings
        Sizes and dropout.
    """

    priority: Tensor

    def __init__(self, n_genes: int, n_classes: int, settings: Settings) -> None:
        super().__init__(n_genes, n_classes, settings)
        s, d = settings.token_size, settings.embedding_size
        self.n_tokens = min(settings.tokens, n_genes)
        self.register_buffer("priority", torch.linspace(1, LEAST_PRIORITY, n_genes))
        self.gene = nn.Parameter(torch.randn(n_genes, s))
        self.amount = nn.Parameter(torch.randn(s) * 0.1)
        self.cell = nn.Parameter(torch.randn(s))
        self._straight()
        self.token_norm = nn.LayerNorm(s)
        self.attention = Attention(s, settings.n_heads)
        self.attention_norm = nn.LayerNorm(s)
        self.pooling = Attention(s, settings.n_heads)
        self.pooling_norm = nn.LayerNorm(s)
        self.up = nn.Linear(s, d)
        self._head()

    def tables(self) -> tuple[Tensor]:
        """Return the matrix of the linear and the wide path that genes are multiplied with."""
        return (torch.cat(self.straight(), dim=1),)  # (g, d + c)

    def select(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens' genes (b, t) and the logarithm of their weights (b, t)."""
        weighted, genes = (x * self.priority).topk(self.n_tokens)
        return genes, (weighted - weighted[:, -1:]).log()

    def forward(self, x: Tensor, tables: tuple[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the cell embedding (b, d) and logits (b, c) of log1p(CP10k) (b, g)."""
        (straight,) = tables or self.tables()
        genes, bias = self.select(x)
        expression = x.gather(1, genes)[:, :, None]
        tokens = F.embedding(genes, self.gene) + expression * self.amount  # (b, t, s)
        tokens = torch.cat([self.cell.expand(x.shape[0], 1, -1), tokens], dim=1)  # the cell first
        bias = F.pad(bias, (1, 0))  # which has weight 1, so that no softmax is empty
        tokens = self.token_norm(tokens)
        tokens = self.attention_norm(tokens + self.attention(tokens, tokens, bias))
        cell = tokens[:, :1]
        cell = self.pooling_norm(cell + self.pooling(cell, tokens, bias)).squeeze(1)
        return self.join(x @ straight, self.up(cell))
