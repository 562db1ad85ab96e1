"""`ConfigFile`: one configuration file, and the line on which each of its keys stands.

Knows TOML and where the files are, and nothing of options. The file of a project comes with whatever was
downloaded or cloned: nothing in it is trusted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmcli.errors import ConfigError, reason

PROJECT_FILE = "./lmcli.toml"
_NAME = "config.toml"
_MOST_BYTES = 2**14
# Each line of a value is a try to read it, so a long one is not worth its number.
_MOST_LINES = 100


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """A file that was read: its name as messages show it, its text, and what TOML makes of it."""

    name: str
    text: str
    data: Mapping[str, Any]

    def where(self, *path: str) -> str:
        """`FILE:LINE` of a key, named by the tables it is in and itself; FILE if the line is not known."""
        line = self._lines.get(path)
        return self.name if line is None else f"{self.name}:{line}"

    @cached_property
    def _lines(self) -> dict[tuple[str, ...], int]:
        lines: dict[tuple[str, ...], int] = {}
        for path, line in _iter_keys(self.text):
            lines.setdefault(path, line)
        return lines


def user_file() -> Path | None:
    """The user's file: in $LMCLI_HOME, else where the platform keeps configuration; None without a home."""
    if home := os.environ.get("LMCLI_HOME"):
        return Path(home) / _NAME
    import platformdirs

    try:
        place = platformdirs.user_config_path("lmcli", appauthor=False)
    except (KeyError, OSError, RuntimeError):
        return None
    # Without HOME (cron, containers) a `~` may stay unexpanded: a folder of that name is no home.
    return place / _NAME if place.is_absolute() else None


def read_file(name: str) -> ConfigFile | None:
    """Read a file; None if there is none. Raises ConfigError if it cannot be read or is no TOML."""
    data = _read(name)
    if data is None:
        return None
    import tomllib

    try:
        text = data.decode("utf-8-sig")
        return ConfigFile(name=name, text=text, data=tomllib.loads(text))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8: {error.reason}") from error
    except RecursionError:
        raise ConfigError(f"{name}: lists or tables are nested too deep") from None
    except ValueError as error:  # TOMLDecodeError, and what Python says of endless numbers
        hint = 'a line is KEY = VALUE, and texts stand in quotes: by = "para"'
        raise ConfigError(_with_line(name, str(error)), hint=hint) from error


def exists(name: str) -> bool:
    """Whether there is something of that name, readable or not."""
    try:
        Path(name).lstat()
    except OSError:
        return False
    return True


def _read(name: str) -> bytes | None:
    path = Path(name)
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # a home that is another user's counts as none: nobody knows what is in there
    except OSError as error:
        raise _unreadable(name, error) from error
    # Opening a pipe would wait for somebody to write to it.
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"{name} is not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _unreadable(name, error) from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{name} is too large for a configuration file: above {_MOST_BYTES // 1024} KiB")
    return data


def _unreadable(name: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot read {name}: {reason(error)}", hint="`lmcli --no-config COMMAND` does without it"
    )


def _with_line(name: str, message: str) -> str:
    """What tomllib says of a file, with the line where compilers and editors have it."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    if found is None:
        return f"{name}: {message}"
    said = found[1][:1].lower() + found[1][1:]
    return f"{name}:{found[2]}: {said}" if found[2] else f"{name}: {said} at the end of the file"


def _iter_keys(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every key of a valid TOML text with the line on which its statement begins.

    tomllib knows no lines. But the lines of a statement are TOML themselves once it is complete, and not
    before; so the text is read statement by statement. A line that begins with `[` outside of a value is
    always the header of a table.
    """
    import tomllib

    table: tuple[str, ...] = ()
    begin, lines = 1, text.replace("\r\n", "\n").split("\n")
    for end in range(1, len(lines) + 1):
        if end - begin >= _MOST_LINES:
            return
        statement = "\n".join(lines[begin - 1 : end])
        try:
            data = tomllib.loads(statement)
        except ValueError:
            continue
        paths = list(_paths(data))
        if statement.lstrip(" \t").startswith("["):
            table = paths[-1]
            yield from ((path, begin) for path in paths)
        else:
            yield from ((table + path, begin) for path in paths)
        begin = end + 1


def _paths(data: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The path of each key, from outside in, and no deeper than settings are."""
    for key, value in data.items():
        yield (key,)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from ((key, name) for name in inner)
