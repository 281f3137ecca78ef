"""How far each stage is from what the machine could do: bytes, floating-point operations, rates.

Run: ``python benchmarks/limits.py FILE --out benchmarks/results/limits.json`` (FILE is one of those
that ``speed.py`` leaves behind). All of one thread, in CPU seconds, which a busy machine changes
less than seconds. "Operations" are those of matrix products: the rest of a stage has no such limit.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime

from scbignn_infer.annotator import Annotator
from scbignn_infer.network import exact, ivf
from scbignn_infer.network.panel import Panel
from scbignn_infer.network.sessions import choose_runtime
from scbignn_infer.query.readers import open_query

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]
Row = dict[str, Any]
MODEL = "human-pbmc"
BATCH = 256
REPEATS = 5


def products(graph: bytes, inputs: dict[str, Array]) -> float:
    """Return the operations of a graph's matrix products, by the shapes that they have in a run."""
    model = onnx.load_from_string(graph)
    given = {o.name for o in model.graph.output}
    inner = [o for node in model.graph.node for o in node.output if o and o not in given]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    shapes = {name: np.shape(v) for name, v in zip(names, session.run(None, inputs), strict=True)}
    shapes |= {name: value.shape for name, value in inputs.items()}
    return float(
        sum(
            2 * np.prod(shapes[node.output[0]], dtype=float) * shapes[node.input[0]][-1]
            for node in model.graph.node
            if node.op_type in ("MatMul", "Gemm")
        )
    )


def spent(work: Callable[[], object]) -> float:
    """Return the least CPU seconds of some runs."""
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def rate(size: int) -> float:
    """Return the operations a second of a product such as the graph's."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((BATCH, size), np.float32)
    b = rng.standard_normal((size, 1 << 14), np.float32)
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[n,d] a, float[d,m] b) => (float[n,m] c)'
        "{ c = MatMul(a, b) }"
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    return float(2 * a.size * b.shape[1] / spent(lambda: session.run(None, {"a": a, "b": b})))


def gene_level(annotator: Annotator, path: Path, per_second: float) -> list[Row]:
    """Return what reading and the gene level take for a cell."""
    with open_query(path) as query:
        choice = annotator.choose(query)
        panel = Panel.of(annotator.bundle, choice)
        level = annotator.pair.gene_level(panel)
        rows = query.rows(choice.matrix, np.arange(4 * BATCH))
        reading = spent(lambda: query.rows(choice.matrix, np.arange(4 * BATCH))) / rows.shape[0]
    counts, totals = panel.densify(rows)
    inputs = {"counts": counts[:BATCH], "totals": np.maximum(totals[:BATCH], 1), **panel.tables}
    graph = annotator.bundle.read(annotator.bundle.spec.gene_level.file)
    operations = products(graph, inputs) / BATCH
    stored = rows.nnz / rows.shape[0] * (rows.data.itemsize + rows.indices.itemsize)
    network = spent(lambda: level(counts, totals)) / len(counts)
    densify = spent(lambda: panel.densify(rows)) / len(counts)
    return [
        {"stage": "reading", "bytes": stored, "cpu": reading},
        {"stage": "densifying", "bytes": stored, "cpu": densify},
        {
            "stage": "network",
            "operations": operations,
            "least": operations / per_second,
            "cpu": network,
        },
    ]


def graph(embedding: Array, k: int, per_second: float) -> Row:
    """Return what a cell's neighbours take."""
    pairs = 0

    class Counted(exact.ExactSearch):
        def nearest(self, queries: Array, k: int) -> tuple[Array, Array]:
            nonlocal pairs
            pairs += len(queries) * self.width
            return super().nearest(queries, k)

    with patch.object(ivf, "ExactSearch", Counted):
        start = time.process_time()
        ivf.nearest(embedding, k, runtime=choose_runtime("cpu", 1), seed=0)
        cpu = (time.process_time() - start) / len(embedding)
    operations = 2 * pairs * embedding.shape[1] / len(embedding)
    return {
        "stage": f"neighbours (ivf) of {len(embedding):,}",
        "operations": operations,
        "least": operations / per_second,
        "cpu": cpu,
        "compared": pairs / len(embedding),
    }


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--points", type=Path, nargs="*", default=[], help="of graph.py")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    annotator = Annotator.load(MODEL, device="cpu", threads=1)
    per_second = rate(annotator.bundle.spec.gene_level.embedding_size)
    rows = gene_level(annotator, arguments.file, per_second)
    for points in arguments.points:
        k = annotator.bundle.spec.graph.n_neighbors + 1
        rows.append(graph(np.load(points), k, per_second))
    found = {"operations_a_second": per_second, "stages": rows}
    print(json.dumps(found, indent=1))
    arguments.out.write_text(json.dumps(found, indent=0))


if __name__ == "__main__":
    main()
