r"""What varies within the types of a query, and not within those of the reference.

Cells that were stimulated, or a donor among others, differ from the rest of their type in the same
genes whatever the type is. A discriminant that does not know such a direction takes it for the
difference between two types. With :math:`y` the scaled expression of trusted cells less the mean of
their type, and :math:`v_i`, :math:`\lambda_i` the first principal axes and variances of y, what is
more than the reference's :math:`\Sigma` has is added to it:

.. math::
    \Sigma' = \Sigma + \sum_i \max(0, \lambda_i - v_i^\top \Sigma v_i)\, v_i v_i^\top
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.network.blas import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import scipy.sparse as sp

    from scbignn_infer._types import Array
    from scbignn_infer.network.panel import Panel

CELLS = 1000
"""Trusted cells that are looked at; of more, a sample."""
CHUNK = 4096
"""Cells that are told apart at once."""
MODULUS = 2**31 - 1
AXES = 32
LEAST = 20
"""A type of fewer cells in the sample says nothing of what varies within it."""


def sample(scaled: Array, codes: Array) -> Array:
    """Return positions of some trusted cells, the same ones in any order of the cells.

    Parameters
    ----------
    scaled
        (n, g) int8 scaled expression, which decides which cells are taken.
    codes
        (n,) types of the cells, -1 for those that are not trusted.
    """
    rows = np.flatnonzero(codes >= 0)
    numbers = np.random.default_rng(0).integers(1, MODULUS, scaled.shape[1])
    parts = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    keys = [scaled[part].astype(np.int64) @ numbers % MODULUS for part in parts]
    chosen: Array = rows[np.argsort(np.concatenate(keys), kind="stable")[:CELLS]]
    return chosen


def read(blocks: Iterable[sp.csr_matrix], panel: Panel, rows: Array) -> Array:
    """Return the scaled expression (m, k) of some cells of a query, in their order."""
    order = np.argsort(rows)
    found = np.empty((len(rows), len(panel.genes)), np.float32)
    start = 0
    for block in blocks:
        here = order[(rows[order] >= start) & (rows[order] < start + block.shape[0])]
        if len(here):
            found[here] = panel.standardize(*panel.densify(block[rows[here] - start]))
        start += block.shape[0]
    return found


@one_blas_thread()
def widened(
    statistics: Mapping[str, Array], panel: Panel, z: Array, codes: Array
) -> dict[str, Any]:
    """Return tables of a model whose types vary as those of a query do, too.

    Parameters
    ----------
    statistics, panel
        Tables of all genes, and the genes of the file.
    z, codes
        (m, k) scaled expression of trusted cells, and their types (m,).
    """
    tables, genes = dict(statistics), panel.genes
    many = np.bincount(codes, minlength=1)[codes] >= LEAST
    z, codes = z[many].astype(np.float64), codes[many]
    types = np.unique(codes)
    if len(z) <= len(types):
        return tables
    for c in types:
        z[codes == c] -= z[codes == c].mean(axis=0)
    values, vectors = np.linalg.eigh(z @ z.T / (len(z) - len(types)))
    values, vectors = values[::-1][:AXES], vectors[:, ::-1][:, :AXES]
    axes = z.T @ vectors[:, values > 0]
    axes /= np.maximum(np.linalg.norm(axes, axis=0), 1e-12)
    factors = tables["within_factors"].astype(np.float64)
    diagonal = tables["within_residual"][genes] + float(tables["ridge"])
    known = ((axes.T @ factors[genes]) ** 2).sum(axis=1) + (axes**2 * diagonal[:, None]).sum(axis=0)
    more = np.maximum(values[values > 0] - known, 0)
    added = np.zeros((len(factors), int((more > 0).sum())))
    added[genes] = (axes * np.sqrt(more))[:, more > 0]
    tables["within_factors"] = np.concatenate([factors, added], axis=1)
    return tables
