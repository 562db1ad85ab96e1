"""`SlotEncoder`: from records to the slots of an output, one each."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from lmcli.errors import DataError
from lmcli.records import jsonl
from lmcli.records.read import InputFormat
from lmcli.records.record import Record, find_value
from lmcli.records.tables import Header, TableFormat, append_cells, format_cells, parse_cells
from lmcli.records.terminal import escape_controls

OutputFormat = Literal["text", "jsonl", "csv", "tsv", "nul"]


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
    text_field: str | None = None
    """What holds the text in an object that is made of a blank line."""
    only_fields: bool = False
    """Good records have nothing but their fields: the original is not carried through."""
    for_terminal: bool = False
    """Show control characters instead of sending them."""


class SlotEncoder:
    r"""The bytes of each record: a line, or what ends with NUL; none for a record that was dropped.

    - `text`, `nul`: what `lines` says, an empty line for a failed record. The character that ends a
      line is written as two, `\n` or `\0`, where it occurs inside, unless `prose` says otherwise.
    - `jsonl`: the original object, else the text or the cells, then the fields, then the error.
    - `csv`, `tsv`: the original row, else the text, then the columns, which are empty for a failed
      record; a record that has no row of its own gets empty cells.
    """

    def __init__(self, options: WriteOptions, header: Header | None = None) -> None:
        """`header` is that of an input table."""
        self._options = options
        self._end = b"\0" if options.format == "nul" else b"\n"
        self._table = _Table(options.format, options, header) if options.format in ("csv", "tsv") else None
        self._encode_object = _object_encoder(options, header) if options.format == "jsonl" else None

    def preamble(self) -> bytes:
        """What stands before the first slot: the header of a table."""
        header = None if self._table is None else self._table.header()
        return b"" if header is None else self._joined([header])

    def slot(self, record: Record, *, is_first: bool) -> bytes:
        """The slot of a record, empty if it is dropped. is_first: all slots before it are empty."""
        if record.is_dropped:
            return b""
        if self._table is not None:
            return self._joined([self._table.encode(record)])
        if self._encode_object is not None:
            return self._joined([self._encode_object(record)])
        if self._options.prose is not None:
            return self._joined(self._encode_prose(record, is_first=is_first))
        return self._joined(self._encode_text(record))

    def _joined(self, lines: Iterable[bytes]) -> bytes:
        if self._options.for_terminal:
            lines = [escape_controls(line.decode()).encode() for line in lines]
        return b"".join(line + self._end for line in lines)

    def _encode_text(self, record: Record) -> Iterable[bytes]:
        if record.failure is not None:
            return [b""]
        escaped = rb"\0" if self._end == b"\0" else rb"\n"
        return [line.encode().replace(self._end, escaped) for line in self._options.lines(record)]

    def _encode_prose(self, record: Record, *, is_first: bool) -> Iterable[bytes]:
        text = "\n".join(self._options.lines(record)) if record.failure is None else ""
        between = [b""] if self._options.prose == "para" and not is_first else []
        return [*between, text.encode()]


class _Table:
    """Rows of a written table: those of the input with more cells, or new ones."""

    def __init__(self, table_format: TableFormat, options: WriteOptions, header: Header | None) -> None:
        self._format = table_format
        self._from = options.input_format
        self._columns = options.columns
        self._only_columns = options.only_fields
        self._header = header

    def header(self) -> bytes | None:
        """The first row; None if the input is to be a table and is empty."""
        if self._only_columns:
            return format_cells(self._columns, self._format)
        if self._header is not None:
            return self._row(self._header.raw, self._columns)
        if self._from in ("csv", "tsv"):
            return None
        return format_cells(["text", *self._columns], self._format)

    def encode(self, record: Record) -> bytes:
        """The row of a record."""
        is_good = record.failure is None
        new = [_cell(record, path) if is_good else "" for path in self._columns]
        if self._only_columns:
            return format_cells(new, self._format)
        if self._header is None:
            text = record.first_text if is_good or self._from == "text" else ""
            return format_cells([text, *new], self._format)
        if record.raw is None:
            return format_cells([*[""] * len(self._header.names), *new], self._format)
        return self._row(record.raw, new)

    def _row(self, raw: bytes, new: tuple[str, ...] | list[str]) -> bytes:
        if self._from == self._format:
            return append_cells(raw, new, self._format)
        assert self._from in ("csv", "tsv")
        return format_cells([*parse_cells(raw, self._from), *new], self._format)


def _object_encoder(options: WriteOptions, header: Header | None) -> Callable[[Record], bytes]:
    input_format = options.input_format
    if input_format == "jsonl":
        blank = {options.text_field: ""} if options.text_field is not None and not options.only_fields else {}
        return lambda record: jsonl.carry(record, blank)
    if input_format == "text" and options.only_fields:
        return lambda record: jsonl.encode(
            record, {} if record.failure is None else {"text": record.first_text}
        )
    if input_format == "text":
        return lambda record: jsonl.encode(record, {"text": record.first_text})
    names = header.names if header is not None else ()
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"column {twice[0]!r} occurs twice, which a JSON object cannot hold")

    def encode_row(record: Record) -> bytes:
        if record.raw is None:
            # A blank row is one of empty cells, a broken one is whole in its error.
            is_blank = record.failure is None and not options.only_fields
            return jsonl.encode(record, dict.fromkeys(names, "") if is_blank else {})
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
