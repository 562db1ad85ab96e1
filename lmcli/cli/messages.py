"""What lmcli says on stderr, to people or as JSON to programs; and what commands without records print."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from lmcli.records.terminal import escape_controls

LogFormat = Literal["text", "json"]
Level = Literal["error", "warning", "info"]
Room = Callable[[], AbstractContextManager[object]]

_log_format: LogFormat = "text"
_room: Room = nullcontext


def set_log_format(log_format: LogFormat) -> None:
    """Choose how `say` prints from now on."""
    global _log_format
    _log_format = log_format


def is_json() -> bool:
    """Whether messages are JSON Lines."""
    return _log_format == "json"


@contextmanager
def making_room(room: Room) -> Iterator[None]:
    """Print each message inside of `room()`, so that what a terminal shows can make room for it."""
    global _room
    before, _room = _room, room
    try:
        yield
    finally:
        _room = before


def say(
    message: str, *, hint: str = "", excerpt: str = "", level: Level = "error", **context: object
) -> None:
    """Print `lmcli: message`, below it the lines of `excerpt` as they are, and the hint.

    As JSON it is an object on one line, which also has the time, the level, and what is known of `context`.
    A closed stderr is no reason to fail.
    """
    if sys.stderr is None:
        return
    if _log_format == "json":
        text = _as_json(message, hint, excerpt, level, context)
    else:
        text = _as_text(message, hint, excerpt)
    try:
        with _room():
            sys.stderr.write(escape_controls(text) if sys.stderr.isatty() else text)
            sys.stderr.flush()
    except (OSError, ValueError):
        return


def reporter(*, wanted: bool) -> Callable[[str], None]:
    """Prints what is being done, if that is wanted."""
    return partial(say, level="info") if wanted else lambda _: None


def _as_text(message: str, hint: str, excerpt: str) -> str:
    lines = [f"lmcli: {one_line(message)}"]
    lines += [excerpt.removesuffix("\n")] if excerpt else []
    lines += [f"       {one_line(hint)}"] if hint else []
    return "\n".join(lines) + "\n"


def _as_json(message: str, hint: str, excerpt: str, level: Level, context: dict[str, object]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry = {"time": now, "level": level, "message": message, "excerpt": excerpt, "hint": hint, **context}
    known = {name: _json_value(value) for name, value in entry.items() if value not in (None, "")}
    # What another encoding cannot write would be escaped as Python does, which is no JSON.
    is_utf_8 = (sys.stderr.encoding or "").lower() == "utf-8"
    return json.dumps(known, ensure_ascii=not is_utf_8) + "\n"


def _json_value(value: object) -> object:
    if isinstance(value, (int, float)):
        return value
    # A file name may hold bytes that are no UTF-8, which JSON cannot hold.
    return str(value).encode(errors="backslashreplace").decode()


def one_line(text: str) -> str:
    """A message with the newlines that a file name or an exception may hold written out."""
    return text.replace("\n", "\\n")


def print_data(text: str, *, styled: bool = False) -> None:
    """Write `text` to stdout. Raises StreamError when it cannot be written.

    On a terminal its control characters are shown, unless it is `styled`, by Rich, on purpose.
    """
    from lmcli.records.output import open_output

    with open_output(None) as output:
        if not styled and sys.stdout.isatty():
            text = escape_controls(text)
        output.write(text.encode(errors="backslashreplace"))


def wants_color(choice: str, *, is_terminal: bool) -> bool:
    """The flag decides, then NO_COLOR, then whether a person looks.

    FORCE_COLOR is not asked: CI systems set it for everything, and this is data.
    """
    if choice != "auto":
        return choice == "always"
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
