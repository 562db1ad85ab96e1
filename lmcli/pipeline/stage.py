"""`Stage`: what a command, or one part of a pipeline, asks for, before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from lmcli.bundle.manifest import Manifest
from lmcli.bundle.manifest import Task as TaskName
from lmcli.bundle.store import Bundle
from lmcli.engine.devices import Device
from lmcli.errors import UsageError
from lmcli.records.record import Record
from lmcli.tasks.base import Task
from lmcli.tasks.rehearsal import Command

Report = Callable[[str], None]


class Load(Protocol):
    """`load_encoder`, `load_seq2seq` and their like."""

    def __call__(
        self, bundle: Bundle, device: Device, /, *, threads: int, report: Report
    ) -> AbstractContextManager[Any]:
        """Load the engine of a bundle."""
        ...


def _text(record: Record) -> str:
    return record.text


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A task with its options."""

    command: Command
    """Its name for users."""
    task: TaskName
    adds: str
    """The name of the field that it adds, with which the names of all others begin."""
    load: Load
    make: Callable[[Manifest, Any], Task]
    """From the manifest and the loaded engine to the task."""
    identity: Mapping[str, Any]
    """What decides its results besides the bundle: JSON values by name."""
    model: str | None = None
    """The bundle; None: the default one of the task."""
    also: tuple[TaskName, ...] = ()
    """The bundle may be for one of these tasks instead."""
    check: Callable[[Manifest], object] = lambda _: None
    """Refuses, before a model is loaded in vain, what a manifest shows to be impossible."""
    reads: str | None = None
    """The field with its text; None: what a stage before it wrote, or the text of the input."""
    text_field: str | None = None
    """Where the text of an input is, unless the user says otherwise; None: in `text`."""
    needs: tuple[str, ...] = ()
    """Fields that a record must have besides its text."""
    writes_text: bool = False
    """Whether what it adds is a text, which the stages behind it read."""
    writes_texts: bool = False
    """Whether what it adds has several texts, of which a stage behind it has to name one."""
    parts: tuple[str, ...] | None = None
    """The keys of what it adds, if that is an object; None: not known."""
    files: tuple[str, ...] = ()
    """What it reads besides the inputs, which must not be written over."""
    is_styled: bool = False
    """Whether its lines are made for a terminal and bring their own escape sequences."""
    is_prose: bool = False
    """Whether its texts keep their line breaks where records are paragraphs or documents."""
    is_for_people: bool = False
    """Whether its output is text unless the user says otherwise, whatever the input is."""
    is_one_row: bool = False
    """Whether each record is one row of the model, so that few records leave cores without work."""
    cache_key: Callable[[Record], str | None] = _text
    """What of a record decides its result; None: it is not to be kept."""


class PathError(Protocol):
    """An error at the place where a path is written."""

    def __call__(self, message: str, name: str, *, hint: str = "") -> UsageError:
        """The error about the path `name`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """A part of a pipeline without a model: `filter` or `select`."""

    command: str
    says: str
    """What stands behind its name."""
    task: Task
    reads: tuple[str, ...]
    """The dotted paths that it reads."""
    error: PathError
    """Makes an error about one of those."""
    replaces_fields: bool = False
    """Whether nothing but what it adds is left of a record's values."""


Part = Stage | Step
