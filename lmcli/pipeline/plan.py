"""`find_problem`: whether every part of a pipeline gets the fields that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmcli.pipeline.compose import text_fields
from lmcli.pipeline.stage import Part, Stage
from lmcli.spelling import did_you_mean


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
    added: dict[str, Stage] = {}
    used: list[str] = []
    given = None if known is None else list(known)
    writer: Stage | None = None
    for index, (part, text_field) in enumerate(zip(parts, text_fields(parts), strict=True)):
        if text_field is not None and part.reads is None and text_field not in {*added, *(given or ())}:
            hint = f"select it as well, or name another one: {part.command} field=NAME"
            return Problem(
                index, f"{part.command} reads {text_field!r}, which is not selected", hint, text_field
            )
        for name in _reads(part):
            if problem := _missing_part(index, name, added):
                return problem
            if given is not None and not _is_there(name, given, list(added)):
                return _missing(index, part, name, [*given, *added])
        if isinstance(part, Stage):
            # A selection may drop a field, but the numbers of the run would still have one name for two.
            if part.adds in used:
                hint = f"name one of them: {part.command} as=NAME"
                return Problem(index, f"two stages add {part.adds!r}", hint, part.adds)
            if part.reads is None and writer is not None and writer.writes_texts:
                return Problem(
                    index,
                    f"{writer.command} writes several texts",
                    f"name the one to read: {part.command} field={writer.adds}.LANG",
                    writer.adds,
                )
            added[part.adds] = part
            used.append(part.adds)
            writer = part if part.writes_text or part.writes_texts else writer
        elif part.replaces_fields:
            given, added = list(part.task.adds), {}
            used += given
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


def _missing_part(index: int, name: str, added: Mapping[str, Stage]) -> Problem | None:
    """The problem with a path into the result of a stage that has no such part."""
    field, _, rest = name.partition(".")
    stage = added.get(field)
    if stage is None or not rest or stage.parts is None or rest.partition(".")[0] in stage.parts:
        return None
    there_are = ", ".join(f"{field}.{part}" for part in stage.parts) or f"{field} alone"
    return Problem(index, f"{stage.command} gives no {name!r}", f"there is {there_are}", name)


def _missing(index: int, part: Part, name: str, known: Sequence[str]) -> Problem:
    there_are = ", ".join(map(repr, known)) or "none"
    suggestion = did_you_mean(name.partition(".")[0], known, before="; ")
    hint = "-I names the format of the input" + (
        "; write {{ and }} for braces in a template" if part.command == "prompt" else ""
    )
    return Problem(index, f"no field {name!r} in the input; there are {there_are}{suggestion}", hint, name)
