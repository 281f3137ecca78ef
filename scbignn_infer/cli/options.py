"""Options that commands share, and what their values mean."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from scbignn_infer.errors import InputError
from scbignn_infer.plain import encodable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FILE = click.Path(path_type=Path)
model_option = click.option(
    "-m", "--model", metavar="NAME|PATH", help="Model to use; by default the one that fits best."
)
key_option = click.option(
    "--key-added",
    default="scbignn",
    show_default=True,
    callback=lambda ctx, parameter, value: _plain_key(value),
    help="Prefix of everything that annotate writes.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads; by default all."
)
memory_option = click.option(
    "--memory-limit",
    metavar="SIZE",
    callback=lambda ctx, parameter, value: as_bytes(value),
    help="Refuse, before any work, what is estimated to need more, such as 4GB.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what exists already.")


def reading_options(command: Any) -> Any:
    """Add the options on how a query is read; the command gets them as one ``reading``."""
    options = (
        click.option(
            "--matrix", metavar="X|raw|layers/NAME", help="Matrix to read; by default the best."
        ),
        click.option("--gene-column", metavar="NAME", help="Column of var with the gene names."),
        click.option(
            "--min-gene-coverage",
            type=click.FloatRange(0, 1),
            metavar="SHARE",
            help="Refuse data with a lower share of the model's genes.",
        ),
        click.option(
            "--allow-species-mismatch",
            is_flag=True,
            help="Match the symbols of another species, whatever their case.",
        ),
        click.option(
            "--orientation",
            type=click.Choice(["cells-by-genes", "genes-by-cells"]),
            help="Rows by columns of a text table; by default found by the gene names.",
        ),
        click.option(
            "--modality",
            metavar="NAME",
            help="Of a MuData file (.h5mu); by default the one with genes.",
        ),
        click.option(
            "--table",
            metavar="NAME",
            help="Of a SpatialData store; by default its only one.",
        ),
    )

    @wraps(command)
    def with_reading(**values: Any) -> Any:
        from scbignn_infer.query.reading import Reading

        return command(reading=Reading(**{name: values.pop(name) for name in READING}), **values)

    for option in reversed(options):
        with_reading = option(with_reading)
    return with_reading


def labelling_options(command: Any) -> Any:
    """Add the options on how cells are read and labelled; the command gets them as ``settings``."""
    options = (
        click.option(
            "--batch-key",
            metavar="KEY",
            help="Column of obs; only cells with one value are neighbours.",
        ),
        device_option,
        threads_option,
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Of the approximate graph search.",
        ),
        click.option(
            "--batch-cells",
            type=click.IntRange(min=1),
            help="Cells that go through the gene level at once; by default 256, on a GPU 4096.",
        ),
        memory_option,
        click.option(
            "--unknown-threshold",
            type=click.FloatRange(0, 1),
            metavar="CONFIDENCE",
            help="Call cells below it unknown, novel ones sooner; by default the model's.",
        ),
        click.option(
            "--max-novelty",
            type=click.FloatRange(0, 1),
            default=1.0,
            metavar="QUANTILE",
            help="Call cells above it unknown, too, such as 0.99; by default none.",
        ),
        click.option("--no-unknown", is_flag=True, help="Give every cell with counts a label."),
        click.option(
            "--level",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Coarser labels: so many steps up the Cell Ontology.",
        ),
        click.option("--group-map", type=FILE, help="Coarser labels: JSON object, type to group."),
        click.option(
            "--graph",
            type=click.Choice(["query", "reference"]),
            default="query",
            show_default=True,
            help="Whose cells are neighbours; with the reference's none depends on other cells.",
        ),
    )

    @wraps(command)
    def with_settings(**values: Any) -> Any:
        from scbignn_infer.label_file import Settings

        if values["no_unknown"] and (found := given(THRESHOLDS)):
            raise click.UsageError(f"{', '.join(found)}: --no-unknown calls no cell unknown")
        plain = {name: values.pop(name) for name in LABELLING}
        group_map = values.pop("group_map")
        settings = Settings(
            model=values.pop("model"),
            reading=replace(values.pop("reading"), batch_key=values.pop("batch_key")),
            unknown=not values.pop("no_unknown"),
            groups=read_map(group_map) if group_map is not None else None,
            **plain,
        )
        return command(settings=settings, **values)

    for option in reversed(options):
        with_settings = option(with_settings)
    return model_option(reading_options(with_settings))


LABELLING = (
    "device",
    "threads",
    "seed",
    "batch_cells",
    "memory_limit",
    "unknown_threshold",
    "max_novelty",
    "level",
    "graph",
)
"""Options that are settings by the same name."""
READING = (
    "matrix",
    "gene_column",
    "min_gene_coverage",
    "allow_species_mismatch",
    "orientation",
    "modality",
    "table",
)
"""Options on how a file is read."""
THRESHOLDS = {"unknown_threshold": "--unknown-threshold", "max_novelty": "--max-novelty"}
OTHERS = ("batch_key", "no_unknown", "group_map")
"""Options that become settings by another name."""


def given(names: Mapping[str, str]) -> list[str]:
    """Return those of some options that were given, as they are written."""
    source = click.get_current_context().get_parameter_source
    return [flag for name, flag in names.items() if source(name) is ParameterSource.COMMANDLINE]


def refuse_labelling(why: str, *, but: Collection[str] = ()) -> None:
    """Refuse options on reading and labelling where no cell is labelled."""
    flags = {name: f"--{name.replace('_', '-')}" for name in (*READING, *LABELLING, *OTHERS)}
    if found := given({name: flag for name, flag in flags.items() if name not in but}):
        raise click.UsageError(f"{', '.join(found)}: {why}")


def _plain_key(key: str) -> str:
    if not key or "/" in key:
        raise click.BadParameter("must not be empty or hold a slash")
    if encodable(key) != key:
        raise click.BadParameter("must be text in UTF-8")
    return key


def as_bytes(size: str | None) -> int | None:
    """Return a size such as 500MB or 4G in bytes, in powers of 1,000."""
    if size is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"'{size}' is no size such as 500MB or 4GB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


def read_map(path: Path) -> dict[str, str]:
    """Read a JSON object of strings."""
    reason = "not an object of strings"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        names, reason = None, str(error)
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise InputError(
            f"cannot use the map {path} ({reason})",
            expected='a JSON object such as {"CD14+ Monocyte": "CD14 Mono"}',
            do="mend the file",
        )
    return names
