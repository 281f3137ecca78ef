"""One ONNX file of a model's gene level for one list of genes, which needs nothing of this package.

The tables that depend on the genes become constants; steps before them take the columns of the
list to those of the model and work out totals that are not given, steps behind them turn
log-probabilities into probabilities of types.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scbignn_infer import __version__
from scbignn_infer.errors import BundleError, GeneError, InputError, reason
from scbignn_infer.model.validate import MAX_GENES
from scbignn_infer.network.levels import GeneLevel
from scbignn_infer.network.panel import Panel
from scbignn_infer.network.sessions import Session, choose_runtime
from scbignn_infer.query.gene_fit import model_genes
from scbignn_infer.query.gene_match import match_genes, refuse_unfit
from scbignn_infer.sharing import onnx_file as onnx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scbignn_infer._types import Array
    from scbignn_infer.model.bundle import ModelBundle
    from scbignn_infer.query.gene_match import GeneMatch

PREFIX = "gene_level/"
MAX_LIST_BYTES = 1 << 24
CELLS = 16
"""Made-up cells on which a frozen graph is compared with the model."""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Frozen:
    """A frozen model."""

    graph: bytes
    """The ONNX file."""
    about: dict[str, Any]
    """What goes in and comes out, with the names of the types: also in the file's metadata."""


def read_gene_list(path: Path) -> list[str]:
    """Return the genes of a text file, one a line; of a table, the first column."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(MAX_LIST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise _no_list(path, reason(error)) from None
    genes = [line.partition("\t")[0].strip() for line in text.rstrip().splitlines()]
    if len(text) > MAX_LIST_BYTES or len(genes) > MAX_GENES:
        raise _no_list(path, "it is too long")
    if not genes:
        raise _no_list(path, "it is empty")
    if "" in genes:
        n = genes.index("") + 1
        raise _no_list(path, f"line {n} is empty")
    return genes


def _no_list(path: Path, why: str) -> InputError:
    return InputError(
        f"cannot use the list of genes {path} ({why})",
        expected=f"a text file with up to {MAX_GENES:,} genes, one a line, in the order of the "
        "columns of the counts",
        do="mend the file",
    )


def freeze(bundle: ModelBundle, genes: Sequence[str]) -> Frozen:
    """Freeze the gene level of a model for the genes that the columns of counts will have.

    A GeneError says that they are too few of the model's, or of another species.
    """
    known = model_genes(bundle)
    match = match_genes({"genes": genes}, known)
    try:
        refuse_unfit(match, {"genes": genes}, known)
    except GeneError as error:
        raise GeneError(
            error.found, expected=error.expected, do="check the species and names of the list"
        ) from None
    panel = Panel.of(bundle, match)
    about = _about(bundle, genes, match)
    frozen = Frozen(_graph(bundle, panel, match, about), about)
    _compare(bundle, panel, frozen)
    return frozen


def _about(bundle: ModelBundle, genes: Sequence[str], match: GeneMatch) -> dict[str, Any]:
    spec = bundle.spec
    ids = {c.called: c.ontology_id for c in spec.cell_types}
    return {
        "model": spec.name,
        "version": spec.version,
        "bundle_sha256": bundle.sha256,
        "species": spec.species,
        "made_with": f"scbignn-infer {__version__}",
        "inputs": {
            "counts": "float32 (cells, genes): counts of molecules or reads, not normalised; "
            "columns in the order of genes",
            "totals": "float32 (cells, 1): all counts of each cell, those of genes that are not "
            "in the list, too; 0 if they are not known: they are then estimated from counts",
        },
        "outputs": {
            "probabilities": "float32 (cells, cell_types): of the gene level, without neighbours; "
            "each row adds up to 1",
            "embedding": f"float32 (cells, {spec.gene_level.embedding_size}): without unit; "
            "compare cells by cosine",
        },
        "cell_types": list(ids),
        "ontology_ids": list(ids.values()),
        "coverage": round(match.coverage, 4),
        "genes": list(genes),
    }


def _graph(bundle: ModelBundle, panel: Panel, match: GeneMatch, about: dict[str, Any]) -> bytes:
    """Return the ONNX file: the gene level with its tables, between steps of our own."""
    spec, model = bundle.spec, bundle.read(bundle.spec.gene_level.file)
    (level,) = (v for number, v, _ in onnx.fields(model) if number == onnx.GRAPH)
    called = {"counts": "panel_counts", "totals": "cell_totals"}
    tables = [onnx.constant(PREFIX + name, table) for name, table in panel.tables.items()]
    inputs, outputs = about["inputs"], about["outputs"]
    n, c = len(about["genes"]), len(about["cell_types"])
    shapes: dict[str, list[int | str]] = {
        "counts": ["cells", n],
        "totals": ["cells", 1],
        "probabilities": ["cells", c],
        "embedding": ["cells", spec.gene_level.embedding_size],
    }
    ends = [
        *((onnx.INPUT, onnx.value_info(k, shapes[k], text)) for k, text in inputs.items()),
        *((onnx.OUTPUT, onnx.value_info(k, shapes[k], text)) for k, text in outputs.items()),
    ]
    assert isinstance(level, bytes)  # noqa: S101 - a message, as check_graph has seen
    graph = onnx.message(
        *_before(panel, match),
        *onnx.inside(level, called, PREFIX),
        *tables,
        *_behind([c.called for c in spec.cell_types], about["cell_types"]),
        (2, "scbignn"),
        *ends,
    )
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    rest = (w for number, _, w in onnx.fields(model) if number not in {onnx.GRAPH, onnx.METADATA})
    return b"".join(rest) + onnx.message((onnx.GRAPH, graph), *onnx.metadata(texts))


def _before(panel: Panel, match: GeneMatch) -> list[tuple[int, bytes]]:
    """Return the steps that make the model's counts and totals of those of the list."""
    densify, (gather, *more) = panel.densify, _columns(panel, match)
    known = (densify.shared / densify.share)[:, None]
    steps = [
        onnx.constant("columns", gather),
        onnx.constant("known", known),
        onnx.constant("nothing", np.zeros(1, np.float32)),
        onnx.constant("least", np.ones(1, np.float32)),
        onnx.node("MatMul", ["counts", "known"], "estimated"),
        onnx.node("Greater", ["totals", "nothing"], "given"),
        onnx.node("Where", ["given", "totals", "estimated"], "any_totals"),
        onnx.node("Max", ["any_totals", "least"], "cell_totals"),
        onnx.constant("one_column_of_zeros", np.array([0, 0, 0, 1])),
        onnx.node("Pad", ["counts", "one_column_of_zeros"], "padded"),
        onnx.node("Transpose", ["padded"], "by_gene"),
        onnx.node("Gather", ["by_gene", "columns"], "summed_0"),
    ]
    for i, columns in enumerate(more):  # columns that repeat a gene are summed
        steps += [
            onnx.constant(f"columns_{i}", columns),
            onnx.node("Gather", ["by_gene", f"columns_{i}"], f"repeated_{i}"),
            onnx.node("Add", [f"summed_{i}", f"repeated_{i}"], f"summed_{i + 1}"),
        ]
    return [*steps, onnx.node("Transpose", [f"summed_{len(more)}"], "panel_counts")]


def _columns(panel: Panel, match: GeneMatch) -> list[Array]:
    """Return the column of the list for each gene of the panel; then a second one, and so on.

    Where there is no such column, it is the one of zeros, behind the last.
    """
    n = len(match.reference_index)
    of_gene: list[list[int]] = [[] for _ in panel.genes]
    for column, place in enumerate(panel.densify.panel_column.tolist()):
        if place < len(of_gene):
            of_gene[place].append(column)
    most = max(map(len, of_gene))
    padded = [columns + [n] * (most - len(columns)) for columns in of_gene]
    return list(np.array(padded, np.int64).T)


def _behind(classes: Sequence[str], types: Sequence[str]) -> list[tuple[int, bytes]]:
    """Return the steps that make probabilities of types of what the gene level says."""
    of_type = np.array([[name == cell_type for cell_type in types] for name in classes], np.float32)
    return [
        onnx.node("Softmax", [f"{PREFIX}gene_logits"], "of_classes"),
        onnx.constant("type_of_class", of_type),
        onnx.node("MatMul", ["of_classes", "type_of_class"], "probabilities"),
        onnx.node("Identity", [f"{PREFIX}cell_embedding"], "embedding"),
    ]


def _compare(bundle: ModelBundle, panel: Panel, frozen: Frozen) -> None:
    """Run the frozen graph and the model on made-up cells; refuse if they differ."""
    runtime = choose_runtime("cpu", 1)
    spec, rng = bundle.spec, np.random.default_rng(0)
    counts = rng.poisson(1.0, (CELLS, len(frozen.about["genes"]))).astype(np.float32)
    session = Session(bundle.read(spec.gene_level.file), runtime, spec.gene_level.file)
    embedding, logits = GeneLevel.of(spec, session, panel, CELLS).label(sp.csr_matrix(counts))
    called, types = [c.called for c in spec.cell_types], frozen.about["cell_types"]
    expected = np.zeros((CELLS, len(types)))
    np.add.at(expected.T, [types.index(name) for name in called], np.exp(logits).T)
    run = Session(frozen.graph, runtime, "one.onnx").run
    found = run(counts=counts, totals=np.zeros((CELLS, 1), np.float32))
    worst = max(np.abs(a - b).max() for a, b in zip(found, (expected, embedding), strict=True))
    if not worst <= TOLERANCE:
        raise BundleError(
            f"the frozen graph and the model {bundle.name} differ by {worst:.2g}",
            expected=f"differences up to {TOLERANCE:g}",
            do="report this with the versions of this package and of onnxruntime",
        )
