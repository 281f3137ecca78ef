"""A model bound to genes: for one matrix after another of the same columns, as of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from scbignn_infer.network.levels import gene_pass
from scbignn_infer.query.enough import SomeCells, enough
from scbignn_infer.query.gene_fit import GeneFits
from scbignn_infer.query.readers import MatrixQuery
from scbignn_infer.query.reading import choose, refuse
from scbignn_infer.settings import AS_FOUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.annotation.rules import Rules
    from scbignn_infer.annotator import Annotator
    from scbignn_infer.network.pair import Pair
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.settings import Reading


class Bound:
    """An annotator for matrices whose columns are the same genes; :meth:`Annotator.bind` makes it.

    The genes are matched once, and their tables are worked out once. The labels are those of
    :meth:`Annotator.annotate_matrix`. Threads may share one.

    Examples
    --------
    >>> import numpy as np
    >>> from scbignn_infer import Annotator
    >>> annotator = Annotator.load("human-pbmc", threads=1)
    >>> genes = annotator.bundle.gene_symbols[:500]
    >>> bound = annotator.bind(genes)
    >>> counts = np.random.default_rng(0).poisson(1.0, (3, 500))
    >>> [len(bound.annotate(counts[i : i + 1])) for i in range(3)]
    [1, 1, 1]
    >>> bound.embed(counts).shape
    (3, 96)
    """

    def __init__(
        self, annotator: Annotator, gene_names: Sequence[str], reading: Reading = AS_FOUND
    ) -> None:
        self.annotator, self.reading = annotator, reading
        self.gene_names = [str(name) for name in gene_names]
        self._fits = fits = GeneFits(annotator.bundle, annotator.fits.genes)
        no_cells = MatrixQuery(sp.csr_matrix((0, len(self.gene_names))), self.gene_names)
        fit = fits.of(no_cells.gene_columns("X"), reading)
        refuse(no_cells, "X", fit, fits.genes, reading)

    def annotate(self, matrix: Any, *, rules: Rules | None = None) -> Annotation:
        """Label the cells of a matrix.

        Parameters
        ----------
        matrix
            (n_cells, n_genes) counts or log1p(CP10k), scipy.sparse or numpy, a column a gene.
        rules
            Which labels are given; by default those of the annotator's settings.

        Raises
        ------
        InputError
            As :meth:`Annotator.annotate_matrix`.
        """
        query = MatrixQuery(matrix, self.gene_names)
        choice = self._choose(query)
        return self.annotator.annotate_query(query, self.reading, choice=choice, rules=rules)

    def embed(self, matrix: Any) -> Array:
        """Return the embedding (n_cells, d) of the cells of a matrix, without labelling them.

        Parameters
        ----------
        matrix
            As for :meth:`annotate`.

        Raises
        ------
        InputError
            As :meth:`annotate`.
        """
        kept = enough(MatrixQuery(matrix, self.gene_names), self.reading)
        found = embed_cells(self.annotator.pair, kept, self._choose(kept))
        return kept.spread(found) if isinstance(kept, SomeCells) else found

    def _choose(self, query: Query) -> Choice:
        bundle, graph = self.annotator.bundle, self.annotator.pair.graph
        return choose(query, bundle, self.reading, fits=self._fits).for_graph(graph)


def embed_cells(pair: Pair, query: Query, choice: Choice) -> Array:
    """Return the embedding (n_cells, d) of the cells of a query, without labelling them."""
    level, workers = pair.gene_level(choice.panel), pair.runtime.workers
    return gene_pass(level, query, choice.matrix, workers=workers, report=_say_nothing).embedding


def _say_nothing(stage: str, done: int, total: int) -> None:
    pass
