"""The gene level: a cell is a graph of its genes; self-attention gives embedding and logits."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from scbignn_infer.network.panel import LIMIT, TARGET_SUM, panel_tables
from scbignn_training.augment import augment_batch
from scbignn_training.blocks import dense, slices
from scbignn_training.full_attention import FullAttention
from scbignn_training.objective import bilevel_loss, class_weights, soft_targets
from scbignn_training.program_attention import ProgramAttention
from scbignn_training.run import BARE
from scbignn_training.statistics import complete, estimate, fit_logistic

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse as sp
    from torch import Tensor

    from scbignn_training.checkpoint import State
    from scbignn_training.data import Cells
    from scbignn_training.gaps import Gaps
    from scbignn_training.run import Run
    from scbignn_training.settings import Settings

Array = np.ndarray[Any, Any]
Network = ProgramAttention | FullAttention
FORMS: dict[str, type[ProgramAttention | FullAttention]] = {
    "program": ProgramAttention,
    "full": FullAttention,
}
"""Attention networks by ``Settings.gene_form``, from expression to embedding and logits."""
LEAST_LOG_P = -30.0
"""No head rules a type out beyond this; float32 could not carry more through the blend."""
MOST_MISFIT = 2.0
"""Cells of a larger misfit than this are none that the closed-form heads were made for."""
PANEL_CELLS = 512
"""Cells that the gene level is run on at once."""


class Tables(NamedTuple):
    """What depends on the genes of the cells: inputs of the exported graph after the counts.

    :func:`scbignn_infer.network.panel.panel_tables` makes them. There are k genes of the panel,
    c types, r factors and g genes of the network.
    """

    gene_mean: Tensor  # (k,)
    gene_scale: Tensor  # (k,)
    class_weight: Tensor  # (k, c)
    class_norm: Tensor  # (c,)
    class_prior: Tensor  # (c,)
    impute_in: Tensor  # (k, r)
    impute_out: Tensor  # (r, g)
    net_present: Tensor  # (g,)
    net_position: Tensor  # (g,)
    misfit_weight: Tensor  # (k,)
    misfit_inner: Tensor  # (r, r)


class GeneLevel(nn.Module):
    """The whole gene level as it is exported: counts in, embedding and log-probabilities out.

    The network's opinion is blended with two heads: a discriminant on the present genes, whose
    tables are inputs, and a logistic regression on the imputed genes.

    Parameters
    ----------
    net
        The attention network.
    statistics
        Tables of :func:`scbignn_training.statistics.estimate`.
    logistic
        Weight (g, c) and bias (c,) of the logistic head.
    blend
        Weights of the discriminant and the logistic head beside the network.
    temperature
        Divides the blended logits.
    """

    net_mean: Tensor
    net_scale: Tensor
    logistic_weight: Tensor
    logistic_bias: Tensor
    strength_precision: Tensor

    def __init__(
        self,
        net: Network,
        statistics: dict[str, Array],
        logistic: tuple[Array, Array],
        blend: tuple[float, float],
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = net
        self.statistics = statistics
        self.blend, self.temperature = blend, temperature
        self.graph_factors = int(statistics["graph_factors"])
        m = net.n_genes
        # Worked out once: the exported graph holds constants only.
        self.net_tables = tuple(table.detach() for table in net.tables())
        buffers = {
            "net_mean": statistics["gene_mean"][:m],
            "net_scale": statistics["gene_scale"][:m],
            "logistic_weight": logistic[0],
            "logistic_bias": logistic[1],
            "strength_precision": statistics["strength_precision"],
        }
        for name, value in buffers.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    @property
    def logistic(self) -> tuple[Array, Array]:
        """Weight (g, c) and bias (c,) of the logistic head."""
        return self.logistic_weight.numpy(), self.logistic_bias.numpy()

    def impute(self, counts: Tensor, totals: Tensor, tables: Tables) -> tuple[Tensor, ...]:
        """Return scaled panel expression (b, k), factor scores (b, r) and imputed genes (b, g).

        Parameters are those of :meth:`parts`.
        """
        x = torch.log1p(counts * (TARGET_SUM / totals))
        z = ((x - tables.gene_mean) / tables.gene_scale).clamp(-LIMIT, LIMIT)
        factors = z @ tables.impute_in
        guess = (factors @ tables.impute_out * self.net_scale + self.net_mean).clamp(min=0)
        shown = x.index_select(1, tables.net_position)  # exported as one Gather
        return z, factors, torch.where(tables.net_present > 0.5, shown, guess)

    def parts(self, counts: Tensor, totals: Tensor, tables: Tables) -> tuple[Tensor, ...]:
        """Return the embedding, and what network, discriminant and logistic head say.

        These are log-probabilities; those of the two heads are multiplied by :meth:`trust`.

        The embedding is the network's beside the first factor scores, each of length 1. The
        network knows what tells the types apart, the factors what else varies among the
        reference cells: neighbours in both are more often of one type than in either.

        Parameters
        ----------
        counts, totals
            (b, k) counts of the panel's genes and (b, 1) totals, at least 1.
        tables
            Of the panel's genes.
        """
        z, factors, x = self.impute(counts, totals, tables)
        own, logits = self.net(x, self.net_tables)
        sides = own, factors[:, : self.graph_factors]
        embedding = torch.cat([F.normalize(side) for side in sides], dim=1)
        discriminant = self.discriminant(z, tables)
        scaled = ((x - self.net_mean) / self.net_scale).clamp(-LIMIT, LIMIT)
        logistic = scaled @ self.logistic_weight + self.logistic_bias
        trust = self.trust(z, factors, tables)
        heads = (a.log_softmax(1).clamp(min=LEAST_LOG_P) for a in (discriminant, logistic))
        return embedding, logits.log_softmax(1), *(trust * head for head in heads)

    def trust(self, z: Tensor, factors: Tensor, tables: Tables) -> Tensor:
        """Return how far the closed-form heads are trusted with a cell, (b, 1) from 0 to 1.

        They are as sure of cells unlike any they were fitted on as of others, while the network
        was trained on distorted cells and doubts. So they fall silent with the fourth power of
        the misfit where that exceeds ``MOST_MISFIT``.

        Parameters
        ----------
        z, factors
            (b, k) scaled expression of the panel and (b, r) factor scores.
        tables
            Of the panel's genes.
        """
        misfit = self.misfit_of(z, factors, tables)
        return (MOST_MISFIT / misfit.clamp(min=MOST_MISFIT)).pow(4)[:, None]

    @staticmethod
    def misfit_of(z: Tensor, factors: Tensor, tables: Tables) -> Tensor:
        """Return the misfit of cells (b,), about 1 for those like the reference's."""
        explained = (factors @ tables.misfit_inner * factors).sum(1)
        return (z * z * tables.misfit_weight).sum(1) - explained

    def misfit(self, counts: Tensor, totals: Tensor, tables: Tables) -> tuple[Tensor]:
        """Return the misfit of cells (b,); parameters are those of :meth:`parts`."""
        z, factors, _ = self.impute(counts, totals, tables)
        return (self.misfit_of(z, factors, tables),)

    def discriminant(self, z: Tensor, tables: Tables) -> Tensor:
        r"""Return the log-density of each type, up to a constant, (b, c).

        A cell shows its type's profile :math:`\mu_c` at a strength of its own:
        :math:`z = a \mu_c + \epsilon` with :math:`a \sim N(1, 1 / \lambda)` and
        :math:`\epsilon \sim N(0, \Sigma)`. With :math:`u_c = z \Sigma^{-1} \mu_c` and
        :math:`\nu_c = \mu_c \Sigma^{-1} \mu_c`, integrating over a gives
        :math:`\tfrac12 (u_c + \lambda)^2 / (\nu_c + \lambda) - \tfrac12 \log(1 + \nu_c / \lambda)
        + \log n_c` and what all types share. A negative strength counts as 0. For
        :math:`\lambda \to \infty` this is linear discriminant analysis.

        Parameters
        ----------
        z
            (b, k) scaled expression of the panel.
        tables
            :math:`\Sigma^{-1} \mu_c`, :math:`\nu_c` and :math:`\log n_c` as ``class_weight``,
            ``class_norm`` and ``class_prior``.
        """
        precision, norm = self.strength_precision, tables.class_norm
        evidence = (z @ tables.class_weight + precision).clamp(min=0)
        occam = torch.log1p(norm / precision)
        return 0.5 * (evidence * (evidence / (norm + precision)) - occam) + tables.class_prior

    def forward(self, counts: Tensor, totals: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
        """Return ``cell_embedding`` (b, d) and ``gene_logits`` (b, c), log-probabilities."""
        embedding, net, discriminant, logistic = self.parts(counts, totals, tables)
        mixed = net + self.blend[0] * discriminant + self.blend[1] * logistic
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
            net_genes=level.net.n_genes,
            panel_genes=panel_genes,
        )
        self.tables = Tables(**{name: torch.tensor(table) for name, table in tables.items()})

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
            function(*self.inputs(counts[rows], totals[rows]), self.tables)
            for rows in slices(len(totals), PANEL_CELLS)
        ]
        return tuple(torch.cat(column) for column in zip(*batches, strict=True))


def run_cells(
    level: GeneLevel, cells: Cells, settings: Settings, what: str = "forward"
) -> tuple[Tensor, ...]:
    """Run ``forward`` or ``parts`` on cells, each on a panel of the genes that its study has."""
    if cells.gaps is None:
        panel = Panel(level, cells.present, settings.panel_genes)
        return panel.run(cells.counts, cells.totals, what)
    parts, order = [], []
    for rows, measured in cells.gaps.patterns():
        panel = Panel(level, cells.present & measured, settings.panel_genes)
        parts.append(panel.run(cells.counts[rows], cells.totals[rows], what))
        order.append(rows)
    back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
    return tuple(torch.cat(column)[back] for column in zip(*parts, strict=True))


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
    start: Network | None = None,
    unlabelled: Tensor | None = None,
    pseudo: Tensor | None = None,
    run: Run = BARE,
) -> Network:
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
    ProgramAttention or FullAttention
        On the CPU, in evaluation mode.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    net: Network = FORMS[settings.gene_form](x.shape[1], n_classes, settings)
    rate = settings.gene_learning_rate
    if start is not None:
        net.load_state_dict(start.state_dict())
        rate = settings.em_learning_rate
    alpha = settings.pseudo_weight_gene
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
            if alpha > 0 and unlabelled is not None and pseudo is not None:
                drawn = torch.randint(0, len(unlabelled), (settings.batch_cells,))
                seen = unlabelled[drawn].to(run.device)
                seen = seen * (torch.rand_like(seen) > settings.gene_dropout)
                extra = (net(seen)[1], pseudo[drawn].to(run.device))
            loss = bilevel_loss((logits, gold), extra, alpha, weights)
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
    *,
    seed: int,
    run: Run = BARE,
    gaps: Gaps | None = None,
) -> GeneLevel:
    """Fit network, statistics and logistic head on labelled expression (n, ranked genes).

    Genes that a cell's study did not measure are imputed, as they are for a query without them.
    """
    tables = estimate(x, codes, n_classes, settings, gaps)
    seen = complete(x, tables, settings, gaps)
    logistic = fit_logistic(seen, codes, n_classes, tables, settings)
    labels = torch.from_numpy(codes)
    net = fit_network(seen, labels, n_classes, settings, seed=seed, run=run)
    return GeneLevel(net, tables, logistic, settings.blend).eval()
