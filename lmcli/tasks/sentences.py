"""Texts in pieces that a model can take one by one. The pieces of a text, joined, are the text again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lmcli.engine.tokenizer import is_refusal

_SOFT_WRAP = re.compile(r"(?<=\S)[^\S\n]*\n[^\S\n]*(?=\S)")
_LONE = re.compile(
    r"""(?xi)
    (?: [a-z][a-z0-9+.-]* :// | www\. | mailto: ) \S+       # a URL
    | [^\s@]+ @ [^\s@]+ \. [^\s@]+                          # an e-mail address
    | (?: ~ | \.{1,2} )? / \S+ | [a-z] :[\\/] \S*           # a path: /etc/hosts, ./a, ~/b, C:\c
    | [\w.-]+ (?: [\\/] [\w.-]+ )* [\\/] [\w-]+ \. \w{1,5}  # src/main.py
    """
)
_LONGEST_URL = 2000  # and short enough for whatever the pattern tries in vain
_CLAUSE_END = re.compile(r"[.!?,;:\u2013\u2014،؛؟۔।](?=\s)|[。！？，、；：]")  # noqa: RUF001
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Letters of scripts that put no spaces between words, for a character class."""
_IN_WORD = re.compile(rf"(?=\w)[^{UNSPACED}]")


def unwrap(text: str) -> str:
    """The text with a space in place of each single line break."""
    return _SOFT_WRAP.sub(" ", text)


def pieces(text: str, language: str | None) -> list[str]:
    """Cut lines into sentences of `language`, or not, without one; white space around each is a piece."""
    lines = re.split(r"(\n+)", text)
    found = lines if language is None else [part for line in lines for part in sentences(line, language)]
    return [part for piece in found for part in _around(piece) if part]


def sentences(line: str, language: str) -> list[str]:
    """The sentences of a line, with the white space behind them."""
    import sentencex

    # Some versions of the library panic at rare kinds of white space behind an initial.
    plain = re.sub(r"\s", " ", line)
    try:
        found = sentencex.segment(language, plain)
    except BaseException as error:
        if not is_refusal(error):
            raise
        return [line]
    if "".join(found) != plain:
        return [line]
    start, cut = 0, []
    for sentence in found:
        cut.append(line[start : start + len(sentence)])
        start += len(sentence)
    return cut


def needs_model(piece: str) -> bool:
    """Whether a piece has words: not numbers and signs only, nor a lone URL, e-mail address or path."""
    is_lone = len(piece) <= _LONGEST_URL and _LONE.fullmatch(piece)
    return not is_lone and any(map(str.isalpha, piece))


def halves(piece: str) -> list[str]:
    """Two parts of a piece of at least two characters, and the white space between them.

    The cut is behind a sentence or clause in its middle half, else at the white space nearest to the middle,
    else in the middle.
    """
    middle = len(piece) // 2
    quarter = len(piece) // 4
    ends = [match.end() for match in _CLAUSE_END.finditer(piece, quarter, len(piece) - max(1, quarter))]
    ends = ends or [match.start() for match in re.finditer(r"\s+", piece) if match.start()]
    if ends:
        cut = min(ends, key=lambda end: abs(end - middle))
    else:
        cut = middle
        while cut > 1 and unicodedata.category(piece[cut]).startswith("M"):  # a mark belongs to its letter
            cut -= 1
    return [part for half in (piece[:cut], piece[cut:]) for part in _around(half) if part]


def spaced(parts: Sequence[str]) -> list[str]:
    """The parts with a space between those that touch, unless they are of one word."""
    apart: list[str] = []
    for part in parts:
        if apart and not (apart[-1][-1].isspace() or part[0].isspace()):
            is_one_word = _IN_WORD.match(apart[-1][-1]) and _IN_WORD.match(part[0])
            apart += [] if is_one_word else [" "]
        apart.append(part)
    return apart


def _around(piece: str) -> tuple[str, str, str]:
    """The white space before, what is between, and the white space behind."""
    core = piece.strip()
    start = len(piece) - len(piece.lstrip()) if core else 0
    return piece[:start], core, piece[start + len(core) :]
