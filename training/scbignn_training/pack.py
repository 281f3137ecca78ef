"""Write a model as a bundle: exported, compared, checksummed, then moved into place whole."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import scipy.sparse as sp
import torch

from scbignn_infer.errors import OutputError
from scbignn_infer.model import bundle as b
from scbignn_infer.network.panel import TARGET_SUM
from scbignn_infer.network.sessions import Session, choose_runtime
from scbignn_infer.network.trial import try_out
from scbignn_infer.plain import encodable
from scbignn_infer.query.gene_names import SPECIES, GeneNames
from scbignn_infer.sharing import onnx_file
from scbignn_training.card import model_card
from scbignn_training.data import Cells
from scbignn_training.depth import joining
from scbignn_training.em import run_gene_level
from scbignn_training.export import check_parity, export_cell_level, export_gene_level
from scbignn_training.gene_level import Panel
from scbignn_training.interpret import CELLS, interpret
from scbignn_training.ontology import lineages
from scbignn_training.profile_types import FLUIDS
from scbignn_training.sampling import place_in_type
from scbignn_training.sizes import suited

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scbignn_training.data import Reference
    from scbignn_training.profile_types import ProfileType
    from scbignn_training.recipe import Recipe, Source
    from scbignn_training.train import Model

Array = np.ndarray[Any, Any]
PARITY_CELLS = 500
WEAK_BELOW = 0.8
"""See ``Thresholds.weak``; chosen on the body models."""
HALF = (
    "gene_mean",
    "gene_scale",
    "class_mean",
    "within_factors",
    "within_residual",
    "total_factors",
    "total_residual",
)


def write_bundle(model: Model, recipe: Recipe, folder: Path, *, overwrite: bool = False) -> Path:
    """Export a model and write its bundle.

    Parameters
    ----------
    model, recipe
        What was trained, and from what.
    folder
        Where the bundle's folder, named like the model, is put.
    overwrite
        Replace a bundle of that name.

    Returns
    -------
    Path
        The bundle.

    Raises
    ------
    OutputError
        The bundle exists, or the folder cannot be written.
    BundleError
        onnxruntime does not agree with torch, or the runtime would refuse the bundle.
    """
    target = folder / recipe.name
    check_free(target, overwrite=overwrite)
    used = suited(recipe.settings, model.reference)
    recipe = msgspec.structs.replace(recipe, settings=used)
    files = _files(model, recipe)
    spec = _spec(model, recipe, files)
    files[b.RECORD] = msgspec.json.encode(spec)
    files["README.md"] = model_card(spec, model.pair.gene.statistics["class_mean"]).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=f".{recipe.name}."))
        try:
            for name, data in files.items():
                (staging / name).write_bytes(data)
            packed = b.read_bundle(staging)
            cpu = choose_runtime("cpu", torch.get_num_threads())
            try_out(packed, lambda file: Session(packed.read(file), cpu, file))
            staging.chmod(0o755)
            _swap(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {target} ({error.strerror})",
            expected="a folder that can be written, with enough free space",
            do="choose another with -o; nothing was left behind",
        ) from None
    return target


def check_free(target: Path, *, overwrite: bool) -> None:
    """Raise if a bundle is there and may not be replaced, or its folder cannot be written."""
    if target.exists() and not overwrite:
        raise OutputError(
            f"{target} exists", expected="a new bundle", do="choose another --name or --overwrite"
        )
    folder = next(p for p in target.parents if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(
            f"cannot write into {folder}", expected="a writable folder", do="choose another with -o"
        )


def _swap(staging: Path, target: Path) -> None:
    """Move a whole folder into place; an older one is put aside first and then removed."""
    if not target.exists():
        staging.replace(target)
        return
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    target.replace(aside / target.name)
    try:
        staging.replace(target)
    except OSError:
        (aside / target.name).replace(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _files(model: Model, recipe: Recipe) -> dict[str, bytes]:
    """Return the bundle's binary files, parity checked."""
    settings, pair = recipe.settings, model.pair
    m = len(pair.gene.statistics["gene_mean"])
    rows = np.random.default_rng(settings.seed).permutation(len(model.reference.codes))
    rows = np.sort(rows[:PARITY_CELLS])
    counts = model.reference.counts[rows][:, :m]
    totals = model.reference.totals[rows]
    cells = Cells(counts, totals, np.ones(m, dtype=bool), model.reference.codes[rows])
    panel = Panel(pair.gene, cells.present, settings.panel_genes)
    graph = run_gene_level(pair.gene, cells, settings)
    gene = export_gene_level(pair.gene, panel)
    cell = export_cell_level(pair.cell, len(model.reference.cell_types))
    check_parity((gene, cell), panel, pair.cell, graph, cells)
    tables: dict[str, Array] = {k: pair.gene.statistics[k].astype(np.float16) for k in HALF}
    tables |= {
        **{k: pair.gene.statistics[k] for k in ("ridge", "strength_precision", "graph_factors")},
        "cells_per_type": pair.gene.statistics["cells_per_type"].astype(np.int64),
        "gene_share": model.reference.gene_share.astype(np.float32),
    }
    bank: dict[str, Array] = {
        "embedding": model.bank.astype(np.float16),
        "codes": model.bank_codes.astype(np.int32),
        "novelty_quantiles": model.novelty_quantiles,
        "residual_quantiles": model.residual_quantiles,
    }
    name = onnx_file.message(
        *onnx_file.metadata({"model": recipe.name, "model_version": recipe.version})
    )  # more of a message's fields may follow its bytes
    return {
        "gene_level.onnx": gene + name,
        "cell_level.onnx": cell + name,
        "statistics.npz": _npz(tables),
        "reference.npz": _npz(bank),
    }


def _npz(arrays: dict[str, Array]) -> bytes:
    buffer, tables = io.BytesIO(), cast("Any", arrays)
    np.savez_compressed(buffer, **tables)  # objects would be refused when the bundle is read
    return buffer.getvalue()


def _interpretation(model: Model, recipe: Recipe) -> list[b.Interpretation]:
    """Return what the gene level looks at for each type, with all of the reference's genes."""
    reference, gene = model.reference, model.pair.gene
    m = len(gene.statistics["gene_mean"])
    cells = _filled(reference.cells(m), gene.statistics)
    panel = Panel(gene, cells.present, recipe.settings.panel_genes)
    return interpret(gene, panel, cells, reference.symbols, len(reference.cell_types))


def _filled(cells: Cells, statistics: dict[str, Array]) -> Cells:
    """Return cells in which genes that were not measured carry and deny nothing.

    They take their type's mean. Only cells that :func:`interpret` looks at are returned then.
    """
    if cells.gaps is None:
        return cells
    some = np.flatnonzero(place_in_type(cells.codes, np.arange(len(cells.codes))) < CELLS)
    cells = cells.subset(some)
    measured = cells.gaps.of(slice(None)) if cells.gaps else np.ones(cells.counts.shape, bool)
    mean = statistics["class_mean"] * statistics["gene_scale"] + statistics["gene_mean"]
    usual = np.expm1(np.maximum(mean, 0))[cells.codes] * cells.totals[:, None] / TARGET_SUM
    usual[measured] = 0
    counts = sp.csr_matrix(cells.counts + sp.csr_matrix(usual, dtype=np.float32))
    return replace(cells, counts=counts, gaps=None)


def _spec(model: Model, recipe: Recipe, files: dict[str, bytes]) -> b.BundleSpec:
    reference, settings = model.reference, recipe.settings
    net = model.pair.gene.net
    interpretation = _interpretation(model, recipe)
    simulation = recipe.simulation.as_record() if recipe.profiles else {}
    terms = [reference.ontology.get(t, "") for t in reference.cell_types]
    lines = lineages(terms, reference.groups)
    ids = GeneNames.of(model.species).gene if model.species in SPECIES else {}
    per_type = np.bincount(reference.codes, minlength=len(reference.cell_types))
    datasets = labelled_data(recipe, reference)
    roles = ["unlabelled"] * len(recipe.unlabelled) + ["adapted"] * len(recipe.adapt)
    datasets += [
        _dataset(s, n, role)
        for s, n, role in zip(recipe.foreign, model.n_unlabelled, roles, strict=True)
    ]
    return b.BundleSpec(
        format_version=b.FORMAT_VERSION,
        name=recipe.name,
        version=recipe.version,
        species=model.species,
        tissue=recipe.tissue or model.tissue,
        assays=recipe.assays or model.assays,
        description=recipe.description,
        licence=recipe.licence,
        genes=[
            b.Gene(symbol=s, ensembl_id=e or ids.get(s, ""))
            for s, e in zip(reference.symbols, reference.ensembl_ids, strict=True)
        ],
        cell_types=[
            _cell_type(reference, t, term, lineage)
            for t, term, lineage in zip(reference.cell_types, terms, lines, strict=True)
        ],
        ontology=joining(reference),
        best=recipe.best,
        tissues=tissues(reference.cell_types, reference.meant, recipe.tested),
        elsewhere="kin" if reference.meant else "dropped",
        preprocessing=b.Preprocessing(panel_genes=settings.panel_genes),
        gene_level=b.GeneLevelSpec(
            form=settings.gene_form,
            net_genes=net.n_genes,
            embedding_size=model.bank.shape[1],
            settings={
                "blend_discriminant": model.pair.gene.blend[0],
                "blend_logistic": model.pair.gene.blend[1],
                "temperature": round(model.pair.gene.temperature, 4),
            },
        ),
        cell_level=b.CellLevelSpec(
            form=settings.cell_form,
            layers=[b.CellLayer(layer=i) for i in range(settings.cell_layers)],
            settings={"share": settings.cell_share, "shield": str(settings.shield)},
        ),
        graph=b.GraphSpec(n_neighbors=settings.n_neighbors),
        thresholds=b.Thresholds(
            confidence=round(model.threshold, 4),
            label=model.label_threshold,
            sets=model.sets,
            weak=WEAK_BELOW,
        ),
        temperature=round(model.temperature, 4),
        certainty=model.certainty,
        novelty="file" if recipe.follow_file is True else "reference",
        training=b.Training(
            datasets=datasets,
            cells_per_type={t: int(n) for t, n in zip(reference.cell_types, per_type, strict=True)},
            merged_labels=reference.merged,
            dropped_labels=reference.dropped,
            not_read=model.not_read,
            n_cells=len(reference.codes),
            validation=model.validation,
            seed=settings.seed,
            settings=settings.as_record() | simulation,
            em_history=model.history,
            scores=model.scores,
            scores_per_type=model.scores_per_type,
            held_out_scores={
                reference.origins[study].name: scores
                for study, scores in model.held_out.by_study.items()
            },
            held_out_scores_per_type=model.held_out.per_type,
            calibration=model.calibration,
            confusions=model.confusions,
            cannot_tell=recipe.cannot_tell,
            notes=recipe.notes,
        ),
        interpretation=dict(zip(reference.cell_types, interpretation, strict=True)),
        files={
            name: b.FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for name, data in files.items()
        },
        created_with={
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
            "device": model.device,
            **{
                p: version(p)
                for p in ("scbignn-infer", "torch", "torch-geometric", "onnx", "numpy")
            },
        },
    )


def _cell_type(reference: Reference, label: str, term: str, lineage: list[b.Term]) -> b.CellType:
    """Return the record of a class; its tissue where a table of types says it."""
    record = b.CellType(label=label, ontology_id=term, lineage=lineage)
    meant = reference.meant.get(label)
    if meant is None:
        return record
    return msgspec.structs.replace(
        record,
        name=meant.name,
        tissue=meant.place,
        everywhere=meant.everywhere,
        resident=meant.everywhere and meant.resident,
    )


def tissues(
    labels: Sequence[str], meant: Mapping[str, ProfileType], tested: Mapping[str, str]
) -> list[b.Tissue]:
    """Return the tissues of a model's classes, and what they were tested on."""
    types = {meant[label].place: meant[label] for label in labels if label in meant}
    return [
        b.Tissue(
            name=place,
            tested=tested.get(place, ""),
            organ=types[place].tissue if types[place].tissue != place else "",
            fluid=types[place].tissue in FLUIDS,
        )
        for place in sorted(types)
    ]


def labelled_data(recipe: Recipe, reference: Reference) -> list[b.Dataset]:
    """Return the record of each file of labelled cells and of each data set of profiles."""
    batches = np.bincount(reference.batches, minlength=len(reference.origins))
    cells: Counter[str] = Counter()
    tissues: dict[str, tuple[str, ...]] = {}
    found: list[b.Dataset] = []
    for origin, n in zip(reference.origins, batches, strict=True):
        if not origin.simulated:
            cells[origin.reference] += int(n)
            tissues[origin.reference] = origin.tissues
            continue
        table = next(s for s in recipe.profiles if str(s.locate()) == origin.file)
        record = _dataset(table, int(n), "profiles")
        citation = "; ".join(filter(None, (record.citation, origin.citation)))
        found.append(
            msgspec.structs.replace(
                record, name=origin.name, citation=citation, tissues=list(origin.tissues)
            )
        )
    files = [
        msgspec.structs.replace(
            _dataset(s, cells[s.called], "reference"), tissues=list(tissues.get(s.called, ()))
        )
        for s in recipe.reference
    ]
    return files + found


def _dataset(source: Source, n_cells: int, role: Any) -> b.Dataset:
    return b.Dataset(
        file=encodable(Path(source.file).name),
        name=source.called,
        title=source.title,
        citation=source.citation,
        accession=source.accession,
        licence=source.licence,
        sha256=source.sha256,
        n_cells=n_cells,
        role=role,
    )
