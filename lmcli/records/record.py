"""`Record`: one unit of text on its way from an input to its slot in the output.

`find_value` is how a user's `--field` or column names a value of a record or of a JSON object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record failed: a stable `code` for programs, a `message` for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Record:
    """One unit of text: where it came from, what has been added to it, or why it failed.

    A stage returns a new record and never edits one. A record that failed keeps its slot; later
    stages pass it on untouched.
    """

    text: str
    source: str = "-"
    """The input it came from, as the user named it; `-` is standard input."""
    line: int = 0
    """The line of the (decompressed) input on which it starts, from 1."""
    raw: bytes | None = None
    """The original JSON object or table row as UTF-8, without its line ending, to be carried through."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What tasks added, by output name, in order: JSON values."""
    failure: Failure | None = None
    parse: Callable[[bytes], Mapping[str, Any]] | None = field(default=None, compare=False, repr=False)
    """From `raw` to what its object or row has by name."""

    def values(self) -> Mapping[str, Any]:
        """The values of the original object or row, by key or column; a text has none."""
        return {} if self.raw is None or self.parse is None else self.parse(self.raw)

    def with_text(self, text: str) -> Record:
        """The same record with another text."""
        return replace(self, text=text)

    def with_fields(self, /, **new: Any) -> Record:
        """The same record with more fields."""
        return replace(self, fields={**self.fields, **new})

    def failed(self, code: str, message: str) -> Record:
        """The same record, failed."""
        return replace(self, failure=Failure(code, message))


def find_value(mapping: Mapping[str, Any], path: str) -> Any:
    """The value under the key `path`, else where the dotted path leads; KeyError if nowhere."""
    if path in mapping:
        return mapping[path]
    # A key may hold dots itself: of `a.b.c` it may be `a`, or `a.b`.
    for dot in (index for index, char in enumerate(path) if char == "."):
        inner = mapping.get(path[:dot])
        if isinstance(inner, Mapping):
            with suppress(KeyError):
                return find_value(inner, path[dot + 1 :])
    raise KeyError(path)
