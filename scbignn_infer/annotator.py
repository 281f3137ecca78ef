"""Label cells: gene level, graph, cell level, scores, in order. No arithmetic of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.adapt import Adaptation, refuse_fixed
from scbignn_infer.annotation.annotation import Annotation
from scbignn_infer.annotation.clusters import read_clusters, with_clusters
from scbignn_infer.annotation.provenance import (
    Genes,
    Matrix,
    Model,
    Params,
    Provenance,
    versions,
)
from scbignn_infer.annotation.rules import Rules
from scbignn_infer.bound import Bound
from scbignn_infer.errors import InputError
from scbignn_infer.estimate import estimate, refuse_too_large
from scbignn_infer.labelling import Clock, Labelling
from scbignn_infer.model.registry import load_model
from scbignn_infer.network.neighbors import join_graphs, search_for
from scbignn_infer.network.pair import Pair
from scbignn_infer.network.sessions import choose_runtime
from scbignn_infer.query.enough import enough
from scbignn_infer.query.gene_fit import GeneFits
from scbignn_infer.query.readers import MatrixQuery
from scbignn_infer.query.reading import batches_of, choose, find_silent_genes
from scbignn_infer.settings import AS_FOUND, LabelKeywords, RuleKeywords, Settings, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Unpack

    from scbignn_infer._types import Progress
    from scbignn_infer.annotation.adapt import Round
    from scbignn_infer.annotation.provenance import Adapted
    from scbignn_infer.estimate import Estimate
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.network.panel import Panel
    from scbignn_infer.network.sessions import MakeSession
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice
    from scbignn_infer.settings import Reading


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
        self.pair = Pair(
            bundle,
            self.runtime,
            batch_cells=chosen.batch_cells,
            graph=chosen.graph,
            search=chosen.neighbors,
            seed=chosen.seed,
            make_session=make_session,
        )
        self.memory_limit = chosen.memory_limit
        self.write_graph = chosen.write_graph
        self.adaptation = Adaptation()
        self.fits = GeneFits(bundle)

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

    def bind(self, gene_names: Sequence[str], *, reading: Reading = AS_FOUND) -> Bound:
        """Match genes once, for matrices that all have them as their columns.

        Parameters
        ----------
        gene_names
            (n_genes,) symbols or Ensembl ids.
        reading
            The user's wishes on how matrices are read.

        Raises
        ------
        GeneError
            Too few genes are the model's, or they are of another species.
        """
        return Bound(self, gene_names, reading)

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
        return choose(query, self.bundle, reading, fits=self.fits).for_graph(self.pair.graph)

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
            neighbors=self.pair.search,
            output_bytes=output_bytes,
            held_bytes=held_bytes,
            report=report,
            adapt=adapt,
        )

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
            No matrix is usable, too few genes are the model's or they are of another species, the
            memory limit is too low, or the rules are of another model.
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
        kept = enough(query, reading)
        if kept is not query:
            found, panel = self.labelled(kept, reading, rules=rules, progress=progress)
            return found.of_all(kept), panel
        rules = rules or self.rules
        rules.check(self.bundle)
        n = query.n_cells
        if rules.adapt:
            refuse_fixed(self.pair.graph)
        refuse_too_large(query, self.estimate(n, adapt=rules.adapt), self.memory_limit)
        clock = Clock(n, progress) if progress else Clock(n)
        with clock.stage("inspect"):
            choice = (choice or self.choose(query, reading)).for_graph(self.pair.graph)
            samples = batches_of(query, reading.batch_key)
            clusters = read_clusters(query, reading.cluster_key)
        batches = [] if self.pair.graph == "reference" else samples  # else no cell is a neighbour
        if self.pair.graph != "reference":
            self._prepare_search(max(map(len, batches), default=n))
        work = Labelling(self.pair, query, choice, batches, clock, self.write_graph)
        done, panel, adapted = work.run(rules, self.adaptation)
        mixtures = work.mixtures(done, panel, samples) if rules.mixtures else None
        genes, cell_scores, grouping = done.genes, done.scores, done.rules.grouping
        annotation = Annotation(
            cell_types=grouping.labels,
            ontology_ids=grouping.ontology_ids,
            wider=cell_scores.ontology,
            probabilities=cell_scores.probabilities,
            gene_level_codes=cell_scores.ontology.best(grouping.sum(np.exp(genes.logits))),
            neighbor_agreement=cell_scores.agreement,
            novelty=cell_scores.novelty,
            residual=cell_scores.residual,
            embedding=genes.embedding,
            empty=genes.empty,
            joins_by_support=self.bundle.spec.follows_file,
            penalties=cell_scores.penalties,
            foreign=genes.foreign,
            **done.rules.limits,
            excess=cell_scores.excess,
            mixtures=mixtures,
            graph=join_graphs(done.graphs, n) if self.write_graph else None,
            provenance=self._provenance(work, reading, done, adapted),
        )
        return with_clusters(annotation, clusters), panel

    def _provenance(
        self, work: Labelling, reading: Reading, done: Round, adapted: Adapted | None
    ) -> Provenance:
        """Return what the labels of a round rest on."""
        query, choice, batches, genes = work.query, work.choice, work.batches, done.genes
        silent = find_silent_genes(query, choice, batches)
        return Provenance(
            model=Model.of(self.bundle),
            adaptation=self.bundle.spec.training.adaptation,
            training_cells=int(done.scores.known.sum()),
            matrix=Matrix.of(choice),
            genes=Genes.of(choice.genes, int(genes.foreign.sum()), silent),
            tissue=done.rules.tissue,
            votes=done.rules.votes,
            stricter=done.rules.stricter(self.bundle.spec.thresholds.confidence),
            few_counts=round(choice.few_counts or 0.0, 1),
            apart=done.scores.apart_as_a_whole(~genes.empty),
            median_distance=done.scores.typical_distance(~genes.empty),
            params=Params.of(
                self.pair,
                done,
                batch_key=reading.batch_key or "",
                n_batches=len(batches) or 1,
            ),
            adapted=adapted,
            left_out=getattr(query, "left_out", None),
            versions=versions(),
            seconds=work.clock.seconds,
        )

    def _prepare_search(self, n: int) -> None:
        """Open what the search among n cells needs, before the first cell is read."""
        size = self.bundle.spec.gene_level.embedding_size
        search_for(n, self.pair.search).prepare(size, runtime=self.runtime)
