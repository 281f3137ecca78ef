"""The page: warnings first, then the map, who is what, how sure, and what was read."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.output.atomic import replacing
from scbignn_infer.plain import encodable, visible
from scbignn_infer.report import figures
from scbignn_infer.report.words import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.model.bundle import BundleSpec
    from scbignn_infer.report.markers import Markers

Array = np.ndarray[Any, Any]
MOST_NAMES = 20_000
"""More cells are numbered in the page, not named, to keep it small."""
MOST_SAMPLES = 60
PRIME = 7919
"""Cells are drawn in steps of it, so that no label lies over the others."""


def write_report(
    target: Path,
    annotation: Annotation,
    spec: BundleSpec,
    places: Array,
    *,
    name: str,
    cell_names: Sequence[str],
    warnings: Sequence[str] = (),
    samples: Sequence[str] | None = None,
    markers: Markers | None = None,
) -> None:
    """Write the report of an annotation: one HTML file that loads nothing else.

    Parameters
    ----------
    target
        The file.
    annotation, spec
        What was found, and the record of the model that found it.
    places
        (n_cells, 2) of the map, from 0 to 1.
    name
        Of the query.
    cell_names, samples
        (n_cells,) names, and the sample of each cell where there are several.
    warnings
        Shown first.
    markers
        Of the called types.

    Raises
    ------
    OutputError
        The file cannot be written; nothing is left behind.
    """
    labels = annotation.labels.astype(str)
    order = [label for label in annotation.counts() if label != UNKNOWN]
    order += [UNKNOWN] * bool((labels == UNKNOWN).any())
    colour = figures.colours(order, UNKNOWN)
    parts = [
        _head(name, annotation, spec, warnings),
        _map(),
        _labels(annotation, order, colour),
        _samples(labels, samples, order, colour),
        _confidence(annotation),
        _levels(annotation),
        _markers(markers),
        _read(annotation),
        _model(spec),
    ]
    data = _data(annotation, places, labels, order, colour, cell_names=cell_names, samples=samples)
    shown = json.dumps(data).replace("<", "\\u003c")
    script = (
        f'<script type="application/json" id="data">{shown}</script>\n'
        f"<script>{_resource('map.js')}</script>"
    )
    write_page(target, f"{name} labelled by {spec.name}", [*parts, script])


def write_page(target: Path, title: str, parts: Sequence[str]) -> None:
    """Write parts of HTML as one page that loads nothing else.

    Raises
    ------
    OutputError
        The file cannot be written; nothing is left behind.
    """
    html = _TEMPLATE.format(
        title=escape(title),
        style=_resource("style.css"),
        body="\n".join(part for part in parts if part),
    )
    with replacing(target) as temporary:
        temporary.write_text(encodable(html), encoding="utf-8")


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _resource(name: str) -> str:
    return files("scbignn_infer").joinpath("report", name).read_text(encoding="utf-8")


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Return a table; the columns of ``numbers`` stand at the right."""

    def row(cells: Sequence[str], tag: str) -> str:
        parts = [
            f"<{tag}{' class=n' if i in numbers else ''}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table><thead>{row(titles, "th")}</thead>{body}</table></div>'


def facts(pairs: Mapping[str, str]) -> str:
    """Return names and values side by side, those that are not empty."""
    parts = [
        f"<div><b>{escape(key)}</b>{escape(value)}</div>" for key, value in pairs.items() if value
    ]
    return f'<div class="facts">{"".join(parts)}</div>'


def warned(warnings: Sequence[str]) -> str:
    """Return what is to be known before all else."""
    return "".join(f'<p class="warning">{escape(w)}</p>' for w in warnings)


def _head(name: str, annotation: Annotation, spec: BundleSpec, warnings: Sequence[str]) -> str:
    n, counts = len(annotation), annotation.counts()
    matrix, genes = annotation.provenance["matrix"], annotation.provenance["genes"]
    known = {
        "cells": f"{n:,}",
        "unknown": f"{counts.get(UNKNOWN, 0):,} ({counts.get(UNKNOWN, 0) / n:.1%})",
        "model": f"{spec.name} {spec.version}",
        "matrix": f"{matrix['name']}: {matrix['state']}",
        "genes": f"{genes['n_shared']:,} shared, coverage {genes['coverage']:.0%}",
        "median confidence": f"{float(np.median(annotation.confidence)):.2f}",
        "median novelty": f"{float(np.median(annotation.novelty)):.2f}",
    }
    return f"<h1>{escape(name)}</h1>{warned(warnings)}{facts(known)}"


def _map() -> str:
    options = "".join(
        f'<option value="{key}">{key}</option>'
        for key in ("label", "confidence", "novelty", "sample")
    )
    return f"""<h2>Map of the cells</h2>
<label>Colour by <select id="colour-by">{options}</select></label>
<div class="map"><div class="frame"><canvas id="map" aria-label="Map of the cells"></canvas>
<div id="tip" hidden></div></div><div id="legend"></div></div>
<p class="soft">Near cells are alike in the model's embedding (UMAP of its neighbour graph). The
axes have no unit. Click on a label to hide its cells; point at a cell to read it.</p>"""


def _labels(annotation: Annotation, order: Sequence[str], colour: Mapping[str, str]) -> str:
    counts, n = annotation.counts(), len(annotation)
    ids = dict(zip(annotation.cell_types, annotation.ontology_ids, strict=True))
    labels = annotation.labels
    rows = [
        (
            label,
            ids.get(label, ""),
            f"{counts[label]:,}",
            f"{counts[label] / n:.1%}",
            f"{float(np.median(annotation.confidence[labels == label])):.2f}",
            f"{float(np.median(annotation.novelty[labels == label])):.2f}",
        )
        for label in order
    ]
    titles = ("label", "Cell Ontology", "cells", "share", "median confidence", "median novelty")
    return f"<h2>Labels</h2>{table(titles, rows, (2, 3, 4, 5))}"


def _samples(
    labels: Array,
    samples: Sequence[str] | None,
    order: Sequence[str],
    colour: Mapping[str, str],
) -> str:
    of = np.array(["all cells"] * len(labels) if samples is None else samples, dtype=object)
    names = list(dict.fromkeys(of.tolist()))
    rows = {
        name: {label: int(((of == name) & (labels == label)).sum()) for label in order}
        for name in names[:MOST_SAMPLES]
    }
    more = len(names) - len(rows)
    note = f'<p class="soft">{more} more samples are not shown.</p>' if more else ""
    figure = figures.shares(rows, colour, "Share of each label in each sample")
    keys = "".join(
        '<span style="white-space:nowrap"><svg viewBox="0 0 10 10" style="width:.8em;height:.8em">'
        f'<rect width="10" height="10" fill="{colour[label]}"/></svg> {escape(label)}</span> '
        for label in order
    )
    return f"<h2>Composition</h2><p>{keys}</p>{figure}{note}"


def _confidence(annotation: Annotation) -> str:
    threshold, novelty = annotation.confidence_threshold, annotation.max_novelty
    below = ("unknown below", threshold) if threshold > 0 else None
    above = ("unknown above", novelty) if novelty < 1 else None
    return (
        '<h2>How sure</h2><div class="two">'
        + figures.histogram(
            annotation.confidence, "Confidence of the cells", "confidence", mark=below
        )
        + figures.histogram(annotation.novelty, "Novelty of the cells", "novelty", mark=above)
        + '</div><p class="soft">Confidence is the calibrated probability of the best label. '
        "Novelty is the distance to the reference cells, as a quantile of those of held-out "
        "reference cells: many cells near 1 are unlike any that the model has learned.</p>"
    )


def _levels(annotation: Annotation) -> str:
    """Return where the neighbours changed the gene level's opinion."""
    gene, both = annotation.gene_level_labels, annotation.best_labels
    pairs, n = np.unique(
        np.array([gene, both]).astype(str)[:, gene != both], axis=1, return_counts=True
    )
    order = np.argsort(-n, kind="stable")[:12]
    rows = [(pairs[0, i], pairs[1, i], f"{n[i]:,}") for i in order]
    changed = int((gene != both).sum())
    said = (
        f"<p>The neighbours changed the label of {changed:,} cells ({changed / len(gene):.1%}).</p>"
    )
    changes = table(("gene level alone", "with neighbours", "cells"), rows, (2,)) if rows else ""
    return f"<h2>From gene level to cell level</h2>{said}{changes}"


def _markers(markers: Markers | None) -> str:
    if markers is None or not markers.genes:
        return ""
    figure = figures.dots(
        markers.labels,
        markers.genes,
        markers.mean,
        markers.fraction,
        "Expression of marker genes by label",
    )
    lacks = [
        (label, ", ".join(f"{symbol} {weight:.2f}" for symbol, weight in genes.items()))
        for label, genes in markers.absent.items()
        if genes
    ]
    absent = table(("label", "carried by the absence of"), lacks, ()) if lacks else ""
    return (
        f'<h2>Genes that carry the labels</h2><div class="wide">{figure}</div>'
        '<p class="soft">Size: share of the cells with the gene. Colour: mean log1p of counts per '
        "10,000, relative to the highest label. For each called type, these are the four genes "
        "that carry it most by their presence and that no label before it shows. A minus marks "
        f"genes that cells of the type have less of than other types.</p>{absent}"
    )


def _read(annotation: Annotation) -> str:
    provenance = annotation.provenance
    rows = [
        (name.replace(":", "/"), said) for name, said in provenance["matrix"]["verdicts"].items()
    ]
    genes = provenance["genes"]
    left_out = ", ".join(f"{n:,} {kind}" for kind, n in genes["left_out"].items())
    known = {
        "matrix read": f"{provenance['matrix']['name']} ({provenance['matrix']['reason']})",
        "gene names": f"column '{genes['column']}'",
        "by another name": f"{genes['n_renamed']:,}" if genes["n_renamed"] else "",
        "duplicates summed": f"{genes['n_duplicates']:,}" if genes["n_duplicates"] else "",
        "left out": left_out,
        "graph": f"{provenance['params']['graph_builder']}, "
        f"{provenance['params']['n_neighbors']} neighbours, "
        f"{provenance['params']['n_batches']} graphs",
        "versions": ", ".join(f"{k} {v}" for k, v in provenance["versions"].items()),
    }
    return f"<h2>What was read</h2>{facts(known)}{table(('matrix', 'verdict'), rows, ())}"


def _model(spec: BundleSpec) -> str:
    training = spec.training
    known = {
        "model": f"{spec.name} {spec.version}",
        "of": ", ".join(filter(None, (spec.species, spec.tissue, *spec.assays))),
        "trained on": f"{training.n_cells:,} cells",
        "licence": spec.licence,
    }
    rows = [
        (
            c.label,
            f"{training.cells_per_type.get(c.label, 0):,}",
            _score(training.scores_per_type.get(c.label)),
            _score(training.held_out_scores_per_type.get(c.label)),
        )
        for c in spec.cell_types
    ]
    titles = ("type", "training cells", "F1 out of fold", "F1 in held-out studies")
    sources = [d.citation or d.title or d.file for d in training.datasets]
    cannot = "".join(f"<p>Cannot tell: {_prose(line)}</p>" for line in training.cannot_tell)
    return (
        f"<h2>The model</h2><p>{_prose(spec.description)}</p>{facts(known)}"
        f"{table(titles, rows, (1, 2, 3))}<p>{escape('; '.join(sources))}</p>{cannot}"
    )


def _prose(text: str) -> str:
    """Return words that may be written in several lines."""
    return escape(" ".join(text.split()))


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _data(
    annotation: Annotation,
    places: Array,
    labels: Array,
    order: Sequence[str],
    colour: Mapping[str, str],
    *,
    cell_names: Sequence[str],
    samples: Sequence[str] | None,
) -> dict[str, Any]:
    """Return what the map draws: a few bytes a cell."""
    n = len(annotation)
    of = list(["all"] * n if samples is None else samples)
    names = list(dict.fromkeys(of))[:255]
    code, place = {name: i for i, name in enumerate(names)}, {k: i for i, k in enumerate(order)}
    numbers = {
        "label": np.array([place[label] for label in labels]),
        "confidence": np.round(annotation.confidence * 255),
        "novelty": np.round(annotation.novelty * 255),
        "sample": np.array([code.get(name, len(names) - 1) for name in of]),
    }
    sampled = figures.colours(names, UNKNOWN)
    counts = np.bincount(numbers["sample"], minlength=len(names))
    kinds: dict[str, Any] = {
        "label": {
            "title": "label",
            "categories": [
                {
                    "label": visible(label),
                    "colour": colour[label],
                    "n": int((labels == label).sum()),
                }
                for label in order
            ],
        },
        "confidence": {"title": "confidence"},
        "novelty": {"title": "novelty"},
        "sample": {
            "title": "sample",
            "categories": [
                {"label": visible(name), "colour": sampled[name], "n": int(counts[i])}
                for i, name in enumerate(names)
            ],
        },
    }
    corner = np.round(np.clip(places, 0, 1) * 65535).astype("<u2")
    return {
        "x": _packed(corner[:, 0]),
        "y": _packed(corner[:, 1]),
        "columns": {key: _packed(v.astype(np.uint8)) for key, v in numbers.items()},
        "kinds": kinds,
        "ramp": [figures.ramp(i / 15) for i in range(16)],
        "names": [visible(name) for name in cell_names] if n <= MOST_NAMES else None,
        "order": PRIME if n % PRIME else 0,
    }


def _packed(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
