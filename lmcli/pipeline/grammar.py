r"""`parse`: from `translate to=en | filter sentiment.score > 0.9 | ner` to the stages that it calls.

    pipeline  stages with `|` between them
    stage     a name, then options with white space between them
    option    NAME=VALUE or NAME; `-` and `_` are the same in a name
    value     characters as they are, 'quoted' and "quoted" pieces; in double quotes \" and \\ stand
              for a quote and a backslash

The stages `filter` and `select` have no options: the rest of the stage is one `Fragment`, in which a `|`
inside quotes ends nothing. Every error shows its place in the pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NoReturn

from lmcli.pipeline.fragment import STRING, Fragment, PipelineError, at, unquoted
from lmcli.spelling import did_you_mean

_EXAMPLE = "for example: sentiment | ner"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_WORD = re.compile(r"[^\s|'\"]+")
_QUOTED = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_SPACE = re.compile(r"\s*")
# Expressions have escapes in both kinds of quotes.
_REST = re.compile(rf"(?:[^|'\"]|{STRING})*", re.DOTALL)
_QUOTED_REST = re.compile(STRING, re.DOTALL)
_TAKE_REST = ("filter", "select")


@dataclass(frozen=True, kw_only=True)
class OptionGiven:
    """An option as it was written, but with `_` in its name."""

    name: str
    value: str | None
    """None if only the name was given."""
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class StageCall:
    """A stage as it was written, and where."""

    name: str
    options: tuple[OptionGiven, ...] = ()
    rest: Fragment
    """All behind the name of `filter` and `select`; empty for all others."""
    start: int
    end: int
    source: str
    """The pipeline."""

    def error(self, message: str, option: OptionGiven | None = None, *, hint: str = "") -> PipelineError:
        """An error at one of its options, or at the whole stage."""
        place = option or self
        return PipelineError(message, hint=hint, excerpt=at(self.source, place.start, place.end))


def parse(source: str, known: Collection[str] = ()) -> list[StageCall]:
    """The stages of a pipeline, at least one.

    Raises PipelineError where it breaks the rules, and for a stage that is not one of the `known`, if any.
    """
    if not source.strip():
        raise PipelineError("the pipeline is empty", hint=_EXAMPLE)
    calls, position = [], -1
    while position < len(source):
        call, position = _stage(source, position + 1, known)
        calls.append(call)
    return calls


def unknown_option(call: StageCall, option: OptionGiven, known: Iterable[str]) -> PipelineError:
    """The error for an option that the stage does not have."""
    names = sorted(_shown(name) for name in known)
    name = _shown(option.name)
    return call.error(
        f"{call.name} has no option {name!r}{did_you_mean(name, names, before='; ')}",
        option,
        hint=f"its options are {', '.join(names)}" if names else f"{call.name} has no options",
    )


def _shown(name: str) -> str:
    """The name of an option as the command line has it."""
    return name.replace("_", "-")


def _stage(source: str, start: int, known: Collection[str]) -> tuple[StageCall, int]:
    """The stage that begins at `start`, and where the `|` behind it stands, or the end."""
    start = _skip(source, start)
    if _ends_stage(source, start):
        place = start if start < len(source) else source.rindex("|")
        _refuse("a stage is empty", source, place)
    name = _NAME.match(source, start)
    takes_rest = name is not None and name[0] in _TAKE_REST
    if name is None or not (takes_rest or _ends_word(source, name.end())):
        _refuse("a stage begins with its name", source, start, _word_end(source, start))
    if known and name[0] not in known:
        raise PipelineError(
            f"no stage {name[0]!r}{did_you_mean(name[0], known, before='; ')}",
            hint=f"stages are {', '.join(sorted(known))}",
            excerpt=at(source, start, name.end()),
        )
    options: tuple[OptionGiven, ...] = ()
    rest, position = Fragment.at(source, name.end(), name.end()), name.end()
    if takes_rest:
        rest, position = _rest(source, name.end(), can_be_quoted=name[0] == "filter")
    else:
        options, position = _options(source, name.end())
    end = start + len(source[start:position].rstrip())
    return StageCall(name=name[0], options=options, rest=rest, start=start, end=end, source=source), position


def _options(source: str, position: int) -> tuple[tuple[OptionGiven, ...], int]:
    options = []
    while not _ends_stage(source, position := _skip(source, position)):
        options.append(_option(source, position))
        position = options[-1].end
    return tuple(options), position


def _option(source: str, start: int) -> OptionGiven:
    if source[start] == "=":
        _refuse("nothing before =", source, start)
    if source[start] in "'\"":
        _refuse("a stray quote", source, start)
    word, name = _WORD.match(source, start), _NAME.match(source, start)
    assert word is not None
    written = word[0].partition("=")[0]
    if name is None or name[0] != written:
        _refuse(f"{written!r} is not the name of an option", source, start, start + len(written))
    end = name.end()
    if source.startswith("=", end):
        value, end = _value(source, end + 1)
    elif _ends_word(source, end):
        value = None
    else:
        _refuse("a stray quote", source, end)
    return OptionGiven(name=name[0].replace("-", "_"), value=value, start=start, end=end)


def _value(source: str, start: int) -> tuple[str, int]:
    pieces, position = [], start
    while not _ends_word(source, position):
        piece = _WORD.match(source, position) or _QUOTED.match(source, position)
        if piece is None:
            _refuse("a quote is never closed", source, position)
        pieces.append(unquoted(piece[0]))
        position = piece.end()
    if not pieces:
        _refuse('nothing after = (an empty value is "")', source, start - 1)
    return "".join(pieces), position


def _rest(source: str, start: int, *, can_be_quoted: bool) -> tuple[Fragment, int]:
    found = _REST.match(source, start)
    assert found is not None
    end = found.end()
    if not _ends_stage(source, end):
        _refuse("a quote is never closed", source, end)
    text = found[0].strip()
    if not text:
        return Fragment.at(source, start, start), end
    start = _skip(source, start)
    fragment = Fragment.at(source, start, start + len(text))
    is_quoted = can_be_quoted and _QUOTED_REST.fullmatch(text)
    return (_inside_quotes(fragment) if is_quoted else fragment), end


def _inside_quotes(fragment: Fragment) -> Fragment:
    text, last = fragment.text, len(fragment.text) - 1
    escaped = re.finditer(r"\\[\"\\]", text[1:last]) if text[0] == '"' else ()
    left_out = {1 + each.start() for each in escaped}
    kept = [index for index in range(1, last) if index not in left_out]
    places = [fragment.places[index] for index in (*kept, last)]
    return Fragment(text="".join(text[index] for index in kept), source=fragment.source, places=places)


def _skip(source: str, position: int) -> int:
    """Where the white space from `position` on ends."""
    space = _SPACE.match(source, position)
    assert space is not None
    return space.end()


def _word_end(source: str, position: int) -> int:
    word = _WORD.match(source, position)
    return position + 1 if word is None else word.end()


def _ends_stage(source: str, position: int) -> bool:
    return position == len(source) or source[position] == "|"


def _ends_word(source: str, position: int) -> bool:
    return _ends_stage(source, position) or source[position].isspace()


def _refuse(message: str, source: str, start: int, end: int = 0) -> NoReturn:
    raise PipelineError(message, hint=_EXAMPLE, excerpt=at(source, start, max(end, start + 1)))
