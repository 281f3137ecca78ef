"""What the record and the tables of a bundle must say, so that the model can be run rightly.

A checksum tells that a file is the one that was written, not that it makes sense. Whatever could
end in a wrong label or in a long wait is refused here as a :class:`~scbignn_infer.errors.Flaw`,
which the bundle's reader turns into an error that names the bundle.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from scbignn_infer.errors import BundleError, Flaw, need
from scbignn_infer.model.archives import UNREADABLE, check_member, one_line, open_archive

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from scbignn_infer.model.bundle import BundleSpec

    Tables = dict[str, np.ndarray[Any, Any]]

RESERVED = ("unknown",)
"""Labels that the runtime gives itself."""
ANY_TISSUE = "any"
"""What a user writes to keep the types of all tissues."""
TISSUE = re.compile(r"[a-z][a-z0-9 ,.()'-]{0,99}")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
OF_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""
CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that a terminal obeys or that turn text around, and halves of characters."""
LINE_BREAKS = re.compile(r"[\n\t]")
MAX_TEXT = 200
"""Characters of a label, a name or a symbol."""
MAX_TYPES, MAX_GENES, MAX_LAYERS, MAX_GROUPS, MAX_TERMS = 10_000, 200_000, 16, 100, 2_000
TEMPERATURES = 0.01, 100.0
"""Training finds one from 0.1 to 10."""
MAX_FILE_BYTES = 1 << 28
"""Of each file of a bundle; those of the shipped models have up to 2 MB."""

DIMENSIONS = {
    "types": MAX_TYPES,
    "genes": MAX_GENES,
    "ranked genes": MAX_GENES,
    "factors": 4096,
    "embedding": 4096,
    "reference cells": 1_000_000,
}
"""The largest sizes of what tables have rows and columns of."""
QUANTILES = 201
"""That training writes, evenly spaced from 0 to 1."""
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "statistics.npz": {
        "gene_share": ("genes",),
        "gene_mean": ("ranked genes",),
        "gene_scale": ("ranked genes",),
        "class_mean": ("types", "ranked genes"),
        "within_factors": ("ranked genes", "factors"),
        "within_residual": ("ranked genes",),
        "total_factors": ("ranked genes", "factors"),
        "total_residual": ("ranked genes",),
        "cells_per_type": ("types",),
        "ridge": (),
        "strength_precision": (),
        "graph_factors": (),
    },
    "reference.npz": {
        "embedding": ("reference cells", "embedding"),
        "codes": ("reference cells",),
        "novelty_quantiles": ("quantiles",),
        "residual_quantiles": ("quantiles",),
    },
}
"""The tables of each file, and the shape of each."""
OPTIONAL = ("residual_quantiles",)
"""Tables that models without a record of their calibration lack: both came together."""
MOST_SLOPE = 10
"""Of the logarithm of the temperature."""
WHOLE = ("cells_per_type", "graph_factors", "codes")
"""Tables of integers; all others hold decimals."""
POSITIVE = (
    "gene_scale",
    "within_residual",
    "total_residual",
    "cells_per_type",
    "strength_precision",
)
NOT_NEGATIVE = ("gene_share", "gene_mean", "ridge", "graph_factors", "codes")
MAY_BE_ZERO = ("ridge", "graph_factors", "codes")
"""Tables that may hold zeros alone."""
SMALLEST, LARGEST = 1e-6, 1e6
"""Of decimals that must be above 0, and of all: what float32 can still reckon with."""
POWERS = 0.1, 10.0
"""Of a share, to which the labels of a set are taken."""
MAX_VALUES = 1 << 26
"""Values of all tables of a file together."""
MAX_HEADER = 1000
"""Bytes of the header of a table."""


def check_name(name: str) -> None:
    """Refuse the name of a model that could not be the name of a file on every system."""
    if PLAIN_NAME.fullmatch(name) and not OF_DEVICES.fullmatch(name) and not name.endswith("."):
        return
    raise BundleError(
        f"the model is called {name[:100]!a}",
        expected="up to 100 letters, digits, dots, dashes and underscores, so that any system "
        "can have a file of that name",
        do="train it with another --name",
    )


def check_record(spec: BundleSpec) -> None:
    """Refuse a record that contradicts itself or that nothing could be labelled by."""
    _check_words(spec)
    _check_types(spec)
    _check_ontology(spec)
    _check_tissues(spec)
    _check_genes(spec)
    _check_numbers(spec)
    _check_files(spec)
    _check_training(spec)


def is_word(text: str) -> bool:
    """Tell whether a text may be a label or the symbol of a gene."""
    return bool(text.strip()) and len(text) <= MAX_TEXT and not CONTROL.search(text)


def bad_word(words: Sequence[str]) -> str | None:
    """Return the first text that may be no label or symbol; all together are quick to look at."""
    fine = all(map(str.strip, words)) and max(map(len, words), default=0) <= MAX_TEXT
    if fine and not CONTROL.search("".join(words)):
        return None
    return next(word for word in words if not is_word(word))


def _check_words(spec: BundleSpec) -> None:
    """No text may steer a terminal; names are short, and a model's is no path."""
    need(
        not re.search(r"[/\\]|^\.", spec.name),
        f"the name {_shown(spec.name)}",
        "a name without slashes that does not begin with a dot",
    )
    for what, words in (
        ("name", [spec.name, spec.version, spec.species]),
        ("label", [c.label for c in spec.cell_types]),
        ("type", [c.called for c in spec.cell_types]),
        ("tissue", [t.name for t in spec.tissues]),
        ("label of a group", [t.label for c in spec.cell_types for t in c.lineage]),
        ("label of a term", [node.label for node in spec.ontology]),
        ("gene", [g.symbol for g in spec.genes]),
    ):
        bad = bad_word(words)
        need(
            bad is None,
            f"the {what} {_shown(bad or '')}",
            f"1 to {MAX_TEXT} letters, without control characters",
        )
    ids = [i for c in spec.cell_types for i in (c.ontology_id, *(t.ontology_id for t in c.lineage))]
    ids += [i for node in spec.ontology for i in (node.ontology_id, *node.below)]
    rest = (spec.tissue, spec.tissues, spec.description, spec.licence, spec.assays, spec.training)
    texts = [*ids, *(g.ensembl_id for g in spec.genes), *_texts(msgspec.to_builtins(rest))]
    if CONTROL.search(LINE_BREAKS.sub("", "".join(texts))):
        bad = next(t for t in texts if CONTROL.search(LINE_BREAKS.sub("", t)))
        raise Flaw(f"the text {_shown(bad)}", "text without control characters")


def _texts(value: Any) -> Iterator[str]:
    """Yield each text of a part of the record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _shown(text: str) -> str:
    """Return a text as it can be shown in an error: escaped and short."""
    return ascii(text[:60])


def _check_types(spec: BundleSpec) -> None:
    labels = [c.label for c in spec.cell_types]
    need(2 <= len(labels) <= MAX_TYPES, f"{len(labels):,} cell types", f"from 2 to {MAX_TYPES:,}")
    twice = _repeated(labels)
    need(twice is None, f"the label {_shown(twice or '')} twice", "each label once")
    groups = [t for c in spec.cell_types for t in c.lineage]
    called = [c.called for c in spec.cell_types]
    terms = [*(t.label for t in groups), *(node.label for node in spec.ontology)]
    for word in [*labels, *called, *terms]:
        need(
            word not in RESERVED,
            f"the label '{word}', which the runtime gives itself",
            "names of types",
        )
    levels = max((t.level for t in groups), default=1)
    need(
        levels <= MAX_GROUPS and all(len(c.lineage) <= MAX_GROUPS for c in spec.cell_types),
        f"groups up to level {levels:,}",
        f"up to {MAX_GROUPS}",
    )


def _check_ontology(spec: BundleSpec) -> None:
    """Refuse terms without names and ids of their own, or above what is no type."""
    ids = {c.ontology_id for c in spec.cell_types} - {""}
    need(
        len(spec.ontology) <= MAX_TERMS,
        f"{len(spec.ontology):,} terms",
        f"up to {MAX_TERMS:,}",
    )
    for what, words in (
        ("label", [node.label for node in spec.ontology]),
        ("id", [node.ontology_id for node in spec.ontology]),
    ):
        twice = _repeated(words)
        need(twice is None, f"the {what} {_shown(twice or '')} of two terms", "each term once")
    for node in spec.ontology:
        odd = next((i for i in node.below if i not in ids), _repeated(node.below))
        need(
            odd is None,
            f"the term {_shown(node.label)} above {_shown(odd or '')}",
            "ids of types of the model, each once",
        )


def _check_tissue(name: str) -> None:
    need(
        TISSUE.fullmatch(name) and name != ANY_TISSUE,
        f"the tissue {_shown(name)}",
        f"lower-case words, and not '{ANY_TISSUE}'",
    )


def _check_tissues(spec: BundleSpec) -> None:
    """Each class is of a tissue that is listed; classes of one name are one type."""
    names = [tissue.name for tissue in spec.tissues]
    for name in names:
        _check_tissue(name)
    for tissue in spec.tissues:
        _check_tissue(tissue.organ or tissue.name)
    twice = _repeated(names)
    need(twice is None, f"the tissue {_shown(twice or '')} twice", "each tissue once")
    used = {c.tissue for c in spec.cell_types} - {""}
    odd = next(iter(sorted(used.symmetric_difference(names))), "")
    need(
        used == set(names),
        f"the tissue {_shown(odd)} in {'cell_types' if odd in used else 'tissues'} alone",
        "the same tissues in cell_types and tissues",
    )
    ids: dict[str, str] = {}
    for c in spec.cell_types:
        own = ids.setdefault(c.called, c.ontology_id)
        need(
            own == c.ontology_id,
            f"the type {_shown(c.called)} with the ids {_shown(own)} and {_shown(c.ontology_id)}",
            "one id for each type",
        )


def _check_genes(spec: BundleSpec) -> None:
    symbols = [g.symbol for g in spec.genes]
    need(1 <= len(symbols) <= MAX_GENES, f"{len(symbols):,} genes", f"from 1 to {MAX_GENES:,}")
    twice = _repeated(symbols)
    need(twice is None, f"the gene {_shown(twice or '')} twice", "each gene once")


def _repeated(words: list[str]) -> str | None:
    return next((word for word, n in Counter(words).items() if n > 1), None)


def _check_numbers(spec: BundleSpec) -> None:
    genes = len(spec.genes)
    for what, value, least, most in (
        ("temperature", spec.temperature, *TEMPERATURES),
        ("thresholds.sets", spec.thresholds.sets, *POWERS),
        ("graph.n_neighbors", spec.graph.n_neighbors, 1, 1000),
        ("preprocessing.panel_genes", spec.preprocessing.panel_genes, 1, MAX_GENES),
        ("preprocessing.min_genes", spec.preprocessing.min_genes, 1, genes),
        ("gene_level.net_genes", spec.gene_level.net_genes, 1, genes),
        ("gene_level.embedding_size", spec.gene_level.embedding_size, 1, DIMENSIONS["embedding"]),
        *(
            (f"certainty.{name}", getattr(spec.certainty, name), -MOST_SLOPE, MOST_SLOPE)
            for name in (spec.certainty.__struct_fields__ if spec.certainty else ())
        ),
        ("the number of cell_level.layers", len(spec.cell_level.layers), 1, MAX_LAYERS),
    ):
        need(least <= value <= most, f"{what} {value:,}", f"from {least:,} to {most:,}")
    layers = [layer.layer for layer in spec.cell_level.layers]
    places: dict[str, int] = {}
    for layer in spec.cell_level.layers:
        need(
            layer.layer == places.get(layer.file, 0),
            f"cell_level.layers {layers}",
            "the layers of each file in order, from 0",
        )
        places[layer.file] = layer.layer + 1


def _check_files(spec: BundleSpec) -> None:
    for name, file in spec.files.items():
        need(
            PLAIN_NAME.fullmatch(name),
            f"bundle.json names the file {_shown(name)}",
            "plain file names inside the bundle",
        )
        need(
            0 <= file.size <= MAX_FILE_BYTES,
            f"{name} of {file.size:,} bytes",
            f"up to {MAX_FILE_BYTES:,}",
        )
    graphs = graph_levels(spec)
    for name in graphs:
        need(
            name in spec.files and name.endswith(".onnx"),
            f"bundle.json does not list the graph {_shown(name)}",
            "graphs among its files, named .onnx",
        )
    unused = next((n for n in spec.files if n not in graphs and n not in TABLES), None)
    need(unused is None, f"bundle.json lists {unused}, which no level uses", "no other files")


def graph_levels(spec: BundleSpec) -> dict[str, str]:
    """Map the file of each graph to its level."""
    layers = dict.fromkeys((layer.file for layer in spec.cell_level.layers), "cell level")
    return layers | {spec.gene_level.file: "gene level"}


def _check_training(spec: BundleSpec) -> None:
    """Compare what the record says twice: a change of one by hand would change the labels."""
    labels = [c.label for c in spec.cell_types]
    need(
        sorted(spec.training.cells_per_type) == sorted(labels),
        "training.cells_per_type of other types than the model's",
        "the cells of each type",
    )
    need(
        not spec.interpretation or sorted(spec.interpretation) == sorted(labels),
        "interpretation of other types than the model's",
        "each type, or none",
    )
    panel = {g.symbol for g in spec.genes[: spec.preprocessing.panel_genes]}
    for label, carriers in spec.interpretation.items():
        named = {g.symbol for g in carriers.genes} | set(chain(*(p.genes for p in carriers.pairs)))
        need(
            named <= panel,
            f"{_shown(label)} is carried by {_shown(next(iter(sorted(named - panel)), ''))}, "
            "which the model does not read",
            "genes in the order of training",
        )
    settings = spec.training.settings
    trained = {
        "net_genes": spec.gene_level.net_genes,
        "panel_genes": spec.preprocessing.panel_genes,
        "n_neighbors": spec.graph.n_neighbors,
        "cell_layers": len(spec.cell_level.layers),
        "gene_form": spec.gene_level.form,
        "cell_form": spec.cell_level.form,
    }
    for key, value in trained.items():
        was = settings.get(key, value)
        if key == "net_genes" and isinstance(was, int):
            was = min(was, len(spec.genes))  # of a reference with fewer genes, all
        need(was == value, f"{key} {value}", f"{was}, as in training")


def read_tables(name: str, data: bytes, spec: BundleSpec) -> Tables:
    """Read a file of tables, each of the shape that the record and the other tables give it.

    Shapes are compared before a table is unpacked, and no more is unpacked than they say. Half
    precision becomes float64, everything else stays as it is stored.
    """
    sizes = {
        "types": len(spec.cell_types),
        "genes": len(spec.genes),
        "embedding": spec.gene_level.embedding_size,
        "quantiles": QUANTILES,
    }
    old = spec.training.calibration is None
    try:
        with open_archive(data) as archive:
            members = {m.filename: m for m in archive.infolist()}
            need(
                len(members) == len(archive.infolist()),
                "a table twice",
                "each table of a model once",
            )
            wanted = {k: v for k, v in TABLES[name].items() if not (old and _lacks(members, k))}
            tables = _read_all(archive, members, wanted, sizes)
    except Flaw as flaw:
        raise Flaw(f"{name}: {flaw.found}", flaw.expected) from None
    for key, table in tables.items():
        _check_values(f"{name}: {key}", key, table)
    (_check_statistics if name == "statistics.npz" else _check_reference)(name, tables, spec)
    return tables


def _lacks(members: Mapping[str, zipfile.ZipInfo], key: str) -> bool:
    """Tell whether a table that an old model may lack is not there."""
    return key in OPTIONAL and f"{key}.npy" not in members


def _read_all(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    wanted: Mapping[str, tuple[str, ...]],
    sizes: dict[str, int],
) -> Tables:
    tables: Tables = {}
    left = MAX_VALUES
    for key, dimensions in wanted.items():
        member = members.pop(f"{key}.npy", None)
        if member is None:
            raise Flaw(f"no table {key}", f"the tables {', '.join(wanted)}")
        tables[key] = _read_table(archive, member, key, dimensions, sizes, left)
        left -= tables[key].size
    other = next(iter(members), None)
    need(other is None, f"{_shown(other or '')}, which is no table of a model", "no other")
    return tables


def _read_table(  # noqa: PLR0917 - one private caller
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    key: str,
    dimensions: tuple[str, ...],
    sizes: dict[str, int],
    most: int,
) -> np.ndarray[Any, Any]:
    import numpy as np
    from numpy.lib import format as npy

    check_member(member)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with archive.open(member) as file:
            shape, fortran, dtype = readers[npy.read_magic(file)](file, max_header_size=MAX_HEADER)
            _check_shape(key, shape, dimensions, sizes)
            n = math.prod(shape)
            kinds = "iu" if key in WHOLE else "f" if shape else "iuf"
            need(
                dtype.kind in kinds and dtype.itemsize <= 8,
                f"{key} of type {dtype}",
                "integers" if key in WHOLE else "decimal numbers",
            )
            need(n <= most, f"{key} of {n:,} values", f"up to {MAX_VALUES:,} in all tables")
            raw = file.read(n * dtype.itemsize + 1)
    except (*UNREADABLE, KeyError, TypeError, SyntaxError, IndexError) as error:
        raise Flaw(f"{key} cannot be read ({one_line(error)})", "an array of numpy") from None
    need(len(raw) == n * dtype.itemsize, f"{key} in {len(raw):,} bytes", "as its shape says")
    table = np.frombuffer(bytearray(raw), dtype).reshape(shape, order="F" if fortran else "C")
    half = dtype.kind == "f" and dtype.itemsize == 2
    table = table.astype(np.float64 if half else dtype.newbyteorder("="))
    return np.ascontiguousarray(table).reshape(shape)


def _check_shape(
    key: str, shape: tuple[int, ...], dimensions: tuple[str, ...], sizes: dict[str, int]
) -> None:
    """Compare a shape with what is known of its sizes; what is not known yet is known then."""
    fits = len(shape) == len(dimensions)
    for size, dimension in zip(shape, dimensions, strict=False):
        fits = fits and 1 <= size <= DIMENSIONS.get(dimension, size)
        fits = fits and sizes.setdefault(dimension, size) == size
    wanted = ", ".join(f"{sizes.get(d, '?')} {d}" for d in dimensions)
    need(fits, f"{key} of shape {shape}", f"({wanted or 'one number'})")


def _check_values(what: str, key: str, table: np.ndarray[Any, Any]) -> None:
    import numpy as np

    need(np.isfinite(table).all(), f"{what} holds NaN or infinite values", "finite values")
    low, high = table.min(), table.max()
    least = SMALLEST if key in POSITIVE else 0.0 if key in NOT_NEGATIVE else -LARGEST
    need(low >= least, f"{what} holds {low:.3g}", f"values of {least:g} or more")
    need(high <= LARGEST or key in WHOLE, f"{what} holds {high:.3g}", f"values up to {LARGEST:g}")
    need(key in MAY_BE_ZERO or table.any(), f"{what} holds zeros alone", "other values, too")
    if key.endswith("_quantiles"):
        need((np.diff(table) >= 0).all(), f"{what} goes down", "quantiles in ascending order")


def _check_statistics(name: str, tables: Tables, spec: BundleSpec) -> None:
    ranked, net = len(tables["gene_mean"]), spec.gene_level.net_genes
    need(
        net <= ranked <= len(spec.genes),
        f"{name}: {ranked:,} ranked genes",
        f"from {net:,} (net_genes) to {len(spec.genes):,} (all genes)",
    )
    total = float(tables["gene_share"].sum())
    need(abs(total - 1) < 1e-3, f"{name}: gene_share adds up to {total:.4g}", "1")
    profiles = {row.tobytes() for row in tables["class_mean"]}
    need(
        len(profiles) == len(spec.cell_types),
        f"{name}: class_mean gives two types the same profile",
        "a profile of its own for each type",
    )
    for cell_type, n in zip(spec.cell_types, tables["cells_per_type"].tolist(), strict=True):
        least = spec.training.cells_per_type[cell_type.label]
        need(
            n >= least,
            f"{name}: {n:,} cells of {_shown(cell_type.label)}",
            f"the {least:,} of bundle.json, or more",
        )
    for key in ("ridge", "strength_precision", "graph_factors"):
        value = float(tables[key])
        was = spec.training.settings.get(key, value)
        need(was == value, f"{name}: {key} {value:g}", f"{was}, as in training")


def _check_reference(name: str, tables: Tables, spec: BundleSpec) -> None:
    import numpy as np

    length = np.linalg.norm(tables["embedding"], axis=1)
    need(length.min() > 1e-3, f"{name}: embedding has a row of zeros", "a direction for each cell")
    types, codes = len(spec.cell_types), tables["codes"]
    need(
        codes.max() < types,
        f"{name}: codes up to {codes.max():,}",
        f"codes of the {types} types, below {types}",
    )
    for code in np.setdiff1d(np.arange(types), codes):
        label = spec.cell_types[code].label
        raise Flaw(f"{name}: no reference cell of {_shown(label)}", "cells of each type")
