"""HTML pages from the templates in ``templates``, and the report of an annotation."""

from __future__ import annotations

import base64
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.annotation.annotation import REASONS, UNKNOWN
from scbignn_infer.errors import MissingExtraError
from scbignn_infer.output.atomic import replacing
from scbignn_infer.plain import encodable, visible
from scbignn_infer.report import figures, palette

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from scbignn_infer._types import Array
    from scbignn_infer.report.composition import Composition
    from scbignn_infer.report.findings import Findings
    from scbignn_infer.report.labelled import Labelled

MOST_NAMES = 20_000
"""More cells are numbered in the page, not named, to keep it small."""
MOST_SAMPLES = 60
MOST_UNKNOWN = 200
"""Unknown cells that are named."""
PRIME = 7919
"""Cells are drawn in steps of it, so that no label lies over the others."""
MEANING = {
    "unsure": "no label is as probable as a label must be",
    "novel": "farther from the reference than the other cells of the file, or above --max-novelty",
    "genes do not fit": "its genes differ from the type that it would be called, or hardly show it",
    "empty": "no count on any gene of the model",
    "other species": "most counts are on genes of another species",
}
"""What the reasons why cells are unknown mean."""


def write_report(target: Path, findings: Findings) -> None:
    """Write the report of labels: one HTML file that loads nothing else."""
    labelled, spec, markers = findings.labelled, findings.spec, findings.markers
    changes = _changes(labelled)
    provenance, training = labelled.provenance, spec.training if spec else None
    scores = (training.scores_per_type, training.held_out_scores_per_type) if training else ()
    write_page(
        target,
        "report",
        findings=findings,
        labelled=labelled,
        spec=spec,
        name=findings.name,
        warnings=findings.warnings,
        markers=markers,
        clusters=labelled.clusters,
        median=np.nanmedian,
        n_cells=len(labelled),
        n_unknown=int(labelled.is_unknown.sum()),
        labels=list(_labels(findings)),
        looks=findings.looks,
        composition=_of_samples(findings.composition),
        n_more_samples=len(findings.composition.samples[MOST_SAMPLES:]),
        unknown=_unknown(labelled),
        unknown_cells=_unknown_cells(labelled, findings.cell_names),
        meaning=MEANING,
        n_changed=sum(n for *_, n in changes),
        changes=changes[:12],
        absent=[
            (label, _listed(genes, ".2f"))
            for label, genes in (markers.absent.items() if markers else ())
            if genes
        ],
        versions=dict(sorted(provenance.versions.items())),
        verdicts=[(k.replace(":", "/"), v) for k, v in provenance.matrix.verdicts.items()],
        types=[
            (c.label, training.cells_per_type.get(c.label, 0), *(f1.get(c.label) for f1 in scores))
            for c in spec.cell_types
        ]
        if spec and training
        else [],
        sources=[d.citation or d.title or d.file for d in training.datasets] if training else [],
        data=_data(findings),
    )


def _labels(findings: Findings) -> Iterator[tuple[Any, ...]]:
    """Yield each label with its look, id, cells, share, and medians of three numbers.

    The support is of the label; the confidence that of a type, also if the label joins several.
    """
    labelled = findings.labelled
    for label, look in findings.looks.items():
        cells = labelled.labels == label
        numbers = labelled.support, labelled.confidence, labelled.novelty
        medians = (np.nanmedian(v[cells]) for v in numbers)
        yield label, look, labelled.ids.get(label, ""), int(cells.sum()), cells.mean(), *medians


def _of_samples(whole: Composition) -> dict[str, Any]:
    """Return cells and shares by sample, and by label the difference between two of them."""
    cells, shares = whole.cells[:MOST_SAMPLES], whole.shares[:MOST_SAMPLES]
    differences = 100 * (shares[1] - shares[0]) if len(whole.samples) == 2 else []
    return {
        "samples": dict(zip(whole.samples[:MOST_SAMPLES], whole.totals.tolist(), strict=False)),
        "rows": {
            label: list(zip(cells[:, i].tolist(), shares[:, i].tolist(), strict=True))
            for i, label in enumerate(whole.labels)
        },
        "differences": dict(zip(whole.labels, map(float, differences), strict=False)),
        "counts": {
            sample: dict(zip(whole.labels, row.tolist(), strict=True))
            for sample, row in zip(whole.samples, cells, strict=False)
        },
    }


def _changes(labelled: Labelled) -> list[tuple[str, str, int]]:
    """Return by how many cells the neighbours changed which label to which, most first."""
    pairs = zip(labelled.gene_level_labels, labelled.best_labels, strict=True)
    changed = Counter(sorted((a, b) for a, b in pairs if a != b))
    return [(a, b, n) for (a, b), n in changed.most_common()]


def _unknown(labelled: Labelled) -> dict[str, list[tuple[Any, ...]]]:
    """Return, by reason, what unknown cells resemble most: type, cells, medians."""
    reasons, best = labelled.unknown_reasons, labelled.best_labels
    is_unknown, found = labelled.is_unknown, dict[str, list[tuple[Any, ...]]]()
    n = Counter(zip(reasons[is_unknown], best[is_unknown], strict=True))
    place = {reason: i for i, reason in enumerate(REASONS)}
    for (reason, label), m in sorted(n.items(), key=lambda i: (place.get(i[0][0], 9), -i[1])):
        cells = is_unknown & (reasons == reason) & (best == label)
        medians = (np.nanmedian(v[cells]) for v in (labelled.confidence, labelled.novelty))
        resembles = "" if label == UNKNOWN else label
        found.setdefault(reason, []).append((resembles, m, *medians))
    return found


def _unknown_cells(labelled: Labelled, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return unknown cells by name: those that are nearest to a label first."""
    cells = np.flatnonzero(labelled.is_unknown)
    nearest = cells[np.argsort(-labelled.support[cells], kind="stable")][:MOST_UNKNOWN]
    columns = labelled.unknown_reasons, labelled.best_labels
    numbers = labelled.support, labelled.confidence, labelled.novelty
    return [(names[i], *(c[i] for c in columns), *(v[i] for v in numbers)) for i in nearest]


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


def _data(findings: Findings) -> dict[str, Any]:
    """Return what the map draws: a few bytes a cell."""
    labelled, n = findings.labelled, len(findings.labelled)
    of = list(["all"] * n if findings.samples is None else findings.samples)
    sampled = palette.looks(list(dict.fromkeys(of))[:255], UNKNOWN)
    drawn = {"label": findings.looks, "sample": sampled}
    code = {key: {name: i for i, name in enumerate(looks)} for key, looks in drawn.items()}
    last = len(sampled) - 1
    numbers = {
        "label": np.array([code["label"][label] for label in labelled.labels]),
        "confidence": _bytes_of(labelled.confidence),
        "novelty": _bytes_of(labelled.novelty),
        "sample": np.array([code["sample"].get(name, last) for name in of]),
    }
    kinds: dict[str, dict[str, Any]] = {key: {"title": key} for key in numbers}
    for key, looks in drawn.items():
        cells = np.bincount(numbers[key], minlength=len(looks))
        kinds[key]["categories"] = [
            {
                "label": visible(name),
                "n": int(cells[i]),
                "unknown": name == UNKNOWN,
                **look._asdict(),
            }
            for i, (name, look) in enumerate(looks.items())
        ]
    scaled = findings.cell_map.scaled
    corner = np.round(scaled * 65535).astype("<u2")
    centres = findings.cell_map.centres(labelled.labels)
    return {
        "x": _packed(corner[:, 0]),
        "y": _packed(corner[:, 1]),
        "columns": {key: _packed(v.astype(np.uint8)) for key, v in numbers.items()},
        "kinds": kinds,
        "centres": [[round(at, 4) for at in centres[label]] for label in findings.looks],
        "ramp": [palette.ramp(i / 15) for i in range(16)],
        "names": [visible(v) for v in findings.cell_names] if n <= MOST_NAMES else None,
        "order": PRIME if n % PRIME else 0,
    }


def _bytes_of(values: Array) -> Array:
    """Return shares from 0 to 1 as numbers to 255; those that are not known as 0."""
    return np.round(np.nan_to_num(values).clip(0, 1) * 255)


def _packed(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
