"""`Template`: text with the fields of a record in it, `{name}`. No code, no attributes, no formats.

`pick` finds the values of those fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from lmcli.errors import UsageError
from lmcli.records.record import find_value
from lmcli.spelling import names_known

TEXT = "text"
"""The field that every record has: its own text."""

Fields = Mapping[str, str]
"""Values by the name of the field."""

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")


class MissingFieldError(Exception):
    """A record lacks a field that was asked for."""


@dataclass(frozen=True)
class Template:
    """Text between fields: there is one more of `literals` than of `names`."""

    literals: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, source: str) -> Template:
        """Read `{name}` as a field, `{{` and `}}` as braces. Raises UsageError for any other brace."""
        literals, start = [""], 0
        names: list[str] = []
        for piece in _PIECE.finditer(source):
            literals[-1] += source[start : piece.start()]
            start = piece.end()
            if piece[0] in ("{{", "}}"):
                literals[-1] += piece[0][0]
            elif piece[1]:
                names.append(piece[1])
                literals.append("")
            else:
                raise _stray(source, piece)
        literals[-1] += source[start:]
        return cls(tuple(literals), tuple(names))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields, each once."""
        return tuple(dict.fromkeys(self.names))

    def fill(self, fields: Fields, mark: Callable[[str], str] = str) -> str:
        """The text with `mark(value)` in the place of each field."""
        values = [mark(fields[name]) for name in self.names]
        return "".join(part for pair in zip(self.literals, [*values, ""], strict=True) for part in pair)

    def into(self, outer: Template, name: str) -> Template:
        """Another template, with this one in the place of its field `name`."""
        literals, names = [outer.literals[0]], list[str]()
        for field, literal in zip(outer.names, outer.literals[1:], strict=True):
            inner = self if field == name else Template(("", ""), (field,))
            literals[-1] += inner.literals[0]
            literals += inner.literals[1:]
            names += inner.names
            literals[-1] += literal
        return Template(tuple(literals), tuple(names))


def pick(names: Iterable[str], values: Mapping[str, Any], *, text: str | None = None) -> dict[str, str]:
    """The named values of a record; `text` is its own. Raises MissingFieldError, which says what there is.

    What is no string is shown as JSON.
    """
    own = {} if text is None else {TEXT: text}
    found = {}
    for name in names:
        try:
            value = own[name] if name in own else find_value(values, name)
        except KeyError:
            raise MissingFieldError(f"no field {name!r}; {names_known([*own, *values])}") from None
        found[name] = as_text(value)
    return found


def as_text(value: Any) -> str:
    """A string as it is, everything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _stray(source: str, piece: re.Match[str]) -> UsageError:
    line = source.count("\n", 0, piece.start()) + 1
    column = piece.start() - source.rfind("\n", 0, piece.start())
    what = "a field without a name" if piece[0] == "{}" else f"a {piece[0]!r} that belongs to no field"
    return UsageError(
        f"template, line {line}, column {column}: {what}",
        hint="{name} is a field of the record; write {{ and }} for braces",
    )
