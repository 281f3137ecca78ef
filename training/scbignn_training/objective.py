"""The loss that both levels share: gold labels and pseudo-labels, each a mean over its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def class_weights(codes: Tensor, n_classes: int, power: float) -> Tensor:
    """Return n_c^-power a class, scaled to a mean of 1 over the cells; 0 for absent classes."""
    cells = torch.bincount(codes, minlength=n_classes).float()
    weights = torch.where(cells > 0, (len(codes) / cells.clamp(min=1)) ** power, 0.0)
    return weights * len(codes) / (weights * cells).sum()


def soft_targets(one_hot: Tensor, smoothing: float) -> Tensor:
    """Return smoothed targets (b, c)."""
    return (1 - smoothing) * one_hot + smoothing / one_hot.shape[1]


def bilevel_loss(
    gold: tuple[Tensor, Tensor],
    pseudo: tuple[Tensor, Tensor] | None,
    pseudo_weight: float,
    weights: Tensor,
) -> Tensor:
    r"""Return :math:`(1 - w) CE(gold) + w CE(pseudo)`.

    The form of GLEM (Zhao et al. 2023, arXiv 2210.14709, eq. 11 and 13): gold rows never take
    pseudo-labels. Class weights apply to gold labels alone.

    Parameters
    ----------
    gold, pseudo
        Logits (n, c) and target distributions (n, c) of labelled and of unlabelled cells; without
        unlabelled cells the loss is that of the gold labels.
    pseudo_weight
        w: alpha in the E-step, beta in the M-step.
    weights
        (c,) class weights.
    """
    loss = -(gold[1] * gold[0].log_softmax(1) * weights).sum(1).mean()
    if pseudo is None or pseudo_weight == 0:
        return loss
    soft = -(pseudo[1] * pseudo[0].log_softmax(1)).sum(1).mean()
    return (1 - pseudo_weight) * loss + pseudo_weight * soft


def pseudo_labels(log_probabilities: Tensor, temperature: float) -> Tensor:
    """Return softmax(log p / temperature): soft labels, sharper below temperature 1."""
    return torch.softmax(log_probabilities / temperature, dim=1)
