"""``models list`` and ``models show``: what there is, and the card of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scbignn_infer.cli.models.entries import model_entry
from scbignn_infer.cli.options import json_option
from scbignn_infer.cli.printing import (
    as_megabytes,
    as_score,
    make_console,
    make_table,
    print_json,
    print_pairs,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scbignn_infer.cli.models.entries import Summary
    from scbignn_infer.model.bundle import BundleSpec


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the models, by tissue."""
    from scbignn_infer.model import registry

    entries = [model_entry(name, path) for name, path in registry.list_models().items()]
    if as_json:
        print_json({"models": entries})
        return
    console = make_console()
    if not entries:
        folders = ", ".join(map(str, registry.model_folders()))
        console.print(f"No model in {folders}", soft_wrap=True)
        return
    entries.sort(key=lambda e: (bool(e.get("tissues")), e.get("tissue", ""), e["name"]))
    titles = ["model", "version", "species", "tissue", "types", "size", "path"]
    rows = [
        (
            e["name"],
            e["version"] or "broken",
            e.get("species", ""),
            _tissue_of(e),
            str(len(e.get("cell_types", ()))),
            as_megabytes(e.get("size", 0)),
            e["path"],
        )
        for e in entries
    ]
    console.print(make_table(titles, rows))
    for e in entries:
        if e.get("tissues"):
            console.print(f"tissues of {e['name']}: {', '.join(e['tissues'])}", soft_wrap=True)
    for e in entries:
        if e["problem"]:
            say(f"warning: {e['name']} is broken: {e['problem']}", err=True)


def _temperature(spec: BundleSpec) -> str:
    """Return the temperature in words; that of new models depends on the file."""
    if spec.certainty is None:
        return f"{spec.temperature:.3g}"
    return "by misfit and coverage of the file"


def _tissue_of(entry: Summary) -> str:
    """Return the tissue of a model, of a body model how many it has."""
    n = len(entry.get("tissues", ()))
    return f"{n} tissues" if n else str(entry.get("tissue", ""))


@click.command()
@click.argument("name")
@click.option("--tissue", metavar="NAME", help="Of a body model: the types of this tissue alone.")
@json_option
def show(name: str, tissue: str | None, as_json: bool) -> None:
    """Show the card of a model.

    NAME is that of a model, or a path with a slash, such as ./mine.
    """
    import msgspec

    from scbignn_infer.annotation.tissues import Tissues
    from scbignn_infer.model import registry

    bundle = registry.load_model(name)
    if tissue is not None:
        given = Tissues.of(bundle.spec).given(bundle.name, tissue).chosen
        entry = _tissue_entry(bundle.spec, given)
        if as_json:
            print_json(entry)
        else:
            _print_tissue(entry)
    elif as_json:
        card: Summary = msgspec.to_builtins(bundle.spec)
        genes = card.pop("genes")
        print_json({**card, "n_genes": len(genes), "path": str(bundle.path)})
    else:
        _print_card(bundle.spec, bundle.path)


def _tissue_entry(spec: BundleSpec, chosen: Sequence[str]) -> Summary:
    """Describe the types that cells may be called if some tissues are chosen; none: any."""
    from scbignn_infer.annotation.tissues import Tissues

    known = [t for t in spec.tissues if t.name in chosen or not chosen]
    names = [t.name for t in known]
    own = [c for c in spec.cell_types if c.tissue in names]
    called = {c.called for c in own}
    stays = zip(spec.cell_types, Tissues.of(spec).kept(names), strict=True)
    others = {c.called: None for c, kept in stays if kept and c.called not in called}
    return {
        "model": spec.name,
        "tissues": {t.name: t.tested for t in known},
        "cells_are": spec.training.cells_are,
        "types": [
            {
                "name": c.called,
                "ontology_id": c.ontology_id,
                "tissue": c.tissue,
                "everywhere": c.everywhere,
                "training_cells": spec.training.cells_per_type[c.label],
            }
            for c in own
        ],
        "others": list(others),
        "sources": [
            d.citation or d.title or d.file
            for d in spec.training.datasets
            if not d.tissues or set(d.tissues) & set(names)
        ],
    }


def _print_tissue(entry: Summary) -> None:
    console = make_console()
    for name, tested in entry["tissues"].items():
        console.print(f"{name}: {tested or 'not tested on cells'}", soft_wrap=True)
    rows = [
        (
            t["name"],
            t["ontology_id"],
            t["tissue"],
            "yes" if t["everywhere"] else "",
            f"{t['training_cells']:,}",
        )
        for t in entry["types"]
    ]
    titles = ["type", "ontology", "tissue", "everywhere", entry["cells_are"]]
    console.print(make_table(titles, rows))
    others = ", ".join(entry["others"])
    print_pairs(console, {"also": others and f"{others} (of other tissues; occur everywhere)"})
    for source in dict.fromkeys(entry["sources"]):
        console.print(f"source: {source}", soft_wrap=True)


def _labels_of(spec: BundleSpec) -> str:
    """Say how deep labels are."""
    if not spec.thresholds.label:
        return ""
    names = ", ".join(node.label for node in reversed(spec.ontology))
    return f"as deep as is sure to {spec.thresholds.label:.3g}: the types, {names}"


def _print_card(spec: BundleSpec, path: Path) -> None:
    console, training = make_console(), spec.training
    console.print(f"{spec.name} {spec.version}", style="bold")
    some = 0 < training.n_simulated < training.n_cells
    simulated = f", {training.n_simulated:,} of them simulated" if some else ""
    print_pairs(
        console,
        {
            "": spec.description,
            "path": str(path),
            "licence": spec.licence,
            "species": spec.species,
            "tissue": spec.tissue,
            "tissues": ", ".join(t.name for t in spec.tissues),
            "tested on": ", ".join(t.name for t in spec.tissues if t.tested),
            "assays": ", ".join(spec.assays),
            "genes": f"{len(spec.genes):,}, the network reads {spec.gene_level.net_genes:,}",
            "levels": f"{spec.gene_level.form} (genes), {spec.cell_level.form} (cells)",
            "unknown": f"below a support of {spec.thresholds.confidence:.3g} "
            f"(confidence less penalties; temperature {_temperature(spec)})",
            "labels": _labels_of(spec),
            training.cells_are: f"{training.n_cells:,}{simulated}, seed {training.seed}",
        },
    )
    types = [
        (
            c.label,
            c.ontology_id,
            ", ".join(f"{t.level} {t.label}" for t in c.lineage),
            f"{training.cells_per_type.get(c.label, 0):,}",
            as_score(training.scores_per_type.get(c.label)),
            as_score(training.held_out_scores_per_type.get(c.label)),
        )
        for c in spec.cell_types
    ]
    titles = ["label", "ontology", "levels", training.cells_are, "F1 out of fold", "F1 held out"]
    console.print(make_table(titles, types))
    for set_ in training.datasets:
        known = (set_.title, set_.citation, set_.accession, set_.licence)
        details = "; ".join(filter(None, known))
        kind = "simulated cells" if set_.role == "profiles" else "cells"
        line = f"{set_.role} {set_.file} ({set_.n_cells:,} {kind}): {details}"
        console.print(line, soft_wrap=True)
    if training.adaptation:
        console.print(training.adaptation, soft_wrap=True)
    history = [
        (
            str(e.iteration),
            as_score(e.gene_level_f1),
            as_score(e.cell_level_f1),
            "*" if e.kept else "",
            f"{e.seconds:.1f}",
        )
        for e in training.em_history
    ]
    console.print(make_table(["EM", "gene level F1", "cell level F1", "kept", "seconds"], history))
    print_pairs(console, {name: as_score(value) for name, value in training.scores.items()})
    studies = [
        (name, f"{s.n_cells:,}", as_score(s.accuracy), as_score(s.macro_f1))
        for name, s in training.held_out_scores.items()
    ]
    if studies:
        console.print(make_table(["study left out", "cells", "accuracy", "macro-F1"], studies))
    confused = [f"{c.truth} as {c.called} {c.share:.0%}" for c in training.confusions]
    print_pairs(console, {"confuses": ", ".join(confused)})
    for line in training.cannot_tell:
        console.print(f"cannot tell: {line}", soft_wrap=True)
    merged = [f"{old} -> {new}" for old, new in training.merged_labels.items()]
    dropped = [f"{label} ({n})" for label, n in training.dropped_labels.items()]
    unread = [f"{reason} ({n:,})" for reason, n in training.not_read.items()]
    left_out = {"merged": merged, "dropped": dropped, "not read": unread}
    print_pairs(console, {name: ", ".join(words) for name, words in left_out.items()})
    for note in training.notes:
        console.print(f"note: {note}", soft_wrap=True)
