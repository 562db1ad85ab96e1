"""`Task`, the shape of every stage, and `annotate`, the loop that all tasks share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lmcli.engine.tokenizer import TokenizeError
from lmcli.errors import UsageError
from lmcli.records.record import Record
from lmcli.records.windows import iter_windows

# Enough lines to find many of equal length, few enough for a first result within a second or two.
_WINDOW_RECORDS = 1024
_WINDOW_CHARS = 1 << 20

# The first results come sooner, and a run that is killed early has something to keep.
_RAMP = 16

T = TypeVar("T")
Outcome = Callable[[], Mapping[str, T | TokenizeError]]
"""Waits for what a model makes of each text, or why the tokenizer refuses it."""


class Task(Protocol):
    """A stage: records in, records out, one for one and in order."""

    @property
    def adds(self) -> tuple[str, ...]:
        """The fields that it adds to each record, or may add."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """What a table shows of those fields: dotted paths into the record's fields."""
        ...

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Process records lazily."""
        ...

    def lines(self, record: Record) -> list[str]:
        """A good record as lines of text."""
        ...

    def remarks(self, counts: Mapping[str, int]) -> list[str]:
        """What there is to say when a run is over whose records have these `counts`, added up."""
        ...


def check_field_name(name: str) -> None:
    """Raise UsageError for a field that would hide the text or an error, or has no name."""
    if name in {"", "text", "error"}:
        raise UsageError(f"--as {name!r}: records have or need that field", hint="choose another name")


def annotate(
    records: Iterable[Record],
    start: Callable[[Mapping[str, Record]], Outcome[T]],
    fields: Callable[[str, T], Mapping[str, Any]],
    *,
    empty: Mapping[str, Any],
    counts: Callable[[T], Mapping[str, int]] = lambda _: {},
    max_records: int = _WINDOW_RECORDS,
    max_chars: int = _WINDOW_CHARS,
) -> Iterator[Record]:
    """Add `fields(text, result)` to each record that has text, and the fields of `empty` to those without.

    `start` begins with the different texts of a window, each with the first record that has it: equal texts
    are computed once, and count as often as they occur. Records that are not open pass untouched; a text that
    the tokenizer refuses fails its record.
    """
    finish = _Finish(fields, counts, empty)
    pending: deque[tuple[list[Record], Outcome[T]]] = deque()
    for window in iter_windows(records, max_records=max_records, max_chars=max_chars, ramp=_RAMP):
        if window:
            texts: dict[str, Record] = {}
            for record in filter(has_text, window):
                texts.setdefault(record.text, record)
            pending.append((window, start(texts)))
        # While one window is finished here, the next keeps the engine's threads busy; when nothing more
        # is there for now, nothing is held back.
        while len(pending) > bool(window):
            done, results = pending.popleft()
            yield from finish(done, results())


@dataclass(frozen=True)
class _Finish(Generic[T]):
    """From the results of a window to its records."""

    fields: Callable[[str, T], Mapping[str, Any]]
    counts: Callable[[T], Mapping[str, int]]
    empty: Mapping[str, Any]

    def __call__(
        self, window: Sequence[Record], results: Mapping[str, T | TokenizeError]
    ) -> Iterator[Record]:
        found: dict[str, tuple[Mapping[str, Any], Mapping[str, int]]] = {}
        for record in window:
            result = results.get(record.text)
            if not record.is_open:
                yield record
            elif result is None:
                yield record.with_fields(**self.empty)
            elif isinstance(result, TokenizeError):
                yield record.failed("tokenizer", str(result))
            else:
                if record.text not in found:
                    found[record.text] = self.fields(record.text, result), self.counts(result)
                fields, counts = found[record.text]
                yield record.with_result(fields, counts)


def has_text(record: Record) -> bool:
    """Blank lines keep their slot and never reach a model."""
    return record.is_open and bool(record.text.strip())
