"""Both levels of a model, opened: its graphs, its reference cells and the search for neighbours."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.network.bank import ReferenceBank
from scbignn_infer.network.levels import GeneLevel
from scbignn_infer.network.neighbors import build_graph, search_for
from scbignn_infer.network.sessions import Session
from scbignn_infer.network.trial import try_out

if TYPE_CHECKING:
    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.neighbors import Graph
    from scbignn_infer.network.panel import Panel
    from scbignn_infer.network.sessions import MakeSession, Runtime
    from scbignn_infer.settings import GraphKind, SearchName

BATCH_CELLS = {"cpu": 256, "cuda": 4096}
"""A batch that stays in a CPU's cache, and one that is worth a GPU's while."""
NOT_PICKLED = ("_sessions", "_opening", "_narrow", "bank")
"""What a pickled pair leaves behind."""


class Pair:
    """The two levels of a model, which has run once when this is made.

    Threads may share one, and it can be pickled: sessions are opened where it is unpickled.
    ``make_session`` is that of :class:`~scbignn_infer.Annotator`; ``graph`` says among which cells
    neighbours are sought, ``search`` by what they are found, and ``seed`` is of that search.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        runtime: Runtime,
        *,
        batch_cells: int | None = None,
        graph: GraphKind = "query",
        search: SearchName = "auto",
        seed: int = 0,
        make_session: MakeSession | None = None,
    ) -> None:
        self.bundle, self.runtime = bundle, runtime
        self.batch_cells = batch_cells or BATCH_CELLS[runtime.provider]
        self.graph: GraphKind = graph
        search_for(0, search)  # refuses what is none
        self.search: SearchName = search
        self.seed = seed
        self._make_session = make_session
        self._sessions: dict[str, Session] = {}
        self._opening = threading.Lock()
        self._narrow: tuple[Array, ReferenceBank] | None = None
        done = runtime.provider == "cpu" and make_session is None and bundle.tried_out_on_cpu
        if not done:
            try_out(bundle, self.session)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._sessions, self._opening, self._narrow = {}, threading.Lock(), None

    def session(self, file: str) -> Session:
        """Return the session of one of the bundle's graphs; the first caller opens it."""
        with self._opening:
            if file not in self._sessions:
                graph = self.bundle.read(file)
                self._sessions[file] = Session(graph, self.runtime, file, self._make_session)
            return self._sessions[file]

    @cached_property
    def bank(self) -> ReferenceBank:
        """The model's reference cells, laid out when they are first asked for."""
        return ReferenceBank(self.bundle, self.runtime)

    def bank_of(self, kept: Array) -> ReferenceBank:
        """Return the reference cells of some classes, a mask (n_classes,); the last is kept."""
        if kept.all():
            return self.bank
        narrow = self._narrow
        if narrow is None or not np.array_equal(narrow[0], kept):
            narrow = self._narrow = kept, ReferenceBank(self.bundle, self.runtime, kept)
        return narrow[1]

    def gene_level(self, panel: Panel) -> GeneLevel:
        """Return the gene level for the genes of a query."""
        session = self.session(self.bundle.spec.gene_level.file)
        return GeneLevel.of(self.bundle.spec, session, panel, self.batch_cells)

    def neighbors(self, embedding: Array, bank: ReferenceBank | None = None) -> Graph:
        """Return the graph of some cells, by their embedding (n, d), with a part of the bank."""
        if self.graph == "reference":
            return (bank or self.bank).graph(embedding)
        k = self.bundle.spec.graph.n_neighbors
        search = search_for(len(embedding), self.search)
        return build_graph(embedding, k, runtime=self.runtime, seed=self.seed, search=search)
