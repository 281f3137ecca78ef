"""The ``train`` command."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from scbignn_infer.model.validate import check_name
from scbignn_infer.network.sessions import available_threads
from scbignn_infer.plain import visible
from scbignn_training.profiles import Columns
from scbignn_training.recipe import ProfileSource, Recipe, Source, read_recipe
from scbignn_training.settings import MIN_CELLS, Settings

if TYPE_CHECKING:
    from scbignn_infer.model.bundle import EMIteration

RECIPE_PARAMETERS = (
    "references",
    "profiles",
    "profile_column",
    "label_key",
    "study_key",
    "keep_label",
    "max_cells_per_type",
    "max_cells",
    "description",
    "licence",
    "citation",
    "name",
    "unlabelled",
    "adapt",
    "species",
    "tissue",
    "min_cells",
    "seed",
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("references", nargs=-1, metavar="[REFERENCE.h5ad]...")
@click.option("--recipe", "recipe_file", metavar="FILE", help="A TOML recipe instead of options.")
@click.option(
    "--leave-out",
    multiple=True,
    metavar="NAME",
    help="Train the recipe without this reference or study; may be repeated.",
)
@click.option(
    "--profiles",
    multiple=True,
    metavar="TABLE",
    help="Mean expression of cell types (h5ad, csv, tsv, parquet); cells are simulated from it.",
)
@click.option(
    "--profile-column",
    multiple=True,
    metavar="WHAT=NAME",
    help="Column with the type, dataset, tissue, ontology, cells or citation of a profile "
    "[default: found by usual names].",
)
@click.option(
    "--label-key",
    metavar="KEY",
    help="Column of obs with the cell types, or with their ontology ids [default: that of the "
    "CELLxGENE schema, in files that have it].",
)
@click.option(
    "--study-key",
    multiple=True,
    metavar="KEY",
    help="Column of obs that tells studies or donors of a file apart; scores are then of studies "
    "left out. Several columns together name a study.",
)
@click.option(
    "--keep-label",
    multiple=True,
    metavar="LABEL",
    help="Train on a label that seems to name no type, such as 'doublet'.",
)
@click.option(
    "--max-cells-per-type",
    type=click.IntRange(min=10),
    metavar="N",
    help="Of more cells of a type in a file take a sample, as even as possible over its studies.",
)
@click.option(
    "--max-cells",
    type=click.IntRange(min=100),
    metavar="N",
    help="Of more cells in all files take a sample in which small types stay whole "
    "[default: 200000, and fewer where cells have more than 750 genes each].",
)
@click.option("--description", default="", help="Of the model, for its card.")
@click.option("--licence", default="", help="Of the model and the cells, for its card.")
@click.option("--citation", default="", help="Who measured the cells, for its card.")
@click.option("--check", is_flag=True, help="Show what is odd in the labels, and train nothing.")
@click.option("--name", help="Name of the model.")
@click.option("-o", "--output", type=Path, default=Path(), help="Folder for the bundle.")
@click.option("--unlabelled", multiple=True, metavar="FILE", help="Unlabelled cells for EM.")
@click.option(
    "--adapt",
    multiple=True,
    metavar="QUERY",
    help="Also train on these cells without their labels; scores on them are then transductive.",
)
@click.option("--species", default="", help="Species of all files [default: found by the genes].")
@click.option("--tissue", default="", help="Tissue of the references.")
@click.option(
    "--min-cells",
    type=click.IntRange(min=2),
    default=MIN_CELLS,
    show_default=True,
    help="Leave out smaller types.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of all random numbers.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the networks train.",
)
@click.option("--fresh", is_flag=True, help="Do not go on from an unfinished run.")
@click.option(
    "--keep-stages",
    is_flag=True,
    help="Keep the trained networks beside the bundle. The same command with --overwrite then "
    "calibrates again without training them.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [default: all].")
@click.option("--overwrite", is_flag=True, help="Replace a bundle of the same name.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def train(
    references: tuple[str, ...],
    recipe_file: str | None,
    leave_out: tuple[str, ...],
    profiles: tuple[str, ...],
    profile_column: tuple[str, ...],
    label_key: str | None,
    study_key: tuple[str, ...],
    keep_label: tuple[str, ...],
    max_cells_per_type: int | None,
    max_cells: int | None,
    description: str,
    licence: str,
    citation: str,
    check: bool,
    name: str | None,
    output: Path,
    unlabelled: tuple[str, ...],
    adapt: tuple[str, ...],
    species: str,
    tissue: str,
    min_cells: int,
    seed: int,
    device: str,
    fresh: bool,
    keep_stages: bool,
    threads: int | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train a model on labelled cells, on profiles of cell types or on both; write its bundle.

    Several references are joined on all of their genes. A gene that a file has not is absent
    there, not zero. A run that was killed goes on where it was when the same command is given
    again.
    """
    if recipe_file is not None:
        source = click.get_current_context().get_parameter_source
        given = [p for p in RECIPE_PARAMETERS if source(p) is ParameterSource.COMMANDLINE]
        if given:
            raise click.UsageError(f"--recipe says itself what is given here: {', '.join(given)}")
        recipe = read_recipe(recipe_file)
        for study in leave_out:
            recipe = recipe.without(study)
    elif leave_out:
        raise click.UsageError("--leave-out is for a --recipe")
    elif not (name or check) or not (references or profiles):
        raise click.UsageError("give references or --profiles, and --name; or a --recipe")
    else:
        recipe = Recipe(
            name=name or "unnamed",
            description=description,
            licence=licence,
            species=species,
            tissue=tissue,
            label_key=label_key or "",
            min_cells=min_cells,
            max_cells_per_type=max_cells_per_type or 0,
            max_cells=max_cells,
            keep=list(keep_label),
            reference=[
                msgspec.structs.replace(
                    s, study_key=list(study_key), citation=citation, licence=licence
                )
                for s in _named(references)
            ],
            profiles=[
                ProfileSource(file=s.file, name=s.name, columns=_columns(profile_column))
                for s in _named(profiles)
            ],
            unlabelled=[Source(file=f) for f in unlabelled],
            adapt=[Source(file=f) for f in adapt],
            settings=Settings(seed=seed),
        )
    if check:
        _show_findings(recipe)
        return
    run(
        recipe,
        output,
        device=device,
        fresh=fresh,
        keep_stages=keep_stages,
        threads=threads,
        overwrite=overwrite,
        quiet=quiet,
    )


def _show_findings(recipe: Recipe) -> None:
    """Print what is odd in the labels of a recipe."""
    from scbignn_training.train import check

    rows = check(recipe)
    if not rows:
        click.echo("labels: nothing odd was found")
        return
    table = [("labels", "cells", "what was found", "what to do")]
    table += [(row.labels, f"{row.cells:,}", row.what, row.do) for row in rows]
    widths = [max(len(visible(line[i])) for line in table) for i in range(3)]
    for line in table:
        cells = [visible(text).ljust(n) for text, n in zip(line, [*widths, 0], strict=True)]
        click.echo("  ".join(cells).rstrip())


def _columns(given: tuple[str, ...]) -> Columns:
    """Return the columns of profile tables that the user names."""
    try:
        return msgspec.convert(dict(item.split("=", 1) for item in given), Columns)
    except (ValueError, msgspec.ValidationError):
        known = ", ".join(Columns.__struct_fields__)
        raise click.UsageError(
            f"--profile-column {' '.join(given)} is not WHAT=NAME with one of {known}"
        ) from None


def _named(files: tuple[str, ...]) -> list[Source]:
    """Name files by their stems, numbered where several have the same."""
    stems = [Path(f).stem for f in files]
    names = [
        f"{stem} {stems[:i].count(stem) + 1}" if stems.count(stem) > 1 else ""
        for i, stem in enumerate(stems)
    ]
    return [Source(file=f, name=name) for f, name in zip(files, names, strict=True)]


def run(
    recipe: Recipe,
    output: Path,
    *,
    device: str = "auto",
    fresh: bool = False,
    keep_stages: bool = False,
    threads: int | None,
    overwrite: bool,
    quiet: bool,
) -> Path:
    """Train a recipe, print its EM table and write the bundle."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # sums on a GPU repeat
    import torch

    from scbignn_training import checkpoint
    from scbignn_training.pack import check_free, write_bundle
    from scbignn_training.run import Run, choose_device
    from scbignn_training.train import train as fit

    name = recipe.name
    check_name(name)
    check_free(output / name, overwrite=overwrite)
    device = choose_device(device, has_cuda=torch.cuda.is_available())
    torch.set_num_threads(threads or available_threads())
    torch.use_deterministic_algorithms(True)  # sums over edges are added up in a fixed order
    start = time.perf_counter()

    def stage(line: str) -> None:
        if not quiet:
            click.echo(f"[{time.perf_counter() - start:6.1f} s] {visible(line)}", err=True)

    def iteration(row: EMIteration) -> None:
        if not quiet:
            if row.iteration == 0:
                click.echo("iteration  gene level  with cell level  seconds", err=True)
            click.echo(
                f"{row.iteration:9d}  {row.gene_level_f1:10.4f}  {row.cell_level_f1:15.4f}  "
                f"{row.seconds:7.1f}",
                err=True,
            )

    unfinished = output / f".{name}.checkpoint"
    if fresh:
        checkpoint.remove(unfinished)
    model = fit(recipe, Run(device, unfinished, stage, iteration))
    stage("exporting, and comparing onnxruntime with torch")
    path = write_bundle(model, recipe, output, overwrite=overwrite)
    if not keep_stages:
        checkpoint.remove(unfinished)
    size = sum(f.stat().st_size for f in path.iterdir()) / 1e6
    stage(f"wrote {path} ({size:.1f} MB): " + msgspec.json.encode(model.scores).decode())
    return path
