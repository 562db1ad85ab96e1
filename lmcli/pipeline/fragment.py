"""`Fragment`: a piece of a pipeline that knows where it stands; and how errors show their place, `at`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmcli.errors import UsageError

STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
"""A quoted string with escapes, as a regular expression."""

_INDENT = " " * len("lmcli: ")
_WIDTH = 70
"""How much of a line `at` shows."""


class PipelineError(UsageError):
    """A pipeline cannot be understood, or asks for what there is not."""


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A piece of a pipeline that a parser of its own reads."""

    text: str
    source: str
    """The pipeline."""
    places: Sequence[int]
    """Where in the pipeline each character of `text` stands, and where `text` ends."""

    @classmethod
    def of(cls, source: str) -> Fragment:
        """A text that is no part of a pipeline."""
        return cls.at(source, 0, len(source))

    @classmethod
    def at(cls, source: str, start: int, end: int) -> Fragment:
        """A part of a pipeline, as it stands there."""
        return cls(text=source[start:end], source=source, places=range(start, end + 1))

    def stripped(self) -> Fragment:
        """Without the white space around it."""
        start = len(self.text) - len(self.text.lstrip())
        text = self.text.strip()
        places = self.places[start : start + len(text) + 1]
        return Fragment(text=text, source=self.source, places=places)

    def error(self, message: str, start: int, end: int, *, hint: str = "") -> PipelineError:
        """An error at a place of `text`."""
        first, last = self.places[start], self.places[max(start, end - 1)]
        return PipelineError(message, hint=hint, excerpt=at(self.source, first, last + 1))


def at(source: str, start: int, end: int) -> str:
    """The line of `source` that has the place, and carets under it, as far in as the message above them."""
    begin = source.rfind("\n", 0, start) + 1
    line = source[begin:].partition("\n")[0]
    start, end = start - begin, min(end - begin, len(line))
    left = max(0, min(start - _WIDTH // 3, len(line) - _WIDTH))
    seen = "".join(map(_visible, line[left : left + _WIDTH]))
    before, after = "..." * (left > 0), "..." * (left + _WIDTH < len(line))
    start, end = start - left, min(end - left, _WIDTH)
    indent = re.sub(r"[^\t]", " ", before + seen[:start])
    return f"{_INDENT}{before}{seen}{after}\n{_INDENT}{indent}{'^' * max(1, end - start)}"


def _visible(char: str) -> str:
    """What takes one column, so that carets stay below their place."""
    if char.isprintable() or char == "\t":
        return char
    return " " if char.isspace() else "\ufffd"


def unquoted(piece: str) -> str:
    """A quoted piece without its quotes, and all else as it is; double quotes have escapes."""
    if piece[0] == '"':
        return re.sub(r"\\([\"\\])", r"\1", piece[1:-1])
    return piece[1:-1] if piece[0] == "'" else piece
