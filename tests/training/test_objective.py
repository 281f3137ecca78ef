from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from scbignn_training.objective import bilevel_loss, class_weights, pseudo_labels, soft_targets


@pytest.fixture
def gold():
    """Return logits (30, 4), codes and one-hot targets."""
    torch.manual_seed(0)
    codes = torch.randint(0, 4, (30,))
    return torch.randn(30, 4), codes, F.one_hot(codes, 4).float()


@pytest.fixture
def pseudo():
    """Return logits and soft targets (50, 4) of unlabelled cells."""
    torch.manual_seed(1)
    return torch.randn(50, 4), torch.randn(50, 4).softmax(1)


def test_gold_alone_is_weighted_cross_entropy(gold):
    logits, codes, targets = gold
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0])
    expected = F.cross_entropy(logits, codes, weight=weights, reduction="sum") / 30
    found = bilevel_loss((logits, targets), None, 0.7, weights)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 1.0])
def test_the_two_means_are_interpolated(gold, pseudo, weight):
    logits, codes, targets = gold
    expected = (1 - weight) * F.cross_entropy(logits, codes) + weight * F.cross_entropy(*pseudo)
    found = bilevel_loss((logits, targets), pseudo, weight, torch.ones(4))
    torch.testing.assert_close(found, expected)


def test_class_weights_leave_pseudo_labels_alone(gold, pseudo):
    logits, _, targets = gold
    losses = [bilevel_loss((logits, targets), pseudo, 1.0, torch.full((4,), w)) for w in (1.0, 9.0)]
    torch.testing.assert_close(*losses)


def test_the_form_of_glem():
    """GLEM weighs a sum over gold and one over pseudo nodes; each here is a mean over its cells.

    So its value does not move when the unlabelled cells are given twice.
    """
    gold = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    one = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.75]])
    twice = one[0].repeat(2, 1), one[1].repeat(2, 1)
    by_hand = 0.6 * math.log(1 + math.exp(-2)) + 0.4 * (
        0.25 * math.log(1 + math.e) + 0.75 * math.log(1 + 1 / math.e)
    )
    for pseudo in (one, twice):
        found = bilevel_loss(gold, pseudo, 0.4, torch.ones(2))
        assert float(found) == pytest.approx(by_hand, rel=1e-6)


def test_only_pseudo_logits_get_the_gradient_of_pseudo_labels(gold, pseudo):
    logits, _, targets = gold
    logits = logits.clone().requires_grad_()
    bilevel_loss((logits, targets), pseudo, 1.0, torch.ones(4)).backward()
    assert float(logits.grad.abs().max()) == 0.0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_class_weights_are_a_power_with_mean_one(power):
    codes = torch.tensor([0] * 16 + [2] * 4 + [3])
    weights = class_weights(codes, 5, power)
    assert float(weights[codes].mean()) == pytest.approx(1.0, rel=1e-6)
    assert float(weights[2] / weights[0]) == pytest.approx(4**power, rel=1e-6)
    assert float(weights[3] / weights[0]) == pytest.approx(16**power, rel=1e-6)
    assert weights[1] == weights[4] == 0  # nothing to learn from


def test_soft_targets_are_those_of_label_smoothing(gold):
    logits, codes, targets = gold
    expected = F.cross_entropy(logits, codes, label_smoothing=0.2)
    found = F.cross_entropy(logits, soft_targets(targets, 0.2))
    torch.testing.assert_close(found, expected)


def test_pseudo_labels_sharpen_below_one(gold):
    log_p = gold[0].log_softmax(1)
    torch.testing.assert_close(pseudo_labels(log_p, 1.0), log_p.exp())
    sharp = log_p.exp() ** 2
    torch.testing.assert_close(pseudo_labels(log_p, 0.5), sharp / sharp.sum(1, keepdim=True))
