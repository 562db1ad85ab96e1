"""What a run reads and who looks at what it writes: names and formats, before anything is opened."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lmcli.cli.config.context import is_typed
from lmcli.cli.messages import wants_color
from lmcli.cli.streams import Streams
from lmcli.errors import UsageError
from lmcli.records.compression import is_compressed
from lmcli.records.output import is_pipe
from lmcli.records.read import InputFormat, column_names, resolve_format
from lmcli.records.source import STDIN, check_inputs, check_is_read_once, files_from, glance
from lmcli.records.split import split


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of a run."""

    names: list[str]
    others: list[str]
    """What else is read: lists of names, the job, templates."""
    format: InputFormat

    @property
    def all(self) -> list[str]:
        """Everything that is read and must not be written over."""
        return [*self.names, *self.others]

    def fields(self, streams: Streams, *, has_text: bool) -> tuple[str, ...] | None:
        """The fields that every record has; None where that is not known beforehand.

        `has_text`: one of them is read as its text, whatever its name is.
        """
        match self.format:
            case "text":
                return ("text",)
            case "jsonl":
                return None
            case table_format:
                columns = column_names(self.names[0], table_format, streams.encoding) if self.names else None
                return None if columns is None else (*["text"] * has_text, *columns)

    def has_few_records(self, streams: Streams, *, most: int) -> bool:
        """Whether there are at most so many records, blank ones left out. Small, complete inputs tell."""
        if len(self.names) > most:
            return False
        by = streams.by if self.format == "text" else "line"
        num_found = 0
        for name in self.names:
            content = glance(name)
            if content is None or is_compressed(content):
                return False
            has_header = self.format in ("csv", "tsv")
            num_found += sum(bool(piece.strip()) for _, piece in split([content], by)) - has_header
        return num_found <= most


def find_inputs(streams: Streams, others: Sequence[str] = ()) -> Inputs:
    """Find all inputs and check them. Raises UsageError or NoInputError; opens nothing but lists of names."""
    lists = [name for name in (streams.files_from, streams.files0_from) if name is not None]
    names = _names(streams, lists)
    check_inputs(names)
    input_format = resolve_format(names, streams.input_format)
    inputs = Inputs(names=names, others=[*lists, *others], format=input_format)
    _check_options(streams, inputs.format)
    return inputs


def _names(streams: Streams, lists: Sequence[str]) -> list[str]:
    """The names of all inputs; standard input if none is named, but never a terminal by accident."""
    names = list(streams.files or [])
    check_is_read_once([*names, *lists])
    if streams.files_from is not None:
        names += files_from(streams.files_from)
    if streams.files0_from is not None:
        names += files_from(streams.files0_from, nul=True)
    if names or lists:
        return names
    if sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("no input", hint="name files, or pipe text in; `-` reads the terminal")
    return [STDIN]


def _check_options(streams: Streams, input_format: InputFormat) -> None:
    """Refuse options that say what the input is not: a CSV on stdin would be labelled line by line.

    Those that are set for all runs may have no meaning for this one.
    """
    if input_format == "text" and streams.field != Streams.field and is_typed("field"):
        raise UsageError(
            "--field is for JSONL, CSV and TSV, but the input is text", hint="name its format: -I"
        )
    if input_format != "text" and streams.by != Streams.by and is_typed("by"):
        raise UsageError(f"--by is for text, but the input is {input_format}", hint="or read it with -I text")


def shows_data(streams: Streams) -> bool:
    """Whether a person sees the data itself on a terminal."""
    return streams.output in (None, STDIN) and sys.stdout is not None and sys.stdout.isatty()


def may_show_data(streams: Streams) -> bool:
    """Whether a person may see the data on a terminal: what reads a pipe mostly writes to one."""
    return shows_data(streams) or (streams.output in (None, STDIN) and is_pipe(sys.stdout))


def colors_data(streams: Streams, choice: str) -> bool:
    """Whether results are to be shown in colour."""
    return wants_color(choice, is_terminal=shows_data(streams))
