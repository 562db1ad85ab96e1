"""`Task`, the shape of every stage, and `annotate`, the loop that all encoder tasks share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from lmcli.engine.encoder import Encoded, Encoder, Job
from lmcli.engine.tokenizer import TokenizeError
from lmcli.errors import UsageError
from lmcli.records.record import Record
from lmcli.records.windows import iter_windows

# Enough lines to find many of equal length, few enough for a first result within a second or two.
_WINDOW_RECORDS = 1024
_WINDOW_CHARS = 1 << 20


Value = Callable[[str, Encoded], Any]


def check_field_name(name: str) -> None:
    """Raise UsageError for a field that would hide the text or an error, or has no name."""
    if name in {"", "text", "error"}:
        raise UsageError(f"--as {name!r}: records have or need that field", hint="choose another name")


class Task(Protocol):
    """A stage: records in, records out, one for one and in order."""

    @property
    def adds(self) -> str:
        """The field that it adds to each record."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """What a table shows of that field: dotted paths into the record's fields."""
        ...

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Process records lazily."""
        ...

    def lines(self, record: Record) -> list[str]:
        """A good record as lines of text."""
        ...


def annotate(
    records: Iterable[Record],
    encoder: Encoder,
    *,
    field: str,
    value: Value,
    empty: Any,
) -> Iterator[Record]:
    """Add `value(text, encoded)` as `field` to each record that has text, and `empty` to those without.

    Failed records pass untouched; a text that the tokenizer refuses fails its record. Equal texts of a
    window are computed once.
    """
    pending: deque[tuple[list[Record], Job]] = deque()
    for window in iter_windows(records, max_records=_WINDOW_RECORDS, max_chars=_WINDOW_CHARS):
        if window:
            texts = dict.fromkeys(record.text for record in window if _has_text(record))
            pending.append((window, encoder.submit(list(texts))))
        # While one window is finished here, the next keeps the encoder's threads busy; when nothing more
        # is there for now, nothing is held back.
        while len(pending) > bool(window):
            done, job = pending.popleft()
            yield from _finish(done, job.results(), field=field, value=value, empty=empty)


def _finish(
    window: Sequence[Record],
    results: Mapping[str, Encoded | TokenizeError],
    *,
    field: str,
    value: Value,
    empty: Any,
) -> Iterator[Record]:
    values: dict[str, Any] = {}
    for record in window:
        result = results.get(record.text)
        if record.failure is not None:
            yield record
        elif result is None:
            yield record.with_fields(**{field: empty})
        elif isinstance(result, TokenizeError):
            yield record.failed("tokenizer", str(result))
        else:
            if record.text not in values:
                values[record.text] = value(record.text, result)
            yield record.with_fields(**{field: values[record.text]})


def _has_text(record: Record) -> bool:
    """Blank lines keep their slot and never reach a model."""
    return record.failure is None and bool(record.text.strip())
