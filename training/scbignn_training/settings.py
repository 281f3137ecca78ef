"""Every hyper-parameter, in one frozen record; the defaults are those of the shipped models."""

from __future__ import annotations

from math import isfinite
from typing import Literal

import msgspec

MIN_CELLS = 5
"""Smaller types are left out: in three folds each part still has cells of such a type."""


SHARES = frozenset(
    {
        *("label_smoothing", "gene_dropout", "lost_panel_chance", "lost_panel_share", "blend"),
        *("shield", "cell_share", "pseudo_weight_gene", "pseudo_weight_cell"),
    }
)
"""Settings from 0 to 1."""
RATES = frozenset({"gene_learning_rate", "cell_learning_rate", "em_learning_rate"})
"""Settings above 0, and 1 at most."""
ABOVE_0 = frozenset({"strength_precision", "logistic_c", "pseudo_temperature"})
MAY_BE_0 = frozenset({"seed", "n_programs", "em_iterations", "graph_factors"})
"""Whole numbers that may be 0; all others are 1 or more."""


def _check(name: str, value: object) -> None:
    """Raise a ValueError if a number is none that a setting may be."""
    if not isinstance(value, int | float):
        return
    if not isfinite(value):
        raise ValueError(f"{name} must be a number")
    whole = Settings.__annotations__[name] == "int"
    least = 1 if whole and name not in MAY_BE_0 else 0
    if name in SHARES | RATES and not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1")
    if name == "dropout" and not 0 <= value < 1:
        raise ValueError("dropout must be from 0 to below 1")
    if name in RATES | ABOVE_0 and value <= 0:
        raise ValueError(f"{name} must be above 0")
    if name == "folds" and value < 2:
        raise ValueError("folds must be 2 or more")
    if value < least:
        raise ValueError(f"{name} must be {least} or more")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hyper-parameters of both levels and of EM; docs/method.md gives the reasons."""

    seed: int = 0

    net_genes: int = 1000
    """Best-ranked genes that feed the attention network."""
    ranked_genes: int = 8000
    """Best-ranked genes that the reference statistics cover."""
    panel_genes: int = 1500
    """Best-ranked present genes that enter the discriminant head and the imputation."""

    gene_form: Literal["program", "full"] = "program"
    """Attention into gene programs in closed form, or between the most expressed genes."""
    n_programs: int = 8
    """Gene programs; with 0 the network is its linear path, without attention."""
    program_size: int = 8
    tokens: int = 96
    """Genes of a cell that full attention runs over."""
    token_size: int = 32
    embedding_size: int = 64
    n_heads: int = 4
    dropout: float = 0.2

    gene_epochs: int = 15
    gene_learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    batch_cells: int = 256
    label_smoothing: float = 0.05
    class_weight_power: float = 0.5
    """Class weights are n_c to minus this power."""
    gene_dropout: float = 0.3
    lost_panel_chance: float = 0.5
    """Chance that a whole batch loses the same random genes."""
    lost_panel_share: float = 0.7
    """The largest share of genes lost so."""
    cell_scale_noise: float = 0.1
    gene_factor_noise: float = 0.2
    mixup: float = 0.4
    """Beta(a, a) of mixing cells pairwise."""

    factors: int = 64
    """Rank of both covariance models."""
    ridge: float = 0.3
    """Added to the residual variance of the discriminant head."""
    strength_precision: float = 100.0
    """1 / variance of the strength at which a cell shows its type's profile; more is nearer to
    linear discriminant analysis."""
    logistic_c: float = 0.1
    """Inverse regularisation of the logistic head."""
    blend: tuple[float, float] = (0.5, 0.35)
    """Weights of the discriminant and the logistic head beside the network."""

    max_steps: int = 4000
    """The most steps that one network trains; a large reference is seen fewer times."""
    covariance_cells: int = 50_000
    """Cells that the covariance models are estimated from at most, weighted by their type."""
    logistic_cells: int = 20_000
    """Cells that the logistic head is fitted on at most, weighted by their type."""
    graph_cells: int = 20_000
    """Held-out cells of a fold, and unlabelled cells, that enter views and graphs at most."""

    folds: int = 3
    n_neighbors: int = 15
    graph_factors: int = 32
    """Factor scores that stand beside the network's embedding for the graph."""
    cell_form: Literal["gate", "sage"] = "gate"
    """A gate between a cell and its neighbours, or GraphSAGE."""
    cell_layers: int = 2
    cell_hidden: int = 16
    sage_hidden: int = 32
    cell_epochs: int = 10
    cell_learning_rate: float = 1e-2
    shield: tuple[float, float] = (0.5, 0.9)
    """A type listens to its neighbours fully where this share of them is of its own type among
    held-out cells (second number), and not at all at the first."""
    cell_share: float = 0.5
    """Share of the cell level in the final log-probabilities; the rest is the gene level's."""

    em_iterations: int = 2
    em_epochs: int = 6
    em_learning_rate: float = 1.5e-3
    em_tolerance: float = 0.01
    """Iterations whose validation macro-F1 is this close to the best are as good as it."""
    teacher: Literal["cell", "gene"] = "cell"
    """Level whose pseudo-labels the E-step learns from; the gene level's are self-training."""
    pseudo_weight_gene: float = 0.5
    """alpha: weight of the teacher's pseudo-labels in the E-step."""
    pseudo_weight_cell: float = 0.1
    """beta: weight of the gene level's pseudo-labels in the M-step."""
    logit_noise: float = 1.0
    """Scale of the noise on the cell level's inputs in training."""
    pseudo_temperature: float = 0.5
    """Pseudo-labels are softmax(log p / temperature)."""
    pseudo_confidence: float = 0.8
    """Pseudo-labelled cells above it join the re-estimated statistics."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.net_genes > min(self.panel_genes, self.ranked_genes):
            raise ValueError("net_genes must not exceed panel_genes or ranked_genes")
        if self.embedding_size % self.n_heads:
            raise ValueError("embedding_size must be a multiple of n_heads")
        if self.token_size % self.n_heads:
            raise ValueError("token_size must be a multiple of n_heads")
        for name, value in msgspec.structs.asdict(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                _check(name, number)
        if sum(self.blend) > 1:
            raise ValueError("blend must sum to 1 at most; the rest is the network's weight")
        if self.shield[0] >= self.shield[1]:
            raise ValueError("the first number of shield must be below the second")

    def as_record(self) -> dict[str, float | int | str]:
        """Return the settings as flat JSON values."""
        values = msgspec.to_builtins(self)
        return {k: v if isinstance(v, int | float) else str(v) for k, v in values.items()}
