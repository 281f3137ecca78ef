"""Conditions on columns of ``obs``, such as ``cell_type == "unknown" and n_genes > 500``.

They are read by the grammar here and by nothing of Python's: names are columns, and there is
nothing to call.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from scbignn_infer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scbignn_infer._types import Array

TOKEN = re.compile(
    r"""(?P<text>"[^"]*"|'[^']*')
    |(?P<column>`[^`]+`)
    |(?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.]))
    |(?P<word>[^\W\d][\w.:]*)
    |(?P<sign>==|!=|<=|>=|[<>()\[\],])""",
    re.VERBOSE,
)
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
FLAGS = {"True": "True", "true": "True", "False": "False", "false": "False"}
"""Truth values, as columns of them are read."""
WORDS = ("and", "or", "not", "in")
SPACE = re.compile(r"\s*")
LONGEST, DEEPEST = 10_000, 50
"""Characters of a condition, and brackets and negations within each other."""
EXAMPLE = 'comparisons such as scbignn_cell_type == "unknown" and n_genes > 500'


@dataclass
class Columns:
    """The columns of ``obs`` that conditions name; ``find`` gives the values (n_cells,) of one."""

    find: Callable[[str], Array | Sequence[str]]
    found: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        if name not in self.found:
            values = self.find(name)
            # not as numpy's strings, of which each is as long as the longest
            self.found[name] = np.asarray(values, getattr(values, "dtype", object))
        return self.found[name]

    def texts(self, name: str) -> Array:
        """Return the values as strings, missing ones as empty ones."""
        texts = ["" if isinstance(v, float) and isnan(v) else str(v) for v in self[name].tolist()]
        return np.array(texts, object)

    def numbers(self, name: str) -> Array:
        """Return the values as numbers, missing ones as NaN."""
        values = self[name]
        if values.dtype.kind in "fiu":
            return values
        texts = self.texts(name).tolist()
        try:
            return np.array([float(text or "nan") for text in texts])
        except ValueError:
            few = ", ".join(f"'{text}'" for text in sorted(set(texts) - {""})[:3])
            raise InputError(
                f"the column '{name}' is compared with a number, and holds texts such as {few}",
                expected="a column of numbers, or a text in quotes",
                do="mend the condition (--where)",
            ) from None


def cells_where(condition: str, find: Callable[[str], Array | Sequence[str]]) -> Array:
    """Tell for which cells (n_cells,) a condition holds.

    Parameters
    ----------
    condition
        Comparisons (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``) of a column with a text in
        quotes, a number, True, False or another column; ``in`` and ``not in`` a list;
        joined by ``and``, ``or``, ``not`` and brackets. A name with characters other than
        letters, digits, ``_``, ``.`` and ``:`` stands in backquotes.
    find
        Gives the values of a column.

    Raises
    ------
    InputError
        It cannot be understood, or compares texts with numbers.
    """
    holds: Array = _Parser(condition).whole()(Columns(find))
    return holds


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Reads a condition from left to right; each method reads what it is named after."""

    def __init__(self, condition: str) -> None:
        self.condition, self.depth, self.next = condition, 0, 0
        if len(condition) > LONGEST:
            raise InputError(
                f"a condition of {len(condition):,} characters",
                expected=f"at most {LONGEST:,}",
                do="write the cells into a column of obs, and name that with --where",
            )
        self.tokens = list[_Token]()
        at = _after_space(condition, 0)
        while at < len(condition):
            found = TOKEN.match(condition, at)
            if found is None:
                raise self.error(f"'{condition[at]}'", at)
            self.tokens.append(_Token(str(found.lastgroup), found[0], at))
            at = _after_space(condition, found.end())

    def error(self, what: str, at: int) -> InputError:
        """Return the error of what cannot be understood."""
        return InputError(
            f"{what} at character {at + 1:,} of the condition (--where)",
            expected=EXAMPLE,
            do="join them with and, or, not; put texts in quotes, and odd names in backquotes",
        )

    def here(self) -> _Token:
        """Return the next token."""
        end = _Token("end", "", len(self.condition))
        return self.tokens[self.next] if self.next < len(self.tokens) else end

    def take(self, *texts: str) -> bool:
        """Pass the next token if it is one of these words or signs."""
        found = self.here()
        if found.kind in ("word", "sign") and found.text in texts:
            self.next += 1
            return True
        return False

    def demand(self, text: str) -> None:
        """Pass a sign that must come."""
        if not self.take(text):
            raise self.unexpected(f"'{text}'")

    def unexpected(self, wanted: str) -> InputError:
        """Return the error of a token that should be another."""
        found = self.here()
        said = f"'{found.text}'" if found.text else "the end"
        return self.error(f"{said} instead of {wanted}", found.at)

    def whole(self) -> Callable[[Columns], Array]:
        """Read all of it."""
        holds = self.either()
        if self.here().kind != "end":
            raise self.unexpected("and, or, or the end")
        return holds

    def either(self) -> Callable[[Columns], Array]:
        """Read what is joined by or."""
        parts = [self.both()]
        while self.take("or"):
            parts.append(self.both())
        return lambda columns: np.logical_or.reduce([part(columns) for part in parts])

    def both(self) -> Callable[[Columns], Array]:
        """Read what is joined by and."""
        parts = [self.one()]
        while self.take("and"):
            parts.append(self.one())
        return lambda columns: np.logical_and.reduce([part(columns) for part in parts])

    def one(self) -> Callable[[Columns], Array]:
        """Read a comparison, a negation, or what stands in brackets."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.error(f"more than {DEEPEST} brackets within each other", self.here().at)
        if self.take("not"):
            inner = self.one()
            holds: Callable[[Columns], Array] = lambda columns: ~inner(columns)  # noqa: E731
        elif self.take("("):
            holds = self.either()
            self.demand(")")
        else:
            holds = self.comparison()
        self.depth -= 1
        return holds

    def comparison(self) -> Callable[[Columns], Array]:
        """Read a column, a sign and what it is compared with."""
        name = self.column()
        if self.take("in"):
            values = self.values()
            return lambda columns: _among(columns, name, values)
        if self.take("not"):
            self.demand("in")
            values = self.values()
            return lambda columns: ~_among(columns, name, values)
        sign = self.here()
        if not self.take(*COMPARE):
            raise self.unexpected("a comparison")
        other, at = self.here(), self.next
        if other.kind in ("column", "word") and other.text not in FLAGS:
            second = self.column()
            return lambda columns: _compare_columns(columns, name, sign.text, second)
        value = self.value()
        if isinstance(value, str) and sign.text not in ("==", "!="):
            raise self.error(f"'{sign.text}' with a text", self.tokens[at].at)
        return lambda columns: _compare(columns, name, sign.text, value)

    def column(self) -> str:
        """Read the name of a column."""
        found = self.here()
        if found.kind not in ("column", "word") or found.text in (*WORDS, *FLAGS):
            raise self.unexpected("the name of a column")
        self.next += 1
        return found.text.strip("`")

    def value(self) -> str | float:
        """Read a text, a number or a truth value."""
        found = self.here()
        self.next += 1
        if found.kind == "text":
            return found.text[1:-1]
        if found.kind == "number":
            return float(found.text)
        if found.text in FLAGS:
            return FLAGS[found.text]
        self.next -= 1
        raise self.unexpected("a text in quotes or a number")

    def values(self) -> list[str | float]:
        """Read a list in brackets, round or square."""
        end = ")" if self.here().text == "(" else "]"
        if not self.take("(", "["):
            raise self.unexpected("a list such as ['a', 'b']")
        values = [self.value()]
        while self.take(","):
            values.append(self.value())
        self.demand(end)
        return values


def _after_space(condition: str, at: int) -> int:
    found = SPACE.match(condition, at)
    return found.end() if found else at


def _compare(columns: Columns, name: str, sign: str, value: str | float) -> Array:
    own = columns.texts(name) if isinstance(value, str) else columns.numbers(name)
    return np.asarray(COMPARE[sign](own, value), dtype=bool)


def _among(columns: Columns, name: str, values: Sequence[str | float]) -> Array:
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if not isinstance(value, str)]
    wanted = set(texts)
    found = np.array([text in wanted for text in columns.texts(name)]) if texts else False
    if numbers:
        found = found | np.isin(columns.numbers(name), numbers)
    return np.asarray(found)


def _compare_columns(columns: Columns, name: str, sign: str, other: str) -> Array:
    """Compare two columns: as texts for equality, as numbers for order."""
    how = columns.texts if sign in ("==", "!=") else columns.numbers
    return np.asarray(COMPARE[sign](how(name), how(other)), dtype=bool)
