"""The two passes in order: gene level, graph, cell level. No arithmetic of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer import __version__, results
from scbignn_infer.bundle import ModelBundle
from scbignn_infer.choice import AS_FOUND, Choice, Reading, choose, judge_matrices
from scbignn_infer.errors import BundleError, GeneError, InputError
from scbignn_infer.estimate import Estimate, estimate
from scbignn_infer.expression import TARGET_SUM, Densifier, panel_tables
from scbignn_infer.grouping import Grouping
from scbignn_infer.matrices import sample_rows
from scbignn_infer.neighbors import ExactSearch, build_graph, compile_ahead, unit_rows
from scbignn_infer.parallel import in_order
from scbignn_infer.readers import AnnDataQuery, MatrixQuery, Query
from scbignn_infer.registry import list_models, load_model
from scbignn_infer.results import Annotation
from scbignn_infer.sessions import Device, Run, Session, choose_runtime, installed_packages
from scbignn_infer.writers import Slots, as_column, existing_slots, refuse_existing, write_adata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad
    import scipy.sparse as sp

Array = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the cells done and all cells."""
READ_CELLS = 1024
CELL_CHUNK = 4096
CHOICE_CELLS = 256
BATCH_CELLS = {"cpu": 256, "cuda": 4096}
"""A batch that stays in a CPU's cache, and one that is worth a GPU's while."""
SCALED_STEPS = 15.0
"""Steps of one standard deviation in which scaled expression is kept, so that a byte holds it."""
NEVER_UNKNOWN = -2.0
"""A threshold that no cell is below."""
MAX_NOVELTY = 0.99
MIN_NOVELTY_GAP = 0.02
"""Without a wish of the user, a model must place the typical cell within its reference's range,
and closer than the next model does."""


class Annotator:
    """A model made ready to label cells; reuse it for many queries.

    Parameters
    ----------
    bundle
        The model.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads
        CPU threads; by default all that the process may use.
    seed
        Of the approximate graph search, used above 100,000 cells.
    batch_cells
        Cells that go through the gene level at once; by default 256, on a GPU 4096.
    memory_limit
        Bytes; queries that are estimated to need more are refused before any work.
    unknown
        Whether cells may be called unknown.
    unknown_threshold
        Below it they are, by their :attr:`~scbignn_infer.results.Annotation.support`; by default
        the model's.
    level, groups
        Coarser labels: so many steps up the Cell Ontology, or a group for each type's name;
        probabilities are summed.

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
        device: Device = "auto",
        threads: int | None = None,
        seed: int = 0,
        batch_cells: int | None = None,
        memory_limit: int | None = None,
        unknown: bool = True,
        unknown_threshold: float | None = None,
        level: int = 0,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        self.bundle = bundle
        own = bundle.spec.thresholds.confidence if unknown_threshold is None else unknown_threshold
        self.threshold = own if unknown else NEVER_UNKNOWN
        types = bundle.spec.cell_types
        self.grouping = Grouping.by_level(types, level)
        if groups is not None:
            self.grouping = Grouping.by_map(types, groups)
        self.runtime = choose_runtime(device, threads)
        self.seed = seed
        self.batch_cells = batch_cells or BATCH_CELLS[self.runtime.provider]
        self.memory_limit = memory_limit

    @classmethod
    def load(cls, model: str | Path | ModelBundle, **settings: Any) -> Annotator:
        """Load a model by name or path; ``settings`` are those of the class."""
        return cls(load_model(model), **settings)

    @cached_property
    def _gene_level(self) -> Session:
        return Session(self.bundle.read(self.bundle.spec.gene_level.file), self.runtime)

    @cached_property
    def _cell_level(self) -> dict[str, Session]:
        files = dict.fromkeys(layer.file for layer in self.bundle.spec.cell_level.layers)
        return {name: Session(self.bundle.read(name), self.runtime) for name in files}

    @cached_property
    def _search(self) -> ExactSearch:
        return ExactSearch(self.runtime)

    def annotate_matrix(
        self,
        matrix: Any,
        gene_names: Sequence[str],
        *,
        reading: Reading = AS_FOUND,
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
        progress
            Called as work proceeds.

        Raises
        ------
        InputError
            Shapes do not fit, values cannot be used, or too few genes are the model's.
        """
        return self.annotate_query(MatrixQuery(matrix, gene_names), reading, progress=progress)

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
        return choose(query, self.bundle, reading)

    def estimate(self, n_cells: int, *, output_bytes: int = 0) -> Estimate:
        """Estimate what labelling takes.

        Parameters
        ----------
        n_cells
            Cells of the query.
        output_bytes
            Size of the file that will be copied.
        """
        spec = self.bundle.spec
        return estimate(
            n_cells,
            embedding_size=spec.gene_level.embedding_size,
            n_classes=len(spec.cell_types),
            n_neighbors=spec.graph.n_neighbors,
            threads=self.runtime.threads,
            output_bytes=output_bytes,
        )

    def _refuse_too_large(self, query: Query) -> None:
        needed = self.estimate(query.n_cells).memory
        if self.memory_limit is not None and needed > self.memory_limit:
            raise InputError(
                f"labelling the {query.n_cells:,} cells of {query.name} needs about "
                f"{needed / 1e9:.1f} GB of memory",
                expected=f"at most the {self.memory_limit / 1e9:.1f} GB of the memory limit",
                do="raise --memory-limit (memory_limit), or label one sample at a time",
            )

    def annotate_query(
        self,
        query: Query,
        reading: Reading = AS_FOUND,
        *,
        choice: Choice | None = None,
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
        self._refuse_too_large(query)
        spec, clock = self.bundle.spec, _Clock(query.n_cells, progress)
        with clock.stage("inspect"):
            if choice is None:
                choice = self.choose(query, reading)
            batches = _batches(query, reading.batch_key)
        most = max(len(b) for b in batches) if batches else query.n_cells
        compile_ahead(most, spec.gene_level.embedding_size, runtime=self.runtime)
        with clock.stage("gene level") as report:
            embedding, gene_logits, scaled, empty = self._run_gene_level(query, choice, report)
        n, grouping = query.n_cells, self.grouping
        probabilities = np.zeros((n, len(grouping.labels)), np.float32)
        agreement, residual = np.zeros((2, n), np.float32)
        novelty = np.ones(n, np.float32)
        builders = set()
        for cells in _with_counts(batches, empty):
            z, logits = embedding[cells], gene_logits[cells]
            with clock.stage("graph"):
                indices, similarity, builder = build_graph(
                    z, spec.graph.n_neighbors, runtime=self.runtime, seed=self.seed
                )
                builders.add(builder)
            with clock.stage("cell level") as report:
                cell_logits = self._run_cell_level(logits, indices, similarity, report)
            with clock.stage("scores"):
                own = grouping.sum(results.calibrate(cell_logits, spec.temperature))
                probabilities[cells] = own
                agreement[cells] = results.agreement(own.argmax(1), indices, similarity)
                residual[cells], strange = self._residual(
                    scaled[cells], indices, cell_logits.argmax(1), choice
                )
                novelty[cells] = np.maximum(self.novelty(z, indices), strange)
        return Annotation(
            cell_types=grouping.labels,
            ontology_ids=grouping.ontology_ids,
            probabilities=probabilities,
            gene_level_codes=grouping.sum(np.exp(gene_logits)).argmax(axis=1),
            neighbor_agreement=agreement,
            novelty=novelty,
            residual=residual,
            embedding=embedding,
            empty=empty,
            confidence_threshold=self.threshold,
            provenance=self._provenance(
                choice,
                {
                    "graph_builder": "+".join(sorted(builders)) or "none",
                    "batch_key": reading.batch_key or "",
                    "n_batches": len(batches) if batches else 1,
                },
                clock.seconds,
            ),
        )

    def embed(self, rows: sp.csr_matrix, choice: Choice) -> tuple[Array, Array]:
        """Return embedding and gene-level logits of some rows, for a look before the work."""
        densify, tables = self._densifier(choice)
        run = partial(self._gene_level.run, **tables)
        return _label_cells(rows, run=run, densify=densify, batch_cells=self.batch_cells)

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
        reference = self.bundle.reference
        bank = unit_rows(reference["embedding"])
        _, nearest = self._search.search(unit_rows(embedding), bank, 1)
        return results.novelty_quantile(
            results.smooth(1 - nearest[:, 0], neighbor_indices), reference["novelty_quantiles"]
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
        )
        return densify, tables

    def _run_gene_level(
        self, query: Query, choice: Choice, report: Progress
    ) -> tuple[Array, Array, Array, Array]:
        """Pass 1, streamed: embedding (n, d), gene logits (n, c), scaled genes, empty cells."""
        spec, n = self.bundle.spec, query.n_cells
        densify, tables = self._densifier(choice)
        embedding = np.empty((n, spec.gene_level.embedding_size), np.float32)
        logits = np.empty((n, len(self.bundle.cell_types)), np.float32)
        empty = np.empty(n, dtype=bool)
        run = self._gene_level.holding(**tables)
        kept = min(results.RESIDUAL_GENES, densify.panel_size)
        scaled = np.empty((n, kept), np.int8)
        label = partial(
            _label_and_scale,
            run=run,
            densify=densify,
            batch_cells=self.batch_cells,
            mean=tables["gene_mean"][:kept],
            scale=tables["gene_scale"][:kept],
        )
        blocks = query.blocks(choice.matrix, max(READ_CELLS, self.batch_cells))
        start = 0
        for z, o, genes, none in in_order(label, blocks, workers=self.runtime.workers):
            rows = slice(start, start + len(z))
            embedding[rows], logits[rows], scaled[rows], empty[rows] = z, o, genes, none
            start = rows.stop
            report("gene level", start, n)
        return embedding, logits, scaled, empty

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
        found = results.residual(
            scaled,
            indices,
            codes,
            statistics["class_mean"][:, genes] * SCALED_STEPS,
            results.within_spread(statistics, genes) * SCALED_STEPS,
        )
        most = np.interp(0.99, np.linspace(0, 1, len(quantiles)), quantiles)
        return found / most, results.novelty_quantile(found, quantiles)

    def _run_cell_level(
        self, gene_logits: Array, indices: Array, similarity: Array, report: Progress
    ) -> Array:
        """Pass 2: one layer after the other, in chunks of cells; returns logits (n, c)."""
        n, layers = len(gene_logits), self.bundle.spec.cell_level.layers
        own, state = gene_logits, np.exp(gene_logits)
        reach = similarity.min(axis=1)
        for step, layer in enumerate(layers):
            update = partial(
                _update_cells,
                run=self._cell_level[layer.file].holding(
                    state=state, reach=reach, layer=np.array(layer.layer, np.int64)
                ),
                by_cell={
                    "own": own,
                    "gene_logits": gene_logits,
                    "neighbor_indices": indices,
                    "neighbor_similarity": similarity,
                },
            )
            own, state = np.empty_like(own), np.empty_like(state)
            chunks = [slice(i, min(i + CELL_CHUNK, n)) for i in range(0, n, CELL_CHUNK)]
            updated = in_order(update, chunks, workers=self.runtime.workers)
            for rows, values in zip(chunks, updated, strict=True):
                own[rows], state[rows] = values
                report("cell level", step * n + rows.stop, len(layers) * n)
        return own

    def _provenance(
        self, choice: Choice, graph: dict[str, Any], seconds: dict[str, float]
    ) -> dict[str, Any]:
        spec, genes, verdict = self.bundle.spec, choice.genes, choice.verdict
        return {
            "model": {"name": spec.name, "version": spec.version, "sha256": self.bundle.sha256},
            "adaptation": spec.training.adaptation,
            "matrix": {
                "name": choice.matrix,
                "state": verdict.state,
                "reason": verdict.reason,
                "target_sum": choice.target_sum if verdict.state == "log1p-cut" else 0.0,
                "verdicts": {
                    name.replace("/", ":"): f"{v.state} ({v.reason})"
                    for name, v in choice.verdicts.items()
                },
            },
            "genes": {
                "column": genes.column,
                "n_shared": genes.n_shared,
                "coverage": genes.coverage,
                "n_duplicates": genes.n_duplicates,
                "n_renamed": genes.n_renamed,
                "left_out": genes.left_out,
            },
            "params": {
                "n_neighbors": spec.graph.n_neighbors,
                **graph,
                "confidence_threshold": self.threshold,
                "temperature": spec.temperature,
                "seed": self.seed,
                "threads": self.runtime.threads,
                "provider": self.runtime.provider,
            },
            "versions": {
                "scbignn_infer": __version__,
                "numpy": np.__version__,
                **installed_packages(),
            },
            "seconds": {k: round(v, 4) for k, v in seconds.items()},
        }


def _log_odds(logits: Array, code: int) -> Array:
    """Return log p / (1 - p) of a type, which does not stand still where a cell is sure."""
    others = np.delete(logits, code, axis=1).astype(np.float64)
    most = others.max(axis=1)
    odds: Array = logits[:, code] - most - np.log(np.exp(others - most[:, None]).sum(axis=1))
    return odds


def _label_cells(
    block: sp.csr_matrix, *, run: Run, densify: Densifier, batch_cells: int
) -> tuple[Array, Array]:
    """Run the gene level on some rows of a file: embedding and gene logits."""
    counts, totals = densify(block)
    return _run_batches(counts, totals, run, batch_cells)


def _run_batches(counts: Array, totals: Array, run: Run, batch_cells: int) -> tuple[Array, Array]:
    batches = [slice(i, i + batch_cells) for i in range(0, len(counts), batch_cells)]
    parts = [run(counts=counts[b], totals=np.maximum(totals[b], 1.0)) for b in batches]
    embedding, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
    return embedding, logits


def _label_and_scale(
    block: sp.csr_matrix,
    *,
    run: Run,
    densify: Densifier,
    batch_cells: int,
    mean: Array,
    scale: Array,
) -> tuple[Array, Array, Array, Array]:
    """Run the gene level on some rows, and keep scaled expression of the first genes."""
    counts, totals = densify(block)
    embedding, logits = _run_batches(counts, totals, run, batch_cells)
    first = np.log1p(counts[:, : len(mean)] * (TARGET_SUM / np.maximum(totals, 1.0)))
    scaled = np.clip((first - mean) / scale, -results.LIMIT, results.LIMIT)
    return embedding, logits, np.rint(scaled * SCALED_STEPS).astype(np.int8), totals[:, 0] <= 0


def _update_cells(rows: slice, *, run: Run, by_cell: dict[str, Array]) -> tuple[Array, ...]:
    """Run one layer of the cell level for a chunk of cells, which look at the state of all."""
    return run(**{name: values[rows] for name, values in by_cell.items()})


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
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self._progress(name, self._n, self._n)


def annotate(
    adata: ad.AnnData,
    model: str | Path | ModelBundle,
    *,
    key_added: str = results.DEFAULT_KEY,
    matrix: str | None = None,
    gene_column: str | None = None,
    min_gene_coverage: float | None = None,
    allow_species_mismatch: bool = False,
    batch_key: str | None = None,
    device: Device = "auto",
    threads: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    copy: bool = False,
) -> ad.AnnData | None:
    """Label the cells of an AnnData.

    Parameters
    ----------
    adata
        The cells, with counts or log1p(CP10k) in ``X``, ``raw`` or a layer.
    model
        Name or path of a model, or a loaded one.
    key_added
        Prefix of everything that is written.
    matrix
        ``X``, ``raw`` or ``layers/NAME``; by default the best usable one.
    gene_column
        Column of ``var`` with the gene names; by default the one that matches best.
    min_gene_coverage
        Share of the model's genes, weighted by how well they tell types apart, below which nothing
        is labelled.
    allow_species_mismatch
        Match the symbols of another species, whatever their case.
    batch_key
        Column of ``obs``; cells are neighbours only of cells with the same value.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads
        CPU threads; by default all that the process may use.
    seed
        Of the approximate graph search.
    overwrite
        Replace slots of an earlier run.
    copy
        Return an annotated copy and leave ``adata`` alone.

    Returns
    -------
    AnnData or None
        ``None``, or the copy. These slots are written:

        ``obs[f"{key_added}_cell_type"]``
            Final label, categorical; "unknown" below the threshold.
        ``obs[f"{key_added}_cell_type_ontology_id"]``
            Cell Ontology id or empty.
        ``obs[f"{key_added}_best_cell_type"]``
            Label without rejection.
        ``obs[f"{key_added}_confidence"]``
            Calibrated probability of the best label.
        ``obs[f"{key_added}_gene_level_cell_type"]``
            What the gene level alone said.
        ``obs[f"{key_added}_neighbor_agreement"]``
            Weighted share of graph neighbours with the same best label.
        ``obs[f"{key_added}_novelty"]``
            How unlike the reference, as a quantile of held-out reference cells.
        ``obsm[f"{key_added}_probabilities"]``, ``obsm[f"X_{key_added}"]``
            Probabilities (n_cells, n_classes) and cell embedding (n_cells, d).
        ``uns[key_added]``
            Model, matrix, genes, parameters, versions, and the names of the classes.

    Raises
    ------
    InputError, BundleError, OutputError, DeviceError
        What is wrong with the data, the model, existing slots or the device.
    """
    annotator = Annotator.load(model, device=device, threads=threads, seed=seed)
    refuse_existing(taken_slots(adata, key_added), overwrite=overwrite)
    reading = Reading(matrix, gene_column, min_gene_coverage, allow_species_mismatch, batch_key)
    annotation = annotator.annotate_query(AnnDataQuery(adata), reading)
    target = adata.copy() if copy else adata
    write_adata(target, slot_values(annotation, key_added))
    return target if copy else None


def slot_names(key: str) -> dict[str, list[str]]:
    """Name the slots that an annotation takes in an AnnData."""
    return {
        "obs": [f"{key}_{name}" for name in results.COLUMNS],
        "obsm": [f"{key}_probabilities", f"X_{key}"],
        "uns": [key],
    }


def taken_slots(adata: ad.AnnData, key: str) -> list[str]:
    """List the slots of an annotation that an AnnData has already."""
    slots = {"obs": list(adata.obs), "obsm": list(adata.obsm), "uns": list(adata.uns)}
    return existing_slots(slots, slot_names(key))


def slot_values(annotation: Annotation, key: str) -> Slots:
    """Return what :func:`~scbignn_infer.writers.write_h5ad` writes for an annotation."""
    return Slots(obs_columns(annotation, key), annotation.matrices(key), annotation.record(), key)


def obs_columns(annotation: Annotation, key: str) -> dict[str, Any]:
    """Return the columns of ``obs``, strings as categoricals in the model's order."""
    names = [*annotation.cell_types, results.UNKNOWN]
    ids = list(dict.fromkeys([*annotation.ontology_ids, ""]))
    return {
        name: as_column(values, ids if name.endswith("ontology_id") else names)
        for name, values in annotation.columns(key).items()
    }


def choose_model(
    query: Query,
    reading: Reading = AS_FOUND,
    *,
    device: Device = "auto",
    threads: int | None = None,
) -> tuple[ModelBundle, Choice, dict[str, float]]:
    """Take the model whose reference the query resembles most, or refuse to guess.

    Up to 256 cells are embedded by each model that :func:`list_models` gives, and placed by their
    distance to its reference bank.

    Parameters
    ----------
    query
        The cells.
    reading
        The user's wishes on how it is read.
    device, threads
        As in :class:`Annotator`.

    Returns
    -------
    bundle, choice, novelty
        The model, what of the query it is to read, and the median novelty of the cells under each
        model that could read them.

    Raises
    ------
    BundleError
        No model is found, none resembles the query, or two do equally well.
    """
    verdicts = judge_matrices(query)
    sample = sample_rows(query.n_cells, CHOICE_CELLS)
    rows: dict[str, sp.csr_matrix] = {}
    bundles = {name: load_model(path) for name, path in list_models().items()}
    choices: dict[str, Choice] = {}
    novelty: dict[str, float] = {}
    for name, bundle in bundles.items():
        annotator = Annotator(bundle, device=device, threads=threads)
        try:
            choice = choose(query, bundle, reading, verdicts=verdicts)
        except GeneError:
            continue  # a model for other genes, perhaps another species
        choices[name] = choice
        if choice.matrix not in rows:
            rows[choice.matrix] = query.rows(choice.matrix, sample)
        embedding, _ = annotator.embed(rows[choice.matrix], choice)
        novelty[name] = float(np.median(annotator.novelty(embedding)))
    ranked = sorted(novelty, key=lambda name: novelty[name])
    alike = [name for name in ranked if novelty[name] <= MAX_NOVELTY]
    close = [name for name in alike if novelty[name] <= novelty[alike[0]] + MIN_NOVELTY_GAP]
    if len(close) != 1:
        shown = ", ".join(f"{name} {novelty[name]:.2f}" for name in ranked) or "none can read it"
        raise BundleError(
            f"no model is clearly meant for {query.name} (median novelty of its cells: {shown})",
            expected=f"one model below {MAX_NOVELTY}, {MIN_NOVELTY_GAP} ahead of the next",
            do="choose a model with -m; see: scbignn-infer models list",
        )
    return bundles[close[0]], choices[close[0]], novelty
