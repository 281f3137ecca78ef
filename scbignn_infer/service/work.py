"""What the worker does for a request: label the cells and make the answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi
import msgspec
from fastapi.responses import FileResponse

from scbignn_infer import files, results, writers
from scbignn_infer.remarks import remarks_on
from scbignn_infer.service.bodies import CSV, HDF5, JSON, OPENERS, SUFFIXES, refuse_other_files
from scbignn_infer.service.desk import Job
from scbignn_infer.service.models import Models, Wishes

if TYPE_CHECKING:
    from scbignn_infer.bundle import ModelBundle
    from scbignn_infer.pipeline import Annotator
    from scbignn_infer.results import Annotation

Document = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What the worker does for a request.

    Attributes
    ----------
    job
        Asked at each step whether to go on.
    models, bundle, wishes
        How cells are labelled.
    body, sent, wanted
        The file that came, its format and that of the answer.
    """

    job: Job
    models: Models
    bundle: ModelBundle
    wishes: Wishes
    body: Path
    sent: str
    wanted: str

    def __call__(self) -> fastapi.Response:
        """Label the cells and make the answer."""
        annotator = self.models.annotator(self.bundle, self.wishes)
        if SUFFIXES[self.sent] == "h5ad":
            refuse_other_files(self.body)
        if self.wanted == HDF5:
            return self._labelled_file(annotator)
        with OPENERS[self.sent](self.body) as cells:
            annotation = annotator.annotate_query(cells, progress=self.job.step)
            names = cells.cell_names()
        if self.wanted == CSV:
            table = writers.make_table(
                names, annotation.columns(), annotation.probabilities, annotation.cell_types
            )
            return fastapi.Response(table.to_csv(), media_type=CSV)
        return fastapi.Response(
            msgspec.json.encode(_as_document(annotation, names)), media_type=JSON
        )

    def _labelled_file(self, annotator: Annotator) -> fastapi.Response:
        target = self.body.with_name("cells.scbignn.h5ad")
        files.label_file(
            self.body,
            target,
            files.Settings(model=str(self.bundle.path)),
            overwrite=True,
            progress=self.job.step,
            make_annotator=lambda settings, bundle: annotator,
        )
        return FileResponse(target, media_type=HDF5, filename=target.name)


def _as_document(annotation: Annotation, names: list[str]) -> Document:
    """Return the answer as JSON: columns of the cells, then what is to be known of all."""
    provenance, labels = annotation.provenance, annotation.counts()
    columns = zip(results.COLUMNS, annotation.columns().values(), strict=True)
    return {
        "model": provenance["model"],
        "cells": names,
        **{name: values.tolist() for name, values in columns},
        "summary": {
            "cells": len(annotation),
            "labels": labels,
            "unknown": labels.get(results.UNKNOWN, 0),
            "empty": annotation.n_empty,
            **{part: provenance[part] for part in ("matrix", "genes", "params", "seconds")},
            "warnings": remarks_on(annotation),
        },
    }
