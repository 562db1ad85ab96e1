"""`Pipeline`: tasks one behind the other, which is what every command runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile

from lmcli.pipeline.stage import Part, Stage, Step
from lmcli.records.jsonl import check_is_free, text_of
from lmcli.records.record import Record, find_value
from lmcli.tasks.base import Task


class Pipeline:
    """Each record passes all tasks; what they add to it is kept.

    A stage reads the field that it names, else the text that the last stage before it wrote, else the text of
    the input. What it finds in a record is always about the text that it read.
    """

    def __init__(self, parts: Sequence[Part], tasks: Sequence[Task], *, has_objects: bool = False) -> None:
        """`has_objects`: the records are JSON objects, each of which may have a field that is to be added."""
        self.parts = parts
        self._tasks = tasks
        self._has_objects = has_objects
        carrying = takewhile(lambda pair: not _is_selection(pair[0]), self._pairs())
        stages = [task for part, task in carrying if isinstance(part, Stage)]
        self.first_adds: tuple[str, ...] = stages[0].adds if stages else ()
        """What the first stage adds. The others see to it themselves that no field of an object is hidden."""
        self.adds = tuple(name for task in stages for name in task.adds)
        """What stages add to that with which records were read; a selection leaves nothing of it."""
        self.only_fields = any(map(_is_selection, parts))
        """Whether a selection leaves nothing of what records were read with."""
        self.columns = self._columns()
        """What a table shows of the fields."""
        self.shown = shown(parts)
        """The part that knows how a record looks as text."""
        self.lines: Callable[[Record], list[str]] = tasks[list(parts).index(self.shown)].lines

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Pass records through all tasks, lazily and in order."""
        passing, is_first = iter(records), True
        for (part, task), reads in zip(self._pairs(), text_fields(self.parts), strict=True):
            if isinstance(part, Stage):
                if not is_first:
                    passing = map(partial(_with_room, task.adds, self._has_objects), passing)
                passing, is_first = map(partial(_prepared, reads), passing), False
            passing = task(passing)
        return iter(passing)

    def remarks(self, counts: Mapping[str, int]) -> list[str]:
        """What all tasks have to say."""
        return [remark for task in self._tasks for remark in task.remarks(counts)]

    def _pairs(self) -> list[tuple[Part, Task]]:
        return list(zip(self.parts, self._tasks, strict=True))

    def _columns(self) -> tuple[str, ...]:
        columns: tuple[str, ...] = ()
        for part, task in self._pairs():
            columns = task.columns if _is_selection(part) else (*columns, *task.columns)
        return columns


def shown(parts: Sequence[Part]) -> Part:
    """The part that knows how a record looks as text: the last one that is no filter."""
    return next(
        (part for part in reversed(parts) if isinstance(part, Stage) or part.replaces_fields), parts[-1]
    )


def input_field(parts: Sequence[Part], wanted: str | None) -> str | None:
    """The field that holds the text of an input: the wanted one, if any; None if no stage reads it."""
    readers = [
        part
        for part, field in zip(parts, text_fields(parts), strict=True)
        if isinstance(part, Stage) and field is None
    ]
    if wanted is not None or not readers:
        return wanted
    return readers[0].text_field or "text"


def text_fields(parts: Sequence[Part]) -> list[str | None]:
    """For each part the field in which it finds its text; None: where the record was read with it."""
    found: list[str | None] = []
    written: str | None = None
    for part in parts:
        found.append((part.reads or written) if isinstance(part, Stage) else None)
        if isinstance(part, Stage) and part.writes_text:
            written = part.adds
    return found


def _is_selection(part: Part) -> bool:
    return isinstance(part, Step) and part.replaces_fields


def _with_room(adds: Sequence[str], has_objects: bool, record: Record) -> Record:
    """The record, failed if it has a field already that a stage may add."""
    if not record.is_open:
        return record
    original = record.values() if has_objects else {}  # of a table the header is checked
    return check_is_free(record, {**original, **record.fields}, adds)


def _prepared(reads: str | None, record: Record) -> Record:
    """The record with the text that a stage reads; failed without."""
    if not record.is_open:
        return record
    if reads is None:
        return record if record.original is None else record.reading(record.first_text)
    try:
        text = find_value(record.fields, reads)
    except KeyError:
        if record.raw is None and not record.first_text.strip():
            return record.reading("")  # a blank line has no fields to miss
        found = text_of(record, record.all_values(), reads)
    else:
        found = text_of(record, {reads: text}, reads)
    return record.reading(found.text) if found.is_open else found
