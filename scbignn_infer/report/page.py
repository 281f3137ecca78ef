"""HTML pages from the templates in ``templates``, and the report of an annotation."""

from __future__ import annotations

import base64
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.annotation import UNKNOWN
from scbignn_infer.errors import MissingExtraError
from scbignn_infer.output.atomic import replacing
from scbignn_infer.plain import encodable, visible
from scbignn_infer.report import figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scbignn_infer._types import Array
    from scbignn_infer.annotation.annotation import Annotation
    from scbignn_infer.model.bundle import BundleSpec
    from scbignn_infer.report.markers import Markers

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

    ``places`` (n_cells, 2) are those of the map, from 0 to 1; ``samples`` is the sample of each
    cell, if there are several.
    """
    counts, n, training = annotation.counts(), len(annotation), spec.training
    labels = annotation.labels.astype(str)
    order = [label for label in counts if label != UNKNOWN] + [UNKNOWN] * (UNKNOWN in counts)
    colour = figures.colours(order, UNKNOWN)
    of = np.array(["all cells"] * n if samples is None else samples, dtype=object)
    sample_names = list(dict.fromkeys(of.tolist()))
    changes = _changes(annotation)
    provenance = annotation.provenance
    scores = training.scores_per_type, training.held_out_scores_per_type
    write_page(
        target,
        "report",
        annotation=annotation,
        spec=spec,
        name=name,
        warnings=warnings,
        markers=markers,
        clusters={key: found.shown for key, found in annotation.clusters.items()},
        median=np.median,
        n_cells=n,
        n_unknown=counts.get(UNKNOWN, 0),
        labels=[_label(annotation, label) for label in order],
        colours=colour,
        samples={
            sample: {label: int(((of == sample) & (labels == label)).sum()) for label in order}
            for sample in sample_names[:MOST_SAMPLES]
        },
        n_more_samples=len(sample_names[MOST_SAMPLES:]),
        n_changed=sum(n for *_, n in changes),
        changes=changes[:12],
        absent=[
            (label, _listed(genes, ".2f"))
            for label, genes in (markers.absent.items() if markers else ())
            if genes
        ],
        verdicts=[(k.replace(":", "/"), v) for k, v in provenance.matrix.verdicts.items()],
        types=[
            (c.label, training.cells_per_type.get(c.label, 0), *(f1.get(c.label) for f1 in scores))
            for c in spec.cell_types
        ],
        sources=[d.citation or d.title or d.file for d in training.datasets],
        data=_data(annotation, places, labels, colour, cell_names=cell_names, samples=samples),
    )


def _label(annotation: Annotation, label: str) -> tuple[object, ...]:
    """Return a label with its id, cells, share, and medians of confidence and novelty."""
    ontology = annotation.ontology
    ids = dict(zip(ontology.labels, ontology.ontology_ids, strict=True))
    cells = annotation.labels == label
    medians = (np.median(v[cells]) for v in (annotation.confidence, annotation.novelty))
    return label, ids.get(label, ""), cells.sum(), cells.mean(), *medians


def _changes(annotation: Annotation) -> list[tuple[str, str, int]]:
    """Return by how many cells the neighbours changed which label to which, most first."""
    pairs = zip(annotation.gene_level_labels, annotation.best_labels, strict=True)
    changed = Counter(sorted((a, b) for a, b in pairs if a != b))
    return [(a, b, n) for (a, b), n in changed.most_common()]


def write_page(target: Path, template: str, **values: Any) -> None:
    """Fill a template and write the page, which loads nothing else."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("jinja2", extra="report", purpose="an HTML page") from None
    templates = Environment(
        loader=PackageLoader("scbignn_infer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_readable,
    )
    templates.policies["json.dumps_kwargs"] = {}  # keys in their order
    templates.globals["figures"] = figures
    templates.filters["listed"] = _listed
    templates.filters["prose"] = lambda text: " ".join(text.split())
    templates.filters["written"] = lambda v, form: "" if v is None else format(v, form)
    page = templates.get_template(f"{template}.html.j2").render(values)
    with replacing(target) as temporary:
        temporary.write_text(encodable(page), encoding="utf-8")


def _readable(value: object) -> object:
    """Write control and direction characters of names as escapes."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _listed(values: Mapping[str, Any], form: str = "") -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def _data(
    annotation: Annotation,
    places: Array,
    labels: Array,
    colour: Mapping[str, str],
    *,
    cell_names: Sequence[str],
    samples: Sequence[str] | None,
) -> dict[str, Any]:
    """Return what the map draws: a few bytes a cell."""
    n = len(annotation)
    of = list(["all"] * n if samples is None else samples)
    sampled = figures.colours(list(dict.fromkeys(of))[:255], UNKNOWN)
    place, code = ({name: i for i, name in enumerate(names)} for names in (colour, sampled))
    numbers = {
        "label": np.array([place[label] for label in labels]),
        "confidence": np.round(annotation.confidence * 255),
        "novelty": np.round(annotation.novelty * 255),
        "sample": np.array([code.get(name, len(code) - 1) for name in of]),
    }
    kinds: dict[str, dict[str, Any]] = {key: {"title": key} for key in numbers}
    for key, drawn in (("label", colour), ("sample", sampled)):
        cells = np.bincount(numbers[key], minlength=len(drawn))
        kinds[key]["categories"] = [
            {"label": visible(name), "colour": drawn[name], "n": int(cells[i])}
            for i, name in enumerate(drawn)
        ]
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
