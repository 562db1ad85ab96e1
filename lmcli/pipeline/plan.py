"""`find_problem`: whether every part of a pipeline gets the fields that it reads."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from lmcli.pipeline.stage import Part, Stage


@dataclass(frozen=True)
class Problem:
    """Why a pipeline cannot work."""

    index: int
    """Of the part that would fail."""
    message: str
    hint: str
    name: str
    """The name that is wrong."""


def find_problem(parts: Sequence[Part], known: Sequence[str] | None) -> Problem | None:
    """The first part that reads a field that no record can have, or adds one that there is already.

    `known` are the fields that all records are read with; None: that is not known.
    """
    added: list[str] = []
    selected: list[str] = []
    given = None if known is None else list(known)
    for index, part in enumerate(parts):
        for name in _reads(part):
            if given is not None and not _is_there(name, given, added):
                return _missing(index, part, name, [*given, *added])
        if isinstance(part, Stage):
            if part.adds in (*selected, *added):
                return Problem(
                    index,
                    f"two stages add {part.adds!r}",
                    f"name one of them: {part.command} as=NAME",
                    part.adds,
                )
            added.append(part.adds)
        elif part.replaces_fields:
            selected, added = list(part.task.adds), []
            given = selected
    return None


def _reads(part: Part) -> tuple[str, ...]:
    if isinstance(part, Stage):
        return (*([] if part.reads is None else [part.reads]), *part.needs)
    return part.reads


def _is_there(name: str, given: Sequence[str], added: Sequence[str]) -> bool:
    """Whether a record may have the field, or an object in which the dotted path can end."""
    roots = [name, *(name[:dot] for dot in range(len(name)) if name[dot] == ".")]
    return any(
        root in given or any(root == field or root.startswith(f"{field}_") for field in added)
        for root in roots
    )


def _missing(index: int, part: Part, name: str, known: Sequence[str]) -> Problem:
    close = difflib.get_close_matches(name.partition(".")[0], known, n=1)
    there_are = ", ".join(map(repr, known)) or "none"
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    hint = "-I names the format of the input" + (
        "; write {{ and }} for braces in a template" if part.command == "prompt" else ""
    )
    return Problem(index, f"no field {name!r} in the input; there are {there_are}{suggestion}", hint, name)
