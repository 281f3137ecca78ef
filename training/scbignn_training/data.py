"""Labelled references and unlabelled cells, joined on their genes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.errors import GeneError, InputError
from scbignn_infer.model.validate import MAX_TEXT, bad_word
from scbignn_infer.network.panel import TARGET_SUM, Densifier
from scbignn_infer.query.gene_match import ModelGenes, genes_only, match_genes, refuse_unfit
from scbignn_infer.query.gene_names import ENOUGH, SPECIES, species_of, without_version
from scbignn_infer.query.matrices import choose_matrix, sample_rows
from scbignn_infer.query.readers import INDEX, open_query
from scbignn_infer.query.reading import judge_matrices
from scbignn_training.blocks import column_mean, log_expression, row_of_each, slices, with_values
from scbignn_training.chosen import Wanted, choose_cells
from scbignn_training.gaps import Gaps, gene_shares
from scbignn_training.progress import Progress
from scbignn_training.settings import MIN_CELLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_infer.query.readers import Query
    from scbignn_training.profile_types import ProfileType

Array = np.ndarray[Any, Any]
READ_CELLS = 4096
MIN_JOINED_GENES = 500
NO_LABEL = "no label that is used"
"""What cells without a label have, or with one that a table of types leaves out."""
SAID = 8
"""Types that a line names at most."""
MIN_UNLABELLED_GENES = 50
SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "symbol")
"""Columns that have the symbols where the index has Ensembl ids, the schema's first."""
LATIN = {"homo sapiens": "human", "mus musculus": "mouse"}


@dataclass(frozen=True)
class Origin:
    """Where the cells of a study came from.

    Attributes
    ----------
    name
        What scores call the study.
    simulated
        Whether the cells were drawn from profiles.
    file, citation
        The table of the profiles, and who measured them.
    reference
        Name of the file of cells, which may hold several studies.
    tissues
        Of the profiles, where a table of types says them.
    study
        Whose cells they are, if not those of a study of that name: several files, and profiles,
        may be of one.
    """

    name: str = ""
    simulated: bool = False
    file: str = ""
    citation: str = ""
    reference: str = ""
    tissues: tuple[str, ...] = ()
    study: str = ""


@dataclass(frozen=True)
class Study:
    """Cells of one file, as read.

    Attributes
    ----------
    path
        The file.
    counts
        (n, g) counts (or relative abundances), CSR float32.
    symbols
        (g,) unique gene symbols; columns of one symbol are summed.
    ensembl_ids
        (g,) ids or empty strings.
    labels
        (n,) labels as published; empty strings for unlabelled cells.
    origin
        Name of the study, and whether it was simulated.
    studies
        (n,) the study of each cell, where a file holds several.
    ontology, tissue, assays
        What the file itself says, by the schema of CELLxGENE.
    meant
        What the labels mean, where a table of types says it.
    left_out
        Cells that were not read, by the reason.
    """

    path: Path
    counts: sp.csr_matrix
    symbols: list[str]
    ensembl_ids: list[str]
    labels: Array
    origin: Origin = Origin()
    studies: Array | None = None
    ontology: dict[str, str] = field(default_factory=dict)
    tissue: str = ""
    assays: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    meant: tuple[ProfileType, ...] = ()

    def by_study(self) -> list[Study]:
        """Return the studies of a file as one each, by name."""
        if self.studies is None:
            return [self]
        names, first = np.unique(self.studies, return_index=True)
        return [
            replace(
                self,
                counts=self.counts[rows],
                labels=self.labels[rows],
                origin=replace(self.origin, name=str(name) or NO_STUDY),
                studies=None,
                left_out=self.left_out if i == 0 else {},
            )
            for i, name in enumerate(names[np.argsort(first)])
            for rows in [np.flatnonzero(self.studies == name)]
        ]


NO_STUDY = "(no study)"
"""What cells without a value in the columns of studies are called together."""


@dataclass(frozen=True)
class Cells:
    """Cells over the ranked genes of a reference.

    Attributes
    ----------
    counts
        (n, m) CSR float32; absent genes count 0.
    totals
        (n,) float32.
    present
        (m,) which ranked genes these cells have.
    codes
        (n,) label codes; empty for unlabelled cells.
    gaps
        Genes that some of the cells' studies did not measure; none if there are none.
    """

    counts: sp.csr_matrix
    totals: Array
    present: Array
    codes: Array
    gaps: Gaps | None = None

    @property
    def expression(self) -> sp.csr_matrix:
        """(n, m) log1p(CP10k), CSR float32."""
        return log_expression(self.counts, self.totals)

    @property
    def in_common(self) -> Array:
        """(m,) which ranked genes all of the cells' studies have; if none, which some have."""
        if self.gaps is None:
            return self.present
        every: Array = self.gaps.measured[np.unique(self.gaps.batches)].all(axis=0) & self.present
        return every if every.any() else self.present

    def subset(self, rows: Array) -> Cells:
        """Return some of the cells."""
        codes = self.codes[rows] if len(self.codes) else self.codes
        gaps = self.gaps.subset(rows) if self.gaps else None
        return Cells(self.counts[rows], self.totals[rows], self.present, codes, gaps)


@dataclass(frozen=True)
class Reference:
    """All labelled cells over the genes that some file has.

    Attributes
    ----------
    counts
        (n, g) CSR float32.
    symbols, ensembl_ids
        Of the g joined genes.
    codes
        (n,) int64 label codes into ``cell_types``.
    cell_types
        Sorted labels.
    batches
        (n,) position of the file that a cell is from.
    merged, dropped
        Labels that were renamed, and labels left out with their number of cells.
    measured
        (b, g) which genes each file has; none where all files have all of them.
    covered
        (b,) share of all counts that falls on the genes of each file, with ``measured``.
    origins
        Of each file.
    ontology
        Cell Ontology id by label, as profile tables have them.
    meant
        What a label means, where a table of types says it.
    groups
        What terms of the ontology are called that join types, as a recipe names them.
    """

    counts: sp.csr_matrix
    symbols: list[str]
    ensembl_ids: list[str]
    codes: Array
    cell_types: list[str]
    batches: Array
    merged: dict[str, str]
    dropped: dict[str, int]
    measured: Array | None = None
    covered: Array | None = None
    origins: tuple[Origin, ...] = ()
    ontology: dict[str, str] = field(default_factory=dict)
    meant: dict[str, ProfileType] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    @property
    def totals(self) -> Array:
        """(n,) counts of each cell over the joined genes; absent ones have their usual share."""
        sums = np.asarray(self.counts.sum(axis=1), np.float32).ravel()
        if self.covered is None:
            return sums
        return (sums / self.covered[self.batches]).astype(np.float32)

    @property
    def simulated(self) -> Array:
        """(n,) which cells were drawn from profiles."""
        found: Array = np.isin(self.batches, [i for i, o in enumerate(self.origins) if o.simulated])
        return found

    @property
    def judges(self) -> Array:
        """(n,) the measured cells, which alone say how sure to be, if most types have some.

        Of a model of many tissues few types may: then none, for to those few the cells of all other
        types seem strange.
        """
        measured = ~self.simulated
        types = np.unique(self.codes[measured])
        return measured if 2 * len(types) >= len(self.cell_types) else np.zeros_like(measured)

    @property
    def studies(self) -> Array:
        """(n,) a number for the study of each cell, in the order of the files."""
        names = [o.study or o.name or i for i, o in enumerate(self.origins)]
        first = [names.index(name) for name in names]
        if self.batches.max() >= len(first):  # files that were never named
            return self.batches
        return np.array(first)[self.batches]

    @property
    def gaps(self) -> Gaps | None:
        """Genes that some of the cells' files have not."""
        return None if self.measured is None else Gaps(self.batches, self.measured)

    def subset(self, rows: Array) -> Reference:
        """Return some of the cells, with the types that have at least two of them."""
        n = np.bincount(self.codes[rows], minlength=len(self.cell_types))
        kept = np.flatnonzero(n >= 2)
        rows = rows[np.isin(self.codes[rows], kept)]
        return replace(
            self,
            counts=self.counts[rows],
            codes=np.searchsorted(kept, self.codes[rows]),
            cell_types=[self.cell_types[c] for c in kept],
            batches=self.batches[rows],
        )

    def in_rank_order(self, n_genes: int) -> Reference:
        """Put the best-ranked genes first; the others follow, for the totals."""
        n_genes = min(n_genes, len(self.symbols))
        ranked = rank_genes(self.counts, self.totals, self.codes, n_genes, self.gaps)
        order = np.concatenate([ranked, np.setdiff1d(np.arange(len(self.symbols)), ranked)])
        return replace(
            self,
            counts=self.counts[:, order].tocsr(),
            symbols=[self.symbols[i] for i in order],
            ensembl_ids=[self.ensembl_ids[i] for i in order],
            measured=None if self.measured is None else self.measured[:, order],
        )

    def cells(self, n_genes: int) -> Cells:
        """Return the cells over the first genes."""
        counts = self.counts[:, :n_genes]
        everything = np.ones(counts.shape[1], dtype=bool)
        gaps = None if self.measured is None else Gaps(self.batches, self.measured[:, :n_genes])
        return Cells(counts, self.totals, everything, self.codes, gaps)

    @property
    def left_out(self) -> str:
        """Say how many cells were left out, of which types; empty where none was."""
        out = sum(self.dropped.values())
        if not out:
            return ""
        share = out / (out + len(self.codes))
        largest = sorted(self.dropped.items(), key=lambda item: -item[1])
        names = [f"{label or NO_LABEL} ({n})" for label, n in largest[:SAID]]
        names += [f"{len(largest) - SAID} more types"] * (len(largest) > SAID)
        return f"{out:,} cells, {share:.1%} of all, are left out: {', '.join(names)}"

    @property
    def gene_share(self) -> Array:
        """(g,) share of all counts that falls on each gene."""
        if self.measured is not None:
            return gene_shares(_sums(self.counts, self.batches, len(self.measured)), self.measured)
        total = column_mean(self.counts)
        share: Array = total / total.sum()
        return share


def _sums(counts: sp.csr_matrix, batches: Array, n: int) -> Array:
    """Return the (n, g) counts of each file on each gene."""
    rows = np.arange(len(batches))
    members = sp.csr_matrix((np.ones(len(rows)), (batches, rows)), shape=(n, len(rows)))
    sums: Array = (members @ counts.astype(np.float64)).toarray()
    return sums


def count_cells(path: str | Path) -> int:
    """Return how many cells a file has."""
    with open_query(path) as query:
        return query.n_cells


def read_study(
    path: str | Path,
    *,
    label_key: str | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    wanted: Wanted | None = None,
    progress: Progress | None = None,
) -> Study:
    """Read cells of a file with the runtime's reader and its verdict on the matrices.

    Which cells are read is decided by their columns; of the others no more than a block is held.

    Parameters
    ----------
    path
        An h5ad file.
    label_key, exclude
        As in :class:`Wanted`.
    wanted
        Instead of these.
    progress
        Is told of the cells that were gone through, in a large file.

    Raises
    ------
    InputError
        No such column, or no matrix that holds counts or log1p values of a whole library.
    """
    wanted = wanted or Wanted(label_key, exclude or {})
    with open_query(path) as query:
        verdicts = judge_matrices(query)
        n_genes = {name: len(query.gene_columns(name)[INDEX]) for name in verdicts}
        matrix = choose_matrix(verdicts, n_genes=n_genes)
        if verdicts[matrix].state == "log1p-cut":
            raise InputError(
                f"{path}: {matrix} holds log-values of only some genes",
                expected="counts, or log1p values of all genes, to train on",
                do="train on a file with the raw counts",
            )
        few = query.rows(matrix, sample_rows(query.n_cells))
        cells = choose_cells(query, wanted, few.nnz / few.shape[0])
        counts = _read_rows(query, matrix, cells.keep, progress)
        if verdicts[matrix].state == "log1p":
            counts.data = np.expm1(counts.data * np.float32(np.log(verdicts[matrix].base)))
        counts.sum_duplicates()
        columns = query.gene_columns(matrix)
        mask, _ = genes_only(columns)
        if mask is not None:
            counts = counts[:, np.flatnonzero(mask)]
            columns = {k: np.array(v)[mask].tolist() for k, v in columns.items()}
    names, ids = _symbols_and_ids(columns)
    symbols, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    if len(symbols) < len(names):
        gather = sp.csr_matrix((np.ones(len(names), np.float32), (np.arange(len(names)), inverse)))
        counts = sp.csr_matrix(counts @ gather)
    else:
        counts = sp.csr_matrix(counts[:, first])
    return Study(
        Path(path),
        counts,
        symbols.tolist(),
        ids[first].tolist(),
        cells.labels[cells.keep],
        studies=None if cells.studies is None else cells.studies[cells.keep],
        ontology=cells.ontology,
        tissue=cells.told.tissue,
        assays=cells.told.assays,
        left_out=cells.left_out,
    )


def _read_rows(
    query: Query, matrix: str, keep: Array, progress: Progress | None = None
) -> sp.csr_matrix:
    """Return some rows of a matrix; the others are dropped block by block."""
    parts, start = [], 0
    progress = progress or Progress()
    progress.total = len(keep)
    progress.begin(f"reading {query.name}")
    for block in query.blocks(matrix, READ_CELLS):
        rows = keep[start : start + block.shape[0]]
        start += block.shape[0]
        if rows.any():
            parts.append(block if rows.all() else block[np.flatnonzero(rows)])
        progress.step(len(rows))
    if not parts:
        raise InputError(
            f"no cell of {query.name} is left",
            expected="cells that no pattern leaves out",
            do="mend exclude in the recipe",
        )
    return sp.csr_matrix(sp.vstack(parts), dtype=np.float32)


def _symbols_and_ids(columns: Mapping[str, Sequence[str]]) -> tuple[Array, Array]:
    """Return symbols and Ensembl ids of genes; where the index has ids, a column has symbols."""
    names = np.array(columns[INDEX])
    ids = np.array(columns.get("gene_ids", [""] * len(names)))
    if np.mean([name.startswith("ENS") for name in names.astype(str)]) > 0.5:
        plain = np.array([without_version(str(name)) for name in names])
        column = next((c for c in SYMBOL_COLUMNS if c in columns), None)
        if column is not None:
            symbols = np.array(columns[column])
            return np.where(symbols == "", plain, symbols), plain
    return names, ids


def relabelled(study: Study, label: str, to: str, genes: Sequence[str]) -> Study:
    """Return a study in which cells of a label with a count on one of some genes have another.

    Raises
    ------
    InputError
        The study has none of the genes.
    """
    columns = np.flatnonzero(np.isin(study.symbols, genes))
    if not len(columns):
        raise InputError(
            f"{study.path} has none of the genes {', '.join(genes)}",
            expected="genes to relabel cells by",
            do="mend the recipe: relabel",
        )
    shown = np.asarray(study.counts[:, columns].sum(axis=1)).ravel() > 0
    labels = study.labels.copy()
    labels[(labels == label) & shown] = to
    return replace(study, labels=labels)


def told(study: Study, types: Mapping[tuple[str, str], ProfileType]) -> Study:
    """Return a study with the labels of a table of types; cells that it has not have none.

    Raises
    ------
    InputError
        The table has none of the labels.
    """
    datasets = [""] * len(study.labels) if study.studies is None else study.studies
    meant = [types.get((str(d), str(x))) for d, x in zip(datasets, study.labels, strict=True)]
    found = sorted({t for t in meant if t is not None}, key=lambda t: t.label)
    if not found:
        raise InputError(
            f"{study.path} has no label that its table of types has",
            expected="labels like " + ", ".join(sorted({name for _, name in types})[:SAID]),
            do="mend types, label_key or study_key in the recipe",
        )
    return replace(
        study,
        labels=np.array(["" if t is None else t.label for t in meant], object),
        ontology={t.label: t.ontology_id for t in found},
        meant=tuple(found),
    )


def tell_species(wanted: str, files: Sequence[Study]) -> str:
    """Return the species of a training's files, by their genes.

    Parameters
    ----------
    wanted
        What the user says; an empty string leaves it to the genes. A species whose genes are not
        known is believed.
    files
        All of them, labelled and unlabelled.

    Raises
    ------
    InputError
        The genes of a file are of another species than is said or than those of another file, or
        nothing is said and no file tells it.
    """
    said = wanted.lower()
    said = LATIN.get(said, said)
    if said and said not in SPECIES:
        return wanted
    known: dict[str, Study] = {}
    for study in files:
        told = species_of(study.symbols)
        if told is None:
            continue
        species, _ = told
        known.setdefault(species, study)
        if said and species != said:
            raise InputError(
                f"the genes of {study.path} are those of {species} ({_some(study.symbols)})",
                expected=f"genes of {said}, as --species (species in a recipe) says",
                do=f"leave it out or say {species}, or train on files of {said}",
            )
    if len(known) > 1:
        shown = " and ".join(f"{study.path} of {species}" for species, study in known.items())
        raise InputError(
            f"genes of different species: {shown}",
            expected="files of one species",
            do="train a model for each species",
        )
    if not known and not said:
        raise InputError(
            f"the genes of {files[0].path} do not tell their species ({_some(files[0].symbols)})",
            expected=f"at least {ENOUGH} gene names of {' or '.join(SPECIES)}",
            do="say it with --species (species in a recipe)",
        )
    return said or next(iter(known))


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3]))


def well_known(files: Sequence[Study], least: int) -> list[Study]:
    """Return studies without the genes that fewer than ``least`` data sets measured.

    Studies that were read from one file have its genes, and are one data set.
    """
    sets: dict[str | int, set[str]] = {}
    for i, file in enumerate(files):
        name = file.origin.reference or file.origin.name or i
        sets.setdefault(name, set()).update(file.symbols)
    measured = Counter(symbol for symbols in sets.values() for symbol in symbols)
    found = []
    for file in files:
        kept = [i for i, symbol in enumerate(file.symbols) if measured[symbol] >= least]
        if len(kept) == len(file.symbols):
            found.append(file)
            continue
        symbols, ids = ([names[i] for i in kept] for names in (file.symbols, file.ensembl_ids))
        found.append(replace(file, counts=file.counts[:, kept], symbols=symbols, ensembl_ids=ids))
    return found


def join(
    files: Sequence[Study],
    *,
    merge: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    min_cells: int = MIN_CELLS,
) -> Reference:
    """Join labelled files on all of their genes.

    A gene that a file has not is absent for its cells: see ``Reference.measured``.

    Parameters
    ----------
    files
        Labelled cells; those without a label are left out.
    merge
        New name of labels that are merged into another.
    drop
        Labels whose cells are left out.
    min_cells
        Types with fewer cells after merging are left out.

    Raises
    ------
    InputError
        A file has fewer than 500 genes in common with the others, or fewer than two types are
        left.
    """
    merge = dict(merge or {})
    symbols, ids = _all_genes(files)
    published = np.concatenate([f.labels for f in files])
    labels = np.array([merge.get(x, x) for x in published], dtype=object)
    batches = np.repeat(np.arange(len(files)), [f.counts.shape[0] for f in files])
    names, n = np.unique(labels.astype(str), return_counts=True)
    dropped = {
        str(t): int(m)
        for t, m in zip(names, n, strict=True)
        if m < min_cells or str(t) in ("", *drop)
    }
    keep = np.array([x not in dropped for x in labels])
    cell_types = [str(t) for t in names if str(t) not in dropped]
    if len(cell_types) < 2:
        raise InputError(
            f"{len(cell_types)} cell types with at least {min_cells} cells",
            expected="two or more",
            do="give more cells, or lower --min-cells",
        )
    if UNKNOWN in cell_types:
        raise InputError(
            f"a cell type named '{UNKNOWN}'",
            expected="names of types; the runtime calls cells so that it cannot tell",
            do="merge it into another label or drop it, in a recipe",
        )
    for what, words in (("cell type", cell_types), ("gene", symbols)):
        bad = bad_word(words)
        if bad is not None:
            raise InputError(
                f"a {what} named {bad[:60]!a}",
                expected=f"names of 1 to {MAX_TEXT} letters, without control characters",
                do="rename it in the file",
            )
    code = {t: i for i, t in enumerate(cell_types)}
    codes = np.array([code[x] for x in labels[keep]], np.int64)
    used = {old: new for old, new in merge.items() if old in set(published)}
    rows = np.split(keep, np.cumsum([f.counts.shape[0] for f in files])[:-1])
    measured = np.array([np.isin(symbols, f.symbols) for f in files])
    parts = [_spread(f, r, symbols) for f, r in zip(files, rows, strict=True)]
    counts = sp.csr_matrix(sp.vstack(parts) if len(parts) > 1 else parts[0])
    return _with_gaps(
        Reference(counts, symbols, ids, codes, cell_types, batches[keep], used, dropped),
        measured,
        tuple(f.origin for f in files),
    )


def _all_genes(files: Sequence[Study]) -> tuple[list[str], list[str]]:
    """Return the genes of all files with their ids: those that all have first."""
    common = set(files[0].symbols).intersection(*(f.symbols for f in files[1:]))
    symbols = [s for s in files[0].symbols if s in common]
    ids: dict[str, str] = {}
    for file in files:
        for symbol, own in zip(file.symbols, file.ensembl_ids, strict=True):
            ids[symbol] = ids.get(symbol, "") or own
    for i, file in enumerate(files if len(symbols) < MIN_JOINED_GENES else []):
        others = set().union(*(f.symbols for f in (*files[:i], *files[i + 1 :])))
        shared = len(set(file.symbols) & others) if len(files) > 1 else len(file.symbols)
        if shared < MIN_JOINED_GENES:
            raise InputError(
                f"{file.path} shares {shared} genes with the other references",
                expected=f"at least {MIN_JOINED_GENES}",
                do="leave out the file with few genes, or name genes alike in all files",
            )
    symbols += [s for s in ids if s not in common]
    return symbols, [ids[s] for s in symbols]


def _spread(file: Study, keep: Array, symbols: list[str]) -> sp.csr_matrix:
    """Return the kept cells over the joined genes; those that the file has not are empty."""
    column = {s: i for i, s in enumerate(file.symbols)}
    if all(s in column for s in symbols):
        return file.counts[keep][:, [column[s] for s in symbols]]
    place = {s: i for i, s in enumerate(symbols)}
    to = np.array([place[s] for s in file.symbols])
    rows = file.counts[keep]
    moved = sp.csr_matrix((rows.data, to[rows.indices], rows.indptr), (rows.shape[0], len(symbols)))
    moved.sort_indices()
    return moved


def _with_gaps(reference: Reference, measured: Array, origins: tuple[Origin, ...]) -> Reference:
    """Record the files, and which of them lack which genes, if any do."""
    reference = replace(reference, origins=origins)
    if measured.all():
        return reference
    sums = _sums(reference.counts, reference.batches, len(measured))
    covered = measured @ gene_shares(sums, measured)
    return replace(reference, measured=measured, covered=covered)


def rank_genes(
    counts: sp.csr_matrix,
    totals: Array,
    codes: Array,
    n_genes: int,
    gaps: Gaps | None = None,
) -> Array:
    r"""Rank genes by how well they tell some type from the rest.

    Each type ranks the genes by a Welch-like score
    :math:`(m_c - m) / \sqrt{v_c / n_c + v / n + 10^{-3}}` of log1p(CP10k) expression; a gene's
    rank is its best over the types.

    Parameters
    ----------
    counts, totals, codes
        (n, g) counts, (n,) totals and (n,) label codes.
    n_genes
        How many to return.
    gaps
        Genes that some cells' studies did not measure: these cells do not count for them.

    Returns
    -------
    ndarray
        (n_genes,) columns, best first.
    """
    n: int | Array = len(codes)
    size = np.bincount(codes)[:, None]
    factor = TARGET_SUM / np.maximum(totals, 1.0)
    first, second = np.zeros((2, len(size), counts.shape[1]))
    for rows in slices(len(codes)):
        block = sp.csr_matrix(counts[rows], dtype=np.float64)
        x = with_values(block, np.log1p(block.data * row_of_each(block, factor[rows])))
        width = x.shape[0]
        members = sp.csr_matrix(
            (np.ones(width), (codes[rows], np.arange(width))), shape=(len(size), width)
        )
        first += (members @ x).toarray()
        second += (members @ with_values(x, x.data**2)).toarray()
    if gaps is not None:
        n = np.maximum(gaps.cells_per_gene, 1)
        size = gaps.cells_per_type(codes, len(size))
        seen, size = size > 0, np.maximum(size, 1)
    mean_c = first / size
    var_c = second / size - mean_c**2
    mean = first.sum(axis=0) / n
    var = second.sum(axis=0) / n - mean**2
    score = (mean_c - mean) / np.sqrt(var_c / size + var / n + 1e-3)
    if gaps is not None:
        score[~seen] = -np.inf
    rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1, kind="stable")
    best: Array = np.argsort(rank.min(axis=0), kind="stable")[:n_genes]
    return best


def unlabelled_cells(
    reference: Reference, studies: Sequence[Study], n_genes: int, net_genes: int
) -> Cells | None:
    """Bring unlabelled studies to the first genes of a reference, as the runtime would.

    A gene counts as present where all of the studies have it. Cells without counts are left out.

    Raises
    ------
    InputError
        A study shares too few genes with the reference, or no cell has counts.
    """
    if not studies:
        return None
    parts = []
    present = np.ones(n_genes, dtype=bool)
    genes = ModelGenes(
        reference.symbols,
        reference.ensembl_ids,
        species="",
        weight=np.ones(net_genes),
        min_genes=MIN_UNLABELLED_GENES,
    )
    for study in studies:
        try:
            names = {"symbol": study.symbols, "ensembl_id": study.ensembl_ids}
            match = match_genes(names, genes)
            refuse_unfit(match, names, genes)
        except GeneError as error:
            raise GeneError(
                f"{study.path}: {error.found}",
                expected=error.expected,
                do="give unlabelled cells of the same species, with genes named alike",
            ) from None
        densify = Densifier.make(
            match.reference_index, reference.gene_share, np.arange(n_genes), "counts"
        )
        for rows in slices(study.counts.shape[0]):
            block, total = densify(study.counts[rows])
            parts.append((sp.csr_matrix(block), total[:, 0]))
        present &= match.present[:n_genes]
    counts = sp.csr_matrix(sp.vstack([c for c, _ in parts]))
    counts = with_values(counts, counts.data * present[counts.indices])
    totals = np.concatenate([t for _, t in parts])
    seen = totals > 0
    if not seen.any():
        raise InputError(
            "no unlabelled cell has a count on a gene of the reference",
            expected="cells of the same species and tissue",
            do="check the files given as --unlabelled or --adapt",
        )
    return Cells(counts[seen], totals[seen], present, np.empty(0, np.int64))
