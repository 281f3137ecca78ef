"""One query through both levels of a model: as it is, or as the query's cells have adapted it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from scbignn_infer.annotation import variation
from scbignn_infer.annotation.adapt import OF_TISSUES, Round, type_sums
from scbignn_infer.annotation.grouping import Grouping
from scbignn_infer.annotation.mixtures import Explainer, find_mixtures, temperature_of
from scbignn_infer.annotation.ontology import Ontology
from scbignn_infer.annotation.provenance import Adapted
from scbignn_infer.annotation.scores import CellScores, temperature_for
from scbignn_infer.network.levels import READ_CELLS, cell_pass, gene_pass
from scbignn_infer.network.neighbors import with_counts
from scbignn_infer.network.panel import Panel
from scbignn_infer.query.reading import typical_misfit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scbignn_infer._types import Array, Progress
    from scbignn_infer.annotation.adapt import Adaptation
    from scbignn_infer.annotation.mixtures import Mixtures
    from scbignn_infer.annotation.rules import Rules
    from scbignn_infer.network.pair import Pair
    from scbignn_infer.query.readers import Query
    from scbignn_infer.query.reading import Choice


@dataclass(frozen=True)
class Clock:
    """Times the stages of labelling n cells, and passes progress on."""

    n_cells: int
    progress: Progress = lambda stage, done, total: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Time one stage, or one more part of it."""
        self.progress(name, 0, self.n_cells)
        start = time.perf_counter()
        yield self.progress
        taken = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.seconds[name] = round(taken, 4)
        self.progress(name, self.n_cells, self.n_cells)


@dataclass(frozen=True)
class Step:
    """A step of EM on the query: what is said of it, by which cells, and what came of it."""

    adapted: Adapted
    codes: Array
    panel: Panel
    after: Round


@dataclass(frozen=True)
class Labelling:
    """A query on its way through a pair; ``batches`` are the cells of each graph."""

    pair: Pair
    query: Query
    choice: Choice
    batches: list[Array]
    clock: Clock
    keeps_graphs: bool = False

    def run(self, rules: Rules, how: Adaptation) -> tuple[Round, Panel, Adapted | None]:
        """Label the cells; by rules that adapt, the model follows them first."""
        if rules.adapt:
            return self.adapted(rules, how)
        return self.round(self.choice.panel, rules), self.choice.panel, None

    def round(self, panel: Panel, rules: Rules) -> Round:
        """Run both levels over all cells, and score the labels."""
        pair, workers = self.pair, self.pair.runtime.workers
        with self.clock.stage("gene level") as report:
            level = pair.gene_level(panel)
            genes = gene_pass(level, self.query, self.choice.matrix, workers=workers, report=report)
        rules = rules.found(genes.logits, genes.empty)
        grouping = rules.grouping
        bank, _ = pair.bank_of(grouping.kept), grouping.narrow(genes.logits)
        spec, n = pair.bundle.spec, self.query.n_cells
        scores = CellScores(n, grouping, self._temperature(panel), Ontology.of(spec, grouping))
        done = Round(genes, scores, rules)
        layers = spec.cell_level.layers
        for cells in with_counts(self.batches, genes.empty):
            with self.clock.stage("graph"):
                graph = pair.neighbors(genes.embedding[cells], bank)
            done.builders.add(graph.builder)
            with self.clock.stage("cell level") as report:
                logits = cell_pass(
                    layers,
                    pair.session,
                    genes.logits[cells],
                    graph,
                    workers=workers,
                    report=report,
                )
            with self.clock.stage("scores"):
                scores.put(cells, grouping.narrow(logits), genes, graph, panel=panel, bank=bank)
            if self.keeps_graphs:
                done.graphs.append((cells, graph))
        return done

    def adapted(self, rules: Rules, how: Adaptation) -> tuple[Round, Panel, Adapted]:
        """Label by the model as it is, then as the cells have adapted it, if that may be."""
        panel, types = self.choice.panel, Grouping.each(self.pair.bundle.spec.cell_types)
        if rules.tissues is not None:
            return self.round(panel, rules), panel, Adapted(refused=OF_TISSUES)
        each = replace(rules, grouping=types)
        before = self.round(panel, each)
        made = self._step(before, how, types.labels)
        first, steps = made.adapted, 1
        while not made.adapted.refused and steps < how.steps:
            step = self._step(made.after, how, types.labels)
            if step.adapted.refused:
                break
            made, steps = step, steps + 1
        known, stay = before.scores.known, how.stay(before)
        adapted = how.after(made.adapted, first, steps)
        done = before = self._grouped(before, panel, rules)
        if adapted.steps:
            panel, done = made.panel, self._grouped(made.after, made.panel, rules)
            done.scores.spare(before.scores)
            done.scores.excess = how.excess(before, done, made.codes)
            done.take(before, stay)
        done.scores.known = known  # a cell that is shifted is no more the same cell
        return done, panel, adapted

    def _step(self, before: Round, how: Adaptation, cell_types: list[str]) -> Step:
        """Estimate the model's means and covariance once more, and label by them, if that may be.

        Both are estimated from the reference's, by the labels of the last round.
        """
        panel = self.choice.panel
        with self.clock.stage("adapt"):
            codes = how.trust(before, before.scores.temperature)
            adapted = how.record(before, codes, cell_types)
            if adapted.refused:
                return Step(adapted, codes, panel, before)
            statistics, shift = how.m_step(
                panel, *self._sums(codes, len(cell_types)), own=adapted.own
            )
            if how.varies:
                rows = variation.sample(before.genes.scaled, codes)
                z = variation.read(self.query.blocks(self.choice.matrix, READ_CELLS), panel, rows)
                statistics = variation.widened(statistics, panel, z, codes[rows])
        new = Panel.of(self.pair.bundle, self.choice.genes, statistics)
        new = replace(new, densify=panel.densify)
        after = self.round(new, before.rules)
        return Step(how.judged(adapted, shift, codes, before, after), codes, new, after)

    def mixtures(self, done: Round, panel: Panel, samples: list[Array]) -> Mixtures:
        """Tell which cells are mixtures of two of the labels that a round may give.

        What is usual is worked out among the cells of each sample, or of all if none is given.
        """
        grouping, empty = done.rules.grouping, done.genes.empty
        with self.clock.stage("mixtures") as report:
            called = done.genes.logits[~empty].argmax(axis=1)
            misfit = typical_misfit(self.query, self.choice.matrix, panel)
            temperature = temperature_of(self.pair.bundle.spec, misfit)
            return find_mixtures(
                partial(self.query.blocks, self.choice.matrix),
                Explainer(panel, grouping, called, temperature),
                grouping.group,
                with_counts(samples, empty),
                n_cells=self.query.n_cells,
                workers=self.pair.runtime.workers,
                report=report,
            )

    def _grouped(self, done: Round, panel: Panel, rules: Rules) -> Round:
        """Return a round as it is, or another if its labels are not those that are asked for."""
        same = done.rules.grouping.labels == rules.grouping.labels
        return done if same else self.round(panel, rules)

    def _temperature(self, panel: Panel) -> float:
        """Return the temperature for the query's cells, by what is known of them."""
        misfit = self.choice.misfit
        if self.pair.graph == "reference":
            misfit = None  # no cell's label depends on the others
        if misfit is not None and panel is not self.choice.panel:  # as the cells have adapted it
            misfit = typical_misfit(self.query, self.choice.matrix, panel)
        return temperature_for(self.pair.bundle.spec, self.choice.genes.coverage, misfit)

    def _sums(self, codes: Array, n_types: int) -> tuple[Array, Array]:
        """Return the expression of the cells of each type, summed, and their number."""
        blocks = partial(self.query.blocks, self.choice.matrix)
        workers = self.pair.runtime.workers
        sums = type_sums(blocks, self.choice.panel, codes, n_types=n_types, workers=workers)
        return sums, np.bincount(codes[codes >= 0], minlength=n_types)
