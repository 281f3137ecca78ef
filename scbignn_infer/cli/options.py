"""Options that commands share, and what their values mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import wraps
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource

from scbignn_infer.errors import InputError
from scbignn_infer.plain import encodable
from scbignn_infer.settings import SETTINGS, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from scbignn_infer.settings import Setting

FILE = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what exists already.")

MOST_SECONDS = 1e8
"""That a user may grant: three years."""


class Seconds(click.FloatRange):
    """A time that a user grants."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True, max=MOST_SECONDS)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Refuse what is no number, too, which no bound does."""
        seconds = super().convert(value, param, ctx)
        if isnan(seconds):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return seconds


basis_option = click.option(
    "--basis",
    metavar="NAME",
    help="Map in obsm for the report and the figures; by default X_umap if the file has it, else "
    "one is made of the model's embedding and kept as X_scbignn_umap.",
)
sample_key_option = click.option(
    "--sample-key",
    metavar="KEY",
    help="Column of obs that report, figures and a workbook divide by.",
)


def figures_option(*, samples: bool) -> Callable[[Any], Any]:
    """Return the option for figures, of one file or of many samples, too."""
    many = "; with -O, a folder of them in it for each sample" if samples else ""
    said = (
        f"Folder for figures in print size, too: svg, pdf, png and a table (extra 'report'){many}."
    )
    return click.option("--figures", type=FILE, metavar="DIR", help=said)


def settings_options(*names: str) -> Callable[[Any], Any]:
    """Add the options of some settings; the command gets them as one ``settings``."""

    def add(command: Any) -> Any:
        @wraps(command)
        def with_settings(**values: Any) -> Any:
            if values.get("unknown") and (wrong := given(("unknown_threshold", "max_novelty"))):
                raise click.UsageError(f"{', '.join(wrong)}: --no-unknown calls no cell unknown")
            chosen = {name: _meant(SETTINGS[name], values.pop(name)) for name in names}
            return command(settings=Settings.of(chosen), **values)

        for name in reversed(names):
            with_settings = _option(SETTINGS[name])(with_settings)
        return with_settings

    return add


def _option(setting: Setting) -> Callable[[Any], Any]:
    """Return the option of a setting."""
    how: dict[str, Any] = {"metavar": setting.metavar, "help": setting.meaning}
    kind = setting.kind
    if kind is bool:
        return click.option(*setting.options, setting.name, is_flag=True, **how)
    if setting.name in PARSED:
        parse = PARSED[setting.name]
        how["callback"] = lambda ctx, parameter, value: parse(value)
    elif get_origin(kind) is Literal:
        how["type"] = click.Choice(get_args(kind))
    elif get_origin(kind) is Mapping:
        how["type"] = FILE
    elif get_origin(kind) is Sequence:
        how["multiple"] = True
    elif kind in (int, float):
        number = click.IntRange if kind is int else click.FloatRange
        how["type"] = number(*setting.within)
    shown = setting.default not in (None, ())
    how |= {"default": setting.default, "show_default": shown}
    return click.option(*setting.options, setting.name, **how)


def _meant(setting: Setting, value: Any) -> Any:
    """Return the value of a setting that an option stands for."""
    if isinstance(value, Path):
        return read_map(value)
    return not value if setting.default is True else value


def gathered(into: str, kind: type, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add options that are the fields of a dataclass; the command gets them as one object."""

    def add(command: Any) -> Any:
        @wraps(command)
        def with_object(**values: Any) -> Any:
            chosen = {field.name: values.pop(field.name) for field in fields(kind)}
            return command(**{into: kind(**chosen)}, **values)

        for option in reversed(options):
            with_object = option(with_object)
        return with_object

    return add


def moved_option(*flags: str, to: str) -> Callable[[Any], Any]:
    """Add an option that has gone, hidden, which says what is to be written instead."""

    def refuse(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise click.UsageError(f"{flags[0]}: {to}")

    return click.option(*flags, hidden=True, expose_value=False, is_eager=True, callback=refuse)


def given(names: Collection[str]) -> list[str]:
    """Return those of some options that were given, as they are written."""
    context = click.get_current_context()
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]


def repeated(names: Collection[str]) -> list[str]:
    """Return those of some options that were given, with their values, as words of a command."""
    context, wanted, words = click.get_current_context(), given(names), list[str]()
    for parameter in context.command.params:
        if parameter.opts[0] in wanted:
            option, value = parameter.opts[0], context.params[str(parameter.name)]
            if isinstance(value, bool):
                words.append(option)
                continue
            for one in value if isinstance(value, tuple) else (value,):
                words += [option, str(one)]
    return words


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


PARSED: dict[str, Callable[[Any], Any]] = {"key_added": _plain_key, "memory_limit": as_bytes}
"""Settings that are texts with a form of their own on the command line."""


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
