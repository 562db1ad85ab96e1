"""Where records begin and end: at LF or NUL, nowhere else.

A lone CR, U+2028, U+0085, VT and FF are text. A CR before an LF is not: it is dropped in every mode.
All splitters take UTF-8 in chunks and yield the line a record starts on, from 1, and its bytes; they
are linear in the length of a record however it is chunked.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

By = Literal["line", "para", "doc", "nul"]
Split = Iterator[tuple[int, bytes]]


def split(chunks: Iterable[bytes], by: By) -> Split:
    """Cut a stream into records."""
    return _SPLITTERS[by](chunks)


def iter_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines with their endings: joined they are the stream again."""
    return iter_pieces(chunks, b"\n")


def iter_pieces(chunks: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    """The pieces up to and with each `end`; a last one without it counts unless it is empty."""
    parts: list[bytes] = []
    for chunk in chunks:
        *ended, rest = chunk.split(end)
        for piece in ended:
            parts += piece, end
            yield b"".join(parts)
            parts.clear()
        if rest:
            parts.append(rest)
    if parts:
        yield b"".join(parts)


def without_ending(line: bytes) -> bytes:
    """A line without its LF or CRLF."""
    return line[:-1].removesuffix(b"\r") if line.endswith(b"\n") else line


def _split_lines(chunks: Iterable[bytes]) -> Split:
    return enumerate(map(without_ending, iter_lines(chunks)), start=1)


def _split_paragraphs(chunks: Iterable[bytes]) -> Split:
    paragraph: list[bytes] = []
    first = 1
    for number, line in _split_lines(chunks):
        if line.strip(b" \t\r"):
            first = first if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield first, b"\n".join(paragraph)
            paragraph.clear()
    if paragraph:
        yield first, b"\n".join(paragraph)


def _split_document(chunks: Iterable[bytes]) -> Split:
    yield 1, without_ending(b"".join(chunks)).replace(b"\r\n", b"\n")


def _split_nul(chunks: Iterable[bytes]) -> Split:
    number = 1
    for piece in iter_pieces(chunks, b"\0"):
        yield number, piece.removesuffix(b"\0").replace(b"\r\n", b"\n")
        number += piece.count(b"\n")


_SPLITTERS: dict[By, Callable[[Iterable[bytes]], Split]] = {
    "line": _split_lines,
    "para": _split_paragraphs,
    "doc": _split_document,
    "nul": _split_nul,
}
