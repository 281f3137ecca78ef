from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

from scbignn_training.blocks import dense, log_expression
from scbignn_training.full_attention import Attention, FullAttention
from scbignn_training.gene_level import fit_network
from scbignn_training.settings import Settings

N_GENES, N_TYPES = 30, 3
SETTINGS = Settings(
    gene_form="full",
    net_genes=N_GENES,
    tokens=12,
    token_size=8,
    embedding_size=16,
    n_heads=2,
    gene_epochs=30,
    batch_cells=64,
)


def random_net(settings=SETTINGS):
    """Return a network with random weights everywhere."""
    torch.manual_seed(0)
    net = FullAttention(N_GENES, N_TYPES, settings)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def net():
    return random_net()


@pytest.fixture(scope="module")
def x():
    """Return log1p(CP10k) of 40 cells, of which some express fewer genes than there are tokens."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 1.0, N_GENES) * rng.uniform(0.1, 3, (40, 1)))
    expressed = (counts > 0).sum(axis=1)
    assert expressed.min() < 6
    assert expressed.max() > 15
    rows = sp.csr_matrix(counts, dtype=np.float32)
    return dense(log_expression(rows, np.full(40, 500.0)))


def pytorchs(attention):
    """Return PyTorch's own attention with the same weights."""
    size = attention.out.in_features
    oracle = nn.MultiheadAttention(size, attention.n_heads, batch_first=True)
    parts = attention.query, attention.key, attention.value
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        oracle.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        oracle.out_proj.load_state_dict(attention.out.state_dict())
    return oracle.eval()


@torch.no_grad()
def test_biased_attention_is_pytorchs_with_a_mask():
    torch.manual_seed(1)
    attention = Attention(12, 3)
    asking, asked = torch.randn(4, 2, 12), torch.randn(4, 7, 12)
    bias = torch.randn(4, 7)
    bias[:, 4:] = -math.inf
    mask = bias[:, None, None, :].expand(4, 3, 2, 7).reshape(12, 2, 7)
    expected, weights = pytorchs(attention)(asking, asked, asked, attn_mask=mask)
    assert not weights[:, :, 4:].any()
    torch.testing.assert_close(attention(asking, asked, bias), expected)


def naive(net, cell):
    """Return embedding and logits of one cell (g,), whose genes are chosen one by one."""
    weighted = [float(v) * (1 - 0.5 * j / (N_GENES - 1)) for j, v in enumerate(cell)]
    order = sorted(range(N_GENES), key=lambda j: -weighted[j])[: SETTINGS.tokens]
    least = weighted[order[-1]]
    genes = [j for j in order if weighted[j] > least]
    tokens = [net.cell, *(net.gene[j] + cell[j] * net.amount for j in genes)]
    bias = torch.tensor([0.0, *(math.log(weighted[j] - least) for j in genes)])
    t = net.token_norm(torch.stack(tokens))[None]
    own, pooling = pytorchs(net.attention), pytorchs(net.pooling)
    square = bias.expand(len(tokens), -1)
    t = net.attention_norm(t + own(t, t, t, attn_mask=square)[0])
    c = t[:, :1]
    c = net.pooling_norm(c + pooling(c, t, t, attn_mask=bias[None])[0])[0, 0]
    h = net.linear_norm(cell @ net.linear / 16) + net.up(c)
    z = net.embedding_norm(h + net.feed_forward(h))
    return z, net.out(z) + cell @ net.wide / 4


@torch.no_grad()
def test_it_is_attention_between_the_most_expressed_genes(net, x):
    for found, expected in zip(
        net(x), zip(*(naive(net, cell) for cell in x), strict=True), strict=True
    ):
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_genes_that_are_not_expressed_have_no_weight(net, x):
    genes, bias = net.select(x)
    weight = bias.exp()
    assert weight.shape == (40, SETTINGS.tokens)
    assert not weight[x.gather(1, genes) == 0].any()
    few = (x > 0).sum(1) < SETTINGS.tokens
    weighted = x * net.priority
    torch.testing.assert_close(weight.sum(1)[few], weighted.sum(1)[few])


def test_which_of_equals_is_chosen_does_not_matter():
    """Counts of one are alike; onnxruntime and PyTorch break such ties each in its own way."""
    net = random_net()
    net.priority.fill_(1.0)
    x = torch.ones(1, N_GENES)
    x[0, 5:8] = 3.0
    genes, bias = net.select(x)
    assert bias.isfinite().sum() == 3
    assert set(genes[0, :3].tolist()) == {5, 6, 7}
    np.testing.assert_allclose(bias[0, :3], math.log(2))


def test_a_gene_enters_the_selection_without_a_jump(net):
    x = torch.linspace(4, 1, N_GENES)[None].repeat(2, 1)
    before, after = (x * net.priority)[:, SETTINGS.tokens - 1 : SETTINGS.tokens + 1].T[:, 0]
    gap = float((before - after) / net.priority[SETTINGS.tokens])
    x[0, SETTINGS.tokens] += gap - 1e-4
    x[1, SETTINGS.tokens] += gap + 1e-4
    chosen = [set(genes.tolist()) for genes in net.select(x)[0]]
    assert chosen[0] != chosen[1]
    torch.testing.assert_close(*net(x)[0], atol=1e-3, rtol=0)


def test_a_cell_without_genes_is_finite(net):
    for values in net(torch.zeros(2, N_GENES)):
        assert bool(values.isfinite().all())
        torch.testing.assert_close(values[0], values[1])


def test_gradients_are_finite_where_genes_are_missing(x):
    net = FullAttention(N_GENES, N_TYPES, SETTINGS)
    cells = torch.cat([x, torch.zeros(1, N_GENES)])
    net(cells)[1].square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


def test_tokens_are_no_more_than_genes(x):
    few = FullAttention(5, N_TYPES, SETTINGS).eval()
    assert few(x[:, :5])[0].shape == (40, 16)


def test_it_learns(x):
    torch.manual_seed(0)
    codes = torch.arange(300) % N_TYPES
    cells = torch.rand(300, N_GENES) * (torch.rand(300, N_GENES) < 0.4) * 3
    cells[torch.arange(300), codes] += 3.0
    net = fit_network(sp.csr_matrix(cells.numpy()), codes, N_TYPES, SETTINGS, seed=1)
    assert isinstance(net, FullAttention)
    assert not net.training
    with torch.no_grad():
        found = net(cells)[1].argmax(1)
    assert float((found == codes).float().mean()) > 0.95
