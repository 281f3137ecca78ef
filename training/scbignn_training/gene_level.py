"""The gene level: a cell is a graph of its genes; self-attention gives embedding and logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from scbignn_infer.expression import TARGET_SUM, panel_tables
from scbignn_training.augment import augment_batch
from scbignn_training.blocks import dense, slices
from scbignn_training.checkpoint import State
from scbignn_training.objective import bilevel_loss, class_weights, soft_targets
from scbignn_training.run import BARE, Run
from scbignn_training.settings import Settings
from scbignn_training.statistics import LIMIT, estimate, fit_logistic

Array = np.ndarray[Any, Any]
TABLES = (
    "gene_mean",
    "gene_scale",
    "linear_weight",
    "linear_bias",
    "impute_in",
    "impute_out",
    "net_present",
    "net_position",
)
"""Inputs of the exported graph after counts and totals, in order."""
MAX_SCORE = 6.0
PANEL_CELLS = 512
"""Cells that the gene level is run on at once."""


class ProgramAttention(nn.Module):
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
        super().__init__()
        i, v, d = settings.n_programs, settings.program_size, settings.embedding_size
        self.n_programs, self.program_size, self.embedding_size = i, v, d
        self.n_heads = settings.n_heads
        self.score = nn.Parameter(torch.randn(n_genes, i) * 0.5)
        self.value = nn.Parameter(torch.randn(n_genes, v) * 0.3)
        self.linear = nn.Parameter(torch.randn(n_genes, d) * 0.1)
        self.wide = nn.Parameter(torch.zeros(n_genes, n_classes))
        self.up = nn.Parameter(torch.randn(i, v, d) / math.sqrt(v))
        self.program = nn.Parameter(torch.randn(i, d) * 0.3)
        self.value_norm = nn.LayerNorm(v)
        self.attention_norm = nn.LayerNorm(d)
        self.query_key_value = nn.Linear(d, 3 * d)
        self.attention_out = nn.Linear(d, d)
        self.program_norm = nn.LayerNorm(d)
        self.linear_norm = nn.LayerNorm(d)
        self.feed_forward = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.embedding_norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, n_classes)
        self.dropout = nn.Dropout(settings.dropout)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the two matrices that genes are multiplied with: (g, i + d + c), (g, i * v)."""
        attention = self.score.clamp(-MAX_SCORE, MAX_SCORE).exp()
        first = torch.cat([attention, self.linear / 16, self.wide / 4], dim=1)
        second = (attention[:, :, None] * self.value[:, None, :]).flatten(1)
        return first, second

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, ...]:
        """Return the cell embedding (b, d) and logits (b, c) of log1p(CP10k) (b, g)."""
        first, second = tables or self.tables()
        i, d, heads = self.n_programs, self.embedding_size, self.n_heads
        y = x @ first  # (b, i + d + c)
        mass = y[:, :i].unsqueeze(-1) + 1e-3
        p = ((x * x) @ second).reshape(-1, i, self.program_size) / mass  # (b, i, v)
        p = torch.matmul(self.value_norm(p).unsqueeze(2), self.up).squeeze(2)  # (b, i, d)
        p = self.attention_norm(p) + self.program
        qkv = self.query_key_value(p).reshape(-1, i, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (b, heads, i, d / heads)
        weight = (torch.matmul(q, k.transpose(-1, -2)) * (d // heads) ** -0.5).softmax(-1)
        mixed = torch.matmul(weight, v).transpose(1, 2).reshape(-1, i, d)
        p = self.program_norm(p + self.attention_out(mixed))
        h = self.linear_norm(y[:, i : i + d]) + p.mean(dim=1)
        z = self.embedding_norm(h + self.feed_forward(h))
        return z, self.out(self.dropout(z)) + y[:, i + d :]


class GeneLevel(nn.Module):
    """The whole gene level as it is exported: counts in, embedding and log-probabilities out.

    The network's opinion is blended with two linear heads: linear discriminant analysis on the
    present genes, whose weights are an input, and a logistic regression on the imputed genes.

    Parameters
    ----------
    net
        The attention network.
    statistics
        Tables of :func:`scbignn_training.statistics.estimate`.
    logistic
        Weight (g, c) and bias (c,) of the logistic head.
    blend
        Weights of the linear and the logistic head beside the network.
    temperature
        Divides the blended logits.
    """

    first: Tensor
    second: Tensor
    net_mean: Tensor
    net_scale: Tensor
    logistic_weight: Tensor
    logistic_bias: Tensor

    def __init__(
        self,
        net: ProgramAttention,
        statistics: dict[str, Array],
        logistic: tuple[Array, Array],
        blend: tuple[float, float] = (0.2, 0.5),
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = net
        self.statistics = statistics
        self.blend, self.temperature = blend, temperature
        m = net.score.shape[0]
        first, second = net.tables()  # worked out once: the exported graph holds constants only
        self.register_buffer("first", first.detach())
        self.register_buffer("second", second.detach())
        buffers = {
            "net_mean": statistics["gene_mean"][:m],
            "net_scale": statistics["gene_scale"][:m],
            "logistic_weight": logistic[0],
            "logistic_bias": logistic[1],
        }
        for name, value in buffers.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    @property
    def logistic(self) -> tuple[Array, Array]:
        """Weight (g, c) and bias (c,) of the logistic head."""
        return self.logistic_weight.numpy(), self.logistic_bias.numpy()

    def impute(self, counts: Tensor, totals: Tensor, *tables: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled panel expression (b, k) and imputed expression of the net's genes (b, g).

        Parameters are those of :meth:`parts`.
        """
        gene_mean, gene_scale, _, _, impute_in, impute_out, present, position = tables
        x = torch.log1p(counts * (TARGET_SUM / totals))
        z = ((x - gene_mean) / gene_scale).clamp(-LIMIT, LIMIT)
        guess = (z @ impute_in @ impute_out * self.net_scale + self.net_mean).clamp(min=0)
        return z, torch.where(present > 0.5, x[:, position], guess)

    def parts(self, counts: Tensor, totals: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
        """Return the embedding and the log-probabilities of network, linear and logistic head.

        Parameters
        ----------
        counts, totals
            (b, k) counts of the panel's genes and (b, 1) totals, at least 1.
        tables
            As named in ``TABLES``, see :func:`scbignn_infer.expression.panel_tables`.
        """
        z, x = self.impute(counts, totals, *tables)
        embedding, logits = self.net(x, (self.first, self.second))
        linear = z @ tables[2] + tables[3]
        scaled = ((x - self.net_mean) / self.net_scale).clamp(-LIMIT, LIMIT)
        logistic = scaled @ self.logistic_weight + self.logistic_bias
        return embedding, *(a.log_softmax(1) for a in (logits, linear, logistic))

    def forward(self, counts: Tensor, totals: Tensor, *tables: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``cell_embedding`` (b, d) and ``gene_logits`` (b, c), log-probabilities."""
        embedding, net, linear, logistic = self.parts(counts, totals, *tables)
        mixed = net + self.blend[0] * linear + self.blend[1] * logistic
        return embedding, (mixed / self.temperature).log_softmax(1)


class Panel:
    """The genes that some cells have, laid out for one gene level.

    Parameters
    ----------
    level
        The gene level.
    present
        (n_reference_genes,) or (n_ranked_genes,) which genes the cells have.
    panel_genes
        The most that the panel takes.
    """

    def __init__(self, level: GeneLevel, present: Array, panel_genes: int) -> None:
        self.level = level
        self.genes, tables = panel_tables(
            level.statistics,
            present,
            net_genes=level.net.score.shape[0],
            panel_genes=panel_genes,
        )
        self.tables = [torch.tensor(tables[name]) for name in TABLES]

    def inputs(self, counts: sp.csr_matrix, totals: Array) -> tuple[Tensor, Tensor]:
        """Return the dense tensors for counts (n, ranked genes) and totals (n,)."""
        at_least_one = torch.from_numpy(np.maximum(totals.astype(np.float32), 1.0))
        return dense(counts[:, self.genes]), at_least_one[:, None]

    @torch.no_grad()
    def run(
        self, counts: sp.csr_matrix, totals: Array, what: str = "forward"
    ) -> tuple[Tensor, ...]:
        """Run ``forward``, ``parts`` or ``impute`` on all cells, in batches."""
        self.level.eval()
        function = getattr(self.level, what)
        batches = [
            function(*self.inputs(counts[rows], totals[rows]), *self.tables)
            for rows in slices(len(totals), PANEL_CELLS)
        ]
        return tuple(torch.cat(column) for column in zip(*batches, strict=True))


def steps_of(n_cells: int, settings: Settings, *, again: bool = False) -> int:
    """Return how many steps a network trains on so many cells, from scratch or once again."""
    epochs = settings.em_epochs if again else settings.gene_epochs
    return min(epochs * -(-n_cells // settings.batch_cells), settings.max_steps)


def _batches(n_cells: int, size: int) -> Iterator[Tensor]:
    """Yield batches of row numbers, epoch after epoch without end."""
    while True:
        yield from torch.randperm(n_cells).split(size)


def fit_network(
    x: sp.csr_matrix,
    codes: Tensor,
    n_classes: int,
    settings: Settings,
    *,
    seed: int,
    start: ProgramAttention | None = None,
    unlabelled: Tensor | None = None,
    pseudo: Tensor | None = None,
    run: Run = BARE,
) -> ProgramAttention:
    """Train the attention network, from scratch or on from ``start`` with pseudo-labels.

    Cells turn dense a batch at a time. The one-cycle schedule spans the steps of :func:`steps_of`.

    Parameters
    ----------
    x, codes
        (n, g) log1p(CP10k) of the network's genes and (n,) gold label codes.
    n_classes
        Number of types.
    settings
        Epochs, rates, augmentation.
    seed
        Of initialisation, order and augmentation.
    start
        A network to continue from, with the E-step's epochs and learning rate.
    unlabelled, pseudo
        (m, g) expression and (m, c) soft labels of unlabelled cells; an E-step.
    run
        Device, checkpoint and progress.

    Returns
    -------
    ProgramAttention
        On the CPU, in evaluation mode.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    net = ProgramAttention(x.shape[1], n_classes, settings)
    rate = settings.gene_learning_rate
    if start is not None:
        net.load_state_dict(start.state_dict())
        rate = settings.em_learning_rate
    steps = steps_of(len(codes), settings, again=start is not None)
    weights = class_weights(codes, n_classes, settings.class_weight_power).to(run.device)

    def descend() -> State:
        net.to(run.device).train()
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            rate,
            total_steps=max(steps + 1, 6),  # with 5, its warm-up is of no length
            pct_start=0.2,
        )
        for rows in islice(_batches(len(codes), settings.batch_cells), steps):
            batch = dense(x[rows.numpy()]).to(run.device)
            gold = F.one_hot(codes[rows], n_classes).float().to(run.device)
            batch, gold = augment_batch(batch, gold, settings, generator)
            gold = soft_targets(gold, settings.label_smoothing)
            logits, extra = net(batch)[1], None
            if unlabelled is not None and pseudo is not None:
                drawn = torch.randint(0, len(unlabelled), (settings.batch_cells,))
                seen = unlabelled[drawn].to(run.device)
                seen = seen * (torch.rand_like(seen) > settings.gene_dropout)
                extra = (net(seen)[1], pseudo[drawn].to(run.device))
            loss = bilevel_loss((logits, gold), extra, settings.pseudo_weight_gene, weights)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            run.progress.step()
        return net.cpu().state_dict()

    net.load_state_dict(run.once(descend, steps=steps))
    return net.eval()


def fit_gene_level(
    x: sp.csr_matrix,
    codes: Array,
    n_classes: int,
    settings: Settings,
    seed: int,
    run: Run = BARE,
) -> GeneLevel:
    """Fit network, statistics and logistic head on labelled expression (n, ranked genes)."""
    net_genes = min(settings.net_genes, x.shape[1])
    tables = estimate(x, codes, n_classes, settings)
    logistic = fit_logistic(x, codes, n_classes, tables, settings)
    labels = torch.from_numpy(codes)
    net = fit_network(x[:, :net_genes], labels, n_classes, settings, seed=seed, run=run)
    return GeneLevel(net, tables, logistic).eval()
