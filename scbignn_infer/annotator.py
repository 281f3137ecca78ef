"""Label cells: gene level, graph, cell level, scores, in order. No arithmetic of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation import scores
from scbignn_infer.annotation.annotation import Annotation
from scbignn_infer.annotation.provenance import Genes, Matrix, Model, Params, Provenance, versions
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.errors import InputError
from scbignn_infer.estimate import estimate, refuse_beyond
from scbignn_infer.model.registry import load_model
from scbignn_infer.network.levels import SCALED_STEPS, Graph, cell_pass, gene_pass, label_cells
from scbignn_infer.network.neighbors import ExactSearch, build_graph, compile_ahead, unit_rows
from scbignn_infer.network.panel import TARGET_SUM, Densifier, panel_tables
from scbignn_infer.network.sessions import (
    Session,
    choose_runtime,
)
from scbignn_infer.network.trial import try_out
from scbignn_infer.query.readers import MatrixQuery
from scbignn_infer.query.reading import choose, find_silent_genes, model_genes
from scbignn_infer.settings import AS_FOUND, LabelKeywords, RuleKeywords, Settings, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Unpack

    import scipy.sparse as sp

    from scbignn_infer.annotation.grouping import Grouping
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.levels import GenePass, Report
    from scbignn_infer.network.sessions import MakeSession
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.settings import GraphKind, Reading

Array = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the cells done and all cells."""
BATCH_CELLS = {"cpu": 256, "cuda": 4096}
"""A batch that stays in a CPU's cache, and one that is worth a GPU's while."""


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
        self.bundle = bundle
        self.rules = Rules.of(bundle, **chosen.some(RuleKeywords))
        self.runtime = choose_runtime(chosen.device, chosen.threads)
        self.seed = chosen.seed
        self.batch_cells = chosen.batch_cells or BATCH_CELLS[self.runtime.provider]
        self.memory_limit = chosen.memory_limit
        self.graph: GraphKind = chosen.graph
        self.write_graph = chosen.write_graph
        self._make_session = make_session
        self._genes = model_genes(bundle)
        self._sessions: dict[str, Session] = {}
        self._opening = threading.Lock()
        try_out(bundle, self._session)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_sessions", "_opening")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._sessions, self._opening = {}, threading.Lock()

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

    @property
    def _gene_level(self) -> Session:
        return self._session(self.bundle.spec.gene_level.file)

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
        self, n_cells: int, *, output_bytes: int = 0, held_bytes: int = 0, report: bool = False
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
        """
        spec = self.bundle.spec
        return estimate(
            n_cells,
            embedding_size=spec.gene_level.embedding_size,
            n_classes=len(spec.cell_types),
            n_neighbors=spec.graph.n_neighbors,
            threads=self.runtime.threads,
            output_bytes=output_bytes,
            held_bytes=held_bytes,
            report=report,
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
        self.refuse_too_large(query)
        rules, clock = rules or self.rules, _Clock(query.n_cells, progress)
        with clock.stage("inspect"):
            choice = choice or self.choose(query, reading)
            batches = _batches(query, reading.batch_key)
        if self.graph == "reference":
            batches = []  # no cell is another's neighbour anyway
        else:
            most = max(map(len, batches), default=query.n_cells)
            compile_ahead(most, self.bundle.spec.gene_level.embedding_size, runtime=self.runtime)
        with clock.stage("gene level") as report:
            genes = self._run_gene_level(query, choice, report)
        n, grouping = query.n_cells, rules.grouping
        probabilities = np.zeros((n, len(grouping.labels)), np.float32)
        agreement, residual, known = np.zeros((3, n), np.float32)
        novelty, builders, parts = np.ones(n, np.float32), set[str](), list[tuple[Any, Graph]]()
        for cells in _with_counts(batches, genes.empty):
            z = genes.embedding[cells]
            with clock.stage("graph"):
                graph = self.neighbors(z)
            builders.add(graph.builder)
            with clock.stage("cell level") as report:
                logits = self._run_cell_level(genes.logits[cells], graph, report)
            with clock.stage("scores"):
                own = grouping.sum(scores.calibrate(logits, self.bundle.spec.temperature))
                probabilities[cells], codes = own, own.argmax(1)
                agreement[cells] = self._agreement(codes, graph, grouping)
                novelty[cells], residual[cells], known[cells] = self._strangeness(
                    z, genes.scaled[cells], graph, logits.argmax(1), choice=choice
                )
            if self.write_graph:
                parts.append((cells, graph))
        return Annotation(
            cell_types=grouping.labels,
            ontology_ids=grouping.ontology_ids,
            probabilities=probabilities,
            gene_level_codes=grouping.sum(np.exp(genes.logits)).argmax(axis=1),
            neighbor_agreement=agreement,
            novelty=novelty,
            residual=residual,
            embedding=genes.embedding,
            empty=genes.empty,
            **rules.limits,
            graph=_join_graphs(parts, n) if self.write_graph else None,
            provenance=self._provenance(
                choice,
                rules,
                int(known.sum()),
                int(genes.foreign.sum()),
                find_silent_genes(query, choice, batches),
                clock.seconds,
                graph_builder="+".join(sorted(builders)) or "none",
                batch_key=reading.batch_key or "",
                n_batches=len(batches) or 1,
            ),
        )

    def neighbors(self, embedding: Array) -> Graph:
        """Return the graph of some cells, by their embedding (n, d)."""
        k = self.bundle.spec.graph.n_neighbors
        if self.graph == "query":
            found = build_graph(embedding, k, runtime=self.runtime, seed=self.seed)
            return Graph(*found, reach=found[1].min(axis=1))
        bank = unit_rows(self.bundle.reference["embedding"])
        _, among, _ = build_graph(bank, k, runtime=self.runtime)
        indices, similarity = ExactSearch(self.runtime).search(
            unit_rows(embedding), bank, min(k, len(bank))
        )
        state = np.eye(len(self.bundle.cell_types), dtype=np.float32)
        reach = among.min(axis=1)
        return Graph(indices, similarity, "reference", reach, state[self._bank_codes])

    def neighbor_codes(self, codes: Array, graph: Graph, grouping: Grouping) -> Array:
        """Return the labels (n, k) of the neighbours of cells with labels ``codes`` (n,)."""
        others = codes if graph.state is None else grouping.group[self._bank_codes]
        found: Array = others[graph.indices]
        return found

    @property
    def _bank_codes(self) -> Array:
        return self.bundle.reference["codes"]

    def _agreement(self, codes: Array, graph: Graph, grouping: Grouping) -> Array:
        """Return the weighted share of neighbours with a cell's own label; NaN for a lone cell."""
        if graph.state is None and len(codes) == 1:
            return np.full(1, np.nan, np.float32)
        others = self.neighbor_codes(codes, graph, grouping)
        return scores.agreement(codes, others, graph.similarity)

    def embed(self, rows: sp.csr_matrix, choice: Choice) -> tuple[Array, Array]:
        """Return embedding and gene-level logits of some rows, for a look before the work."""
        densify, tables = self._densifier(choice)
        run = partial(self._gene_level.run, **tables)
        return label_cells(rows, run=run, densify=densify, batch_cells=self.batch_cells)

    def gene_effects(
        self, row: sp.csr_matrix, choice: Choice, code: int
    ) -> tuple[Array, Array, list[str], Array]:
        """Tell what each gene does to a cell's log-odds of a type, at the gene level.

        Parameters
        ----------
        row
            (1, n_file_genes) of the chosen matrix.
        choice
            What :meth:`choose` found.
        code
            Label code of the type.

        Returns
        -------
        effect, counts, symbols, logits
            (k,) log-odds less those with the reference's mean expression of the gene in the cell's
            place, (k,) counts and symbols of the panel's genes; and the (c,) gene logits.
        """
        densify, tables = self._densifier(choice)
        counts, totals = densify(row)
        total = max(float(totals[0, 0]), 1.0)
        mean = np.expm1(np.maximum(tables["gene_mean"], 0)) * (total / TARGET_SUM)
        k = counts.shape[1]
        variants = np.repeat(counts, k + 1, axis=0)
        variants[np.arange(k), np.arange(k)] = mean
        totals = np.full((k + 1, 1), total, np.float32)
        run, step = self._gene_level.holding(**tables), self.batch_cells
        logits = np.concatenate(
            [
                run(counts=variants[rows], totals=totals[rows])[1]
                for rows in (slice(i, i + step) for i in range(0, k + 1, step))
            ]
        )
        odds = _log_odds(logits, code)
        effect = odds[-1] - odds[:k]
        return effect, counts[0], self.panel_symbols(choice), logits[-1]

    def densifier(self, choice: Choice) -> Densifier:
        """Return what turns rows into counts (n, k) of the panel's genes and totals (n, 1)."""
        densify, _ = self._densifier(choice)
        return densify

    def _run_gene_level(self, query: Query, choice: Choice, report: Report) -> GenePass:
        spec = self.bundle.spec
        densify, tables = self._densifier(choice)
        return gene_pass(
            query,
            choice.matrix,
            self._gene_level.holding(**tables),
            densify,
            tables,
            sizes=(spec.gene_level.embedding_size, len(spec.cell_types)),
            batch_cells=self.batch_cells,
            workers=self.runtime.workers,
            report=report,
        )

    def _run_cell_level(self, gene_logits: Array, graph: Graph, report: Report) -> Array:
        layers = self.bundle.spec.cell_level.layers
        return cell_pass(
            layers,
            {layer.file: self._session(layer.file) for layer in layers},
            gene_logits,
            graph,
            workers=self.runtime.workers,
            report=report,
        )

    def panel_symbols(self, choice: Choice) -> list[str]:
        """Return the symbols of the panel's genes, those of a query that the model reads."""
        ranked = len(self.bundle.statistics["gene_mean"])
        panel = np.flatnonzero(choice.genes.present[:ranked])
        panel = panel[: self.bundle.spec.preprocessing.panel_genes]
        return [self.bundle.gene_symbols[i] for i in panel]

    def graphs(self, query: Query, reading: Reading, empty: Array) -> list[Any]:
        """Return the cells of each graph: those with counts, by batch if there are batches."""
        return _with_counts(_batches(query, reading.batch_key), empty)

    def novelty(self, embedding: Array, neighbor_indices: Array | None = None) -> Array:
        """Distance to the reference bank as a quantile of held-out reference cells.

        Parameters
        ----------
        embedding
            (n, d) cell embedding.
        neighbor_indices
            (n, k) graph over which distances are averaged; none to leave them as they are.
        """
        distance, _ = self._distance(embedding)
        return self._novelty(distance, neighbor_indices)

    def _distance(self, embedding: Array) -> tuple[Array, Array]:
        """Return the distance of cells to the reference bank, and which are cells of it."""
        bank, cells = unit_rows(self.bundle.reference["embedding"]), unit_rows(embedding)
        indices, similarity = ExactSearch(self.runtime).search(cells, bank, 1)
        return 1 - similarity[:, 0], scores.same_cells(cells, bank, indices[:, 0])

    def _novelty(self, distance: Array, neighbor_indices: Array | None = None) -> Array:
        return scores.novelty_quantile(
            scores.smooth(distance, neighbor_indices), self.bundle.reference["novelty_quantiles"]
        )

    def _densifier(self, choice: Choice) -> tuple[Densifier, dict[str, Array]]:
        spec, statistics = self.bundle.spec, self.bundle.statistics
        panel, tables = panel_tables(
            statistics,
            choice.genes.present,
            net_genes=spec.gene_level.net_genes,
            panel_genes=spec.preprocessing.panel_genes,
        )
        densify = Densifier.make(
            choice.genes.reference_index,
            statistics["gene_share"],
            panel,
            choice.verdict.state,
            base=choice.verdict.base,
            target_sum=choice.target_sum,
            foreign=choice.genes.foreign,
        )
        return densify, tables

    def _strangeness(
        self, embedding: Array, scaled: Array, graph: Graph, codes: Array, *, choice: Choice
    ) -> tuple[Array, Array, Array]:
        """Return novelty, residual, and which cells the model was trained on.

        The residual needs the genes of a cell's neighbours.
        """
        distance, known = self._distance(embedding)
        if graph.state is not None:
            return self._novelty(distance), np.zeros(len(distance), np.float32), known
        residual, strange = self._residual(scaled, graph.indices, codes, choice)
        return np.maximum(self._novelty(distance, graph.indices), strange), residual, known

    def _residual(
        self, scaled: Array, indices: Array, codes: Array, choice: Choice
    ) -> tuple[Array, Array]:
        """Return the residual of cells, relative and as a quantile; nothing if unknown."""
        quantiles = self.bundle.reference.get("residual_quantiles")
        n, statistics = len(scaled), self.bundle.statistics
        if quantiles is None:
            return np.zeros(n, np.float32), np.zeros(n, np.float32)
        ranked = len(statistics["gene_mean"])
        genes = np.flatnonzero(choice.genes.present[:ranked])[: scaled.shape[1]]
        found = scores.residual(
            scaled,
            indices,
            codes,
            statistics["class_mean"][:, genes] * SCALED_STEPS,
            scores.within_spread(statistics, genes) * SCALED_STEPS,
        )
        most = np.interp(0.99, np.linspace(0, 1, len(quantiles)), quantiles)
        return found / most, scores.novelty_quantile(found, quantiles)

    def _provenance(
        self,
        choice: Choice,
        rules: Rules,
        training_cells: int,
        n_foreign: int,
        silent: tuple[float, float],
        seconds: dict[str, float],
        **graphs: Any,
    ) -> Provenance:
        """Return what labels are based on; ``graphs`` says how those of the query were built."""
        return Provenance(
            model=Model.of(self.bundle),
            adaptation=self.bundle.spec.training.adaptation,
            training_cells=training_cells,
            matrix=Matrix.of(choice),
            genes=Genes.of(choice.genes, n_foreign, silent),
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
            versions=versions(),
            seconds=seconds,
        )


def _log_odds(logits: Array, code: int) -> Array:
    """Return log p / (1 - p) of a type, which does not stand still where a cell is sure."""
    others = np.delete(logits, code, axis=1).astype(np.float64)
    most = others.max(axis=1)
    odds: Array = logits[:, code] - most - np.log(np.exp(others - most[:, None]).sum(axis=1))
    return odds


def _batches(query: Query, key: str | None) -> list[Array]:
    """Return the cells of each value of a column of ``obs``, none without a column."""
    if key is None:
        return []
    _, codes = np.unique(np.array(query.obs_column(key), dtype=object), return_inverse=True)
    return [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]


def _with_counts(batches: list[Array], empty: Array) -> list[Any]:
    """Return the cells that make a graph together, without empty ones."""
    if not batches and not empty.any():
        return [slice(None)]  # a slice takes no copy, here where the memory peaks
    kept = [cells[~empty[cells]] for cells in batches or [np.arange(len(empty))]]
    return [cells for cells in kept if len(cells)]


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


def _join_graphs(parts: list[tuple[Any, Graph]], n: int) -> sp.csr_matrix:
    """Return similarities (n, n) of cells and their neighbours, those of every batch in one."""
    import scipy.sparse as sp

    rows, columns, values = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0, np.float32)]
    for cells, graph in parts:
        own = np.arange(n)[cells]
        rows.append(np.repeat(own, graph.indices.shape[1]))
        columns.append(own[graph.indices].ravel())
        values.append(graph.similarity.ravel())
    row, column, value = (np.concatenate(x) for x in (rows, columns, values))
    return sp.csr_matrix((value, (row, column)), shape=(n, n))
