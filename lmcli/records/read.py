"""`RecordReader`: inputs in any format as one stream of records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lmcli.errors import DataError, UsageError
from lmcli.records import jsonl
from lmcli.records.compression import plain_name
from lmcli.records.encoding import check_encoding, decode, iter_utf8
from lmcli.records.record import Record
from lmcli.records.source import STDIN, check_inputs, open_source, total_size
from lmcli.records.split import By, iter_lines, split, without_ending
from lmcli.records.tables import Header, Row, TableFormat, iter_rows, parse_cells

InputFormat = Literal["text", "jsonl", "csv", "tsv"]

SUFFIXES: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
}


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read; `adds` and `columns` are what the output will add, so that no key comes twice."""

    format: InputFormat | Literal["auto"] = "auto"
    by: By = "line"
    """What a record of a text is."""
    field: str | None = "text"
    """The key, dotted path or column that holds the text; None: objects and rows have values only."""
    encoding: str | None = None
    """None: UTF-8, or UTF-16 with a byte order mark."""
    adds: tuple[str, ...] = ()
    """The fields tasks will add: an object that has one fails, a table is refused."""
    columns: tuple[str, ...] = ()
    """The columns a written table will add: a table that has one is refused."""

    def __post_init__(self) -> None:
        if self.encoding is not None:
            check_encoding(self.encoding)


class RecordReader:
    """The records of all inputs, in order; every line, object or row has its slot.

    Construction checks names and format and opens nothing. Memory does not grow with the input.
    """

    def __init__(self, inputs: Sequence[str], options: ReadOptions | None = None) -> None:
        self._options = options or ReadOptions()
        check_inputs(inputs)
        self._inputs = tuple(inputs)
        self.format: InputFormat = resolve_format(inputs, self._options.format)
        self.header: Header | None = None
        """Of a table, known from its first record on; None also if all inputs are empty."""
        self._num_records = 0
        self._num_bytes = 0
        self._size = total_size(inputs)

    def __iter__(self) -> Iterator[Record]:
        for source in self._inputs:
            with open_source(source, count=self._count) as chunks:
                # What is shown and written as JSON must be text, whatever bytes the name has.
                shown = source.encode(errors="backslashreplace").decode()
                for record in self._iter_records(shown, iter_utf8(chunks, self._options.encoding)):
                    self._num_records += 1
                    yield record

    def estimate(self) -> int | None:
        """How many records there are in all, as far as can be told by now; None where no size is known."""
        if self._size is None or not self._num_bytes:
            return None
        return round(self._num_records * max(1.0, self._size / self._num_bytes))

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes

    def _iter_records(self, source: str, chunks: Iterator[bytes]) -> Iterator[Record]:
        match self.format:
            case "text":
                return self._iter_texts(source, chunks)
            case "jsonl":
                return self._iter_objects(source, chunks)
            case table_format:
                return self._iter_table(source, iter_rows(iter_lines(chunks), table_format), table_format)

    def _iter_texts(self, source: str, chunks: Iterator[bytes]) -> Iterator[Record]:
        for number, data in split(chunks, self._options.by):
            text, failure = decode(data)
            yield Record(text, source, number, failure=failure)

    def _iter_objects(self, source: str, chunks: Iterator[bytes]) -> Iterator[Record]:
        field, adds = self._options.field, self._options.adds
        for number, line in enumerate(iter_lines(chunks), start=1):
            yield jsonl.parse(without_ending(line), source=source, number=number, field=field, adds=adds)

    def _iter_table(self, source: str, rows: Iterator[Row], table_format: TableFormat) -> Iterator[Record]:
        first = next(rows, None)
        if first is None:
            return
        header = self._check_header(source, first)
        self.header = self.header or header
        field = self._options.field
        column = None if field is None else header.names.index(field)
        parse = partial(_row_values, header.names, table_format)
        for row in rows:
            yield _row_record(source, row, len(header.names), column, parse)

    def _check_header(self, source: str, row: Row) -> Header:
        if row.failure is not None:
            raise DataError(f"{source}: unusable header: {row.failure.message}")
        header = Header(row.raw, tuple(row.cells))
        field, names = self._options.field, ", ".join(header.names)
        if self.header is not None and self.header.names != header.names:
            before = ", ".join(self.header.names)
            raise DataError(f"{source}: its columns are {names}; those of the table before it: {before}")
        if field is not None and field not in header.names:
            raise DataError(
                f"{source}: no column {field!r}; its columns are {names}",
                hint="name the column of the text with --field",
            )
        for name in (*self._options.adds, *self._options.columns):
            if name in header.names:
                raise DataError(
                    f"{source}: it has a column {name!r} already", hint="name the new one with --as"
                )
        return header


def resolve_format(inputs: Sequence[str], wanted: InputFormat | Literal["auto"] = "auto") -> InputFormat:
    """The one format of all inputs: the wanted one, else by suffix; standard input is text."""
    if wanted != "auto":
        return wanted
    formats = {_format_of(name): name for name in reversed(inputs)}
    if len(formats) > 1:
        (other, other_name), (one, one_name) = list(formats.items())[-2:]
        raise UsageError(
            f"the inputs are of different formats: {one_name} is {one}, {other_name} is {other}",
            hint="choose one with -I",
        )
    return next(iter(formats), "text")


def column_names(name: str, table_format: TableFormat, encoding: str | None = None) -> tuple[str, ...] | None:
    """The columns of a table, before it is read as a whole; None where it can be read only once."""
    if name == STDIN or not Path(name).is_file():
        return None
    with open_source(name) as chunks:
        first = next(iter_rows(iter_lines(iter_utf8(chunks, encoding)), table_format), None)
    return None if first is None or first.failure is not None else tuple(first.cells)


def _format_of(name: str) -> InputFormat:
    return SUFFIXES.get(plain_name(name).suffix.lower(), "text")


def _row_record(
    source: str, row: Row, width: int, column: int | None, parse: Callable[[bytes], Mapping[str, Any]]
) -> Record:
    """The record of a row; only a well-formed row is kept to be carried through."""
    cells = row.cells
    if row.failure is None and not cells:
        if width > 1:
            return Record("", source, row.line)
        cells = [""]
    if row.failure is None and len(cells) == width:
        text = "" if column is None else cells[column]
        return Record(text, source, row.line, raw=row.raw, parse=parse)
    record = Record(decode(row.raw)[0], source, row.line, failure=row.failure)
    if row.failure is None:
        record = record.failed(
            "ragged_row",
            f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'} where the header has {width}",
        )
    return record


def _row_values(names: tuple[str, ...], table_format: TableFormat, raw: bytes) -> Mapping[str, Any]:
    return dict(zip(names, parse_cells(raw, table_format), strict=True))
