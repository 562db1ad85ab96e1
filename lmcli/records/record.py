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

    A stage returns a new record and never edits one. A record that failed keeps its slot; stages pass on
    untouched what is not open.
    """

    text: str
    """What the stage at work reads."""
    source: str = "-"
    """The input it came from, as the user named it; `-` is standard input."""
    line: int = 0
    """The line of the (decompressed) input on which it starts, from 1."""
    raw: bytes | None = None
    """The original JSON object or table row as UTF-8, without its line ending, to be carried through."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What tasks added, by output name, in order: JSON values."""
    failure: Failure | None = None
    original: str | None = None
    """The text it was read with, once a stage reads another."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What the numbers of the run add up, by name: tokens, flags and the like."""
    is_dropped: bool = False
    """Whether a filter has taken it out: it keeps its place in the stream and has no slot in the output."""
    is_settled: bool = False
    """Whether the stage at work has its result already, from a cache."""
    parse: Callable[[bytes], Mapping[str, Any]] | None = field(default=None, compare=False, repr=False)
    """From `raw` to what its object or row has by name."""

    @property
    def is_open(self) -> bool:
        """Whether the stage at work has something to do with it."""
        return self.failure is None and not self.is_dropped and not self.is_settled

    @property
    def first_text(self) -> str:
        """The text it was read with."""
        return self.text if self.original is None else self.original

    def values(self) -> Mapping[str, Any]:
        """The values of the original object or row, by key or column; a text has none."""
        return {} if self.raw is None or self.parse is None else self.parse(self.raw)

    def all_values(self) -> Mapping[str, Any]:
        """Everything it has by name: the original object or row, and what tasks added.

        `text` is the text it was read with, if any, unless it has another value of that name.
        """
        values = {**self.values(), **self.fields}
        has_text = "text" in values or (self.raw is not None and not self.first_text)
        return values if has_text else {"text": self.first_text, **values}

    def with_text(self, text: str) -> Record:
        """The same record with another text."""
        return replace(self, text=text)

    def reading(self, text: str) -> Record:
        """The same record for a stage that reads another text than the one it was read with."""
        return replace(self, text=text, original=self.first_text)

    def settled(self, is_settled: bool = True) -> Record:
        """The same record, with or without a result for the stage at work."""
        return replace(self, is_settled=is_settled)

    def dropped(self) -> Record:
        """The same record, taken out."""
        return replace(self, is_dropped=True)

    def with_fields(self, /, **new: Any) -> Record:
        """The same record with more fields."""
        return replace(self, fields={**self.fields, **new})

    def with_result(self, fields: Mapping[str, Any], counts: Mapping[str, int]) -> Record:
        """The same record with more fields, and more to add up."""
        sums = {name: self.counts.get(name, 0) + count for name, count in counts.items()}
        return replace(self, fields={**self.fields, **fields}, counts={**self.counts, **sums})

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
