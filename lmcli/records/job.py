"""`job.json`: what decides the bytes of an output, kept so that no other job continues it."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lmcli.errors import ResumeError
from lmcli.records.durable import write_file

FORMAT = 1
"""Of the folder; raised when an older lmcli could not continue what a newer one began, or the reverse."""

JOB = "job.json"
_MAX_SHOWN = 3
_MAX_WIDTH = 60
_NOTHING = object()


def read_job(folder: Path) -> Any:
    """The identity that is kept; None if there is none, or it cannot be understood."""
    try:
        document = json.loads((folder / JOB).read_bytes())
        return document["identity"] if document["format"] == FORMAT else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_job(folder: Path, identity: Any, *, like: Path) -> None:
    """Keep an identity, durably, with the mode of `like`."""
    document = {"format": FORMAT, "identity": identity}
    write_file(folder / JOB, json.dumps(document, indent=1).encode() + b"\n", like=like)


def as_json(identity: Mapping[str, Any]) -> Any:
    """An identity as it will be when it is read again: tuples are lists, patterns their text."""
    return json.loads(json.dumps(identity, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, re.Pattern):
        return value.pattern
    raise TypeError(f"an option of type {type(value)} cannot be compared with that of an earlier run")


def other_job(folder: Path, found: Any, wanted: Any) -> ResumeError:
    """The error for an output that another job began: says what differs."""
    if found is None:
        differences = [f"its {JOB} is missing, damaged or of another version of lmcli"]
    else:
        differences = list(_differences(found, wanted))
    shown = "; ".join(differences[:_MAX_SHOWN])
    if (rest := len(differences) - _MAX_SHOWN) > 0:
        shown += f"; and {rest} more"
    return ResumeError(
        f"{folder} holds an unfinished job that is not this one: {shown}",
        hint="finish that job with its own options, or delete the folder to begin anew",
    )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """What differs, by dotted path."""
    pairs: Iterator[tuple[Any, Any, Any]]
    match old, new:
        case dict(), dict():
            pairs = ((key, old.get(key, _NOTHING), new.get(key, _NOTHING)) for key in old | new)
        case list(), list():
            lists = zip_longest(old, new, fillvalue=_NOTHING)
            pairs = ((number, one, other) for number, (one, other) in enumerate(lists))
        case _:
            if old != new:
                yield f"{path} {_was(old)}, {_is_now(new)}"
            return
    for key, one, other in pairs:
        yield from _differences(one, other, f"{path}.{key}" if path else str(key))


def _was(value: Any) -> str:
    return "was not there" if value is _NOTHING else f"was {_show(value)}"


def _is_now(value: Any) -> str:
    return "is gone now" if value is _NOTHING else f"is now {_show(value)}"


def _show(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= _MAX_WIDTH else f"{shown[: _MAX_WIDTH - 3]}..."
