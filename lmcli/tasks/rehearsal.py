"""`test:...` as the name of a model: doubles that need no bundle, to rehearse a job before it matters."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import orjson

from lmcli.errors import UsageError
from lmcli.records.record import Record
from lmcli.spelling import closest
from lmcli.tasks.base import annotate, has_text
from lmcli.tasks.counts import read_counts
from lmcli.tasks.styles import STYLES, Style

PREFIX = "test:"
Command = Literal["sentiment", "ner", "translate", "summarize", "prompt", "embed"]


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A double: what it does besides giving each text back."""

    ms: int = 0
    """How many milliseconds each text takes."""
    every: int = 0
    """Texts on each line whose number is a multiple of it fail; 0: none."""
    unless: str | None = None
    """A path: once something is there, nothing fails any more."""
    times: int = 1
    """How often a result holds what it would hold once."""
    has_controls: bool = False
    """Whether results hold control characters."""

    def fails(self, record: Record) -> bool:
        """Whether the record is one of those that fail."""
        return (
            self.every > 0
            and record.line % self.every == 0
            and not (self.unless is not None and Path(self.unless).exists())
        )


@dataclass(frozen=True, kw_only=True)
class _Double:
    """What a name stands for, and which parameters it takes."""

    plain: Rehearsal
    takes: tuple[str, ...] = ("ms",)


_DOUBLES = {
    "echo": _Double(plain=Rehearsal()),
    "slow": _Double(plain=Rehearsal(ms=100)),
    "fail": _Double(plain=Rehearsal(every=10), takes=("every", "unless", "ms")),
    "grow": _Double(plain=Rehearsal(times=10), takes=("times", "ms")),
    "esc": _Double(plain=Rehearsal(has_controls=True)),
}
_LEAST = {"ms": 0, "every": 1, "times": 1}
_MOST = 1_000_000


def parse_rehearsal(name: str) -> Rehearsal | None:
    """The double of `test:NAME?PARAMETER=VALUE&...`; None for the name of a bundle.

    `%26` is a `&` in a value, as in a URL. Raises UsageError for a double or a parameter that does not exist,
    and for a value that makes no sense.
    """
    if not name.startswith(PREFIX):
        return None
    kind, _, query = name.removeprefix(PREFIX).partition("?")
    double = _DOUBLES.get(kind)
    if double is None:
        raise UsageError(f"unknown rehearsal double {name!r}", hint=_suggest(kind, _DOUBLES, PREFIX))
    given: dict[str, Any] = {}
    for item in query.split("&") if query else ():
        key, equals, value = item.partition("=")
        if key not in double.takes:
            raise UsageError(f"{PREFIX}{kind} has no parameter {key!r}", hint=_suggest(key, double.takes))
        if not equals or key in given:
            raise UsageError(f"{name}: {key!r} {'comes twice' if key in given else 'has no value'}")
        given[key] = _value(key, unquote(value))
    return Rehearsal(**{**vars(double.plain), **given})


def _value(key: str, value: str) -> int | str:
    if key == "unless":
        if not value or "\0" in value:
            raise UsageError(f"unless={value!r} is no path", hint="for instance unless=fixed")
        return value
    # Not str.isdigit: it takes digits that int() refuses, and int() takes an underscore.
    if not re.fullmatch("[0-9]{1,7}", value) or not _LEAST[key] <= int(value) <= _MOST:
        raise UsageError(f"{key} is a whole number from {_LEAST[key]} to {_MOST}, not {value!r}")
    return int(value)


def _suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    if found := closest(word, known):
        return f"did you mean {prefix}{found}?"
    return f"there are {', '.join(prefix + each for each in known)}"


class RehearsalTask:
    """Adds what the task of a command adds, made from the text alone, without a model.

    A label, a score, entities and numbers that mean nothing; of what a model would write, the text itself.
    """

    def __init__(
        self, rehearsal: Rehearsal, command: Command, field: str, *, style: Style = "inline"
    ) -> None:
        """`field` is the name of what it adds, `style` the text form of entities."""
        self._rehearsal = rehearsal
        self._field = field
        self._style = style
        self._shape = shape = _SHAPES[command]
        self.adds: tuple[str, ...] = (field, *(field + suffix for suffix in shape.may_add))
        self.columns: tuple[str, ...] = tuple(field + suffix for suffix in shape.columns)

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Process records lazily, in order, each as soon as its time is over."""
        annotated = annotate(
            (self._failed_if_meant_to(record) for record in records),
            lambda texts: lambda: {text: _num_words(text) for text in texts},
            lambda text, _: {self._field: self._shape.value(text, self._rehearsal)},
            empty={self._field: self._shape.empty},
            counts=lambda num_words: read_counts(self._field, num_words),
        )
        for record in annotated:
            if self._rehearsal.ms and has_text(record):
                time.sleep(self._rehearsal.ms / 1000)
            yield record

    def lines(self, record: Record) -> list[str]:
        """A good record as the command shows it."""
        value = record.fields[self._field]
        if self._shape.line is None:
            return STYLES[self._style](record, value)
        return [self._shape.line(record, value) if record.text.strip() else ""]

    def remarks(self, _: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []

    def _failed_if_meant_to(self, record: Record) -> Record:
        rehearsal = self._rehearsal
        if not has_text(record) or not rehearsal.fails(record):
            return record
        return record.failed("rehearsal", f"the rehearsal fails every {rehearsal.every} lines")


def _num_words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))  # no list: a text may have millions


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What the task of a command adds: the field, and what has its name and a suffix."""

    value: Callable[[str, Rehearsal], Any]
    empty: Any
    """The value of a blank text."""
    line: Callable[[Record, Any], str] | None
    """None: entities, which have styles."""
    may_add: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("",)


def _sentiment(text: str, rehearsal: Rehearsal) -> dict[str, Any]:
    label = _controlled(("NEGATIVE", "POSITIVE")[_number(text) % 2], rehearsal)
    return {"label": " ".join([label] * rehearsal.times), "score": _score(text)}


_WORD = re.compile(r"\w+")
_LABELS = ("PER", "LOC", "ORG", "MISC")


def _entities(text: str, rehearsal: Rehearsal) -> list[dict[str, Any]]:
    words = [word for word in _WORD.finditer(text) if word[0][0].isupper()]
    return rehearsal.times * [
        {
            "label": _controlled(_LABELS[_number(word[0]) % 4], rehearsal),
            "text": word[0],
            "start": word.start(),
            "end": word.end(),
            "score": _score(word[0]),
        }
        for word in words
    ]


def _written(text: str, rehearsal: Rehearsal) -> str:
    # A title for the window, colour, a line and a tab of its own, and the letters turned round.
    controlled = f"\x1b]0;rehearsal\x07\x1b[31m{text}\x1b[0m\n\t\u202e" if rehearsal.has_controls else text
    return " ".join([controlled] * rehearsal.times)


def _vector(text: str, rehearsal: Rehearsal) -> list[float]:
    return [_score(f"{index} {text}") for index in range(4)] * rehearsal.times


def _controlled(label: str, rehearsal: Rehearsal) -> str:
    return f"\x1b[31m{label}\x1b[0m" if rehearsal.has_controls else label


def _score(text: str) -> float:
    """From 0.5 to 1, with six decimals, as scores are."""
    return (500_000 + _number(text) % 500_001) / 1_000_000


def _number(text: str) -> int:
    return zlib.crc32(text.encode())


_TEXT = _Shape(
    value=_written,
    empty="",
    line=lambda _, value: str(value),
    may_add=("_flags",),
    columns=("", "_flags"),
)
_SHAPES: Mapping[Command, _Shape] = {
    "sentiment": _Shape(
        value=_sentiment,
        empty={"label": None, "score": None},
        line=lambda record, found: f"{found['label']}\t{found['score']:.4f}\t{record.text}",
        columns=(".label", ".score"),
    ),
    "ner": _Shape(value=_entities, empty=[], line=None),
    "translate": _TEXT,
    "summarize": _TEXT,
    "prompt": _TEXT,
    "embed": _Shape(value=_vector, empty=None, line=lambda _, numbers: orjson.dumps(numbers).decode()),
}
