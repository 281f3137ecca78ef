"""Label cells: gene level, graph, cell level, scores, in order. No arithmetic of its own."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation import scores
from scbignn_infer.annotation.adapt import OF_TISSUES, Adaptation, Round, refuse_fixed, type_sums
from scbignn_infer.annotation.annotation import Annotation
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.provenance import (
    Adapted,
    Genes,
    Matrix,
    Model,
    Params,
    Provenance,
    versions,
)
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.errors import InputError
from scbignn_infer.estimate import estimate, refuse_beyond
from scbignn_infer.model.registry import load_model
from scbignn_infer.network.bank import ReferenceBank
from scbignn_infer.network.levels import GeneLevel, cell_pass, gene_pass
from scbignn_infer.network.neighbors import build_graph, join_graphs, search_for, with_counts
from scbignn_infer.network.panel import Panel
from scbignn_infer.network.sessions import Session, choose_runtime
from scbignn_infer.network.trial import try_out
from scbignn_infer.query.readers import MatrixQuery
from scbignn_infer.query.reading import batches_of, choose, find_silent_genes, model_genes
from scbignn_infer.settings import AS_FOUND, LabelKeywords, RuleKeywords, Settings, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Unpack

    from scbignn_infer._types import Array, Progress
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.neighbors import Graph
    from scbignn_infer.network.sessions import MakeSession
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.settings import GraphKind, Reading, SearchName

BATCH_CELLS = {"cpu": 256, "cuda": 4096}
"""A batch that stays in a CPU's cache, and one that is worth a GPU's while."""
NOT_PICKLED = ("_sessions", "_opening", "_narrow", "bank")
"""What a pickled annotator leaves behind."""


@shown(LabelKeywords)
class Annotator:
    """A model made ready to label cells; reuse it for many queries.

    Threads may share one, and it can be pickled: sessions are opened where it is unpickled.

    Parameters
    ----------
    bundle
        The model.
    make_session
        Called with a graph's file name and bytes, returns the onnxruntime ``InferenceSession`` to
        run it with, ready or new; by default one is made for ``device``.
    **settings

    Raises
    ------
    BundleError
        The model does not run: its first run, on made-up cells, is here.
    InputError, DeviceError
        A setting makes no sense, or the device is not there.

    Examples
    --------
    >>> import numpy as np
    >>> from scbignn_infer import Annotator
    >>> annotator = Annotator.load("human-pbmc", threads=1)
    >>> genes = annotator.bundle.gene_symbols[:500]
    >>> counts = np.random.default_rng(0).poisson(1.0, (3, 500))
    >>> len(annotator.annotate_matrix(counts, genes))
    3
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        make_session: MakeSession | None = None,
        **settings: Unpack[LabelKeywords],
    ) -> None:
        chosen = Settings.of(settings, LabelKeywords)
        if chosen.graph not in ("query", "reference"):
            raise InputError(
                f"graph '{chosen.graph}'", expected="query or reference", do="choose one of these"
            )
        if chosen.write_graph and chosen.graph == "reference":
            raise InputError(
                "a graph is to be kept, that of the reference",
                expected="the graph of the query's cells",
                do="leave out --write-graph (write_graph), or take graph 'query'",
            )
        if chosen.adapt:
            refuse_fixed(chosen.graph)
        self.bundle = bundle
        self.rules = Rules.of(bundle, **chosen.some(RuleKeywords))
        self.runtime = choose_runtime(chosen.device, chosen.threads)
        self.seed = chosen.seed
        self.batch_cells = chosen.batch_cells or BATCH_CELLS[self.runtime.provider]
        self.memory_limit = chosen.memory_limit
        self.graph: GraphKind = chosen.graph
        search_for(0, chosen.neighbors)  # refuses what is none
        self.search: SearchName = chosen.neighbors
        self.write_graph = chosen.write_graph
        self.adaptation = Adaptation()
        self._make_session = make_session
        self._genes = model_genes(bundle)
        self._sessions: dict[str, Session] = {}
        self._opening = threading.Lock()
        self._narrow: tuple[Array, ReferenceBank] | None = None
        try_out(bundle, self._session)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._sessions, self._opening, self._narrow = {}, threading.Lock(), None

    @classmethod
    @shown(LabelKeywords)
    def load(
        cls,
        model: str | Path | ModelBundle,
        *,
        make_session: MakeSession | None = None,
        **settings: Unpack[LabelKeywords],
    ) -> Annotator:
        """Load a model as :func:`load_model` does; the keywords are those of the class."""
        return cls(load_model(model), make_session=make_session, **settings)

    def _session(self, file: str) -> Session:
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

    def bank_of(self, grouping: Grouping) -> ReferenceBank:
        """Return the reference cells of the classes that labels have; the last is kept."""
        kept = grouping.kept
        if kept.all():
            return self.bank
        narrow = self._narrow
        if narrow is None or not np.array_equal(narrow[0], kept):
            narrow = self._narrow = kept, ReferenceBank(self.bundle, self.runtime, kept)
        return narrow[1]

    def gene_level(self, panel: Panel) -> GeneLevel:
        """Return the gene level for the genes of a query."""
        session = self._session(self.bundle.spec.gene_level.file)
        return GeneLevel.of(self.bundle.spec, session, panel, self.batch_cells)

    def neighbors(self, embedding: Array, bank: ReferenceBank | None = None) -> Graph:
        """Return the graph of some cells, by their embedding (n, d), with a part of the bank."""
        if self.graph == "reference":
            return (bank or self.bank).graph(embedding)
        k = self.bundle.spec.graph.n_neighbors
        search = search_for(len(embedding), self.search)
        return build_graph(embedding, k, runtime=self.runtime, seed=self.seed, search=search)

    def annotate_matrix(
        self,
        matrix: Any,
        gene_names: Sequence[str],
        *,
        reading: Reading = AS_FOUND,
        rules: Rules | None = None,
        progress: Progress | None = None,
    ) -> Annotation:
        """Label the cells of a matrix in memory; needs no file, anndata or pandas.

        Parameters
        ----------
        matrix
            (n_cells, n_genes) counts or log1p(CP10k), scipy.sparse or numpy.
        gene_names
            (n_genes,) symbols or Ensembl ids.
        reading
            The user's wishes on how it is read.
        rules
            Which labels are given; by default those of the annotator's settings.
        progress
            Called as work proceeds.

        Raises
        ------
        InputError
            Shapes do not fit, values cannot be used, or too few genes are the model's.
        """
        query = MatrixQuery(matrix, gene_names)
        return self.annotate_query(query, reading, rules=rules, progress=progress)

    def choose(self, query: Query, reading: Reading = AS_FOUND) -> Choice:
        """Decide which matrix and which gene names to use, without labelling.

        Parameters
        ----------
        query
            The cells.
        reading
            The user's wishes.

        Raises
        ------
        InputError
            No matrix is usable, too few genes are the model's, or they are of another species.
        """
        return choose(query, self.bundle, reading, genes=self._genes)

    def estimate(
        self,
        n_cells: int,
        *,
        output_bytes: int = 0,
        held_bytes: int = 0,
        report: bool = False,
        adapt: bool = False,
    ) -> Estimate:
        """Estimate what labelling takes.

        Parameters
        ----------
        n_cells
            Cells of the query.
        output_bytes
            Size of the file that will be copied.
        held_bytes
            What of the file is in memory, since its format is read whole.
        report
            Whether a report is drawn, too.
        adapt
            Whether the model is adapted to the cells first.
        """
        spec = self.bundle.spec
        return estimate(
            n_cells,
            embedding_size=spec.gene_level.embedding_size,
            n_classes=len(spec.cell_types),
            n_neighbors=spec.graph.n_neighbors,
            threads=self.runtime.threads,
            neighbors=self.search,
            output_bytes=output_bytes,
            held_bytes=held_bytes,
            report=report,
            adapt=adapt,
        )

    def refuse_too_large(self, query: Query, expected: Estimate | None = None) -> None:
        """Refuse a query whose labelling is estimated to need more than the memory limit.

        Parameters
        ----------
        query
            The cells.
        expected
            What it takes, with what is not labelling; by default labelling alone.

        Raises
        ------
        InputError
            It needs more.
        """
        needed = (expected or self.estimate(query.n_cells)).memory
        what = f"labelling the {query.n_cells:,} cells of {query.name}"
        refuse_beyond(self.memory_limit, needed, what)

    def annotate_query(
        self,
        query: Query,
        reading: Reading = AS_FOUND,
        *,
        choice: Choice | None = None,
        rules: Rules | None = None,
        progress: Progress | None = None,
    ) -> Annotation:
        """Label the cells of a query.

        Parameters
        ----------
        query
            The cells.
        reading
            The user's wishes on how it is read.
        choice
            What :meth:`choose` or :func:`choose_model` found, where that has been asked already.
        rules
            Which labels are given; by default those of the annotator's settings.
        progress
            Called as work proceeds.

        Returns
        -------
        Annotation
            In the order of the query's cells.

        Raises
        ------
        InputError
            No matrix is usable, too few genes are the model's or they are of another species, or
            the memory limit is too low.
        """
        return self.labelled(query, reading, choice=choice, rules=rules, progress=progress)[0]

    def labelled(
        self,
        query: Query,
        reading: Reading = AS_FOUND,
        *,
        choice: Choice | None = None,
        rules: Rules | None = None,
        progress: Progress | None = None,
    ) -> tuple[Annotation, Panel]:
        """Do as :meth:`annotate_query`; also return the tables of the genes that labels rest on."""
        rules = rules or self.rules
        if rules.adapt:
            refuse_fixed(self.graph)
        self.refuse_too_large(query, self.estimate(query.n_cells, adapt=rules.adapt))
        clock = _Clock(query.n_cells, progress)
        with clock.stage("inspect"):
            choice = choice or self.choose(query, reading)
            batches = batches_of(query, reading.batch_key)
        if self.graph == "reference":
            batches = []  # no cell is another's neighbour anyway
        else:
            most = max(map(len, batches), default=query.n_cells)
            size = self.bundle.spec.gene_level.embedding_size
            search_for(most, self.search).prepare(size, runtime=self.runtime)
        label = partial(self._round, query, choice.matrix, batches, clock)
        panel, adapted = choice.panel, None
        if rules.adapt:
            found, panel, adapted = self._adapted(query, choice, rules, label, clock)
        else:
            found = label(panel=panel, rules=rules)
        genes, said, rules = found.genes, found.scores, found.rules
        grouping = rules.grouping
        annotation = Annotation(
            cell_types=grouping.labels,
            ontology_ids=grouping.ontology_ids,
            probabilities=said.probabilities,
            gene_level_codes=grouping.sum(np.exp(genes.logits)).argmax(axis=1),
            neighbor_agreement=said.agreement,
            novelty=said.novelty,
            residual=said.residual,
            embedding=genes.embedding,
            empty=genes.empty,
            **rules.limits,
            graph=join_graphs(found.graphs, query.n_cells) if self.write_graph else None,
            provenance=self._provenance(
                choice,
                rules,
                int(said.known.sum()),
                int(genes.foreign.sum()),
                silent=find_silent_genes(query, choice, batches),
                seconds=clock.seconds,
                adapted=adapted,
                graph_builder="+".join(sorted(found.builders)) or "none",
                batch_key=reading.batch_key or "",
                n_batches=len(batches) or 1,
            ),
        )
        return annotation, panel

    def _round(
        self,
        query: Query,
        matrix: str,
        batches: list[Array],
        clock: _Clock,
        *,
        panel: Panel,
        rules: Rules,
    ) -> Round:
        """Run both levels over all cells, and score the labels."""
        spec, workers = self.bundle.spec, self.runtime.workers
        with clock.stage("gene level") as report:
            level = self.gene_level(panel)
            genes = gene_pass(level, query, matrix, workers=workers, report=report)
        rules = rules.found(genes.logits, genes.empty)
        grouping = rules.grouping
        bank, _ = self.bank_of(grouping), grouping.narrow(genes.logits)
        said = scores.CellScores(query.n_cells, grouping, spec.temperature)
        found = Round(genes, said, rules)
        for cells in with_counts(batches, genes.empty):
            with clock.stage("graph"):
                graph = self.neighbors(genes.embedding[cells], bank)
            found.builders.add(graph.builder)
            with clock.stage("cell level") as report:
                layers, own = spec.cell_level.layers, genes.logits[cells]
                logits = cell_pass(
                    layers, self._session, own, graph, workers=workers, report=report
                )
            with clock.stage("scores"):
                logits = grouping.narrow(logits)
                said.put(cells, logits, genes, graph, panel=panel, bank=bank)
            if self.write_graph:
                found.graphs.append((cells, graph))
        return found

    def _adapted(
        self,
        query: Query,
        choice: Choice,
        rules: Rules,
        label: Callable[..., Round],
        clock: _Clock,
    ) -> tuple[Round, Panel, Adapted]:
        """Label by the model as it is, then as the cells have adapted it, if that may be."""
        spec, panel, how = self.bundle.spec, choice.panel, self.adaptation
        if rules.tissues is not None:
            return label(panel=panel, rules=rules), panel, Adapted(refused=OF_TISSUES)
        types, n_types = Grouping.each(spec.cell_types), len(spec.cell_types)
        each = replace(rules, grouping=types)
        found = label(panel=panel, rules=each)
        known = found.scores.known  # a cell that is shifted is no more the same cell
        with clock.stage("adapt"):
            codes = how.trust(found, spec.temperature)
            adapted = how.record(found, codes, types.labels)
            if not adapted.refused:
                n = np.bincount(codes[codes >= 0], minlength=n_types)
                sums = type_sums(
                    partial(query.blocks, choice.matrix),
                    panel,
                    codes,
                    n_types=n_types,
                    workers=self.runtime.workers,
                )
                statistics, shift = how.m_step(panel, sums, n, own=adapted.own)
        if not adapted.refused:
            new = Panel.of(self.bundle, choice, statistics)
            after = label(panel=new, rules=each)
            adapted = how.judged(adapted, shift, after)
            if not adapted.refused:
                found, panel = after, new
        if rules.grouping.labels != types.labels:
            found = label(panel=panel, rules=rules)
        found.scores.known = known
        return found, panel, adapted

    def _provenance(
        self,
        choice: Choice,
        rules: Rules,
        training_cells: int,
        n_foreign: int,
        *,
        silent: tuple[float, float],
        seconds: dict[str, float],
        adapted: Adapted | None,
        **graphs: Any,
    ) -> Provenance:
        """Return what labels are based on; ``graphs`` says how those of the query were built."""
        return Provenance(
            model=Model.of(self.bundle),
            adaptation=self.bundle.spec.training.adaptation,
            training_cells=training_cells,
            matrix=Matrix.of(choice),
            genes=Genes.of(choice.genes, n_foreign, silent),
            tissue=rules.tissue,
            params=Params(
                n_neighbors=self.bundle.spec.graph.n_neighbors,
                graph=self.graph,
                **rules.limits,
                temperature=self.bundle.spec.temperature,
                seed=self.seed,
                threads=self.runtime.threads,
                provider=self.runtime.provider,
                device_note=self.runtime.note,
                **graphs,
            ),
            adapted=adapted,
            versions=versions(),
            seconds=seconds,
        )


class _Clock:
    """Times the stages and passes progress on."""

    def __init__(self, n_cells: int, progress: Progress | None) -> None:
        self._n, self._progress = n_cells, progress or (lambda stage, done, total: None)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        self._progress(name, 0, self._n)
        start = time.perf_counter()
        yield self._progress
        taken = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.seconds[name] = round(taken, 4)
        self._progress(name, self._n, self._n)
