"""What a request sends: its format, its file, and the cells in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import fastapi
import msgspec
import numpy as np
import scipy.sparse as sp

from scbignn_infer import label_file
from scbignn_infer._types import Array
from scbignn_infer.errors import InputError, MissingExtraError, OutputError
from scbignn_infer.query.readers import FORMATS, MatrixQuery, Query, Source, one_line
from scbignn_infer.query.readers.containers import refuse_choice
from scbignn_infer.service.desk import Upload
from scbignn_infer.service.refusals import RefusedError
from scbignn_infer.settings import Reading

HDF5 = "application/x-hdf5"
FILES = {kind: row.suffixes[0][1:] for row in FORMATS for kind in row.media_types}
"""Suffixes of the types of bodies that are files."""
JSON, CSV = "application/json", "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
KEPT = "kept"
"""In the place of a type: the answer is a summary, beside files of all types."""
NO_WEIGHT = re.compile(r"q\s*=\s*0(\.0{0,3})?")
"""Behind a format that a client does not accept."""
JSON_BYTES = 100_000_000
"""Longest body of JSON: while it is read, its numbers take up to twenty times their length."""

SLOW_SECONDS, SLOW_BYTES = 20.0, 10_000
"""A body may take so long, and a second more for so many bytes that have come."""


class NamedMatrix(MatrixQuery):
    """A matrix whose cells have names, by default their numbers."""

    def __init__(
        self, matrix: Any, gene_names: Sequence[str], cell_names: Sequence[str] | None
    ) -> None:
        super().__init__(matrix, gene_names)
        self._cells = list(super().cell_names() if cell_names is None else cell_names)
        if len(self._cells) != self.n_cells:
            raise InputError(
                f"{self.n_cells} cells and {len(self._cells)} names of cells",
                expected="one name a cell",
                do="mend the names or leave them out",
            )

    def cell_names(self) -> list[str]:
        """Return the names of the cells."""
        return self._cells


INTEGERS, NUMBERS = msgspec.json.Decoder(list[int]), msgspec.json.Decoder(list[float])
Integers = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=msgspec.json.schema(list[int]))]
Numbers = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=msgspec.json.schema(list[float]))]
"""Numbers of a body stay text (Raw) until a part is read, which needs less memory."""


class SparseCounts(msgspec.Struct, forbid_unknown_fields=True):
    """Counts by rows (CSR), as scipy.sparse has them."""

    indptr: Integers
    indices: Integers
    data: Numbers
    shape: tuple[int, int]


class CellsOfJson(msgspec.Struct, forbid_unknown_fields=True):
    """Cells by genes: one row of counts a cell, or all of them sparse."""

    genes: list[str]
    counts: SparseCounts | list[Numbers]
    cells: list[str] | None = None


def _open_json(path: Path, reading: Reading) -> AbstractContextManager[Query]:
    refuse_choice(Source(path, modality=reading.modality))
    with one_line(path, "document of JSON with genes and counts"), np.errstate(over="ignore"):
        body = msgspec.json.decode(path.read_bytes(), type=CellsOfJson)
        if isinstance(body.counts, SparseCounts):
            counts: Any = _sparse(body.counts)
        else:
            counts = _dense(body.counts, len(body.genes))
    return nullcontext(NamedMatrix(counts, body.genes, body.cells))


def _sparse(counts: SparseCounts) -> sp.csr_matrix:
    data = np.array(NUMBERS.decode(counts.data), np.float32)
    indices, indptr = (
        np.array(INTEGERS.decode(part), np.int64) for part in (counts.indices, counts.indptr)
    )
    matrix: sp.csr_matrix = sp.csr_matrix((data, indices, indptr), shape=counts.shape)
    matrix.check_format(full_check=True)  # what works on it trusts its indices
    return matrix


def _dense(rows: Sequence[msgspec.Raw], n_genes: int) -> Array:
    counts = np.empty((len(rows), n_genes), np.float32)
    for i, row in enumerate(rows):
        values = NUMBERS.decode(row)
        if len(values) != n_genes:
            raise ValueError(f"row {i} has {len(values)} counts for {n_genes} genes")
        counts[i] = values
    return counts


def _open_arrow(path: Path, reading: Reading) -> AbstractContextManager[Query]:
    refuse_choice(Source(path, modality=reading.modality))
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="reading Arrow") from None
    with (
        one_line(path, "Arrow IPC stream with a column of numbers a gene"),
        pa.OSFile(str(path)) as file,
        pa.ipc.open_stream(file) as batches,
    ):
        texts = (pa.types.is_string, pa.types.is_large_string)
        named = [i for i, f in enumerate(batches.schema) if any(is_(f.type) for is_ in texts)][:1]
        genes = [i for i in range(len(batches.schema)) if i not in named]
        names: list[str] = []
        blocks = []
        for batch in batches:
            batch.validate(full=True)
            names += [str(name) for i in named for name in batch.column(i).to_pylist()]
            columns = [batch.column(i).cast(pa.float32(), safe=False) for i in genes]
            values = np.column_stack([c.to_numpy(zero_copy_only=False) for c in columns])
            blocks.append(sp.csr_matrix(values))
        counts = sp.vstack(blocks, format="csr") if blocks else np.empty((0, len(genes)))
        symbols = [batches.schema.names[i] for i in genes]
    return nullcontext(NamedMatrix(counts, symbols, names if named else None))


OPENERS: dict[str, Callable[[Path, Reading], AbstractContextManager[Query]]] = {
    **dict.fromkeys(FILES, label_file.open_file),
    JSON: _open_json,
    ARROW: _open_arrow,
}
SUFFIXES = FILES | {JSON: "json", ARROW: "arrow"}


def body_type(request: fastapi.Request) -> str:
    """Return the format of the body."""
    given = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if given not in OPENERS:
        raise RefusedError(
            415,
            f"a body of the type '{given}'",
            expected=f"one of {', '.join(OPENERS)}",
            do="name the format in the header Content-Type",
        )
    return given


def answer_type(request: fastapi.Request, body: str) -> str:
    """Return the format of the answer: the first of those accepted that there is.

    A format whose weight is 0 is not accepted.
    """
    offered = {"*/*": JSON, "application/*": JSON, "text/*": CSV}
    offered |= {kind: kind for kind in (JSON, CSV, ARROW)}
    if SUFFIXES[body] == "h5ad":
        offered |= {kind: HDF5 for kind, suffix in FILES.items() if suffix == "h5ad"}
    accepted = request.headers.get("accept") or "*/*"
    for part in accepted.split(","):
        wanted, *more = (word.strip().lower() for word in part.split(";"))
        if wanted in offered and not any(NO_WEIGHT.fullmatch(word) for word in more):
            return offered[wanted]
    raise RefusedError(
        406,
        f"an answer as '{accepted}' to {body}",
        expected=f"one of {', '.join(dict.fromkeys(offered.values()))}",
        do="name the format in the header Accept",
    )


async def receive(request: fastapi.Request, path: Path, most: int, upload: Upload) -> None:
    """Write the body to a file as it comes; one that trickles is given up."""
    too_large = RefusedError(
        413,
        f"a body of more than {most / 1e6:g} MB",
        expected="a smaller one",
        do="send fewer cells, an .h5ad instead of JSON, or raise --max-size",
    )
    if int(request.headers.get("content-length", 0)) > most:
        raise too_large
    seconds = upload.seconds
    start = asyncio.get_running_loop().time()
    try:
        with open(path, "wb") as file:
            async with asyncio.timeout_at(start + min(seconds, SLOW_SECONDS)) as clock:
                async for chunk in request.stream():
                    upload.add(len(chunk))
                    if upload.size > most:
                        raise too_large
                    file.write(chunk)
                    earned = SLOW_SECONDS + upload.size / SLOW_BYTES
                    clock.reschedule(start + min(seconds, earned))
    except TimeoutError:
        passed = asyncio.get_running_loop().time() - start
        late = passed >= seconds
        raise RefusedError(
            408,
            f"the body had not come after {seconds:g} seconds"
            if late
            else f"{upload.size} bytes of the body arrived within {passed:.0f} seconds",
            expected="a quicker upload",
            do="send fewer cells, or raise --timeout" if late else "use a quicker line",
        ) from None
    except OSError as error:
        raise OutputError(
            f"cannot keep the body ({error.strerror or error})",
            expected="enough free space for temporary files",
            do="tell who runs the service",
        ) from None
    if upload.size == 0:
        raise RefusedError(422, "the body is empty", expected="cells", do="send them as the body")
