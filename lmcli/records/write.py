"""`RecordWriter`: records into the slots of an output, one each, in order."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from lmcli.errors import DataError
from lmcli.records import jsonl
from lmcli.records.read import InputFormat
from lmcli.records.record import Record, find_value
from lmcli.records.tables import Header, TableFormat, append_cells, format_cells, parse_cells
from lmcli.records.terminal import escape_controls

OutputFormat = Literal["text", "jsonl", "csv", "tsv", "nul"]


class Sink(Protocol):
    """Where bytes go: an `Output`, or any binary file."""

    def write(self, data: bytes, /) -> object:
        """Write all of it, perhaps to a buffer."""

    def flush(self) -> object:
        """Hand over what is buffered."""


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How to write; tasks supply `lines` and `columns`."""

    format: OutputFormat
    input_format: InputFormat
    lines: Callable[[Record], Sequence[str]]
    """A good record as `text` and `nul` show it: mostly one line."""
    columns: tuple[str, ...] = ()
    """What a table shows of the fields: keys or dotted paths, which are also the column names."""
    prose: Literal["para", "doc"] | None = None
    """Text output keeps its line breaks: a blank line between paragraphs, documents one after another."""
    for_terminal: bool = False
    """Show control characters instead of sending them."""


class RecordWriter:
    r"""Writes each record as one slot: a line, or what ends with NUL.

    - `text`, `nul`: what `lines` says, an empty line for a failed record. The character that ends a
      line is written as two, `\n` or `\0`, where it occurs inside, unless `prose` says otherwise.
    - `jsonl`: the original object, else the text or the cells, then the fields, then the error.
    - `csv`, `tsv`: the original row, else the text, then the columns, which are empty for a failed
      record; a record that has no row of its own gets empty cells.
    """

    def __init__(
        self,
        stream: Sink,
        options: WriteOptions,
        header: Callable[[], Header | None] = lambda: None,
    ) -> None:
        """`header` gives the header of an input table; it is asked at the first slot or the end."""
        self._stream = stream
        self._options = options
        self._ask_header = header
        self._encode: Callable[[Record], Sequence[bytes]] | None = None
        self._end = b"\0" if options.format == "nul" else b"\n"

    def write(self, record: Record) -> None:
        """Write one slot, whole."""
        encode = self._encode or self._begin()
        self._put(*encode(record))

    def flush(self) -> None:
        """Hand everything written so far to whoever reads the output."""
        self._stream.flush()

    def finish(self) -> None:
        """Call once after the last record: a table without rows still has its header."""
        if self._encode is None:
            self._begin()
        self.flush()

    def _begin(self) -> Callable[[Record], Sequence[bytes]]:
        options, header = self._options, self._ask_header()
        match options.format:
            case "text" if options.prose is not None:
                self._encode = self._encode_first_prose
            case "text" | "nul":
                self._encode = self._encode_text
            case "jsonl":
                encode = _object_encoder(options.input_format, header)
                self._encode = lambda record: [encode(record)]
            case table_format:
                table = _Table(table_format, options, header)
                self._encode = lambda record: [table.encode(record)]
                if (first := table.header()) is not None:
                    self._put(first)
        return self._encode

    def _put(self, *lines: bytes) -> None:
        if self._options.for_terminal:
            lines = tuple(escape_controls(line.decode()).encode() for line in lines)
        self._stream.write(b"".join(line + self._end for line in lines))

    def _encode_text(self, record: Record) -> Sequence[bytes]:
        if record.failure is not None:
            return [b""]
        escaped = rb"\0" if self._end == b"\0" else rb"\n"
        return [line.encode().replace(self._end, escaped) for line in self._options.lines(record)]

    def _encode_first_prose(self, record: Record) -> Sequence[bytes]:
        self._encode = self._encode_prose
        return self._encode_prose(record)[-1:]

    def _encode_prose(self, record: Record) -> Sequence[bytes]:
        text = "\n".join(self._options.lines(record)) if record.failure is None else ""
        between = [b""] if self._options.prose == "para" else []
        return [*between, text.removesuffix("\n").encode()]


class _Table:
    """Rows of a written table: those of the input with more cells, or new ones."""

    def __init__(self, table_format: TableFormat, options: WriteOptions, header: Header | None) -> None:
        self._format = table_format
        self._from = options.input_format
        self._columns = options.columns
        self._header = header

    def header(self) -> bytes | None:
        """The first row; None if the input is to be a table and is empty."""
        if self._header is not None:
            return self._row(self._header.raw, self._columns)
        if self._from in ("csv", "tsv"):
            return None
        return format_cells(["text", *self._columns], self._format)

    def encode(self, record: Record) -> bytes:
        """The row of a record."""
        is_good = record.failure is None
        new = [_cell(record, path) if is_good else "" for path in self._columns]
        if self._header is None:
            return format_cells([record.text if is_good else "", *new], self._format)
        if record.raw is None:
            return format_cells([*[""] * len(self._header.names), *new], self._format)
        return self._row(record.raw, new)

    def _row(self, raw: bytes, new: tuple[str, ...] | list[str]) -> bytes:
        if self._from == self._format:
            return append_cells(raw, new, self._format)
        assert self._from in ("csv", "tsv")
        return format_cells([*parse_cells(raw, self._from), *new], self._format)


def _object_encoder(input_format: InputFormat, header: Header | None) -> Callable[[Record], bytes]:
    if input_format == "jsonl":
        return jsonl.carry
    if input_format == "text":
        return lambda record: jsonl.encode(record, {"text": record.text})
    names = header.names if header is not None else ()
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"column {twice[0]!r} occurs twice, which a JSON object cannot hold")

    def encode_row(record: Record) -> bytes:
        if record.raw is None:
            return jsonl.encode(record, {})
        return jsonl.encode(record, dict(zip(names, parse_cells(record.raw, input_format), strict=True)))

    return encode_row


def _cell(record: Record, path: str) -> str:
    try:
        value: Any = find_value(record.fields, path)
    except KeyError:
        return ""
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value).decode()
