"""What reading means, naively: the whole input in memory, cut and parsed with the means at hand."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, NoReturn

from lmcli.records.split import By

_END_OF_ROW = re.compile(r"\r*(?:\n|\Z)")


class Row(NamedTuple):
    """A row of a table; its cells are None if it is not valid."""

    line: int
    raw: bytes
    cells: list[str] | None


def lines_of(data: bytes) -> list[bytes]:
    """The lines without LF or CRLF; behind the last LF there is none."""
    *ended, last = data.split(b"\n")
    return [line.removesuffix(b"\r") for line in ended] + ([last] if last else [])


def texts(data: bytes, by: By) -> list[tuple[int, bytes]]:
    """Where each record starts, and its bytes."""
    match by:
        case "line":
            return list(enumerate(lines_of(data), start=1))
        case "doc":
            end = b"\r\n" if data.endswith(b"\r\n") else b"\n"
            return [(1, data.removesuffix(end).replace(b"\r\n", b"\n"))]
        case "nul":
            pieces = data.split(b"\0")
            starts = [1 + b"\0".join(pieces[:index]).count(b"\n") for index in range(len(pieces))]
            found = [piece.replace(b"\r\n", b"\n") for piece in pieces]
            return [*zip(starts, found, strict=True)][: None if pieces[-1] else -1]
        case "para":
            blocks: list[tuple[int, list[bytes]]] = []
            was_blank = True
            for number, line in enumerate(lines_of(data), start=1):
                is_blank = not line.strip(b" \t\r")
                if not is_blank and was_blank:
                    blocks.append((number, []))
                if not is_blank:
                    blocks[-1][1].append(line)
                was_blank = is_blank
            return [(number, b"\n".join(block)) for number, block in blocks]


def tsv_rows(data: bytes) -> list[Row]:
    """The rows of a TSV: no quoting."""
    return [
        Row(number, line, line.decode(errors="replace").split("\t") if line else [])
        for number, line in enumerate(lines_of(data), start=1)
    ]


def csv_rows(data: bytes) -> list[Row]:
    """The rows of a CSV; one that is not valid ends with its first line."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", data.decode(errors="surrogateescape"))
    rows, start = [], 0
    while start < len(lines):
        cells, num_lines = _csv_row("".join(lines[start:]))
        raw = "".join(lines[start : start + num_lines]).rstrip("\r\n")
        rows.append(Row(start + 1, raw.encode(errors="surrogateescape"), cells))
        start += num_lines
    return rows


def _csv_row(text: str) -> tuple[list[str] | None, int]:
    """The cells of the first row, and how many lines it has."""
    cells: list[str] = []
    position = 0
    while True:
        # A quote means something only where a cell begins. Two of them inside are one.
        cell = re.compile(r'"((?:[^"]|"")*)"(?!")|(?!")([^,\r\n]*)').match(text, position)
        if cell is None:
            return None, 1
        position = cell.end()
        if end := _END_OF_ROW.match(text, position):
            is_blank = not cells and not cell[0]
            whole = text[: end.end()]
            num_lines = whole.count("\n") + (not whole.endswith("\n"))
            return ([] if is_blank else [*cells, _plain(cell)]), num_lines
        if not text.startswith(",", position):
            return None, 1
        cells.append(_plain(cell))
        position += 1


def _plain(cell: re.Match[str]) -> str:
    return cell[0] if cell[1] is None else cell[1].replace('""', '"')


def json_text(line: bytes) -> str | None:
    """The string at the key `text` of an object; nothing of a blank line; None if the record fails."""
    if not line.strip(b" \t\r\n"):
        return ""
    try:
        value = json.loads(line.decode(), object_pairs_hook=_portable, parse_constant=_refuse)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    match value:
        case {"error": {"code": str(), "message": str()}}:
            return None
        case {"text": str(text)}:
            return text
    return None


def _portable(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without what only Python takes for JSON: infinite numbers, halves of characters."""
    json.dumps(pairs, allow_nan=False, ensure_ascii=False).encode()
    return dict(pairs)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
