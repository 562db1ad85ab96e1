"""Tables: CSV as RFC 4180 has it, and TSV as registered with IANA, which has no quoting.

`iter_rows` reads rows with their original bytes, `parse_cells` and `format_cells` convert one row.
"""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lmcli.records.encoding import decode
from lmcli.records.record import Failure
from lmcli.records.split import without_ending

TableFormat = Literal["csv", "tsv"]

_ROW_LINES = 10_000
_CELL_LIMIT = 2**31 - 1  # the largest that fits a C long everywhere
_TSV_ESCAPES = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})


@dataclass(frozen=True, slots=True)
class Header:
    """The first row of a table: its original bytes and the names in it."""

    raw: bytes
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the line it starts on, its bytes without line ending, its cells, or its failure.

    A blank line is a row without cells.
    """

    line: int
    raw: bytes
    cells: list[str]
    failure: Failure | None = None


def iter_rows(lines: Iterable[bytes], table_format: TableFormat) -> Iterator[Row]:
    """The rows of a table, its header among them. Takes lines with their endings."""
    return _iter_csv(lines) if table_format == "csv" else _iter_tsv(lines)


def parse_cells(raw: bytes, table_format: TableFormat) -> list[str]:
    """The cells of one well-formed row."""
    text = raw.decode()
    if table_format == "tsv":
        return text.split("\t")
    # No text is the empty cell of a table of one column.
    return next(csv.reader([text]), []) or [""]


def format_cells(cells: Sequence[str], table_format: TableFormat) -> bytes:
    r"""One row without line ending. TSV can hold no tab, LF or CR: they become `\t`, `\n`, `\r`."""
    if table_format == "tsv":
        return "\t".join(cell.translate(_TSV_ESCAPES) for cell in cells).encode()
    row = io.StringIO(newline="")
    csv.writer(row, lineterminator="\r\n").writerow(cells)  # quotes what holds either character
    return row.getvalue().removesuffix("\r\n").encode()


def append_cells(raw: bytes, cells: Sequence[str], table_format: TableFormat) -> bytes:
    """The row with more cells; its own bytes stay as they are."""
    return raw + format_cells(["", *cells], table_format) if cells else raw


def _iter_tsv(lines: Iterable[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        raw = without_ending(line)
        text, failure = decode(raw)
        yield Row(number, raw, text.split("\t") if text else [], failure)


def _iter_csv(lines: Iterable[bytes]) -> Iterator[Row]:
    csv.field_size_limit(_CELL_LIMIT)
    coming, number = _Lines(lines), 1
    while True:
        consumed: list[bytes] = []
        failure = None
        try:
            cells = next(csv.reader(_lines_for_csv(coming, consumed), strict=True), None)
        except csv.Error as error:
            # A stray quote must not swallow what follows: the row ends with its first line.
            cells, failure = [], Failure("invalid_csv", f"not valid CSV: {error}")
            coming.put_back(consumed[1:])
            consumed = consumed[:1]
        if cells is None:
            return
        raw = b"".join(consumed).rstrip(b"\r\n")  # to csv a CR at the very end is a line ending
        yield Row(number, raw, cells, decode(raw)[1] or failure)
        number += len(consumed)


class _Lines:
    """Lines of which some may be put back."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._again: deque[bytes] = deque()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._again.popleft() if self._again else next(self._lines)

    def put_back(self, lines: Sequence[bytes]) -> None:
        """Have these lines come next."""
        self._again.extendleft(reversed(lines))


def _lines_for_csv(lines: Iterator[bytes], consumed: list[bytes]) -> Iterator[str]:
    for line in lines:
        consumed.append(line)
        if len(consumed) > _ROW_LINES:
            raise csv.Error(f"a quoted cell goes on for more than {_ROW_LINES} lines")
        yield line.decode(errors="surrogateescape")  # an invalid byte must not end the table
